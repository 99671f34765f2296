/* Experts of up to 32 rows: bound by reading the weights of those that are chosen, once.
 *
 * A warp takes a tile of 8 columns of one expert after another, and goes through all of k by itself. Every lane brings
 * the weights of its own fragments to shared memory, RING steps ahead and on into the next tile, and reads them back
 * itself: no barrier, and nothing stops the reads between two tiles. k is summed in steps of 16 by one accumulator. */
#include "cuda/experts.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/mlp.cuh"

#define RING          16            // steps of 32 k
#define GROUP         4             // steps that are waited for together
#define RING_PIECES   (RING * WARP) // of 16 bytes, of a warp
#define GATE_UP_WARPS 4
#define DOWN_WARPS    8
#define DOWN_RING     ((size_t)DOWN_WARPS * RING_PIECES * sizeof(uint4))
#define PAIR_BYTES    (8 * sizeof(float)) // of down: one tile's columns

/* On an SM. */
static constexpr int gate_up_blocks(int rows) {
    return rows <= 8 ? 5 : 4;
}

struct few_params {
    struct expert_routing routing;
    const uint16_t *gate_up, *down, *normed;
    uint16_t *activated; // [places][intermediate]
    float *x;            // [n_rows][hidden]
    bool adds;           // to x, as the first rank does
    int32_t n_rows, n_experts, n_active, hidden, intermediate;
};

/* What is read next, once how many there are has come. */
__device__ static inline void prefetch(const void *from) {
    asm volatile("prefetch.global.L1 [%0];" ::"l"(from) : "memory");
}

/* The tiles of one warp: task(i) is its i-th, of at most ROWS rows. Work says what they are:
 *   int32_t count; depth                   tiles, and k
 *   struct expert_rows rows_of(i)          of its expert
 *   const uint16_t *column_of(i, rows)     this lane's column g
 *   const uint16_t *row_of(place)          inputs of the pair there
 *   void finish(i, rows, tile, sums)       sums of 16 rows of the tile, as fragments */
template <int ROWS, class Work> __device__ static inline void run_tiles(const Work &work, uint4 *ring) {
    constexpr int MT = (ROWS + 15) / 16, HALVES = ROWS > 8 ? 2 : 1; // tiles of 16 rows, of two halves
    constexpr bool AHEAD = ROWS <= 16;       // rows of the next steps are asked for while these are multiplied
    constexpr int STEPS = AHEAD ? GROUP : 2; // whose rows are asked for together
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int32_t n_groups = ((work.depth + 31) / 32 + GROUP - 1) / GROUP;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    ring += lane;

    int32_t fetched = 0, fetched_group = 0, slot_to_fill = 0;
    const uint16_t *column = work.count > 0 ? work.column_of(0, work.rows_of(0)) + t * 8 : NULL;
    auto fetch = [&]() {
        if (fetched < work.count) {
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                int32_t k = (fetched_group * GROUP + i) * 32;
                bool valid = k + t * 8 < work.depth;
                copy_async(ring + (slot_to_fill * GROUP + i) * WARP, column + (valid ? k : 0), valid);
            }
            if (++fetched_group == n_groups) {
                fetched_group = 0;
                if (++fetched < work.count) column = work.column_of(fetched, work.rows_of(fetched)) + t * 8;
            }
        }
        slot_to_fill = (slot_to_fill + 1) % (RING / GROUP);
        copy_commit();
    };
#pragma unroll 1
    for (int i = 0; i < RING / GROUP; ++i) fetch();

    int32_t slot = 0;
    for (int32_t task = 0; task < work.count; ++task) {
        struct expert_rows rows = work.rows_of(task);
        const uint16_t *inputs[MT][HALVES];
        bool exists[MT][HALVES];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int half = 0; half < HALVES; ++half) {
                int32_t row = m * 16 + half * 8 + g;
                exists[m][half] = row < rows.count;
                inputs[m][half] = work.row_of(rows.first + (exists[m][half] ? row : 0)) + t * 8;
            }
        }
        auto fetch_rows = [&](int32_t step, uint4(&to)[MT][HALVES][STEPS]) {
#pragma unroll
            for (int i = 0; i < MT * HALVES * STEPS; ++i) {
                int m = i / STEPS / HALVES, half = i / STEPS % HALVES;
                int32_t k = (step + i % STEPS) * 32;
                to[m][half][i % STEPS] =
                    exists[m][half] && k + t * 8 < work.depth ? *(const uint4 *)(inputs[m][half] + k) : zero;
            }
        };
        float sums[MT][4] = {};
        uint4 now[MT][HALVES][STEPS], next[MT][HALVES][STEPS];
        if (AHEAD) fetch_rows(0, now);
        for (int32_t group = 0; group < n_groups; ++group) {
#pragma unroll
            for (int from = 0; from < GROUP; from += STEPS) {
                fetch_rows(group * GROUP + from + (AHEAD ? STEPS : 0), AHEAD ? next : now);
                if (from == 0) copy_wait<RING / GROUP - 1>();
#pragma unroll
                for (int i = 0; i < STEPS; ++i) {
                    uint4 b = ring[(slot * GROUP + from + i) * WARP];
#pragma unroll
                    for (int m = 0; m < MT; ++m)
                        if (m * 16 < rows.count)
                            mma_k32(sums[m], now[m][0][i], HALVES > 1 ? now[m][HALVES - 1][i] : zero, b);
                }
                if (AHEAD) memcpy(now, next, sizeof now);
            }
            slot = (slot + 1) % (RING / GROUP);
            fetch();
        }
#pragma unroll
        for (int m = 0; m < MT; ++m)
            if (m * 16 < rows.count) work.finish(task, rows, m, sums[m]);
    }
}

/* Tiles of four columns of gate and the same four of up, of all experts, over all warps of the grid. */
struct gate_up_work {
    const struct few_params &p;
    int32_t first, stride, n_tiles, count, depth;

    __device__ inline int32_t tile(int32_t i) const {
        return (first + i * stride) % n_tiles;
    }
    __device__ inline struct expert_rows rows_of(int32_t i) const {
        int4 rows = *(const int4 *)(p.routing.active + (first + i * stride) / n_tiles);
        return {rows.x, rows.y, rows.z, 0};
    }
    __device__ inline const uint16_t *column_of(int32_t i, const struct expert_rows &rows) const {
        int g = threadIdx.x % WARP / 4;
        int32_t line = tile(i) * 4 + g % 4 + (g < 4 ? 0 : p.intermediate);
        return p.gate_up + ((size_t)rows.expert * 2 * p.intermediate + line) * p.hidden;
    }
    __device__ inline const uint16_t *row_of(int32_t place) const {
        return p.normed + (size_t)p.routing.rows[place] * p.hidden;
    }
    /* Lanes t and t + 2 have gate and up of the same columns. */
    __device__ inline void finish(int32_t i, const struct expert_rows &rows, int m, const float (&sums)[4]) const {
        int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
        uint32_t top = bf16_pair(sums[0], sums[1]), bottom = bf16_pair(sums[2], sums[3]);
        uint32_t top_up = __shfl_xor_sync(ALL_LANES, top, 2), bottom_up = __shfl_xor_sync(ALL_LANES, bottom, 2);
        if (t >= 2) return;
        int32_t row = m * 16 + g;
        uint16_t *to = p.activated + (size_t)(rows.first + row) * p.intermediate + tile(i) * 4 + t * 2;
        if (row < rows.count) *(uint32_t *)to = silu_times_pair(top, top_up);
        if (row + 8 < rows.count) *(uint32_t *)(to + (size_t)8 * p.intermediate) = silu_times_pair(bottom, bottom_up);
    }
};

/* Grid: as many blocks as fit. Reads 4 * hidden bytes for each column of the experts that have rows, and 2 * hidden for
 * each pair and tile, mostly from caches. */
template <int ROWS>
__global__ static void __launch_bounds__(GATE_UP_WARPS *WARP, gate_up_blocks(ROWS))
    experts_gate_up_kernel(const __grid_constant__ struct few_params p) {
    __shared__ uint4 rings[GATE_UP_WARPS][RING_PIECES];
    int warp = threadIdx.x / WARP;
    let_next_begin();
    wait_for_previous();
    int32_t n_warps = (int32_t)gridDim.x * GATE_UP_WARPS, first = warp * (int32_t)gridDim.x + (int32_t)blockIdx.x;
    int32_t n_tiles = p.intermediate / 4;
    prefetch(p.routing.active + min(first / n_tiles, p.n_experts - 1));
    int32_t n_tasks = p.routing.counts[0] * n_tiles;
    struct gate_up_work work = {
        p, first, n_warps, n_tiles, first < n_tasks ? (n_tasks - first + n_warps - 1) / n_warps : 0, p.hidden};
    run_tiles<ROWS>(work, rings[warp]);
}

/* One tile of 8 columns of every expert, over the warps of a block. */
struct down_work {
    const struct few_params &p;
    float *partials; // [places][8] in shared memory
    int32_t column, count, depth;

    __device__ inline struct expert_rows rows_of(int32_t i) const {
        int4 rows = *(const int4 *)(p.routing.active + i * DOWN_WARPS + threadIdx.x / WARP);
        return {rows.x, rows.y, rows.z, 0};
    }
    __device__ inline const uint16_t *column_of(int32_t, const struct expert_rows &rows) const {
        return p.down + ((size_t)rows.expert * p.hidden + column + threadIdx.x % WARP / 4) * p.intermediate;
    }
    __device__ inline const uint16_t *row_of(int32_t place) const {
        return p.activated + (size_t)place * p.intermediate;
    }
    __device__ inline void finish(int32_t, const struct expert_rows &rows, int m, const float (&sums)[4]) const {
        int lane = threadIdx.x % WARP, row = m * 16 + lane / 4;
        float *to = partials + (rows.first + row) * 8 + lane % 4 * 2;
        if (row < rows.count) *(float2 *)to = make_float2(sums[0], sums[1]);
        if (row + 8 < rows.count) *(float2 *)(to + 64) = make_float2(sums[2], sums[3]);
    }
};

/* Grid (tiles of 8 columns). Reads 16 * intermediate bytes of each expert that has rows and 2 * intermediate of each
 * pair; the pairs meet in shared memory, and each row adds its own up. */
template <int ROWS>
__global__ static void __launch_bounds__(DOWN_WARPS *WARP, 2)
    experts_down_kernel(const __grid_constant__ struct few_params p) {
    extern __shared__ uint4 shared[]; // rings, partials
    float *partials = (float *)(shared + DOWN_WARPS * RING_PIECES);
    int warp = threadIdx.x / WARP;
    let_next_begin();
    wait_for_previous();
    prefetch(p.routing.active + warp % p.n_experts);
    int32_t n_active = p.routing.counts[0];
    struct down_work work = {p, partials, (int32_t)blockIdx.x * 8,
                             n_active > warp ? (n_active - warp + DOWN_WARPS - 1) / DOWN_WARPS : 0, p.intermediate};
    /* What the rows are added up by is on its way meanwhile; up to 12 bytes behind it lie between two arrays. */
    __shared__ __align__(16) int32_t places_of[EXPERTS_FEW_ROWS * MODEL_MAX_ACTIVE_EXPERTS];
    __shared__ __align__(16) float weights_of[EXPERTS_FEW_ROWS * MODEL_MAX_ACTIVE_EXPERTS];
    for (int32_t i = (int32_t)threadIdx.x * 4; i < p.n_rows * p.n_active; i += DOWN_WARPS * WARP * 4) {
        copy_async(places_of + i, p.routing.places + i, true);
        copy_async(weights_of + i, p.routing.weights + i, true);
    }
    run_tiles<ROWS>(work, shared + warp * RING_PIECES);
    copy_wait<0>();
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < p.n_rows * 8; i += DOWN_WARPS * WARP) {
        int32_t row = i / 8, column = i % 8;
        const int32_t *places = places_of + row * p.n_active;
        const float *weights = weights_of + row * p.n_active;
        float *to = p.x + (size_t)row * p.hidden + (int32_t)blockIdx.x * 8 + column, sum = 0;
        int32_t n = places[0] < 0 ? 0 : p.n_active; // none of a row of no sequence
#pragma unroll 8
        for (int32_t k = 0; k < n; ++k) sum += weights[k] * partials[places[k] * 8 + column];
        *to = p.adds ? *to + sum : sum;
    }
}

/* One form for 8, 16 and 32 rows. */
template <int ROWS> struct few_form {
    static bool configure(const struct device *device, struct error *err) {
        return allow_shared(experts_down_kernel<ROWS>, device->max_dynamic_shared, err);
    }
    static bool run(const struct device *device, const struct few_params &p, struct error *err) {
        struct launch gate_up = {dim3((unsigned)(device->properties.multiProcessorCount * gate_up_blocks(ROWS))),
                                 dim3(GATE_UP_WARPS * WARP)};
        struct launch down = {dim3((unsigned)(p.hidden / 8)), dim3(DOWN_WARPS * WARP),
                              DOWN_RING + (size_t)(p.n_rows * p.n_active) * PAIR_BYTES};
        return launch_kernel(device, gate_up, experts_gate_up_kernel<ROWS>, err, p) &&
               launch_kernel(device, down, experts_down_kernel<ROWS>, err, p);
    }
};

bool experts_few_configure(const struct device *device, struct error *err) {
    return few_form<8>::configure(device, err) && few_form<16>::configure(device, err) &&
           few_form<32>::configure(device, err);
}

int32_t experts_few_rows(const struct device *device, const struct model_shape *shape) {
    int32_t pairs = (int32_t)((device->max_dynamic_shared - DOWN_RING) / PAIR_BYTES);
    int32_t rows = pairs / shape->n_active_experts;
    return rows < EXPERTS_FEW_ROWS ? rows : EXPERTS_FEW_ROWS;
}

bool experts_few(const struct context *ctx, const struct layer_weights *weights, struct row_range range,
                 const struct expert_routing *routing, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    size_t skipped = (size_t)range.first * (size_t)shape->hidden;
    struct few_params params = {};
    params.routing = *routing;
    params.gate_up = weights->gate_up;
    params.down = weights->down;
    params.normed = (const uint16_t *)ctx->scratch.normed + skipped;
    params.activated = (uint16_t *)ctx->scratch.activated;
    params.x = ctx->scratch.hidden + skipped;
    params.adds = context_adds(ctx);
    params.n_rows = range.count;
    params.n_experts = shape->n_experts;
    params.n_active = shape->n_active_experts;
    params.hidden = shape->hidden;
    params.intermediate = shape->expert_intermediate;
    if (range.count <= 8) return few_form<8>::run(ctx->device, params, err);
    if (range.count <= 16) return few_form<16>::run(ctx->device, params, err);
    return few_form<32>::run(ctx->device, params, err);
}
