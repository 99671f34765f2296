#include "server/json_text.h"
#include "tests/unit/fixture.h"

static struct json_text checked(const char *text) {
    struct json_text value;
    struct error err = {0};
    if (!json_text_check(text, strlen(text), &value, &err)) print_error("%s: %s\n", text, err.message);
    assert_int_equal(err.code, ERR_NONE);
    return value;
}

static void test_dump_writes_as_python_does(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {" { \"a\" : 1 ,\"b\":[ 1.0,2 ]} ", "{\"a\": 1, \"b\": [1.0, 2]}"},
        {"[]", "[]"},
        {"[ { } , [ ] ]", "[{}, []]"},
        {"[true,false,null]", "[true, false, null]"},
        /* numbers keep their kind */
        {"1", "1"},
        {"1.0", "1.0"},
        {"1.50", "1.5"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"-7", "-7"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"1e5", "100000.0"},
        {"1E+2", "100.0"},
        {"1e15", "1000000000000000.0"},
        {"1e16", "1e+16"},
        {"1e22", "1e+22"},
        {"123456789012345680.0", "1.2345678901234568e+17"},
        {"9007199254740993.0", "9007199254740992.0"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"-1.25e-7", "-1.25e-07"},
        {"0.1", "0.1"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"5e-324", "5e-324"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"7.120236347223045e-307", "7.120236347223045e-307"}, // a power of two: 16 digits, not the nearest 16
        {"1E400", "Infinity"},
        {"-1E400", "-Infinity"},
        {"1e-400", "0.0"},
        /* strings */
        {"\"\\u00e9\\/\\ud83d\\ude80\"", "\"é/🚀\""},
        {"\"\\u0000\\u001f\\u007f\\b\\f\\n\\r\\t\\\"\\\\\"", "\"\\u0000\\u001f\x7f\\b\\f\\n\\r\\t\\\"\\\\\""},
        {"\"\\u2028日\"", "\"\xe2\x80\xa8日\""},
        {"\"\\ud800x\\udc00\"", "\"\xef\xbf\xbdx\xef\xbf\xbd\""}, // lone surrogates
        {"\"\\ud800\\ud83d\\ude80\"", "\"\xef\xbf\xbd🚀\""},
        {"\"\"", "\"\""},
        /* of equal keys the first place and the last value */
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
        {"{\"a\":1,\"\\u0061\":2}", "{\"a\": 2}"},
        {"{\"k\":{\"x\":1,\"x\":[2]},\"k\":{\"x\":{\"y\":1},\"x\":3,\"z\":\"\"}}", "{\"k\": {\"x\": 3, \"z\": \"\"}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct string_builder out = {0};
        json_text_dump(checked(cases[i][0]), &out);
        assert_string_equal(out.data, cases[i][1]);
        string_builder_finish(&out);
    }
}

static void test_malformed_text_is_refused_at_its_byte(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t byte;
    } cases[] = {
        {"", 0},         {"  ", 2},
        {"{", 1},        {"[1,]", 3},
        {"{\"a\"}", 4},  {"{\"a\":1,}", 7},
        {"{a:1}", 1},    {"[1 2]", 3},
        {"01", 1},       {"1.", 2},
        {".5", 0},       {"-", 1},
        {"+1", 0},       {"1e", 2},
        {"nul", 3},      {"NaN", 0},
        {"\"a", 2},      {"\"\n\"", 1},
        {"\"\\x\"", 2},  {"\"\\u12g4\"", 5},
        {"\"\xc3\"", 1}, {"\"\xed\xa0\x80\"", 1},
        {"\"\xff\"", 1}, {"1 1", 2},
        {"[1}", 2},      {"// c", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_text value;
        struct error err = {0};
        char where[32];
        snprintf(where, sizeof where, "byte %zu ", cases[i].byte);
        assert_false(json_text_check(cases[i].text, strlen(cases[i].text), &value, &err));
        assert_int_equal(err.code, ERR_INVALID);
        if (!strstr(err.message, where)) print_error("%s: %s, not at %s\n", cases[i].text, err.message, where);
        assert_non_null(strstr(err.message, where));
    }
    struct json_text value;
    assert_false(json_text_check("1\0", 2, &value, NULL));
}

/* [[[…]]] with this many levels. */
static bool nest(int depth, struct error *err) {
    struct string_builder text = {0};
    struct json_text value;
    for (int i = 0; i < depth; i++) string_builder_append_text(&text, "[");
    for (int i = 0; i < depth; i++) string_builder_append_text(&text, "]");
    bool valid = json_text_check(text.data, text.length, &value, err);
    string_builder_finish(&text);
    return valid;
}

static void test_depth_is_bounded(void **state) {
    (void)state;
    struct error err = {0};
    assert_true(nest(JSON_TEXT_MAX_DEPTH, &err));
    assert_false(nest(JSON_TEXT_MAX_DEPTH + 1, &err));
    assert_non_null(strstr(err.message, "nested"));
    assert_false(nest(1000000, &err));
}

static void test_finds_members_and_elements(void **state) {
    (void)state;
    struct json_text value,
        object = checked(" {\"a\": {\"b\": \"]}\\\"\"}, \"\\u0062\" :[ 1, [2,3] ,\"x\" ], \"a\": 5} ");
    assert_true(json_text_find(object, "a", &value)); // the last of the two
    assert_int_equal(json_text_kind(value), JSON_NUMBER);
    assert_memory_equal(value.data, "5", value.length);
    assert_false(json_text_find(object, "c", &value));
    assert_true(json_text_find(object, "b", &value));
    struct json_text element;
    assert_true(json_text_at(value, 1, &element));
    assert_int_equal(element.length, 5);
    assert_memory_equal(element.data, "[2,3]", 5);
    assert_true(json_text_at(value, 2, &element));
    assert_true(json_text_equals(element, "x"));
    assert_false(json_text_equals(element, "xy"));
    assert_false(json_text_equals(element, ""));
    assert_false(json_text_at(value, 3, &element));
    assert_false(json_text_at(checked("[ ]"), 0, &element));
    assert_string_equal(json_text_kind_name(value), "an array");
}

static void test_decoding_keeps_nul(void **state) {
    (void)state;
    struct string_builder out = {0};
    json_text_decode(checked("\"a\\u0000b\""), &out);
    assert_int_equal(out.length, 3);
    assert_memory_equal(out.data, "a\0b", 4);
    string_builder_finish(&out);
}

static void test_builder_stops_at_its_limit(void **state) {
    (void)state;
    struct error err = {0};
    struct string_builder out = {.max_length = 4};
    string_builder_append_text(&out, "1234");
    assert_true(string_builder_check(&out, "It", &err));
    string_builder_append_text(&out, "5");
    string_builder_append_text(&out, "");
    assert_false(string_builder_check(&out, "It", &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    assert_string_equal(err.message, "It is over 4 bytes.");
    size_t length;
    assert_null(string_builder_take(&out, &length));
    char *empty = string_builder_take(&out, &length);
    assert_string_equal(empty, "");
    assert_int_equal(length, 0);
    free(empty);

    out.max_length = 10; // an object that outgrows it while it is dumped
    json_text_dump(checked("{\"a\": 1, \"a\": [1, 2, 3, {\"b\": 1, \"b\": 2}]}"), &out);
    assert_false(string_builder_check(&out, "It", &err));
    string_builder_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dump_writes_as_python_does), cmocka_unit_test(test_malformed_text_is_refused_at_its_byte),
        cmocka_unit_test(test_depth_is_bounded),           cmocka_unit_test(test_finds_members_and_elements),
        cmocka_unit_test(test_decoding_keeps_nul),         cmocka_unit_test(test_builder_stops_at_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
