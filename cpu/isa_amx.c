/* AMX: a tile of 16 outputs x 32 inputs of weights, as they lie in memory, times 32 inputs x up to 16 rows. One tile
 * product takes 16 cycles whatever the number of rows: 1 to 16 rows cost the same. All else is as with AVX-512. */
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#define VECTOR_ISA VECTOR_AVX512BF16
#include "cpu/vector_attention.h"
#include "cpu/vector_rows.h"

#define TILE           16 // rows of a tile, and its columns of 4 bytes
#define TILE_INPUTS    32
#define STREAM_OUTPUTS 32 // two sums: a tile product waits 52 cycles for the one before on the same sum
#define BLOCK_OUTPUTS  64

/* Tile registers: 0 to 3 sums [output][row], 4 and 5 weights [output][input], 6 packed rows [pair of inputs][row]. */
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* The tile instructions' intrinsics do not say what memory they read. */
ALWAYS_INLINE void memory_is_read(const void *memory) {
    __asm__ volatile("" : : "r"(memory) : "memory");
}

static inline void configure(int32_t n_outputs, int32_t n_rows) {
    struct tile_config config = {.palette = 1};
    for (int tile = 0; tile < 7; ++tile) {
        config.row_bytes[tile] = (uint16_t)(tile == 4 || tile == 5 ? TILE_INPUTS * 2 : n_rows * 4);
        config.rows[tile] = (uint8_t)(tile < 6 ? n_outputs : TILE);
    }
    memory_is_read(&config);
    _tile_loadconfig(&config);
}

/* lanes[i][j] and lanes[j][i] change places, in squares of 1, 2, 4 and 8. */
ALWAYS_INLINE void transpose(int_vec lanes[TILE]) {
#define TURN(size, ...)                                                                                                \
    for (int i = 0; i < TILE; ++i) {                                                                                   \
        if (i & (size)) continue;                                                                                      \
        const int_vec upper = {__VA_ARGS__}, lower = upper + (size);                                                   \
        int_vec a = lanes[i], b = lanes[i + (size)];                                                                   \
        lanes[i] = __builtin_shuffle(a, b, upper);                                                                     \
        lanes[i + (size)] = __builtin_shuffle(a, b, lower);                                                            \
    }
#pragma GCC unroll 16
    TURN(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#pragma GCC unroll 16
    TURN(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#pragma GCC unroll 16
    TURN(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#pragma GCC unroll 16
    TURN(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#undef TURN
}

/* 32 inputs of a row from input i: 16 pairs of bf16. */
ALWAYS_INLINE int_vec load_pairs(const struct pack_job *job, int32_t row, int32_t i) {
    int32_t left = job->n - i;
    vec first = load_left(job->x[row] + i, left), second = {0};
    if (left > LANES) second = load_left(job->x[row] + i + LANES, left - LANES);
    if (job->weight) {
        first = first * job->scale[row] * widen_left(job->weight + i, left);
        if (left > LANES) second = second * job->scale[row] * widen_left(job->weight + i + LANES, left - LANES);
    }
    return (int_vec)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

/* [TILE_INPUTS / 2 pairs of inputs][n_rows], step after step. */
static inline void pack(const struct pack_job *job) {
    int32_t *to = job->group;
    int_vec lanes[TILE] = {0};
    for (int32_t i = 0; i < job->n; i += TILE_INPUTS) {
        for (int32_t row = 0; row < job->n_rows; ++row) lanes[row] = load_pairs(job, row, i);
        if (job->n_rows == 1) {
            memcpy(to, lanes, sizeof *lanes);
            to += TILE;
            continue;
        }
        transpose(lanes);
        for (int pair = 0; pair < TILE; ++pair, to += job->n_rows)
            _mm512_mask_storeu_epi32(to, (__mmask16)((1u << job->n_rows) - 1), (__m512i)lanes[pair]);
    }
}

/* sums[output][row], of one row sums[output], to out[row][output]. */
ALWAYS_INLINE void store_sums(int32_t sums[TILE][TILE], const struct product_job *job, int32_t first,
                              int32_t n_outputs) {
    int_vec lanes[TILE];
    memcpy(lanes, sums, sizeof lanes);
    if (job->n_rows > 1) transpose(lanes);
    __mmask16 mask = (__mmask16)((1u << n_outputs) - 1);
    float *out = job->out + first;
    for (int32_t row = 0; row < job->n_rows; ++row, out += job->out_stride) {
        __m512 values = (__m512)lanes[row];
        if (job->add) values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(mask, out));
        _mm512_mask_storeu_ps(out, mask, values);
    }
}

/* One step of n_tiles x 16 outputs. */
ALWAYS_INLINE void tile_step(const uint16_t *weights, size_t stride, const void *rows, int32_t n_rows, int n_tiles) {
    size_t row_bytes = stride * sizeof *weights;
    _tile_loadd(6, rows, (size_t)n_rows * 4);
    _tile_loadd(4, weights, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if (n_tiles > 1) {
        _tile_loadd(5, weights + TILE * stride, row_bytes);
        _tile_dpbf16ps(1, 5, 6);
    }
    if (n_tiles > 2) {
        _tile_loadd(4, weights + 2 * TILE * stride, row_bytes);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, weights + 3 * TILE * stride, row_bytes);
        _tile_dpbf16ps(3, 5, 6);
    }
}

/* Outputs [first, first + n_tiles * 16), or the fewer that the tiles are configured for, when n_tiles is 1. */
ALWAYS_INLINE void product_tiles(const struct product_job *job, int32_t first, int32_t n_outputs, int n_tiles) {
    const uint16_t *weights = job->weights + (size_t)first * job->weight_stride;
    const char *rows = job->rows;
    size_t step_bytes = TILE_INPUTS * sizeof *weights * (size_t)job->n_rows;
    uintptr_t ahead = 0, due = 0, pace = 0;
    if (job->ahead) {
        uintptr_t share = (uintptr_t)job->ahead_share;
        due = ahead = job->ahead + (uintptr_t)first * (uintptr_t)job->n_inputs * sizeof *weights / share;
        pace = ((uintptr_t)(n_outputs * TILE_INPUTS) * sizeof *weights + share - 1) / share;
    }
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    int32_t i = 0;
    for (; i + TILE_INPUTS <= job->n_inputs; i += TILE_INPUTS, rows += step_bytes) {
        for (due += pace; ahead < due; ahead += 64) fetch(ahead);
        tile_step(weights + i, job->weight_stride, rows, job->n_rows, n_tiles);
    }
    if (i < job->n_inputs) { // the last, partly filled step
        uint16_t last[BLOCK_OUTPUTS * TILE_INPUTS] = {0};
        for (int32_t o = 0; o < n_outputs; ++o)
            memcpy(last + o * TILE_INPUTS, weights + (size_t)o * job->weight_stride + i,
                   (size_t)(job->n_inputs - i) * sizeof *last);
        memory_is_read(last);
        tile_step(last, TILE_INPUTS, rows, job->n_rows, n_tiles);
    }
    int32_t sums[4][TILE][TILE];
    size_t sums_bytes = job->n_rows > 1 ? sizeof sums[0][0] : sizeof sums[0][0][0];
    _tile_stored(0, sums[0], sums_bytes);
    if (n_tiles > 1) _tile_stored(1, sums[1], sums_bytes);
    if (n_tiles > 2) _tile_stored(2, sums[2], sums_bytes);
    if (n_tiles > 2) _tile_stored(3, sums[3], sums_bytes);
    for (int tile = 0; tile < n_tiles; ++tile)
        store_sums(sums[tile], job, first + tile * TILE, n_tiles == 1 ? n_outputs : TILE);
}

/* Once for many products: loading and releasing takes 129 ns. */
static void begin(int32_t n_rows) {
    configure(TILE, n_rows);
}

static void end(void) {
    _tile_release(); // or each switch of threads would save 8 KB
}

static inline void product(const struct product_job *job) {
    int32_t o = 0;
    if (!job->ahead)
        for (; o + 4 * TILE <= job->n_outputs; o += 4 * TILE) product_tiles(job, o, 4 * TILE, 4);
    for (; o + 2 * TILE <= job->n_outputs; o += 2 * TILE) product_tiles(job, o, 2 * TILE, 2);
    for (; o + TILE <= job->n_outputs; o += TILE) product_tiles(job, o, TILE, 1);
    if (o == job->n_outputs) return;
    configure(job->n_outputs - o, job->n_rows);
    product_tiles(job, o, job->n_outputs - o, 1);
    configure(TILE, job->n_rows);
}

const struct isa isa_amx = {
    .name = "amx",
    .packed_bytes = sizeof(uint16_t),
    .group_rows = TILE,
    .block_groups = 4, // with 1024 inputs they take 128 KB of L2
    .product_inputs = INT32_MAX,
    .stream_outputs = STREAM_OUTPUTS,
    .pack = pack,
    .begin = begin,
    .end = end,
    .product = product,
    .attend = attend,
    .sum_of_squares = sum_of_squares,
    .scale_by = scale_by,
    .dots = dots,
    .swiglu = swiglu,
    .rope_angles = rope_angles,
    .rotate = rotate,
    .largest = largest,
    .sampling_weights = sampling_weights,
    .exp_sum = exp_sum,
    .read = read_memory,
};
