/* Attention of sequences with one row. All query heads of a KV head are one 16-row tile, so keys and values are read
 * once for them; they come straight from device memory into tensor core fragments.
 *
 * Order of sums: 16 keys at a time; a warp takes every fourth group of its split; four warps, then the splits, are
 * added in order. All of it follows from positions, none from the batch. P is rounded to bf16, as is the result. */
#include "cuda/paged_attention.cuh"

#define DECODE_WARPS      4
#define DECODE_THREADS    (DECODE_WARPS * WARP)
#define GROUP_KEYS        16
#define TILE_HEADS        16
#define MIN_SPLIT_TOKENS  256
#define MAX_PARTIAL_BYTES ((size_t)256 << 20) // longer splits where 256 tokens each would take more workspace

static int32_t max_splits_of(const struct context_limits *limits, int32_t split_tokens) {
    return divide_up(limits->max_blocks * limits->block_size, split_tokens);
}

static size_t n_partials(const struct model_shape *shape, const struct context_limits *limits, int32_t split_tokens) {
    return (size_t)limits->max_seqs * (size_t)shape->n_heads * (size_t)max_splits_of(limits, split_tokens);
}

static size_t partial_bytes(const struct model_shape *shape) {
    return (size_t)shape->head_dim * sizeof(float) + sizeof(float2);
}

static int32_t split_tokens_of(const struct model_shape *shape, const struct context_limits *limits) {
    int32_t tokens = MIN_SPLIT_TOKENS;
    while (max_splits_of(limits, tokens) > 1 &&
           n_partials(shape, limits, tokens) * partial_bytes(shape) > MAX_PARTIAL_BYTES)
        tokens *= 2;
    return tokens;
}

size_t attention_splits_bytes(const struct model_shape *shape, const struct context_limits *limits) {
    return n_partials(shape, limits, split_tokens_of(shape, limits)) * partial_bytes(shape);
}

static struct attention_splits splits_from(const struct context *ctx) {
    struct attention_splits splits = {};
    splits.split_tokens = split_tokens_of(ctx->shape, &ctx->limits);
    splits.max_splits = max_splits_of(&ctx->limits, splits.split_tokens);
    splits.outputs = (float *)ctx->scratch.workspace;
    splits.statistics = (float2 *)(splits.outputs + n_partials(ctx->shape, &ctx->limits, splits.split_tokens) *
                                                        (size_t)ctx->shape->head_dim);
    return splits;
}

/* Bits 16 i of two keys' values side by side, as a B fragment wants them: i = 0 the low halves, 1 the high ones. */
__device__ static inline uint32_t pair_halves(uint32_t first, uint32_t second, int i) {
    return __byte_perm(first, second, i == 0 ? 0x5410 : 0x7632);
}

__device__ static inline uint32_t word_of(const uint4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Grid (splits, KV heads times head tiles, sequences), four warps. A block reads 4 * head_dim bytes for each key of its
 * split, once for up to 16 query heads, and writes one partial result for each of them. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(DECODE_THREADS)
    paged_decode_kernel(const __grid_constant__ struct attention_params p,
                        const __grid_constant__ struct attention_splits splits) {
    constexpr int k_blocks = HEAD_DIM / 32, d_tiles = HEAD_DIM / 8, d_halves = HEAD_DIM / 64;
    __shared__ float outputs[DECODE_WARPS][TILE_HEADS][HEAD_DIM];
    __shared__ float2 statistics[DECODE_WARPS][TILE_HEADS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int32_t seq = blockIdx.z, group = p.n_heads / p.n_kv_heads, tiles = (group + TILE_HEADS - 1) / TILE_HEADS;
    int32_t kv_head = (int32_t)blockIdx.y / tiles, head_in_group = (int32_t)blockIdx.y % tiles * TILE_HEADS;
    int32_t first_head = kv_head * group + head_in_group, n_tile_heads = min(TILE_HEADS, group - head_in_group);
    int32_t kv_len = p.kv_lens[seq], begin = (int32_t)blockIdx.x * splits.split_tokens;
    int32_t end = min(kv_len, begin + splits.split_tokens);
    if (begin >= kv_len) return;
    const int32_t *block_table = p.block_tables + (size_t)seq * p.max_blocks;
    const uint4 zero = make_uint4(0, 0, 0, 0);

    /* Queries: rows of the A tile, the same for every key. */
    const uint16_t *q = p.q + ((size_t)seq * p.n_heads + first_head) * HEAD_DIM;
    uint4 query[k_blocks][2];
#pragma unroll
    for (int k = 0; k < k_blocks; ++k) {
        query[k][0] = g < n_tile_heads ? *(const uint4 *)(q + (size_t)g * HEAD_DIM + k * 32 + t * 8) : zero;
        query[k][1] = g + 8 < n_tile_heads ? *(const uint4 *)(q + (size_t)(g + 8) * HEAD_DIM + k * 32 + t * 8) : zero;
    }

    /* Eight keys from a multiple of 8 on lie in one block, as block_size is a multiple of 8. */
    auto block_at = [&](int32_t position) { return position < end ? block_table[block_of(p.divider, position)] : 0; };
    int32_t position = begin + warp * GROUP_KEYS, blocks[2] = {block_at(position), block_at(position + 8)};

    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}; // of rows g and g + 8
    float output[d_tiles][4] = {};
    for (; position < end; position += DECODE_WARPS * GROUP_KEYS) {
        /* Loads, all before the first use. Keys: lane (g, t) takes 8t … 8t + 7 of each 32 of key 8 n + g. Values: it
         * takes d = 64 h + 8g … 8g + 7 of keys 8 n + 2t and 8 n + 2t + 1. Past the end: zeros, as memory there may
         * hold anything. */
        uint4 key[2][k_blocks], value[2][2][d_halves];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            int32_t first = position + 8 * n;
            size_t line = kv_line(p, blocks[n], first, kv_head, HEAD_DIM);
#pragma unroll
            for (int k = 0; k < k_blocks; ++k)
                key[n][k] = first + g < end ? load_once(p.keys + line + g * HEAD_DIM + k * 32 + t * 8) : zero;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint16_t *from = p.values + line + (2 * t + i) * HEAD_DIM + g * 8;
#pragma unroll
                for (int h = 0; h < d_halves; ++h)
                    value[n][i][h] = first + 2 * t + i < end ? load_once(from + h * 64) : zero;
            }
            blocks[n] = block_at(first + DECODE_WARPS * GROUP_KEYS); // for the next round
        }

        /* Scores of 16 heads and 16 keys. */
        float score[2][4] = {};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int k = 0; k < k_blocks; ++k) mma_k32(score[n], query[k][0], query[k][1], key[n][k]);
        }

        /* Softmax with a running maximum, for rows g and g + 8. */
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float highest = maximum[r];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float &s = score[i / 2][r * 2 + i % 2];
                s = position + i / 2 * 8 + 2 * t + i % 2 < end ? s * p.scale_log2 : -INFINITY;
                highest = fmaxf(highest, s);
            }
            highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
            float correction = exp2f(maximum[r] - highest);
            maximum[r] = highest;
            sum[r] *= correction;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float &s = score[i / 2][r * 2 + i % 2];
                s = exp2f(s - highest);
                sum[r] += s;
            }
#pragma unroll
            for (int d = 0; d < d_tiles; ++d) {
                output[d][r * 2] *= correction;
                output[d][r * 2 + 1] *= correction;
            }
        }

        /* Output += P · V. Scores are already an A fragment. Column g of tile 8 h + i is d = 64 h + 8g + i. */
        uint32_t a0 = bf16_pair(score[0][0], score[0][1]), a1 = bf16_pair(score[0][2], score[0][3]);
        uint32_t a2 = bf16_pair(score[1][0], score[1][1]), a3 = bf16_pair(score[1][2], score[1][3]);
#pragma unroll
        for (int d = 0; d < d_tiles; ++d) {
            int h = d / 8, word = d % 8 / 2, half = d % 2;
            uint32_t b0 = pair_halves(word_of(value[0][0][h], word), word_of(value[0][1][h], word), half);
            uint32_t b1 = pair_halves(word_of(value[1][0][h], word), word_of(value[1][1][h], word), half);
            mma_k16(output[d], a0, a1, a2, a3, b0, b1);
        }
    }

    /* Warps meet in shared memory. */
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 1);
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 2);
        if (t == 0) statistics[warp][g + r * 8] = make_float2(maximum[r], sum[r]);
#pragma unroll
        for (int d = 0; d < d_tiles; ++d) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
                outputs[warp][g + r * 8][d / 8 * 64 + (2 * t + i) * 8 + d % 8] = output[d][r * 2 + i];
        }
    }
    __syncthreads();

    bool alone = kv_len <= splits.split_tokens;
    for (int i = threadIdx.x; i < n_tile_heads * HEAD_DIM; i += DECODE_THREADS) {
        int head = i / HEAD_DIM, d = i % HEAD_DIM;
        float highest = -INFINITY, total = 0, out = 0;
        for (int w = 0; w < DECODE_WARPS; ++w) highest = fmaxf(highest, statistics[w][head].x);
        for (int w = 0; w < DECODE_WARPS; ++w) {
            float share = exp2f(statistics[w][head].x - highest); // 0 of a warp without keys
            total += share * statistics[w][head].y;
            out += share * outputs[w][head][d];
        }
        size_t row = (size_t)seq * p.n_heads + first_head + head;
        size_t partial = row * splits.max_splits + blockIdx.x;
        if (alone) {
            p.attention[row * HEAD_DIM + d] = bf16_bits(out / total);
        } else {
            splits.outputs[partial * HEAD_DIM + d] = out;
            if (d == 0) splits.statistics[partial] = make_float2(highest, total);
        }
    }
}

/* Grid (heads, sequences), one thread for each d: adds the splits of a row in order. Reads 4 * head_dim bytes a
 * split. */
__global__ static void __launch_bounds__(MAX_HEAD_DIM)
    combine_splits_kernel(const __grid_constant__ struct attention_params p,
                          const __grid_constant__ struct attention_splits splits) {
    int32_t kv_len = p.kv_lens[blockIdx.y], head_dim = (int32_t)blockDim.x, d = threadIdx.x;
    if (kv_len <= splits.split_tokens) return; // written by its only split
    int32_t n_splits = (kv_len + splits.split_tokens - 1) / splits.split_tokens;
    size_t row = (size_t)blockIdx.y * p.n_heads + blockIdx.x;
    const float2 *statistics = splits.statistics + row * splits.max_splits;
    const float *outputs = splits.outputs + row * splits.max_splits * head_dim;
    float highest = -INFINITY, total = 0, out = 0;
    for (int32_t s = 0; s < n_splits; ++s) highest = fmaxf(highest, statistics[s].x);
    for (int32_t s = 0; s < n_splits; ++s) {
        float share = exp2f(statistics[s].x - highest);
        total += share * statistics[s].y;
        out += share * outputs[(size_t)s * head_dim + d];
    }
    p.attention[row * head_dim + d] = bf16_bits(out / total);
}

bool paged_decode(const struct context *ctx, const struct attention_params *params, struct error *err) {
    struct attention_splits splits = splits_from(ctx);
    int32_t n_splits = divide_up(ctx->batch.max_kv_len, splits.split_tokens);
    int32_t head_tiles = divide_up(params->n_heads / params->n_kv_heads, TILE_HEADS);
    dim3 grid((unsigned)n_splits, (unsigned)(params->n_kv_heads * head_tiles), (unsigned)ctx->batch.n_decode);
    if (ctx->shape->head_dim == 64)
        paged_decode_kernel<64><<<grid, DECODE_THREADS, 0, ctx->device->stream>>>(*params, splits);
    else
        paged_decode_kernel<128><<<grid, DECODE_THREADS, 0, ctx->device->stream>>>(*params, splits);
    CUDA_TRY(cudaGetLastError(), err);
    if (n_splits == 1) return true;

    dim3 rows((unsigned)params->n_heads, (unsigned)ctx->batch.n_decode);
    combine_splits_kernel<<<rows, (unsigned)ctx->shape->head_dim, 0, ctx->device->stream>>>(*params, splits);
    CUDA_TRY(cudaGetLastError(), err);
    return true;
}
