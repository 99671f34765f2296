/* Means of final states, in one step and in several, against plain loops in double precision. */
#include "tests/kernels/harness.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_SEQS 5
#define SEATS  8

/* What the pool should be of positions [first, end) of a sequence, from the rows that the rig's fill gives it. */
static double *expected_mean(const struct rig *rig, uint64_t content, int32_t first, int32_t end) {
    int32_t hidden = rig->shape.hidden;
    double *mean = calloc((size_t)hidden, sizeof *mean), *x = calloc((size_t)hidden, sizeof *x);
    for (int32_t position = first; position < end; ++position) {
        double squares = 0;
        for (int32_t c = 0; c < hidden; ++c) {
            x[c] = (double)rig_hidden_value(content, position, c);
            squares += x[c] * x[c];
        }
        double scale = 1 / sqrt(squares / hidden + (double)rig->shape.rms_eps);
        for (int32_t c = 0; c < hidden; ++c)
            mean[c] += x[c] * scale * (double)bf16_to_float(rig->host.final_norm[c]) / (end - first);
    }
    free(x);
    return mean;
}

static float *run_pool(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs) {
    struct error err = {0};
    rig_prepare_step(rig, seqs, n_seqs);
    rig_fill_hidden(rig);
    rig_must(rig->target->ops->pool(rig->ctx, &rig->weights, &err), &err);
    return rig_read(rig, rig->ctx->scratch.pooled, DTYPE_F32,
                    (size_t)rig->ctx->limits.max_seqs * (size_t)rig->shape.hidden);
}

static void check_mean(const struct rig *rig, const float *got, uint64_t content, int32_t first, int32_t end) {
    double *expected = expected_mean(rig, content, first, end);
    /* Up to 300 float32 additions, each 6e-8 of the sum. */
    check_error(rig->target, "a mean of states", relative_error(got, expected, (size_t)rig->shape.hidden), 2e-6);
    free(expected);
}

static struct rig *open_rig(const struct target *target, int32_t hidden) {
    struct rig_options options = rig_defaults();
    options.shape.hidden = hidden;
    options.shape.n_layers = 1;
    options.limits.max_seqs = SEATS;
    options.limits.max_rows = 400;
    options.limits.max_blocks = 24;
    options.limits.n_blocks = SEATS * 24;
    return rig_create(target, &options);
}

/* One row, a mean beside others, the last of several rows, and a sequence that only samples. */
static void check_one_step(const struct target *target) {
    struct rig *rig = open_rig(target, 320); // no multiple of what a block of threads takes
    const struct rig_sequence seqs[N_SEQS] = {
        {.content = 1, .start = 0, .n_rows = 1, .n_pooled_rows = 1, .pools = true, .seat = 8},
        {.content = 2, .start = 7, .n_rows = 1, .sample = true},
        {.content = 3, .start = 0, .n_rows = 15, .n_pooled_rows = 15, .pools = true, .seat = 1},
        {.content = 4, .start = 16, .n_rows = 17, .n_pooled_rows = 1, .pools = true, .seat = 3},
        {.content = 5, .start = 0, .n_rows = 300, .n_pooled_rows = 300, .pools = true, .seat = 2},
    };
    float *pooled = run_pool(rig, seqs, N_SEQS);
    size_t hidden = (size_t)rig->shape.hidden;
    check_mean(rig, pooled, 1, 0, 1);
    check_mean(rig, pooled + hidden, 3, 0, 15);
    check_mean(rig, pooled + 2 * hidden, 4, 32, 33);
    check_mean(rig, pooled + 3 * hidden, 5, 0, 300);
    for (size_t i = 4 * hidden; i < SEATS * hidden; ++i) assert_true(isnan(pooled[i])); // nobody asked for it
    free(pooled);
    rig_destroy(rig);
}

/* In pieces, between which others come and go at other rows: the bits of the whole. */
static void check_pieces(const struct target *target) {
    struct rig *rig = open_rig(target, 192);
    size_t hidden = (size_t)rig->shape.hidden;
    const struct rig_sequence whole = {.content = 9, .n_rows = 100, .n_pooled_rows = 100, .pools = true, .seat = 4};
    float *at_once = run_pool(rig, &whole, 1);
    check_mean(rig, at_once, 9, 0, 100);
    static const int32_t ends[] = {1, 3, 48, 49, 100};
    for (int32_t i = 0, start = 0; i < 5; start = ends[i++]) {
        struct rig_sequence seqs[3] = {
            {.content = 1, .start = i, .n_rows = 1, .n_pooled_rows = 1, .pools = true, .seat = 6},
            {.content = 9, .start = start, .n_pooled_before = start, .pools = ends[i] == 100, .seat = 5},
            {.content = 3, .start = 0, .n_rows = 20, .n_pooled_rows = 20, .pools = true, .seat = 4},
        };
        seqs[1].n_rows = seqs[1].n_pooled_rows = ends[i] - start;
        float *pooled = run_pool(rig, seqs, 3);
        check_mean(rig, pooled, 1, i, i + 1);
        check_mean(rig, pooled + (seqs[1].pools ? 2 : 1) * hidden, 3, 0, 20);
        if (seqs[1].pools) assert_memory_equal(pooled + hidden, at_once, hidden * sizeof *pooled);
        free(pooled);
    }
    free(at_once);
    rig_destroy(rig);
}

static void means_in_one_step(void **state) {
    on_targets(state, check_one_step);
}
static void means_in_pieces(void **state) {
    on_targets(state, check_pieces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("means of states in one step", means_in_one_step),
        ON_EVERY_BACKEND("means of states in pieces", means_in_pieces),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
