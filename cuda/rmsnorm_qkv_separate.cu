/* rmsnorm_qkv as standard kernels: norm to scratch.normed, product to scratch.qkv, then the heads. Rounding: normed and
 * qkv to bf16. */
#include "cuda/gemm.cuh"
#include "cuda/ops.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/rmsnorm.cuh"

#include <assert.h>

#define HEADS_WARPS 8

/* One warp per row and head: 2 * head_dim bytes in, as many out. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(HEADS_WARPS *WARP)
    qkv_heads_kernel(const uint16_t *qkv, int32_t n_rows, struct qkv_heads heads) {
    int32_t n_heads = heads.n_heads + 2 * heads.n_kv_heads, lane = threadIdx.x % WARP;
    int64_t index = (int64_t)blockIdx.x * HEADS_WARPS + threadIdx.x / WARP;
    if (index >= (int64_t)n_rows * n_heads) return;
    int32_t row = (int32_t)(index / n_heads), head = (int32_t)(index % n_heads);
    const uint16_t *from = qkv + index * HEAD_DIM;
    head_slice<HEAD_DIM> slice;
    for (int i = 0; i < slice.pairs; ++i) {
        slice.low[i] = __uint_as_float((uint32_t)from[lane * slice.pairs + i] << 16);
        slice.high[i] = __uint_as_float((uint32_t)from[HEAD_DIM / 2 + lane * slice.pairs + i] << 16);
    }
    finish_head<HEAD_DIM>(heads, row, head, lane, slice);
}

bool cuda_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                               struct error *err) {
    const struct model_shape *shape = ctx->shape;
    const struct layer_weights *of_layer = &weights->layers[layer];
    if (!rmsnorm_rows(ctx, of_layer->input_norm, err)) return false;

    struct gemm product = {};
    product.a = (const uint16_t *)ctx->scratch.normed;
    product.weight = of_layer->qkv;
    product.c = ctx->scratch.qkv;
    product.n_rows = ctx->batch.n_rows;
    product.n_columns = shape_qkv_columns(shape);
    product.depth = shape->hidden;
    product.output = GEMM_BF16;
    if (!gemm_run(ctx->device, &product, err)) return false;

    struct qkv_heads heads = qkv_heads_from(ctx, of_layer, layer);
    int64_t n_warps = (int64_t)ctx->batch.n_rows * (shape->n_heads + 2 * shape->n_kv_heads);
    unsigned n_blocks = (unsigned)((n_warps + HEADS_WARPS - 1) / HEADS_WARPS);
    const uint16_t *qkv = (const uint16_t *)ctx->scratch.qkv;
    cudaStream_t stream = ctx->device->stream;
    assert(shape->head_dim == 64 || shape->head_dim == 128); // prepare_shape
    if (shape->head_dim == 64)
        qkv_heads_kernel<64><<<n_blocks, HEADS_WARPS * WARP, 0, stream>>>(qkv, ctx->batch.n_rows, heads);
    else
        qkv_heads_kernel<128><<<n_blocks, HEADS_WARPS * WARP, 0, stream>>>(qkv, ctx->batch.n_rows, heads);
    CUDA_TRY(cudaGetLastError(), err);
    return true;
}
