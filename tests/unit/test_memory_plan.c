#include "tests/test.h"

#include "engine/memory_plan.h"
#include "tests/unit/hash_backend.h"

#include <string.h>

static const struct model_shape shape = {
    .n_layers = 2,
    .hidden = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 16,
    .intermediate = 128,
    .vocab = 1000,
    .max_positions = 1000,
};

static struct engine_options options(void) {
    return (struct engine_options){.ops = hash_backend(NULL), .block_size = 16, .memory_share = 0.5, .max_seqs = 4};
}

/* K and V, 2 layers, 2 heads of 16 float32. */
enum { KV_TOKEN_BYTES = 2 * 2 * 2 * 16 * 4 };

static void shares_out_the_memory(void **state) {
    (void)state;
    struct engine_options o = options();
    struct device_memory memory = {.free_bytes = 8u << 20, .total_bytes = 8u << 20};
    struct memory_plan plan;
    assert_true(memory_plan_make(&plan, &o, &shape, &memory, NULL));
    assert_int_equal(plan.budget_bytes, 4u << 20);
    assert_true(plan.weights_bytes > 0 && plan.scratch_bytes > 0);
    assert_true(plan.weights_bytes + plan.scratch_bytes + plan.kv_bytes <= plan.budget_bytes);
    assert_int_equal(plan.kv_bytes, (size_t)plan.limits.n_blocks * 16 * KV_TOKEN_BYTES);
    assert_int_equal(plan.max_model_len, 1000);
    assert_int_equal(plan.limits.max_blocks, 63);
    assert_int_equal(plan.limits.max_rows, 64); // the backend's default
}

static void never_plans_more_than_all_sequences_can_hold(void **state) {
    (void)state;
    struct engine_options o = options();
    struct device_memory memory = {.free_bytes = 1u << 30, .total_bytes = 1u << 30};
    struct memory_plan plan;
    assert_true(memory_plan_make(&plan, &o, &shape, &memory, NULL));
    assert_int_equal(plan.limits.n_blocks, 4 * 63);
}

static void shortens_the_length_that_nobody_asked_for(void **state) {
    (void)state;
    struct engine_options o = options();
    o.kv_bytes = 10 * 16 * KV_TOKEN_BYTES;
    struct device_memory memory = {.free_bytes = 8u << 20, .total_bytes = 8u << 20};
    struct memory_plan plan;
    assert_true(memory_plan_make(&plan, &o, &shape, &memory, NULL));
    assert_int_equal(plan.max_model_len, 160);
    assert_int_equal(plan.limits.max_blocks, 10);
    assert_int_equal(plan.limits.n_blocks, 10);
}

static void refuses_with_numbers(void **state) {
    (void)state;
    struct device_memory memory = {.free_bytes = 8u << 20, .total_bytes = 8u << 20};
    struct memory_plan plan;
    struct error err;
    struct engine_options o = options();
    o.kv_bytes = 10 * 16 * KV_TOKEN_BYTES;
    o.max_model_len = 161;
    assert_false(memory_plan_make(&plan, &o, &shape, &memory, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.message, "10 blocks of 16"));
    assert_non_null(strstr(err.message, "161 needs 11"));

    o = options();
    o.max_model_len = 1001;
    assert_false(memory_plan_make(&plan, &o, &shape, &memory, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "1001 is over the model's 1000"));

    o = options();
    o.max_batch_tokens = 3;
    assert_false(memory_plan_make(&plan, &o, &shape, &memory, &err));
    assert_string_equal(err.param, "max-batch-tokens");

    o = options();
    o.kv_bytes = 1u << 30;
    assert_false(memory_plan_make(&plan, &o, &shape, &memory, &err));
    assert_string_equal(err.param, "kv-bytes");

    o = options();
    memory.free_bytes = 1000;
    assert_false(memory_plan_make(&plan, &o, &shape, &memory, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.message, "do not fit"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_out_the_memory),
        cmocka_unit_test(never_plans_more_than_all_sequences_can_hold),
        cmocka_unit_test(shortens_the_length_that_nobody_asked_for),
        cmocka_unit_test(refuses_with_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
