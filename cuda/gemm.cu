/* Own kernels for few rows and for small products, cuBLASLt for large ones.
 *
 * The own kernels sum k in the same order, so that a row's result does not depend on how many rows share the step: k is
 * cut in eight equal segments of whole fragments, each summed in steps of 16 by one accumulator, then the eight are
 * added in order. cuBLASLt chooses its own order for each number of rows. */
#include "cuda/gemm.cuh"

#include "cuda/math.cuh"

#include <assert.h>

#define SEGMENTS 8

/* cuBLASLt pays from here on: more rows than a thin tile, and a weight of 4 MB or more. Under it the product lasts
 * microseconds either way. */
#define CUBLAS_MIN_WEIGHT ((int64_t)1 << 21)

struct gemm_shape {
    int32_t n_rows, n_columns, depth, segment; // segment: fragments of 32 k
};

static struct gemm_shape shape_of(const struct gemm *gemm) {
    struct gemm_shape shape = {gemm->n_rows, gemm->n_columns, gemm->depth,
                               divide_up(divide_up(gemm->depth, 32), SEGMENTS)};
    return shape;
}

template <enum gemm_output output>
__device__ static inline void put(void *c, const struct gemm_shape &shape, int32_t row, int32_t column, float sum) {
    if (row >= shape.n_rows || column >= shape.n_columns) return;
    size_t at = (size_t)row * shape.n_columns + column;
    if (output == GEMM_BF16) ((uint16_t *)c)[at] = bf16_bits(sum);
    if (output == GEMM_F32) ((float *)c)[at] = sum;
    if (output == GEMM_ADD_F32) ((float *)c)[at] += sum;
}

/* ---- Thin: up to 16 rows, bound by reading the weights ---- */

#define THIN_COLUMNS 16
#define THIN_THREADS (SEGMENTS * WARP)
#define THIN_AHEAD   4 // fragments loaded before the first is used: 64 bytes of weights a lane and column tile

/* One block for 16 columns, one warp for each segment of k. Fragments come straight from device memory: 2 * depth bytes
 * of weights a column, once. */
template <enum gemm_output output>
__global__ static void __launch_bounds__(THIN_THREADS)
    gemm_thin_kernel(const uint16_t *a, const uint16_t *weight, void *c, struct gemm_shape shape) {
    __shared__ float partials[SEGMENTS][GEMM_THIN_ROWS][THIN_COLUMNS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int32_t first_column = (int32_t)blockIdx.x * THIN_COLUMNS;
    const uint4 zero = make_uint4(0, 0, 0, 0);

    /* Lanes past the last row or column read zeros. */
    bool has_top = g < shape.n_rows, has_bottom = g + 8 < shape.n_rows;
    bool has_left = first_column + g < shape.n_columns, has_right = first_column + 8 + g < shape.n_columns;
    const uint16_t *top_row = a + (size_t)g * shape.depth, *bottom_row = top_row + (size_t)8 * shape.depth;
    const uint16_t *left = weight + (size_t)(first_column + g) * shape.depth, *right = left + (size_t)8 * shape.depth;

    float sums[2][4] = {};
    int32_t k_end = min((warp + 1) * shape.segment * 32, shape.depth);
    for (int32_t k0 = warp * shape.segment * 32 + t * 8; k0 - t * 8 < k_end; k0 += THIN_AHEAD * 32) {
        uint4 columns[THIN_AHEAD][2], rows[THIN_AHEAD][2];
#pragma unroll
        for (int i = 0; i < THIN_AHEAD; ++i) {
            int32_t k = k0 + i * 32;
            bool inside = k < k_end;
            columns[i][0] = inside && has_left ? load_once(left + k) : zero;
            columns[i][1] = inside && has_right ? load_once(right + k) : zero;
            rows[i][0] = inside && has_top ? *(const uint4 *)(top_row + k) : zero;
            rows[i][1] = inside && has_bottom ? *(const uint4 *)(bottom_row + k) : zero;
        }
#pragma unroll
        for (int i = 0; i < THIN_AHEAD; ++i) {
            mma_k32(sums[0], rows[i][0], rows[i][1], columns[i][0]);
            mma_k32(sums[1], rows[i][0], rows[i][1], columns[i][1]);
        }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) partials[warp][g + i / 2 * 8][n * 8 + t * 2 + i % 2] = sums[n][i];
    }
    __syncthreads();

    /* One thread per element adds the segments in order. */
    int row = threadIdx.x / THIN_COLUMNS, column = threadIdx.x % THIN_COLUMNS;
    float sum = partials[0][row][column];
    for (int segment = 1; segment < SEGMENTS; ++segment) sum += partials[segment][row][column];
    put<output>(c, shape, row, first_column + column, sum);
}

/* ---- Tiled: any number of rows ---- */

#define TILE         64 // rows and columns
#define TILE_THREADS 128
#define TILE_STAGES  3
#define STEP_BLOCKS  2                        // fragments of 32 k in one pipeline step
#define TILE_PIECES  (TILE * STEP_BLOCKS * 4) // of 16 bytes, for one operand and step

/* Grid (row tiles, column tiles), four warps of 32 x 32. A block moves 2 * depth bytes for each of its rows and
 * columns. */
template <enum gemm_output output>
__global__ static void __launch_bounds__(TILE_THREADS)
    gemm_tiled_kernel(const uint16_t *a, const uint16_t *weight, void *c, struct gemm_shape shape) {
    __shared__ uint4 row_tiles[TILE_STAGES][TILE_PIECES], column_tiles[TILE_STAGES][TILE_PIECES];
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int32_t first_row = (int32_t)blockIdx.x * TILE, first_column = (int32_t)blockIdx.y * TILE;
    int32_t n_blocks = (shape.depth + 31) / 32, n_steps = (n_blocks + STEP_BLOCKS - 1) / STEP_BLOCKS;

    auto fetch = [&](uint4 *to, const uint16_t *from, int32_t first, int32_t n_lines, int32_t step) {
#pragma unroll
        for (int i = thread; i < TILE_PIECES; i += TILE_THREADS) {
            int32_t line = first + i / 4 % TILE, k = step * STEP_BLOCKS * 32 + i / (4 * TILE) * 32 + i % 4 * 8;
            bool valid = line < n_lines && k < shape.depth;
            copy_async(to + i, valid ? from + (size_t)line * shape.depth + k : from, valid);
        }
    };
    auto fetch_step = [&](int32_t step) {
        if (step < n_steps) {
            fetch(row_tiles[step % TILE_STAGES], a, first_row, shape.n_rows, step);
            fetch(column_tiles[step % TILE_STAGES], weight, first_column, shape.n_columns, step);
        }
        copy_commit();
    };

    float totals[2][4][4] = {}, sums[2][4][4] = {};
    auto end_segment = [&]() {
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            totals[i / 16][i / 4 % 4][i % 4] += sums[i / 16][i / 4 % 4][i % 4];
            sums[i / 16][i / 4 % 4][i % 4] = 0;
        }
    };
    int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    for (int step = 0; step < TILE_STAGES - 1; ++step) fetch_step(step);
    for (int32_t step = 0; step < n_steps; ++step) {
        copy_wait<TILE_STAGES - 2>();
        __syncthreads();
        fetch_step(step + TILE_STAGES - 1);
#pragma unroll
        for (int block = 0; block < STEP_BLOCKS; ++block) {
            const uint4 *rows = row_tiles[step % TILE_STAGES] + (block * TILE + warp_row) * 4 + lane;
            const uint4 *columns = column_tiles[step % TILE_STAGES] + (block * TILE + warp_column) * 4 + lane;
            uint4 top[2], bottom[2];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                top[m] = rows[m * 16 * 4];
                bottom[m] = rows[(m * 16 + 8) * 4];
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) mma_k32_tiles(sums, n, top, bottom, columns[n * 8 * 4]);
            if ((step * STEP_BLOCKS + block + 1) % shape.segment == 0) end_segment();
        }
    }
    if (n_steps * STEP_BLOCKS % shape.segment != 0) end_segment();

#pragma unroll
    for (int i = 0; i < 32; ++i) {
        int m = i / 16, n = i / 4 % 4, e = i % 4;
        int32_t row = first_row + warp_row + m * 16 + e / 2 * 8 + lane / 4;
        int32_t column = first_column + warp_column + n * 8 + lane % 4 * 2 + e % 2;
        put<output>(c, shape, row, column, totals[m][n][e]);
    }
}

bool gemm_thin(struct device *device, const struct gemm *gemm, struct error *err) {
    static decltype(&gemm_thin_kernel<GEMM_BF16>) const kernels[] = {
        gemm_thin_kernel<GEMM_BF16>, gemm_thin_kernel<GEMM_F32>, gemm_thin_kernel<GEMM_ADD_F32>}; // by gemm_output
    assert(gemm->n_rows <= GEMM_THIN_ROWS);
    kernels[gemm->output]<<<divide_up(gemm->n_columns, THIN_COLUMNS), THIN_THREADS, 0, device->stream>>>(
        gemm->a, gemm->weight, gemm->c, shape_of(gemm));
    CUDA_TRY(cudaGetLastError(), err);
    return true;
}

bool gemm_tiled(struct device *device, const struct gemm *gemm, struct error *err) {
    static decltype(&gemm_tiled_kernel<GEMM_BF16>) const kernels[] = {
        gemm_tiled_kernel<GEMM_BF16>, gemm_tiled_kernel<GEMM_F32>, gemm_tiled_kernel<GEMM_ADD_F32>}; // by gemm_output
    dim3 grid((unsigned)divide_up(gemm->n_rows, TILE), (unsigned)divide_up(gemm->n_columns, TILE));
    kernels[gemm->output]<<<grid, TILE_THREADS, 0, device->stream>>>(gemm->a, gemm->weight, gemm->c, shape_of(gemm));
    CUDA_TRY(cudaGetLastError(), err);
    return true;
}

bool gemm_run(struct device *device, const struct gemm *gemm, struct error *err) {
    if (gemm->depth % 8 != 0 || gemm->n_columns % 8 != 0)
        return fail(err, ERR_INVALID, "a product of %d columns and depth %d: CUDA needs multiples of 8",
                    gemm->n_columns, gemm->depth);
    if (gemm->n_rows == 0) return true;
    if (gemm->n_rows <= GEMM_THIN_ROWS) return gemm_thin(device, gemm, err);
    if ((int64_t)gemm->n_columns * gemm->depth < CUBLAS_MIN_WEIGHT) return gemm_tiled(device, gemm, err);
    return gemm_cublas(device, gemm, err);
}
