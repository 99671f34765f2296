/* What an answer is made of: every case whole, one byte at a time and in random pieces, with the same events. */
#include "server/answer_parser.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char tool[] =
    "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", \"properties\": {"
    "\"text\": {\"type\": \"string\"}, \"count\": {\"type\": \"integer\"}, \"flag\": {\"type\": \"boolean\"},"
    "\"list\": {\"type\": \"array\"}, \"maybe\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]},"
    "\"either\": {\"type\": [\"string\", \"null\"]}, \"any\": {}, \"any \\\"two\\\"\": {\"type\": \"integer\"},"
    "\"ref\": {\"$ref\": \"#/$defs/n\"}}, \"$defs\": {\"n\": {\"anyOf\": [{\"$ref\": \"#/$defs/m\"}]}, "
    "\"m\": {\"type\": \"integer\"}}}}}";
static const struct chat_text tools[] = {{(char *)"{\"type\": \"function\", \"function\": {\"name\": \"g\"}}", 46},
                                         {(char *)tool, sizeof tool - 1}};

/* Events as one text: r, c, t and a for their kinds, texts of one kind that follow one another joined. */
struct recording {
    struct string_builder text;
    int last;
};

static void record(void *user, const struct answer_event *event) {
    struct recording *recording = user;
    assert_true(event->length > 0);
    if ((int)event->kind != recording->last || event->kind == ANSWER_CALL) {
        const char letter[] = {'|', "rcta"[event->kind], ':'};
        string_builder_append(&recording->text, letter, 3);
    }
    recording->last = (int)event->kind;
    string_builder_append(&recording->text, event->text, event->length);
}

enum cut { WHOLE, BYTES, RANDOM };

static uint32_t next_random(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* The recording of text in pieces; freed by the caller. */
static char *parse(const struct answer_form *form, const char *text, size_t length, enum cut cut, uint32_t seed) {
    struct answer_parser parser;
    struct recording recording = {.last = -1};
    answer_parser_init(&parser, form, record, &recording);
    for (size_t i = 0; i < length;) {
        size_t piece = cut == WHOLE ? length : cut == BYTES ? 1 : 1 + next_random(&seed) % 9;
        piece = piece < length - i ? piece : length - i;
        char *copy = malloc(piece); // so that reading beyond a piece is seen
        memcpy(copy, text + i, piece);
        answer_parser_push(&parser, copy, piece);
        free(copy);
        i += piece;
    }
    answer_parser_end(&parser);
    assert_int_equal(parser.failure, ERR_NONE);
    answer_parser_finish(&parser);
    string_builder_append_text(&recording.text, "");
    return recording.text.data;
}

static void expect(const struct answer_form *form, const char *text, const char *events) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
        char *got = parse(form, text, strlen(text), seed < RANDOM ? (enum cut)seed : RANDOM, seed);
        if (strcmp(got, events) != 0) fail_msg("cut %u of\n%s\ngave\n%s\nnot\n%s", seed, text, got, events);
        free(got);
    }
}

/* Calls that are well formed give the same events, held or eager. */
static void expect_call(struct answer_form form, const char *text, const char *events) {
    expect(&form, text, events);
    form.is_eager = true;
    expect(&form, text, events);
}

static const struct answer_form plain = {.thinking = ANSWER_NEVER_THINKS};
static const struct answer_form may_think = {.thinking = ANSWER_MAY_THINK};
static const struct answer_form thinks = {.thinking = ANSWER_THINKS};
static const struct answer_form json = {.thinking = ANSWER_MAY_THINK, .has_calls = true};
static const struct answer_form xml = {
    .thinking = ANSWER_NEVER_THINKS, .has_calls = true, .call_form = CALL_FORM_XML, .tools = tools, .n_tools = 2};

static void test_plain_text_passes_as_it_is(void **state) {
    (void)state;
    expect(&plain, "", "");
    expect(&plain, "\n\n a\n\n", "|c:\n\n a\n\n");
    expect(&plain, "<think>a</think>", "|c:<think>a</think>");
    expect(&plain, "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "|c:<tool_call>\n{\"name\": \"f\"}\n</tool_call>");
    expect(&may_think, "a < b << c </think> <", "|c:a < b << c </think> <");
    expect(&may_think, "\n\na\n", "|c:\n\na\n");
    expect(&may_think, "\n", "|c:\n");
    expect(&may_think, " <think>a", "|c: <think>a");
    expect(&may_think, "<thin", "|c:<thin");
    expect(&may_think, "<th<think>", "|c:<th<think>");
    expect(&json, "\n<tool\n\n<", "|c:\n<tool\n\n<");
    expect(&json, "\xF0\x9F\x9A\x80 <tool_cal> \xC3\xA9\n", "|c:\xF0\x9F\x9A\x80 <tool_cal> \xC3\xA9\n");
}

static void test_reasoning(void **state) {
    (void)state;
    expect(&may_think, "<think>\na\n\nb\n</think>\n\nc\nd\n", "|r:a\n\nb|c:c\nd\n");
    expect(&may_think, "\n<think>a</think>b", "|r:a|c:b");
    expect(&may_think, "<think>\n\n</think>\n\nb", "|c:b");
    expect(&may_think, "<think> a </think> b", "|r: a |c: b");
    expect(&may_think, "<think>a < b </thin <</think>b", "|r:a < b </thin <|c:b");
    expect(&may_think, "<think>a<think>b</think>c</think>d<think>e", "|r:a<think>b|c:c</think>d<think>e");
    expect(&may_think, "<think>cut\n", "|r:cut");
    expect(&may_think, "<think>cut</th", "|r:cut</th");
    expect(&may_think, "<think>a</think>\n\n", "|r:a");
    expect(&json, "<think>\n<tool_call>\n{}</think>\n\nb", "|r:<tool_call>\n{}|c:b");
}

static void test_a_prompt_that_opened_the_reasoning(void **state) {
    (void)state;
    expect(&thinks, "\na\n</think>\n\nb", "|r:a|c:b");
    expect(&thinks, "<think>\na</think>b", "|r:a|c:b"); // opened once more
    expect(&thinks, "</think>b", "|c:b");
    expect(&thinks, "\n</think>\n\nb", "|c:b");
    expect(&thinks, "a", "|r:a");
    expect(&thinks, "", "");
    expect(&thinks, "<tool_call>", "|r:<tool_call>");
}

#define CALL(name, arguments) "<tool_call>\n{\"name\": \"" name "\", \"arguments\": " arguments "}\n</tool_call>"

static void test_json_calls(void **state) {
    (void)state;
    expect_call(json, CALL("f", "{\"a\": [1, {\"b\": \"}\"}]}"), "|t:f|a:{\"a\": [1, {\"b\": \"}\"}]}");
    expect_call(json, CALL("f", "{}") "\n" CALL("g", "{\"x\":1}"), "|t:f|a:{}|t:g|a:{\"x\":1}");
    expect_call(json, "<think>\nw\n</think>\n\nsee\n\n" CALL("f", "{}") "\n", "|r:w|c:see|t:f|a:{}");
    expect_call(json, CALL("f", "{}") CALL("f", "{}") "\n\nand\nmore", "|t:f|a:{}|t:f|a:{}|c:and\nmore");
    // any order, other members, no arguments, no space, no closing tag, marks inside a string
    expect_call(json, "<tool_call>{\"arguments\":{\"a\":1},\"name\":\"f\"}</tool_call>", "|t:f|a:{\"a\":1}");
    expect_call(json, "<tool_call>{\"id\":{\"name\":\"x\"},\"name\":\"f\",\"n\":[\"name\"]}", "|t:f|a:{}");
    expect_call(json, "<tool_call>{\"n\\u0061me\":\"\\u0066\\\"\\n\",\"arguments\":{}}", "|t:f\"\n|a:{}");
    expect_call(json, "<tool_call>{\"name\":\"f\",\"arguments\": \n{ \"a\" : \"</tool_call><tool_call>\"\n}\n}\n",
                "|t:f|a:{ \"a\" : \"</tool_call><tool_call>\"\n}");
    expect_call(json, CALL("f", "{\"a\": \"\xE2\x98\x95\\u2615\"}"), "|t:f|a:{\"a\": \"\xE2\x98\x95\\u2615\"}");
}

static void test_malformed_json_calls_are_content(void **state) {
    (void)state;
    static const char *const texts[] = {
        "<tool_call>",
        "<tool_call>\n",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": ",
        "a\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}\n</tool_call>\n",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": \"x\"}\n</tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": null}\n</tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"name\": \"g\"}\n</tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": 1, \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"arguments\": {}}\n</tool_call>",
        "<tool_call>\n[{\"name\": \"f\"}]\n</tool_call>",
        "<tool_call>\nf(1)\n</tool_call> \n",
        "<tool_call>\n{'name': 'f'}\n</tool_call>",
        "<tool_call></tool_call>",
        "</tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"line\nbreak\"}}\n</tool_call>",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        char events[256];
        snprintf(events, sizeof events, "|c:%s", texts[i]);
        expect(&json, texts[i], events);
    }
    // What follows is read as usual.
    expect(&json, "<tool_call>\n<tool_call>{\"name\":\"f\"}</tool_call>", "|c:<tool_call>|t:f|a:{}");
    expect(&json, "<tool_call>{\"name\" \n" CALL("f", "{}"), "|c:<tool_call>{\"name\" |t:f|a:{}");
    expect(&json, "x\n<tool_call>\n?\n\n" CALL("f", "{}"), "|c:x\n<tool_call>\n?|t:f|a:{}");
    // A call that was told when it turned out to be none stays as it is.
    struct answer_form eager = json;
    eager.is_eager = true;
    expect(&eager, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":?}}", "|t:f|a:{\"a\":|c:?}}");
    expect(&eager, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":", "|t:f|a:{\"a\":");
    expect(&eager, "<tool_call>{\"nam", "|c:<tool_call>{\"nam");
}

#define XML(body)         "<tool_call>\n<function=f>\n" body "</function>\n</tool_call>"
#define PARAMETER(key, x) "<parameter=" key ">\n" x "\n</parameter>\n"

static void test_xml_calls(void **state) {
    (void)state;
    expect_call(xml, XML(""), "|t:f|a:{}");
    expect_call(xml, XML(PARAMETER("text", "Paris")), "|t:f|a:{\"text\": \"Paris\"}");
    expect_call(xml, "I look.\n\n" XML(PARAMETER("count", "3") PARAMETER("flag", "true")) "\n",
                "|c:I look.|t:f|a:{\"count\": 3, \"flag\": true}");
    expect_call(xml, XML(PARAMETER("count", "4")) "\n" XML(PARAMETER("count", "5")) "\nend",
                "|t:f|a:{\"count\": 4}|t:f|a:{\"count\": 5}|c:end");
    // without <tool_call>, without </tool_call>, without any space
    expect(&xml, "<function=f><parameter=text>a</parameter></function>", "|t:f|a:{\"text\": \"a\"}");
    expect(&xml, "<function=f></function></tool_call>b", "|t:f|a:{}|c:b");
    // only one line break is the form's; tags inside a text
    expect_call(xml, XML("<parameter=text>\n\n  a\n\"b\"\\\t\n\n</parameter>\n"),
                "|t:f|a:{\"text\": \"\\n  a\\n\\\"b\\\"\\\\\\t\\n\"}");
    expect_call(xml, XML(PARAMETER("text", "</function></tool_call><parameter=x></para<</parameter")),
                "|t:f|a:{\"text\": \"</function></tool_call><parameter=x></para<</parameter\"}");
    expect_call(xml, XML(PARAMETER("text", "\x01\x1F\xF0\x9F\x9A\x80")),
                "|t:f|a:{\"text\": \"\\u0001\\u001f\xF0\x9F\x9A\x80\"}");
}

static void test_xml_values_follow_the_schema(void **state) {
    (void)state;
    static const struct {
        const char *key, *text, *value;
    } rows[] = {
        {"text", "3", "\"3\""},
        {"text", "null", "\"null\""},
        {"text", "\"q\"", "\"\\\"q\\\"\""},
        {"text", "", "\"\""},
        {"count", "-3", "-3"},
        {"count", " 3 ", "3"},
        {"count", "three", "\"three\""},
        {"count", "03", "\"03\""},
        {"flag", "True", "true"},
        {"flag", "False", "false"},
        {"flag", "yes", "\"yes\""},
        {"list", "[1, \"a\"]", "[1, \"a\"]"},
        {"list", "{\"a\": 1}", "\"{\\\"a\\\": 1}\""},
        {"maybe", "None", "null"},
        {"maybe", "1.50", "1.50"},
        {"maybe", "x", "\"x\""},
        {"either", "null", "null"},
        {"either", "a", "\"a\""},
        {"any", "1", "\"1\""},
        {"any", "{\"a\": [1]}", "{\"a\": [1]}"},
        {"any", "[", "\"[\""},
        {"unknown", "true", "\"true\""},
        {"ref", "7", "7"},
        {"ref", "x", "\"x\""},
        {"any \"two\"", "7", "7"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        char text[256], events[256];
        snprintf(text, sizeof text, "<tool_call>\n<function=f>\n<parameter=%s>\n%s\n</parameter>\n</function>",
                 rows[i].key, rows[i].text);
        const char *key = strchr(rows[i].key, '"') != NULL ? "any \\\"two\\\"" : rows[i].key;
        snprintf(events, sizeof events, "|t:f|a:{\"%s\": %s}", key, rows[i].value);
        expect_call(xml, text, events);
    }
    // Of a function that was not offered, or has no parameters, all are texts.
    expect(&xml, "<function=h><parameter=count>3</parameter></function>", "|t:h|a:{\"count\": \"3\"}");
    expect(&xml, "<function=g><parameter=count>3</parameter></function>", "|t:g|a:{\"count\": \"3\"}");
}

/* A schema that refers to itself a hundred times on each of its levels. */
static void test_an_xml_value_is_read_in_short_time(void **state) {
    (void)state;
    struct string_builder schema = {0};
    string_builder_append_text(&schema, "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": "
                                        "{\"properties\": {\"x\": {\"$ref\": \"#/$defs/x\"}}, \"$defs\": {\"x\": "
                                        "{\"anyOf\": [{\"type\": \"integer\"}");
    for (int i = 0; i < 100; ++i) string_builder_append_text(&schema, ", {\"$ref\": \"#/$defs/x\"}");
    string_builder_append_text(&schema, "]}}}}}");
    const struct chat_text recursive = {schema.data, schema.length};
    struct answer_form form = xml;
    form.tools = &recursive;
    form.n_tools = 1;
    alarm(60); // 100^4 schemas take hours
    expect(&form, "<function=f><parameter=x>3</parameter></function>", "|t:f|a:{\"x\": 3}");
    alarm(0);
    string_builder_finish(&schema);
}

/* Calls that decoding constrains: a text may hold whatever does not end it, to its last line break. */
static void test_exact_xml_calls(void **state) {
    (void)state;
    struct answer_form form = xml;
    form.is_eager = true;
    expect(&form, XML(PARAMETER("text", "a</parameter>\n\n")), "|t:f|a:{\"text\": \"a</parameter>\\n\\n\"}");
    expect(&form, XML(PARAMETER("text", "")), "|t:f|a:{\"text\": \"\"}");
    expect(&form, XML(PARAMETER("text", "\n\n</para\n</parameter\n")),
           "|t:f|a:{\"text\": \"\\n\\n</para\\n</parameter\\n\"}");
    expect(&form, XML(PARAMETER("list", "[\"</parameter>\"]")), "|t:f|a:{\"list\": [\"</parameter>\"]}");
    expect(&form, "a<function=f>\n</function>", "|c:a<function=f>\n</function>"); // not without <tool_call>
}

static void test_malformed_xml_calls_are_content(void **state) {
    (void)state;
    static const char *const texts[] = {
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=f\n</function>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=>\n1\n</parameter>\n</function>",
        "<tool_call>\n<function=f>\n{\"a\": 1}\n</function>\n",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        "<function=f>\n<parameter=a>\n1\n</parameter>\n",
        "<functions>\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        char events[256];
        snprintf(events, sizeof events, "|c:%s", texts[i]);
        expect(&xml, texts[i], events);
    }
    expect(&xml, "<tool_call>\n<tool_call>\n<function=f>\n</function>", "|c:<tool_call>\n<tool_call>|t:f|a:{}");
}

static void test_one_call_is_the_end(void **state) {
    (void)state;
    struct answer_form form = json;
    form.one_call = true;
    expect_call(form, "a" CALL("f", "{}") "\n" CALL("g", "{}") "b", "|c:a|t:f|a:{}");
    expect(&form, "<tool_call>?" CALL("g", "{}"), "|c:<tool_call>?|t:g|a:{}");
}

/* How much was told of text, when its last byte has been pushed. */
static size_t n_told(const struct answer_form *form, const char *text) {
    struct answer_parser parser;
    struct recording recording = {.last = -1};
    answer_parser_init(&parser, form, record, &recording);
    for (const char *c = text; *c != '\0'; ++c) answer_parser_push(&parser, c, 1);
    size_t length = recording.text.length;
    answer_parser_finish(&parser);
    string_builder_finish(&recording.text);
    return length;
}

static void test_little_waits(void **state) {
    (void)state;
    assert_int_equal(n_told(&may_think, "<think>ab"), 5);
    assert_int_equal(n_told(&may_think, "<think>a</thinkx"), 3 + 9);
    assert_int_equal(n_told(&json, "a<tool_call"), 4);
    assert_int_equal(n_told(&json, "a<tool_callx"), 3 + 12);
    assert_int_equal(n_told(&json, "a\n"), 4); // a call may follow
    assert_int_equal(n_told(&plain, "a\n<tool_call"), 3 + 12);
    struct answer_form eager = json;
    eager.is_eager = true;
    static const char begun[] = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"bc";
    assert_int_equal(n_told(&json, begun), 0);
    assert_int_equal(n_told(&eager, begun), strlen("|t:f|a:{\"a\":\"bc"));
    eager.call_form = CALL_FORM_XML;
    assert_int_equal(n_told(&eager, "<tool_call><function=f><parameter=a>b\n</parameter><parameter="),
                     strlen("|t:f|a:{\"a\": \"b\""));
}

/* A call that never ends is content from ANSWER_MAX_CALL_BYTES on, and costs no more memory than that. */
static void test_a_long_call_is_content(void **state) {
    (void)state;
    size_t length = 3 * (size_t)ANSWER_MAX_CALL_BYTES;
    char *text = malloc(length + 1);
    memset(text, 'x', length);
    text[length] = '\0';
    const char *const starts[] = {"<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"", "<function=f><parameter=text>"};
    for (int i = 0; i < 2; ++i) {
        memcpy(text, starts[i], strlen(starts[i]));
        char *got = parse(i == 0 ? &json : &xml, text, length, WHOLE, 0);
        assert_int_equal(strlen(got), 3 + length);
        assert_memory_equal(got + 3, text, length);
        free(got);
    }
    // Marks inside a call that is none cost nothing: this would take minutes if each were tried.
    for (size_t i = 0; i + 12 < length; i += 12) memcpy(text + i, "<function=f>", 12);
    for (size_t i = 0; i + 39 < length; i += 39) memcpy(text + i, "<tool_call><function=f><parameter=text>", 39);
    char *got = parse(&xml, text, length, WHOLE, 0);
    assert_int_equal(strlen(got), 3 + length);
    free(got);
    free(text);
}

/* Pieces of the forms in any order, some of their bytes damaged: the cuts must not matter, and what is told as
 * arguments must be a JSON object. QUERN_FUZZ_SECONDS makes it longer. */
static const char *const fragments[] = {
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "\n",
    "{\"name\": \"f\", \"arguments\": ",
    "{\"a\": 1}",
    "}",
    "{",
    "\"",
    "\\",
    "<function=f>",
    "</function>",
    "<",
    "</",
    "<parameter=count>",
    "<parameter=text>",
    "</parameter>",
    "7",
    "a\xC3\xA9",
    "\xF0\x9F\x9A\x80",
    ", ",
    ": ",
    "[",
    "]",
    "null",
    "\"name\"",
    "\"arguments\"",
    "<tool",
    "parameter>",
    CALL("f", "{}"),
    XML(PARAMETER("count", "3")),
};

struct check {
    struct string_builder arguments;
    bool in_call;
    long n_calls;
};

static void check_arguments(struct check *check) {
    struct json_text value;
    struct error err;
    if (!check->in_call) return;
    assert_true(json_text_check(check->arguments.data, check->arguments.length, &value, &err));
    assert_int_equal(json_text_kind(value), JSON_OBJECT);
    check->arguments.length = 0;
    check->in_call = false;
}

static void check_event(void *user, const struct answer_event *event) {
    struct check *check = user;
    if (event->kind == ANSWER_ARGUMENTS) {
        string_builder_append(&check->arguments, event->text, event->length);
        return;
    }
    check_arguments(check);
    check->in_call = event->kind == ANSWER_CALL;
    check->n_calls += check->in_call;
}

static void test_random_answers(void **state) {
    (void)state;
    uint32_t seed = 1;
    const char *seconds = getenv("QUERN_FUZZ_SECONDS");
    time_t end = time(NULL) + (seconds != NULL ? atol(seconds) : 0);
    long n_calls = 0, n_rounds = 0;
    for (; n_rounds < 20000 || time(NULL) < end; ++n_rounds) {
        struct string_builder text = {0};
        for (int n = 1 + (int)(next_random(&seed) % 24); n > 0; --n) {
            uint32_t pick = next_random(&seed) % (sizeof fragments / sizeof *fragments);
            string_builder_append_text(&text, fragments[pick]);
        }
        for (uint32_t n = next_random(&seed) % 4; n > 0; --n) { // damage, but not inside a character
            char *c = &text.data[next_random(&seed) % text.length];
            if (!(*c & 0x80)) *c = (char)(1 + next_random(&seed) % 127);
        }
        struct answer_form form = next_random(&seed) % 2 ? json : xml;
        form.thinking = (enum answer_thinking)(next_random(&seed) % 3);
        form.one_call = next_random(&seed) % 8 == 0;

        struct answer_parser parser;
        struct check check = {0};
        answer_parser_init(&parser, &form, check_event, &check);
        answer_parser_push(&parser, text.data, text.length);
        answer_parser_end(&parser);
        n_calls += check.n_calls;
        check_arguments(&check);
        answer_parser_finish(&parser);
        string_builder_finish(&check.arguments);

        for (int eager = 0; eager < 2; ++eager) {
            form.is_eager = eager;
            char *whole = parse(&form, text.data, text.length, WHOLE, 0);
            char *bytes = parse(&form, text.data, text.length, BYTES, 0);
            char *pieces = parse(&form, text.data, text.length, RANDOM, seed);
            if (strcmp(whole, bytes) != 0 || strcmp(whole, pieces) != 0) {
                fail_msg("%s\ngave\n%s\n%s\n%s", text.data, whole, bytes, pieces);
            }
            free(whole), free(bytes), free(pieces);
        }
        string_builder_finish(&text);
    }
    print_message("%ld rounds, %ld calls\n", n_rounds, n_calls);
    assert_true(n_calls > n_rounds / 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_text_passes_as_it_is),
        cmocka_unit_test(test_reasoning),
        cmocka_unit_test(test_a_prompt_that_opened_the_reasoning),
        cmocka_unit_test(test_json_calls),
        cmocka_unit_test(test_malformed_json_calls_are_content),
        cmocka_unit_test(test_xml_calls),
        cmocka_unit_test(test_xml_values_follow_the_schema),
        cmocka_unit_test(test_an_xml_value_is_read_in_short_time),
        cmocka_unit_test(test_exact_xml_calls),
        cmocka_unit_test(test_malformed_xml_calls_are_content),
        cmocka_unit_test(test_one_call_is_the_end),
        cmocka_unit_test(test_little_waits),
        cmocka_unit_test(test_a_long_call_is_content),
        cmocka_unit_test(test_random_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
