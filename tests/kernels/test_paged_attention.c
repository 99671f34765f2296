#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 16

static void compare(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs, const char *what) {
    const struct target *target = rig->target;
    struct error err = {0};
    int32_t layer = rig->shape.n_layers - 1;
    rig_prepare(rig, seqs, n_seqs, true);
    rig_fill_q(rig);
    size_t count = (size_t)rig->ctx->host.n_rows * (size_t)shape_q_columns(&rig->shape);
    enum dtype act = rig->ctx->ops->activation_dtype;
    float *q = rig_read(rig, rig->ctx->scratch.q, act, count);
    float *keys = rig_read_kv(rig, layer, 0), *values = rig_read_kv(rig, layer, 1);
    rig_must(target->ops->paged_attention(rig->ctx, layer, &err), &err);
    float *got = rig_read(rig, rig->ctx->scratch.attention, act, count);
    double *expected = reference_attention(rig, q, keys, values);
    check_error(target, what, relative_error(got, expected, count), target->attention_tolerance);
    free(expected);
    free(got);
    free(keys);
    free(values);
    free(q);
}

static struct rig_options options_for(int32_t n_heads, int32_t n_kv_heads, int32_t max_tokens, int32_t max_rows) {
    struct rig_options options = rig_defaults();
    options.shape.n_heads = n_heads;
    options.shape.n_kv_heads = n_kv_heads;
    options.shape.n_layers = 1;
    int32_t n_blocks = (max_tokens + BLOCK - 1) / BLOCK;
    options.limits = (struct context_limits){
        .max_rows = max_rows, .max_seqs = 16, .max_blocks = n_blocks, .block_size = BLOCK, .n_blocks = n_blocks + 40};
    return options;
}

/* One row at the edges of a block, and one chunk over them. */
static void check_lengths(const struct target *target) {
    static const int32_t lengths[] = {1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 63, 64, 65, 127, 300};
    struct rig_options options = options_for(4, 2, 304, 304);
    struct rig *rig = rig_create(target, &options);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; ++i) {
        char what[64];
        snprintf(what, sizeof what, "one row that sees %d tokens", lengths[i]);
        compare(rig, &(struct rig_sequence){.content = 7, .start = lengths[i] - 1, .n_rows = 1}, 1, what);
        snprintf(what, sizeof what, "a chunk of %d rows", lengths[i]);
        compare(rig, &(struct rig_sequence){.content = 7, .start = 0, .n_rows = lengths[i]}, 1, what);
    }
    rig_destroy(rig);
}

static void test_lengths(void **state) {
    on_targets(state, check_lengths);
}

static void check_long(const struct target *target) {
    struct rig_options options = options_for(4, 2, 4096, 40);
    struct rig *rig = rig_create(target, &options);
    compare(rig, &(struct rig_sequence){.content = 7, .start = 4095, .n_rows = 1}, 1, "one row that sees 4,096 tokens");
    compare(rig, &(struct rig_sequence){.content = 7, .start = 4056, .n_rows = 40}, 1, "40 rows up to 4,096 tokens");
    compare(rig, &(struct rig_sequence){.content = 7, .start = 1000, .n_rows = 33}, 1, "33 rows after 1,000 tokens");
    rig_destroy(rig);
}

static void test_long(void **state) {
    on_targets(state, check_long);
}

/* Decode rows and chunks together, some after a cached prefix, blocks in random order. */
static void check_sequences(const struct target *target) {
    static const int32_t groups[][2] = {{2, 2}, {4, 2}, {8, 2}, {5, 1}, {8, 1}, {12, 2}};
    static const struct rig_sequence seqs[] = {
        {.content = 1, .start = 99, .n_rows = 1},  {.content = 2, .start = 0, .n_rows = 1},
        {.content = 3, .start = 15, .n_rows = 1},  {.content = 4, .start = 16, .n_rows = 1},
        {.content = 5, .start = 48, .n_rows = 17}, {.content = 6, .start = 0, .n_rows = 40},
        {.content = 7, .start = 31, .n_rows = 2},  {.content = 8, .start = 7, .n_rows = 64},
    };
    for (size_t i = 0; i < sizeof groups / sizeof *groups; ++i) {
        char what[64];
        snprintf(what, sizeof what, "eight sequences, %d query heads for each KV head", groups[i][0] / groups[i][1]);
        struct rig_options options = options_for(groups[i][0], groups[i][1], 128, 128);
        struct rig *rig = rig_create(target, &options);
        compare(rig, seqs, 8, what);
        rig_destroy(rig);
    }
}

static void test_sequences(void **state) {
    on_targets(state, check_sequences);
}

/* A row's result has the same bits whatever other rows there are, from one key to many splits of them. */
static void check_alone(const struct target *target) {
    static const int32_t lengths[] = {1, 64, 65, 200, 257, 300, 1000, 1300};
    struct rig_options options = options_for(16, 8, 1312, 16);
    options.limits.n_blocks = 220;
    struct rig *rig = rig_create(target, &options);
    struct error err = {0};
    enum dtype act = rig->ctx->ops->activation_dtype;
    size_t count = (size_t)shape_q_columns(&rig->shape);
    struct rig_sequence seqs[8] = {0};
    for (int32_t i = 0; i < 8; ++i)
        seqs[i] = (struct rig_sequence){.content = (uint64_t)i + 1, .start = lengths[i] - 1, .n_rows = 1};
    compare(rig, seqs, 8, "eight rows that see 1 to 1,300 tokens");
    float *together = rig_read(rig, rig->ctx->scratch.attention, act, 8 * count);
    for (int32_t i = 0; i < 8; ++i) {
        rig_prepare(rig, &seqs[i], 1, true);
        rig_fill_q(rig);
        rig_must(target->ops->paged_attention(rig->ctx, 0, &err), &err);
        float *alone = rig_read(rig, rig->ctx->scratch.attention, act, count);
        if (memcmp(alone, together + (size_t)i * count, count * sizeof *alone) != 0)
            fail_msg("%s: a row that sees %d tokens is another one alone", target->label, lengths[i]);
        free(alone);
    }
    free(together);
    rig_destroy(rig);
}

static void test_alone(void **state) {
    on_targets(state, check_alone);
}

static void check_block_sizes(const struct target *target) {
    static const int32_t sizes[] = {8, 24, 32, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        struct rig_options options = options_for(4, 2, 256, 64);
        options.limits.block_size = sizes[i];
        options.limits.max_blocks = (256 + sizes[i] - 1) / sizes[i];
        options.limits.n_blocks = 3 * options.limits.max_blocks;
        struct rig *rig = rig_create(target, &options);
        char what[64];
        snprintf(what, sizeof what, "blocks of %d tokens", sizes[i]);
        compare(rig,
                (struct rig_sequence[]){{.content = 1, .start = 255, .n_rows = 1},
                                        {.content = 2, .start = sizes[i] - 1, .n_rows = 1},
                                        {.content = 3, .start = 100, .n_rows = 50}},
                3, what);
        rig_destroy(rig);
    }
}

static void test_block_sizes(void **state) {
    on_targets(state, check_block_sizes);
}

static void check_many(const struct target *target) {
    struct rig_options options = options_for(8, 2, 256, 1024);
    options.limits.max_seqs = 48;
    options.limits.n_blocks = 512;
    struct rig_sequence seqs[40];
    for (int32_t i = 0; i < 40; ++i) // from one row tile to five of one chunk
        seqs[i] =
            (struct rig_sequence){.content = 1 + (uint64_t)i, .start = i * 37 % 90, .n_rows = 2 + i * i % 150 / 4};
    seqs[33].n_rows = 150;
    for (int32_t head_dim = 64; head_dim <= 128; head_dim += 64) {
        char what[64];
        snprintf(what, sizeof what, "forty chunks, head_dim %d", head_dim);
        options.shape.head_dim = head_dim;
        struct rig *rig = rig_create(target, &options);
        compare(rig, seqs, 40, what);
        rig_destroy(rig);
    }
}

static void test_many(void **state) {
    on_targets(state, check_many);
}

static float *attention_of(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs) {
    struct error err = {0};
    rig_prepare(rig, seqs, n_seqs, true);
    rig_fill_q(rig);
    rig_must(rig->target->ops->paged_attention(rig->ctx, 0, &err), &err);
    return rig_read(rig, rig->ctx->scratch.attention, rig->ctx->ops->activation_dtype,
                    (size_t)rig->ctx->host.n_rows * (size_t)shape_q_columns(&rig->shape));
}

/* The same bits for a prompt in one chunk and in several, each after the cached part before it. */
static void check_cut(const struct target *target) {
    static const struct rig_sequence whole = {.content = 7, .n_rows = 400};
    static const struct rig_sequence pieces[] = {{.content = 7, .start = 0, .n_rows = 130},
                                                 {.content = 7, .start = 130, .n_rows = 3},
                                                 {.content = 7, .start = 133, .n_rows = 123},
                                                 {.content = 7, .start = 256, .n_rows = 144}};
    struct rig_options options = options_for(8, 2, 400, 400);
    options.limits.n_blocks = 120;
    struct rig *rig = rig_create(target, &options);
    float *expected = attention_of(rig, &whole, 1), *got = attention_of(rig, pieces, 4);
    for (size_t i = 0; i < 400 * (size_t)shape_q_columns(&rig->shape); ++i)
        if (got[i] != expected[i])
            fail_msg("%s: value %zu is %.9g in one chunk, %.9g in four", target->label, i, expected[i], got[i]);
    free(expected);
    free(got);
    rig_destroy(rig);
}

static void test_cut(void **state) {
    on_targets(state, check_cut);
}

/* Scores of some thousand: only the largest weight is left, nothing overflows. */
static void check_large_scores(const struct target *target) {
    struct rig_options options = options_for(4, 2, 128, 64);
    struct rig *rig = rig_create(target, &options);
    struct rig_sequence seq = {.content = 1, .start = 60, .n_rows = 40};
    rig_prepare(rig, &seq, 1, true);
    enum dtype act = rig->ctx->ops->activation_dtype;
    size_t count = 40 * (size_t)shape_q_columns(&rig->shape);
    rig_fill_q(rig);
    float *q = rig_read(rig, rig->ctx->scratch.q, act, count);
    for (size_t i = 0; i < count; ++i) q[i] *= 1024;
    rig_write(rig, rig->ctx->scratch.q, act, q, count);
    float *keys = rig_read_kv(rig, 0, 0), *values = rig_read_kv(rig, 0, 1);
    struct error err = {0};
    rig_must(target->ops->paged_attention(rig->ctx, 0, &err), &err);
    float *got = rig_read(rig, rig->ctx->scratch.attention, act, count);
    double *expected = reference_attention(rig, q, keys, values);
    /* A float32 score of 2,000 is 1e-4 off, and so is the weight of a near second. */
    check_error(target, "attention with scores of thousands", relative_error(got, expected, count),
                target->attention_tolerance + 1e-4);
    free(expected);
    free(got);
    free(keys);
    free(values);
    free(q);
    rig_destroy(rig);
}

static void test_large_scores(void **state) {
    on_targets(state, check_large_scores);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("attention with its context", test_sequences),
        ON_EVERY_BACKEND("attention at the edges of blocks", test_lengths),
        ON_EVERY_BACKEND("attention over 4,096 tokens", test_long),
        ON_EVERY_BACKEND("attention of a row alone and among others", test_alone),
        ON_EVERY_BACKEND("attention with other block sizes", test_block_sizes),
        ON_EVERY_BACKEND("attention of many chunks", test_many),
        ON_EVERY_BACKEND("attention of a prompt cut in pieces", test_cut),
        ON_EVERY_BACKEND("attention with large scores", test_large_scores),
    };
    return cmocka_run_group_tests_name("paged_attention", tests, NULL, NULL);
}
