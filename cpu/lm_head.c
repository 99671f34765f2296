#include "cpu/gemm.h"
#include "engine/weights.h"

bool cpu_lm_head(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)err;
    if (ctx->batch.n_samples == 0) return true;
    void *packed = workspace_of(ctx).packed;
    gemm_pack(ctx->device, &(struct gemm_rows){.x = ctx->scratch.hidden,
                                               .n_inputs = ctx->shape->hidden,
                                               .n_rows = ctx->batch.n_samples,
                                               .norm = weights->final_norm,
                                               .eps = ctx->shape->rms_eps,
                                               .rows = ctx->batch.samples,
                                               .packed = packed});
    gemm_run(&(struct gemm){.device = ctx->device,
                            .packed = packed,
                            .weights = weights->lm_head,
                            .n_inputs = ctx->shape->hidden,
                            .n_outputs = shape_vocab_part(ctx->shape),
                            .n_rows = ctx->batch.n_samples,
                            .out = context_logits_part(ctx)});
    return true;
}
