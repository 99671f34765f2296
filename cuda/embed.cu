#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"

#define EMBED_THREADS 128

/* One block per row: 2 * hidden bytes in, 4 * hidden out. */
__global__ static void __launch_bounds__(EMBED_THREADS)
    embed_kernel(const int32_t *tokens, const int32_t *sampled, const uint16_t *embedding, float *x, int32_t hidden) {
    let_next_begin();
    wait_for_previous();
    int32_t token = tokens[blockIdx.x];
    if (token < 0) token = max(sampled[-1 - token], 0); // of a row whose logits were not finite: any token will do
    embedding += (size_t)token * hidden;
    x += (size_t)blockIdx.x * hidden;
    for (int32_t i = (int32_t)threadIdx.x * 8; i < hidden; i += EMBED_THREADS * 8) {
        uint4 v = *(const uint4 *)(embedding + i);
        *(float4 *)(x + i) = make_float4(bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y));
        *(float4 *)(x + i + 4) = make_float4(bf16_low(v.z), bf16_high(v.z), bf16_low(v.w), bf16_high(v.w));
    }
}

bool cuda_embed(const struct context *ctx, const struct weights *weights, struct error *err) {
    ctx->device->unscaled = {};
    struct launch launch = {dim3((unsigned)ctx->batch.n_rows), dim3(EMBED_THREADS)};
    launch.after_all = true;
    return launch_kernel(ctx->device, launch, embed_kernel, err, ctx->batch.tokens, ctx->scratch.sampled,
                         weights->embedding, ctx->scratch.hidden, ctx->shape->hidden);
}
