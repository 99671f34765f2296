/* RMSNorm of float32 rows to bf16, in two forms. The standard one is rounded once: bf16(x * 1/rms * weight). The other
 * leaves 1/rms to the end of the product that follows, which multiplies its float32 sums by it: bf16(x * weight) and a
 * row's sums of squares can be left by whatever made x, and no kernel stands between. */
#ifndef QUERN_CUDA_RMSNORM_CUH
#define QUERN_CUDA_RMSNORM_CUH

#include "cuda/math.cuh"
#include "engine/backend.h"

#define NORM_WARPS 8 // share one row

/* This lane's part of the sums of squares of ROWS rows, the last of which may be missing: float4 i of a row belongs to
 * warp i / 32 % NORM_WARPS, whatever the number of rows, so that a row's norm never depends on its company. hidden is a
 * multiple of 4. */
template <int ROWS>
__device__ static inline void lane_square_sums(const float *x, int32_t n_rows, int32_t hidden, int warp, int lane,
                                               float (&sums)[ROWS]) {
    for (int row = 0; row < ROWS; ++row) sums[row] = 0;
#pragma unroll 2
    for (int32_t i = (warp * WARP + lane) * 4; i < hidden; i += NORM_WARPS * WARP * 4) {
        float4 v[ROWS];
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
            v[row] = row < n_rows ? *(const float4 *)(x + (size_t)row * hidden + i) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
            sums[row] += v[row].x * v[row].x + v[row].y * v[row].y + v[row].z * v[row].z + v[row].w * v[row].w;
    }
}

__device__ static inline float square_sum_of(const float (&partials)[NORM_WARPS]) {
    float sum = 0;
    for (int i = 0; i < NORM_WARPS; ++i) sum += partials[i];
    return sum;
}
__device__ static inline float inverse_rms(const float (&partials)[NORM_WARPS], int32_t n, float eps) {
    return 1.0f / sqrtf(square_sum_of(partials) / (float)n + eps);
}

/* 1/rms of the rows in scratch.normed, which are not multiplied by it yet. */
struct row_scales {
    const float *squares; // [n_rows][n_parts] sums of squares of parts of a row
    int32_t n_parts;      // 1 or a multiple of 4
    int32_t hidden;
    float eps;
};

/* The four parts of every sixteen that begin with `lane` times four, of a row. */
__device__ static inline float square_sum_of_lane(const struct row_scales &scales, int32_t row, int lane) {
    const float *squares = scales.squares + (size_t)row * scales.n_parts;
    if (scales.n_parts == 1) return lane == 0 ? squares[0] : 0;
    float sum = 0;
#pragma unroll 4
    for (int32_t i = lane * 4; i < scales.n_parts; i += 16) {
        float4 parts = *(const float4 *)(squares + i);
        sum += (parts.x + parts.y) + (parts.z + parts.w);
    }
    return sum;
}
__device__ static inline float scale_of_square_sum(const struct row_scales &scales, float sum) {
    return 1.0f / sqrtf(sum / (float)scales.hidden + scales.eps);
}
__device__ static inline float scale_of_row(const struct row_scales &scales, int32_t row) {
    float sums[4];
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) sums[lane] = square_sum_of_lane(scales, row, lane);
    return scale_of_square_sum(scales, (sums[0] + sums[1]) + (sums[2] + sums[3]));
}
/* The same of up to 32 rows by 128 threads, four for each; all of a warp come here. */
__device__ static inline float scale_of_row_by_four(const struct row_scales &scales, int32_t row) {
    float sum = square_sum_of_lane(scales, row, (int)threadIdx.x % 4);
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    return scale_of_square_sum(scales, sum);
}

/* Eight values normalised: one 16-byte piece of a row. */
__device__ static inline uint4 normalise8(const float4 &low, const float4 &high, float scale, const uint4 &weight) {
    uint4 out;
    out.x = bf16_pair(low.x * scale * bf16_low(weight.x), low.y * scale * bf16_high(weight.x));
    out.y = bf16_pair(low.z * scale * bf16_low(weight.y), low.w * scale * bf16_high(weight.y));
    out.z = bf16_pair(high.x * scale * bf16_low(weight.z), high.y * scale * bf16_high(weight.z));
    out.w = bf16_pair(high.z * scale * bf16_low(weight.w), high.w * scale * bf16_high(weight.w));
    return out;
}

/* scratch.normed[r] = rmsnorm(x[r]) * weight for every row, or for the rows of samples [0, n_samples). */
bool rmsnorm_rows(const struct context *ctx, const uint16_t *weight, struct error *err);
/* scratch.normed[r] = x[r] * weight for every row, if it is not there yet. */
bool rmsnorm_rows_unscaled(const struct context *ctx, const uint16_t *weight, struct row_scales *scales,
                           struct error *err);
bool rmsnorm_sample_rows(const struct context *ctx, const uint16_t *weight, struct error *err);

#endif
