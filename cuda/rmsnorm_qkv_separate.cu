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

#define HEADS_WARPS   8
#define HEADS_AT_ONCE 4 // of a row by one warp, which finds the rotation once

/* Neighbours of a lane, brought in one access. */
template <int N> __device__ static inline void load(float (&values)[N], const float *from) {
    if constexpr (N == 2) {
        float2 pair = *(const float2 *)from;
        values[0] = pair.x;
        values[1] = pair.y;
    } else {
        for (int i = 0; i < N; ++i) values[i] = from[i];
    }
}
template <int N> __device__ static inline void load(float (&values)[N], const uint16_t *from) {
    if constexpr (N == 2) {
        uint32_t pair = *(const uint32_t *)from;
        values[0] = bf16_low(pair);
        values[1] = bf16_high(pair);
    } else {
        for (int i = 0; i < N; ++i) values[i] = bf16_low(from[i]);
    }
}

/* One warp for HEADS_AT_ONCE heads of a row: of each head_dim projections in, 2 * head_dim bytes out. */
template <int HEAD_DIM, class Projection>
__global__ static void __launch_bounds__(HEADS_WARPS *WARP)
    qkv_heads_kernel(const Projection *qkv, int32_t n_rows, struct qkv_heads heads) {
    constexpr int pairs = head_slice<HEAD_DIM>::pairs;
    int32_t n_heads = heads.n_heads + 2 * heads.n_kv_heads, lane = threadIdx.x % WARP;
    int32_t n_groups = (n_heads + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE;
    int32_t index = (int32_t)blockIdx.x * HEADS_WARPS + (int32_t)threadIdx.x / WARP;
    int32_t row = index / n_groups, first_head = index % n_groups * HEADS_AT_ONCE;
    let_next_begin();
    prefetch(heads.q_norm + lane * HEAD_DIM / WARP);
    prefetch(heads.k_norm + lane * HEAD_DIM / WARP);
    wait_for_previous();
    if (row >= n_rows) return;
    const Projection *from = qkv + ((size_t)row * n_heads + first_head) * HEAD_DIM + lane * pairs;
    head_slice<HEAD_DIM> slices[HEADS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < HEADS_AT_ONCE; ++i) {
        if (first_head + i >= n_heads) break;
        load(slices[i].low, from + i * HEAD_DIM);
        load(slices[i].high, from + i * HEAD_DIM + HEAD_DIM / 2);
    }
    float sines[pairs], cosines[pairs], position = (float)__ldg(heads.positions + row);
    for (int i = 0; i < pairs; ++i) rope_angle(heads, position, lane * pairs + i, &sines[i], &cosines[i]);
    auto rotation = [&](int i, float *sine, float *cosine) { *sine = sines[i], *cosine = cosines[i]; };
#pragma unroll
    for (int i = 0; i < HEADS_AT_ONCE; ++i) {
        if (first_head + i < n_heads) finish_head<HEAD_DIM>(heads, row, first_head + i, lane, slices[i], rotation);
    }
}

template <class Projection>
static bool finish_heads(const struct context *ctx, const struct layer_weights *weights, int32_t layer,
                         struct error *err) {
    const struct model_shape *shape = ctx->shape;
    int32_t n_warps = ctx->batch.n_rows * divide_up(shape->n_heads + 2 * shape->n_kv_heads, HEADS_AT_ONCE);
    struct launch launch = {dim3((unsigned)divide_up(n_warps, HEADS_WARPS)), dim3(HEADS_WARPS * WARP)};
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
