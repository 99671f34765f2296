/* Products of up to 16 rows: bound by reading the weights, and so short that waiting counts.
 *
 * A group of eight warps makes TILES tiles of 8 columns and shares k; a block has one or two groups. Every lane
 * brings the weights of its own fragments to shared memory, DEPTH steps ahead, and reads them back itself: no barrier.
 * The first steps are on their way before the kernel ahead has ended, and blocks of few registers leave room on the SM
 * for those of the kernel behind. Each warp sums its segment of k in steps of 16 by one accumulator, then the eight
 * segments are added in order: a row's result depends neither on the number of rows nor on TILES, DEPTH or the groups.
 */
#ifndef QUERN_CUDA_THIN_CUH
#define QUERN_CUDA_THIN_CUH

#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/rmsnorm.cuh"

#define THIN_ROWS       16
#define THIN_SEGMENTS   8
#define THIN_THREADS    (THIN_SEGMENTS * WARP) // of a group
#define THIN_STEPS      4                      // of 32 k whose rows and weights are waited for together
#define THIN_NORM_ROWS  4                      // up to here each block norms the rows for itself
#define THIN_NORM_BYTES ((size_t)18 << 10)     // likewise; with rings and sums within 99 KB, the least of any GPU
#define THIN_HELD       4                      // float4 of a row that a thread keeps in registers
#define THIN_ROW_PAD    8                      // values: rows of normed tiles fall into other banks

/* Where the tiles of columns of a group lie. All columns of a tile exist or none: their number is a multiple of 8. */
struct thin_columns {
    const uint16_t *first; // this lane's column g of tile 0
    size_t odd, pair;      // elements from an even tile to its odd neighbour, and from a pair of tiles to the next
    int32_t n_tiles;       // that exist
};

/* bf16 rows in device or shared memory. */
struct thin_rows {
    const uint16_t *first; // this lane's row g
    int32_t pitch;         // elements from row to row
    int32_t count;
};

__device__ static inline struct thin_rows thin_rows_at(const uint16_t *rows, int32_t count, int32_t pitch) {
    return {rows + (size_t)(threadIdx.x % WARP / 4) * pitch, pitch, count};
}

/* 16-byte pieces, and bytes, of a group's ring of weights. */
__host__ __device__ static constexpr int thin_ring_pieces(int tiles, int depth) {
    return depth * tiles * THIN_THREADS;
}
static inline size_t thin_ring_bytes(int tiles, int depth) {
    return (size_t)thin_ring_pieces(tiles, depth) * sizeof(uint4);
}

/* Sums of this warp's segment. ready() gives the rows once the kernels ahead have ended; the first weights are asked
 * for before that. ring: [DEPTH][TILES][THIN_THREADS] in shared memory. MAX_ROWS: 8 or 16. */
template <int TILES, int DEPTH, int MAX_ROWS, class Ready>
__device__ static inline void thin_product(const struct thin_columns &columns, int32_t depth, uint4 *ring, Ready ready,
                                           float (&sums)[TILES][4]) {
    static_assert(DEPTH % THIN_STEPS == 0, "the ring holds whole groups of steps");
    constexpr int STEPS = THIN_STEPS;
    int thread = threadIdx.x % THIN_THREADS, warp = thread / WARP, g = thread % WARP / 4, t = thread % 4;
    int32_t n_steps = ((depth + 31) / 32 + THIN_SEGMENTS - 1) / THIN_SEGMENTS; // in a segment
    int32_t first = warp * n_steps * 32, left = depth - first - t * 8;         // this lane takes 8 of each 32
    const uint4 zero = make_uint4(0, 0, 0, 0);
    ring += thread;

    const uint16_t *column = columns.first + first + t * 8;
    auto fetch = [&](int32_t from) {
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
            int32_t step = from + i;
            bool inside = step < n_steps && step * 32 < left;
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
                if (step >= n_steps) break;
                bool valid = inside && n < columns.n_tiles;
                const uint16_t *source = column + n % 2 * columns.odd + n / 2 * columns.pair + step * 32;
                copy_async(ring + (step % DEPTH * TILES + n) * THIN_THREADS, valid ? source : columns.first, valid);
            }
        }
        copy_commit();
    };
#pragma unroll
    for (int step = 0; step < DEPTH; step += STEPS) fetch(step);
    let_next_begin();
    wait_for_previous();

    struct thin_rows rows = ready();
    const uint16_t *row = rows.first + first + t * 8;
    bool has_top = g < rows.count;
    bool has_bottom = MAX_ROWS == THIN_ROWS && g + 8 < rows.count;
    for (int32_t from = 0; from < n_steps; from += STEPS) {
        uint4 tops[STEPS], bottoms[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
            bool inside = (from + i) * 32 < left && from + i < n_steps;
            tops[i] = has_top && inside ? *(const uint4 *)(row + (from + i) * 32) : zero;
            bottoms[i] = has_bottom && inside ? *(const uint4 *)(row + 8 * rows.pitch + (from + i) * 32) : zero;
        }
        copy_wait<DEPTH / STEPS - 1>();
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
            if (from + i >= n_steps) break;
#pragma unroll
            for (int n = 0; n < TILES; ++n)
                mma_k32(sums[n], tops[i], bottoms[i], ring[((from + i) % DEPTH * TILES + n) * THIN_THREADS]);
        }
        fetch(from + DEPTH);
    }
}

/* A group's segments meet in shared memory. */
template <int TILES> struct thin_sums {
    float partials[THIN_SEGMENTS][THIN_ROWS][TILES * 8];

    __device__ inline void put(const float (&sums)[TILES][4]) {
        int warp = threadIdx.x % THIN_THREADS / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
                *(float2 *)&partials[warp][g + i * 8][n * 8 + t * 2] = make_float2(sums[n][2 * i], sums[n][2 * i + 1]);
        }
    }
    /* After a barrier. */
    __device__ inline float of(int row, int column) const {
        float sum = partials[0][row][column];
#pragma unroll
        for (int segment = 1; segment < THIN_SEGMENTS; ++segment) sum += partials[segment][row][column];
        return sum;
    }
};

/* Up to THIN_NORM_ROWS rows of x times the norm's weight, brought into shared memory by the whole block: the bits of
 * rmsnorm_rows_unscaled. */
struct thin_norm {
    const float *x;       // [n_rows][hidden]
    const uint16_t *norm; // [hidden]
    int32_t n_rows, hidden;
    float eps;

    __host__ __device__ static inline int32_t pitch(int32_t hidden) {
        return hidden + THIN_ROW_PAD;
    }
    inline size_t shared_bytes() const {
        return (size_t)n_rows * (size_t)pitch(hidden) * sizeof(uint16_t);
    }
    /* More or longer rows are normed by rmsnorm_rows, once for all blocks. */
    inline bool fits() const {
        return n_rows <= THIN_NORM_ROWS && shared_bytes() <= THIN_NORM_BYTES;
    }

    /* The norm's weights of this thread, for rows up to 4,096 wide: asked for before the kernels ahead have ended. */
    struct weights {
        uint2 of[THIN_HELD];
    };
    __device__ inline struct weights fetch_weights() const {
        struct weights weights;
#pragma unroll
        for (int j = 0; j < THIN_HELD; ++j) {
            int32_t i = (j * THIN_THREADS + (int32_t)threadIdx.x % THIN_THREADS) * 4;
            weights.of[j] = i < hidden ? __ldg((const uint2 *)(norm + i)) : make_uint2(0, 0);
        }
        return weights;
    }

    __device__ static inline float (*square_sums())[NORM_WARPS] {
        __shared__ float partials[THIN_NORM_ROWS][NORM_WARPS];
        return partials;
    }
    /* After `into` and a barrier. */
    __device__ inline float scale_of(int row) const {
        return inverse_rms(square_sums()[row], hidden, eps);
    }

    /* A group takes every GROUPS-th row. What it has read of a row up to 4,096 wide stays in registers. */
    template <int GROUPS>
    __device__ inline struct thin_rows into(uint16_t *normed, const struct weights &weights) const {
        constexpr int HELD = THIN_HELD;
        float(*partials)[NORM_WARPS] = square_sums();
        static_assert(NORM_WARPS == THIN_SEGMENTS, "a group has the warps of rmsnorm_rows");
        int thread = threadIdx.x % THIN_THREADS, warp = thread / WARP, lane = thread % WARP;
        for (int base = 0; base < n_rows; base += GROUPS) {
            int row = base + threadIdx.x / THIN_THREADS;
            const float *from = x + (size_t)row * hidden;
            float4 held[HELD];
            float square_sum = 0;
            if (row < n_rows) {
#pragma unroll
                for (int j = 0; j < HELD; ++j) {
                    int32_t i = (j * THIN_THREADS + thread) * 4;
                    held[j] = i < hidden ? *(const float4 *)(from + i) : make_float4(0, 0, 0, 0);
                }
#pragma unroll
                for (int j = 0; j < HELD; ++j) square_sum += square_of(held[j]);
                for (int32_t i = (HELD * THIN_THREADS + thread) * 4; i < hidden; i += THIN_THREADS * 4)
                    square_sum += square_of(*(const float4 *)(from + i));
                square_sum = warp_sum(square_sum);
                if (lane == 0) partials[row][warp] = square_sum;
            }
            if (row < n_rows) {
                uint16_t *to = normed + (size_t)row * pitch(hidden);
#pragma unroll
                for (int j = 0; j < HELD; ++j) put(to, (j * THIN_THREADS + thread) * 4, held[j], weights.of[j]);
                for (int32_t i = (HELD * THIN_THREADS + thread) * 4; i < hidden; i += THIN_THREADS * 4)
                    put(to, i, *(const float4 *)(from + i), __ldg((const uint2 *)(norm + i)));
            }
        }
        __syncthreads();
        return thin_rows_at(normed, n_rows, pitch(hidden));
    }

    __device__ static inline float square_of(const float4 &v) {
        return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    __device__ inline void put(uint16_t *to, int32_t i, const float4 &v, const uint2 &weight) const {
        if (i >= hidden) return;
        *(uint2 *)(to + i) = make_uint2(bf16_pair(v.x * bf16_low(weight.x), v.y * bf16_high(weight.x)),
                                        bf16_pair(v.z * bf16_low(weight.y), v.w * bf16_high(weight.y)));
    }
};

#endif
