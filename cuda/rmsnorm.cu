#include "cuda/rmsnorm.cuh"

#include "cuda/launch.cuh"

#define NORM_THREADS (NORM_WARPS * WARP)

#define HELD 2 // pieces of eight values that a thread keeps: rows up to 4,096 wide are read once

/* One block per row; with squares unscaled. Moves 4 * hidden bytes in (what is not held, twice: it hits the cache) and
 * 2 * hidden out. */
__global__ static void __launch_bounds__(NORM_THREADS)
    rmsnorm_kernel(const float *x, const uint16_t *weight, const struct sample_row *samples, uint16_t *normed,
                   float *squares, int32_t hidden, float eps) {
    __shared__ float partials[NORM_WARPS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    let_next_begin();
    uint4 weights[HELD]; // what no kernel writes is there before the kernel ahead has ended
    float4 low[HELD], high[HELD];
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
        int32_t i = (j * NORM_THREADS + (int32_t)threadIdx.x) * 8;
        if (i < hidden) weights[j] = __ldg((const uint4 *)(weight + i));
    }
    wait_for_previous();
    int32_t row = samples ? samples[blockIdx.x].row : (int32_t)blockIdx.x;
    x += (size_t)row * hidden;
    normed += (size_t)blockIdx.x * hidden;
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
        int32_t i = (j * NORM_THREADS + (int32_t)threadIdx.x) * 8;
        if (i >= hidden) continue;
        low[j] = *(const float4 *)(x + i);
        high[j] = *(const float4 *)(x + i + 4);
    }

    float sums[1];
    lane_square_sums(x, 1, hidden, warp, lane, sums);
    float sum = warp_sum(sums[0]);
    if (lane == 0) partials[warp] = sum;
    __syncthreads();
    float scale = squares ? 1.0f : inverse_rms(partials, hidden, eps);
    if (squares && threadIdx.x == 0) squares[blockIdx.x] = square_sum_of(partials);

#pragma unroll
    for (int j = 0; j < HELD; ++j) {
        int32_t i = (j * NORM_THREADS + (int32_t)threadIdx.x) * 8;
        if (i < hidden) *(uint4 *)(normed + i) = normalise8(low[j], high[j], scale, weights[j]);
    }
    for (int32_t i = (HELD * NORM_THREADS + (int32_t)threadIdx.x) * 8; i < hidden; i += NORM_THREADS * 8) {
        float4 more_low = *(const float4 *)(x + i), more_high = *(const float4 *)(x + i + 4);
        *(uint4 *)(normed + i) = normalise8(more_low, more_high, scale, *(const uint4 *)(weight + i));
    }
}

static bool launch(const struct context *ctx, const uint16_t *weight, const struct sample_row *samples, int32_t n_rows,
                   float *squares, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    ctx->device->unscaled = {};
    if (n_rows == 0) return true;
    struct launch launch = {dim3((unsigned)n_rows), dim3(NORM_THREADS)};
    return launch_kernel(ctx->device, launch, rmsnorm_kernel, err, ctx->scratch.hidden, weight, samples,
                         (uint16_t *)ctx->scratch.normed, squares, shape->hidden, shape->rms_eps);
}

bool rmsnorm_rows(const struct context *ctx, const uint16_t *weight, struct error *err) {
    return launch(ctx, weight, NULL, ctx->batch.n_rows, NULL, err);
}

bool rmsnorm_rows_unscaled(const struct context *ctx, const uint16_t *weight, struct row_scales *scales,
                           struct error *err) {
    const struct unscaled_rows *there = &ctx->device->unscaled;
    *scales = {row_squares(ctx), 1, ctx->shape->hidden, ctx->shape->rms_eps};
    if (there->norm != weight || there->n_rows != ctx->batch.n_rows)
        return launch(ctx, weight, NULL, ctx->batch.n_rows, row_squares(ctx), err);
    scales->n_parts = there->n_parts;
    return true;
}

bool rmsnorm_sample_rows(const struct context *ctx, const uint16_t *weight, struct error *err) {
    return launch(ctx, weight, ctx->batch.samples, ctx->batch.n_samples, NULL, err);
}

cudaError_t rmsnorm_probe(cudaFuncAttributes *attributes) {
    return cudaFuncGetAttributes(attributes, rmsnorm_kernel);
}
