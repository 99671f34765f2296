/* The SwiGLU MLP: gate and up of the same columns are projected by one thread, which joins them at once, so that only
 * the activated columns are written; then the down projection adds to the residual stream. */
#include "cpu/gemm.h"
#include "engine/weights.h"

#include <assert.h>

struct mlp_job {
    struct gemm gemm; // the gate_up projection
    const struct context *ctx;
    int32_t chunk_columns; // of gate and of up in one chunk
};

static void activate_chunk(void *argument, int32_t chunk, int32_t next) {
    const struct mlp_job *job = argument;
    const struct isa *isa = job->ctx->device->isa;
    int32_t intermediate = job->ctx->shape->intermediate, n_row_blocks = count_row_blocks(isa, job->gemm.n_rows);
    int32_t first = chunk / n_row_blocks * job->chunk_columns, left = intermediate - first;
    int32_t n_columns = left < job->chunk_columns ? left : job->chunk_columns;
    int32_t next_gate = next < 0 ? -1 : next / n_row_blocks * job->chunk_columns;
    float gate[MAX_BLOCK_ROWS * MAX_CHUNK_OUTPUTS], up[MAX_BLOCK_ROWS * MAX_CHUNK_OUTPUTS]; // 16 KB each
    struct gemm_block block = {.rows = row_block_at(isa, job->gemm.n_rows, chunk % n_row_blocks),
                               .first = first,
                               .n_outputs = n_columns,
                               .next = n_row_blocks == 1 ? intermediate + first : next_gate,
                               .out = gate,
                               .out_stride = MAX_CHUNK_OUTPUTS};
    gemm_run_block(&job->gemm, &block);
    block.first += intermediate;
    block.next = n_row_blocks == 1 || next < 0 ? next_gate : intermediate + next_gate;
    block.out = up;
    gemm_run_block(&job->gemm, &block);
    for (int32_t r = block.rows.first_row; r < block.rows.end_row; ++r) {
        size_t at = (size_t)(r - block.rows.first_row) * MAX_CHUNK_OUTPUTS;
        float *activated = (float *)job->ctx->scratch.activated + (size_t)r * (size_t)intermediate + first;
        isa->swiglu(gate + at, up + at, activated, n_columns);
    }
}

bool cpu_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    assert(layer >= 0 && layer < ctx->shape->n_layers);
    if (weights->layers[layer].router) return cpu_experts(ctx, weights, layer, err);
    const struct model_shape *shape = ctx->shape;
    const struct layer_weights *parameters = &weights->layers[layer];
    int32_t n_rows = ctx->batch.n_rows;
    void *packed = workspace_of(ctx).packed;
    gemm_pack(ctx->device, &(struct gemm_rows){.x = ctx->scratch.hidden,
                                               .n_inputs = shape->hidden,
                                               .n_rows = n_rows,
                                               .norm = parameters->post_attention_norm,
                                               .eps = shape->rms_eps,
                                               .packed = packed});
    struct mlp_job job = {.ctx = ctx,
                          .gemm = {.device = ctx->device,
                                   .packed = packed,
                                   .weights = parameters->gate_up,
                                   .n_inputs = shape->hidden,
                                   .n_outputs = 2 * shape->intermediate,
                                   .n_rows = n_rows,
                                   .then = {parameters->down, shape->intermediate, shape->hidden}}};
    job.chunk_columns = gemm_chunk_outputs(ctx->device->isa, &job.gemm);
    int32_t n_chunks = (shape->intermediate + job.chunk_columns - 1) / job.chunk_columns;
    threads_run_loop(ctx->device->threads,
                     &(struct threads_loop){.run = activate_chunk,
                                            .argument = &job,
                                            .n_chunks = n_chunks * count_row_blocks(ctx->device->isa, n_rows),
                                            .enter = gemm_enter,
                                            .leave = gemm_leave});

    gemm_pack(ctx->device, &(struct gemm_rows){.x = (const float *)ctx->scratch.activated,
                                               .n_inputs = shape->intermediate,
                                               .n_rows = n_rows,
                                               .packed = packed});
    struct gemm_weights then = {weights->lm_head, shape->hidden, shape_vocab_part(shape)};
    if (layer + 1 < shape->n_layers)
        then = (struct gemm_weights){weights->layers[layer + 1].qkv, shape->hidden, shape_qkv_columns(shape)};
    gemm_run(&(struct gemm){.device = ctx->device,
                            .packed = packed,
                            .weights = parameters->down,
                            .n_inputs = shape->intermediate,
                            .n_outputs = shape->hidden,
                            .n_rows = n_rows,
                            .out = ctx->scratch.hidden,
                            .add = context_adds(ctx),
                            .then = then});
    return true;
}
