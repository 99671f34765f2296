/* Experts of many rows: products on wgmma, for compute capability 9.0, over tiles of rows that have one expert.
 *
 * D = X · Wᵀ: 64 rows are a warpgroup's operand, 256 lines of weights the columns of D. A block on each SM takes one
 * tile after another: one thread keeps a ring of stages filled (64 k of weights and rows each), also across the ends of
 * tiles; three warpgroups multiply, 64 rows each, as far as a tile has so many. k is summed from its begin to its
 * end by one accumulator. How many tiles there are, the list of tiles tells (experts.cuh). */
#include "cuda/experts.cuh"
#include "cuda/launch.cuh"
#include "cuda/mlp.cuh"
#include "cuda/warpgroup.cuh"

#include <cudaTypedefs.h>

#define TILE_K       64 // of bf16: a line of 128 bytes
#define TILE_ALIGN   1024
#define TILE_LINES   256
#define STAGES       4
#define CONSUMERS    3 // warpgroups
#define THREADS      ((1 + CONSUMERS) * WARPGROUP)
#define WEIGHT_BYTES (TILE_LINES * LINE_BYTES)
#define STAGE_BYTES  (WEIGHT_BYTES + EXPERTS_TILE_ROWS * LINE_BYTES)
#define BOX_ROWS     16 // rows come in boxes of so many
#define BOX_BYTES    (BOX_ROWS * LINE_BYTES)
#define SHARED_BYTES ((size_t)STAGES * STAGE_BYTES + TILE_ALIGN)

static_assert(EXPERTS_TILE_ROWS == CONSUMERS * 64, "each consumer has 64 rows");

struct many_params {
    CUtensorMap weights, rows;
    const struct expert_rows *tiles;
    const int32_t *n_tiles;
    void *out; // [places][n_outputs], bf16 or float32
    int32_t n_outputs, n_line_tiles, n_steps;
};

#if HAVE_WGMMA

/* Of gate and up: eight lines of gate, the same eight of up, the next eight of gate … */
__device__ static inline void load_gate_up(uint32_t to, const CUtensorMap *map, int32_t k, int32_t first,
                                           int32_t expert, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(map), "r"(k), "r"(0), "r"(first), "r"(expert), "r"(barrier)
                 : "memory");
}

struct ring {
    uint32_t tiles, barriers;
    int32_t slot;
    uint32_t parity;

    __device__ inline uint32_t at() const {
        return tiles + slot * STAGE_BYTES;
    }
    __device__ inline uint32_t full() const {
        return barriers + slot * 8;
    }
    __device__ inline uint32_t empty() const {
        return full() + STAGES * 8;
    }
    __device__ inline void next() {
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
};

__device__ static inline struct expert_rows tile_at(const struct many_params &p, int32_t task) {
    int4 tile = *(const int4 *)(p.tiles + task / p.n_line_tiles);
    return {tile.x, tile.y, tile.z, 0};
}

/* One thread. */
template <bool GATE_UP>
__device__ static inline void produce(const struct many_params &p, int32_t n_tasks, struct ring ring) {
    int32_t filled = 0;
    for (int32_t task = (int32_t)blockIdx.x; task < n_tasks; task += (int32_t)gridDim.x) {
        struct expert_rows rows = tile_at(p, task);
        int32_t line_tile = task % p.n_line_tiles, n_boxes = (rows.count + BOX_ROWS - 1) / BOX_ROWS;
        for (int32_t step = 0; step < p.n_steps; ++step, ++filled, ring.next()) {
            if (filled >= STAGES) barrier_wait(ring.empty(), ring.parity ^ 1);
            barrier_expect(ring.full(), (uint32_t)(WEIGHT_BYTES + n_boxes * BOX_BYTES));
            if (GATE_UP)
                load_gate_up(ring.at(), &p.weights, step * TILE_K, line_tile * (TILE_LINES / 16), rows.expert,
                             ring.full());
            else
                tma_load(ring.at(), &p.weights, step * TILE_K, line_tile * TILE_LINES, rows.expert, ring.full());
            for (int32_t box = 0; box < n_boxes; ++box)
                tma_load(ring.at() + WEIGHT_BYTES + box * BOX_BYTES, &p.rows, step * TILE_K,
                         rows.first + box * BOX_ROWS, ring.full());
        }
    }
}

/* All steps of a tile by one warpgroup; idle: its rows do not exist. */
__device__ static inline void multiply(const struct many_params &p, int32_t consumer, bool idle, struct ring &ring,
                                       float (&sums)[2][64]) {
    uint32_t last_empty = 0;
    bool arrives = threadIdx.x % WARP == 0;
    for (int32_t step = 0; step < p.n_steps; ++step, ring.next()) {
        barrier_wait(ring.full(), ring.parity);
        if (idle) {
            if (arrives) barrier_arrive(ring.empty());
            continue;
        }
        uint64_t a = wgmma_operand(ring.at() + WEIGHT_BYTES + consumer * 64 * LINE_BYTES), b = wgmma_operand(ring.at());
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < TILE_K / 16; ++k)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                wgmma_k16(sums[half], wgmma_moved(a, k * 32), wgmma_moved(b, half * 128 * LINE_BYTES + k * 32),
                          step + k > 0);
        wgmma_commit();
        wgmma_wait<1>(); // the step before is over: its stage is free
        if (step > 0 && arrives) barrier_arrive(last_empty);
        last_empty = ring.empty();
    }
    wgmma_wait<0>();
    if (!idle && arrives) barrier_arrive(last_empty);
}

/* A thread has columns 8j + 2t and the next of row 16 * (warp % 4) + lane / 4, and of the row 8 below: for even j of
 * gate, for odd j of up. Both are rounded to bf16 before they meet. */
__device__ static inline void store_activated(const struct many_params &p, const struct expert_rows &rows, int32_t row,
                                              int32_t line_tile, const float (&sums)[2][64]) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (row + half * 8 >= rows.count) continue;
        uint16_t *to = (uint16_t *)p.out + (size_t)(rows.first + row + half * 8) * p.n_outputs;
#pragma unroll
        for (int j = 0; j < TILE_LINES / 16; ++j) {
            const float *d = &sums[j / 8][j % 8 * 8 + half * 2];
            int32_t column = line_tile * (TILE_LINES / 2) + j * 8 + t * 2;
            if (column < p.n_outputs)
                *(uint32_t *)(to + column) = silu_times_pair(bf16_pair(d[0], d[1]), bf16_pair(d[4], d[5]));
        }
    }
}

__device__ static inline void store_outputs(const struct many_params &p, const struct expert_rows &rows, int32_t row,
                                            int32_t line_tile, const float (&sums)[2][64]) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (row + half * 8 >= rows.count) continue;
        float *to = (float *)p.out + (size_t)(rows.first + row + half * 8) * p.n_outputs;
#pragma unroll
        for (int j = 0; j < TILE_LINES / 8; ++j) {
            const float *d = &sums[j / 16][j % 16 * 4 + half * 2];
            int32_t column = line_tile * TILE_LINES + j * 8 + t * 2;
            if (column < p.n_outputs) __stcs((float2 *)(to + column), make_float2(d[0], d[1]));
        }
    }
}

#endif

/* Grid: one block on each SM. A tile reads 2 * depth bytes for each of its lines and rows. */
template <bool GATE_UP>
__global__ static void __launch_bounds__(THREADS, 1) experts_many_kernel(const __grid_constant__ struct many_params p) {
#if HAVE_WGMMA
    extern __shared__ char unaligned[];
    __shared__ uint64_t barriers[2 * STAGES];
    struct ring ring = {(shared_address(unaligned) + TILE_ALIGN - 1) & ~(uint32_t)(TILE_ALIGN - 1),
                        shared_address(barriers), 0, 0};
    if (threadIdx.x == 0) {
        tma_prefetch(&p.weights);
        tma_prefetch(&p.rows);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(ring.barriers + i * 8, 1);
            barrier_init(ring.barriers + (STAGES + i) * 8, CONSUMERS * WARPGROUP / WARP);
        }
        barrier_init_done();
    }
    __syncwarp();
    __syncthreads();
    let_next_begin();
    wait_for_previous();
    int32_t n_tasks = *p.n_tiles * p.n_line_tiles;

    if (threadIdx.x < WARPGROUP) {
        give_registers<32>();
        if (threadIdx.x == 0) produce<GATE_UP>(p, n_tasks, ring);
    } else {
        take_registers<160>();
        int32_t consumer = (int32_t)threadIdx.x / WARPGROUP - 1;
        int32_t row = consumer * 64 + (int32_t)threadIdx.x % WARPGROUP / WARP * 16 + (int32_t)threadIdx.x % WARP / 4;
        for (int32_t task = (int32_t)blockIdx.x; task < n_tasks; task += (int32_t)gridDim.x) {
            struct expert_rows rows = tile_at(p, task);
            float sums[2][64];
            multiply(p, consumer, consumer * 64 >= rows.count, ring, sums);
            if (GATE_UP)
                store_activated(p, rows, row, task % p.n_line_tiles, sums);
            else
                store_outputs(p, rows, row, task % p.n_line_tiles, sums);
        }
    }
#endif
}

/* ---- Launches ---- */

struct tensor {
    const void *data;
    uint32_t n_dimensions;
    cuuint64_t extents[5], strides[4]; // strides in bytes, from the second dimension on
    cuuint32_t box[5];
};

static bool encode(const struct device *device, CUtensorMap *map, const struct tensor *tensor, struct error *err) {
    const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    CUresult result = ((PFN_cuTensorMapEncodeTiled_v12000)device->encode_map)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, tensor->n_dimensions, (void *)tensor->data, tensor->extents,
        tensor->strides, tensor->box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) return fail(err, ERR_DEVICE, "a tensor map for experts: CUDA error %d", (int)result);
    return true;
}

static struct tensor gate_up_of(const struct model_shape *shape, const uint16_t *weights) {
    cuuint64_t line = (cuuint64_t)shape->hidden * 2, width = (cuuint64_t)shape->expert_intermediate;
    return {weights,
            5,
            {(cuuint64_t)shape->hidden, 8, 2, width / 8, (cuuint64_t)shape->n_experts},
            {line, line * width, line * 8, line * width * 2},
            {TILE_K, 8, 2, TILE_LINES / 16, 1}};
}

static struct tensor down_of(const struct model_shape *shape, const uint16_t *weights) {
    cuuint64_t line = (cuuint64_t)shape->expert_intermediate * 2, n_lines = (cuuint64_t)shape->hidden;
    return {weights,
            3,
            {(cuuint64_t)shape->expert_intermediate, n_lines, (cuuint64_t)shape->n_experts},
            {line, line * n_lines},
            {TILE_K, TILE_LINES, 1}};
}

static struct tensor rows_of(const uint16_t *rows, int32_t n_rows, int32_t depth) {
    return {rows, 2, {(cuuint64_t)depth, (cuuint64_t)n_rows}, {(cuuint64_t)depth * 2}, {TILE_K, BOX_ROWS}};
}

template <bool GATE_UP>
static bool run(const struct context *ctx, const struct expert_routing *routing, const struct tensor &weights,
                const struct tensor &rows, void *out, int32_t n_outputs, struct error *err) {
    const struct device *device = ctx->device;
    struct many_params params = {};
    params.tiles = routing->tiles;
    params.n_tiles = routing->counts + 1;
    params.out = out;
    params.n_outputs = n_outputs;
    params.n_line_tiles = divide_up(n_outputs, GATE_UP ? TILE_LINES / 2 : TILE_LINES);
    params.n_steps = divide_up((int32_t)rows.extents[0], TILE_K);
    if (!encode(device, &params.weights, &weights, err) || !encode(device, &params.rows, &rows, err)) return false;
    int32_t most = count_expert_tiles(ctx->shape, ctx->batch.n_rows) * params.n_line_tiles;
    int32_t n_blocks = device->properties.multiProcessorCount < most ? device->properties.multiProcessorCount : most;
    struct launch launch = {dim3((unsigned)n_blocks), dim3(THREADS), SHARED_BYTES};
    return launch_kernel(device, launch, experts_many_kernel<GATE_UP>, err, params);
}

bool experts_many(const struct context *ctx, const struct layer_weights *weights, const struct expert_routing *routing,
                  struct error *err) {
    const struct model_shape *shape = ctx->shape;
    uint16_t *activated = (uint16_t *)ctx->scratch.activated;
    int32_t n_places = ctx->batch.n_rows * shape->n_active_experts, width = shape->expert_intermediate;
    return run<true>(ctx, routing, gate_up_of(shape, weights->gate_up),
                     rows_of(routing->gathered, n_places, shape->hidden), activated, width, err) &&
           run<false>(ctx, routing, down_of(shape, weights->down), rows_of(activated, n_places, width),
                      routing->outputs, shape->hidden, err);
}

bool experts_many_configure(const struct device *device, struct error *err) {
    return !device->encode_map || (allow_shared(experts_many_kernel<true>, SHARED_BYTES, err) &&
                                   allow_shared(experts_many_kernel<false>, SHARED_BYTES, err));
}
