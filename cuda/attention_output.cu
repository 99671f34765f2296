#include "cuda/gemm.cuh"
#include "cuda/ops.cuh"

bool cuda_attention_output(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    struct gemm product = {(const uint16_t *)ctx->scratch.attention,
                           weights->layers[layer].attention_output,
                           ctx->scratch.hidden,
                           ctx->batch.n_rows,
                           ctx->shape->hidden,
                           shape_q_columns(ctx->shape),
                           context_adds(ctx) ? GEMM_ADD_F32 : GEMM_F32};
    return gemm_add(ctx, &product, weights->layers[layer].post_attention_norm, err);
}
