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
    silu_kernel(const uint16_t *gate_up, uint16_t *activated, int32_t intermediate) {
    let_next_begin();
    wait_for_previous();
    int32_t i = ((int32_t)blockIdx.y * SILU_THREADS + (int32_t)threadIdx.x) * 8;
    if (i >= intermediate) return;
    const uint16_t *gates = gate_up + (size_t)blockIdx.x * 2 * intermediate;
    uint4 gate = *(const uint4 *)(gates + i), up = *(const uint4 *)(gates + intermediate + i);
    *(uint4 *)(activated + (size_t)blockIdx.x * intermediate + i) =
        make_uint4(silu_times_pair(gate.x, up.x), silu_times_pair(gate.y, up.y), silu_times_pair(gate.z, up.z),
                   silu_times_pair(gate.w, up.w));
}

/* Rounding: normed and activated to bf16; gate_up too, where it is written. */
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
    if (!rmsnorm_rows(ctx, of_layer->post_attention_norm, err)) return false;
    if (gemm_wgmma_pays(ctx->device, &product)) {
        product.c = scratch->activated;
        return gate_up_wgmma(ctx->device, &product, err);
    }
    if (!gemm_run(ctx->device, &product, err)) return false;
    struct launch launch = {dim3((unsigned)n_rows, (unsigned)divide_up(intermediate, SILU_THREADS * 8)),
                            dim3(SILU_THREADS)};
    return launch_kernel(ctx->device, launch, silu_kernel, err, (const uint16_t *)scratch->gate_up,
                         (uint16_t *)scratch->activated, intermediate);
}

/* The residual sum stays float32. */
bool cuda_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    if (weights->layers[layer].router) return cuda_experts(ctx, weights, layer, err);
    auto gate_up = ctx->batch.n_rows <= GEMM_THIN_ROWS                   ? mlp_gate_up_thin
                   : mlp_gate_up_wide_pays(ctx, &weights->layers[layer]) ? mlp_gate_up_wide
                                                                         : gate_up_separate;
    if (!gate_up(ctx, weights, layer, err)) return false;
    struct gemm down = {(const uint16_t *)ctx->scratch.activated,
                        weights->layers[layer].down,
                        ctx->scratch.hidden,
                        ctx->batch.n_rows,
                        ctx->shape->hidden,
                        ctx->shape->intermediate,
                        GEMM_ADD_F32};
    return gemm_run(ctx->device, &down, err);
}
