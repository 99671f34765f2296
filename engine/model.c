#include "engine/model.h"

#include "engine/backend.h"

/* What the first rank alone does, once it has all logits. */
static bool sample(const struct context *ctx, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    if (!shape_is_whole(ctx->shape) && !ops->gather_logits(ctx, err)) return false;
    return ctx->shape->slice.rank > 0 || ctx->batch.n_adjusted > 0 || ops->sample(ctx, err);
}

static bool call_layer(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    bool whole = shape_is_whole(ctx->shape);
    return ops->rmsnorm_qkv(ctx, weights, layer, err) && ops->paged_attention(ctx, layer, err) &&
           ops->attention_output(ctx, weights, layer, err) && (whole || ops->all_reduce(ctx, err)) &&
           ops->mlp(ctx, weights, layer, err) && (whole || ops->all_reduce(ctx, err));
}

/* All that the host needs nothing more for: adjusted rows are sampled later. */
static bool call_ops(const struct context *ctx, const struct weights *weights, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    if (!shape_is_whole(ctx->shape) && !ops->share_sampled(ctx, err)) return false;
    if (!ops->embed(ctx, weights, err)) return false;
    for (int32_t layer = 0; layer < ctx->shape->n_layers; ++layer) {
        if (!call_layer(ctx, weights, layer, err)) return false;
    }
    if (ctx->batch.n_pools > 0 && ctx->shape->slice.rank == 0 && !ops->pool(ctx, weights, err)) return false;
    if (ctx->batch.n_samples == 0) return true; // only prefill chunks that do not reach their prompt's end
    return ops->lm_head(ctx, weights, err) && sample(ctx, err);
}

bool model_record(struct context *ctx, const struct weights *weights, int32_t *n_recordings, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    *n_recordings = 0;
    if (!ops->recordings_create) return true;
    context_prepare_recording(ctx);
    if (!ops->recordings_create(ctx, n_recordings, err)) return false;
    for (int32_t i = 0; i < *n_recordings; ++i) {
        if (!ops->record_begin(ctx, i, err)) return false;
        if (!call_ops(ctx, weights, err)) {
            ops->record_end(ctx, i, NULL); // the device must stop recording; what failed first is told
            return false;
        }
        if (!ops->record_end(ctx, i, err)) return false;
    }
    return true;
}

bool model_forward(const struct context *ctx, const struct weights *weights, struct error *err) {
    bool replayed = false;
    if (ctx->recordings && !ctx->ops->replay(ctx, &replayed, err)) return false;
    return replayed || call_ops(ctx, weights, err);
}

bool model_try_layer(const struct context *ctx, const struct weights *weights, struct error *err) {
    return ctx->ops->embed(ctx, weights, err) && call_layer(ctx, weights, 0, err);
}

bool model_sample(const struct context *ctx, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    if (ctx->batch.n_adjusted > 0 && !(ops->adjust(ctx, err) && ops->sample(ctx, err) && ops->count(ctx, err)))
        return false;
    return ctx->batch.n_scored == 0 || ops->score(ctx, err);
}
