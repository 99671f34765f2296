/* The ops that are matrix products: attention_output, mlp, lm_head. */
#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

/* n_rows rows as one decode row and one chunk; every third row of several is sampled through its own sequence. */
static void prepare_rows(struct rig *rig, int32_t n_rows) {
    static struct rig_sequence seqs[2];
    seqs[0] = (struct rig_sequence){.content = 1, .start = 3, .n_rows = 1, .sample = true};
    seqs[1] = (struct rig_sequence){.content = 2, .start = 2, .n_rows = n_rows - 1, .sample = true};
    rig_prepare(rig, seqs, n_rows > 1 ? 2 : 1, false);
    rig_fill_hidden(rig);
    rig_fill_attention(rig);
}

static float *read_hidden(const struct rig *rig) {
    return rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32,
                    (size_t)rig->ctx->host.n_rows * (size_t)rig->shape.hidden);
}

static void compare_attention_output(struct rig *rig) {
    struct error err = {0};
    size_t rows = (size_t)rig->ctx->host.n_rows;
    float *hidden = read_hidden(rig);
    float *attention = rig_read(rig, rig->ctx->scratch.attention, rig->ctx->ops->activation_dtype,
                                rows * (size_t)shape_q_columns(&rig->shape));
    rig_must(rig->target->ops->attention_output(rig->ctx, &rig->weights, 1, &err), &err);
    float *got = read_hidden(rig);
    double *expected = reference_attention_output(rig, 1, hidden, attention);
    char what[64];
    snprintf(what, sizeof what, "attention_output of %zu rows", rows);
    check_error(rig->target, what, relative_error(got, expected, rows * (size_t)rig->shape.hidden),
                rig->target->matrix_tolerance);
    free(expected);
    free(got);
    free(attention);
    free(hidden);
}

static void compare_mlp(struct rig *rig) {
    struct error err = {0};
    size_t rows = (size_t)rig->ctx->host.n_rows;
    float *hidden = read_hidden(rig);
    rig_must(rig->target->ops->mlp(rig->ctx, &rig->weights, 1, &err), &err);
    float *got = read_hidden(rig);
    double *expected = reference_mlp(rig, 1, hidden, NULL);
    char what[64];
    snprintf(what, sizeof what, "mlp of %zu rows", rows);
    check_error(rig->target, what, relative_error(got, expected, rows * (size_t)rig->shape.hidden),
                2 * rig->target->matrix_tolerance); // two products, one after the other
    free(expected);
    free(got);
    free(hidden);
}

static void compare_lm_head(struct rig *rig) {
    struct error err = {0};
    size_t count = (size_t)rig->ctx->host.n_samples * (size_t)rig->shape.vocab;
    float *hidden = read_hidden(rig);
    rig_must(rig->target->ops->lm_head(rig->ctx, &rig->weights, &err), &err);
    float *got = rig_read(rig, rig->ctx->scratch.logits, DTYPE_F32, count);
    double *expected = reference_lm_head(rig, hidden);
    check_error(rig->target, "lm_head", relative_error(got, expected, count), rig->target->matrix_tolerance);
    free(expected);
    free(got);
    free(hidden);
}

static const int32_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 25, 64, 128};

static void on_row_counts(const struct target *target, const struct model_shape *shape,
                          void (*compare)(struct rig *rig)) {
    struct rig_options options = rig_defaults();
    if (shape) options.shape = *shape;
    struct rig *rig = rig_create(target, &options);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; ++i) {
        prepare_rows(rig, row_counts[i]);
        compare(rig);
    }
    rig_destroy(rig);
}

static void check_attention_output(const struct target *target) {
    on_row_counts(target, NULL, compare_attention_output);
}
static void test_attention_output(void **state) {
    on_targets(state, check_attention_output);
}

static void check_mlp(const struct target *target) {
    on_row_counts(target, NULL, compare_mlp);
}
static void test_mlp(void **state) {
    on_targets(state, check_mlp);
}

static void check_lm_head(const struct target *target) {
    on_row_counts(target, NULL, compare_lm_head);
    struct rig_options options = rig_defaults(); // nothing to sample
    struct rig *rig = rig_create(target, &options);
    rig_prepare(rig, &(struct rig_sequence){.content = 1, .n_rows = 5}, 1, false);
    rig_fill_hidden(rig);
    struct error err = {0};
    rig_must(target->ops->lm_head(rig->ctx, &rig->weights, &err), &err);
    rig_destroy(rig);
}
static void test_lm_head(void **state) {
    on_targets(state, check_lm_head);
}

/* Sums longer than one piece, and more than one block of rows. */
static void check_large(const struct target *target) {
    struct rig_options options = rig_defaults();
    options.shape.hidden = 1056;
    options.shape.intermediate = 1184;
    options.shape.n_heads = 10;
    options.shape.vocab = 200;
    options.limits.max_rows = 98;
    struct rig *rig = rig_create(target, &options);
    prepare_rows(rig, 98);
    compare_attention_output(rig);
    compare_mlp(rig);
    compare_lm_head(rig);
    prepare_rows(rig, 1);
    compare_attention_output(rig);
    compare_mlp(rig);
    compare_lm_head(rig);
    rig_destroy(rig);
}
static void test_large(void **state) {
    on_targets(state, check_large);
}

/* Weights over 4 MB, sizes that no tile divides: what the GPU computes by other kernels than few rows of few weights.
 */
static void check_rows_of_large_weights(const struct target *target, int32_t hidden, int32_t intermediate,
                                        const int32_t *rows, size_t n_rows) {
    struct rig_options options = rig_defaults();
    options.shape.hidden = hidden;
    options.shape.intermediate = intermediate;
    options.shape.n_heads = 12;
    options.shape.vocab = 1400;
    options.limits.max_rows = 98;
    struct rig *rig = rig_create(target, &options);
    for (size_t i = 0; i < n_rows; ++i) {
        prepare_rows(rig, rows[i]);
        compare_attention_output(rig);
        rig_fill_hidden(rig);
        compare_mlp(rig);
    }
    compare_lm_head(rig);
    rig_destroy(rig);
}
static void check_large_weights(const struct target *target) {
    static const int32_t rows[] = {17, 32, 33, 64, 70}, rows_of_wider[] = {24, 40};
    check_rows_of_large_weights(target, 1544, 1416, rows, 5);
    check_rows_of_large_weights(target, 2632, 856, rows_of_wider, 2); // segments of k beyond its end
}
static void test_large_weights(void **state) {
    on_targets(state, check_large_weights);
}

/* As many lines of gate and up as fill a GPU with more than 64 rows: its tiles come in three sizes. */
static void check_many_outputs(const struct target *target) {
    static const struct { int32_t hidden, intermediate; } shapes[] = {{384, 5640}, {136, 8504}};
    static const int32_t rows[] = {65, 220};
    if (!target->fused) return; // the MLP is the same
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        struct rig_options options = rig_defaults();
        options.shape.hidden = shapes[s].hidden;
        options.shape.intermediate = shapes[s].intermediate;
        options.limits.max_rows = 220;
        struct rig *rig = rig_create(target, &options);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
            prepare_rows(rig, rows[i]);
            compare_mlp(rig);
        }
        rig_destroy(rig);
    }
}
static void test_many_outputs(void **state) {
    on_targets(state, check_many_outputs);
}

/* Sizes that no vector divides; only the CPU backend promises them. */
static void check_odd_sizes(const struct target *target) {
    struct model_shape shape = rig_defaults().shape;
    shape.hidden = 71;
    shape.n_heads = 3;
    shape.n_kv_heads = 1;
    shape.head_dim = 16;
    shape.intermediate = 37;
    shape.vocab = 101;
    on_row_counts(target, &shape, compare_attention_output);
    on_row_counts(target, &shape, compare_mlp);
    on_row_counts(target, &shape, compare_lm_head);
}
static void test_odd_sizes(void **state) {
    on_targets(state, check_odd_sizes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("attention_output", test_attention_output),
        ON_EVERY_BACKEND("mlp", test_mlp),
        ON_EVERY_BACKEND("lm_head", test_lm_head),
        ON_EVERY_BACKEND("products with long sums and many rows", test_large),
        {"products with large weights on cuda", test_large_weights, NULL, NULL, (void *)"cuda"},
        {"mlp with many outputs and rows on cuda", test_many_outputs, NULL, NULL, (void *)"cuda"},
        {"products of odd sizes on cpu", test_odd_sizes, NULL, NULL, (void *)"cpu"},
    };
    return cmocka_run_group_tests_name("products", tests, NULL, NULL);
}
