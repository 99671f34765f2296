/* rmsnorm_qkv as standard kernels: norm to scratch.normed, product to scratch.qkv, then the heads. Rounding: normed to
 * bf16; qkv to bf16 in the separate form. The fused form takes these kernels for many rows, where the product is all
 * that counts, and keeps qkv in float32, as its kernel for few rows does; or, where it pays, the product that ends with
 * the heads (gemm_wgmma.cuh). */
#include "cuda/gemm.cuh"
#include "cuda/gemm_wgmma.cuh"
#include "cuda/launch.cuh"
#include "cuda/ops.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/rmsnorm.cuh"

#include <assert.h>

#define HEADS_WARPS 8

__device__ static inline float as_float(float value) {
    return value;
}
__device__ static inline float as_float(uint16_t value) {
    return bf16_low(value);
}

/* One warp per row and head: head_dim projections in, 2 * head_dim bytes out. */
template <int HEAD_DIM, class Projection>
__global__ static void __launch_bounds__(HEADS_WARPS *WARP)
    qkv_heads_kernel(const Projection *qkv, int32_t n_rows, struct qkv_heads heads) {
    int32_t n_heads = heads.n_heads + 2 * heads.n_kv_heads, lane = threadIdx.x % WARP;
    int64_t index = (int64_t)blockIdx.x * HEADS_WARPS + threadIdx.x / WARP;
    let_next_begin();
    wait_for_previous();
    if (index >= (int64_t)n_rows * n_heads) return;
    int32_t row = (int32_t)(index / n_heads), head = (int32_t)(index % n_heads);
    const Projection *from = qkv + index * HEAD_DIM;
    head_slice<HEAD_DIM> slice;
    for (int i = 0; i < slice.pairs; ++i) {
        slice.low[i] = as_float(from[lane * slice.pairs + i]);
        slice.high[i] = as_float(from[HEAD_DIM / 2 + lane * slice.pairs + i]);
    }
    finish_head<HEAD_DIM>(heads, row, head, lane, slice);
}

template <class Projection>
static bool finish_heads(const struct context *ctx, const struct layer_weights *weights, int32_t layer,
                         struct error *err) {
    const struct model_shape *shape = ctx->shape;
    int64_t n_warps = (int64_t)ctx->batch.n_rows * (shape->n_heads + 2 * shape->n_kv_heads);
    struct launch launch = {dim3((unsigned)((n_warps + HEADS_WARPS - 1) / HEADS_WARPS)), dim3(HEADS_WARPS * WARP)};
    assert(shape->head_dim == 64 || shape->head_dim == 128); // prepare_shape
    return launch_kernel(ctx->device, launch,
                         shape->head_dim == 64 ? qkv_heads_kernel<64, Projection> : qkv_heads_kernel<128, Projection>,
                         err, (const Projection *)ctx->scratch.qkv, ctx->batch.n_rows,
                         qkv_heads_from(ctx, weights, layer));
}

static bool run(const struct context *ctx, const struct weights *weights, int32_t layer, enum gemm_output projection,
                struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct gemm product = {};
    product.a = (const uint16_t *)ctx->scratch.normed;
    product.weight = of_layer->qkv;
    product.c = ctx->scratch.qkv;
    product.n_rows = ctx->batch.n_rows;
    product.n_columns = shape_qkv_columns(ctx->shape);
    product.depth = ctx->shape->hidden;
    product.output = projection;
    if (!rmsnorm_rows(ctx, of_layer->input_norm, err)) return false;
    if (projection == GEMM_F32 && gemm_wgmma_pays(ctx->device, &product)) {
        struct qkv_heads heads = qkv_heads_from(ctx, of_layer, layer);
        return qkv_wgmma(ctx->device, &product, &heads, ctx->shape->head_dim, err);
    }
    return gemm_run(ctx->device, &product, err) &&
           (projection == GEMM_F32 ? finish_heads<float> : finish_heads<uint16_t>)(ctx, of_layer, layer, err);
}

bool cuda_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                               struct error *err) {
    return run(ctx, weights, layer, GEMM_BF16, err);
}

bool rmsnorm_qkv_many(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    return run(ctx, weights, layer, GEMM_F32, err);
}
