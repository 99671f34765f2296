#include "cuda/mlp.cuh"

#include "cuda/experts.cuh"
#include "cuda/gemm.cuh"
#include "cuda/gemm_wgmma.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"
#include "cuda/rmsnorm.cuh"

#define SILU_THREADS 256

/* Grid (rows, pieces of a row), eight values a thread: 4 bytes in and 2 out for each value. Rounds to bf16. */
__global__ static void __launch_bounds__(SILU_THREADS)
    silu_kernel(const uint16_t *gate_up, uint16_t *activated, int32_t intermediate,
                const __grid_constant__ struct row_scales scales) {
    let_next_begin();
    wait_for_previous();
    int32_t i = ((int32_t)blockIdx.y * SILU_THREADS + (int32_t)threadIdx.x) * 8;
    if (i >= intermediate) return;
    const uint16_t *gates = gate_up + (size_t)blockIdx.x * 2 * intermediate;
    uint4 gate = *(const uint4 *)(gates + i), up = *(const uint4 *)(gates + intermediate + i);
    float scale = scale_of_row(scales, (int32_t)blockIdx.x);
    *(uint4 *)(activated + (size_t)blockIdx.x * intermediate + i) =
        make_uint4(silu_times_pair(gate.x, up.x, scale, scale), silu_times_pair(gate.y, up.y, scale, scale),
                   silu_times_pair(gate.z, up.z, scale, scale), silu_times_pair(gate.w, up.w, scale, scale));
}

/* Rounding: x times the norm's weight, gate and up before they are multiplied by 1/rms, and what comes of them to bf16,
 * in all forms of the op. */
static bool gate_up_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                             struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    const struct scratch *scratch = &ctx->scratch;
    int32_t n_rows = ctx->batch.n_rows, intermediate = ctx->shape->intermediate;
    struct gemm product = {(const uint16_t *)scratch->normed,
                           of_layer->gate_up,
                           scratch->gate_up,
                           n_rows,
                           2 * intermediate,
                           ctx->shape->hidden,
                           GEMM_BF16};
    struct row_scales scales;
    if (!rmsnorm_rows_unscaled(ctx, of_layer->post_attention_norm, &scales, err)) return false;
    if (gemm_wgmma_pays(ctx->device, &product)) {
        product.c = scratch->activated;
        return gate_up_wgmma(ctx->device, &product, &scales, err);
    }
    if (!gemm_run(ctx->device, &product, err)) return false;
    struct launch launch = {dim3((unsigned)n_rows, (unsigned)divide_up(intermediate, SILU_THREADS * 8)),
                            dim3(SILU_THREADS)};
    return launch_kernel(ctx->device, launch, silu_kernel, err, (const uint16_t *)scratch->gate_up,
                         (uint16_t *)scratch->activated, intermediate, scales);
}

/* The residual sum stays float32. */
bool cuda_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    if (weights->layers[layer].router) {
        ctx->device->unscaled = {}; // x changes
        return cuda_experts(ctx, weights, layer, err);
    }
    auto gate_up = mlp_gate_up_thin_pays(ctx, &weights->layers[layer])   ? mlp_gate_up_thin
                   : mlp_gate_up_wide_pays(ctx, &weights->layers[layer]) ? mlp_gate_up_wide
                                                                         : gate_up_separate;
    if (!gate_up(ctx, weights, layer, err)) return false;
    struct gemm down = {(const uint16_t *)ctx->scratch.activated,
                        weights->layers[layer].down,
                        ctx->scratch.hidden,
                        ctx->batch.n_rows,
                        ctx->shape->hidden,
                        ctx->shape->intermediate,
                        context_adds(ctx) ? GEMM_ADD_F32 : GEMM_F32};
    bool is_last = layer + 1 == ctx->shape->n_layers;
    return gemm_add(ctx, &down, is_last ? NULL : weights->layers[layer + 1].input_norm, err);
}
