#include "cuda/gemm.cuh"
#include "cuda/ops.cuh"
#include "cuda/rmsnorm.cuh"

/* Only the rows that are sampled are normed and multiplied; logits stay float32. */
bool cuda_lm_head(const struct context *ctx, const struct weights *weights, struct error *err) {
    if (!rmsnorm_sample_rows(ctx, weights->final_norm, err)) return false;
    struct gemm product = {(const uint16_t *)ctx->scratch.normed,
                           weights->lm_head,
                           context_logits_part(ctx),
                           ctx->batch.n_samples,
                           shape_vocab_part(ctx->shape),
                           ctx->shape->hidden,
                           GEMM_F32};
    return gemm_run(ctx->device, &product, err);
}
