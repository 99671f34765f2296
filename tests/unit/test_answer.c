/* Messages and deltas as clients read them; which tokens count as reasoning. */
#include "server/answer.h"
#include "server/chat_answer.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_THINK = 258, TOKEN_THINK_END = 259 }; // of fake_tokenizer.c

static const struct answer_options tools = {.form = {.thinking = ANSWER_MAY_THINK, .has_calls = true}};

static struct server make_server(void) {
    struct server server;
    struct error err;
    server_init(&server, "fake", NULL);
    server.tokenizer = tokenizer_load("", &err);
    return server;
}

static void push(struct answer *answer, const char *text, size_t length) {
    struct string_builder builder = {0};
    string_builder_append(&builder, text, length);
    answer_push(answer, &builder);
    assert_int_equal(builder.length, 0);
    string_builder_finish(&builder);
}

/* Each id becomes "ID", so that the rest can be compared. */
static void hide_ids(char *text) {
    for (char *id = text; (id = strstr(id, "call_")) != NULL;) {
        assert_int_equal(strspn(id + 5, "0123456789abcdef"), 24);
        memcpy(id, "ID", 2);
        memmove(id + 2, id + 29, strlen(id + 29) + 1);
    }
}

static void expect_message(const struct answer_options *options, const char *text, const char *expected) {
    struct server server = make_server();
    struct answer answer;
    struct string_builder out = {0};
    struct error err;
    answer_init(&answer, options, &server);
    push(&answer, text, strlen(text));
    answer_end(&answer);
    assert_true(answer_check(&answer, &err));
    chat_write_message(&answer, &out);
    hide_ids(out.data);
    assert_string_equal(out.data, expected);
    string_builder_finish(&out);
    answer_finish(&answer);
    tokenizer_destroy(server.tokenizer);
}

#define CALL(name, arguments) "<tool_call>\n{\"name\": \"" name "\", \"arguments\": " arguments "}\n</tool_call>"
#define HEAD                  "\"message\":{\"role\":\"assistant\",\"content\":"

static void test_messages(void **state) {
    (void)state;
    expect_message(&tools, "", HEAD "\"\",\"refusal\":null}");
    expect_message(&tools, "a\n\"b\"", HEAD "\"a\\n\\\"b\\\"\",\"refusal\":null}");
    expect_message(&tools, "<think>\nwhy\n</think>\n\nso",
                   HEAD "\"so\",\"refusal\":null,\"reasoning_content\":\"why\",\"reasoning\":\"why\"}");
    expect_message(
        &tools, CALL("f", "{\"a\": \"b\"}") "\n" CALL("g", "{}"),
        HEAD
        "null,\"refusal\":null,\"tool_calls\":["
        "{\"id\":\"ID\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": \\\"b\\\"}\"}},"
        "{\"id\":\"ID\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]}");
    expect_message(&tools, "so\n" CALL("f", "{}"),
                   HEAD "\"so\",\"refusal\":null,\"tool_calls\":["
                        "{\"id\":\"ID\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}");
    struct answer_options quiet = tools;
    quiet.drops_reasoning = true;
    expect_message(&quiet, "<think>why</think>so", HEAD "\"so\",\"refusal\":null}");
}

static void write_deltas(struct answer *answer, struct string_builder *out) {
    struct answer_delta delta;
    while (answer_next(answer, &delta)) {
        if (chat_write_delta(&delta, out)) string_builder_append_text(out, "\n");
    }
}

/* All deltas of an answer that comes in pieces of n bytes, one a line. */
static char *deltas(const struct answer_options *options, const char *text, size_t n) {
    struct server server = make_server();
    struct answer answer;
    struct string_builder out = {0};
    answer_init(&answer, options, &server);
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i += n) {
        push(&answer, text + i, n < length - i ? n : length - i);
        write_deltas(&answer, &out);
    }
    answer_end(&answer);
    write_deltas(&answer, &out);
    answer_finish(&answer);
    tokenizer_destroy(server.tokenizer);
    string_builder_append_text(&out, "");
    hide_ids(out.data);
    return out.data;
}

static void expect_deltas(const struct answer_options *options, const char *text, size_t n, const char *expected) {
    char *got = deltas(options, text, n);
    assert_string_equal(got, expected);
    free(got);
}

#define BEGIN(index, name)                                                                                             \
    "\"delta\":{\"tool_calls\":[{\"index\":" index ",\"id\":\"ID\",\"type\":\"function\",\"function\":{\"name\":"      \
    "\"" name "\",\"arguments\":\"\"}}]}\n"
#define ARGUMENTS(index, text)                                                                                         \
    "\"delta\":{\"tool_calls\":[{\"index\":" index ",\"function\":{\"arguments\":\"" text "\"}}]}\n"

static void test_deltas(void **state) {
    (void)state;
    expect_deltas(&tools, "", 1, "");
    expect_deltas(&tools, "<think>\nwhy</think>\n\nso", 100,
                  "\"delta\":{\"reasoning_content\":\"why\",\"reasoning\":\"why\"}\n\"delta\":{\"content\":\"so\"}\n");
    expect_deltas(&tools, "abcd", 2, "\"delta\":{\"content\":\"ab\"}\n\"delta\":{\"content\":\"cd\"}\n");
    expect_deltas(&tools, "a\n" CALL("f", "{\"b\": 1}") "\n" CALL("g", "{}"), 1000,
                  "\"delta\":{\"content\":\"a\"}\n" BEGIN("0", "f") ARGUMENTS("0", "{\\\"b\\\": 1}") BEGIN("1", "g")
                      ARGUMENTS("1", "{}"));
    struct answer_options eager = tools;
    eager.form.is_eager = true;
    expect_deltas(&eager, "<tool_call>{\"name\":\"f\",\"arguments\":{\"ab\":12}}", 1,
                  BEGIN("0", "f") ARGUMENTS("0", "{") ARGUMENTS("0", "\\\"") ARGUMENTS("0", "a") ARGUMENTS("0", "b")
                      ARGUMENTS("0", "\\\"") ARGUMENTS("0", ":") ARGUMENTS("0", "1") ARGUMENTS("0", "2")
                          ARGUMENTS("0", "}"));
    struct answer_options quiet = tools;
    quiet.drops_reasoning = true;
    expect_deltas(&quiet, "<think>why</think>so", 3, "\"delta\":{\"content\":\"so\"}\n");
}

static void test_one_call_completes_the_answer(void **state) {
    (void)state;
    struct server server = make_server();
    struct answer_options one = tools;
    one.form.one_call = true;
    struct answer answer;
    struct string_builder text = {0};
    answer_init(&answer, &one, &server);
    string_builder_append_text(&text, "<tool_call>{\"name\":\"f\"");
    assert_false(answer_push(&answer, &text));
    string_builder_append_text(&text, "}\n<tool_call>");
    assert_true(answer_push(&answer, &text));
    answer_end(&answer);
    assert_int_equal(answer.n_calls, 1);
    assert_int_equal(answer.n_parts, 1);
    string_builder_finish(&text);
    answer_finish(&answer);
    tokenizer_destroy(server.tokenizer);
}

static void test_reasoning_tokens(void **state) {
    (void)state;
    static const struct {
        enum answer_thinking thinking;
        int32_t tokens[12]; // up to -1
        int32_t n_reasoning;
    } rows[] = {
        {ANSWER_MAY_THINK, {'a', 'b', -1}, 0},
        {ANSWER_MAY_THINK, {TOKEN_THINK, '\n', 'a', '\n', TOKEN_THINK_END, '\n', 'b', -1}, 3},
        {ANSWER_MAY_THINK, {'\n', TOKEN_THINK, 'a', -1}, 1},
        {ANSWER_MAY_THINK, {'a', TOKEN_THINK, 'b', TOKEN_THINK_END, -1}, 0},
        {ANSWER_MAY_THINK, {TOKEN_THINK, TOKEN_THINK_END, TOKEN_THINK, 'b', TOKEN_THINK_END, -1}, 0},
        {ANSWER_THINKS, {'a', 'b', TOKEN_THINK_END, 'c', -1}, 2},
        {ANSWER_NEVER_THINKS, {TOKEN_THINK, 'a', TOKEN_THINK_END, -1}, 0},
    };
    struct server server = make_server();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct answer answer;
        answer_init(&answer, &(struct answer_options){.form = {.thinking = rows[i].thinking}}, &server);
        for (const int32_t *token = rows[i].tokens; *token >= 0; ++token) answer_count_token(&answer, *token);
        assert_int_equal(answer.reasoning_tokens.n_tokens, rows[i].n_reasoning);
        answer_finish(&answer);
    }
    tokenizer_destroy(server.tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_deltas),
        cmocka_unit_test(test_one_call_completes_the_answer),
        cmocka_unit_test(test_reasoning_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
