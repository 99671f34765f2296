/* paged_attention: sequences [0, n_decode) go to the decode kernel, the rest to the prefill kernel. */
#include "cuda/paged_attention.cuh"

#include "cuda/experts.cuh"
#include "cuda/ops.cuh"

/* Behind what decode and the experts have, one op after the other. */
static size_t squares_begin(const struct model_shape *shape, const struct context_limits *limits) {
    size_t of_decode = paged_decode_workspace_bytes(shape);
    size_t of_experts = expert_routing_at(NULL, shape, limits->max_rows).bytes;
    size_t begin = of_decode > of_experts ? of_decode : of_experts;
    return (begin + 255) / 256 * 256;
}

size_t cuda_workspace_bytes(const struct model_shape *shape, const struct context_limits *limits) {
    size_t squares = (size_t)SQUARED_ROWS * (size_t)divide_up(shape->hidden, SQUARED_COLUMNS);
    if (squares < (size_t)limits->max_rows) squares = (size_t)limits->max_rows;
    return squares_begin(shape, limits) + squares * sizeof(float);
}

float *row_squares(const struct context *ctx) {
    return (float *)((char *)ctx->scratch.workspace + squares_begin(ctx->shape, &ctx->limits));
}

bool cuda_paged_attention(const struct context *ctx, int32_t layer, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    const struct batch *batch = &ctx->batch;
    if (ctx->kv.block_size % 8 != 0)
        return fail(err, ERR_INVALID, "block size %d is not supported on CUDA: a multiple of 8", ctx->kv.block_size);

    struct attention_params params = {};
    params.q = (const uint16_t *)ctx->scratch.q;
    params.keys = (const uint16_t *)kv_keys(ctx, layer);
    params.values = (const uint16_t *)kv_values(ctx, layer);
    params.attention = (uint16_t *)ctx->scratch.attention;
    params.query_starts = batch->query_starts;
    params.kv_lens = batch->kv_lens;
    params.block_tables = batch->block_tables;
    params.divider = block_divider_of(ctx->kv.block_size);
    params.n_heads = shape->n_heads;
    params.n_kv_heads = shape->n_kv_heads;
    params.max_blocks = ctx->limits.max_blocks;
    params.scale_log2 = (float)(1.4426950408889634 / sqrt((double)shape->head_dim));
    if (batch->n_decode > 0 && !paged_decode(ctx, &params, err)) return false;
    return batch->n_decode == batch->n_seqs || paged_prefill(ctx, &params, err);
}
