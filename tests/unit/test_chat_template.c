#include "server/chat_messages.h"
#include "server/chat_template.h"
#include "tests/unit/fixture.h"

#define GOLDEN QUERN_SOURCE_ROOT "/tests/fixtures/golden/"

static void append_json(struct string_builder *out, struct json_text value) {
    string_builder_append(out, value.data, value.length);
}

/* A recorded case as a request body, its values as they are written. */
static struct chat chat_of_case(struct json_text test_case) {
    struct error err = {0};
    struct string_builder body = {0};
    struct json_text thinking, add_generation_prompt;
    string_builder_append_text(&body, "{\"messages\": ");
    append_json(&body, fixture_member(test_case, "messages"));
    string_builder_append_text(&body, ", \"tools\": ");
    append_json(&body, fixture_member(test_case, "tools"));
    string_builder_append_text(&body, "}");
    struct chat chat = {0};
    if (!chat_messages_read(body.data, body.length, &chat, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, ERR_NONE);
    string_builder_finish(&body);

    thinking = fixture_member(test_case, "enable_thinking");
    if (json_text_kind(thinking) == JSON_BOOL)
        chat.thinking = thinking.data[0] == 't' ? CHAT_THINKING_ON : CHAT_THINKING_OFF;
    if (json_text_find(test_case, "add_generation_prompt", &add_generation_prompt))
        chat.add_generation_prompt = add_generation_prompt.data[0] == 't';
    return chat;
}

/* The prompt of test_case, as the family's template writes it, is text_key of row. */
static void assert_renders_as(struct json_text test_case, struct json_text row, const char *text_key,
                              enum chat_family family) {
    struct error err = {0};
    struct string_builder prompt = {0};
    size_t n_expected, n_name;
    struct chat chat = chat_of_case(test_case);
    chat.family = family;
    char *expected = fixture_string(row, text_key, &n_expected);
    char *name = fixture_string(test_case, "name", &n_name);
    assert_true(chat_template_render(&chat, &prompt, &err));
    if (prompt.length != n_expected || memcmp(prompt.data, expected, n_expected) != 0)
        print_error("%s:\n%s\ninstead of\n%s\n", name, prompt.data, expected);
    assert_int_equal(prompt.length, n_expected);
    assert_memory_equal(prompt.data, expected, n_expected);
    string_builder_finish(&prompt);
    chat_finish(&chat);
    free(expected);
    free(name);
}

static void assert_renders(struct json_text test_case, const char *text_key) {
    assert_renders_as(test_case, test_case, text_key, CHAT_HYBRID);
}

static void test_all_recorded_conversations(void **state) {
    (void)state;
    char *data;
    struct json_text test_case, cases = fixture_json(GOLDEN "chat_template.json", &data);
    struct json_cursor cursor = {0};
    int n_cases = 0;
    for (; json_text_next(cases, &cursor, &test_case); n_cases++) assert_renders(test_case, "text");
    assert_int_equal(n_cases, 120);
    free(data);
}

/* The other templates of the family: what they make of the recorded conversations, and a few cases of their own. */
static void test_all_families(void **state) {
    (void)state;
    char *data, *own_data;
    struct json_text recorded, row, cases = fixture_json(GOLDEN "chat_template.json", &data);
    struct json_text rows = fixture_json(GOLDEN "chat_families.json", &own_data);
    struct json_cursor case_cursor = {0}, cursor = {0};
    int n_rows = 0;
    for (; json_text_next(rows, &cursor, &row); n_rows++) {
        struct json_text own;
        bool is_own = json_text_find(row, "messages", &own);
        struct json_text conversation = row;
        if (!is_own) assert_true(json_text_next(cases, &case_cursor, &recorded));
        if (!is_own) conversation = recorded;
        if (is_own) assert_renders_as(conversation, row, "hybrid", CHAT_HYBRID);
        assert_renders_as(conversation, row, "instruct", CHAT_INSTRUCT);
        assert_renders_as(conversation, row, "thinking", CHAT_THINKING);
        assert_renders_as(conversation, row, "coder", CHAT_CODER);
    }
    assert_int_equal(n_rows, 127);
    free(data);
    free(own_data);
}

static void test_the_coder_needs_arguments_that_are_an_object(void **state) {
    (void)state;
    static const char body[] = "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                               "\"arguments\":\"{\"}}]}]}";
    struct error err = {0};
    struct chat chat = {0};
    struct string_builder prompt = {0};
    assert_true(chat_messages_read(body, strlen(body), &chat, &err));
    chat.family = CHAT_CODER;
    assert_false(chat_template_render(&chat, &prompt, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, "messages");
    string_builder_finish(&prompt);
    chat_finish(&chat);
}

static void test_prompts_of_golden_cases(void **state) {
    (void)state;
    char *data;
    struct json_text test_case, messages, cases = fixture_json(GOLDEN "golden.json", &data);
    struct json_cursor cursor = {0};
    int n_cases = 0;
    while (json_text_next(cases, &cursor, &test_case)) {
        if (!json_text_find(test_case, "messages", &messages)) continue; // a plain prompt
        assert_renders(test_case, "prompt");
        n_cases++;
    }
    assert_int_equal(n_cases, 20);
    free(data);
}

static void assert_prompt(const char *messages, const char *expected) {
    struct error err = {0};
    struct chat chat = {0};
    struct string_builder body = {0}, prompt = {0};
    string_builder_append_text(&body, "{\"messages\": ");
    string_builder_append_text(&body, messages);
    string_builder_append_text(&body, "}");
    assert_true(chat_messages_read(body.data, body.length, &chat, &err));
    chat.add_generation_prompt = false;
    assert_true(chat_template_render(&chat, &prompt, &err));
    assert_string_equal(prompt.data, expected);
    string_builder_finish(&prompt);
    string_builder_finish(&body);
    chat_finish(&chat);
}

/* What the recorded conversations leave out. The texts are what the published template gives. */
static void test_corners(void **state) {
    (void)state;
    /* a conversation that starts with a tool's answer, and no query: the last message counts as one */
    assert_prompt(
        "[{\"role\":\"tool\",\"content\":\"r\"},{\"role\":\"assistant\",\"content\":\"<think>a</think>b\"}]",
        "<|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
    /* several blocks: reasoning up to the first end, content behind the last */
    assert_prompt("[{\"role\":\"user\",\"content\":\"q\"},"
                  "{\"role\":\"assistant\",\"content\":\"<think>x<think>\\ny\\n</think>z</think>\\n\\nend\\n\"}]",
                  "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\ny\n</think>\n\nend\n<|im_end|>\n");
    /* reasoning that is given, though empty, leaves the content alone */
    assert_prompt(
        "[{\"role\":\"user\",\"content\":\"q\"},"
        "{\"role\":\"assistant\",\"reasoning_content\":\"\",\"content\":\"\\n<think>a</think>b\"}]",
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<think>a</think>b<|im_end|>\n");
    /* null content beside tool calls, arguments as an object */
    assert_prompt("[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
                  "{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":1.0}}},"
                  "{\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]}]",
                  "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
                  "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": 1.0}}\n</tool_call>\n"
                  "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call><|im_end|>\n");
}

static void test_a_prompt_over_the_limit_is_refused(void **state) {
    (void)state;
    struct error err = {0};
    struct chat chat = {0};
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
    assert_true(chat_messages_read(body, strlen(body), &chat, &err));
    struct string_builder prompt = {.max_length = 20};
    assert_false(chat_template_render(&chat, &prompt, &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    string_builder_finish(&prompt);
    chat_finish(&chat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_recorded_conversations),
        cmocka_unit_test(test_all_families),
        cmocka_unit_test(test_the_coder_needs_arguments_that_are_an_object),
        cmocka_unit_test(test_prompts_of_golden_cases),
        cmocka_unit_test(test_corners),
        cmocka_unit_test(test_a_prompt_over_the_limit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
