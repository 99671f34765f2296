#include "tests/test.h"

#include "engine/memory_plan.h"
#include "engine/model_config.h"
#include "tests/unit/hash_backend.h"

#include <string.h>
#include <unistd.h>

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

/* Of an H200, planned on its backend's terms without one: what a published model takes, or by how much it does not fit.
 */
static void plans_published_models(void **state) {
    (void)state;
    static const struct {
        const char *path;
        double weights_gib;
        bool fits;
    } shapes[] = {
        {"config/shapes/0.6b.json", 1.11, true},     {"config/shapes/1.7b.json", 3.20, true},
        {"config/shapes/4b.json", 7.49, true},       {"config/shapes/8b.json", 15.26, true},
        {"config/shapes/14b.json", 27.51, true},     {"config/shapes/32b.json", 61.02, true},
        {"config/shapes/30b-a3b.json", 56.87, true}, {"config/shapes/235b-a22b.json", 437.90, false},
    };
    if (access(shapes[0].path, F_OK) != 0) skip();
    struct device_memory memory = {.free_bytes = (size_t)139 << 30, .total_bytes = (size_t)140 << 30};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        struct model_config config;
        struct memory_plan plan;
        struct error err = {0};
        struct engine_options o = options();
        o.memory_share = 0.9;
        o.max_seqs = 8;
        assert_true(model_config_load_file(&config, shapes[i].path, &err));
        bool fits = memory_plan_make(&plan, &o, &config.shape, &memory, &err);
        if (fits != shapes[i].fits) print_error("%s: %s\n", shapes[i].path, err.message);
        assert_true(fits == shapes[i].fits);
        assert_float_equal((double)weights_bytes(&config.shape) / (1 << 30), shapes[i].weights_gib, 0.01);
        if (fits) {
            assert_true(plan.weights_bytes + plan.scratch_bytes + plan.kv_bytes <= plan.budget_bytes);
            assert_int_equal(plan.max_model_len, 40960);
        } else {
            assert_non_null(strstr(err.message, "weights (437.90 GiB) and scratch ("));
            assert_non_null(strstr(err.message, "do not fit in 126.00 GiB"));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_out_the_memory),
        cmocka_unit_test(never_plans_more_than_all_sequences_can_hold),
        cmocka_unit_test(shortens_the_length_that_nobody_asked_for),
        cmocka_unit_test(refuses_with_numbers),
        cmocka_unit_test(plans_published_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
