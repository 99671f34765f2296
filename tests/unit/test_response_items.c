/* Input of the Responses API against the chat that says the same: one prompt, byte for byte. */
#include "server/response_items.h"

#include "server/chat_messages.h"
#include "server/response_store.h"
#include "server/server.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

static struct server server;

static int set_up(void **state) {
    (void)state;
    server_init(&server, "fake", NULL);
    server.responses = response_store_create(4, 1 << 20, NULL);
    return server.responses == NULL;
}

static int tear_down(void **state) {
    (void)state;
    response_store_destroy(server.responses);
    return 0;
}

static char *render(struct chat *chat) {
    struct string_builder text = {0};
    struct error err;
    assert_true(chat_template_render(chat, &text, &err));
    chat_finish(chat);
    return text.data;
}

static char *render_items(const char *input, const char *instructions) {
    struct response_items items = {0};
    struct json_text value, words = {0};
    struct chat chat = {0};
    struct error err = {.code = ERR_NONE};
    assert_true(json_text_check(input, strlen(input), &value, &err));
    if (instructions != NULL) words = (struct json_text){instructions, strlen(instructions)};
    if (!response_items_read(&items, value, &server, &err) || !response_items_to_chat(&items, words, &chat, &err))
        fail_msg("%s", err.message);
    response_items_finish(&items);
    return render(&chat);
}

#define CALL(id, name)                                                                                                 \
    "{\"type\": \"function_call\", \"call_id\": \"" id "\", \"name\": \"" name "\", \"arguments\": \"{\\\"a\\\":1}\"}"
#define OUTPUT(id, text) "{\"type\": \"function_call_output\", \"call_id\": \"" id "\", \"output\": " text "}"
#define THOUGHT                                                                                                        \
    "{\"type\": \"reasoning\", \"summary\": [], \"content\": [{\"type\": \"reasoning_text\", \"text\": \"hm\"}]}"
#define SAID(text)                                                                                                     \
    "{\"type\": \"message\", \"role\": \"assistant\", \"content\": [{\"type\": \"output_text\", \"text\": \"" text     \
    "\"}]}"
#define FUNCTION(name) "{\"function\": {\"name\": \"" name "\", \"arguments\": \"{\\\"a\\\": 1}\"}}"

static void test_prompts(void **state) {
    (void)state;
    static const struct {
        const char *input, *instructions, *messages;
    } rows[] = {
        {"\"a\\n\\u00e9\"", NULL, "[{\"role\": \"user\", \"content\": \"a\\n\\u00e9\"}]"},
        {"\"a\"", "\"Be \\\"kind\\\".\"",
         "[{\"role\": \"system\", \"content\": \"Be \\\"kind\\\".\"}, {\"role\": \"user\", \"content\": \"a\"}]"},
        {"[{\"role\": \"developer\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": [{\"type\": "
         "\"input_text\", "
         "\"text\": \"a\"}, {\"type\": \"input_text\", \"text\": \"b\"}]}]",
         NULL, "[{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"a\\nb\"}]"},
        {"[{\"role\": \"user\", \"content\": \"a\"}, " THOUGHT
         ", " SAID("b") ", {\"role\": \"user\", \"content\": \"c\"}]",
         NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"reasoning_content\": \"hm\", "
         "\"content\": \"b\"}, {\"role\": \"user\", \"content\": \"c\"}]"},
        {"[{\"role\": \"user\", \"content\": \"a\"}, " THOUGHT ", " SAID("b") ", " CALL("1", "f") ", " CALL(
             "2", "g") ", " OUTPUT("1", "\"x\"") ", " OUTPUT("2", "[{\"type\": \"input_text\", \"text\": \"y\"}]") "]",
         NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"reasoning_content\": \"hm\", "
         "\"content\": \"b\", \"tool_calls\": [" FUNCTION("f") ", " FUNCTION(
             "g") "]}, "
                  "{\"role\": \"tool\", \"content\": \"x\"}, {\"role\": \"tool\", \"content\": \"y\"}]"},
        // Content on both sides of a call is one message, as an answer of a chat has it.
        {"[{\"role\": \"user\", \"content\": \"a\"}, " SAID("b") ", " CALL("1", "f") ", " SAID("c") "]", NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"bc\", \"tool_calls\": "
         "[" FUNCTION("f") "]}]"},
        // Two messages stay two, and so do two answers that begin with reasoning.
        {"[{\"role\": \"user\", \"content\": \"a\"}, " SAID("b") ", " SAID("c") "]", NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, "
         "{\"role\": \"assistant\", \"content\": \"c\"}]"},
        {"[{\"role\": \"user\", \"content\": \"a\"}, " THOUGHT
         ", " CALL("1", "f") ", " OUTPUT("1", "\"x\"") ", " THOUGHT ", " CALL("2", "g") "]",
         NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"reasoning_content\": \"hm\", "
         "\"tool_calls\": [" FUNCTION("f") "]}, {\"role\": \"tool\", \"content\": \"x\"}, {\"role\": \"assistant\", "
                                           "\"reasoning_content\": \"hm\", \"tool_calls\": [" FUNCTION("g") "]}]"},
        // A summary stands for reasoning that is not told.
        {"[{\"role\": \"user\", \"content\": \"a\"}, {\"type\": \"reasoning\", \"summary\": [{\"type\": "
         "\"summary_text\", \"text\": \"hm\"}]}, " SAID("b") "]",
         NULL,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"reasoning_content\": \"hm\", "
         "\"content\": \"b\"}]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct string_builder body = {0};
        struct chat chat = {0};
        struct error err;
        string_builder_append_text(&body, "{\"messages\": ");
        string_builder_append_text(&body, rows[i].messages);
        string_builder_append_text(&body, "}");
        assert_true(chat_messages_read(body.data, body.length, &chat, &err));
        char *expected = render(&chat), *got = render_items(rows[i].input, rows[i].instructions);
        assert_string_equal(got, expected);
        free(expected);
        free(got);
        string_builder_finish(&body);
    }
}

/* An item is kept in the form in which it is told, with an id; read again it is the same. */
static void test_items_are_told_as_they_are_kept(void **state) {
    (void)state;
    static const char input[] = "[{\"role\": \"user\", \"content\": \"a\"}, " THOUGHT
                                ", " SAID("b") ", " CALL("1", "f") ", " OUTPUT("1", "\"x\"") "]";
    struct response_items items = {0}, again = {0};
    struct json_text value;
    struct error err;
    assert_true(json_text_check(input, strlen(input), &value, &err));
    assert_true(response_items_read(&items, value, &server, &err));
    assert_int_equal(items.count, 5);
    static const char *const prefixes[] = {"msg_", "rs_", "msg_", "fc_", "fco_"};
    struct string_builder told = {0};
    for (int32_t i = 0; i < items.count; ++i) {
        assert_memory_equal(items.items[i]->id, prefixes[i], strlen(prefixes[i]));
        string_builder_append_text(&told, i == 0 ? "[" : ",");
        string_builder_append(&told, items.items[i]->json, items.items[i]->length);
    }
    string_builder_append_text(&told, "]");
    assert_true(json_text_check(told.data, told.length, &value, &err));
    assert_true(response_items_read(&again, value, &server, &err));
    for (int32_t i = 0; i < items.count; ++i) assert_string_equal(again.items[i]->json, items.items[i]->json);
    string_builder_finish(&told);
    response_items_finish(&items);
    response_items_finish(&again);
}

static bool read_input(struct response_items *items, const char *input, size_t length, struct error *err) {
    struct json_text value;
    assert_true(json_text_check(input, length, &value, err));
    return response_items_read(items, value, &server, err);
}

/* References cost their sender nothing: what they stand for counts, as what an earlier response has. */
static void test_a_conversation_is_bounded(void **state) {
    (void)state;
    enum { BYTES = RESPONSE_MAX_BYTES / 8 };
    struct response_items items = {0};
    struct string_builder input = {0};
    struct error err;
    string_builder_append_text(&input, "[{\"role\": \"user\", \"id\": \"long\", \"content\": \"");
    for (int32_t i = 0; i < BYTES; ++i) string_builder_append_text(&input, "a");
    string_builder_append_text(&input, "\"}");
    for (int32_t i = 0; i < 6; ++i)
        string_builder_append_text(&input, ", {\"type\": \"item_reference\", \"id\": \"long\"}");
    string_builder_append_text(&input, "]");
    assert_true(read_input(&items, input.data, input.length, &err));
    response_items_finish(&items);
    --input.length;
    string_builder_append_text(&input, ", {\"type\": \"item_reference\", \"id\": \"long\"}]");
    assert_false(read_input(&items, input.data, input.length, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "bytes"));
    response_items_finish(&items);
    string_builder_finish(&input);

    static const char one[] = "[{\"role\": \"user\", \"content\": \"a\"}]";
    assert_true(read_input(&items, one, sizeof one - 1, &err));
    for (int32_t i = 1; i <= RESPONSE_MAX_ITEMS; ++i) assert_true(response_items_share(&items, items.items[0], &err));
    assert_false(read_input(&items, one, sizeof one - 1, &err));
    assert_non_null(strstr(err.message, "items"));
    assert_false(read_input(&items, "\"a\"", 3, &err));
    assert_int_equal(items.count, RESPONSE_MAX_ITEMS + 1);
    response_items_finish(&items);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_items_are_told_as_they_are_kept),
        cmocka_unit_test(test_a_conversation_is_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
