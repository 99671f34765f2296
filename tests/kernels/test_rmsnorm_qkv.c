#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The result of one rmsnorm_qkv as float32: q by row, k and v by row out of the cache. */
struct qkv {
    float *q; // [n_rows][n_heads][head_dim]
    float *k; // [n_rows][n_kv_heads][head_dim]
    float *v;
    size_t q_count;
    size_t kv_count;
};

static float *gather_rows(const struct rig *rig, int32_t layer, int32_t which) {
    const struct batch *batch = &rig->ctx->host;
    size_t head_dim = (size_t)rig->shape.head_dim;
    float *plane = rig_read_kv(rig, layer, which), *rows = NULL;
    rows = malloc((size_t)batch->n_rows * (size_t)shape_kv_columns(&rig->shape) * sizeof *rows);
    assert_non_null(rows);
    float *to = rows;
    for (int32_t r = 0; r < batch->n_rows; ++r)
        for (int32_t head = 0; head < rig->shape.n_kv_heads; ++head, to += head_dim)
            memcpy(to, plane + rig_kv_index(rig, batch->row_seqs[r], batch->positions[r], head), head_dim * sizeof *to);
    free(plane);
    return rows;
}

static struct qkv run(struct rig *rig, int32_t layer) {
    struct error err = {0};
    size_t n_rows = (size_t)rig->ctx->host.n_rows;
    rig_must(rig->target->ops->rmsnorm_qkv(rig->ctx, &rig->weights, layer, &err), &err);
    struct qkv qkv = {.q_count = n_rows * (size_t)shape_q_columns(&rig->shape),
                      .kv_count = n_rows * (size_t)shape_kv_columns(&rig->shape)};
    qkv.q = rig_read(rig, rig->ctx->scratch.q, rig->ctx->ops->activation_dtype, qkv.q_count);
    qkv.k = gather_rows(rig, layer, 0);
    qkv.v = gather_rows(rig, layer, 1);
    return qkv;
}

static void finish(struct qkv *qkv) {
    free(qkv->q);
    free(qkv->k);
    free(qkv->v);
}

static void compare(struct rig *rig, int32_t layer) {
    const struct target *target = rig->target;
    rig_fill_hidden(rig);
    float *hidden =
        rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, (size_t)rig->ctx->host.n_rows * (size_t)rig->shape.hidden);
    struct qkv got = run(rig, layer);
    struct reference_qkv expected = reference_rmsnorm_qkv(rig, layer, hidden);
    check_error(target, "q", relative_error(got.q, expected.q, got.q_count), target->matrix_tolerance);
    check_error(target, "k", relative_error(got.k, expected.k, got.kv_count), target->matrix_tolerance);
    check_error(target, "v", relative_error(got.v, expected.v, got.kv_count), target->matrix_tolerance);
    reference_qkv_finish(&expected);
    finish(&got);
    free(hidden);
}

static const struct rig_sequence mixed[] = {{.content = 1, .start = 40, .n_rows = 1},
                                            {.content = 2, .start = 0, .n_rows = 1},
                                            {.content = 3, .start = 15, .n_rows = 1},
                                            {.content = 4, .start = 5, .n_rows = 30},
                                            {.content = 5, .start = 0, .n_rows = 16}};

static void check_shapes(const struct target *target) {
    static const struct {
        int32_t n_heads, n_kv_heads, hidden;
    } shapes[] = {{4, 2, 192}, {8, 2, 256}, {5, 1, 128}, {8, 1, 192}, {4, 4, 1088}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        struct rig_options options = rig_defaults();
        options.shape.n_heads = shapes[i].n_heads;
        options.shape.n_kv_heads = shapes[i].n_kv_heads;
        options.shape.hidden = shapes[i].hidden;
        struct rig *rig = rig_create(target, &options);
        rig_prepare(rig, mixed, 1, false);
        compare(rig, 0);
        rig_prepare(rig, mixed, 5, false);
        compare(rig, 1);
        rig_destroy(rig);
    }
}

static void test_fused_kernel_alone(void **state) {
    on_targets(state, check_shapes);
}

/* Weights over 4 MB: the GPU's kernel for more rows than 16. Of five sequences, 49 rows; of the last two, 46. */
static void check_large_weights(const struct target *target) {
    static const struct {
        int32_t n_heads, head_dim, hidden;
    } shapes[] = {{12, 128, 2120}, {12, 64, 2120}, {16, 128, 1096}, {28, 64, 1096}, {40, 64, 1544}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        struct rig_options options = rig_defaults();
        options.shape.n_heads = shapes[i].n_heads;
        options.shape.head_dim = shapes[i].head_dim;
        options.shape.hidden = shapes[i].hidden;
        struct rig *rig = rig_create(target, &options);
        rig_prepare(rig, mixed, 5, false);
        compare(rig, 1);
        rig_prepare(rig, mixed + 3, 2, false);
        compare(rig, 0);
        rig_prepare(rig, mixed + 3, 1, false);
        compare(rig, 0);
        rig_destroy(rig);
    }
}

static void test_large_weights(void **state) {
    on_targets(state, check_large_weights);
}

/* More than 64 rows; heads that no group of four divides. */
static void check_many_rows(const struct target *target) {
    static const struct rig_sequence many[] = {{.content = 1, .start = 40, .n_rows = 1},
                                               {.content = 2, .start = 0, .n_rows = 64},
                                               {.content = 3, .start = 15, .n_rows = 80}};
    static const struct { int32_t n_heads, n_kv_heads, head_dim; } shapes[] = {{40, 4, 128}, {79, 8, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        struct rig_options options = rig_defaults();
        options.shape.n_heads = shapes[i].n_heads;
        options.shape.n_kv_heads = shapes[i].n_kv_heads;
        options.shape.head_dim = shapes[i].head_dim;
        options.shape.hidden = 392;
        options.limits.max_rows = 145;
        struct rig *rig = rig_create(target, &options);
        rig_prepare(rig, many, 2, false);
        compare(rig, 0);
        rig_prepare(rig, many, 3, false);
        compare(rig, 1);
        rig_destroy(rig);
    }
}

static void test_many_rows(void **state) {
    on_targets(state, check_many_rows);
}

static void check_large_k_norm(const struct target *target) {
    struct rig_options options = rig_defaults();
    options.k_norm_max = 96.5f;
    struct rig *rig = rig_create(target, &options);
    rig_prepare(rig, mixed, 5, false);
    compare(rig, 0);
    rig_destroy(rig);
}

static void test_k_norm_weights_of_96_5(void **state) {
    on_targets(state, check_large_k_norm);
}

/* Far positions: the angle is some 40,000 radians. */
static void check_far_positions(const struct target *target) {
    struct rig_options options = rig_defaults();
    options.limits =
        (struct context_limits){.max_rows = 64, .max_seqs = 4, .max_blocks = 160, .block_size = 256, .n_blocks = 160};
    options.shape.n_layers = 1;
    struct rig *rig = rig_create(target, &options);
    rig_prepare(rig, (struct rig_sequence[]){{.content = 1, .start = 40939, .n_rows = 21}}, 1, false);
    compare(rig, 0);
    rig_destroy(rig);
}

static void test_far_positions(void **state) {
    on_targets(state, check_far_positions);
}

/* Only the slots of the step's rows change. */
static void check_rest_of_cache(const struct target *target) {
    struct rig_options options = rig_defaults();
    struct rig *rig = rig_create(target, &options);
    rig_prepare(rig, mixed, 5, false);
    rig_fill_hidden(rig);
    for (int32_t which = 0; which < 2; ++which) {
        float *before = rig_read_kv(rig, 1, which), *other = rig_read_kv(rig, 0, which);
        struct qkv qkv = run(rig, 1);
        finish(&qkv);
        float *after = rig_read_kv(rig, 1, which), *other_after = rig_read_kv(rig, 0, which);
        size_t count = kv_plane_elements(rig->ctx), written = 0;
        const struct batch *batch = &rig->ctx->host;
        assert_memory_equal(other, other_after, count * sizeof(float));
        size_t head_dim = (size_t)rig->shape.head_dim;
        for (int32_t r = 0; r < batch->n_rows; ++r) { // take the written slots out
            for (int32_t head = 0; head < rig->shape.n_kv_heads; ++head, written += head_dim) {
                size_t at = rig_kv_index(rig, batch->row_seqs[r], batch->positions[r], head);
                memset(before + at, 0, head_dim * sizeof *before);
                memset(after + at, 0, head_dim * sizeof *after);
            }
        }
        assert_memory_equal(before, after, count * sizeof(float));
        assert_true(written == (size_t)batch->n_rows * (size_t)shape_kv_columns(&rig->shape));
        free(before);
        free(after);
        free(other);
        free(other_after);
    }
    rig_destroy(rig);
}

static void test_rest_of_cache(void **state) {
    on_targets(state, check_rest_of_cache);
}

/* The separate form of each target against the fused one before it: the same bits on the CPU. */
static void test_fused_equals_separate(void **state) {
    struct target targets[MAX_TARGETS];
    int32_t n_targets = targets_open(*state, targets);
    if (n_targets == 0) skip();
    for (int32_t t = 0; t + 1 < n_targets; t += 2) {
        assert_true(targets[t].fused && !targets[t + 1].fused);
        struct qkv results[2];
        for (int32_t form = 0; form < 2; ++form) {
            struct rig_options options = rig_defaults();
            options.k_norm_max = 96.5f;
            struct rig *rig = rig_create(&targets[t + form], &options);
            rig_prepare(rig, mixed, 5, false);
            rig_fill_hidden(rig);
            results[form] = run(rig, 0);
            rig_destroy(rig);
        }
        if (strcmp(*state, "cpu") == 0) {
            assert_memory_equal(results[0].q, results[1].q, results[0].q_count * sizeof(float));
            assert_memory_equal(results[0].k, results[1].k, results[0].kv_count * sizeof(float));
            assert_memory_equal(results[0].v, results[1].v, results[0].kv_count * sizeof(float));
        } else {
            double *separate = malloc(results[1].q_count * sizeof *separate);
            assert_non_null(separate);
            for (size_t i = 0; i < results[1].q_count; ++i) separate[i] = results[1].q[i];
            check_error(&targets[t], "fused against separate q",
                        relative_error(results[0].q, separate, results[0].q_count), targets[t].matrix_tolerance);
            free(separate);
        }
        finish(&results[0]);
        finish(&results[1]);
    }
    targets_close(targets, n_targets);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("fused kernel alone", test_fused_kernel_alone),
        {"large weights on cuda", test_large_weights, NULL, NULL, (void *)"cuda"},
        {"many rows on cuda", test_many_rows, NULL, NULL, (void *)"cuda"},
        ON_EVERY_BACKEND("K-norm weights of 96.5", test_k_norm_weights_of_96_5),
        ON_EVERY_BACKEND("positions up to 40,959", test_far_positions),
        ON_EVERY_BACKEND("rmsnorm_qkv writes only its slots", test_rest_of_cache),
        ON_EVERY_BACKEND("fused equals separate", test_fused_equals_separate),
    };
    return cmocka_run_group_tests_name("rmsnorm_qkv", tests, NULL, NULL);
}
