#include "server/embedding_vector.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void expect(struct string_builder *out, const char *text) {
    assert_int_equal(out->failure, ERR_NONE);
    assert_string_equal(out->data, text);
    out->length = 0;
}

static void test_normalise(void **state) {
    (void)state;
    float vector[] = {3, -4, 0}, tiny[] = {3e-30f, 4e-30f}, zero[] = {0, 0};
    embedding_normalise(vector, 3);
    assert_true(vector[0] == 0.6f && vector[1] == -0.8f && vector[2] == 0);
    embedding_normalise(tiny, 2); // squares that float32 does not hold
    assert_true(tiny[0] == 0.6f && tiny[1] == 0.8f);
    embedding_normalise(zero, 2);
    assert_true(zero[0] == 0 && zero[1] == 0);
}

static void test_numbers_read_back_the_same(void **state) {
    (void)state;
    struct string_builder out = {0};
    embedding_write_numbers(&out, (float[]){0.5f, -0.25f, 1e-12f}, 3);
    expect(&out, "[0.5,-0.25,9.99999996e-13]");
    uint32_t bits = 1;
    for (int i = 0; i < 10000; ++i) {
        bits = bits * 1664525u + 1013904223u;
        float value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        embedding_write_numbers(&out, &value, 1);
        assert_true(strtof(out.data + 1, NULL) == value);
        out.length = 0;
    }
    string_builder_finish(&out);
}

/* 4, 8 and 12 bytes: all three ways in which groups of three may end. */
static void test_base64(void **state) {
    (void)state;
    struct string_builder out = {0};
    const float vector[] = {0.5f, -0.25f, 3.14159274f};
    embedding_write_base64(&out, vector, 1);
    expect(&out, "\"AAAAPw==\"");
    embedding_write_base64(&out, vector, 2);
    expect(&out, "\"AAAAPwAAgL4=\"");
    embedding_write_base64(&out, vector, 3);
    expect(&out, "\"AAAAPwAAgL7bD0lA\"");
    string_builder_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalise),
        cmocka_unit_test(test_numbers_read_back_the_same),
        cmocka_unit_test(test_base64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
