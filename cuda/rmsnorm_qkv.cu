/* rmsnorm_qkv, fused. On GPUs with thread block clusters (compute capability 9.0): few rows in one kernel
 * (rmsnorm_qkv_thin.cu), many by the standard kernels, whose product then is all that counts. Elsewhere: the kernel of
 * this file, in which nothing between hidden and q, K, V is written.
 *
 * A block makes one head of one tile of rows: head_dim columns, so that QK-norm and RoPE find the whole head in shared
 * memory. Order of sums: k in four segments, each from its begin to its end in steps of 16 by one accumulator, then the
 * four in order: a row's result does not depend on how many rows share the step.
 * Rounding: the normed row to bf16 (as the separate form does), then float32 up to q, K and V. */
#include "cuda/device.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/thin.cuh"

#include <assert.h>

#define SEGMENTS    4
#define STEP_K      64            // values of k in one pipeline step
#define STEP_BLOCKS (STEP_K / 32) // fragments of 32
#define ROW_SLOTS   2             // normalised tiles: in use, and being stored
#define NORM_ROWS   4             // rows whose norms one pass computes
#define TILE_PAD    8             // floats: rows g and g + 1 of the result tile fall into other banks

struct qkv_params {
    const float *x;         // [n_rows][hidden]
    const uint16_t *norm;   // [hidden]
    const uint16_t *weight; // [heads * head_dim][hidden]
    int32_t n_rows, hidden;
    struct qkv_heads heads;
};

template <int ROWS_, int HEAD_DIM_> struct form {
    static constexpr int ROWS = ROWS_, HEAD_DIM = HEAD_DIM_;
    static constexpr int warps = ROWS == 128 ? 16 : 8, threads = warps * WARP, norm_groups = warps / NORM_WARPS;
    static constexpr int warps_m = ROWS == 16 ? 1 : 4, warps_n = warps / warps_m;
    static constexpr int m_tiles = ROWS / 16 / warps_m, n_tiles = HEAD_DIM / 8 / warps_n;
    static constexpr int stages = ROWS == 16 ? 5 : 4; // of weights
    static constexpr int blocks_on_sm = ROWS == 128 ? 1 : 2;
    static constexpr int row_pieces = ROWS * STEP_K / 8, weight_pieces = HEAD_DIM * STEP_K / 8; // of 16 bytes
    static constexpr int pieces_per_thread = (row_pieces + threads - 1) / threads;
    static constexpr int pitch = HEAD_DIM + TILE_PAD;

    static size_t shared_bytes(int32_t hidden) {
        return ((size_t)ROW_SLOTS * row_pieces + (size_t)stages * weight_pieces) * sizeof(uint4) + (size_t)hidden * 2;
    }
};

/* Where 16-byte piece i of a step lies: four pieces of a row make one fragment line. */
struct piece {
    int line, k;
};
template <int LINES> __device__ static inline struct piece piece_at(int i) {
    return {i / 4 % LINES, i / (4 * LINES) * 32 + i % 4 * 8};
}

/* 1/rms of the tile's rows. */
template <class Form>
__device__ static inline void compute_scales(const struct qkv_params &p, const float *x, int32_t n_rows,
                                             float (&partials)[Form::ROWS][NORM_WARPS], float (&scales)[Form::ROWS]) {
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int group = warp / NORM_WARPS; // NORM_WARPS warps take NORM_ROWS rows at a time
    for (int32_t first = group * NORM_ROWS; first < n_rows; first += Form::norm_groups * NORM_ROWS) {
        float sums[NORM_ROWS];
        lane_square_sums(x + (size_t)first * p.hidden, n_rows - first, p.hidden, warp % NORM_WARPS, lane, sums);
        for (int i = 0; i < NORM_ROWS; ++i) {
            float sum = warp_sum(sums[i]);
            if (lane == 0 && first + i < n_rows) partials[first + i][warp % NORM_WARPS] = sum;
        }
    }
    __syncthreads();
    if (thread < Form::ROWS)
        scales[thread] = thread < n_rows ? inverse_rms(partials[thread], p.hidden, p.heads.eps) : 0;
    __syncthreads();
}

/* Grid (heads, row tiles), eight or sixteen warps. A block moves head_dim * hidden * 2 bytes of weights in, 4 * hidden
 * bytes for each row twice, and 2 * head_dim bytes for each row out. */
template <class Form>
__global__ static void __launch_bounds__(Form::threads, Form::blocks_on_sm)
    rmsnorm_qkv_kernel(const __grid_constant__ struct qkv_params p) {
    constexpr int ROWS = Form::ROWS, HEAD_DIM = Form::HEAD_DIM;
    wait_for_previous();
    extern __shared__ uint4 shared[];
    uint4 *row_tiles = shared;                                       // [ROW_SLOTS][STEP_BLOCKS][ROWS][4]
    uint4 *weight_tiles = row_tiles + ROW_SLOTS * Form::row_pieces;  // [stages][STEP_BLOCKS][HEAD_DIM][4]
    uint4 *norm = weight_tiles + Form::stages * Form::weight_pieces; // [hidden / 8]
    __shared__ float partials[ROWS][NORM_WARPS];
    __shared__ float scales[ROWS];

    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int32_t head = (int32_t)blockIdx.x, first_row = (int32_t)blockIdx.y * ROWS, hidden = p.hidden;
    int32_t n_rows = min(ROWS, p.n_rows - first_row);
    const float *x = p.x + (size_t)first_row * hidden;
    const uint16_t *weight = p.weight + (size_t)head * HEAD_DIM * hidden;

    int32_t n_steps = (hidden + STEP_K - 1) / STEP_K, segment_steps = (n_steps + SEGMENTS - 1) / SEGMENTS;

    auto fetch_weights = [&](int32_t step) {
        if (step < n_steps) {
            uint4 *to = weight_tiles + step % Form::stages * Form::weight_pieces;
#pragma unroll
            for (int i = thread; i < Form::weight_pieces; i += Form::threads) {
                struct piece at = piece_at<HEAD_DIM>(i);
                int32_t k = step * STEP_K + at.k;
                bool valid = k < hidden;
                copy_async(to + i, weight + (size_t)at.line * hidden + (valid ? k : 0), valid);
            }
        }
        copy_commit();
    };

    /* Rows travel through registers, where they are normalised. */
    float4 low[Form::pieces_per_thread], high[Form::pieces_per_thread];
    auto fetch_rows = [&](int32_t step) {
#pragma unroll
        for (int j = 0; j < Form::pieces_per_thread; ++j) {
            int i = thread + j * Form::threads;
            struct piece at = piece_at<ROWS>(i);
            int32_t k = step * STEP_K + at.k;
            bool valid = step < n_steps && i < Form::row_pieces && at.line < n_rows && k < hidden;
            const float4 *from = (const float4 *)(x + (size_t)at.line * hidden + k);
            low[j] = valid ? from[0] : make_float4(0, 0, 0, 0);
            high[j] = valid ? from[1] : make_float4(0, 0, 0, 0);
        }
    };
    auto store_rows = [&](int32_t step) {
#pragma unroll
        for (int j = 0; j < Form::pieces_per_thread; ++j) {
            int i = thread + j * Form::threads;
            if (step >= n_steps || i >= Form::row_pieces) break;
            struct piece at = piece_at<ROWS>(i);
            int32_t k = step * STEP_K + at.k;
            row_tiles[step % ROW_SLOTS * Form::row_pieces + i] =
                normalise8(low[j], high[j], scales[at.line], norm[k < hidden ? k / 8 : 0]);
        }
    };

    /* Weights are on their way while the norms are computed. */
    for (int32_t i = 0; i < Form::stages - 1; ++i) fetch_weights(i);
    for (int32_t i = thread; i < hidden / 8; i += Form::threads) norm[i] = ((const uint4 *)p.norm)[i];
    fetch_rows(0);
    compute_scales<Form>(p, x, n_rows, partials, scales);
    store_rows(0);
    fetch_rows(1);

    /* Projection. At the barrier of a step its weights have come, its rows are stored, and the step before is
     * over. */
    float totals[Form::m_tiles][Form::n_tiles][4] = {}, sums[Form::m_tiles][Form::n_tiles][4] = {};
    int warp_row = warp % Form::warps_m * Form::m_tiles * 16;
    int warp_column = warp / Form::warps_m * Form::n_tiles * 8;
    int32_t end_of_segment = segment_steps;
    for (int32_t step = 0; step < n_steps; ++step) {
        copy_wait<Form::stages - 2>();
        __syncthreads();
        fetch_weights(step + Form::stages - 1);
        store_rows(step + 1);
        fetch_rows(step + 2);

        const uint4 *rows = row_tiles + step % ROW_SLOTS * Form::row_pieces + warp_row * 4 + lane;
        const uint4 *columns = weight_tiles + step % Form::stages * Form::weight_pieces + warp_column * 4 + lane;
#pragma unroll
        for (int block = 0; block < STEP_BLOCKS; ++block) {
            uint4 top[Form::m_tiles], bottom[Form::m_tiles];
#pragma unroll
            for (int m = 0; m < Form::m_tiles; ++m) {
                top[m] = rows[(block * ROWS + m * 16) * 4];
                bottom[m] = rows[(block * ROWS + m * 16 + 8) * 4];
            }
#pragma unroll
            for (int n = 0; n < Form::n_tiles; ++n)
                mma_k32_tiles(sums, n, top, bottom, columns[(block * HEAD_DIM + n * 8) * 4]);
        }
        if (step + 1 < end_of_segment && step + 1 < n_steps) continue;
        end_of_segment += segment_steps;
#pragma unroll
        for (int i = 0; i < Form::m_tiles * Form::n_tiles * 4; ++i) {
            int m = i / 4 / Form::n_tiles, n = i / 4 % Form::n_tiles;
            totals[m][n][i % 4] += sums[m][n][i % 4];
            sums[m][n][i % 4] = 0;
        }
    }

    /* The head meets in shared memory, over the tiles that are no longer needed. */
    copy_wait<0>();
    __syncthreads();
    float *tile = (float *)shared; // [ROWS][pitch]
#pragma unroll
    for (int m = 0; m < Form::m_tiles; ++m) {
#pragma unroll
        for (int n = 0; n < Form::n_tiles; ++n) {
            float *to = tile + (warp_row + m * 16 + lane / 4) * Form::pitch + warp_column + n * 8 + lane % 4 * 2;
            *(float2 *)to = make_float2(totals[m][n][0], totals[m][n][1]);
            *(float2 *)(to + 8 * Form::pitch) = make_float2(totals[m][n][2], totals[m][n][3]);
        }
    }
    __syncthreads();

    /* QK-norm, RoPE, append: one warp per row. */
    for (int32_t row = warp; row < n_rows; row += Form::warps) {
        constexpr int pairs = head_slice<HEAD_DIM>::pairs;
        const float *low_at = tile + row * Form::pitch + lane * pairs, *high_at = low_at + HEAD_DIM / 2;
        head_slice<HEAD_DIM> slice;
#pragma unroll
        for (int i = 0; i < pairs; ++i) {
            slice.low[i] = low_at[i];
            slice.high[i] = high_at[i];
        }
        finish_head<HEAD_DIM>(p.heads, first_row + row, head, lane, slice);
    }
}

template <class Form> static bool configure(const struct device *device, struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(rmsnorm_qkv_kernel<Form>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)device->max_dynamic_shared),
             err);
    return true;
}

/* The forms of one head_dim. */
template <int HEAD_DIM> struct forms {
    using few = form<16, HEAD_DIM>;
    using many = form<128, HEAD_DIM>;
};

bool rmsnorm_qkv_configure(const struct device *device, struct error *err) {
    return configure<forms<64>::few>(device, err) && configure<forms<64>::many>(device, err) &&
           configure<forms<128>::few>(device, err) && configure<forms<128>::many>(device, err);
}

template <int HEAD_DIM> static size_t largest_shared_bytes(int32_t hidden) {
    size_t few = forms<HEAD_DIM>::few::shared_bytes(hidden), many = forms<HEAD_DIM>::many::shared_bytes(hidden);
    return few > many ? few : many;
}

size_t rmsnorm_qkv_shared_bytes(const struct device *device, const struct model_shape *shape) {
    if (device->properties.major >= 9) return 0; // its kernels fit every shape
    return shape->head_dim == 64 ? largest_shared_bytes<64>(shape->hidden) : largest_shared_bytes<128>(shape->hidden);
}

template <class Form>
static bool launch(const struct device *device, const struct qkv_params *params, struct error *err) {
    size_t shared_bytes = Form::shared_bytes(params->hidden);
    assert(shared_bytes <= device->max_dynamic_shared); // prepare_shape
    int32_t n_heads = params->heads.n_heads + 2 * params->heads.n_kv_heads;
    struct launch launch = {dim3((unsigned)n_heads, (unsigned)divide_up(params->n_rows, Form::ROWS)),
                            dim3(Form::threads), shared_bytes};
    return launch_kernel(device, launch, rmsnorm_qkv_kernel<Form>, err, *params);
}

template <int HEAD_DIM>
static bool launch_for_rows(const struct device *device, const struct qkv_params *params, struct error *err) {
    return params->n_rows > 16 ? launch<typename forms<HEAD_DIM>::many>(device, params, err)
                               : launch<typename forms<HEAD_DIM>::few>(device, params, err);
}

bool cuda_rmsnorm_qkv_fused(const struct context *ctx, const struct weights *weights, int32_t layer,
                            struct error *err) {
    const struct model_shape *shape = ctx->shape;
    const struct layer_weights *of_layer = &weights->layers[layer];
    if (ctx->device->properties.major >= 9)
        return rmsnorm_qkv_thin_pays(ctx, of_layer) ? rmsnorm_qkv_thin(ctx, weights, layer, err)
                                                    : rmsnorm_qkv_many(ctx, weights, layer, err);
    struct qkv_params params = {};
    params.x = ctx->scratch.hidden;
    params.norm = of_layer->input_norm;
    params.weight = of_layer->qkv;
    params.n_rows = ctx->batch.n_rows;
    params.hidden = shape->hidden;
    params.heads = qkv_heads_from(ctx, of_layer, layer);
    if (shape->head_dim == 64) return launch_for_rows<64>(ctx->device, &params, err);
    assert(shape->head_dim == 128); // prepare_shape
    return launch_for_rows<128>(ctx->device, &params, err);
}
