/* Anthropic's form of a conversation to OpenAI's, to the byte. */
#include "server/anthropic_chat.h"
#include "tests/test.h"

#include <string.h>

static bool write(const char *request, struct string_builder *chat, bool *is_open, struct error *err) {
    struct json_text value;
    if (!json_text_check(request, strlen(request), &value, err)) fail_msg("%s: %s", request, err->message);
    return anthropic_write_chat(value, chat, is_open, err);
}

static void expect(const char *request, const char *chat, bool is_open) {
    struct string_builder out = {0};
    struct error err = {0};
    bool open;
    if (!write(request, &out, &open, &err)) fail_msg("%s was refused: %s", request, err.message);
    assert_string_equal(out.data, chat);
    assert_int_equal(open, is_open);
    struct json_text value;
    assert_true(json_text_check(out.data, out.length, &value, &err));
    string_builder_finish(&out);
}

static void refuse(const char *request, const char *param) {
    struct string_builder out = {0};
    struct error err = {0};
    bool open;
    if (write(request, &out, &open, &err)) fail_msg("%s was accepted", request);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, param);
    string_builder_finish(&out);
}

#define USER(blocks) "{\"messages\":[{\"role\":\"user\",\"content\":" blocks "}]}"

static void test_texts(void **state) {
    (void)state;
    expect(USER("\"a\\u00e4\""), "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u00e4\"}]}", false);
    expect(USER("[{\"type\":\"text\",\"text\":\"a\",\"cache_control\":{}},{\"text\":\"b\",\"type\":\"text\"}]"),
           "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
           "{\"type\":\"text\",\"text\":\"b\"}]}]}",
           false);
    expect("{\"system\":[{\"type\":\"text\",\"text\":\"s\"}],\"messages\":[{\"role\":\"system\",\"content\":\"t\"}]}",
           "{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"s\"}]},"
           "{\"role\":\"system\",\"content\":\"t\"}]}",
           false);
}

/* Before, between and behind texts: each a message, in order. */
static void test_results(void **state) {
    (void)state;
#define RESULT(id, content) "{\"type\":\"tool_result\",\"tool_use_id\":\"" id "\"" content "}"
#define TEXT(text)          "{\"type\":\"text\",\"text\":\"" text "\"}"
    expect(USER("[" RESULT("1", ",\"content\":\"r\"") "," TEXT("a") "," TEXT("b") "," RESULT("2", "") "," RESULT(
               "3", ",\"is_error\":true,\"content\":[" TEXT("c") "]") "]"),
           "{\"messages\":[{\"role\":\"tool\",\"content\":\"r\"},{\"role\":\"user\",\"content\":[" TEXT("a") "," TEXT(
               "b") "]},{\"role\":\"tool\",\"content\":\"\"},{\"role\":\"tool\",\"content\":[" TEXT("c") "]}]}",
           false);
    expect(USER("[" TEXT("a") "," RESULT("1", "") "]"),
           "{\"messages\":[{\"role\":\"user\",\"content\":[" TEXT("a") "]},{\"role\":\"tool\",\"content\":\"\"}]}",
           false);
}

static void test_what_an_assistant_said(void **state) {
    (void)state;
#define CALL "{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\",\"input\":{\"x\": 1.0}}"
    expect("{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"h\\n\"},"
           "{\"type\":\"redacted_thinking\",\"data\":\"?\"}," TEXT("a") "," CALL "," TEXT(
               "b") ",{\"type\":\"thinking\",\"thinking\":\"m\",\"signature\":\"\"}," CALL
                    "]},{\"role\":\"user\",\"content\":\"c\"}]}",
           "{\"messages\":[{\"role\":\"assistant\",\"content\":[" TEXT("a") "," TEXT(
               "b") "],\"reasoning_content\":\"h\\nm\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
                    "{\"x\": 1.0}}},{\"function\":{\"name\":\"f\",\"arguments\":{\"x\": 1.0}}}]},"
                    "{\"role\":\"user\",\"content\":\"c\"}]}",
           false);
    expect("{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",
           "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}", true);
}

static void test_tools(void **state) {
    (void)state;
    expect(
        "{\"tools\":[{\"name\":\"f\",\"input_schema\":{},\"strict\":false,\"type\":\"custom\"},"
        "{\"input_schema\":{\"type\":\"object\"},\"description\":\"d\",\"name\":\"g\",\"strict\":true}],"
        "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":"
        "{\"name\":\"f\",\"parameters\":{}}},{\"type\":\"function\",\"function\":{\"name\":\"g\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\"},\"strict\":true}}]}",
        false);
}

static void test_refusals_say_where(void **state) {
    (void)state;
    refuse("{}", "messages");
    refuse("{\"messages\":{}}", "messages");
    refuse("{\"messages\":[7]}", "messages[0]");
    refuse("{\"messages\":[{\"content\":\"a\"}]}", "messages[0].role");
    refuse("{\"system\":[7],\"messages\":[]}", "system[0]");
    refuse(USER("[]"), "messages[0].content");
    refuse(USER("[7]"), "messages[0].content[0]");
    refuse(USER("[{}]"), "messages[0].content[0].type");
    refuse(USER("[" TEXT("a") ",{\"type\":\"image\"}]"), "messages[0].content[1].type");
    refuse(USER("[" RESULT("1", ",\"content\":[{\"type\":\"document\"}]") "]"),
           "messages[0].content[0].content[0].type");
    refuse(USER("[" RESULT("1", ",\"is_error\":1") "]"), "messages[0].content[0].is_error");
    refuse("{\"messages\":[{\"role\":\"assistant\",\"content\":[" CALL "]}]}", "messages");
    refuse("{\"tools\":[{\"name\":7}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", "tools[0].name");
    refuse("{\"tools\":[{\"type\":\"bash_20250124\"}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
           "tools[0].type");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_what_an_assistant_said),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_refusals_say_where),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
