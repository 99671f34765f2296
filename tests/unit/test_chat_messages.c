#include "server/chat_messages.h"
#include "tests/unit/fixture.h"

static struct chat read_valid(const char *body) {
    struct chat chat = {0};
    struct error err = {0};
    if (!chat_messages_read(body, strlen(body), &chat, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, ERR_NONE);
    return chat;
}

static void assert_text(struct chat_text text, const char *expected, size_t length) {
    assert_non_null(text.data);
    assert_int_equal(text.length, length);
    assert_memory_equal(text.data, expected, length);
}

static void test_reads_every_field(void **state) {
    (void)state;
    struct chat chat = read_valid(
        "{\"model\":\"m\",\"messages\":["
        "{\"role\":\"developer\",\"content\":\"be brief\",\"name\":\"n\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\u0000b\"},{\"text\":\"c\",\"type\":\"text\"}]"
        "},"
        "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"why\",\"tool_calls\":["
        "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
        "{\"function\":{\"name\":\"g\",\"arguments\":{\"a\":1,\"b\":1.0}}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"\"},"
        "{\"role\":\"assistant\",\"reasoning_content\":null,\"tool_calls\":null}],"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"x\":1,\"y\":1.0}}}]}");
    assert_int_equal(chat.n_messages, 5);
    assert_true(chat.add_generation_prompt);
    assert_int_equal(chat.thinking, CHAT_THINKING_DEFAULT);
    assert_int_equal(chat.messages[0].role, CHAT_SYSTEM);
    assert_text(chat.messages[0].content, "be brief", 8);
    assert_int_equal(chat.messages[1].role, CHAT_USER);
    assert_text(chat.messages[1].content, "a\0b\nc", 5);
    assert_int_equal(chat.messages[2].role, CHAT_ASSISTANT);
    assert_int_equal(chat.messages[2].content.length, 0);
    assert_text(chat.messages[2].reasoning_content, "why", 3);
    assert_int_equal(chat.messages[2].n_tool_calls, 2);
    assert_text(chat.messages[2].tool_calls[0].name, "f", 1);
    assert_text(chat.messages[2].tool_calls[0].arguments, "{\"a\": 1}", 8); // as the template would write the object
    assert_text(chat.messages[2].tool_calls[1].arguments, "{\"a\": 1, \"b\": 1.0}", 18);
    assert_int_equal(chat.messages[3].role, CHAT_TOOL);
    assert_text(chat.messages[3].content, "", 0);
    assert_null(chat.messages[4].reasoning_content.data);
    assert_int_equal(chat.n_tools, 1);
    static const char tool[] =
        "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"x\": 1, \"y\": 1.0}}}";
    assert_text(chat.tools[0], tool, strlen(tool));
    chat_finish(&chat);
    assert_null(chat.messages);
}

static void test_reasoning_has_two_names(void **state) {
    (void)state;
    struct chat chat = read_valid("{\"messages\":[{\"role\":\"assistant\",\"reasoning\":\"a\"},"
                                  "{\"role\":\"assistant\",\"reasoning\":\"b\",\"reasoning_content\":\"c\"},"
                                  "{\"role\":\"assistant\",\"reasoning\":\"d\",\"reasoning_content\":null}]}");
    assert_text(chat.messages[0].reasoning_content, "a", 1);
    assert_text(chat.messages[1].reasoning_content, "c", 1);
    assert_text(chat.messages[2].reasoning_content, "d", 1);
    chat_finish(&chat);
}

static void test_arguments_that_are_no_object_are_kept(void **state) {
    (void)state;
    static const char *const arguments[] = {"", "{\\\"a\\\": ", "[1]", "null"};
    static const char *const kept[] = {"{}", "{\"a\": ", "[1]", "null"};
    for (size_t i = 0; i < 4; i++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                 "\"arguments\":\"%s\"}}]}]}",
                 arguments[i]);
        struct chat chat = read_valid(body);
        assert_text(chat.messages[0].tool_calls[0].arguments, kept[i], strlen(kept[i]));
        chat_finish(&chat);
    }
}

#define USER      "{\"role\":\"user\",\"content\":\"hi\"}"
#define CALL(x)   "{\"messages\":[" USER ",{\"role\":\"assistant\",\"tool_calls\":" x "}]}"
#define TOOLS(x)  "{\"messages\":[" USER "],\"tools\":" x "}"
#define SECOND(x) "{\"messages\":[" USER "," x "]}"

static void test_tools_may_be_strict(void **state) {
    (void)state;
    static const char *const bodies[] = {
        TOOLS("[{\"function\":{\"name\":\"a\",\"strict\":true}},{\"function\":{\"name\":\"b\"}}]"),
        TOOLS("[{\"function\":{\"name\":\"a\",\"strict\":false}}]"),
        TOOLS("[{\"function\":{\"name\":\"a\",\"strict\":null}}]")};
    for (size_t i = 0; i < 3; i++) {
        struct chat chat = read_valid(bodies[i]);
        assert_int_equal(chat.has_strict_tools, i == 0);
        chat_finish(&chat);
    }
}

static void test_tools_may_be_null_or_empty(void **state) {
    (void)state;
    static const char *const bodies[] = {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"tools\":null}",
                                         "{\"messages\":[{\"role\":\"user\",\"content\":[]}],\"tools\":[]}"};
    for (size_t i = 0; i < 2; i++) {
        struct chat chat = read_valid(bodies[i]);
        assert_int_equal(chat.n_tools, 0);
        assert_text(chat.messages[0].content, "", 0);
        chat_finish(&chat);
    }
}

static void test_faults_name_their_place(void **state) {
    (void)state;
    static const struct {
        const char *body, *param, *says;
    } cases[] = {
        {"{}", "messages", "missing"},
        {"{\"messages\":[]}", "messages", "at least one"},
        {"{\"messages\":null}", "messages", "is null, but must be an array"},
        {"{\"messages\":\"hi\"}", "messages", "is a string"},
        {SECOND("1"), "messages[1]", "is a number"},
        {SECOND("{\"content\":\"x\"}"), "messages[1].role", "missing"},
        {SECOND("{\"role\":1,\"content\":\"x\"}"), "messages[1].role", "is a number"},
        {SECOND("{\"role\":\"function\",\"content\":\"x\"}"), "messages[1].role",
         "system, developer, user, assistant or tool"},
        {SECOND("{\"role\":\"User\",\"content\":\"x\"}"), "messages[1].role", "must be"},
        {SECOND("{\"role\":\"user\"}"), "messages[1].content", "array of text parts"},
        {SECOND("{\"role\":\"tool\",\"content\":null}"), "messages[1].content", "array of text parts"},
        {SECOND("{\"role\":\"user\",\"content\":{}}"), "messages[1].content", "is an object"},
        {SECOND("{\"role\":\"user\",\"content\":[\"a\"]}"), "messages[1].content[0]", "is a string"},
        {SECOND("{\"role\":\"user\",\"content\":[{\"text\":\"a\"}]}"), "messages[1].content[0].type", "\"text\""},
        {SECOND("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}]}"),
         "messages[1].content[1].type", "no images"},
        {SECOND("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), "messages[1].content[0].text", "missing"},
        {SECOND("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":[]}]}"), "messages[1].content[0].text",
         "is an array"},
        {SECOND("{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":1}"), "messages[1].reasoning_content",
         "is a number"},
        {CALL("{}"), "messages[1].tool_calls", "is an object"},
        {CALL("[null]"), "messages[1].tool_calls[0]", "is null"},
        {CALL("[{}]"), "messages[1].tool_calls[0].function", "missing"},
        {CALL("[{\"function\":\"f\"}]"), "messages[1].tool_calls[0].function", "is a string"},
        {CALL("[{\"function\":{\"arguments\":\"\"}}]"), "messages[1].tool_calls[0].function.name", "missing"},
        {CALL("[{\"function\":{\"name\":\"f\"}}]"), "messages[1].tool_calls[0].function.arguments", "missing"},
        {CALL("[{\"function\":{\"name\":\"f\",\"arguments\":\"\"}},{\"function\":{\"name\":\"f\",\"arguments\":[]}}]"),
         "messages[1].tool_calls[1].function.arguments", "is an array"},
        {TOOLS("[{\"function\":{\"name\":\"f\",\"strict\":\"yes\"}}]"), "tools[0].function.strict", "true or false"},
        {TOOLS("[{\"function\":{\"name\":\"f\",\"description\":{}}}]"), "tools[0].function.description", "a string"},
        {TOOLS("[{\"function\":{\"name\":\"f\",\"parameters\":true}}]"), "tools[0].function.parameters",
         "is a boolean, but must be a JSON schema"},
        {TOOLS("{}"), "tools", "is an object"},
        {TOOLS("[1]"), "tools[0]", "is a number"},
        {TOOLS("[{\"type\":\"web_search\"}]"), "tools[0].type", "\"function\""},
        {TOOLS("[{\"type\":\"function\"}]"), "tools[0].function", "missing"},
        {TOOLS("[{\"function\":{\"name\":\"a\"}},{\"function\":{}}]"), "tools[1].function.name", "missing"},
        {SECOND("{\"role\":\"assistant\",\"reasoning\":[]}"), "messages[1].reasoning", "is an array"},
        {"[]", "", "must be an object"},
        {"{\"messages\":[" USER "]", "", "byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat chat = {0};
        struct error err = {0};
        assert_false(chat_messages_read(cases[i].body, strlen(cases[i].body), &chat, &err));
        assert_int_equal(err.code, ERR_INVALID);
        assert_string_equal(err.param, cases[i].param);
        if (!strstr(err.message, cases[i].says)) print_error("%s does not say %s\n", err.message, cases[i].says);
        assert_non_null(strstr(err.message, cases[i].says));
        assert_null(chat.messages); // finished already
        assert_null(chat.tools);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_every_field),
        cmocka_unit_test(test_reasoning_has_two_names),
        cmocka_unit_test(test_arguments_that_are_no_object_are_kept),
        cmocka_unit_test(test_tools_may_be_strict),
        cmocka_unit_test(test_tools_may_be_null_or_empty),
        cmocka_unit_test(test_faults_name_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
