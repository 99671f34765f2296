#include "server/bench_floor.h"
#include "tests/test.h"

static const struct model_shape shape_06b = {.n_layers = 28,
                                             .hidden = 1024,
                                             .n_heads = 16,
                                             .n_kv_heads = 8,
                                             .head_dim = 128,
                                             .intermediate = 3072,
                                             .vocab = 151936,
                                             .tied_embeddings = true};
static const struct model_shape shape_8b = {.n_layers = 36,
                                            .hidden = 4096,
                                            .n_heads = 32,
                                            .n_kv_heads = 8,
                                            .head_dim = 128,
                                            .intermediate = 12288,
                                            .vocab = 151936};

static const struct model_shape shape_30b = {.n_layers = 48,
                                             .hidden = 2048,
                                             .n_heads = 32,
                                             .n_kv_heads = 4,
                                             .head_dim = 128,
                                             .intermediate = 6144,
                                             .vocab = 151936,
                                             .n_experts = 128,
                                             .n_active_experts = 8,
                                             .expert_intermediate = 768};

static bool near(double value, double expected) {
    return value > expected * 0.999 && value < expected * 1.001;
}

/* The parameters that are published: 0.6B has 596,049,920, of which all are read; 8B has 8,190,735,360, of which the
 * embedding table of 622,329,856 is not. */
static void test_weights(void **state) {
    (void)state;
    assert_float_equal(bench_floor_weight_bytes(&shape_06b, 1), 2 * 596049920.0, 0);
    assert_float_equal(bench_floor_weight_bytes(&shape_06b, 64), 2 * 596049920.0, 0);
    assert_float_equal(bench_floor_weight_bytes(&shape_8b, 1), 2 * (8190735360.0 - 622329856.0), 0);
}

/* A model so small that each operation can be counted: one layer, hidden 2, one head of 2, intermediate 3, vocabulary
 * 5. Weights of a layer: qkv 6 * 2, output 2 * 2, gate, up and down 3 * 2 each. */
static void test_operations_by_hand(void **state) {
    (void)state;
    const struct model_shape tiny = {
        .n_layers = 1, .hidden = 2, .n_heads = 1, .n_kv_heads = 1, .head_dim = 2, .intermediate = 3, .vocab = 5};
    double products = 2 * (12 + 4 + 18), head = 2 * 2 * 5;
    assert_float_equal(bench_floor_prompt_operations(&tiny, 1), products + 4 * 2 + head, 0);
    assert_float_equal(bench_floor_prompt_operations(&tiny, 3), 3 * products + 4 * 2 * (1 + 2 + 3) + head, 0);
}

/* 8B at 775 TFLOP/s: 18.7 us a token for a prompt of 2,048, 21.0 for one of 8,192. */
static void test_operations_of_a_published_shape(void **state) {
    (void)state;
    assert_true(near(bench_floor_prompt_operations(&shape_8b, 2048) / 775e12 / 2048, 18.707e-6));
    assert_true(near(bench_floor_prompt_operations(&shape_8b, 8192) / 775e12 / 8192, 21.043e-6));
}

/* 30B-A3B has 30,532,122,624 parameters, of which the embedding table of 311,164,928 is not read. One row meets 8 of
 * 128 experts, eight rows 40.3 % of them, and 256 rows all but one in 15 million. A token of a prompt of 2,048: 48
 * layers of 2,048 * (5,120 + 4,096 + 128 + 3 * 768 * 8) weights twice, and attention. */
static void test_experts(void **state) {
    (void)state;
    double all = 30532122624.0 - 311164928.0, experts = 48.0 * 3 * 768 * 2048 * 128;
    assert_float_equal(bench_floor_weight_bytes(&shape_30b, 1), 2 * (all - experts * 120 / 128), 1);
    assert_true(near(bench_floor_weight_bytes(&shape_30b, 8), 2 * (all - experts * (1 - 0.40328))));
    assert_true(near(bench_floor_weight_bytes(&shape_30b, 256), 2 * all));
    double operations = bench_floor_prompt_operations(&shape_30b, 2048) / 2048;
    assert_true(near(operations / 775e12, 8.086e-6));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_operations_by_hand),
        cmocka_unit_test(test_operations_of_a_published_shape),
        cmocka_unit_test(test_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
