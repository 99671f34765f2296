/* What gemm_wgmma.cu does with the sums of a tile.
 *
 * A tile is OUTPUTS lines of weights in groups of 16: thread t of warp w has lines 16w + t / 4 and the one 8 further,
 * of rows 2(t % 4) and the next of each group of 8. An end says by its map which outputs the lines of a group are, so
 * that those which belong together meet in one thread. That thread places what they make into lines in shared memory,
 * one for each row, which then go out in pieces of 16 bytes: a store costs by the lines of memory that it touches. */
#ifndef QUERN_CUDA_WGMMA_ENDS_CUH
#define QUERN_CUDA_WGMMA_ENDS_CUH

#include "cuda/gemm_wgmma.cuh"
#include "cuda/mlp.cuh"
#include "cuda/qkv_heads.cuh"

/* Lines of the weight as three dimensions of groups of 8; and how many of each make a tile. */
struct line_groups {
    int32_t count[3];
    int64_t stride[3]; // lines
    int32_t tile[3];
    int32_t dimension; // in which the tiles follow each other
};

/* Sums of one thread: rows row and row + 1 of a line, and of the line 8 further. */
struct thread_sums {
    float first[2], second[2];
};

/* By the threads that multiply, once the kernels ahead have ended; to be read after they have met. */
__device__ static inline void put_scales(const struct row_scales &scales, float *to, int32_t n_rows) {
    if (threadIdx.x >= WARPGROUP) return;
    for (int32_t first = 0; first < n_rows; first += WARPGROUP / 4) {
        int32_t row = min(first + (int32_t)threadIdx.x / 4, n_rows - 1);
        float scale = scale_of_row_by_four(scales, row);
        if (threadIdx.x % 4 == 0) to[row] = scale;
    }
}

/* ---- c = the product ---- */

__device__ static inline void place_sums(char *line, int32_t pitch, const thread_sums &sums) {
    float *to = (float *)line + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    to[0] = sums.first[0];
    to[8] = sums.second[0];
    to[pitch / 4] = sums.first[1];
    to[pitch / 4 + 8] = sums.second[1];
}

/* Does not wait for what it adds to. */
__device__ static inline void add_f32x4(float *to, const uint4 &sums) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(__uint_as_float(sums.x)),
                 "f"(__uint_as_float(sums.y)), "f"(__uint_as_float(sums.z)), "f"(__uint_as_float(sums.w))
                 : "memory");
#endif
}

template <int OUTPUTS> struct plain_end {
    static constexpr int outputs = OUTPUTS;
    static constexpr bool meets = false;
    void *c; // [n_rows][n_columns]
    int32_t n_columns;
    enum gemm_output output;

    inline struct line_groups groups() const {
        return {{n_columns / 8, 1, 1}, {8, 8, 8}, {OUTPUTS / 8, 1, 1}, 0};
    }

    static constexpr int line_bytes = OUTPUTS * 4;
    template <int ROWS> struct state {};
    template <int ROWS> struct of_thread {
        int32_t tile;
        __device__ inline of_thread(const plain_end &, state<ROWS> &, int32_t tile, int32_t) : tile(tile) {}
        __device__ inline void begin(const plain_end &, state<ROWS> &, int32_t, int32_t, int32_t) {}
        __device__ inline void place(const plain_end &, state<ROWS> &, int32_t, char *line, int32_t pitch,
                                     const thread_sums &sums) const {
            place_sums(line, pitch, sums);
        }
        __device__ inline void store(const plain_end &end, const state<ROWS> &, int32_t row, bool exists, int32_t piece,
                                     const uint4 &sums, bool) const {
            int32_t column = tile * OUTPUTS + piece * 4;
            size_t at = (size_t)row * end.n_columns + column;
            if (!exists || column >= end.n_columns) return;
            if (end.output == GEMM_BF16)
                *(uint2 *)((uint16_t *)end.c + at) =
                    make_uint2(bf16_pair(__uint_as_float(sums.x), __uint_as_float(sums.y)),
                               bf16_pair(__uint_as_float(sums.z), __uint_as_float(sums.w)));
            if (end.output == GEMM_F32) *(uint4 *)((float *)end.c + at) = sums;
            if (end.output == GEMM_ADD_F32) add_f32x4((float *)end.c + at, sums);
        }
    };
};

/* ---- x += the product, and what the norm that follows needs of the sums ---- */

struct add_end {
    static constexpr int outputs = SQUARED_COLUMNS;
    static constexpr bool meets = false;
    float *x; // [n_rows][n_columns]
    int32_t n_columns;
    struct next_rows next;

    inline struct line_groups groups() const {
        return {{n_columns / 8, 1, 1}, {8, 8, 8}, {outputs / 8, 1, 1}, 0};
    }

    static constexpr int line_bytes = outputs * 4, pieces = line_bytes / 16;
    template <int ROWS> struct state {};
    template <int ROWS> struct of_thread {
        int32_t tile;
        float4 before; // of the first row that this thread stores: asked for before the product
        uint2 norm;    // of its columns, the same in all rows
        __device__ inline of_thread(const add_end &, state<ROWS> &, int32_t tile, int32_t) : tile(tile) {}
        __device__ inline void begin(const add_end &end, state<ROWS> &, int32_t row, int32_t piece, int32_t n_rows) {
            int32_t column = tile * outputs + piece * 4;
            norm = __ldg((const uint2 *)(end.next.norm + column));
            if (row < n_rows) before = *(const float4 *)(end.x + (size_t)row * end.n_columns + column);
        }
        __device__ inline void place(const add_end &, state<ROWS> &, int32_t, char *line, int32_t pitch,
                                     const thread_sums &sums) const {
            place_sums(line, pitch, sums);
        }
        /* By whole warps: the pieces of a row are those of 16 neighbours. */
        __device__ inline void store(const add_end &end, const state<ROWS> &, int32_t row, bool exists, int32_t piece,
                                     const uint4 &sums, bool is_first) const {
            size_t at = (size_t)row * end.n_columns + tile * outputs + piece * 4;
            float4 sum = make_float4(0, 0, 0, 0);
            if (exists) {
                float4 old = is_first ? before : *(const float4 *)(end.x + at);
                sum = make_float4(old.x + __uint_as_float(sums.x), old.y + __uint_as_float(sums.y),
                                  old.z + __uint_as_float(sums.z), old.w + __uint_as_float(sums.w));
                *(float4 *)(end.x + at) = sum;
                *(uint2 *)(end.next.normed + at) =
                    make_uint2(bf16_pair(sum.x * bf16_low(norm.x), sum.y * bf16_high(norm.x)),
                               bf16_pair(sum.z * bf16_low(norm.y), sum.w * bf16_high(norm.y)));
            }
            float squares = sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w;
#pragma unroll
            for (int step = pieces / 2; step > 0; step /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, step);
            if (exists && piece == 0) end.next.squares[(size_t)row * (end.n_columns / outputs) + tile] = squares;
        }
    };
};

/* ---- activated = silu(gate) * up: a group is 8 lines of gate and the same of up ---- */

template <int OUTPUTS> struct gate_up_end {
    static constexpr int outputs = OUTPUTS;
    static constexpr bool meets = false;
    uint16_t *activated; // [n_rows][intermediate]
    int32_t intermediate;
    struct row_scales scales;

    inline struct line_groups groups() const {
        return {{2, intermediate / 8, 1}, {intermediate, 8, 8}, {2, OUTPUTS / 16, 1}, 1};
    }

    static constexpr int line_bytes = OUTPUTS;
    template <int ROWS> struct state { float scales[ROWS]; };
    template <int ROWS> struct of_thread {
        int32_t tile;
        __device__ inline of_thread(const gate_up_end &, state<ROWS> &, int32_t tile, int32_t) : tile(tile) {}
        __device__ inline void begin(const gate_up_end &end, state<ROWS> &shared, int32_t, int32_t, int32_t n_rows) {
            put_scales(end.scales, shared.scales, n_rows);
        }
        __device__ inline void place(const gate_up_end &, state<ROWS> &shared, int32_t row, char *line, int32_t pitch,
                                     const thread_sums &sums) const {
            uint16_t *to = (uint16_t *)line + threadIdx.x / WARP * 8 + threadIdx.x % WARP / 4;
            to[0] = silu_times(bf16_bits(sums.first[0]), bf16_bits(sums.second[0]), shared.scales[row]);
            to[pitch / 2] = silu_times(bf16_bits(sums.first[1]), bf16_bits(sums.second[1]), shared.scales[row + 1]);
        }
        __device__ inline void store(const gate_up_end &end, const state<ROWS> &, int32_t row, bool exists,
                                     int32_t piece, const uint4 &values, bool) const {
            int32_t column = tile * (OUTPUTS / 2) + piece * 8;
            if (exists && column < end.intermediate)
                *(uint4 *)(end.activated + (size_t)row * end.intermediate + column) = values;
        }
    };
};

/* ---- QK-norm, RoPE, append: a tile is a head, a group 8 dimensions and their partners of the rotation ---- */

template <int HEAD_DIM> struct heads_end {
    static constexpr int outputs = HEAD_DIM, warps = HEAD_DIM / 16;
    static constexpr bool meets = true; // between prepare and place
    struct qkv_heads heads;
    struct row_scales scales;

    inline struct line_groups groups() const {
        return {{2, HEAD_DIM / 16, heads.n_heads + 2 * heads.n_kv_heads},
                {HEAD_DIM / 2, 8, HEAD_DIM},
                {2, HEAD_DIM / 16, 1},
                2};
    }

    static constexpr int line_bytes = HEAD_DIM * 2;
    template <int ROWS> struct state {
        uint16_t *to[ROWS];
        float position[ROWS];
        float squares[warps][ROWS];
        float scales[ROWS];
    };
    template <int ROWS> struct of_thread {
        int32_t d; // dimension, beside its partner d + HEAD_DIM / 2
        float low_norm, high_norm, frequency;
        bool is_value;
        __device__ inline of_thread(const heads_end &end, state<ROWS> &shared, int32_t head, int32_t n_rows)
            : d(threadIdx.x / WARP % warps * 8 + threadIdx.x % WARP / 4) {
            const struct qkv_heads &heads = end.heads;
            for (int32_t of = (int32_t)threadIdx.x; of < n_rows; of += warps * WARP) {
                shared.to[of] = head_destination(heads, of, head, HEAD_DIM);
                shared.position[of] = (float)__ldg(heads.positions + of);
            }
            const uint16_t *norm = head < heads.n_heads ? heads.q_norm : heads.k_norm;
            low_norm = bf16_low(__ldg(norm + d));
            high_norm = bf16_low(__ldg(norm + d + HEAD_DIM / 2));
            frequency = __ldg(heads.rope + d);
            is_value = head >= heads.n_heads + heads.n_kv_heads;
        }
        __device__ inline void begin(const heads_end &end, state<ROWS> &shared, int32_t, int32_t, int32_t n_rows) {
            put_scales(end.scales, shared.scales, n_rows);
        }

        __device__ inline void prepare(state<ROWS> &shared, int32_t row, const thread_sums &sums) const {
            float squares[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float first = sums.first[i] * shared.scales[row + i], second = sums.second[i] * shared.scales[row + i];
                squares[i] = first * first + second * second;
            }
#pragma unroll
            for (int step = 4; step < WARP; step *= 2) {
#pragma unroll
                for (int i = 0; i < 2; ++i) squares[i] += __shfl_xor_sync(ALL_LANES, squares[i], step);
            }
            if (threadIdx.x % WARP < 4)
                *(float2 *)&shared.squares[threadIdx.x / WARP][row] = make_float2(squares[0], squares[1]);
        }
        __device__ inline void place(const heads_end &end, state<ROWS> &shared, int32_t row, char *line, int32_t pitch,
                                     const thread_sums &sums) const {
            float2 square_sums = make_float2(0, 0);
#pragma unroll
            for (int w = 0; w < warps; ++w) {
                float2 part = *(const float2 *)&shared.squares[w][row];
                square_sums.x += part.x;
                square_sums.y += part.y;
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float low = sums.first[i] * shared.scales[row + i], high = sums.second[i] * shared.scales[row + i];
                if (!is_value) {
                    float scale = rsqrtf((i ? square_sums.y : square_sums.x) / HEAD_DIM + end.heads.eps), sine, cosine;
                    float scaled = low * scale * low_norm;
                    high = high * scale * high_norm;
                    rope_rotation(__fmul_rn(shared.position[row + i], frequency), &sine, &cosine);
                    low = rotated_low(scaled, high, sine, cosine);
                    high = rotated_high(scaled, high, sine, cosine);
                }
                uint16_t *to = (uint16_t *)(line + i * pitch) + d;
                to[0] = bf16_bits(low);
                to[HEAD_DIM / 2] = bf16_bits(high);
            }
        }
        __device__ inline void store(const heads_end &, const state<ROWS> &shared, int32_t row, bool exists,
                                     int32_t piece, const uint4 &values, bool) const {
            if (exists && shared.to[row]) ((uint4 *)shared.to[row])[piece] = values;
        }
    };
};

#endif
