/* RMSNorm, QKV projection, QK-norm, RoPE and the append to the cache. Fused: whoever projects a head also normalises,
 * rotates and stores it, and neither the normed rows nor the projection is written anywhere. Separate: one loop after
 * the other through scratch. Both do the same arithmetic in the same order: the results are the same bits. */
#include "cpu/gemm.h"
#include "engine/weights.h"

#include <assert.h>
#include <math.h>

/* The frequencies are float32 powers, as transformers computes them. */
bool cpu_prepare_shape(struct device *device, const struct model_shape *shape, struct error *err) {
    if (shape->head_dim % 16 != 0 || shape->head_dim > MAX_HEAD_DIM)
        return fail(err, ERR_INVALID, "head_dim is %d; the CPU backend takes multiples of 16 up to %d", shape->head_dim,
                    MAX_HEAD_DIM);
    for (int32_t i = 0; i < shape->head_dim / 2; ++i)
        device->rope_frequencies[i] = 1.0f / powf(shape->rope_theta, (float)(2 * i) / (float)shape->head_dim);
    return true;
}

/* Where the row's key or value of one KV head goes; NULL: nowhere. */
static float *kv_place(const struct context *ctx, float *plane, int32_t row, int32_t kv_head) {
    int32_t slot = ctx->batch.kv_slots[row], block_size = ctx->kv.block_size;
    if (slot < 0) return NULL;
    size_t head = (size_t)(slot / block_size) * (size_t)ctx->shape->n_kv_heads + (size_t)kv_head;
    return plane + (head * (size_t)block_size + (size_t)(slot % block_size)) * (size_t)ctx->shape->head_dim;
}

struct qkv_job {
    struct gemm gemm;
    const struct context *ctx;
    const struct layer_weights *weights;
    int32_t layer;
    struct workspace workspace;
};

/* The place of head `head` of the joined projection in q or the cache, or NULL. */
static float *head_place(const struct qkv_job *job, int32_t row, int32_t head) {
    const struct context *ctx = job->ctx;
    int32_t n_heads = ctx->shape->n_heads, n_kv_heads = ctx->shape->n_kv_heads;
    if (head < n_heads)
        return (float *)ctx->scratch.q + ((size_t)row * (size_t)n_heads + (size_t)head) * (size_t)ctx->shape->head_dim;
    if (head < n_heads + n_kv_heads) return kv_place(ctx, (float *)kv_keys(ctx, job->layer), row, head - n_heads);
    return kv_place(ctx, (float *)kv_values(ctx, job->layer), row, head - n_heads - n_kv_heads);
}

/* QK-norm and RoPE of one projected head into its place; values go there as they are. */
static void finish_head(const struct qkv_job *job, int32_t row, int32_t head, const float *projected) {
    const struct model_shape *shape = job->ctx->shape;
    const struct isa *isa = job->ctx->device->isa;
    int32_t head_dim = shape->head_dim, half = head_dim / 2;
    float *to = head_place(job, row, head);
    if (!to) return;
    if (head >= shape->n_heads + shape->n_kv_heads) {
        for (int32_t i = 0; i < head_dim; ++i) to[i] = projected[i];
        return;
    }
    const uint16_t *norm = head < shape->n_heads ? job->weights->q_norm : job->weights->k_norm;
    float scale = 1.0f / sqrtf(isa->sum_of_squares(projected, head_dim) / (float)head_dim + shape->rms_eps);
    isa->scale_by(projected, scale, norm, to, head_dim);
    size_t angle = (size_t)row * (size_t)half;
    isa->rotate(to, job->workspace.cosines + angle, job->workspace.sines + angle, half);
}

static void compute_angles(const struct context *ctx, const struct workspace *workspace) {
    const float *frequencies = ctx->device->rope_frequencies;
    int32_t half = ctx->shape->head_dim / 2;
    for (int32_t r = 0; r < ctx->batch.n_rows; ++r)
        ctx->device->isa->rope_angles(ctx->batch.positions[r], frequencies,
                                      workspace->cosines + (size_t)r * (size_t)half,
                                      workspace->sines + (size_t)r * (size_t)half, half);
}

static struct qkv_job prepare(const struct context *ctx, const struct weights *weights, int32_t layer) {
    assert(layer >= 0 && layer < ctx->shape->n_layers);
    struct qkv_job job = {
        .ctx = ctx, .weights = &weights->layers[layer], .layer = layer, .workspace = workspace_of(ctx)};
    job.gemm = (struct gemm){.device = ctx->device,
                             .packed = job.workspace.packed,
                             .weights = job.weights->qkv,
                             .n_inputs = ctx->shape->hidden,
                             .n_outputs = shape_qkv_columns(ctx->shape),
                             .n_rows = ctx->batch.n_rows,
                             .out = (float *)ctx->scratch.qkv,
                             .then = {job.weights->attention_output, shape_q_columns(ctx->shape), ctx->shape->hidden}};
    compute_angles(ctx, &job.workspace);
    return job;
}

/* One head of one block of rows. */
static void fused_chunk(void *argument, int32_t chunk, int32_t next) {
    const struct qkv_job *job = argument;
    const struct isa *isa = job->ctx->device->isa;
    int32_t head_dim = job->ctx->shape->head_dim, n_row_blocks = count_row_blocks(isa, job->gemm.n_rows);
    int32_t head = chunk / n_row_blocks;
    float projected[MAX_BLOCK_ROWS * MAX_HEAD_DIM]; // 64 KB
    struct gemm_block block = {.rows = row_block_at(isa, job->gemm.n_rows, chunk % n_row_blocks),
                               .first = head * head_dim,
                               .n_outputs = head_dim,
                               .next = next < 0 ? -1 : next / n_row_blocks * head_dim,
                               .out = projected,
                               .out_stride = (size_t)head_dim};
    gemm_run_block(&job->gemm, &block);
    for (int32_t r = block.rows.first_row; r < block.rows.end_row; ++r)
        finish_head(job, r, head, projected + (size_t)(r - block.rows.first_row) * (size_t)head_dim);
}

bool cpu_rmsnorm_qkv_fused(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    (void)err;
    struct qkv_job job = prepare(ctx, weights, layer);
    gemm_pack(ctx->device, &(struct gemm_rows){.x = ctx->scratch.hidden,
                                               .n_inputs = shape->hidden,
                                               .n_rows = ctx->batch.n_rows,
                                               .norm = job.weights->input_norm,
                                               .eps = shape->rms_eps,
                                               .packed = job.workspace.packed});
    int32_t n_heads = shape->n_heads + 2 * shape->n_kv_heads;
    threads_run_loop(ctx->device->threads,
                     &(struct threads_loop){.run = fused_chunk,
                                            .argument = &job,
                                            .n_chunks = n_heads * count_row_blocks(ctx->device->isa, ctx->batch.n_rows),
                                            .enter = gemm_enter,
                                            .leave = gemm_leave});
    return true;
}

static void finish_row(void *argument, int32_t row) {
    const struct qkv_job *job = argument;
    const struct model_shape *shape = job->ctx->shape;
    const float *projected = job->gemm.out + (size_t)row * (size_t)job->gemm.n_outputs;
    for (int32_t head = 0; head < shape->n_heads + 2 * shape->n_kv_heads; ++head, projected += shape->head_dim)
        finish_head(job, row, head, projected);
}

bool cpu_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                              struct error *err) {
    const struct model_shape *shape = ctx->shape;
    (void)err;
    const struct isa *isa = ctx->device->isa;
    struct qkv_job job = prepare(ctx, weights, layer);
    float *normed = ctx->scratch.normed;
    for (int32_t r = 0; r < ctx->batch.n_rows; ++r) {
        size_t at = (size_t)r * (size_t)shape->hidden;
        const float *x = ctx->scratch.hidden + at;
        float scale = 1.0f / sqrtf(isa->sum_of_squares(x, shape->hidden) / (float)shape->hidden + shape->rms_eps);
        isa->scale_by(x, scale, job.weights->input_norm, normed + at, shape->hidden);
    }
    gemm_pack(ctx->device,
              &(struct gemm_rows){
                  .x = normed, .n_inputs = shape->hidden, .n_rows = ctx->batch.n_rows, .packed = job.workspace.packed});
    gemm_run(&job.gemm);
    threads_run(ctx->device->threads, finish_row, &job, ctx->batch.n_rows);
    return true;
}
