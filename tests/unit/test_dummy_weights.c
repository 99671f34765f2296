#include "engine/bf16.h"
#include "engine/dummy_weights.h"
#include "tests/test.h"

#include <math.h>
#include <string.h>

static void test_dummy_elements_do_not_depend_on_the_pieces(void **state) {
    (void)state;
    enum { N = 5000 };
    static uint16_t whole[N], pieces[N];
    for (int32_t n_dims = 1; n_dims <= 2; n_dims++) {
        struct dummy_spread spread = dummy_weights_spread("t", n_dims, 1);
        uint64_t key = dummy_weights_key(7, "t");
        dummy_weights_fill(whole, 0, N, key, spread);
        for (size_t first = 0, length = 1; first < N; first += length, length = length * 3 % 701) {
            dummy_weights_fill(pieces + first, first, first + length < N ? length : N - first, key, spread);
        }
        assert_memory_equal(whole, pieces, sizeof whole);
        dummy_weights_fill(pieces, 0, N, dummy_weights_key(8, "t"), spread);
        assert_memory_not_equal(whole, pieces, sizeof whole);
        dummy_weights_fill(pieces, 0, N, dummy_weights_key(7, "u"), spread);
        assert_memory_not_equal(whole, pieces, sizeof whole);
    }
}

static float f32_from_bf16(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void assert_moments(struct dummy_spread spread, double mean, double deviation) {
    enum { N = 1 << 20 };
    static uint16_t values[N];
    dummy_weights_fill(values, 0, N, dummy_weights_key(0, "model.embed_tokens.weight"), spread);
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++) sum += f32_from_bf16(values[i]) - mean;
    for (int i = 0; i < N; i++) squares += pow(f32_from_bf16(values[i]) - mean, 2);
    assert_true(fabs(sum / N) < 0.005 * deviation); // five standard errors
    assert_true(fabs(sqrt(squares / N) / deviation - 1) < 0.005);
}

static void test_dummy_weights_have_the_promised_spread(void **state) {
    (void)state;
    assert_moments(dummy_weights_spread("model.layers.3.mlp.gate_proj.weight", 2, 4096), 0, 0.02);
    assert_moments(dummy_weights_spread("model.layers.3.mlp.down_proj.weight", 2, 4096), 0, 0.02 / 64);
    assert_moments(dummy_weights_spread("model.layers.3.self_attn.o_proj.weight", 2, 4096), 0, 0.02 / 64);
    assert_moments(dummy_weights_spread("model.norm.weight", 1, 1), 1, 0.125 / sqrt(3));
}

static void test_bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    static const struct {
        uint32_t f32;
        uint16_t bf16;
    } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, {0x3f808000, 0x3f80},
        {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82}, {0x3f817fff, 0x3f81}, {0xbf818000, 0xbf82}, {0x3fffffff, 0x4000},
        {0x7f7f7fff, 0x7f7f}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x00000001, 0x0000},
        {0x00018000, 0x0002}, {0x7f800001, 0x7fc0}, {0xff800001, 0xffc0}, {0x7fffffff, 0x7fff}, {0x7fc00000, 0x7fc0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float value;
        memcpy(&value, &cases[i].f32, sizeof value);
        assert_int_equal(bf16_from_f32(value), cases[i].bf16);
    }
}

static void test_f16_is_read_exactly(void **state) {
    (void)state;
    for (uint32_t half = 0; half <= 0xffff; half++) {
        float value = f32_from_f16((uint16_t)half);
        int exponent = (int)(half >> 10 & 0x1f), fraction = (int)(half & 0x3ff);
        assert_int_equal(signbit(value) != 0, half >> 15);
        if (exponent == 31) {
            assert_true(fraction ? isnan(value) : isinf(value));
        } else {
            double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
            assert_true(fabs(value) == magnitude);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dummy_elements_do_not_depend_on_the_pieces),
        cmocka_unit_test(test_dummy_weights_have_the_promised_spread),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_f16_is_read_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
