/* Dᵀ = W · Xᵀ: a tile of weight lines is the operand of 64 lines, the rows of X are the columns of D.
 *
 * A block makes the outputs of one tile for all rows: one thread keeps a ring of stages filled (64 k of weights and
 * rows each), a warpgroup for each 64 outputs multiplies. The blocks of a cluster divide k. They deal the rows among
 * them and send each other their sums of these; then each warp takes rows through the product's end. */
#include "cuda/gemm_wgmma.cuh"

#include "cuda/cluster.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/mlp.cuh"
#include "cuda/wgmma.cuh"

#include <assert.h>
#include <cudaTypedefs.h>

#define MAX_CLUSTER   8 // blocks, and segments of k
#define MAX_STAGES    8
#define BLOCK_RESERVE 2560 // bytes of shared memory beside the stages: of the system, the barriers, the alignment
#define ROWS_AT_ONCE  2    // of a warp, in the end
#define PARTS_AT_ONCE 4    // sums of other blocks that a thread reads before it adds
#define TILE_ALIGN    1024 // bytes: of the swizzle

/* ---- Ends. A warp takes rows of a tile, N side by side; lane n knows about the n-th row of the warp. Of a row a lane
 * has outputs lane * pairs + i of the tile's lower and upper half. ---- */

template <int OUTPUTS> struct plain_end {
    static constexpr int outputs = OUTPUTS, pairs = OUTPUTS / 64;
    void *c; // [n_rows][n_columns]
    int32_t n_columns;
    enum gemm_output output;

    struct of_lane {
        int32_t column, row;
        __device__ inline of_lane(const plain_end &, int32_t tile, int lane, int32_t own_row)
            : column(tile * OUTPUTS + lane * pairs), row(own_row) {}
        template <int N>
        __device__ inline void put(const plain_end &end, int owner, head_slice<OUTPUTS> (&slices)[N]) const {
#pragma unroll
            for (int n = 0; n < N; ++n) {
                int32_t of = __shfl_sync(ALL_LANES, row, owner + n);
                size_t at = (size_t)of * end.n_columns + column;
                if (of >= 0 && column < end.n_columns) end.put(at, slices[n].low);
                if (of >= 0 && column + OUTPUTS / 2 < end.n_columns) end.put(at + OUTPUTS / 2, slices[n].high);
            }
        }
    };
    __device__ inline void put(size_t at, const float (&sums)[pairs]) const {
        if (output == GEMM_BF16) store_bf16((uint16_t *)c + at, sums);
        if (output == GEMM_F32) store_f32((float *)c + at, sums);
        if (output == GEMM_ADD_F32) add_f32((float *)c + at, sums);
    }
};

/* The lower half of a tile is gate, the upper up; both are rounded to bf16 before they are multiplied. */
template <int OUTPUTS> struct gate_up_end {
    static constexpr int outputs = OUTPUTS, pairs = OUTPUTS / 64;
    uint16_t *activated; // [n_rows][intermediate]
    int32_t intermediate;

    struct of_lane {
        int32_t column, row;
        __device__ inline of_lane(const gate_up_end &, int32_t tile, int lane, int32_t own_row)
            : column(tile * (OUTPUTS / 2) + lane * pairs), row(own_row) {}
        template <int N>
        __device__ inline void put(const gate_up_end &end, int owner, head_slice<OUTPUTS> (&slices)[N]) const {
#pragma unroll
            for (int n = 0; n < N; ++n) {
                float products[pairs];
                for (int i = 0; i < pairs; ++i)
                    products[i] = bf16_low(silu_times(bf16_bits(slices[n].low[i]), bf16_bits(slices[n].high[i])));
                int32_t of = __shfl_sync(ALL_LANES, row, owner + n);
                if (of >= 0 && column < end.intermediate)
                    store_bf16(end.activated + (size_t)of * end.intermediate + column, products);
            }
        }
    };
};

/* A tile is a head. */
template <int HEAD_DIM> struct heads_end {
    static constexpr int outputs = HEAD_DIM;
    struct qkv_heads heads;

    struct of_lane {
        head_lane<HEAD_DIM> of_head;
        __device__ inline of_lane(const heads_end &end, int32_t tile, int lane, int32_t own_row)
            : of_head(end.heads, tile, lane, own_row) {}
        template <int N>
        __device__ inline void put(const heads_end &, int owner, head_slice<HEAD_DIM> (&slices)[N]) const {
            of_head.finish(owner, slices);
        }
    };
};

/* ---- The kernel ---- */

template <class End> struct wgmma_params {
    CUtensorMap weights, rows;
    int32_t n_rows;
    int32_t tile_lines, half_lines; // weight lines from a tile to the next, and from its lower half to its upper
    int32_t n_steps, segment_steps; // of TILE_K
    int32_t split, n_stages;
    int32_t parts_bytes; // shared memory that the sums of other blocks are sent to
    End end;
};

/* Of one block. Rows are dealt to the blocks of a cluster in groups of 8: four sums of each thread. */
template <int OUTPUTS, int ROWS> struct tile {
    static constexpr int consumers = OUTPUTS / 64 * WARPGROUP, consumer_warps = consumers / WARP;
    static constexpr int threads = consumers + WARP;
    static constexpr int weight_bytes = OUTPUTS * LINE_BYTES, row_bytes = ROWS * LINE_BYTES;
    static constexpr int stage_bytes = weight_bytes + row_bytes;
    static constexpr int groups = ROWS / 8, group_bytes = consumers * 16;
    static constexpr int pitch = OUTPUTS + 4; // floats: what a warp stores at once falls into 32 banks

    /* Groups that one block of the cluster gets at most. */
    __host__ __device__ static constexpr int share_of_groups(int split) {
        return (groups + split - 1) / split;
    }
};

#if HAVE_WGMMA
__device__ static inline float4 add(const float4 &a, const float4 &b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
#endif

/* Grid: tiles * split, in clusters of split blocks; two blocks fit on an SM. A block moves 2 * depth / split bytes for
 * each of its outputs and for each row. */
template <class End, int ROWS>
__global__ static void __launch_bounds__(tile<End::outputs, ROWS>::threads, 2)
    wgmma_kernel(const __grid_constant__ wgmma_params<End> p) {
#if HAVE_WGMMA
    constexpr int OUTPUTS = End::outputs;
    using Tile = tile<OUTPUTS, ROWS>;
    extern __shared__ char unaligned[];
    __shared__ uint64_t barriers[2 * MAX_STAGES + 1];
    char *shared = unaligned + (-shared_address(unaligned) & (TILE_ALIGN - 1));
    uint32_t stages = shared_address(shared), full = shared_address(barriers), empty = full + MAX_STAGES * 8;
    uint32_t sums_came = full + 2 * MAX_STAGES * 8;

    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int32_t tile = (int32_t)blockIdx.x / p.split, segment = (int32_t)blockIdx.x % p.split;
    int32_t first_step = segment * p.segment_steps;
    int32_t n_steps = max(min(p.segment_steps, p.n_steps - first_step), 0);

    /* This block's groups of rows: segment, segment + split … */
    int32_t n_groups = (p.n_rows + 7) / 8, own_groups = max(n_groups - segment + p.split - 1, 0) / p.split;

    auto fetch_weights = [&](int32_t step, int32_t slot) {
        uint32_t to = stages + slot * Tile::stage_bytes, barrier = full + slot * 8;
        int32_t k = (first_step + step) * TILE_K, line = tile * p.tile_lines;
        barrier_expect(barrier, Tile::stage_bytes);
        tma_load(to, &p.weights, k, line, barrier);
        tma_load(to + Tile::weight_bytes / 2, &p.weights, k, line + p.half_lines, barrier);
    };
    auto fetch_rows = [&](int32_t step, int32_t slot) {
        uint32_t to = stages + slot * Tile::stage_bytes + Tile::weight_bytes, barrier = full + slot * 8;
        tma_load(to, &p.rows, (first_step + step) * TILE_K, 0, barrier);
    };

    /* The first weights are on their way while the kernel ahead ends. */
    bool is_producer = thread == Tile::consumers;
    if (is_producer) {
        tma_prefetch(&p.weights);
        tma_prefetch(&p.rows);
        for (int i = 0; i < p.n_stages; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, Tile::consumer_warps);
        }
        barrier_init(sums_came, 1);
        barrier_init_done();
        barrier_expect(sums_came, (p.split - 1) * own_groups * Tile::group_bytes);
        for (int32_t step = 0; step < min(p.n_stages, n_steps); ++step) fetch_weights(step, step);
    }
    __syncwarp();
    let_next_begin();
    __syncthreads();
    wait_for_previous();

    float sums[ROWS / 2] = {};
    if (is_producer) {
        for (int32_t step = 0, slot = 0, phase = 1; step < n_steps; ++step) {
            if (step >= p.n_stages) {
                barrier_wait(empty + slot * 8, phase);
                fetch_weights(step, slot);
            }
            fetch_rows(step, slot);
            if (++slot == p.n_stages) slot = 0, phase ^= 1;
        }
    } else if (thread < Tile::consumers) {
        uint32_t part = warp / 4 * 64 * LINE_BYTES; // of the weights: this warpgroup's
        for (int32_t step = 0, slot = 0, phase = 0, last_slot = 0; step < n_steps; ++step) {
            barrier_wait(full + slot * 8, phase);
            uint64_t a = wgmma_operand(stages + slot * Tile::stage_bytes + part);
            uint64_t b = wgmma_operand(stages + slot * Tile::stage_bytes + Tile::weight_bytes);
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < TILE_K / 16; ++i) wgmma_k16(sums, a + i * WGMMA_NEXT_K16, b + i * WGMMA_NEXT_K16);
            wgmma_commit();
            wgmma_wait<1>(); // the step before is over: its stage is free
            if (step > 0 && lane == 0) barrier_arrive(empty + last_slot * 8);
            last_slot = slot;
            if (++slot == p.n_stages) slot = 0, phase ^= 1;
        }
        wgmma_wait<0>();
    }
    __syncwarp();
    /* Line i of this block's sums is row row_of(i) of c; a warp takes every consumer_warps-th. */
    auto row_of = [&](int32_t line) {
        int32_t row = (line / 8 * p.split + segment) * 8 + line % 8;
        return line < own_groups * 8 && row < p.n_rows ? row : -1;
    };
    typename End::of_lane end(p.end, tile, lane, row_of(warp + lane * Tile::consumer_warps));
    if (p.split > 1) { // nobody reads stages any more
        cluster_arrive_relaxed();
        cluster_wait();
    } else {
        __syncthreads();
    }

    /* Sums go to the block that their rows are dealt to. It adds them up in the order of the segments and lays them
     * down by row. */
    int32_t slots = Tile::share_of_groups(p.split);
    float *rows = (float *)(shared + p.parts_bytes); // [slots * 8][pitch]
    if (thread < Tile::consumers) {
        float4 *parts = (float4 *)shared + thread; // [split][slots][consumers]
        if (p.split > 1) {
#pragma unroll
            for (int i = 0, owner = 0, slot = 0; i < Tile::groups; ++i) {
                if (i < n_groups && owner != segment) {
                    cluster_send(cluster_address(parts + (segment * slots + slot) * Tile::consumers, owner),
                                 cluster_address(barriers + 2 * MAX_STAGES, owner), sums + i * 4);
                }
                if (++owner == p.split) owner = 0, ++slot;
            }
            barrier_wait(sums_came, 0);
        }
        float *to = rows + lane % 4 * 2 * Tile::pitch + warp * 16 + lane / 4;
#pragma unroll
        for (int i = 0, owner = 0, slot = 0; i < Tile::groups; ++i) {
            if (i < n_groups && owner == segment) {
                float4 own = make_float4(sums[i * 4], sums[i * 4 + 1], sums[i * 4 + 2], sums[i * 4 + 3]), sum = own;
                for (int from = 0; from < p.split && p.split > 1; from += PARTS_AT_ONCE) {
                    float4 part[PARTS_AT_ONCE];
#pragma unroll
                    for (int j = 0; j < PARTS_AT_ONCE; ++j)
                        if (from + j < p.split)
                            part[j] = from + j == segment ? own : parts[((from + j) * slots + slot) * Tile::consumers];
#pragma unroll
                    for (int j = 0; j < PARTS_AT_ONCE; ++j)
                        if (from + j < p.split) sum = from + j == 0 ? part[0] : add(sum, part[j]);
                }
                float *line = to + slot * 8 * Tile::pitch;
                line[0] = sum.x;
                line[Tile::pitch] = sum.y;
                line[8] = sum.z;
                line[Tile::pitch + 8] = sum.w;
            }
            if (++owner == p.split) owner = 0, ++slot;
        }
    }
    __syncthreads();
    if (warp >= Tile::consumer_warps) return;

    constexpr int pairs = head_slice<OUTPUTS>::pairs;
    for (int32_t owner = 0; warp + owner * Tile::consumer_warps < own_groups * 8; owner += ROWS_AT_ONCE) {
        head_slice<OUTPUTS> slices[ROWS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i) {
            int32_t line = min(warp + (owner + i) * Tile::consumer_warps, own_groups * 8 - 1);
            const float *low = rows + line * Tile::pitch + lane * pairs, *high = low + OUTPUTS / 2;
#pragma unroll
            for (int d = 0; d < pairs; ++d) {
                slices[i].low[d] = low[d];
                slices[i].high[d] = high[d];
            }
        }
        end.put(p.end, owner, slices);
    }
#endif
}

/* ---- Launches ---- */

#define MAX_SPLIT_BLOCKS 200 // two blocks fit on an SM, but the more blocks share the sums, the more they wait

/* Into how many segments k is cut, so that the weights keep the SMs busy: by the weight's shape alone. */
static int32_t split_of(int32_t n_tiles) {
    int32_t split = 1;
    while (split < MAX_CLUSTER && n_tiles * split * 2 <= MAX_SPLIT_BLOCKS) split *= 2;
    return split;
}

/* As many as fit when the blocks spread over the SMs, up to three on one. */
static int32_t stages_of(const struct device *device, int32_t n_blocks, int32_t stage_bytes) {
    int32_t blocks_on_sm = divide_up(n_blocks, device->properties.multiProcessorCount);
    if (blocks_on_sm > 3) blocks_on_sm = 3;
    int32_t bytes = (int32_t)device->properties.sharedMemPerMultiprocessor / blocks_on_sm - BLOCK_RESERVE;
    return bytes / stage_bytes < MAX_STAGES ? bytes / stage_bytes : MAX_STAGES;
}

static bool encode_map(const struct device *device, CUtensorMap *map, const uint16_t *data, int32_t n_lines,
                       int32_t depth, int32_t box_lines, struct error *err) {
    cuuint64_t sizes[2] = {(cuuint64_t)depth, (cuuint64_t)n_lines}, strides[1] = {(cuuint64_t)depth * 2};
    cuuint32_t box[2] = {TILE_K, (cuuint32_t)box_lines}, steps[2] = {1, 1};
    CUresult result = ((PFN_cuTensorMapEncodeTiled_v12000)device->encode_map)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)data, sizes, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return fail(err, ERR_DEVICE, "a tensor map of %d lines of %d: CUDA error %d", n_lines, depth, (int)result);
    return true;
}

template <class End, int ROWS>
static bool launch_rows(const struct device *device, const struct gemm *gemm, int32_t n_tiles, int32_t split,
                        wgmma_params<End> *p, struct error *err) {
    using Tile = tile<End::outputs, ROWS>;
    if (!encode_map(device, &p->weights, gemm->weight, gemm->n_columns, gemm->depth, End::outputs / 2, err) ||
        !encode_map(device, &p->rows, gemm->a, gemm->n_rows, gemm->depth, ROWS, err))
        return false;
    p->n_rows = gemm->n_rows;
    p->n_steps = divide_up(gemm->depth, TILE_K);
    p->split = split;
    p->segment_steps = divide_up(p->n_steps, split);
    int32_t n_stages = stages_of(device, n_tiles * split, Tile::stage_bytes);
    p->n_stages = n_stages < p->segment_steps ? n_stages : p->segment_steps;
    assert(p->n_stages >= 2 || p->segment_steps == 1); // a stage is free one step late

    int32_t slots = Tile::share_of_groups(split), stages_bytes = p->n_stages * Tile::stage_bytes;
    p->parts_bytes = split > 1 ? split * slots * Tile::group_bytes : 0;
    int32_t end_bytes = p->parts_bytes + slots * 8 * Tile::pitch * (int32_t)sizeof(float);
    struct launch launch = {};
    launch.grid = dim3((unsigned)(n_tiles * split));
    launch.block = dim3(Tile::threads);
    launch.cluster = split;
    launch.shared_bytes = (size_t)(stages_bytes > end_bytes ? stages_bytes : end_bytes) + TILE_ALIGN;
    assert(launch.shared_bytes <= device->max_dynamic_shared);
    return launch_kernel(device, launch, wgmma_kernel<End, ROWS>, err, *p);
}

template <class End>
static bool launch_tiles(const struct device *device, const struct gemm *gemm, int32_t n_tiles, int32_t split,
                         wgmma_params<End> *p, struct error *err) {
    assert(gemm->n_rows <= GEMM_WGMMA_ROWS);
    return gemm->n_rows <= 32 ? launch_rows<End, 32>(device, gemm, n_tiles, split, p, err)
                              : launch_rows<End, 64>(device, gemm, n_tiles, split, p, err);
}

template <class End> static bool run_plain(const struct device *device, const struct gemm *gemm, struct error *err) {
    int32_t n_tiles = divide_up(gemm->n_columns, End::outputs);
    wgmma_params<End> p = {};
    p.tile_lines = End::outputs;
    p.half_lines = End::outputs / 2;
    p.end.c = gemm->c;
    p.end.n_columns = gemm->n_columns;
    p.end.output = gemm->output;
    return launch_tiles(device, gemm, n_tiles, split_of(n_tiles), &p, err);
}

template <class End>
static bool run_heads(const struct device *device, const struct gemm *gemm, const struct qkv_heads *heads,
                      struct error *err) {
    int32_t n_tiles = gemm->n_columns / End::outputs;
    wgmma_params<End> p = {};
    p.tile_lines = End::outputs;
    p.half_lines = End::outputs / 2;
    p.end.heads = *heads;
    return launch_tiles(device, gemm, n_tiles, split_of(n_tiles), &p, err);
}

bool gemm_wgmma(struct device *device, const struct gemm *gemm, struct error *err) {
    return divide_up(gemm->n_columns, 64) <= MAX_SPLIT_BLOCKS ? run_plain<plain_end<64>>(device, gemm, err)
                                                              : run_plain<plain_end<128>>(device, gemm, err);
}

bool gate_up_wgmma(struct device *device, const struct gemm *gemm, struct error *err) {
    using End = gate_up_end<64>;
    wgmma_params<End> p = {};
    p.end.activated = (uint16_t *)gemm->c;
    p.end.intermediate = gemm->n_columns / 2;
    p.tile_lines = End::outputs / 2;
    p.half_lines = p.end.intermediate;
    return launch_tiles(device, gemm, divide_up(p.end.intermediate, p.tile_lines), 1, &p,
                        err); // plenty without a split
}

bool qkv_wgmma(struct device *device, const struct gemm *gemm, const struct qkv_heads *heads, int32_t head_dim,
               struct error *err) {
    assert(head_dim == 64 || head_dim == 128); // prepare_shape
    return head_dim == 64 ? run_heads<heads_end<64>>(device, gemm, heads, err)
                          : run_heads<heads_end<128>>(device, gemm, heads, err);
}

template <class Kernel> static bool configure(const struct device *device, Kernel *kernel, struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)device->max_dynamic_shared),
             err);
    CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        err);
    return true;
}
template <class End> static bool configure_end(const struct device *device, struct error *err) {
    return configure(device, wgmma_kernel<End, 32>, err) && configure(device, wgmma_kernel<End, 64>, err);
}

bool wgmma_configure(struct device *device, struct error *err) {
    cudaFuncAttributes attributes;
    if (device->properties.major != 9) return true;
    CUDA_TRY(cudaFuncGetAttributes(&attributes, wgmma_kernel<plain_end<64>, 32>), err);
    if (attributes.sharedSizeBytes == 0) return true; // built without wgmma: no barriers

    void *encode_map = NULL;
    cudaDriverEntryPointQueryResult found;
    CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode_map, 12000, cudaEnableDefault, &found),
             err);
    if (found == cudaDriverEntryPointSuccess) device->encode_map = encode_map;
    return true;
}

bool gemm_wgmma_configure(struct device *device, struct error *err) {
    if (!device->encode_map) return true;
    if (!configure_end<plain_end<64>>(device, err) || !configure_end<plain_end<128>>(device, err) ||
        !configure_end<gate_up_end<64>>(device, err) || !configure_end<heads_end<64>>(device, err) ||
        !configure_end<heads_end<128>>(device, err))
        return false;
    device->wgmma_products = true;
    return true;
}

/* Measured on an H200 with Qwen3 0.6B and 8B: beyond 64 rows cuBLASLt's tiles are better. */
bool gemm_wgmma_pays(const struct device *device, const struct gemm *gemm) {
    return device->wgmma_products && !gemm_is_small(gemm) && gemm->n_rows <= GEMM_WGMMA_ROWS;
}
