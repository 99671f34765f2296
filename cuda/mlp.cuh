/* The halves of mlp: norm, gate, up and activation to scratch.activated; then the product that goes back to x. */
#ifndef QUERN_CUDA_MLP_CUH
#define QUERN_CUDA_MLP_CUH

#include "cuda/device.cuh"
#include "cuda/math.cuh"
#include "cuda/rmsnorm.cuh"

/* For up to 16 rows, where there is nothing better. */
bool mlp_gate_up_thin_pays(const struct context *ctx, const struct layer_weights *weights);
bool mlp_gate_up_thin(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);

/* For MLP_WIDE_OVER to MLP_WIDE_ROWS rows where it pays: by the sizes alone. */
bool mlp_gate_up_wide(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool mlp_gate_up_wide_pays(const struct context *ctx, const struct layer_weights *weights);

#define MLP_WIDE_OVER 64
#define MLP_WIDE_ROWS 512

/* To some units in the last place of float32: it is rounded to bf16. */
__device__ static inline float silu(float x) {
    return __fdividef(x, 1.0f + __expf(-x));
}

/* Of bf16 gate and up of rows that are multiplied by their scale only here, to bf16. */
__device__ static inline uint16_t silu_times(uint16_t gate, uint16_t up, float scale) {
    return bf16_bits(silu(bf16_low(gate) * scale) * (bf16_low(up) * scale));
}
__device__ static inline uint32_t silu_times_pair(uint32_t gate, uint32_t up, float low_scale, float high_scale) {
    return bf16_pair(silu(bf16_low(gate) * low_scale) * (bf16_low(up) * low_scale),
                     silu(bf16_high(gate) * high_scale) * (bf16_high(up) * high_scale));
}
__device__ static inline uint32_t silu_times_pair(uint32_t gate, uint32_t up) {
    return silu_times_pair(gate, up, 1, 1);
}

#endif
