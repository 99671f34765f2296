/* Attention of sequences with one row: which block reads which keys is told in decode_work.cuh. In each block two warps
 * fetch rounds of 64 keys into shared memory and four compute; all query heads of a KV head share what is read.
 *
 * The result of a sequence follows from its own length and content, bit by bit, whatever shares the launch. Maxima are
 * rounded up to integers, so that a change of the maximum scales by a power of two: exact, whenever it is done. P is
 * rounded to bf16, as is the result. */
#include "cuda/decode_fetch.cuh"

#define COMPUTE_THREADS (COMPUTE_WARPS * WARP)
#define DECODE_THREADS  (COMPUTE_THREADS + FETCH_WARPS * WARP)
#define BLOCKS_AN_SM    2
#define NO_SCORE        (-(1 << 30))

/* Sums of one thread over some keys: of heads 2t and 2t + 1, and of each d-tile of its warp d = g of both, then g + 8.
 * They are to be multiplied by 2^maximum. */
template <int TILES> struct sums {
    int32_t maximum[2];
    float weight[2];
    float output[TILES][4];
};

/* The same in the workspace, by warp and lane. */
template <int TILES> struct stored_sums {
    float4 output[TILES][COMPUTE_THREADS];
    int4 heads[COMPUTE_WARPS][TILE_HEADS / 2]; // maxima and weights
};

__device__ static inline void compute_sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(COMPUTE_THREADS) : "memory");
}

__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 2^x of x <= 0, and the same twice as bf16; 0 below 2^-126. */
__device__ static inline float power_of_two(int32_t x) {
    return __int_as_float(max(x + 127, 0) << 23);
}
__device__ static inline uint32_t power_of_two_pair(int32_t x) {
    return (uint32_t)max(x + 127, 0) * ((1u << 23) + (1u << 7));
}
__device__ static inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
    __nv_bfloat162 product = __hmul2(*(__nv_bfloat162 *)&a, *(__nv_bfloat162 *)&b);
    return *(uint32_t *)&product;
}

template <int TILES> __device__ static inline void clear(struct sums<TILES> &sums) {
    sums = {};
    sums.maximum[0] = sums.maximum[1] = NO_SCORE;
}

/* Every sum of more than a round is made by this function. The products are exact. */
template <int TILES> __device__ static inline void add(struct sums<TILES> &to, const struct sums<TILES> &more) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        int32_t highest = max(to.maximum[i], more.maximum[i]);
        float a = power_of_two(to.maximum[i] - highest), b = power_of_two(more.maximum[i] - highest);
        to.maximum[i] = highest;
        to.weight[i] = to.weight[i] * a + more.weight[i] * b;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int k = i; k < 4; k += 2) to.output[tile][k] = to.output[tile][k] * a + more.output[tile][k] * b;
        }
    }
}

template <int TILES>
__device__ static inline void store(struct stored_sums<TILES> &to, const struct sums<TILES> &from) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
        to.output[tile][threadIdx.x] =
            make_float4(from.output[tile][0], from.output[tile][1], from.output[tile][2], from.output[tile][3]);
    if (lane >= TILE_HEADS / 2) return;
    to.heads[warp][lane] =
        make_int4(from.maximum[0], from.maximum[1], __float_as_int(from.weight[0]), __float_as_int(from.weight[1]));
}

/* This warp's part is in the workspace, and true: it is the last to say so. */
__device__ static inline bool arrive_last(uint32_t *n_arrivals, int32_t n_stored, int32_t n_units) {
    uint32_t before = 0;
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                     : "=r"(before)
                     : "l"(n_arrivals), "r"(n_stored)
                     : "memory");
        if (before + n_stored == (uint32_t)n_units) *n_arrivals = 0;
    }
    return __shfl_sync(ALL_LANES, before, 0) + n_stored == (uint32_t)n_units;
}

/* Volatile: all loads of a batch before the first use. */
__device__ static inline int4 load_stored(const void *from) {
    int4 value;
    asm volatile("ld.relaxed.gpu.global.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from)
                 : "memory");
    return value;
}

/* The sum of a task from its units: of those of each split in order, then of the splits. */
template <int TILES>
__device__ static inline void add_stored(struct sums<TILES> &to, const struct stored_sums<TILES> *from, int32_t count,
                                         int32_t split_units) {
    constexpr int batch = 2 * MIN_SPLIT_ROUNDS; // of whole splits
    int warp = threadIdx.x / WARP, t = threadIdx.x % 4;
#pragma unroll 1
    for (int32_t first = 0; first < count; first += batch) {
        int4 heads[batch], output[batch][TILES];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const struct stored_sums<TILES> &one = from[min(first + i, count - 1)];
            heads[i] = load_stored(&one.heads[warp][t]);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) output[i][tile] = load_stored(&one.output[tile][threadIdx.x]);
        }
        struct sums<TILES> split = {};
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            split.maximum[0] = i == 0 ? heads[i].x : max(split.maximum[0], heads[i].x);
            split.maximum[1] = i == 0 ? heads[i].y : max(split.maximum[1], heads[i].y);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            bool valid = first + i < count;
            float a = valid ? power_of_two(heads[i].x - split.maximum[0]) : 0;
            float b = valid ? power_of_two(heads[i].y - split.maximum[1]) : 0;
            split.weight[0] += __int_as_float(heads[i].z) * a;
            split.weight[1] += __int_as_float(heads[i].w) * b;
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                split.output[tile][0] += __int_as_float(output[i][tile].x) * a;
                split.output[tile][1] += __int_as_float(output[i][tile].y) * b;
                split.output[tile][2] += __int_as_float(output[i][tile].z) * a;
                split.output[tile][3] += __int_as_float(output[i][tile].w) * b;
            }
            if (((i + 1) & (split_units - 1)) != 0) continue;
            add(to, split);
            split.weight[0] = split.weight[1] = 0;
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
                for (int k = 0; k < 4; ++k) split.output[tile][k] = 0;
            }
        }
    }
}

/* Four warps. A warp takes 16 keys of a round for the scores, then a quarter of the dimensions, over all 64 keys, for
 * the output. */
template <int HEAD_DIM>
__device__ static inline void compute_rounds(const struct attention_params &p, const struct decode_work &work,
                                             const struct stage<HEAD_DIM> *stages, struct ring &ring) {
    constexpr int d_steps = HEAD_DIM / 16, tiles = d_steps / COMPUTE_WARPS;
    __shared__ uint4 weights[2][ROUND_KEYS]; // bf16 [key][head], in turns
    __shared__ int4 maxima[2][TILE_HEADS];   // [head][warp]
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, g = lane / 4, t = lane % 4;
    uint4 query[d_steps / 2];
    struct sums<tiles> task, split;
    int32_t n_stored = 0;
    clear(task);
    clear(split);
    wait_for_previous();
    struct cursor cursor = {};
#pragma unroll 1
    for (int turn = 0;; turn ^= 1, advance(work, cursor)) {
        barrier_wait(&ring.full[cursor.slot], cursor.parity);
        const struct stage<HEAD_DIM> &now = stages[cursor.slot];
        const struct round_info info = ring.infos[cursor.slot];
        if (info.n_keys == 0) return;
        if (info.fresh) {
#pragma unroll
            for (int i = 0; i < d_steps / 2; ++i)
                query[i] = load_tiles(now.queries + spot<HEAD_DIM>(lane % 8, 4 * i + lane / 8));
        }

        /* Scores of 16 keys by 8 heads; even and odd steps apart, so that a product does not wait for the one before
         * it. */
        float score[2][4] = {};
#pragma unroll
        for (int i = 0; i < d_steps; ++i) {
            uint4 a = load_tiles(now.keys + spot<HEAD_DIM>(warp * 16 + lane % 16, 2 * i + lane / 16));
            const uint4 &q = query[i / 2];
            mma_k16(score[i % 2], a.x, a.y, a.z, a.w, i % 2 ? q.z : q.x, i % 2 ? q.w : q.y);
        }

        /* Weights, under the largest score of the warp. */
        float s[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            s[i] = warp * 16 + g + i / 2 * 8 < info.n_keys ? (score[0][i] + score[1][i]) * p.scale_log2 : -INFINITY;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float largest = fmaxf(s[i], s[i + 2]);
            for (int step = 4; step < WARP; step *= 2)
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));
            int32_t highest = max(__float2int_ru(largest), NO_SCORE);
            if (g == 0) ((int32_t *)maxima[turn])[(2 * t + i) * COMPUTE_WARPS + warp] = highest;
            s[i] = exp2_fast(s[i] - (float)highest);
            s[i + 2] = exp2_fast(s[i + 2] - (float)highest);
        }
        ((uint32_t *)weights[turn])[(warp * 16 + g) * 4 + t] = bf16_pair(s[0], s[1]);
        ((uint32_t *)weights[turn])[(warp * 16 + g + 8) * 4 + t] = bf16_pair(s[2], s[3]);
        compute_sync();

        /* Under the largest of the round. */
        int4 of_warps = maxima[turn][g];
        int32_t largest = max(max(of_warps.x, of_warps.y), max(of_warps.z, of_warps.w));
        const uint32_t factors[COMPUTE_WARPS] = {
            power_of_two_pair(of_warps.x - largest), power_of_two_pair(of_warps.y - largest),
            power_of_two_pair(of_warps.z - largest), power_of_two_pair(of_warps.w - largest)};
        uint32_t b[COMPUTE_WARPS][2];
#pragma unroll
        for (int i = 0; i < COMPUTE_WARPS; i += 2) {
            uint4 pair = load_tiles_transposed(weights[turn] + i * 16 + lane);
            b[i][0] = multiply_pairs(pair.x, factors[i]);
            b[i][1] = multiply_pairs(pair.y, factors[i]);
            b[i + 1][0] = multiply_pairs(pair.z, factors[i + 1]);
            b[i + 1][1] = multiply_pairs(pair.w, factors[i + 1]);
        }

        /* Output of this warp's dimensions; the weights themselves are summed as a row of ones. */
        const uint32_t ones = 0x3f803f80u;
        struct sums<tiles> round = {};
        float total[4] = {};
#pragma unroll
        for (int i = 0; i < COMPUTE_WARPS; ++i) {
#pragma unroll
            for (int tile = 0; tile < tiles; ++tile) {
                int key = i * 16 + lane / 16 * 8 + lane % 8, piece_of_row = (warp * tiles + tile) * 2 + lane / 8 % 2;
                uint4 a = load_tiles_transposed(now.values + spot<HEAD_DIM>(key, piece_of_row));
                mma_k16(round.output[tile], a.x, a.y, a.z, a.w, b[i][0], b[i][1]);
            }
            mma_k16(total, ones, ones, ones, ones, b[i][0], b[i][1]);
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(&ring.empty[cursor.slot]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            round.maximum[i] = __shfl_sync(ALL_LANES, largest, (2 * t + i) * 4);
            round.weight[i] = total[i];
        }
        add(split, round);
        if (!info.ends_sum) continue;

        auto *stored = (struct stored_sums<tiles> *)work.stored + info.stored;
        if (info.whole) {
            add(task, split);
        } else {
            store(stored[info.unit], split);
            n_stored++;
        }
        clear(split);
        if (!info.ends_task) continue;

        /* The last of several blocks adds what all have stored, each warp for its dimensions. */
        if (!info.whole) {
            uint32_t *n_arrivals = work.n_arrivals + info.number * COMPUTE_WARPS + warp;
            int32_t n_mine = n_stored;
            n_stored = 0;
            if (!arrive_last(n_arrivals, n_mine, info.n_units)) continue;
            add_stored(task, stored, info.n_units, info.split_units);
        }
        uint16_t *to = p.attention + (size_t)info.line * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (2 * t + i >= info.n_heads) break;
            float inverse = 1.0f / task.weight[i];
#pragma unroll
            for (int tile = 0; tile < tiles; ++tile) {
                uint16_t *line = to + (2 * t + i) * HEAD_DIM + (warp * tiles + tile) * 16 + g;
                line[0] = bf16_bits(task.output[tile][i] * inverse);
                line[8] = bf16_bits(task.output[tile][i + 2] * inverse);
            }
        }
        clear(task);
    }
}

/* Each key costs 4 * head_dim bytes, read once for up to eight query heads. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(DECODE_THREADS, BLOCKS_AN_SM)
    paged_decode_kernel(const __grid_constant__ struct attention_params p,
                        const __grid_constant__ struct decode_work work) {
    extern __shared__ uint4 shared[];
    __shared__ struct ring ring;
    auto *stages = (struct stage<HEAD_DIM> *)shared;
    if (threadIdx.x < MAX_STAGES) {
        barrier_init(&ring.full[threadIdx.x], FETCH_WARPS * WARP + 1);
        barrier_init(&ring.empty[threadIdx.x], COMPUTE_WARPS);
    }
    __syncthreads();
    if (threadIdx.x < COMPUTE_THREADS)
        compute_rounds<HEAD_DIM>(p, work, stages, ring);
    else
        fetch_rounds<HEAD_DIM>(p, work, stages, ring);
}

static size_t stored_bytes(const struct model_shape *shape) {
    return shape->head_dim == 64 ? sizeof(struct stored_sums<1>) : sizeof(struct stored_sums<2>);
}

static size_t stage_bytes(const struct model_shape *shape) {
    return shape->head_dim == 64 ? sizeof(struct stage<64>) : sizeof(struct stage<128>);
}

static int32_t head_tiles_of(const struct model_shape *shape) {
    return divide_up(shape->n_heads / shape->n_kv_heads, TILE_HEADS);
}

static int32_t max_splits_of(const struct model_shape *shape) {
    int32_t splits = SEQUENCE_SPLITS / (shape->n_kv_heads * head_tiles_of(shape));
    return splits < 1 ? 1 : splits > MAX_SPLITS ? MAX_SPLITS : splits;
}

size_t paged_decode_workspace_bytes(const struct model_shape *shape) {
    return (size_t)MAX_BLOCKS * (size_t)max_splits_of(shape) * stored_bytes(shape);
}

bool paged_decode_configure(struct device *device, struct error *err) {
    size_t bytes = MAX_BLOCKS * COMPUTE_WARPS * sizeof *device->decode_arrivals;
    CUDA_TRY(cudaMalloc((void **)&device->decode_arrivals, bytes), err);
    CUDA_TRY(cudaMemsetAsync(device->decode_arrivals, 0, bytes, device->stream), err);
    CUDA_TRY(cudaFuncSetAttribute(paged_decode_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)device->max_dynamic_shared),
             err);
    CUDA_TRY(cudaFuncSetAttribute(paged_decode_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)device->max_dynamic_shared),
             err);
    return true;
}

bool paged_decode(const struct context *ctx, const struct attention_params *params, struct error *err) {
    const struct device *device = ctx->device;
    struct decode_work work = {};
    work.n_seqs = ctx->batch.n_decode;
    work.head_tiles = head_tiles_of(ctx->shape);
    work.max_splits = max_splits_of(ctx->shape);
    work.n_multiprocessors = device->properties.multiProcessorCount;
    work.n_stages = (int32_t)(device->max_dynamic_shared / stage_bytes(ctx->shape));
    if (work.n_stages > MAX_STAGES) work.n_stages = MAX_STAGES;
    work.stored = ctx->scratch.workspace;
    work.n_arrivals = device->decode_arrivals;

    int32_t n_blocks = work.n_multiprocessors * BLOCKS_AN_SM;
    struct launch launch = {};
    launch.grid = dim3((unsigned)(n_blocks < MAX_BLOCKS ? n_blocks : MAX_BLOCKS));
    launch.block = dim3(DECODE_THREADS);
    launch.shared_bytes = (size_t)work.n_stages * stage_bytes(ctx->shape);
    auto kernel = ctx->shape->head_dim == 64 ? paged_decode_kernel<64> : paged_decode_kernel<128>;
    return launch_kernel(device, launch, kernel, err, *params, work);
}
