/* Means of final states: the scale of every row first, then each column of a sequence by one thread, row after row in
 * order, so that the sum does not depend on the steps that its rows come in. */
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"

#define POOL_THREADS 256
#define POOL_WARPS   (POOL_THREADS / WARP)

/* One warp for each row of the step: 4 * hidden bytes in, 4 out. */
__global__ static void __launch_bounds__(POOL_THREADS)
    scale_kernel(const float *x, float *scales, int32_t n_rows, int32_t hidden, float eps) {
    int32_t row = (int32_t)(blockIdx.x * POOL_WARPS + threadIdx.x / WARP), lane = (int32_t)(threadIdx.x % WARP);
    wait_for_previous();
    if (row >= n_rows) return; // the whole warp
    float sum = 0;
    for (int32_t i = lane; i < hidden; i += WARP) {
        float value = x[(size_t)row * hidden + i];
        sum += value * value;
    }
    sum = warp_sum(sum);
    if (lane == 0) scales[row] = 1.0f / sqrtf(sum / (float)hidden + eps);
}

/* One block for POOL_THREADS columns of one sequence: 4 bytes in for each of its rows and columns, 8 for each column.
 */
__global__ static void __launch_bounds__(POOL_THREADS)
    pool_kernel(const float *x, const float *scales, const uint16_t *norm, const struct pool_rows *pools, float *sums,
                float *pooled, int32_t hidden) {
    int32_t column = (int32_t)(blockIdx.x * POOL_THREADS + threadIdx.x);
    wait_for_previous();
    if (column >= hidden) return;
    struct pool_rows pool = pools[blockIdx.y];
    float weight = __uint_as_float((uint32_t)norm[column] << 16);
    float *place = sums + (size_t)pool.sum * hidden + column;
    float sum = pool.n_before > 0 ? *place : 0.0f;
    x += (size_t)pool.first * hidden + column;
#pragma unroll 8
    for (int32_t r = 0; r < pool.n_rows; ++r) sum += x[(size_t)r * hidden] * scales[pool.first + r] * weight;
    *place = sum;
    if (pool.result > 0)
        pooled[(size_t)(pool.result - 1) * hidden + column] = sum / (float)(pool.n_before + pool.n_rows);
}

bool cuda_pool(const struct context *ctx, const struct weights *weights, struct error *err) {
    int32_t n_rows = ctx->batch.n_rows, hidden = ctx->shape->hidden;
    if (ctx->batch.n_pools == 0) return true;
    struct launch of_rows = {dim3((unsigned)(divide_up(n_rows, POOL_WARPS))), dim3(POOL_THREADS)};
    struct launch of_sequences = {dim3((unsigned)(divide_up(hidden, POOL_THREADS)), (unsigned)ctx->batch.n_pools),
                                  dim3(POOL_THREADS)};
    return launch_kernel(ctx->device, of_rows, scale_kernel, err, ctx->scratch.hidden, ctx->scratch.row_scales, n_rows,
                         hidden, ctx->shape->rms_eps) &&
           launch_kernel(ctx->device, of_sequences, pool_kernel, err, ctx->scratch.hidden, ctx->scratch.row_scales,
                         weights->final_norm, ctx->batch.pools, ctx->pool_sums, ctx->scratch.pooled, hidden);
}
