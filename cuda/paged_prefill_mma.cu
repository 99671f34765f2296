/* Attention of chunks of rows where there is no wgmma, in the manner of FlashAttention-2 (Dao, 2023): 64 rows of one
 * head against tiles of 64 keys from position 0 on, scores never leave registers.
 *
 * A tile of keys that a row does not see changes none of its values (its weights are 0, its correction is 1), so a
 * row's result does not depend on the other rows of its chunk. P is rounded to bf16, as is the result. */
#include "cuda/launch.cuh"
#include "cuda/paged_attention.cuh"

#define TILE_ROWS       64
#define TILE_KEYS       64
#define PREFILL_WARPS   (TILE_ROWS / 16)
#define PREFILL_THREADS (PREFILL_WARPS * WARP)

template <int HEAD_DIM> struct geometry {
    static constexpr int pieces = TILE_KEYS * HEAD_DIM / 8; // of 16 bytes in a tile of keys or of values
    static constexpr int line_pieces = HEAD_DIM / 8;
    static constexpr size_t shared_bytes = 4 * pieces * sizeof(uint4);
};

/* Values lie by key, 16-byte pieces swapped within 128 bytes so that eight keys of one piece use all banks. */
template <int HEAD_DIM> __device__ static inline int value_place(int key, int piece) {
    return key * (HEAD_DIM / 8) + (piece ^ (key & 7));
}

/* Grid (row tiles, heads, chunks), four warps of 16 rows. A block reads 4 * head_dim bytes for each key up to its last
 * row, and 2 * head_dim in and out for each row. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(PREFILL_THREADS)
    paged_prefill_mma_kernel(const __grid_constant__ struct attention_params p, int32_t first_seq) {
    constexpr int k_blocks = HEAD_DIM / 32, d_tiles = HEAD_DIM / 8, key_tiles = TILE_KEYS / 8;
    using tile = geometry<HEAD_DIM>;
    extern __shared__ uint4 shared[]; // keys [2][k_blocks][TILE_KEYS][4], then values [2][TILE_KEYS][line_pieces]
    let_next_begin();
    wait_for_previous();
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, g = lane / 4, t = lane % 4;
    int32_t seq = first_seq + (int32_t)blockIdx.z, head = blockIdx.y, kv_head = head / (p.n_heads / p.n_kv_heads);
    int32_t start = p.query_starts[seq], n_rows = p.query_starts[seq + 1] - start;
    int32_t first_row = (int32_t)(gridDim.x - 1 - blockIdx.x) * TILE_ROWS; // the longest first
    if (first_row >= n_rows) return;
    int32_t cached = p.kv_lens[seq] - n_rows; // position of the chunk's first row
    int32_t n_keys = cached + min(first_row + TILE_ROWS, n_rows), n_tiles = (n_keys + TILE_KEYS - 1) / TILE_KEYS;
    const int32_t *block_table = p.block_tables + (size_t)seq * p.max_blocks;

    /* One tile of keys, as fragments, and of values; zeros past the last key, as memory there may hold anything. */
    auto fetch = [&](int32_t index) {
        uint4 *keys = shared + index % 2 * tile::pieces, *values = keys + 2 * tile::pieces;
        if (index < n_tiles) {
#pragma unroll
            for (int i = thread; i < tile::pieces; i += PREFILL_THREADS) {
                int key = i / tile::line_pieces, piece = i % tile::line_pieces;
                int32_t position = index * TILE_KEYS + key;
                bool valid = position < n_keys;
                size_t line = 0;
                if (valid)
                    line =
                        kv_line(p, block_table[block_of(p.divider, position)], position, kv_head, HEAD_DIM) + piece * 8;
                copy_async(keys + (piece / 4 * TILE_KEYS + key) * 4 + piece % 4, p.keys + line, valid);
                copy_async(values + value_place<HEAD_DIM>(key, piece), p.values + line, valid);
            }
        }
        copy_commit();
    };
    fetch(0);

    /* Queries of rows g and g + 8 of this warp; rows past the chunk repeat its last and are not stored. */
    int32_t row[2] = {first_row + warp * 16 + g, first_row + warp * 16 + g + 8};
    uint4 query[k_blocks][2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint16_t *q = p.q + ((size_t)(start + min(row[r], n_rows - 1)) * p.n_heads + head) * HEAD_DIM;
#pragma unroll
        for (int k = 0; k < k_blocks; ++k) query[k][r] = *(const uint4 *)(q + k * 32 + t * 8);
    }

    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    float output[d_tiles][4] = {};
    for (int32_t index = 0; index < n_tiles; ++index) {
        fetch(index + 1);
        copy_wait<1>();
        __syncthreads();
        const uint4 *keys = shared + index % 2 * tile::pieces, *values = keys + 2 * tile::pieces;

        /* Scores of 16 rows and 64 keys. */
        float score[key_tiles][4] = {};
#pragma unroll
        for (int k = 0; k < k_blocks; ++k) {
#pragma unroll
            for (int n = 0; n < key_tiles; ++n)
                mma_k32(score[n], query[k][0], query[k][1], keys[(k * TILE_KEYS + n * 8) * 4 + lane]);
        }

        /* Softmax with a running maximum. The mask matters in tiles that reach past the first row's position. */
        bool masked = (index + 1) * TILE_KEYS > cached + first_row + 1;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            int32_t last_key = cached + row[r] - index * TILE_KEYS; // seen by this row, within the tile
            float highest = maximum[r];
#pragma unroll
            for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float &s = score[n][r * 2 + i];
                    s = masked && n * 8 + t * 2 + i > last_key ? -INFINITY : s * p.scale_log2;
                    highest = fmaxf(highest, s);
                }
            }
            highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
            float correction = exp2f(maximum[r] - highest);
            maximum[r] = highest;
            sum[r] *= correction;
#pragma unroll
            for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    score[n][r * 2 + i] = exp2f(score[n][r * 2 + i] - highest);
                    sum[r] += score[n][r * 2 + i];
                }
            }
#pragma unroll
            for (int d = 0; d < d_tiles; ++d) {
                output[d][r * 2] *= correction;
                output[d][r * 2 + 1] *= correction;
            }
        }

        /* Output += P · V, 16 keys and 16 d at a time. */
#pragma unroll
        for (int k = 0; k < TILE_KEYS / 16; ++k) {
            uint32_t a0 = bf16_pair(score[2 * k][0], score[2 * k][1]), a1 = bf16_pair(score[2 * k][2], score[2 * k][3]);
            uint32_t a2 = bf16_pair(score[2 * k + 1][0], score[2 * k + 1][1]);
            uint32_t a3 = bf16_pair(score[2 * k + 1][2], score[2 * k + 1][3]);
#pragma unroll
            for (int d = 0; d < d_tiles; d += 2) {
                uint4 v = load_tiles_transposed(values + value_place<HEAD_DIM>(k * 16 + lane % 16, d + lane / 16));
                mma_k16(output[d], a0, a1, a2, a3, v.x, v.y);
                mma_k16(output[d + 1], a0, a1, a2, a3, v.z, v.w);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 1);
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 2);
        if (row[r] >= n_rows) continue;
        uint16_t *to = p.attention + ((size_t)(start + row[r]) * p.n_heads + head) * HEAD_DIM;
#pragma unroll
        for (int d = 0; d < d_tiles; ++d)
            *(uint32_t *)(to + d * 8 + t * 2) = bf16_pair(output[d][r * 2] / sum[r], output[d][r * 2 + 1] / sum[r]);
    }
}

/* 64 KB at most, which every supported GPU grants. */
bool paged_prefill_mma_configure(struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(paged_prefill_mma_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)geometry<64>::shared_bytes),
             err);
    CUDA_TRY(cudaFuncSetAttribute(paged_prefill_mma_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)geometry<128>::shared_bytes),
             err);
    return true;
}

bool paged_prefill_mma(const struct context *ctx, const struct attention_params *params, struct error *err) {
    const struct batch *batch = &ctx->batch;
    bool narrow = ctx->shape->head_dim == 64;
    struct launch launch = {dim3((unsigned)divide_up(batch->max_query_len, TILE_ROWS), (unsigned)params->n_heads,
                                 (unsigned)(batch->n_seqs - batch->n_decode)),
                            dim3(PREFILL_THREADS), narrow ? geometry<64>::shared_bytes : geometry<128>::shared_bytes};
    return launch_kernel(ctx->device, launch, narrow ? paged_prefill_mma_kernel<64> : paged_prefill_mma_kernel<128>,
                         err, *params, batch->n_decode);
}
