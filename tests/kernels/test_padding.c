/* A decode step padded to a recording: rows of no sequence write nothing to the cache, see nothing, and change nothing
 * for the others. */
#include "tests/kernels/harness.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#define N_REAL     3
#define MAX_PADDED 200

/* The rows of a padded step are max_seqs. */
static int32_t padded_rows(const struct context *ctx, int32_t n_rows) {
    (void)n_rows;
    return ctx->limits.max_seqs;
}

static struct rig *create(const struct target *target, const struct rig_options *options, bool padded) {
    struct rig_sequence sequences[MAX_PADDED] = {
        {.content = 1, .start = 20, .n_rows = 1, .sample = true},
        {.content = 2, .start = 100, .n_rows = 1, .sample = true},
        {.content = 3, .start = 0, .n_rows = 1, .sample = true},
    };
    for (int32_t s = N_REAL; s < MAX_PADDED; ++s) sequences[s].content = s + 1; // rig_fill_hidden reads it
    struct rig *rig = rig_create(target, options);
    struct backend_ops padding = *target->ops;
    int recorded; // an address that nobody looks at
    padding.padded_rows = padded_rows;
    rig->ctx->ops = &padding;
    rig->ctx->recordings = padded ? (struct recordings *)&recorded : NULL;
    rig_prepare(rig, sequences, N_REAL, false);
    rig->ctx->ops = target->ops;
    rig->ctx->recordings = NULL;
    assert_int_equal(rig->ctx->batch.n_rows, padded ? options->limits.max_seqs : N_REAL);
    assert_int_equal(rig->ctx->batch.n_samples, rig->ctx->batch.n_rows);
    rig_fill_hidden(rig);
    return rig;
}

static void run(struct rig *rig) {
    struct error err = {0};
    const struct backend_ops *ops = rig->target->ops;
    rig_must(ops->rmsnorm_qkv(rig->ctx, &rig->weights, 0, &err), &err);
    rig_must(ops->paged_attention(rig->ctx, 0, &err), &err);
}

/* Bit by bit, for NaN is what most of the cache holds. */
static size_t count_changes(const float *a, const float *b, size_t count) {
    size_t n = 0;
    for (size_t i = 0; i < count; ++i) n += memcmp(&a[i], &b[i], sizeof *a) != 0;
    return n;
}

static void compare_rows(const struct target *target, const char *what, const float *padded, const float *alone,
                         size_t count) {
    double *expected = malloc(count * sizeof *expected);
    for (size_t i = 0; i < count; ++i) expected[i] = alone[i];
    if (target->cpu_isa) assert_memory_equal(padded, alone, count * sizeof *alone);
    check_error(target, what, relative_error(padded, expected, count), target->matrix_tolerance);
    free(expected);
}

static void check_padding_of(const struct target *target, const struct rig_options *options) {
    struct rig *alone = create(target, options, false), *padded = create(target, options, true);
    size_t n_padded = (size_t)options->limits.max_seqs;
    size_t plane = kv_plane_elements(padded->ctx), row = (size_t)shape_q_columns(&padded->shape);
    float *before[2], *after[2];
    for (int32_t which = 0; which < 2; ++which) before[which] = rig_read_kv(padded, 0, which);
    run(alone);
    run(padded);
    for (int32_t which = 0; which < 2; ++which) {
        after[which] = rig_read_kv(padded, 0, which);
        size_t n_changed = count_changes(before[which], after[which], plane);
        assert_int_equal(n_changed, N_REAL * shape_kv_columns(&padded->shape)); // one slot for each real row
        free(before[which]);
        free(after[which]);
    }
    enum dtype act = target->ops->activation_dtype;
    float *q = rig_read(padded, padded->ctx->scratch.q, act, N_REAL * row);
    float *q_alone = rig_read(alone, alone->ctx->scratch.q, act, N_REAL * row);
    compare_rows(target, "q", q, q_alone, N_REAL * row);
    float *attention = rig_read(padded, padded->ctx->scratch.attention, act, n_padded * row);
    float *attention_alone = rig_read(alone, alone->ctx->scratch.attention, act, N_REAL * row);
    compare_rows(target, "attention", attention, attention_alone, N_REAL * row);
    for (size_t i = N_REAL * row; i < n_padded * row && target->cpu_isa; ++i) // nobody reads it: a GPU leaves it
        if (attention[i] != 0) fail_msg("%s: attention of padding is %g", target->label, attention[i]);
    free(q);
    free(q_alone);
    free(attention);
    free(attention_alone);
    rig_destroy(padded);
    rig_destroy(alone);
}

static void check_padding(const struct target *target) {
    struct rig_options options = rig_defaults();
    options.limits.max_seqs = 8;
    check_padding_of(target, &options);
}
static void test_padding(void **state) {
    on_targets(state, check_padding);
}

/* Weights over 4 MB: what is made by other kernels than few rows of few weights. */
static void check_large_padding(const struct target *target) {
    static const int32_t rows[] = {24, 64, 72, MAX_PADDED};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct rig_options options = rig_defaults();
        options.shape.hidden = 392;
        options.shape.n_heads = 40;
        options.shape.n_kv_heads = 4;
        options.limits.max_seqs = options.limits.max_rows = rows[i];
        check_padding_of(target, &options);
    }
}
static void test_large_padding(void **state) {
    on_targets(state, check_large_padding);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("padding reads and writes nothing", test_padding),
        {"padding of large weights on cuda", test_large_padding, NULL, NULL, (void *)"cuda"},
    };
    return cmocka_run_group_tests_name("padding", tests, NULL, NULL);
}
