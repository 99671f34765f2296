/* Each verdict of the scanner must be that of json_text_check on the same bytes. */
#include "server/json_scan.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

/* How the scanner ends: DONE only if the last byte is the one that closes the object. */
static enum json_scan_status scan_all(const char *text, size_t length) {
    struct json_scan scan = {0};
    for (size_t i = 0; i < length; ++i) {
        enum json_scan_status status = json_scan_push(&scan, text[i]);
        if (status == JSON_SCAN_DONE) return i + 1 == length ? JSON_SCAN_DONE : JSON_SCAN_FAULT;
        if (status == JSON_SCAN_FAULT) return JSON_SCAN_FAULT;
    }
    return JSON_SCAN_MORE;
}

static const char *const valid[] = {
    "{}",
    " \t\r\n{ }",
    "{\"a\":1}",
    "{\"a\" : -0.5e+10 , \"b\":[ ] ,\"c\":[{},[[]]]}",
    "{\"a\":[0,1,10,-1,0.0,1.5,1e1,1E-1,-0e0]}",
    "{\"a\":true,\"b\":false,\"c\":null,\"d\":[true,false,null]}",
    "{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00Af\":\"\\u0000 \xF0\x9F\x9A\x80\"}",
    "{\"<tool_call>\":\"</tool_call>{}[]\"}",
};

static void test_objects_are_done_with_their_last_byte(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof valid / sizeof *valid; ++i) {
        size_t length = strlen(valid[i]);
        assert_int_equal(scan_all(valid[i], length), JSON_SCAN_DONE);
        for (size_t n = 0; n < length; ++n) assert_int_equal(scan_all(valid[i], n), JSON_SCAN_MORE);
    }
}

static void test_faults_are_seen_at_their_byte(void **state) {
    (void)state;
    static const char *const bad[] = {
        "[",           "1",          "\"",          "x",          "{a",           "{,",           "{\"a\",",
        "{\"a\":,",    "{\"a\":}",   "{\"a\":1,}",  "{\"a\":1]",  "{\"a\":[1}",   "{\"a\":[1,]",  "{\"a\":[,",
        "{\"a\":01",   "{\"a\":-a",  "{\"a\":+",    "{\"a\":1.}", "{\"a\":.",     "{\"a\":1e}",   "{\"a\":1e+}",
        "{\"a\":1.5.", "{\"a\":1ee", "{\"a\":truE", "{\"a\":N",   "{\"a\":nulll", "{\"a\":\"\\x", "{\"a\":\"\\u00g",
        "{\"a\":\"\n", "{\"a\":1 2", "{\"a\" \"",   "{\"a\":0x",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        size_t length = strlen(bad[i]);
        assert_int_equal(scan_all(bad[i], length - 1), JSON_SCAN_MORE);
        if (scan_all(bad[i], length) != JSON_SCAN_FAULT) fail_msg("%s is no fault", bad[i]);
    }
}

static void test_depth(void **state) {
    (void)state;
    char text[2 * JSON_TEXT_MAX_DEPTH + 16] = "{\"a\":";
    size_t length = strlen(text);
    for (int i = 1; i < JSON_TEXT_MAX_DEPTH; ++i) text[length++] = '[';
    assert_int_equal(scan_all(text, length), JSON_SCAN_MORE);
    text[length] = '[';
    assert_int_equal(scan_all(text, length + 1), JSON_SCAN_FAULT);
    for (int i = 1; i < JSON_TEXT_MAX_DEPTH; ++i) text[length++] = ']';
    text[length++] = '}';
    assert_int_equal(scan_all(text, length), JSON_SCAN_DONE);
}

/* Random damage: the two readers must agree on what is an object. */
static void test_agrees_with_json_text(void **state) {
    (void)state;
    static const char alphabet[] = "{}[]\",:\\ue01-+.Etruefalsn \n";
    uint64_t random = 0x9E3779B97F4A7C15u;
    int n_objects = 0;
    for (int round = 0; round < 200000; ++round) {
        char text[128];
        const char *base = valid[round % (sizeof valid / sizeof *valid)];
        size_t length = strlen(base);
        memcpy(text, base, length + 1);
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(random >> 33) % length;
        text[at] = alphabet[(size_t)(random >> 20) % (sizeof alphabet - 1)];
        if (base[at] & 0x80 || base[at + 1] & 0x80) continue; // would break a character
        struct json_text value;
        struct error err;
        bool is_object = json_text_check(text, length, &value, &err) && json_text_kind(value) == JSON_OBJECT;
        bool ends = is_object && text[length - 1] == '}';
        n_objects += ends;
        if ((scan_all(text, length) == JSON_SCAN_DONE) != ends) fail_msg("they do not agree on %s", text);
    }
    assert_true(n_objects > 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_are_done_with_their_last_byte),
        cmocka_unit_test(test_faults_are_seen_at_their_byte),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_agrees_with_json_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
