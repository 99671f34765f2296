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

/* Where a row's head goes: queries to scratch, keys and values to their slot. NULL: nowhere, a row of padding. */
__device__ static inline uint16_t *head_destination(const struct qkv_heads &heads, int32_t row, int32_t head,
                                                    int head_dim) {
    if (head < heads.n_heads) return heads.q + ((size_t)row * heads.n_heads + head) * head_dim;
    if (__ldg(heads.kv_slots + row) < 0) return NULL;
    int32_t kv_head = head - heads.n_heads;
    bool is_value = kv_head >= heads.n_kv_heads;
    return (is_value ? heads.values : heads.keys) +
           kv_offset(heads, row, is_value ? kv_head - heads.n_kv_heads : kv_head, head_dim);
}

/* RoPE of an angle, which is the float32 product of position and frequency, as the model was trained with. Whole turns
 * are taken off without loss (angle / (2 pi) in two floats), which keeps 40,960 positions exact without the slow path
 * of sincosf. The sine is to 4e-7, which is under the rounding to bf16 that follows. */
__device__ static inline void rope_rotation(float angle, float *sine, float *cosine) {
    const float inverse = 0.15915494f, rest_of_inverse = 6.4206383e-9f; // of 1 / (2 pi)
    float turns = __fmul_rn(angle, inverse);
    float rest = __fmaf_rn(angle, rest_of_inverse, __fmaf_rn(angle, inverse, -turns));
    __sincosf((turns - rintf(turns) + rest) * 6.2831853f, sine, cosine);
}
/* Of dimension d < head_dim / 2. */
__device__ static inline void rope_angle(const struct qkv_heads &heads, float position, int d, float *sine,
                                         float *cosine) {
    rope_rotation(__fmul_rn(position, __ldg(heads.rope + d)), sine, cosine);
}

/* The rotation of a pair, rounded alike by every kernel. */
__device__ static inline float rotated_low(float low, float high, float sine, float cosine) {
    return __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
}
__device__ static inline float rotated_high(float low, float high, float sine, float cosine) {
    return __fmaf_rn(high, cosine, __fmul_rn(low, sine));
}

/* Pairs (d, d + head_dim / 2) that one lane rotates: d = lane * pairs + i. */
template <int HEAD_DIM> struct head_slice {
    static constexpr int pairs = HEAD_DIM / 2 / WARP;
    float low[pairs], high[pairs];

    /* Over the warp, in the order of every kernel: eight dimensions as a tree, then their partners, then these parts
     * one after another. */
    __device__ inline float square_sum() const {
        float low_sum = __fmul_rn(low[0], low[0]), high_sum = __fmul_rn(high[0], high[0]);
        for (int i = 1; i < pairs; ++i) {
            low_sum = __fadd_rn(low_sum, __fmul_rn(low[i], low[i]));
            high_sum = __fadd_rn(high_sum, __fmul_rn(high[i], high[i]));
        }
        for (int step = 1; step < 8 / pairs; step *= 2) {
            low_sum += __shfl_xor_sync(ALL_LANES, low_sum, step);
            high_sum += __shfl_xor_sync(ALL_LANES, high_sum, step);
        }
        float part = low_sum + high_sum, sum = 0;
        for (int first = 0; first < WARP; first += 8 / pairs) sum += __shfl_sync(ALL_LANES, part, first);
        return sum;
    }
};

/* One warp, one row: the head's float32 projection in, bf16 out, rounded once after the rotation. */
template <int HEAD_DIM>
__device__ static inline void finish_head(const struct qkv_heads &heads, int32_t row, int32_t head, int lane,
                                          head_slice<HEAD_DIM> slice) {
    constexpr int pairs = head_slice<HEAD_DIM>::pairs;
    if (head < heads.n_heads + heads.n_kv_heads) {
        const uint16_t *norm = (head < heads.n_heads ? heads.q_norm : heads.k_norm) + lane * pairs;
        float scale = 1.0f / sqrtf(slice.square_sum() / HEAD_DIM + heads.eps);
        float position = (float)__ldg(heads.positions + row);
        for (int i = 0; i < pairs; ++i) {
            float low = slice.low[i] * scale * bf16_low(__ldg(norm + i));
            float high = slice.high[i] * scale * bf16_low(__ldg(norm + i + HEAD_DIM / 2));
            float sine, cosine;
            rope_angle(heads, position, lane * pairs + i, &sine, &cosine);
            slice.low[i] = rotated_low(low, high, sine, cosine);
            slice.high[i] = rotated_high(low, high, sine, cosine);
        }
    }
    uint16_t *to = head_destination(heads, row, head, HEAD_DIM);
    if (!to) return;
    store_bf16(to + lane * pairs, slice.low);
    store_bf16(to + HEAD_DIM / 2 + lane * pairs, slice.high);
}

#endif
