#include "engine/error.h"
#include "tests/test.h"

#include <string.h>

static void test_fail_fills_code_and_message(void **state) {
    (void)state;
    struct error err = {0};
    assert_false(fail(&err, ERR_TOO_LARGE, "the prompt has %d tokens, the limit is %d", 7, 5));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    assert_string_equal(err.message, "the prompt has 7 tokens, the limit is 5");
    assert_string_equal(err.param, "");
}

static void test_fail_param_names_the_field(void **state) {
    (void)state;
    struct error err = {0};
    assert_false(fail_param(&err, ERR_INVALID, "temperature", "temperature is %.1f", 2.5));
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, "temperature");
    assert_string_equal(err.message, "temperature is 2.5");
}

static void test_the_last_failure_wins(void **state) {
    (void)state;
    struct error err = {0};
    fail_param(&err, ERR_INVALID, "stop", "first");
    fail(&err, ERR_IO, "second");
    assert_int_equal(err.code, ERR_IO);
    assert_string_equal(err.param, "");
    assert_string_equal(err.message, "second");
}

static void test_null_takes_no_text(void **state) {
    (void)state;
    assert_false(fail(NULL, ERR_IO, "%s", "nobody reads this"));
    assert_false(fail_param(NULL, ERR_IO, "host", "%s", "nor this"));
}

static void test_long_texts_are_cut_and_terminated(void **state) {
    (void)state;
    char long_text[2000];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    struct error err;
    memset(&err, 0x7f, sizeof err);
    assert_false(fail_param(&err, ERR_INTERNAL, long_text, "%s", long_text));
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_int_equal(strlen(err.param), sizeof err.param - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_fills_code_and_message),
        cmocka_unit_test(test_fail_param_names_the_field),
        cmocka_unit_test(test_the_last_failure_wins),
        cmocka_unit_test(test_null_takes_no_text),
        cmocka_unit_test(test_long_texts_are_cut_and_terminated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
