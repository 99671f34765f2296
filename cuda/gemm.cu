/* Own kernels for small products and, without wgmma, for few rows; others on wgmma (gemm_wgmma.cu) or by cuBLASLt.
 *
 * The kernels of this file sum k in the same order, so that a row's result does not depend on how many rows share the
 * step: k is cut in eight equal segments of whole fragments, each summed in steps of 16 by one accumulator, then the
 * eight are added in order. gemm_wgmma.cu has its own order, cuBLASLt chooses one by the number of rows. */
#include "cuda/gemm.cuh"

#include "cuda/gemm_wgmma.cuh"
#include "cuda/math.cuh"
#include "cuda/thin.cuh"

#include <assert.h>

#define SEGMENTS THIN_SEGMENTS

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

/* ---- Thin: up to 16 rows ---- */

/* Grid (groups of column tiles). A group reads 2 * depth bytes of weights a column, once, and 2 * depth for each row.
 */
template <enum gemm_output output, int GROUPS, int TILES, int DEPTH>
__global__ static void __launch_bounds__(GROUPS *THIN_THREADS, 1024 / (GROUPS * THIN_THREADS))
    gemm_thin_kernel(const uint16_t *a, const uint16_t *weight, void *c, struct gemm_shape shape) {
    extern __shared__ uint4 shared[];
    __shared__ struct thin_sums<TILES> group_sums[GROUPS];
    int group = threadIdx.x / THIN_THREADS, thread = threadIdx.x % THIN_THREADS, g = threadIdx.x % WARP / 4;
    int32_t first_column = ((int32_t)blockIdx.x * GROUPS + group) * TILES * 8;
    struct thin_columns columns = {weight + (size_t)(first_column + g) * shape.depth, (size_t)8 * shape.depth,
                                   (size_t)16 * shape.depth, (shape.n_columns - first_column) / 8};
    if (columns.n_tiles <= 0) columns.first = weight;
    float sums[TILES][4] = {};
    thin_product<TILES, DEPTH, THIN_ROWS>(
        columns, shape.depth, shared + group * thin_ring_pieces(TILES, DEPTH),
        [&] { return thin_rows_at(a, shape.n_rows, shape.depth); }, sums);
    group_sums[group].put(sums);
    __syncthreads();

    int row = thread / (TILES * 8), column = thread % (TILES * 8);
    if (row < THIN_ROWS) put<output>(c, shape, row, first_column + column, group_sums[group].of(row, column));
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
    let_next_begin();
    wait_for_previous();
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

/* One form of the thin kernel for each output. */
template <int GROUPS, int TILES, int DEPTH> struct thin_form {
    static constexpr auto bf16 = gemm_thin_kernel<GEMM_BF16, GROUPS, TILES, DEPTH>;
    static constexpr auto f32 = gemm_thin_kernel<GEMM_F32, GROUPS, TILES, DEPTH>;
    static constexpr auto add_f32 = gemm_thin_kernel<GEMM_ADD_F32, GROUPS, TILES, DEPTH>;

    static size_t shared_bytes() {
        return GROUPS * thin_ring_bytes(TILES, DEPTH);
    }
    static bool configure(struct error *err) {
        return allow_shared(bf16, shared_bytes(), err) && allow_shared(f32, shared_bytes(), err) &&
               allow_shared(add_f32, shared_bytes(), err);
    }
    static bool run(const struct device *device, const struct gemm *gemm, struct error *err) {
        struct launch launch = {dim3((unsigned)divide_up(gemm->n_columns, GROUPS * TILES * 8)),
                                dim3(GROUPS * THIN_THREADS), shared_bytes()};
        return launch_kernel(device, launch,
                             gemm->output == GEMM_BF16  ? bf16
                             : gemm->output == GEMM_F32 ? f32
                                                        : add_f32,
                             err, gemm->a, gemm->weight, gemm->c, shape_of(gemm));
    }
};

/* The narrowest products are one block for each SM, which brings most of its weights before it begins. Where columns
 * are plenty, two tiles halve the reads of rows. */
using thin_narrow = thin_form<1, 1, 12>;
using thin_middle = thin_form<2, 1, 4>;
using thin_wide = thin_form<1, 2, 4>;

bool gemm_configure(struct error *err) {
    return thin_narrow::configure(err) && thin_middle::configure(err) && thin_wide::configure(err);
}

bool gemm_thin(struct device *device, const struct gemm *gemm, struct error *err) {
    int32_t tiles_per_processor = divide_up(gemm->n_columns / 8, device->properties.multiProcessorCount);
    assert(gemm->n_rows <= GEMM_THIN_ROWS);
    if (tiles_per_processor <= 2) return thin_narrow::run(device, gemm, err);
    return tiles_per_processor <= 8 ? thin_middle::run(device, gemm, err) : thin_wide::run(device, gemm, err);
}

bool gemm_tiled(struct device *device, const struct gemm *gemm, struct error *err) {
    static decltype(&gemm_tiled_kernel<GEMM_BF16>) const kernels[] = {
        gemm_tiled_kernel<GEMM_BF16>, gemm_tiled_kernel<GEMM_F32>, gemm_tiled_kernel<GEMM_ADD_F32>}; // by gemm_output
    dim3 grid((unsigned)divide_up(gemm->n_rows, TILE), (unsigned)divide_up(gemm->n_columns, TILE));
    struct launch launch = {grid, dim3(TILE_THREADS)};
    return launch_kernel(device, launch, kernels[gemm->output], err, gemm->a, gemm->weight, gemm->c, shape_of(gemm));
}

bool gemm_run(struct device *device, const struct gemm *gemm, struct error *err) {
    if (gemm->depth % 8 != 0 || gemm->n_columns % 8 != 0)
        return fail(err, ERR_INVALID, "a product of %d columns and depth %d: CUDA needs multiples of 8",
                    gemm->n_columns, gemm->depth);
    if (gemm->n_rows == 0) return true;
    if (gemm_wgmma_pays(device, gemm)) return gemm_wgmma(device, gemm, err);
    if (gemm->n_rows <= GEMM_THIN_ROWS) return gemm_thin(device, gemm, err);
    if (gemm_is_small(gemm)) return gemm_tiled(device, gemm, err);
    return gemm_cublas(device, gemm, err);
}

bool gemm_add(const struct context *ctx, const struct gemm *gemm, const uint16_t *next_norm, struct error *err) {
    struct device *device = ctx->device;
    device->unscaled = {};
    if (!next_norm || !shape_is_whole(ctx->shape) || !gemm_wgmma_pays(device, gemm) ||
        gemm->n_columns % (4 * SQUARED_COLUMNS) != 0 || gemm->n_rows > SQUARED_ROWS)
        return gemm_run(device, gemm, err);
    struct next_rows next = {next_norm, (uint16_t *)ctx->scratch.normed, row_squares(ctx)};
    if (!add_wgmma(device, gemm, &next, err)) return false;
    device->unscaled = {next_norm, gemm->n_rows, gemm->n_columns / SQUARED_COLUMNS};
    return true;
}
