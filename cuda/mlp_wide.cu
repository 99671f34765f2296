/* Gate, up and activation for more than 64 rows on wgmma, for compute capability 9.0: what cuBLASLt's product and a
 * kernel for the activation do in the time of the product, which is bound by the tensor cores' power from 256 rows on.
 *
 * Dᵀ = W · Xᵀ: 64 lines of weights are a warpgroup's operand, the rows of X are the columns of D. A block makes the
 * outputs of one tile for up to 128 or 256 rows: one thread keeps a ring of stages filled (64 k of weights and rows
 * each), two or three warpgroups multiply. The lines of a tile are eight of gate, the same eight of up, the next eight
 * of gate …, so that both meet in one thread. k is summed from its begin to its end by one accumulator, whatever the
 * tile: a row's result does not depend on how many rows share the step. */
#include "cuda/gemm.cuh"
#include "cuda/launch.cuh"
#include "cuda/mlp.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/warpgroup.cuh"

#include <cudaTypedefs.h>

#define TILE_K            64 // of bf16: a line of 128 bytes
#define TILE_ALIGN        1024
#define MAX_STAGES        6
#define CONSUMERS_BARRIER 1
#define OTHER_SHARED      2048 // bytes: the barriers and scales

/* L2 policies of copies, as createpolicy makes them: weights pass once, rows are read by every tile. */
#define PASSES_ONCE 0x12F0000000000000u
#define IS_REUSED   0x14F0000000000000u

struct wide_params {
    CUtensorMap weights, rows;
    uint16_t *activated; // [n_rows][intermediate]
    struct row_scales scales;
    int32_t n_rows, intermediate;
    int32_t n_row_tiles, tile_rows; // tile_rows come with a stage: lines past the last row would cost time
    int32_t stage_bytes;            // that come with a stage
    int32_t n_steps, n_stages;      // steps of TILE_K
};

template <int WARPGROUPS, int ROWS> struct form {
    static constexpr int lines = WARPGROUPS * 64, outputs = lines / 2, rows = ROWS;
    static constexpr int consumers = WARPGROUPS * WARPGROUP, consumer_warps = consumers / WARP;
    static constexpr int threads = WARPGROUP + consumers;
    static constexpr int producer_registers = WARPGROUPS == 3 ? 32 : 24;
    static constexpr int consumer_registers = WARPGROUPS == 3 ? 160 : 240; // of 65,536 in all
    static constexpr int weight_bytes = lines * LINE_BYTES, stage_bytes = weight_bytes + ROWS * LINE_BYTES;
    static constexpr int halves = ROWS / 128;       // products of 128 rows
    static constexpr int pieces = outputs / 8;      // of 16 bytes in a row of results
    static constexpr int pitch = (pieces + 1) * 16; // bytes: what a warp stores at once falls into 32 banks
};

#if HAVE_WGMMA

/* From eight lines of gate and the same of up, number `first` on (weights_map). */
__device__ static inline void load_weights(uint32_t to, const CUtensorMap *map, int32_t k, int32_t first,
                                           uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
                 "[%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(k), "r"(0), "r"(first), "r"(barrier), "l"(PASSES_ONCE)
                 : "memory");
}
__device__ static inline void load_rows(uint32_t to, const CUtensorMap *map, int32_t k, int32_t row, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
                 "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier), "l"(IS_REUSED)
                 : "memory");
}

/* A stage of the ring, which goes on step by step. */
struct stage {
    uint32_t tiles, barriers; // of the first
    int32_t n_stages, bytes, slot;
    uint32_t parity;

    __device__ inline uint32_t at() const {
        return tiles + slot * bytes;
    }
    __device__ inline uint32_t full() const {
        return barriers + slot * 8;
    }
    __device__ inline uint32_t empty() const {
        return full() + MAX_STAGES * 8;
    }
    __device__ inline void next() {
        if (++slot == n_stages) slot = 0, parity ^= 1;
    }
};

template <class Form>
__device__ static inline void fetch_weights(const struct wide_params &p, int32_t tile, int32_t step,
                                            const struct stage &stage) {
    barrier_expect(stage.full(), (uint32_t)p.stage_bytes);
    load_weights(stage.at(), &p.weights, step * TILE_K, tile * Form::pieces, stage.full());
}

/* One thread. The weights of the first stages are under way. */
template <class Form>
__device__ static inline void produce(const struct wide_params &p, int32_t tile, int32_t first_row,
                                      struct stage stage) {
    for (int32_t step = 0; step < p.n_steps; ++step, stage.next()) {
        if (step >= p.n_stages) {
            barrier_wait(stage.empty(), stage.parity ^ 1);
            fetch_weights<Form>(p, tile, step, stage);
        }
        load_rows(stage.at() + Form::weight_bytes, &p.rows, step * TILE_K, first_row, stage.full());
    }
}

/* One warpgroup, 64 lines; each half is 128 rows. */
template <class Form>
__device__ static inline void multiply(const struct wide_params &p, struct stage stage,
                                       float (&sums)[Form::halves][64]) {
    uint32_t own_lines = (threadIdx.x / WARPGROUP - 1) * 64 * LINE_BYTES, last_empty = 0;
    for (int32_t step = 0; step < p.n_steps; ++step, stage.next()) {
        barrier_wait(stage.full(), stage.parity);
        uint64_t a = wgmma_operand(stage.at() + own_lines), b = wgmma_operand(stage.at() + Form::weight_bytes);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < TILE_K / 16; ++k)
#pragma unroll
            for (int half = 0; half < Form::halves; ++half)
                wgmma_k16(sums[half], wgmma_moved(a, k * 32), wgmma_moved(b, half * 128 * LINE_BYTES + k * 32), true);
        wgmma_commit();
        wgmma_wait<1>(); // the step before is over: its stage is free
        if (step > 0 && threadIdx.x % WARP == 0) barrier_arrive(last_empty);
        last_empty = stage.empty();
    }
    wgmma_wait<0>();
    __syncwarp();
}

/* Of each group of 8 rows a thread has gate (x, y) and up (z, w) of one output, of rows 2t (x, z) and 2t + 1 (y, w), t
 * = lane % 4. Lanes of neighbouring outputs swap, so that each has two outputs of one row; the rows go out through
 * shared memory in whole pieces. Gate and up are rounded to bf16 before they meet. */
template <class Form>
__device__ static inline void activate(const struct wide_params &p, int32_t tile, int32_t first_row,
                                       const float (&sums)[Form::halves][64], const float *scales, char *lines) {
    int consumer = (int)threadIdx.x - WARPGROUP, lane = consumer % WARP, odd = lane / 4 % 2;
    int32_t n_rows = min(p.tile_rows, p.n_rows - first_row);
    char *to = lines + (lane % 4 * 2 + odd) * Form::pitch + consumer / WARP * 16 + lane / 8 * 4;
    named_sync(CONSUMERS_BARRIER, Form::consumers); // the stages are read
#pragma unroll
    for (int group = 0; group < Form::rows / 8; ++group) {
        const float *d = &sums[group / 16][group % 16 * 4];
        float2 scale = *(const float2 *)(scales + group * 8 + lane % 4 * 2);
        uint32_t mine = silu_times_pair(bf16_pair(d[0], d[1]), bf16_pair(d[2], d[3]), scale.x, scale.y);
        uint32_t other = __shfl_xor_sync(ALL_LANES, mine, 4);
        *(uint32_t *)(to + group * 8 * Form::pitch) = __byte_perm(mine, other, odd ? 0x3276 : 0x5410);
    }
    named_sync(CONSUMERS_BARRIER, Form::consumers);
    for (int32_t i = consumer; i < n_rows * Form::pieces; i += Form::consumers) {
        int32_t row = i / Form::pieces, piece = i % Form::pieces, output = tile * Form::outputs + piece * 8;
        if (output < p.intermediate)
            *(uint4 *)(p.activated + (size_t)(first_row + row) * p.intermediate + output) =
                *(const uint4 *)(lines + row * Form::pitch + piece * 16);
    }
}

#endif

/* Grid: tiles * row tiles, one block on an SM. A block reads 2 * hidden bytes for each of its lines and rows. */
template <class Form>
__global__ static void __launch_bounds__(Form::threads, 1)
    mlp_wide_kernel(const __grid_constant__ struct wide_params p) {
#if HAVE_WGMMA
    extern __shared__ char unaligned[];
    __shared__ uint64_t barriers[2 * MAX_STAGES];
    __shared__ float2 scales[Form::rows / 2]; // of the tile's rows
    char *shared = unaligned + (-shared_address(unaligned) & (TILE_ALIGN - 1));
    struct stage stage = {shared_address(shared), shared_address(barriers), p.n_stages, Form::stage_bytes, 0, 0};
    int32_t tile = (int32_t)blockIdx.x / p.n_row_tiles;
    int32_t first_row = (int32_t)blockIdx.x % p.n_row_tiles * p.tile_rows;

    /* The first weights are on their way while the kernel ahead ends. */
    if (threadIdx.x == 0) {
        tma_prefetch(&p.weights);
        tma_prefetch(&p.rows);
        for (int i = 0; i < p.n_stages; ++i) {
            barrier_init(stage.barriers + i * 8, 1);
            barrier_init(stage.barriers + (MAX_STAGES + i) * 8, Form::consumer_warps);
        }
        barrier_init_done();
        struct stage first = stage;
        for (int32_t step = 0; step < min(p.n_stages, p.n_steps); ++step, first.next())
            fetch_weights<Form>(p, tile, step, first);
    }
    __syncwarp();
    __syncthreads();
    let_next_begin();
    wait_for_previous();

    if (threadIdx.x < WARPGROUP) {
        give_registers<Form::producer_registers>();
        if (threadIdx.x == 0) produce<Form>(p, tile, first_row, stage);
    } else {
        take_registers<Form::consumer_registers>();
        for (int32_t row = (int32_t)threadIdx.x - WARPGROUP; row < Form::rows; row += Form::consumers)
            ((float *)scales)[row] = first_row + row < p.n_rows ? scale_of_row(p.scales, first_row + row) : 0;
        float sums[Form::halves][64] = {};
        multiply<Form>(p, stage, sums);
        activate<Form>(p, tile, first_row, sums, (const float *)scales, shared);
    }
#endif
}

/* ---- Launches ---- */

static bool encode_map(const struct device *device, CUtensorMap *map, const uint16_t *data, uint32_t n_dimensions,
                       const cuuint64_t *extents, const cuuint64_t *strides, const cuuint32_t *box, struct error *err) {
    cuuint32_t steps[4] = {1, 1, 1, 1};
    CUresult result = ((PFN_cuTensorMapEncodeTiled_v12000)device->encode_map)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, n_dimensions, (void *)data, extents, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return fail(err, ERR_DEVICE, "a tensor map for gate and up: CUDA error %d", (int)result);
    return true;
}

/* Eight lines of gate, the same eight of up, the next eight of gate … */
static bool weights_map(const struct device *device, CUtensorMap *map, const struct gemm *gemm, int32_t n_lines,
                        struct error *err) {
    cuuint64_t line_bytes = (cuuint64_t)gemm->depth * 2, intermediate = (cuuint64_t)gemm->n_columns / 2;
    cuuint64_t extents[4] = {(cuuint64_t)gemm->depth, 8, 2, intermediate / 8};
    cuuint64_t strides[3] = {line_bytes, line_bytes * intermediate, line_bytes * 8};
    cuuint32_t box[4] = {TILE_K, 8, 2, (cuuint32_t)n_lines / 16};
    return encode_map(device, map, gemm->weight, 4, extents, strides, box, err);
}

static bool rows_map(const struct device *device, CUtensorMap *map, const struct gemm *gemm, int32_t tile_rows,
                     struct error *err) {
    cuuint64_t extents[2] = {(cuuint64_t)gemm->depth, (cuuint64_t)gemm->n_rows};
    cuuint64_t strides[1] = {(cuuint64_t)gemm->depth * 2};
    cuuint32_t box[2] = {TILE_K, (cuuint32_t)tile_rows};
    return encode_map(device, map, gemm->a, 2, extents, strides, box, err);
}

/* Tiles share the rows evenly, in groups of 8. */
static int32_t tile_rows_of(int32_t n_rows, int32_t most) {
    return divide_up(divide_up(n_rows, divide_up(n_rows, most)), 8) * 8;
}

static int32_t dynamic_shared(const struct device *device) {
    return (int32_t)device->properties.sharedMemPerBlockOptin - OTHER_SHARED;
}

template <class Form>
static bool run(const struct device *device, const struct gemm *gemm, const struct row_scales *scales,
                struct error *err) {
    struct wide_params p = {};
    p.activated = (uint16_t *)gemm->c;
    p.scales = *scales;
    p.n_rows = gemm->n_rows;
    p.intermediate = gemm->n_columns / 2;
    p.n_row_tiles = divide_up(gemm->n_rows, Form::rows);
    p.tile_rows = tile_rows_of(gemm->n_rows, Form::rows);
    p.stage_bytes = Form::weight_bytes + p.tile_rows * LINE_BYTES;
    p.n_steps = divide_up(gemm->depth, TILE_K);
    int32_t room = (dynamic_shared(device) - TILE_ALIGN) / Form::stage_bytes;
    p.n_stages = room < MAX_STAGES ? room : MAX_STAGES;
    static_assert(Form::pitch * Form::rows <= 4 * Form::stage_bytes, "results take the place of stages");
    if (!weights_map(device, &p.weights, gemm, Form::lines, err) || !rows_map(device, &p.rows, gemm, p.tile_rows, err))
        return false;
    struct launch launch = {dim3((unsigned)(divide_up(gemm->n_columns, Form::lines) * p.n_row_tiles)),
                            dim3(Form::threads), (size_t)(p.n_stages * Form::stage_bytes) + TILE_ALIGN};
    return launch_kernel(device, launch, mlp_wide_kernel<Form>, err, p);
}

using narrow = form<2, 128>;
using wide = form<3, 128>;
using large = form<3, 256>;

template <class Form> static int32_t n_blocks_of(const struct gemm *gemm) {
    return divide_up(gemm->n_columns, Form::lines) * divide_up(gemm->n_rows, Form::rows);
}

/* Waves of blocks times their size. */
template <class Form> static int32_t cost_of(const struct device *device, const struct gemm *gemm) {
    return divide_up(n_blocks_of<Form>(gemm), device->properties.multiProcessorCount) * Form::lines * Form::rows;
}

/* Of two forms that cost alike the larger reads less. */
static bool run_cheapest(const struct device *device, const struct gemm *gemm, const struct row_scales *scales,
                         struct error *err) {
    int32_t of_narrow = cost_of<narrow>(device, gemm), of_wide = cost_of<wide>(device, gemm);
    int32_t of_large = cost_of<large>(device, gemm);
    if (of_large <= of_wide && of_large <= of_narrow) return run<large>(device, gemm, scales, err);
    return of_wide <= of_narrow ? run<wide>(device, gemm, scales, err) : run<narrow>(device, gemm, scales, err);
}

template <class Form> static bool configure(const struct device *device, struct error *err) {
    return allow_shared(mlp_wide_kernel<Form>, (size_t)dynamic_shared(device), err);
}

bool mlp_wide_configure(const struct device *device, struct error *err) {
    return !device->encode_map ||
           (configure<narrow>(device, err) && configure<wide>(device, err) && configure<large>(device, err));
}

static struct gemm product_of(const struct context *ctx, const struct layer_weights *weights) {
    struct gemm gemm = {(const uint16_t *)ctx->scratch.normed,
                        weights->gate_up,
                        ctx->scratch.activated,
                        ctx->batch.n_rows,
                        2 * ctx->shape->intermediate,
                        ctx->shape->hidden,
                        GEMM_BF16};
    return gemm;
}

/* Up to 128 rows take as long as the weights; beyond, tiles of rows have to be nearly full. Two thirds of the SMs have
 * to have a block. */
bool mlp_gate_up_wide_pays(const struct context *ctx, const struct layer_weights *weights) {
    const struct device *device = ctx->device;
    struct gemm gemm = product_of(ctx, weights);
    bool is_full = gemm.n_rows <= 128 || tile_rows_of(gemm.n_rows, 128) > 104;
    return device->encode_map && gemm.n_rows > MLP_WIDE_OVER && gemm.n_rows <= MLP_WIDE_ROWS && is_full &&
           ctx->shape->intermediate % 8 == 0 && !gemm_is_small(&gemm) &&
           n_blocks_of<narrow>(&gemm) * 3 >= device->properties.multiProcessorCount * 2;
}

bool mlp_gate_up_wide(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct gemm gemm = product_of(ctx, of_layer);
    struct row_scales scales;
    return rmsnorm_rows_unscaled(ctx, of_layer->post_attention_norm, &scales, err) &&
           run_cheapest(ctx->device, &gemm, &scales, err);
}
