/* Dᵀ = W · Xᵀ: a tile of weight lines is the operand of 64 lines, the rows of X are the columns of D.
 *
 * A block makes the outputs of one tile for all rows: one thread keeps a ring of stages filled (64 k of weights and
 * rows each), a warpgroup for each 64 outputs multiplies. The blocks of a cluster divide k. They deal the rows among
 * them in groups of 8 and send each other their sums of these; what becomes of the totals is the product's end. */
#include "cuda/gemm_wgmma.cuh"

#include "cuda/cluster.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/warpgroup.cuh"
#include "cuda/wgmma_ends.cuh"

#include <assert.h>
#include <cudaTypedefs.h>

#define TILE_K         64 // values of k in a line of a stage
#define MAX_CLUSTER    8  // blocks, and segments of k
#define MAX_STAGES     24
#define TILE_ALIGN     1024 // bytes: of the swizzle
#define GROUPS_AT_ONCE 4    // of rows, in the end

/* ---- The kernel ---- */

template <class End> struct wgmma_params {
    CUtensorMap weights, rows;
    int32_t n_rows, depth;
    int32_t coordinates[3];         // of a tile in the map of weights, from one to the next
    int32_t segment_steps;          // of TILE_K
    int32_t n_stages, parts_stages; // all; the first, where the sums of all blocks come
    End end;
};

/* Of one block. Rows are dealt to the blocks of a cluster in groups of 8: four sums of each thread. */
template <class End, int ROWS, int SPLIT> struct tile {
    static constexpr int consumers = End::outputs / 64 * WARPGROUP, consumer_warps = consumers / WARP;
    static constexpr int threads = consumers + WARP;
    static constexpr int weight_bytes = End::outputs * LINE_BYTES, row_bytes = ROWS * LINE_BYTES;
    static constexpr int stage_bytes = weight_bytes + row_bytes;
    static constexpr int groups = ROWS / 8, group_bytes = consumers * 16;
    static constexpr int own_groups = (groups + SPLIT - 1) / SPLIT; // at most
    static constexpr int parts_bytes = SPLIT * own_groups * group_bytes;
    static constexpr int pitch = End::line_bytes + 16; // of lines of results: neighbours fall into other banks
    static constexpr int end_bytes = parts_bytes + own_groups * 8 * pitch;
};

#if HAVE_WGMMA
#define WGMMA_NEXT_K16  (32 >> 4) // to add to an operand
#define WGMMA_OPCODE(n) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "

__device__ static inline void wgmma_k16(float (&d)[4], uint64_t a, uint64_t b) {
    asm volatile(WGMMA_OPCODE(8) "{%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;" : WGMMA_D4(0) : "l"(a), "l"(b));
}
__device__ static inline void wgmma_k16(float (&d)[16], uint64_t a, uint64_t b) {
    asm volatile(WGMMA_OPCODE(32) "{" WGMMA_TEN() ", %10, %11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
                 : WGMMA_D16(0)
                 : "l"(a), "l"(b));
}
__device__ static inline void wgmma_k16(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile(WGMMA_OPCODE(64) "{" WGMMA_TEN() ", " WGMMA_TEN(1) ", " WGMMA_TEN(2) ", %30, %31}, "
                                                                                      "%32, %33, 1, 1, 1, 0, 0;"
                 : WGMMA_D32(0)
                 : "l"(a), "l"(b));
}

__device__ static inline void load_weights(uint32_t to, const CUtensorMap *map, int32_t k, const int32_t (&at)[3],
                                           int32_t tile, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
                 "l"(map), "r"(k), "r"(0), "r"(at[0] * tile), "r"(at[1] * tile), "r"(at[2] * tile), "r"(barrier)
                 : "memory");
}
#endif

/* Grid: tiles * SPLIT, in clusters of SPLIT blocks. A block moves 2 * depth / SPLIT bytes for each of its outputs and
 * for each row. */
template <class End, int ROWS, int SPLIT>
__global__ static void __launch_bounds__(tile<End, ROWS, SPLIT>::threads, End::outputs > 128 ? 1 : 2)
    wgmma_kernel(const __grid_constant__ wgmma_params<End> p) {
#if HAVE_WGMMA
    using Tile = tile<End, ROWS, SPLIT>;
    extern __shared__ char unaligned[];
    __shared__ uint64_t barriers[2 * MAX_STAGES + 1];
    __shared__ typename End::template state<ROWS> end_state;
    char *shared = unaligned + (-shared_address(unaligned) & (TILE_ALIGN - 1));
    uint32_t stages = shared_address(shared), full = shared_address(barriers), empty = full + MAX_STAGES * 8;
    uint32_t sums_came = full + 2 * MAX_STAGES * 8;

    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int32_t tile = (int32_t)blockIdx.x / SPLIT, segment = (int32_t)blockIdx.x % SPLIT;
    int32_t first_step = segment * p.segment_steps;
    int32_t n_steps = max(min(p.segment_steps, (p.depth + TILE_K - 1) / TILE_K - first_step), 1); // past the end: zeros

    /* Groups of rows of a block: its segment, segment + SPLIT … */
    int32_t n_groups = (p.n_rows + 7) / 8;
    auto groups_of = [&](int32_t owner) { return (n_groups - owner + SPLIT - 1) / SPLIT; };
    int32_t own_groups = groups_of(segment);

    auto fetch_weights = [&](int32_t step, int32_t slot) {
        uint32_t barrier = full + slot * 8;
        barrier_expect(barrier, Tile::stage_bytes);
        load_weights(stages + slot * Tile::stage_bytes, &p.weights, (first_step + step) * TILE_K, p.coordinates, tile,
                     barrier);
    };
    auto fetch_rows = [&](int32_t step, int32_t slot) {
        uint32_t to = stages + slot * Tile::stage_bytes + Tile::weight_bytes, barrier = full + slot * 8;
        tma_load(to, &p.rows, (first_step + step) * TILE_K, 0, barrier);
    };
    auto consumers_meet = [] { named_sync(1, Tile::consumers); };

    /* The first weights are on their way while the kernel ahead ends. */
    bool is_producer = thread == Tile::consumers, is_consumer = thread < Tile::consumers;
    if (is_producer) {
        tma_prefetch(&p.weights);
        tma_prefetch(&p.rows);
        for (int i = 0; i < p.n_stages; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, Tile::consumer_warps);
        }
        barrier_init(sums_came, 1);
        barrier_init_done();
        barrier_expect(sums_came, (SPLIT - 1) * own_groups * Tile::group_bytes);
        for (int32_t step = 0; step < min(p.n_stages, n_steps); ++step) fetch_weights(step, step);
    }
    __syncwarp();
    let_next_begin();
    cluster_arrive_relaxed();
    typename End::template of_thread<ROWS> end(p.end, end_state, tile, is_consumer ? p.n_rows : 0);
    __syncthreads();
    cluster_wait(); // the other blocks have begun
    wait_for_previous();

    if (is_producer) {
        for (int32_t step = 0, slot = 0, phase = 1; step < n_steps; ++step) {
            if (step >= p.n_stages) {
                barrier_wait(empty + slot * 8, phase);
                fetch_weights(step, slot);
            }
            fetch_rows(step, slot);
            if (++slot == p.n_stages) slot = 0, phase ^= 1;
        }
    }
    if (!is_consumer) return;

    constexpr int pieces = End::line_bytes / 16;
    auto row_of_line = [&](int32_t line) { return (line / 8 * SPLIT + segment) * 8 + line % 8; };
    end.begin(p.end, end_state, row_of_line(thread / pieces), thread % pieces, p.n_rows);

    float sums[ROWS / 2] = {};
    uint32_t part = warp / 4 * 64 * LINE_BYTES; // of the weights: this warpgroup's
    int32_t rest = (n_steps - 1) % p.n_stages, last_of_parts = min(rest, p.parts_stages - 1) + n_steps - 1 - rest;
    int32_t step = 0, slot = 0, phase = 0, last_slot = 0;
#pragma unroll 1
    do {
        barrier_wait(full + slot * 8, phase);
        uint64_t a = wgmma_operand(stages + slot * Tile::stage_bytes + part);
        uint64_t b = wgmma_operand(stages + slot * Tile::stage_bytes + Tile::weight_bytes);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < TILE_K / 16; ++i) wgmma_k16(sums, a + i * WGMMA_NEXT_K16, b + i * WGMMA_NEXT_K16);
        wgmma_commit();
        wgmma_wait<1>(); // the step before is over: its stage is free
        if (step > 0 && lane == 0) barrier_arrive(empty + last_slot * 8);
        if (step == last_of_parts + 1) cluster_arrive_relaxed();
        last_slot = slot;
        if (++slot == p.n_stages) slot = 0, phase ^= 1;
    } while (++step < n_steps);
    wgmma_wait<0>();
    if (n_steps == last_of_parts + 1) cluster_arrive_relaxed();
    if (SPLIT > 1) cluster_wait(); // nobody reads the first stages any more
    consumers_meet();

    /* Sums go to the block that their rows are dealt to. */
    float4 *parts = (float4 *)shared + thread; // [SPLIT][own_groups][consumers]
#pragma unroll
    for (int i = 0; i < Tile::groups; ++i) {
        constexpr int slots = Tile::own_groups;
        int owner = i % SPLIT;
        float4 *own = parts + (segment * slots + i / SPLIT) * Tile::consumers;
        if (i >= n_groups) break;
        if (owner == segment)
            *own = make_float4(sums[i * 4], sums[i * 4 + 1], sums[i * 4 + 2], sums[i * 4 + 3]);
        else
            cluster_send(cluster_address(own, owner), cluster_address(barriers + 2 * MAX_STAGES, owner), sums + i * 4);
    }
    barrier_wait(sums_came, 0);

    /* Totals, in the order of the segments, and what becomes of them: lines of rows, behind the sums. */
    constexpr int AT_ONCE = Tile::own_groups < GROUPS_AT_ONCE ? Tile::own_groups : GROUPS_AT_ONCE;
    char *lines = shared + Tile::parts_bytes;
    auto row_of = [&](int32_t slot) { return (slot * SPLIT + segment) * 8 + lane % 4 * 2; };
#pragma unroll 1
    for (int32_t first = 0; first < own_groups; first += AT_ONCE) {
        thread_sums totals[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const float4 *from = parts + min(first + i, own_groups - 1) * Tile::consumers;
            float4 sum = *from;
#pragma unroll
            for (int j = 1; j < SPLIT; ++j) {
                float4 more = from[j * Tile::own_groups * Tile::consumers];
                sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
            }
            totals[i] = {{sum.x, sum.y}, {sum.z, sum.w}};
        }
        if constexpr (End::meets) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) end.prepare(end_state, row_of(min(first + i, own_groups - 1)), totals[i]);
            consumers_meet();
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            int32_t slot = min(first + i, own_groups - 1);
            end.place(p.end, end_state, row_of(slot), lines + (slot * 8 + lane % 4 * 2) * Tile::pitch, Tile::pitch,
                      totals[i]);
        }
    }
    consumers_meet();
#pragma unroll 2
    for (int32_t i = thread; i < own_groups * 8 * pieces; i += Tile::consumers) {
        int32_t line = i / pieces, piece = i % pieces;
        int32_t row = row_of_line(line);
        end.store(p.end, end_state, row, row < p.n_rows, piece,
                  *(const uint4 *)(lines + line * Tile::pitch + piece * 16), i == thread);
    }
#endif
}

/* ---- Launches ---- */

static bool encode(const struct device *device, CUtensorMap *map, const uint16_t *data, int32_t rank,
                   const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box, struct error *err) {
    cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    CUresult result = ((PFN_cuTensorMapEncodeTiled_v12000)device->encode_map)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)rank, (void *)data, sizes, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return fail(err, ERR_DEVICE, "a tensor map of lines of %d: CUDA error %d", (int)sizes[0], (int)result);
    return true;
}

static bool encode_rows(const struct device *device, CUtensorMap *map, const struct gemm *gemm, int32_t box_rows,
                        struct error *err) {
    cuuint64_t sizes[2] = {(cuuint64_t)gemm->depth, (cuuint64_t)gemm->n_rows},
               strides[1] = {(cuuint64_t)gemm->depth * 2};
    cuuint32_t box[2] = {TILE_K, (cuuint32_t)box_rows};
    return encode(device, map, gemm->a, 2, sizes, strides, box, err);
}

static bool encode_weights(const struct device *device, CUtensorMap *map, const struct gemm *gemm,
                           const struct line_groups *groups, struct error *err) {
    cuuint64_t line_bytes = (cuuint64_t)gemm->depth * 2, sizes[5] = {(cuuint64_t)gemm->depth, 8},
               strides[4] = {line_bytes};
    cuuint32_t box[5] = {TILE_K, 8};
    for (int i = 0; i < 3; ++i) {
        sizes[i + 2] = (cuuint64_t)groups->count[i];
        strides[i + 1] = (cuuint64_t)groups->stride[i] * line_bytes;
        box[i + 2] = (cuuint32_t)groups->tile[i];
    }
    return encode(device, map, gemm->weight, 5, sizes, strides, box, err);
}

/* What depends on the weight's shape alone, so that sums have one order for all numbers of rows. */
struct wgmma_plan {
    int32_t split;        // into how many segments k is cut
    int32_t stages_bytes; // shared memory for them
};

template <class End, int ROWS, int SPLIT>
static bool launch_split(const struct device *device, const struct gemm *gemm, const struct wgmma_plan *plan,
                         const End *end, struct error *err) {
    using Tile = tile<End, ROWS, SPLIT>;
    wgmma_params<End> p = {};
    struct line_groups groups = end->groups();
    int32_t in_tile = groups.tile[groups.dimension], n_tiles = divide_up(groups.count[groups.dimension], in_tile);
    if (!encode_weights(device, &p.weights, gemm, &groups, err) || !encode_rows(device, &p.rows, gemm, ROWS, err))
        return false;
    p.n_rows = gemm->n_rows;
    p.depth = gemm->depth;
    p.coordinates[groups.dimension] = in_tile;
    p.segment_steps = divide_up(divide_up(gemm->depth, TILE_K), SPLIT);
    p.n_stages = plan->stages_bytes / Tile::stage_bytes;
    if (p.n_stages > MAX_STAGES) p.n_stages = MAX_STAGES;
    if (p.n_stages > p.segment_steps) p.n_stages = p.segment_steps;
    assert(p.n_stages >= 2 || p.segment_steps == 1); // a stage is free one step late
    p.parts_stages = divide_up(Tile::parts_bytes, Tile::stage_bytes);
    if (p.parts_stages > p.n_stages) p.parts_stages = p.n_stages;
    p.end = *end;

    int32_t bytes = p.n_stages * Tile::stage_bytes;
    struct launch launch = {dim3((unsigned)(n_tiles * SPLIT)), dim3(Tile::threads)};
    launch.cluster = SPLIT;
    launch.shared_bytes = (size_t)(bytes > Tile::end_bytes ? bytes : Tile::end_bytes) + TILE_ALIGN;
    assert(launch.shared_bytes <= device->max_dynamic_shared);
    return launch_kernel(device, launch, wgmma_kernel<End, ROWS, SPLIT>, err, p);
}

template <class End, int SPLIT>
static bool launch_rows(const struct device *device, const struct gemm *gemm, const struct wgmma_plan *plan,
                        const End *end, struct error *err) {
    if (gemm->n_rows <= 8) return launch_split<End, 8, SPLIT>(device, gemm, plan, end, err);
    return gemm->n_rows <= 32 ? launch_split<End, 32, SPLIT>(device, gemm, plan, end, err)
                              : launch_split<End, 64, SPLIT>(device, gemm, plan, end, err);
}

template <class End>
static bool launch(const struct device *device, const struct gemm *gemm, const struct wgmma_plan *plan, const End &end,
                   struct error *err) {
    assert(gemm->n_rows <= GEMM_WGMMA_ROWS);
    switch (plan->split) {
    case 1:
        return launch_rows<End, 1>(device, gemm, plan, &end, err);
    case 2:
        return launch_rows<End, 2>(device, gemm, plan, &end, err);
    case 4:
        return launch_rows<End, 4>(device, gemm, plan, &end, err);
    default:
        return launch_rows<End, 8>(device, gemm, plan, &end, err);
    }
}

/* Blocks of up to so many outputs and segments: one on each SM of an H200. More wait for each other's sums for longer
 * than they read faster. */
#define MAX_SPLIT_BLOCKS 132

/* Shared memory for stages. Under 48 MB of weights a block of the kernel behind should find room beside it, over that
 * what is under way counts. */
#define FEW_STAGES_BYTES  (104 << 10)
#define MANY_STAGES_BYTES (216 << 10)

#define WIDE_COLUMNS 12288 // from here on tiles of 192 of gate and up are plenty, and of 128 without a split

static struct wgmma_plan plan_of(const struct gemm *gemm, int32_t outputs) {
    bool many = (int64_t)gemm->n_columns * gemm->depth >= (int64_t)24 << 20;
    struct wgmma_plan plan = {1, many ? MANY_STAGES_BYTES : FEW_STAGES_BYTES};
    int32_t n_tiles = divide_up(gemm->n_columns, outputs);
    while (plan.split < MAX_CLUSTER && n_tiles * plan.split * 2 <= MAX_SPLIT_BLOCKS) plan.split *= 2;
    return plan;
}

bool gemm_wgmma(struct device *device, const struct gemm *gemm, struct error *err) {
    if (gemm->n_columns >= WIDE_COLUMNS) {
        struct wgmma_plan plan = plan_of(gemm, 128);
        plain_end<128> end = {gemm->c, gemm->n_columns, gemm->output};
        plan.split = 1;
        return launch_rows<plain_end<128>, 1>(device, gemm, &plan, &end, err);
    }
    struct wgmma_plan plan = plan_of(gemm, 64);
    return launch(device, gemm, &plan, plain_end<64>{gemm->c, gemm->n_columns, gemm->output}, err);
}

bool add_wgmma(struct device *device, const struct gemm *gemm, const struct next_rows *next, struct error *err) {
    struct wgmma_plan plan = plan_of(gemm, SQUARED_COLUMNS);
    return launch(device, gemm, &plan, add_end{(float *)gemm->c, gemm->n_columns, *next}, err);
}

bool gate_up_wgmma(struct device *device, const struct gemm *gemm, const struct row_scales *scales, struct error *err) {
    bool wide = gemm->n_columns >= WIDE_COLUMNS;
    struct wgmma_plan plan = plan_of(gemm, wide ? 192 : 128);
    uint16_t *activated = (uint16_t *)gemm->c;
    int32_t intermediate = gemm->n_columns / 2;
    return wide ? launch(device, gemm, &plan, gate_up_end<192>{activated, intermediate, *scales}, err)
                : launch(device, gemm, &plan, gate_up_end<128>{activated, intermediate, *scales}, err);
}

bool qkv_wgmma(struct device *device, const struct gemm *gemm, const struct qkv_heads *heads, int32_t head_dim,
               const struct row_scales *scales, struct error *err) {
    struct wgmma_plan plan = plan_of(gemm, head_dim);
    assert(head_dim == 64 || head_dim == 128); // prepare_shape
    return head_dim == 64 ? launch(device, gemm, &plan, heads_end<64>{*heads, *scales}, err)
                          : launch(device, gemm, &plan, heads_end<128>{*heads, *scales}, err);
}

template <class Kernel> static bool configure(const struct device *device, Kernel *kernel, struct error *err) {
    CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        err);
    return allow_shared(kernel, device->max_dynamic_shared, err);
}
template <class End, int SPLIT> static bool configure_split(const struct device *device, struct error *err) {
    return configure(device, wgmma_kernel<End, 8, SPLIT>, err) &&
           configure(device, wgmma_kernel<End, 32, SPLIT>, err) && configure(device, wgmma_kernel<End, 64, SPLIT>, err);
}
template <class End> static bool configure_end(const struct device *device, struct error *err) {
    return configure_split<End, 1>(device, err) && configure_split<End, 2>(device, err) &&
           configure_split<End, 4>(device, err) && configure_split<End, 8>(device, err);
}

bool gemm_wgmma_configure(struct device *device, struct error *err) {
    if (!device->encode_map) return true;
    return configure_end<plain_end<64>>(device, err) && configure_end<add_end>(device, err) &&
           configure_split<plain_end<128>, 1>(device, err) && configure_end<gate_up_end<128>>(device, err) &&
           configure_end<gate_up_end<192>>(device, err) && configure_end<heads_end<64>>(device, err) &&
           configure_end<heads_end<128>>(device, err);
}

/* Measured on an H200 with Qwen3 0.6B and 8B. */
bool gemm_wgmma_pays(const struct device *device, const struct gemm *gemm) {
    return device->encode_map && !gemm_is_small(gemm) && gemm->n_rows <= GEMM_WGMMA_ROWS;
}
