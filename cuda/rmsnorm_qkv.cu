/* rmsnorm_qkv in one kernel: norm, projection, QK-norm, RoPE, append. Nothing between hidden and q, K, V is written.
 *
 * A block makes one head of one tile of rows: head_dim columns, so that QK-norm and RoPE find the whole head in shared
 * memory. Blocks work in clusters where the GPU has them. Few rows are bound by reading the weights: four blocks share
 * a head, each with a quarter of k. Many rows are bound by the cache: eight heads share a tile of rows, each block
 * normalises an eighth of it for all.
 * Order of sums: k in four segments, each from its begin to its end in steps of 16 by one accumulator, then the four in
 * order, in every form: a row's result does not depend on how many rows share the step.
 * Rounding: the normed row to bf16 (as the separate form does), then float32 up to q, K and V. */
#include "cuda/cluster.cuh"
#include "cuda/device.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/rmsnorm.cuh"

#define QKV_WARPS   NORM_WARPS
#define QKV_THREADS (QKV_WARPS * WARP)
#define SEGMENTS    4
#define STEP_K      64            // values of k in one pipeline step
#define STEP_BLOCKS (STEP_K / 32) // fragments of 32
#define ROW_SLOTS   3             // normalised tiles: in use, arrived, and being read by a slower block
#define NORM_ROWS   4             // rows whose norms one pass computes
#define TILE_PAD    8             // floats: rows g and g + 1 of the result tile fall into other banks

struct qkv_params {
    const float *x;         // [n_rows][hidden]
    const uint16_t *norm;   // [hidden]
    const uint16_t *weight; // [heads * head_dim][hidden]
    int32_t n_rows, hidden;
    struct qkv_heads heads;
};

/* ROWS of a tile; SHARE heads of a cluster share it; SPLIT blocks of a cluster share one head's k. */
template <int ROWS_, int HEAD_DIM_, int SHARE_, int SPLIT_> struct form {
    static constexpr int ROWS = ROWS_, HEAD_DIM = HEAD_DIM_, SHARE = SHARE_, SPLIT = SPLIT_;
    static constexpr int cluster = SHARE * SPLIT;
    static constexpr int warps_m = ROWS == 16 ? 1 : ROWS == 64 ? 2 : 4, warps_n = QKV_WARPS / warps_m;
    static constexpr int m_tiles = ROWS / 16 / warps_m, n_tiles = HEAD_DIM / 8 / warps_n;
    static constexpr int stages = ROWS == 64 ? 4 : ROWS == 16 ? 5 : 6; // two blocks of few rows fit on one SM
    static constexpr int ahead = stages - 2;                           // steps of weights under way
    static constexpr int row_pieces = ROWS * STEP_K / 8, weight_pieces = HEAD_DIM * STEP_K / 8; // of 16 bytes
    static constexpr int own_pieces = row_pieces / SHARE;
    static constexpr int pieces_per_thread = (own_pieces + QKV_THREADS - 1) / QKV_THREADS;
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

/* 1/rms of the tile's rows, in every block of the cluster. The blocks share the rows. */
template <class Form>
__device__ static inline void compute_scales(const struct qkv_params &p, const float *x, int32_t n_rows,
                                             float (&partials)[Form::ROWS][NORM_WARPS], float (&scales)[Form::ROWS]) {
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, rank = cluster_rank();
    for (int32_t first = rank * NORM_ROWS; first < n_rows; first += Form::cluster * NORM_ROWS) {
        float sums[NORM_ROWS];
        lane_square_sums<NORM_ROWS>(x + (size_t)first * p.hidden, n_rows - first, p.hidden, warp, lane, sums);
        for (int i = 0; i < NORM_ROWS; ++i) {
            float sum = warp_sum(sums[i]);
            if (lane == 0 && first + i < n_rows) partials[first + i][warp] = sum;
        }
    }
    __syncthreads();
    if (Form::cluster > 1) cluster_wait(); // the others have begun
    if (thread < Form::ROWS && thread / NORM_ROWS % Form::cluster == rank) {
        float scale = thread < n_rows ? inverse_rms(partials[thread], p.hidden, p.heads.eps) : 0;
        if (Form::cluster == 1) scales[thread] = scale;
        for (int i = 0; i < Form::cluster && Form::cluster > 1; ++i)
            cluster_store(cluster_address(&scales[thread], i), scale);
    }
    if (Form::cluster > 1)
        cluster_sync();
    else
        __syncthreads();
}

/* Grid (heads * SPLIT, row tiles), eight warps. A block moves head_dim * hidden * 2 / SPLIT bytes of weights in, 4 *
 * hidden bytes for each row twice / (SHARE or SPLIT), and 2 * head_dim bytes for each row out. */
template <class Form>
__global__ static void __launch_bounds__(QKV_THREADS, Form::ROWS < 128 ? 2 : 1)
    rmsnorm_qkv_kernel(const __grid_constant__ struct qkv_params p) {
#if HAVE_CLUSTERS
    constexpr bool runs = true;
#else
    constexpr bool runs = Form::cluster == 1;
#endif
    if constexpr (runs) {
        constexpr int ROWS = Form::ROWS, HEAD_DIM = Form::HEAD_DIM, SHARE = Form::SHARE, SPLIT = Form::SPLIT;
        extern __shared__ uint4 shared[];
        uint4 *row_tiles = shared;                                       // [ROW_SLOTS][STEP_BLOCKS][ROWS][4]
        uint4 *weight_tiles = row_tiles + ROW_SLOTS * Form::row_pieces;  // [stages][STEP_BLOCKS][HEAD_DIM][4]
        uint4 *norm = weight_tiles + Form::stages * Form::weight_pieces; // [hidden / 8]
        __shared__ float partials[ROWS][NORM_WARPS];
        __shared__ float scales[ROWS];

        int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, rank = cluster_rank();
        int32_t head = (int32_t)blockIdx.x / SPLIT, first_row = (int32_t)blockIdx.y * ROWS, hidden = p.hidden;
        int32_t n_rows = min(ROWS, p.n_rows - first_row);
        const float *x = p.x + (size_t)first_row * hidden;
        const uint16_t *weight = p.weight + (size_t)head * HEAD_DIM * hidden;

        /* This block's steps: all, or those of its segment. */
        int32_t n_steps = (hidden + STEP_K - 1) / STEP_K, segment_steps = (n_steps + SEGMENTS - 1) / SEGMENTS;
        int32_t first_step = SPLIT == 1 ? 0 : min(rank * segment_steps, n_steps);
        int32_t end_step = SPLIT == 1 ? n_steps : min(first_step + segment_steps, n_steps);

        auto fetch_weights = [&](int32_t step) {
            if (step < end_step) {
                uint4 *to = weight_tiles + step % Form::stages * Form::weight_pieces;
#pragma unroll
                for (int i = thread; i < Form::weight_pieces; i += QKV_THREADS) {
                    struct piece at = piece_at<HEAD_DIM>(i);
                    int32_t k = step * STEP_K + at.k;
                    bool valid = k < hidden;
                    copy_async(to + i, weight + (size_t)at.line * hidden + (valid ? k : 0), valid);
                }
            }
            copy_commit();
        };

        /* Rows travel through registers, where this block normalises its part for the SHARE blocks of the cluster. */
        float4 low[Form::pieces_per_thread], high[Form::pieces_per_thread];
        auto own_piece = [&](int j) { return (SHARE > 1 ? rank * Form::own_pieces : 0) + thread + j * QKV_THREADS; };
        auto is_own = [&](int j) { return thread + j * QKV_THREADS < Form::own_pieces; };
        auto fetch_rows = [&](int32_t step) {
#pragma unroll
            for (int j = 0; j < Form::pieces_per_thread; ++j) {
                struct piece at = piece_at<ROWS>(own_piece(j));
                int32_t k = step * STEP_K + at.k;
                bool valid = step < end_step && is_own(j) && at.line < n_rows && k < hidden;
                const float4 *from = (const float4 *)(x + (size_t)at.line * hidden + k);
                low[j] = valid ? from[0] : make_float4(0, 0, 0, 0);
                high[j] = valid ? from[1] : make_float4(0, 0, 0, 0);
            }
        };
        auto store_rows = [&](int32_t step) {
            if (step >= end_step) return;
#pragma unroll
            for (int j = 0; j < Form::pieces_per_thread; ++j) {
                if (!is_own(j)) break;
                int i = own_piece(j);
                struct piece at = piece_at<ROWS>(i);
                int32_t k = step * STEP_K + at.k;
                uint4 *to = row_tiles + step % ROW_SLOTS * Form::row_pieces + i;
                uint4 value = normalise8(low[j], high[j], scales[at.line], norm[k < hidden ? k / 8 : 0]);
                if (SHARE == 1) *to = value;
#pragma unroll
                for (int other = 0; other < SHARE && SHARE > 1; ++other)
                    cluster_store(cluster_address(to, (rank + other) % SHARE), value);
            }
        };
        /* A step's rows are in place, in every block that shares them, and its weights in this one. */
        auto step_arrive = [&]() {
            if (SHARE > 1) cluster_arrive();
        };
        auto step_wait = [&]() {
            if (SHARE > 1)
                cluster_wait();
            else
                __syncthreads();
        };

        /* Weights are on their way while the norms are computed. */
        if (Form::cluster > 1) cluster_arrive();
        for (int32_t i = 0; i < Form::ahead; ++i) fetch_weights(first_step + i);
        for (int32_t i = thread; i < hidden / 8; i += QKV_THREADS) norm[i] = ((const uint4 *)p.norm)[i];
        fetch_rows(first_step);
        compute_scales<Form>(p, x, n_rows, partials, scales);
        store_rows(first_step);
        fetch_rows(first_step + 1);
        copy_wait<Form::ahead - 1>();
        step_arrive();

        /* Projection. After the barrier of a step every block that shares rows has ended the step before the last:
         * slots of that step are free. */
        float totals[Form::m_tiles][Form::n_tiles][4] = {}, sums[Form::m_tiles][Form::n_tiles][4] = {};
        auto end_segment = [&]() {
#pragma unroll
            for (int i = 0; i < Form::m_tiles * Form::n_tiles * 4; ++i) {
                totals[i / 4 / Form::n_tiles][i / 4 % Form::n_tiles][i % 4] +=
                    sums[i / 4 / Form::n_tiles][i / 4 % Form::n_tiles][i % 4];
                sums[i / 4 / Form::n_tiles][i / 4 % Form::n_tiles][i % 4] = 0;
            }
        };
        int warp_row = warp % Form::warps_m * Form::m_tiles * 16;
        int warp_column = warp / Form::warps_m * Form::n_tiles * 8;
        for (int32_t step = first_step; step < end_step; ++step) {
            step_wait();
            fetch_weights(step + Form::ahead);
            store_rows(step + 1);
            copy_wait<Form::ahead - 1>();
            step_arrive();
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
                for (int n = 0; n < Form::n_tiles; ++n) {
                    uint4 column = columns[(block * HEAD_DIM + n * 8) * 4];
#pragma unroll
                    for (int m = 0; m < Form::m_tiles; ++m) mma_k32(sums[m][n], top[m], bottom[m], column);
                }
            }
            if ((step + 1) % segment_steps == 0 || step + 1 == n_steps) end_segment();
        }
        step_wait();
        copy_wait<0>();
        __syncthreads();

        /* The head meets in shared memory, over the tiles that are no longer needed. */
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
        if (SPLIT > 1)
            cluster_sync();
        else
            __syncthreads();

        /* QK-norm, RoPE, append: one warp per row. Blocks that split k share the rows and add up their segments. */
        int first = SPLIT > 1 ? rank : 0;
        for (int32_t row = first + warp * SPLIT; row < n_rows; row += QKV_WARPS * SPLIT) {
            head_slice<HEAD_DIM> slice = {};
            constexpr int pairs = head_slice<HEAD_DIM>::pairs;
            const float *low_at = tile + row * Form::pitch + lane * pairs, *high_at = low_at + HEAD_DIM / 2;
#pragma unroll
            for (int i = 0; i < pairs * SPLIT; ++i) {
                int from = i / pairs, d = i % pairs;
                slice.low[d] += SPLIT > 1 ? cluster_load(cluster_address(low_at + d, from)) : low_at[d];
                slice.high[d] += SPLIT > 1 ? cluster_load(cluster_address(high_at + d, from)) : high_at[d];
            }
            finish_head<HEAD_DIM>(p.heads, first_row + row, head, lane, slice);
        }
        if (SPLIT > 1) cluster_sync(); // no block leaves while others read its tile
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
    using few = form<16, HEAD_DIM, 1, SEGMENTS>;
    using some = form<64, HEAD_DIM, 1, SEGMENTS>;
    using many = form<128, HEAD_DIM, 8, 1>;
    using few_alone = form<16, HEAD_DIM, 1, 1>; // without clusters
    using some_alone = form<64, HEAD_DIM, 1, 1>;

    static bool configure_all(const struct device *device, struct error *err) {
        return configure<few>(device, err) && configure<some>(device, err) && configure<many>(device, err) &&
               configure<few_alone>(device, err) && configure<some_alone>(device, err);
    }
};

bool rmsnorm_qkv_configure(const struct device *device, struct error *err) {
    return forms<64>::configure_all(device, err) && forms<128>::configure_all(device, err);
}

template <class Form>
static bool launch(const struct device *device, const struct qkv_params *params, struct error *err) {
    size_t shared_bytes = Form::shared_bytes(params->hidden);
    if (shared_bytes > device->max_dynamic_shared)
        return fail(err, ERR_INVALID,
                    "the fused projection of hidden size %d needs %zu bytes of shared memory, this GPU has %zu: use "
                    "--fused off",
                    params->hidden, shared_bytes, device->max_dynamic_shared);
    int32_t n_heads = params->heads.n_heads + 2 * params->heads.n_kv_heads;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = Form::cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n_heads * Form::SPLIT), (unsigned)divide_up(params->n_rows, Form::ROWS));
    config.blockDim = dim3(QKV_THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = device->stream;
    config.attrs = &attribute;
    config.numAttrs = Form::cluster > 1 ? 1 : 0;
    CUDA_TRY(cudaLaunchKernelEx(&config, rmsnorm_qkv_kernel<Form>, *params), err);
    return true;
}

template <int HEAD_DIM>
static bool launch_for_rows(const struct device *device, const struct qkv_params *params, struct error *err) {
    using all = forms<HEAD_DIM>;
    bool clusters = device->properties.major >= 9;
    bool shares = clusters && (params->heads.n_heads + 2 * params->heads.n_kv_heads) % all::many::SHARE == 0;
    if (params->n_rows <= 16)
        return clusters ? launch<typename all::few>(device, params, err)
                        : launch<typename all::few_alone>(device, params, err);
    if (params->n_rows > 64 && shares) return launch<typename all::many>(device, params, err);
    return clusters ? launch<typename all::some>(device, params, err)
                    : launch<typename all::some_alone>(device, params, err);
}

bool cuda_rmsnorm_qkv_fused(const struct context *ctx, const struct weights *weights, int32_t layer,
                            struct error *err) {
    const struct model_shape *shape = ctx->shape;
    const struct layer_weights *of_layer = &weights->layers[layer];
    if (shape->hidden % 8 != 0) return fail(err, ERR_INVALID, "hidden size %d is not a multiple of 8", shape->hidden);
    if (!device_prepare_rope(ctx->device, shape, err)) return false;
    struct qkv_params params = {};
    params.x = ctx->scratch.hidden;
    params.norm = of_layer->input_norm;
    params.weight = of_layer->qkv;
    params.n_rows = ctx->batch.n_rows;
    params.hidden = shape->hidden;
    params.heads = qkv_heads_from(ctx, of_layer, layer);
    if (shape->head_dim == 64) return launch_for_rows<64>(ctx->device, &params, err);
    if (shape->head_dim == 128) return launch_for_rows<128>(ctx->device, &params, err);
    return fail(err, ERR_INVALID, "head_dim %d is not supported on CUDA: 64 or 128", shape->head_dim);
}
