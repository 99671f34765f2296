/* Norm, router, softmax over all experts, the largest, and the order in which the pairs are computed, in one kernel.
 *
 * A cluster has a tile of 16 rows, and each of its blocks a part of the experts, whose router weights are on their way
 * before the kernel ahead has ended. A rounded row would choose other experts: it is multiplied as the sum of two bf16,
 * which together keep 16 bits of it; the norm's scale comes in at the end. The last block of all sorts. */
#include "cuda/cluster.cuh"
#include "cuda/experts.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/rmsnorm.cuh"

#define WARPS     NORM_WARPS
#define THREADS   (WARPS * WARP)
#define TILE_ROWS 16
#define SINGLE    8 // rows that one block chooses for

/* Tiles of 8 experts at a time, steps of 32 k that are asked for together, and blocks of a cluster. Few rows are a
 * matter of latency, many of how often they are read. EXPERTS, ROWS (8 or 16, of a tile): at most. SORTS: the last
 * block finds the place of every pair; else pairs only have a number among those of their expert, and a start. */
template <int EXPERTS, int ROWS, int TILES, int STEPS, int BLOCKS, bool SORTS> struct form {
    static constexpr int experts = EXPERTS, rows = ROWS, tiles = TILES, steps = STEPS, blocks = BLOCKS;
    static constexpr bool sorts = SORTS;
};

struct route_params {
    const float *x;                    // [n_rows][hidden]
    const uint16_t *norm;              // [hidden]
    const uint16_t *router;            // [n_experts][hidden]
    uint16_t *normed;                  // [n_rows][hidden]
    const int32_t *row_seqs, *kv_lens; // of the rows
    struct expert_routing routing;
    uint32_t *arrivals;                                    // of blocks, then of each expert's pairs
    int32_t n_rows, hidden, n_experts, n_active, n_blocks; // blocks: of a cluster
    bool normalised;
    float eps;
};

/* Eight values as the sum of two bf16 each. */
__device__ static inline void split8(const float4 &low, const float4 &high, const uint4 &norm, uint4 &large,
                                     uint4 &small) {
    float values[8] = {low.x * bf16_low(norm.x),  low.y * bf16_high(norm.x), low.z * bf16_low(norm.y),
                       low.w * bf16_high(norm.y), high.x * bf16_low(norm.z), high.y * bf16_high(norm.z),
                       high.z * bf16_low(norm.w), high.w * bf16_high(norm.w)};
    uint32_t of_large[4], of_small[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        of_large[i] = bf16_pair(values[2 * i], values[2 * i + 1]);
        of_small[i] = bf16_pair(values[2 * i] - bf16_low(of_large[i]), values[2 * i + 1] - bf16_high(of_large[i]));
    }
    large = make_uint4(of_large[0], of_large[1], of_large[2], of_large[3]);
    small = make_uint4(of_small[0], of_small[1], of_small[2], of_small[3]);
}

__device__ static inline float sum_of_squares8(const float4 &a, const float4 &b) {
    return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
}

/* One warp: softmax over all experts, and the n_active largest of one row. */
template <int EXPERTS, bool SORTS>
__device__ static inline void choose(const struct route_params &p, int32_t row, const float *logits) {
    constexpr int VALUES = EXPERTS / WARP;
    int lane = threadIdx.x % WARP;
    uint32_t keys[VALUES]; // bits of what is not negative, plus 1; 0: taken, or no expert
    float values[VALUES], top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        int32_t e = i * WARP + lane;
        values[i] = e < p.n_experts ? logits[e] : -INFINITY;
        top = fmaxf(top, values[i]);
    }
    for (int step = WARP / 2; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, step));
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        if (i * WARP >= p.n_experts) break;
        values[i] = expf(values[i] - top);
        sum += i * WARP + lane < p.n_experts ? values[i] : 0;
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < VALUES; ++i) keys[i] = i * WARP + lane < p.n_experts ? __float_as_uint(values[i]) + 1 : 0;

    int32_t expert = -1;
    float weight = 0;
    for (int32_t k = 0; k < p.n_active; ++k) {
        uint32_t largest = 0, first = UINT32_MAX;
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            if (i * WARP < p.n_experts) largest = max(largest, keys[i]);
        largest = __reduce_max_sync(ALL_LANES, largest);
#pragma unroll
        for (int i = VALUES - 1; i >= 0; --i)
            if (keys[i] == largest) first = (uint32_t)(i * WARP + lane);
        first = __reduce_min_sync(ALL_LANES, first);
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            if ((uint32_t)(i * WARP + lane) == first) keys[i] = 0;
        if (lane == k) {
            expert = (int32_t)first;
            weight = __uint_as_float(largest - 1) / sum;
        }
    }
    float chosen = warp_sum(weight);
    if (lane >= p.n_active) return;
    bool live = p.kv_lens[p.row_seqs[row]] > 0;
    p.routing.experts[row * p.n_active + lane] = live ? expert : -1;
    if (!SORTS) p.routing.places[row * p.n_active + lane] = live ? (int32_t)atomicAdd(p.arrivals + 1 + expert, 1u) : -1;
    p.routing.weights[row * p.n_active + lane] = p.normalised ? weight / chosen : weight;
}

/* All that one lane sums over the experts of the lanes before it. */
__device__ static inline int32_t sum_before(int32_t value) {
    int lane = threadIdx.x % WARP;
    int32_t sum = value;
    for (int step = 1; step < WARP; step *= 2) {
        int32_t other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step) sum += other;
    }
    return sum - value;
}

/* One warp: where each expert's places begin, and the lists of those that have rows. */
__device__ static inline void list_experts(const struct route_params &p, int32_t *places) {
    int32_t lane = (int32_t)threadIdx.x, each = (p.n_experts + WARP - 1) / WARP;
    int32_t from = lane * each, to = min(from + each, p.n_experts), n_places = 0, n_active = 0, n_tiles = 0;
    for (int32_t e = from; e < to; ++e) {
        n_places += places[e];
        n_active += places[e] > 0;
        n_tiles += (places[e] + EXPERTS_TILE_ROWS - 1) / EXPERTS_TILE_ROWS;
    }
    int32_t place = sum_before(n_places), active = sum_before(n_active), tile = sum_before(n_tiles);
    for (int32_t e = from; e < to; ++e) {
        int32_t count = places[e];
        places[e] = p.routing.starts[e] = place;
        if (count > 0) p.routing.active[active++] = {e, place, count, 0};
        for (int32_t first = 0; first < count; first += EXPERTS_TILE_ROWS)
            p.routing.tiles[tile++] = {e, place + first, min(count - first, EXPERTS_TILE_ROWS), 0};
        place += count;
    }
    if (lane < WARP - 1) return;
    p.routing.counts[0] = active;
    p.routing.counts[1] = tile;
    p.routing.counts[2] = place;
}

/* places: [n_experts] in shared memory. */
__device__ static inline void sort_pairs(const struct route_params &p, int32_t *places) {
    int32_t n_pairs = p.n_rows * p.n_active, thread = (int32_t)threadIdx.x;
    for (int32_t e = thread; e < p.n_experts; e += THREADS) places[e] = 0;
    __syncthreads();
#pragma unroll 8
    for (int32_t i = thread; i < n_pairs; i += THREADS) {
        int32_t expert = __ldcg(p.routing.experts + i);
        if (expert >= 0) atomicAdd(places + expert, 1);
    }
    __syncthreads();
    if (thread < WARP) list_experts(p, places);
    __syncthreads();
#pragma unroll 8
    for (int32_t i = thread; i < n_pairs; i += THREADS) {
        int32_t expert = __ldcg(p.routing.experts + i), place = expert < 0 ? -1 : atomicAdd(places + expert, 1);
        p.routing.places[i] = place;
        if (place >= 0) p.routing.rows[place] = i / p.n_active;
    }
}

/* The same where each pair has its number already. */
__device__ static inline void list_pairs(const struct route_params &p, int32_t *places) {
    for (int32_t e = (int32_t)threadIdx.x; e < p.n_experts; e += THREADS) {
        places[e] = (int32_t)__ldcg(p.arrivals + 1 + e);
        p.arrivals[1 + e] = 0;
    }
    __syncthreads();
    if (threadIdx.x < WARP) list_experts(p, places);
}

/* Grid (tiles of rows * n_blocks), clusters of n_blocks. A block reads 4 * hidden bytes of each of its rows for each
 * two tiles of its experts, and these tiles once; and writes its share of normed. */
template <class Form>
__global__ static void __launch_bounds__(THREADS, Form::rows == 8 ? 1 : 2)
    route_kernel(const __grid_constant__ struct route_params p) {
    constexpr int TILES = Form::tiles, STEPS = Form::steps;
    constexpr bool BOTTOM = Form::rows > 8;
    __shared__ float sums[WARPS][TILE_ROWS][TILES * 8];
    __shared__ float squares[WARPS][TILE_ROWS];
    __shared__ float logits[TILE_ROWS][Form::experts]; // of the rows that this block chooses for
    __shared__ bool is_last;
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, g = lane / 4, t = lane % 4;
    int32_t rank = (int32_t)blockIdx.x % p.n_blocks, first_row = (int32_t)blockIdx.x / p.n_blocks * TILE_ROWS;
    int32_t n_rows = min(TILE_ROWS, p.n_rows - first_row), hidden = p.hidden;
    int32_t n_tiles = (p.n_experts + 7) / 8, own_tiles = (n_tiles + p.n_blocks - 1) / p.n_blocks;
    int32_t begin = rank * own_tiles, end = min(begin + own_tiles, n_tiles);
    int32_t n_steps = ((hidden + 31) / 32 + WARPS - 1) / WARPS, first_k = warp * n_steps * 32 + t * 8;
    int32_t last_k = min(hidden, (warp + 1) * n_steps * 32);
    const uint4 zero = make_uint4(0, 0, 0, 0);
    /* The first block chooses for all rows where they are few, else each for every n_blocks-th. */
    bool is_single = p.n_rows <= SINGLE;
    int32_t n_choosers = is_single ? 1 : p.n_blocks;
    cluster_arrive_relaxed(); // no block stores into another that has not begun: waited for below

    uint4 weights[TILES][STEPS];
    auto fetch = [&](int32_t tile, int32_t step) {
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            int32_t expert = min((tile + n) * 8 + g, p.n_experts - 1);
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                int32_t k = first_k + (step + i) * 32;
                weights[n][i] = k < last_k && tile + n < end
                                    ? __ldg((const uint4 *)(p.router + (size_t)expert * hidden + k))
                                    : zero;
            }
        }
    };
    fetch(begin, 0);
    let_next_begin();
    wait_for_previous();

    const float *top = p.x + (size_t)(first_row + g) * hidden, *bottom = top + (size_t)8 * hidden;
    bool has_top = g < n_rows, has_bottom = g + 8 < n_rows;
    float top_squares = 0, bottom_squares = 0;
    const float4 none = make_float4(0, 0, 0, 0);
    bool arrived = false;
    for (int32_t tile = begin; tile < end || tile == begin; tile += TILES) { // each block sums squares
        float of_tiles[TILES][4] = {};
        float4 top_low[BOTTOM ? 1 : STEPS], top_high[BOTTOM ? 1 : STEPS];
        auto fetch_rows = [&](int32_t first) {
#pragma unroll
            for (int i = 0; i < (BOTTOM ? 1 : STEPS); ++i) {
                int32_t k = first_k + (first + i) * 32;
                bool valid = has_top && k < last_k;
                top_low[i] = valid ? *(const float4 *)(top + k) : none;
                top_high[i] = valid ? *(const float4 *)(top + k + 4) : none;
            }
        };
        for (int32_t step = 0; step < n_steps; step += STEPS) {
            if (tile > begin || step > 0) fetch(tile, step);
            constexpr int AT_ONCE = BOTTOM ? 1 : STEPS; // steps whose rows are asked for together
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                int32_t k = first_k + (step + i) * 32;
                if (i % AT_ONCE == 0) fetch_rows(step + i);
                if (k - t * 8 >= last_k) break;
                bool inside = k < last_k;
                uint4 norm = inside ? __ldg((const uint4 *)(p.norm + k)) : zero, large[2] = {}, small[2] = {};
                split8(top_low[i % AT_ONCE], top_high[i % AT_ONCE], norm, large[0], small[0]);
                if (tile == begin) top_squares += sum_of_squares8(top_low[i % AT_ONCE], top_high[i % AT_ONCE]);
                if (BOTTOM) {
                    bool valid = has_bottom && inside;
                    float4 low = valid ? *(const float4 *)(bottom + k) : none;
                    float4 high = valid ? *(const float4 *)(bottom + k + 4) : none;
                    split8(low, high, norm, large[1], small[1]);
                    if (tile == begin) bottom_squares += sum_of_squares8(low, high);
                }
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    mma_k32(of_tiles[n], large[0], large[1], weights[n][i]);
                    mma_k32(of_tiles[n], small[0], small[1], weights[n][i]);
                }
            }
        }
        if (tile == begin) {
            for (int step = 1; step < 4; step *= 2) {
                top_squares += __shfl_xor_sync(ALL_LANES, top_squares, step);
                bottom_squares += __shfl_xor_sync(ALL_LANES, bottom_squares, step);
            }
            if (t == 0) squares[warp][g] = top_squares, squares[warp][g + 8] = bottom_squares;
        } else {
            __syncthreads(); // the sums of the tiles before are read
        }
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            *(float2 *)&sums[warp][g][n * 8 + t * 2] = make_float2(of_tiles[n][0], of_tiles[n][1]);
            *(float2 *)&sums[warp][g + 8][n * 8 + t * 2] = make_float2(of_tiles[n][2], of_tiles[n][3]);
        }
        __syncthreads();
        if (!arrived) cluster_wait();
        arrived = true;
#pragma unroll
        for (int i = thread; i < TILE_ROWS * TILES * 8; i += THREADS) {
            int row = i / (TILES * 8), column = i % (TILES * 8);
            int32_t expert = tile * 8 + column;
            float sum = 0, square_sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) sum += sums[w][row][column], square_sum += squares[w][row];
            if (row < n_rows && expert < min(end * 8, p.n_experts))
                *cluster_pointer(&logits[row / n_choosers][expert], row % n_choosers) =
                    sum / sqrtf(square_sum / (float)hidden + p.eps);
        }
    }
    cluster_arrive();

    int32_t n_pieces = hidden / 8, own_pieces = (n_pieces + p.n_blocks - 1) / p.n_blocks;
    int32_t first_piece = rank * own_pieces, end_piece = min(first_piece + own_pieces, n_pieces);
    for (int32_t row = warp; row < n_rows; row += WARPS) {
        float square_sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) square_sum += squares[w][row];
        float scale = 1.0f / sqrtf(square_sum / (float)hidden + p.eps);
        const float *from = p.x + (size_t)(first_row + row) * hidden;
        uint16_t *to = p.normed + (size_t)(first_row + row) * hidden;
        for (int32_t piece = first_piece + lane; piece < end_piece; piece += WARP)
            *(uint4 *)(to + piece * 8) =
                normalise8(*(const float4 *)(from + piece * 8), *(const float4 *)(from + piece * 8 + 4), scale,
                           __ldg((const uint4 *)(p.norm + piece * 8)));
    }

    cluster_wait();
    __syncthreads(); // without clusters
    if (rank >= n_choosers) return;
    for (int32_t own = warp; own * n_choosers + rank < n_rows; own += WARPS)
        choose<Form::experts, Form::sorts>(p, first_row + own * n_choosers + rank, logits[own]);
    __syncthreads();
    if (!is_single) {
        __threadfence();
        __syncthreads();
        if (thread == 0) is_last = atomicAdd(p.arrivals, 1) == gridDim.x - 1;
        __syncthreads();
        if (!is_last) return;
        __threadfence();
        if (thread == 0) *p.arrivals = 0;
    }
    if (Form::sorts)
        sort_pairs(p, (int32_t *)sums);
    else
        list_pairs(p, (int32_t *)sums);
}

template <class Form> static bool launch(const struct device *device, struct route_params *params, struct error *err) {
    params->n_blocks = device->properties.major >= 9 ? Form::blocks : 1;
    struct launch launch = {dim3((unsigned)(divide_up(params->n_rows, TILE_ROWS) * params->n_blocks)), dim3(THREADS), 0,
                            params->n_blocks};
    return launch_kernel(device, launch, route_kernel<Form>, err, *params);
}

using single = form<128, 8, 2, 8, 8, true>;
using few = form<128, 16, 2, 8, 8, true>;
using few_of_more = form<MODEL_MAX_EXPERTS, 16, 2, 8, 8, true>;
using many = form<128, 16, 4, 4, 4, false>;
using many_of_more = form<MODEL_MAX_EXPERTS, 16, 2, 8, 8, false>;

bool route_rows(const struct context *ctx, const struct layer_weights *weights, struct row_range range,
                const struct expert_routing *routing, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    size_t skipped = (size_t)range.first * (size_t)shape->hidden;
    struct route_params params = {};
    params.x = ctx->scratch.hidden + skipped;
    params.norm = weights->post_attention_norm;
    params.router = weights->router;
    params.normed = (uint16_t *)ctx->scratch.normed + skipped;
    params.row_seqs = ctx->batch.row_seqs + range.first;
    params.kv_lens = ctx->batch.kv_lens;
    params.routing = *routing;
    params.arrivals = ctx->device->route_arrivals;
    params.n_rows = range.count;
    params.hidden = shape->hidden;
    params.n_experts = shape->n_experts;
    params.n_active = shape->n_active_experts;
    params.normalised = shape->normalised_experts;
    params.eps = shape->rms_eps;
    auto run = range.count <= SINGLE ? launch<single> : range.count <= EXPERTS_FEW_ROWS ? launch<few> : launch<many>;
    if (shape->n_experts > few::experts)
        run = range.count <= EXPERTS_FEW_ROWS ? launch<few_of_more> : launch<many_of_more>;
    return run(ctx->device, &params, err);
}
