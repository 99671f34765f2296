#include "engine/model.h"

#include "engine/backend.h"

bool model_forward(const struct context *ctx, const struct weights *weights, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    if (!ops->embed(ctx, weights, err)) return false;
    for (int32_t layer = 0; layer < ctx->shape->n_layers; ++layer) {
        if (!ops->rmsnorm_qkv(ctx, weights, layer, err)) return false;
        if (!ops->paged_attention(ctx, layer, err)) return false;
        if (!ops->attention_output(ctx, weights, layer, err)) return false;
        if (!ops->mlp(ctx, weights, layer, err)) return false;
    }
    if (ctx->batch.n_samples == 0) return true; // only prefill chunks that do not reach their prompt's end
    return ops->lm_head(ctx, weights, err) && ops->sample(ctx, err);
}
