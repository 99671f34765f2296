/* RMSNorm of float32 rows to bf16, rounded once: bf16(x * 1/rms * weight). The fused projection uses the same two
 * functions, so that both forms of rmsnorm_qkv multiply the same bits. */
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

__device__ static inline float inverse_rms(const float (&partials)[NORM_WARPS], int32_t n, float eps) {
    float sum = 0;
    for (int i = 0; i < NORM_WARPS; ++i) sum += partials[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
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
bool rmsnorm_sample_rows(const struct context *ctx, const uint16_t *weight, struct error *err);

#endif
