/* Stage by stage against the tensors that transformers has inside three layers for one prompt. */
#include "tests/test.h"

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/safetensors.h"
#include "tests/model/demo.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stages {
    const struct target *target;
    struct demo *demo;
    struct safetensors *golden;
    int32_t n_rows;
};

/* Relative error of a stage: float32 keeps 1e-7 per operation and a few hundred of them in a row; bf16 activations
 * round to 2^-9 at each op border, which piles up over the layers below. */
static double tolerance(const struct target *target) {
    return target->matrix_tolerance < 1e-4 ? 2e-5 : 2e-2;
}

static const float *golden(const struct stages *s, int32_t layer, const char *name, size_t count) {
    char full[96];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "layer%d.%s", layer, name);
    const struct safetensor *tensor = safetensors_find(s->golden, full);
    if (!tensor) fail_msg("layers.safetensors has no %s", full);
    assert_int_equal(tensor->bytes, count * sizeof(float));
    return tensor->data;
}

static void compare(const struct stages *s, int32_t layer, const char *name, const float *got, const float *expected,
                    size_t count) {
    double *wide = malloc(count * sizeof *wide);
    for (size_t i = 0; i < count; ++i) wide[i] = expected[i];
    double error = relative_error(got, wide, count);
    free(wide);
    if (!(error <= tolerance(s->target)))
        fail_msg("%s: layer %d %s: relative error %.2e is over %.2e", s->target->label, layer, name, error,
                 tolerance(s->target));
}

static void compare_device(const struct stages *s, int32_t layer, const char *name, const void *data, enum dtype dtype,
                           size_t columns) {
    size_t count = (size_t)s->n_rows * columns;
    float *got = demo_read(s->demo, data, dtype, count);
    compare(s, layer, name, got, golden(s, layer, name, count), count);
    free(got);
}

/* The difference that an op made to the residual stream. */
static void compare_increment(const struct stages *s, int32_t layer, const char *name, const float *before) {
    size_t count = (size_t)s->n_rows * (size_t)s->demo->config.shape.hidden;
    float *after = demo_read(s->demo, s->demo->ctx->scratch.hidden, DTYPE_F32, count);
    for (size_t i = 0; i < count; ++i) after[i] -= before[i];
    compare(s, layer, name, after, golden(s, layer, name, count), count);
    free(after);
}

/* transformers' rotate-half on [rows][heads][dim], positions 0, 1, 2, … */
static float *rotated(const float *x, int32_t n_rows, int32_t n_heads, int32_t dim, float theta) {
    float *y = malloc((size_t)n_rows * (size_t)n_heads * (size_t)dim * sizeof *y);
    for (int32_t row = 0; row < n_rows; ++row) {
        for (int32_t head = 0; head < n_heads; ++head) {
            size_t at = ((size_t)row * (size_t)n_heads + (size_t)head) * (size_t)dim;
            for (int32_t i = 0; i < dim / 2; ++i) {
                double angle = row * pow(theta, -2.0 * i / dim), c = cos(angle), s = sin(angle);
                double a = x[at + (size_t)i], b = x[at + (size_t)(i + dim / 2)];
                y[at + (size_t)i] = (float)(a * c - b * s);
                y[at + (size_t)(i + dim / 2)] = (float)(b * c + a * s);
            }
        }
    }
    return y;
}

/* Rows of the paged cache, read through the block table: [rows][kv heads][dim]. */
static float *gather_kv(const struct stages *s, const void *plane) {
    const struct context *ctx = s->demo->ctx;
    const struct model_shape *shape = ctx->shape;
    size_t dim = (size_t)shape->head_dim, n_heads = (size_t)shape->n_kv_heads, block = (size_t)ctx->limits.block_size;
    float *all = demo_read(s->demo, plane, ctx->kv.dtype, kv_plane_elements(ctx));
    float *rows = malloc((size_t)s->n_rows * n_heads * dim * sizeof *rows);
    for (size_t row = 0; row < (size_t)s->n_rows; ++row) {
        size_t slot = (size_t)ctx->host.kv_slots[row];
        for (size_t head = 0; head < n_heads; ++head)
            memcpy(rows + (row * n_heads + head) * dim,
                   all + ((slot / block * n_heads + head) * block + slot % block) * dim, dim * sizeof *rows);
    }
    free(all);
    return rows;
}

static void check_projection(const struct stages *s, int32_t layer) {
    const struct context *ctx = s->demo->ctx;
    const struct model_shape *shape = ctx->shape;
    enum dtype act = ctx->ops->activation_dtype;
    size_t rows = (size_t)s->n_rows, q_columns = (size_t)shape_q_columns(shape),
           kv_columns = (size_t)shape_kv_columns(shape);
    if (!s->target->fused) { // the fused op writes neither
        compare_device(s, layer, "input_layernorm", ctx->scratch.normed, act, (size_t)shape->hidden);
        size_t columns = (size_t)shape_qkv_columns(shape);
        float *qkv = demo_read(s->demo, ctx->scratch.qkv, act, rows * columns),
              *part = malloc(rows * columns * sizeof *part);
        const struct {
            const char *name;
            size_t first, count;
        } parts[] = {{"q_proj", 0, q_columns},
                     {"k_proj", q_columns, kv_columns},
                     {"v_proj", q_columns + kv_columns, kv_columns}};
        for (int p = 0; p < 3; ++p) {
            for (size_t row = 0; row < rows; ++row)
                memcpy(part + row * parts[p].count, qkv + row * columns + parts[p].first,
                       parts[p].count * sizeof *part);
            compare(s, layer, parts[p].name, part, golden(s, layer, parts[p].name, rows * parts[p].count),
                    rows * parts[p].count);
        }
        free(part);
        free(qkv);
    }
    float *q = demo_read(s->demo, ctx->scratch.q, act, rows * q_columns), *k = gather_kv(s, kv_keys(ctx, layer)),
          *v = gather_kv(s, kv_values(ctx, layer));
    float *golden_q = rotated(golden(s, layer, "q_norm", rows * q_columns), s->n_rows, shape->n_heads, shape->head_dim,
                              shape->rope_theta);
    float *golden_k = rotated(golden(s, layer, "k_norm", rows * kv_columns), s->n_rows, shape->n_kv_heads,
                              shape->head_dim, shape->rope_theta);
    compare(s, layer, "q after RoPE", q, golden_q, rows * q_columns);
    compare(s, layer, "k after RoPE", k, golden_k, rows * kv_columns);
    compare(s, layer, "v", v, golden(s, layer, "v_proj", rows * kv_columns), rows * kv_columns);
    free(q), free(k), free(v), free(golden_q), free(golden_k);
}

static void run_layer(const struct stages *s, int32_t layer, bool recorded) {
    const struct context *ctx = s->demo->ctx;
    const struct backend_ops *ops = ctx->ops;
    const struct weights *weights = &s->demo->weights;
    size_t hidden = (size_t)ctx->shape->hidden, count = (size_t)s->n_rows * hidden;
    struct error err = {0};
    rig_must(ops->rmsnorm_qkv(ctx, weights, layer, &err), &err);
    if (recorded) check_projection(s, layer);
    rig_must(ops->paged_attention(ctx, layer, &err), &err);
    if (recorded)
        compare_device(s, layer, "attention", ctx->scratch.attention, ops->activation_dtype,
                       (size_t)shape_q_columns(ctx->shape));
    float *before = demo_read(s->demo, ctx->scratch.hidden, DTYPE_F32, count);
    rig_must(ops->attention_output(ctx, weights, layer, &err), &err);
    if (recorded) compare_increment(s, layer, "attn_out", before);
    free(before);
    before = demo_read(s->demo, ctx->scratch.hidden, DTYPE_F32, count);
    rig_must(ops->mlp(ctx, weights, layer, &err), &err);
    if (recorded) {
        compare_increment(s, layer, "mlp", before);
        compare_device(s, layer, "output", ctx->scratch.hidden, DTYPE_F32, hidden);
    }
    free(before);
}

static void check_stages_of(const struct target *target, const struct demo_model *model) {
    struct error err = {0};
    struct stages s = {.target = target, .golden = safetensors_open(model->layers, &err)};
    rig_must(s.golden != NULL, &err);
    const struct safetensor *ids = safetensors_find(s.golden, "input_ids");
    s.n_rows = (int32_t)ids->dims[0];
    struct context_limits limits = {.max_rows = 64, .max_seqs = 1, .block_size = 16};
    s.demo = demo_open(target, model, limits, 64);
    struct batch_sequence seq = {.tokens = ids->data, .n_rows = s.n_rows, .sample = true};
    demo_prepare(s.demo, &seq, 1, &(int32_t){0});

    const struct context *ctx = s.demo->ctx;
    rig_must(ctx->ops->embed(ctx, &s.demo->weights, &err), &err);
    compare_device(&s, -1, "embed", ctx->scratch.hidden, DTYPE_F32, (size_t)ctx->shape->hidden);
    for (int32_t layer = 0; layer < ctx->shape->n_layers; ++layer)
        run_layer(&s, layer, layer == 0 || layer == 3 || layer == model->last_recorded);

    rig_must(ctx->ops->lm_head(ctx, &s.demo->weights, &err), &err);
    size_t vocab = (size_t)ctx->shape->vocab;
    float *logits = demo_read(s.demo, ctx->scratch.logits, DTYPE_F32, vocab);
    const float *all = golden(&s, -1, "logits", (size_t)s.n_rows * vocab);
    compare(&s, 7, "logits", logits, all + (size_t)(s.n_rows - 1) * vocab, vocab);
    free(logits);
    demo_close(s.demo);
    safetensors_close(s.golden);
}

/* Every position's logits when the prompt is fed one token a step: decode sees the same model as prefill. */
static void check_logits_of(const struct target *target, const struct demo_model *model) {
    struct error err = {0};
    struct stages s = {.target = target, .golden = safetensors_open(model->layers, &err)};
    rig_must(s.golden != NULL, &err);
    const struct safetensor *ids = safetensors_find(s.golden, "input_ids");
    s.n_rows = (int32_t)ids->dims[0];
    struct context_limits limits = {.max_rows = 8, .max_seqs = 1, .block_size = 8};
    s.demo = demo_open(target, model, limits, 64);
    const struct context *ctx = s.demo->ctx;
    size_t vocab = (size_t)ctx->shape->vocab;
    const float *all = golden(&s, -1, "logits", (size_t)s.n_rows * vocab);
    for (int32_t row = 0; row < s.n_rows; ++row) {
        struct batch_sequence seq = {
            .tokens = (const int32_t *)ids->data + row, .start = row, .n_rows = 1, .sample = true};
        demo_prepare(s.demo, &seq, 1, &(int32_t){0});
        rig_must(ctx->ops->embed(ctx, &s.demo->weights, &err), &err);
        for (int32_t layer = 0; layer < ctx->shape->n_layers; ++layer) run_layer(&s, layer, false);
        rig_must(ctx->ops->lm_head(ctx, &s.demo->weights, &err), &err);
        float *logits = demo_read(s.demo, ctx->scratch.logits, DTYPE_F32, vocab);
        compare(&s, row, "logits of position", logits, all + (size_t)row * vocab, vocab);
        free(logits);
    }
    demo_close(s.demo);
    safetensors_close(s.golden);
}

/* The prompt's states after the final norm to one vector, in chunks of so many rows; the caller's to free. */
static float *pool(const struct stages *s, const int32_t *ids, bool mean, int32_t chunk) {
    struct error err = {0};
    for (int32_t start = 0; start < s->n_rows; start += chunk) {
        int32_t left = s->n_rows - start, n_rows = left < chunk ? left : chunk;
        struct batch_sequence seq = {.tokens = ids + start,
                                     .start = start,
                                     .n_rows = n_rows,
                                     .seat = 2,
                                     .pools = left <= chunk,
                                     .n_pooled_before = mean ? start : 0};
        seq.n_pooled_rows = mean ? n_rows : seq.pools;
        demo_prepare(s->demo, &seq, 1, &(int32_t){0});
        rig_must(model_forward(s->demo->ctx, &s->demo->weights, &err), &err);
    }
    return demo_read(s->demo, s->demo->ctx->scratch.pooled, DTYPE_F32, (size_t)s->demo->config.shape.hidden);
}

static void check_pooled(const struct target *target) {
    struct error err = {0};
    struct stages s = {.target = target, .golden = safetensors_open(demo_dense.layers, &err)};
    rig_must(s.golden != NULL, &err);
    const struct safetensor *ids = safetensors_find(s.golden, "input_ids");
    s.n_rows = (int32_t)ids->dims[0];
    s.demo =
        demo_open(target, &demo_dense, (struct context_limits){.max_rows = 64, .max_seqs = 2, .block_size = 16}, 64);
    size_t hidden = (size_t)s.demo->config.shape.hidden, last = (size_t)(s.n_rows - 1) * hidden;
    const float *states = golden(&s, -1, "norm", (size_t)s.n_rows * hidden);
    float *mean = calloc(hidden, sizeof *mean);
    for (size_t i = 0; i < (size_t)s.n_rows * hidden; ++i) mean[i % hidden] += states[i] / (float)s.n_rows;
    static const int32_t chunks[] = {64, 17, 57};
    float *whole[2] = {NULL, NULL};
    for (size_t i = 0; i < 6; ++i) {
        bool is_mean = i % 2;
        float *pooled = pool(&s, ids->data, is_mean, chunks[i / 2]);
        compare(&s, 7, is_mean ? "mean state" : "last state", pooled, is_mean ? mean : states + last, hidden);
        if (i < 2) {
            whole[i] = pooled;
            continue;
        }
        if (target->cpu_isa) assert_memory_equal(pooled, whole[is_mean], hidden * sizeof *pooled);
        free(pooled);
    }
    free(whole[0]), free(whole[1]), free(mean);
    demo_close(s.demo);
    safetensors_close(s.golden);
}

static void check_stages(const struct target *target) {
    check_stages_of(target, &demo_dense);
    check_stages_of(target, &demo_experts);
}
static void check_logits_of_decode(const struct target *target) {
    check_logits_of(target, &demo_dense);
    check_logits_of(target, &demo_experts);
}

static void stages_of_a_prompt(void **state) {
    on_targets(state, check_stages);
}
static void logits_of_every_position(void **state) {
    on_targets(state, check_logits_of_decode);
}

static void states_of_a_prompt_pooled(void **state) {
    on_targets(state, check_pooled);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("stages of a prompt", stages_of_a_prompt),
        ON_EVERY_BACKEND("logits of every position", logits_of_every_position),
        ON_EVERY_BACKEND("states of a prompt, pooled", states_of_a_prompt_pooled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
