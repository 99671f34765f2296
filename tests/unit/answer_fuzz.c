/* Mutated answers through the parser until the time is over; for a build with sanitizers:
 * answer_fuzz SECONDS SEED
 *
 * Ends with 1 when something does not hold: the events depend on how the text is cut, or what was told as a complete
 * call has arguments that are no JSON object. The last input is in answer_fuzz.last. */
#include "engine/engine.h"
#include "server/answer_parser.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LENGTH 2048
#define N_CUTS     4 // whole, byte by byte, and at random

struct fuzzer {
    uint64_t random;
    uint64_t n_inputs, n_events, n_calls;
};

/* Events as one text, and the arguments of the call at hand. */
struct recording {
    struct string_builder text, arguments;
    int last;
    bool is_eager;
    struct fuzzer *fuzzer;
};

static const char *const pieces[] = {
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "f>",
    "</function>",
    "<parameter=",
    "text>",
    "count>",
    "</parameter>",
    "\n",
    "\n\n",
    "{\"name\": \"f\", \"arguments\": ",
    "{\"arguments\": {}, \"name\": \"g\"}",
    "{\"text\": \"a\\n\\u00e9\\ud83d\\ude80\", \"count\": [1, -2.5e3, null]}",
    "}",
    "\xF0\x9F\x9A\x80",
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"text\": \"</tool_call>\"}}\n</tool_call>",
    "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n12\n</parameter>\n</function>\n"
    "</tool_call>",
    "<function=f>\n<parameter=any>\n{\"a\": [True, None]}\n</parameter>\n</function>",
    "Hello",
    "\\",
    "\""};
static const char alphabet[] = "<>/={}[]\":,\\\n tfnTN-+.0eu_\xC3\xA9";
static const char tool[] =
    "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", \"properties\": {"
    "\"text\": {\"type\": \"string\"}, \"count\": {\"type\": \"integer\"}, \"flag\": {\"type\": \"boolean\"},"
    "\"either\": {\"type\": [\"string\", \"null\"]}, \"any\": {}}}}}";
static const struct chat_text tools[] = {{(char *)tool, sizeof tool - 1}};

static uint32_t draw(struct fuzzer *fuzzer, uint32_t below) {
    fuzzer->random = fuzzer->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fuzzer->random >> 33) % below);
}

static void give_up(const char *what) {
    fprintf(stderr, "%s; see answer_fuzz.last\n", what);
    exit(1);
}

/* --- events --- */

static void check_arguments(struct recording *recording) {
    if (recording->arguments.data == NULL) return;
    cJSON *value = cJSON_ParseWithLength(recording->arguments.data, recording->arguments.length);
    if (!cJSON_IsObject(value) && !recording->is_eager) give_up("arguments that are no JSON object");
    cJSON_Delete(value);
    string_builder_finish(&recording->arguments);
    recording->arguments = (struct string_builder){0};
}

static void record(void *user, const struct answer_event *event) {
    struct recording *recording = user;
    recording->fuzzer->n_events++;
    if (event->length == 0) give_up("an event without text");
    if ((int)event->kind != recording->last || event->kind == ANSWER_CALL) {
        const char letter[] = {'|', "rcta"[event->kind], ':'};
        string_builder_append(&recording->text, letter, sizeof letter);
        if (event->kind != ANSWER_ARGUMENTS) check_arguments(recording);
    }
    recording->last = (int)event->kind;
    recording->fuzzer->n_calls += event->kind == ANSWER_CALL;
    string_builder_append(&recording->text, event->text, event->length);
    if (event->kind == ANSWER_ARGUMENTS) string_builder_append(&recording->arguments, event->text, event->length);
}

static size_t piece_length(struct fuzzer *fuzzer, int cut, size_t left) {
    size_t piece = cut == 0 ? left : cut == 1 ? 1 : 1 + draw(fuzzer, 9);
    return piece < left ? piece : left;
}

static struct string_builder parse(struct fuzzer *fuzzer, const struct answer_form *form, const char *text,
                                   size_t length, int cut) {
    struct answer_parser parser;
    struct recording recording = {.last = -1, .is_eager = form->is_eager, .fuzzer = fuzzer};
    answer_parser_init(&parser, form, record, &recording);
    for (size_t at = 0, piece; at < length; at += piece) {
        piece = piece_length(fuzzer, cut, length - at);
        char *copy = malloc(piece); // so that reading beyond a piece is seen
        memcpy(copy, text + at, piece);
        answer_parser_push(&parser, copy, piece);
        free(copy);
    }
    answer_parser_end(&parser);
    check_arguments(&recording);
    if (parser.failure != ERR_NONE) give_up("a failure");
    answer_parser_finish(&parser);
    return recording.text;
}

/* --- inputs --- */

static size_t make_text(struct fuzzer *fuzzer, char *text) {
    size_t length = 0;
    for (uint32_t n = 1 + draw(fuzzer, 12); n > 0; n--) {
        const char *piece = pieces[draw(fuzzer, sizeof pieces / sizeof *pieces)];
        if (length + strlen(piece) > MAX_LENGTH) break;
        memcpy(text + length, piece, strlen(piece));
        length += strlen(piece);
    }
    for (uint32_t n = draw(fuzzer, 4); n > 0 && length > 1; n--) {
        size_t at = draw(fuzzer, (uint32_t)length);
        if (draw(fuzzer, 2) == 0)
            text[at] = alphabet[draw(fuzzer, sizeof alphabet - 1)];
        else
            memmove(text + at, text + at + 1, --length - at);
    }
    return length;
}

static void write_last(const char *text, size_t length) {
    FILE *last = fopen("answer_fuzz.last", "wb");
    if (last == NULL) return;
    fwrite(text, 1, length, last);
    fclose(last);
}

static void try_one(struct fuzzer *fuzzer) {
    static char text[MAX_LENGTH];
    size_t length = make_text(fuzzer, text);
    const struct answer_form form = {.thinking = (enum answer_thinking)draw(fuzzer, 3),
                                     .has_calls = draw(fuzzer, 5) > 0,
                                     .call_form = draw(fuzzer, 2) == 0 ? CALL_FORM_JSON : CALL_FORM_XML,
                                     .tools = tools,
                                     .n_tools = 1,
                                     .is_eager = draw(fuzzer, 3) == 0,
                                     .one_call = draw(fuzzer, 4) == 0};
    write_last(text, length);
    struct string_builder whole = parse(fuzzer, &form, text, length, 0);
    for (int cut = 1; cut < N_CUTS; cut++) {
        struct string_builder other = parse(fuzzer, &form, text, length, cut);
        if (other.length != whole.length || (whole.length > 0 && memcmp(other.data, whole.data, whole.length) != 0))
            give_up("events that depend on how the text was cut");
        string_builder_finish(&other);
    }
    string_builder_finish(&whole);
    fuzzer->n_inputs++;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct fuzzer fuzzer = {.random = strtoull(argv[2], NULL, 10)};
    int64_t end = engine_now_ns() + strtoll(argv[1], NULL, 10) * 1000000000;
    while (engine_now_ns() < end) try_one(&fuzzer);
    printf("%llu inputs, %llu events, %llu calls\n", (unsigned long long)fuzzer.n_inputs,
           (unsigned long long)fuzzer.n_events, (unsigned long long)fuzzer.n_calls);
    return 0;
}
