/* mlp of layers with experts. */
#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A row whose last expert leads by less may have another one: the router computes in float32. */
#define SURE_GAP 0.001

static struct rig_options options_with(int32_t n_experts, int32_t n_active) {
    struct rig_options options = rig_defaults();
    options.shape.n_experts = n_experts;
    options.shape.n_active_experts = n_active;
    options.shape.expert_intermediate = 72;
    options.shape.normalised_experts = true;
    return options;
}

static void prepare_rows(struct rig *rig, int32_t n_rows) {
    static struct rig_sequence seq;
    seq = (struct rig_sequence){.content = 2, .n_rows = n_rows, .sample = true};
    rig_prepare(rig, &seq, 1, false);
    rig_fill_hidden(rig);
}

static float *read_hidden(const struct rig *rig) {
    return rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32,
                    (size_t)rig->ctx->host.n_rows * (size_t)rig->shape.hidden);
}

/* What the experts add is compared, without the row that it is added to; the caller's to free. */
static float *run_mlp(struct rig *rig, int32_t layer) {
    struct error err = {0};
    rig_must(rig->target->ops->mlp(rig->ctx, &rig->weights, layer, &err), &err);
    return read_hidden(rig);
}

static void compare_rows(struct rig *rig, int32_t n_rows) {
    size_t n = (size_t)rig->shape.hidden, n_compared = 0;
    prepare_rows(rig, n_rows);
    float *before = read_hidden(rig), *after = run_mlp(rig, 1);
    double *gaps = malloc((size_t)n_rows * sizeof *gaps), *expected = reference_mlp(rig, 1, before, gaps);
    for (size_t r = 0; r < (size_t)n_rows; ++r) {
        if (gaps[r] > 0 && gaps[r] < SURE_GAP) continue;
        n_compared++;
        for (size_t i = 0; i < n; ++i) {
            after[r * n + i] -= before[r * n + i];
            expected[r * n + i] -= before[r * n + i];
        }
        char what[64];
        snprintf(what, sizeof what, "row %zu of %d, %d of %d experts", r, n_rows, rig->shape.n_active_experts,
                 rig->shape.n_experts);
        check_error(rig->target, what, relative_error(after + r * n, expected + r * n, n),
                    4 * rig->target->matrix_tolerance); // two products, one after the other, and a weight
    }
    if (n_rows >= 16) assert_true(n_compared * 2 > (size_t)n_rows);
    free(expected);
    free(gaps);
    free(after);
    free(before);
}

static const int32_t row_counts[] = {1, 3, 8, 16, 17, 33, 65};

static void on_row_counts(const struct target *target, const struct rig_options *options) {
    if (!target->fused) return; // the MLP is the same
    struct rig *rig = rig_create(target, options);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; ++i) compare_rows(rig, row_counts[i]);
    rig_destroy(rig);
}

static void check_choices(const struct target *target) {
    static const struct {
        int32_t n_experts, n_active;
    } choices[] = {{16, 4}, {128, 8}, {8, 1}, {3, 3}, {60, 7}, {200, 20}};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; ++i) {
        struct rig_options options = options_with(choices[i].n_experts, choices[i].n_active);
        on_row_counts(target, &options);
    }
}

static void check_not_normalised(const struct target *target) {
    struct rig_options options = options_with(16, 4);
    options.shape.normalised_experts = false;
    on_row_counts(target, &options);
}

/* All rows have the same experts, the first ones: the others get no rows. */
static void check_equal(const struct target *target) {
    struct rig_options options = options_with(16, 4);
    options.equal_experts = true;
    on_row_counts(target, &options);
    options = options_with(8, 1);
    options.equal_experts = true;
    on_row_counts(target, &options);
}

/* Widths of several tiles and of parts of one. */
static void check_wide(const struct target *target) {
    struct rig_options options = options_with(6, 2);
    options.shape.hidden = 1096;
    options.shape.expert_intermediate = 328;
    options.limits.max_rows = 300;
    options.limits.max_blocks = 19;
    if (!target->fused) return;
    struct rig *rig = rig_create(target, &options);
    static const int32_t rows[] = {1, 4, 40, 300};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) compare_rows(rig, rows[i]);
    rig_destroy(rig);
}

/* Sizes that no vector divides; only the CPU backend promises them. */
static void check_odd_sizes(const struct target *target) {
    struct rig_options options = options_with(5, 2);
    options.shape.hidden = 71;
    options.shape.expert_intermediate = 37;
    on_row_counts(target, &options);
}

/* A layer of the model may have no experts: it has the one MLP. */
static void check_dense_layer(const struct target *target) {
    struct rig_options options = options_with(16, 4);
    options.shape.dense_layers[0] = 1;
    struct rig *rig = rig_create(target, &options);
    prepare_rows(rig, 9);
    size_t count = 9 * (size_t)rig->shape.hidden;
    float *before = read_hidden(rig), *after = run_mlp(rig, 0);
    double *expected = reference_mlp(rig, 0, before, NULL);
    check_error(target, "mlp of a dense layer", relative_error(after, expected, count), 2 * target->matrix_tolerance);
    free(expected);
    free(after);
    free(before);
    rig_destroy(rig);
}

/* A row alone, and among others that want its experts too: the same bits. On CUDA up to 32 rows and more than these are
 * summed by different kernels, each in one order. */
static void check_company(const struct target *target) {
    if (!target->fused) return;
    struct rig_options options = options_with(16, 4);
    struct rig *rig = rig_create(target, &options);
    size_t row_bytes = (size_t)rig->shape.hidden * sizeof(float);
    float *first = NULL;
    bool many = false;
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; ++i) {
        prepare_rows(rig, row_counts[i]); // row 0 is position 0 of the same content
        float *got = run_mlp(rig, 1);
        bool changes = !target->cpu_isa && row_counts[i] > 32 && !many;
        if (first && !changes && memcmp(first, got, row_bytes) != 0)
            fail_msg("%s: a row is other bits among %d rows than among fewer", target->label, row_counts[i]);
        many |= changes;
        free(first);
        first = got;
    }
    free(first);
    rig_destroy(rig);
}

static void test_choices(void **state) {
    on_targets(state, check_choices);
}
static void test_not_normalised(void **state) {
    on_targets(state, check_not_normalised);
}
static void test_equal(void **state) {
    on_targets(state, check_equal);
}
static void test_wide(void **state) {
    on_targets(state, check_wide);
}
static void test_odd_sizes(void **state) {
    on_targets(state, check_odd_sizes);
}
static void test_dense_layer(void **state) {
    on_targets(state, check_dense_layer);
}
static void test_company(void **state) {
    on_targets(state, check_company);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("experts of each row", test_choices),
        ON_EVERY_BACKEND("weights that are not normalised", test_not_normalised),
        ON_EVERY_BACKEND("equal experts, and some without rows", test_equal),
        ON_EVERY_BACKEND("wide experts", test_wide),
        ON_EVERY_BACKEND("a layer without experts", test_dense_layer),
        ON_EVERY_BACKEND("a row alone and in company", test_company),
        {"experts of odd sizes on cpu", test_odd_sizes, NULL, NULL, (void *)"cpu"},
    };
    return cmocka_run_group_tests_name("experts", tests, NULL, NULL);
}
