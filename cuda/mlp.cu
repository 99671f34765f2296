#include "cuda/gemm.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"
#include "cuda/rmsnorm.cuh"

#define SILU_THREADS 256

__device__ static inline float silu(float x) {
    return x / (1.0f + expf(-x));
}

__device__ static inline uint32_t silu_times(uint32_t gate, uint32_t up) {
    return bf16_pair(silu(bf16_low(gate)) * bf16_low(up), silu(bf16_high(gate)) * bf16_high(up));
}

/* Grid (rows, pieces of a row), eight values a thread: 4 bytes in and 2 out for each value. Rounds to bf16. */
__global__ static void __launch_bounds__(SILU_THREADS)
    silu_kernel(const uint16_t *gate_up, uint16_t *activated, int32_t intermediate) {
    int32_t i = ((int32_t)blockIdx.y * SILU_THREADS + (int32_t)threadIdx.x) * 8;
    if (i >= intermediate) return;
    const uint16_t *gates = gate_up + (size_t)blockIdx.x * 2 * intermediate;
    uint4 gate = *(const uint4 *)(gates + i), up = *(const uint4 *)(gates + intermediate + i);
    *(uint4 *)(activated + (size_t)blockIdx.x * intermediate + i) = make_uint4(
        silu_times(gate.x, up.x), silu_times(gate.y, up.y), silu_times(gate.z, up.z), silu_times(gate.w, up.w));
}

/* Rounding: normed, gate_up and activated to bf16; the residual sum stays float32. */
bool cuda_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    const struct scratch *scratch = &ctx->scratch;
    int32_t n_rows = ctx->batch.n_rows, hidden = ctx->shape->hidden, intermediate = ctx->shape->intermediate;

    struct gemm gate_up = {(const uint16_t *)scratch->normed,
                           of_layer->gate_up,
                           scratch->gate_up,
                           n_rows,
                           2 * intermediate,
                           hidden,
                           GEMM_BF16};
    if (!rmsnorm_rows(ctx, of_layer->post_attention_norm, err) || !gemm_run(ctx->device, &gate_up, err)) return false;

    dim3 grid((unsigned)n_rows, (unsigned)divide_up(intermediate, SILU_THREADS * 8));
    silu_kernel<<<grid, SILU_THREADS, 0, ctx->device->stream>>>((const uint16_t *)scratch->gate_up,
                                                                (uint16_t *)scratch->activated, intermediate);
    CUDA_TRY(cudaGetLastError(), err);

    struct gemm down = {(const uint16_t *)scratch->activated,
                        of_layer->down,
                        scratch->hidden,
                        n_rows,
                        hidden,
                        intermediate,
                        GEMM_ADD_F32};
    return gemm_run(ctx->device, &down, err);
}
