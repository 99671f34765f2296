/* rmsnorm_qkv as standard kernels: norm to scratch.normed, product to scratch.qkv, then the heads. Rounding in the
 * separate form: normed and qkv to bf16. The fused form takes these kernels for many rows, where the product is all
 * that counts, and rounds as its kernel for few rows does: x times the norm's weight to bf16, nothing else before the
 * heads. Or, where it pays, the product that ends with the heads (gemm_wgmma.cuh). */
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
    qkv_heads_kernel(const Projection *qkv, int32_t n_rows, struct qkv_heads heads, struct row_scales scales) {
    int32_t n_heads = heads.n_heads + 2 * heads.n_kv_heads, lane = threadIdx.x % WARP;
    int64_t index = (int64_t)blockIdx.x * HEADS_WARPS + threadIdx.x / WARP;
    let_next_begin();
    wait_for_previous();
    if (index >= (int64_t)n_rows * n_heads) return;
    int32_t row = (int32_t)(index / n_heads), head = (int32_t)(index % n_heads);
    const Projection *from = qkv + index * HEAD_DIM;
    head_slice<HEAD_DIM> slice;
    float scale = scales.squares ? scale_of_row(scales, row) : 1.0f;
    for (int i = 0; i < slice.pairs; ++i) {
        slice.low[i] = as_float(from[lane * slice.pairs + i]) * scale;
        slice.high[i] = as_float(from[HEAD_DIM / 2 + lane * slice.pairs + i]) * scale;
    }
    finish_head<HEAD_DIM>(heads, row, head, lane, slice);
}

template <class Projection>
static bool finish_heads(const struct context *ctx, const struct layer_weights *weights, int32_t layer,
                         const struct row_scales *scales, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    int64_t n_warps = (int64_t)ctx->batch.n_rows * (shape->n_heads + 2 * shape->n_kv_heads);
    struct launch launch = {dim3((unsigned)((n_warps + HEADS_WARPS - 1) / HEADS_WARPS)), dim3(HEADS_WARPS * WARP)};
    assert(shape->head_dim == 64 || shape->head_dim == 128); // prepare_shape
    return launch_kernel(ctx->device, launch,
                         shape->head_dim == 64 ? qkv_heads_kernel<64, Projection> : qkv_heads_kernel<128, Projection>,
                         err, (const Projection *)ctx->scratch.qkv, ctx->batch.n_rows,
                         qkv_heads_from(ctx, weights, layer), *scales);
}

static struct gemm product_of(const struct context *ctx, const struct layer_weights *weights,
                              enum gemm_output projection) {
    struct gemm product = {};
    product.a = (const uint16_t *)ctx->scratch.normed;
    product.weight = weights->qkv;
    product.c = ctx->scratch.qkv;
    product.n_rows = ctx->batch.n_rows;
    product.n_columns = shape_qkv_columns(ctx->shape);
    product.depth = ctx->shape->hidden;
    product.output = projection;
    return product;
}

bool rmsnorm_qkv_thin_pays(const struct context *ctx, const struct layer_weights *weights) {
    struct gemm product = product_of(ctx, weights, GEMM_F32);
    return product.n_rows <= GEMM_THIN_ROWS && !gemm_wgmma_pays(ctx->device, &product);
}

bool cuda_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                               struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct gemm product = product_of(ctx, of_layer, GEMM_BF16);
    struct row_scales none = {};
    return rmsnorm_rows(ctx, of_layer->input_norm, err) && gemm_run(ctx->device, &product, err) &&
           finish_heads<uint16_t>(ctx, of_layer, layer, &none, err);
}

bool rmsnorm_qkv_many(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct gemm product = product_of(ctx, of_layer, GEMM_F32);
    struct row_scales scales;
    if (!rmsnorm_rows_unscaled(ctx, of_layer->input_norm, &scales, err)) return false;
    if (gemm_wgmma_pays(ctx->device, &product)) {
        struct qkv_heads heads = qkv_heads_from(ctx, of_layer, layer);
        return qkv_wgmma(ctx->device, &product, &heads, ctx->shape->head_dim, &scales, err);
    }
    return gemm_run(ctx->device, &product, err) && finish_heads<float>(ctx, of_layer, layer, &scales, err);
}
