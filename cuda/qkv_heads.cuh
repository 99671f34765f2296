/* The end of rmsnorm_qkv, per head: QK-norm, RoPE, and where the result goes. One function for both forms of the op. */
#ifndef QUERN_CUDA_QKV_HEADS_CUH
#define QUERN_CUDA_QKV_HEADS_CUH

#include "cuda/device.cuh"
#include "cuda/math.cuh"

struct qkv_heads {
    const uint16_t *q_norm, *k_norm;     // [head_dim]
    const float *rope;                   // [head_dim / 2]
    const int32_t *positions, *kv_slots; // [n_rows]
    uint16_t *q;                         // [n_rows][n_heads][head_dim]
    uint16_t *keys, *values;             // [n_blocks][n_kv_heads][block_size][head_dim]
    int32_t n_heads, n_kv_heads, block_size;
    float eps;
};

static inline struct qkv_heads qkv_heads_from(const struct context *ctx, const struct layer_weights *weights,
                                              int32_t layer) {
    struct qkv_heads heads = {};
    heads.q_norm = weights->q_norm;
    heads.k_norm = weights->k_norm;
    heads.rope = ctx->device->rope;
    heads.positions = ctx->batch.positions;
    heads.kv_slots = ctx->batch.kv_slots;
    heads.q = (uint16_t *)ctx->scratch.q;
    heads.keys = (uint16_t *)kv_keys(ctx, layer);
    heads.values = (uint16_t *)kv_values(ctx, layer);
    heads.n_heads = ctx->shape->n_heads;
    heads.n_kv_heads = ctx->shape->n_kv_heads;
    heads.block_size = ctx->kv.block_size;
    heads.eps = ctx->shape->rms_eps;
    return heads;
}

/* Place of a row's key or value of one head in the paged cache. */
__device__ static inline size_t kv_offset(const struct qkv_heads &heads, int32_t row, int32_t kv_head, int head_dim) {
    int32_t slot = __ldg(heads.kv_slots + row), block = slot / heads.block_size;
    size_t line = ((size_t)block * heads.n_kv_heads + kv_head) * heads.block_size + (slot - block * heads.block_size);
    return line * head_dim;
}

/* Pairs (d, d + head_dim / 2) that one lane rotates: d = lane * pairs + i. */
template <int HEAD_DIM> struct head_slice {
    static constexpr int pairs = HEAD_DIM / 2 / WARP;
    float low[pairs], high[pairs];
};

/* One warp: the head's float32 projection in, bf16 out, rounded once after the rotation. */
template <int HEAD_DIM>
__device__ static inline void finish_head(const struct qkv_heads &heads, int32_t row, int32_t head, int lane,
                                          head_slice<HEAD_DIM> slice) {
    constexpr int pairs = head_slice<HEAD_DIM>::pairs;
    bool is_query = head < heads.n_heads, is_value = head >= heads.n_heads + heads.n_kv_heads;

    if (!is_value) {
        /* QK-norm over the head. */
        const uint16_t *weight = is_query ? heads.q_norm : heads.k_norm;
        float sum = 0;
        for (int i = 0; i < pairs; ++i) sum += slice.low[i] * slice.low[i] + slice.high[i] * slice.high[i];
        float scale = 1.0f / sqrtf(warp_sum(sum) / HEAD_DIM + heads.eps);

        /* RoPE. The angle is the float32 product, as the model was trained with; whole turns are taken off in float64,
         * which keeps 40,960 positions exact without the slow path of sincosf. */
        float position = (float)__ldg(heads.positions + row);
        for (int i = 0; i < pairs; ++i) {
            int d = lane * pairs + i;
            float low = slice.low[i] * scale * __uint_as_float((uint32_t)__ldg(weight + d) << 16);
            float high = slice.high[i] * scale * __uint_as_float((uint32_t)__ldg(weight + d + HEAD_DIM / 2) << 16);
            double turns = (double)(position * __ldg(heads.rope + d)) * 0.15915494309189535; // 1 / (2 pi)
            float sine, cosine;
            sincospif(2.0f * (float)(turns - rint(turns)), &sine, &cosine);
            slice.low[i] = low * cosine - high * sine;
            slice.high[i] = high * cosine + low * sine;
        }
    }

    /* Scatter: queries to scratch, keys and values to their slot. */
    uint16_t *to;
    if (is_query) {
        to = heads.q + ((size_t)row * heads.n_heads + head) * HEAD_DIM;
    } else {
        int32_t kv_head = head - heads.n_heads - (is_value ? heads.n_kv_heads : 0);
        to = (is_value ? heads.values : heads.keys) + kv_offset(heads, row, kv_head, HEAD_DIM);
    }
    for (int i = 0; i < pairs; ++i) {
        to[lane * pairs + i] = bf16_bits(slice.low[i]);
        to[HEAD_DIM / 2 + lane * pairs + i] = bf16_bits(slice.high[i]);
    }
}

#endif
