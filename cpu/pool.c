#include "cpu/device.h"
#include "engine/weights.h"

#include <math.h>
#include <string.h>

struct pool_argument {
    const struct context *ctx;
    const uint16_t *norm;
};

/* Rows are added one by one in their order, whatever the steps that they come in: the mean has the same bits. */
static void pool_sequence(void *argument, int32_t index) {
    const struct context *ctx = ((struct pool_argument *)argument)->ctx;
    const uint16_t *norm = ((struct pool_argument *)argument)->norm;
    const struct pool_rows *pool = &ctx->batch.pools[index];
    const struct isa *isa = ctx->device->isa;
    int32_t hidden = ctx->shape->hidden;
    float *sum = ctx->pool_sums + (size_t)pool->sum * (size_t)hidden;
    if (pool->n_before == 0) memset(sum, 0, (size_t)hidden * sizeof *sum);
    for (int32_t row = pool->first; row < pool->first + pool->n_rows; ++row) {
        const float *x = ctx->scratch.hidden + (size_t)row * (size_t)hidden;
        float *state = (float *)ctx->scratch.normed + (size_t)row * (size_t)hidden;
        isa->scale_by(x, 1.0f / sqrtf(isa->sum_of_squares(x, hidden) / (float)hidden + ctx->shape->rms_eps), norm,
                      state, hidden);
        for (int32_t i = 0; i < hidden; ++i) sum[i] += state[i];
    }
    if (pool->result == 0) return;
    float *mean = ctx->scratch.pooled + (size_t)(pool->result - 1) * (size_t)hidden;
    float n = (float)(pool->n_before + pool->n_rows);
    for (int32_t i = 0; i < hidden; ++i) mean[i] = sum[i] / n;
}

bool cpu_pool(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)err;
    struct pool_argument argument = {ctx, weights->final_norm};
    threads_run(ctx->device->threads, pool_sequence, &argument, ctx->batch.n_pools);
    return true;
}
