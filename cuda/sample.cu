/* One token from each row of logits, by the definition in engine/sampling.h: the same token as the CPU backend.
 *
 * A row is shared by the blocks of a cluster while there are few rows. Filters need the largest few of 150,000 logits:
 * the largest logits of the threads alone say how far down those can lie, what lies above that is listed by the
 * cluster's first block, and it alone looks at the list. One that would not fit leaves it the whole row: slower, the
 * same result. */
#include "cuda/cluster.cuh"
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"

#include "engine/sampling.h"

#define SAMPLE_THREADS  1024
#define SAMPLE_WARPS    (SAMPLE_THREADS / WARP)
#define MAX_CLUSTER     8
#define DIGIT_BITS      11 // three digits of a 32-bit key: 11, 11 and 10 bits
#define BINS            (1 << DIGIT_BITS)
#define BINS_A_THREAD   (BINS / SAMPLE_THREADS)
#define DISTANCE_BINS   512
#define MAX_DISTANCE    21.0f // (max - logit) / temperature from which every weight is 0: exp(-21) < 2^-30
#define LIST_CAPACITY   3072
#define PAIRED_CAPACITY 256 // lists in which every pair is compared
#define VECTORS         5   // float4 under way in each thread: a row of 151,936 is one round of eight blocks

struct sample_memory {
    uint32_t low[BINS], high[BINS]; // 64-bit sums; the high word counts carries
    uint64_t warps[SAMPLE_WARPS];
    uint64_t of_blocks[2][MAX_CLUSTER]; // largest logit and sum of weights of each block
    uint64_t above;
    uint32_t bin;
    int32_t cut;
    int32_t n_listed;
    float logits[LIST_CAPACITY];
    int32_t tokens[LIST_CAPACITY];
};

/* The blocks that share the work on some candidates. */
struct team {
    int rank, size;
};

/* What is left to look at: the row, or the list. */
struct candidates {
    const float *logits;
    const int32_t *tokens; // NULL: the row, of which every logit is its own token
    int32_t count;
};

/* Rows begin at multiples of 16 bytes and their length is a multiple of 4: cuda_prepare_shape asks for 8. */
template <class Visit>
__device__ static inline void for_each(const struct team &team, const struct candidates &from, Visit visit) {
    if (from.tokens) {
        for (int32_t i = (int32_t)threadIdx.x; i < from.count; i += SAMPLE_THREADS)
            visit(from.logits[i], from.tokens[i]);
        return;
    }
    const float4 *vectors = (const float4 *)from.logits;
    int32_t count = from.count / 4, step = SAMPLE_THREADS * team.size;
    for (int32_t first = team.rank * SAMPLE_THREADS + (int32_t)threadIdx.x; first < count; first += VECTORS * step) {
        float4 v[VECTORS];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i)
            v[i] = first + i * step < count ? vectors[first + i * step] : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            int32_t token = 4 * (first + i * step);
            if (token >= from.count) break;
            visit(v[i].x, token);
            visit(v[i].y, token + 1);
            visit(v[i].z, token + 2);
            visit(v[i].w, token + 3);
        }
    }
}

__device__ static inline void team_sync(const struct team &team) {
    if (team.size > 1)
        cluster_sync();
    else
        __syncthreads();
}

/* The largest value of the block, in every thread. */
__device__ static inline uint64_t block_max(struct sample_memory *memory, uint64_t value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = max(value, __shfl_xor_sync(ALL_LANES, value, step));
    __syncthreads();
    if (threadIdx.x % WARP == 0) memory->warps[threadIdx.x / WARP] = value;
    __syncthreads();
    value = memory->warps[threadIdx.x % SAMPLE_WARPS];
    for (int step = SAMPLE_WARPS / 2; step > 0; step /= 2) value = max(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

/* The value of every block's thread 0 goes to all blocks of the team, to of_blocks[which]; to be read after the next
 * team_sync. */
__device__ static inline void tell_team(struct sample_memory *memory, const struct team &team, int which,
                                        uint64_t value) {
    if ((int)threadIdx.x < team.size) *cluster_pointer(&memory->of_blocks[which][team.rank], (int)threadIdx.x) = value;
}

/* Sum of value over the threads before this one; *total over all. */
__device__ static inline uint64_t block_scan(struct sample_memory *memory, uint64_t value, uint64_t *total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint64_t sum = value;
    for (int step = 1; step < WARP; step *= 2) {
        uint64_t other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step) sum += other;
    }
    __syncthreads();
    if (lane == WARP - 1) memory->warps[warp] = sum;
    __syncthreads();
    uint64_t of_warp = memory->warps[lane % SAMPLE_WARPS], before = of_warp;
    for (int step = 1; step < WARP; step *= 2) {
        uint64_t other = __shfl_up_sync(ALL_LANES, before, step);
        if (lane >= step) before += other;
    }
    *total = __shfl_sync(ALL_LANES, before, SAMPLE_WARPS - 1);
    return sum - value + __shfl_sync(ALL_LANES, before - of_warp, warp);
}

__device__ static inline void clear_bins(struct sample_memory *memory) {
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += SAMPLE_THREADS) memory->low[i] = memory->high[i] = 0;
    __syncthreads();
}

__device__ static inline void add_to_bin(struct sample_memory *memory, uint32_t bin, uint32_t amount) {
    uint32_t before = atomicAdd(&memory->low[bin], amount);
    if (before + amount < before) atomicAdd(&memory->high[bin], 1u);
}

/* Walking the bins from the highest down, the one at which their sum reaches limit_of(total), and in memory->above the
 * sum before it; bin 0 when it is never reached. */
template <class Limit>
__device__ static uint32_t find_bin(struct sample_memory *memory, Limit limit_of, uint64_t *limit) {
    uint64_t sums[BINS_A_THREAD], sum = 0, total;
    int highest = BINS - 1 - (int)threadIdx.x * BINS_A_THREAD;
    __syncthreads();
    if (threadIdx.x == 0) memory->bin = 0, memory->above = 0;
    for (int i = 0; i < BINS_A_THREAD; ++i) {
        sums[i] = (uint64_t)memory->high[highest - i] << 32 | memory->low[highest - i];
        sum += sums[i];
    }
    uint64_t above = block_scan(memory, sum, &total);
    *limit = limit_of(total);
    for (int i = 0; i < BINS_A_THREAD; ++i) {
        if (above < *limit && *limit <= above + sums[i]) {
            memory->bin = (uint32_t)(highest - i);
            memory->above = above;
        }
        above += sums[i];
    }
    __syncthreads();
    return memory->bin;
}

/* Walking the keys from the largest down, the key at which the sum of measure(logit, key) reaches limit_of(total); 0
 * when it is never reached. One digit at a time. Sums are of integers: their order is nothing. */
template <class Measure, class Limit>
__device__ static uint32_t select_key(struct sample_memory *memory, const struct candidates &from, Measure measure,
                                      Limit limit_of) {
    uint64_t prefix = 0, limit = 0;
    for (int shift = 32; shift > 0;) {
        int bits = min(DIGIT_BITS, shift);
        bool first = shift == 32;
        shift -= bits;
        clear_bins(memory);
        for_each({0, 1}, from, [&](float logit, int32_t) {
            uint32_t key = sampling_key(logit);
            if ((uint64_t)key >> (shift + bits) != prefix) return;
            uint32_t amount = measure(logit, key);
            if (amount > 0) add_to_bin(memory, key >> shift & ((1u << bits) - 1), amount);
        });
        uint64_t rest = limit;
        prefix = prefix << bits | find_bin(
                                      memory, [&](uint64_t total) { return first ? limit_of(total) : rest; }, &limit);
        limit -= memory->above;
    }
    return (uint32_t)prefix;
}

/* Larger score first, then the lower token. */
__device__ static inline uint64_t ranked(float score, int32_t token) {
    return (uint64_t)sampling_key(score) << 32 | (0xffffffffu - (uint32_t)token);
}
__device__ static inline int32_t ranked_token(uint64_t rank) {
    return (int32_t)(0xffffffffu - (uint32_t)rank);
}

/* One row's temperature and largest logit. */
struct scale {
    float highest, inverse_temperature;
};

__device__ static inline uint32_t weight_of(const struct scale &scale, float logit) {
    return sampling_weight(logit, scale.highest, scale.inverse_temperature);
}

/* Bins by distance from the largest logit, the nearest highest; never a larger bin for a smaller logit. -1: of no
 * weight. */
__device__ static inline int32_t distance_bin(const struct scale &scale, float logit) {
    float distance = (scale.highest - logit) * scale.inverse_temperature;
    if (!(distance < MAX_DISTANCE)) return -1;
    return max(DISTANCE_BINS - 1 - (int32_t)(distance * (DISTANCE_BINS / MAX_DISTANCE)), 0);
}

/* The distance bin at which the team's sums, from the nearest down, reach the limit; -1: they never do. All blocks'
 * bins are full; none may clear its own before the next team_sync. */
__device__ static int32_t find_cut(struct sample_memory *memory, const struct team &team, uint64_t limit) {
    int index = (int)threadIdx.x, bin = DISTANCE_BINS - 1 - index;
    uint64_t sum = 0, total;
    if (index < DISTANCE_BINS) {
        for (int rank = 0; rank < team.size; ++rank) {
            const struct sample_memory *other = cluster_pointer(memory, rank);
            sum += (uint64_t)other->high[bin] << 32 | other->low[bin];
        }
    }
    if (index == 0) memory->cut = -1;
    uint64_t above = block_scan(memory, sum, &total);
    if (above < limit && limit <= above + sum) memory->cut = bin;
    __syncthreads();
    return memory->cut;
}

/* To the list of the cluster's first block. */
__device__ static inline void list_token(struct sample_memory *memory, float logit, int32_t token) {
    struct sample_memory *first = cluster_pointer(memory, 0);
    int32_t at = atomicAdd(&first->n_listed, 1);
    if (at >= LIST_CAPACITY) return;
    first->logits[at] = logit;
    first->tokens[at] = token;
}

/* One row: its parameters, its largest logit, and the weight of all its tokens where top_p is alone. */
struct row_task {
    struct scale scale;
    struct sample_row row;
    bool has_top_k, has_top_p;
    uint64_t weight;
};

__device__ static inline uint64_t scored(const struct row_task &task, float logit, int32_t token) {
    float gumbel = sampling_gumbel(task.row.params.seed, (uint32_t)token, (uint32_t)task.row.position);
    return ranked(sampling_score(logit, task.scale.highest, task.scale.inverse_temperature, gumbel), token);
}

/* Best score of a list of which each thread has at most one token: all pairs are compared. */
__device__ static uint64_t best_of_pairs(struct sample_memory *memory, const struct row_task &task, int32_t count) {
    int32_t index = (int32_t)threadIdx.x;
    float logit = index < count ? memory->logits[index] : 0;
    uint32_t weight = index < count ? weight_of(task.scale, logit) : 0;
    if (index < count) memory->low[index] = weight;
    __syncthreads();
    int32_t n_larger = 0;
    uint64_t larger = 0, kept;
    if (index < count) {
        for (int32_t i = 0; i < count; ++i) {
            bool is_larger = memory->logits[i] > logit;
            n_larger += is_larger;
            larger += is_larger ? memory->low[i] : 0;
        }
    }
    bool keep = weight >= max(1u, sampling_min_weight(task.row.params.min_p));
    bool in_top_k = !task.has_top_k || n_larger < task.row.params.top_k;
    (void)block_scan(memory, in_top_k ? weight : 0, &kept);
    uint64_t limit = sampling_top_p_limit(task.row.params.top_p, task.has_top_k ? kept : task.weight);
    keep = keep && in_top_k && (!task.has_top_p || larger < limit);
    return keep ? scored(task, logit, memory->tokens[index]) : 0;
}

/* Best score of any candidates, by one block: keys from `threshold` on are kept. */
__device__ static uint64_t best_of_candidates(struct sample_memory *memory, const struct row_task &task,
                                              const struct candidates &from) {
    uint32_t threshold = 0, min_weight = max(1u, sampling_min_weight(task.row.params.min_p));
    if (task.has_top_k) {
        threshold = select_key(
            memory, from, [](float, uint32_t) { return 1u; },
            [&](uint64_t) { return (uint64_t)task.row.params.top_k; });
    }
    if (task.has_top_p) {
        threshold = select_key(
            memory, from, [&](float logit, uint32_t key) { return key < threshold ? 0 : weight_of(task.scale, logit); },
            [&](uint64_t total) {
                return sampling_top_p_limit(task.row.params.top_p, task.has_top_k ? total : task.weight);
            });
    }
    uint64_t best = 0;
    for_each({0, 1}, from, [&](float logit, int32_t token) {
        if (sampling_key(logit) < threshold || weight_of(task.scale, logit) < min_weight) return;
        best = max(best, scored(task, logit, token));
    });
    return best;
}

/* A cluster for each row. Reads 4 * vocab bytes once for greedy, twice for a draw or with top_p alone; of what filters
 * keep only the listed tokens and their neighbours again. */
__global__ static void __launch_bounds__(SAMPLE_THREADS, 1)
    sample_kernel(const float *logits, const float *adjusted, const struct sample_row *rows, int32_t *sampled,
                  int32_t vocab, int32_t cluster) {
    __shared__ struct sample_memory memory;
    const struct team team = {cluster > 1 ? cluster_rank() : 0, cluster};
    int32_t index = (int32_t)blockIdx.x / cluster;
    struct row_task task = {};
    task.row = rows[index];
    const struct sampling_params params = task.row.params;
    const float *from = task.row.seat > 0 || task.row.mask > 0 ? adjusted : logits;
    const struct candidates row = {from + (size_t)index * vocab, NULL, vocab};
    if (threadIdx.x == 0) memory.n_listed = 0;
    if (team.size > 1) cluster_arrive(); // a block's memory may be written once it has begun
    let_next_begin();
    wait_for_previous();

    /* The largest logit, the first of equals; a value above every rank where one is not finite. */
    float largest = -INFINITY;
    int32_t token_of_largest = 0;
    bool all_finite = true;
    for_each(team, row, [&](float logit, int32_t token) {
        all_finite &= sampling_is_finite(logit) != 0;
        token_of_largest = logit > largest ? token : token_of_largest;
        largest = fmaxf(largest, logit);
    });
    uint64_t best = block_max(&memory, all_finite ? ranked(largest, token_of_largest) : UINT64_MAX);
    if (team.size > 1) cluster_wait();
    tell_team(&memory, team, 0, best);
    team_sync(team);
    for (int rank = 0; rank < team.size; ++rank) best = max(best, memory.of_blocks[0][rank]);
    bool finite = best != UINT64_MAX, writes = team.rank == 0 && threadIdx.x == 0;
    if (!finite || params.temperature < SAMPLING_MIN_TEMPERATURE) {
        if (writes) sampled[index] = finite ? ranked_token(best) : SAMPLED_NOT_FINITE;
        return;
    }
    task.scale = {row.logits[ranked_token(best)], 1.0f / params.temperature};
    task.has_top_k = params.top_k > 0 && params.top_k < vocab;
    task.has_top_p = params.top_p < 1.0f;

    /* No filter that asks for the others' weights: all blocks draw. */
    if (!task.has_top_k && !task.has_top_p) {
        uint32_t min_weight = max(1u, sampling_min_weight(params.min_p));
        best = 0;
        for_each(team, row, [&](float logit, int32_t token) {
            if (weight_of(task.scale, logit) >= min_weight) best = max(best, scored(task, logit, token));
        });
        tell_team(&memory, team, 1, block_max(&memory, best));
        team_sync(team);
        for (int rank = 0; rank < team.size; ++rank) best = max(best, memory.of_blocks[1][rank]);
        if (writes) sampled[index] = ranked_token(best);
        return;
    }

    uint64_t limit = (uint64_t)params.top_k;
    if (!task.has_top_k) {
        uint64_t weight = 0, of_block;
        for_each(team, row, [&](float logit, int32_t) { weight += weight_of(task.scale, logit); });
        (void)block_scan(&memory, weight, &of_block);
        tell_team(&memory, team, 1, of_block);
        team_sync(team);
        for (int rank = 0; rank < team.size; ++rank) task.weight += memory.of_blocks[1][rank];
        limit = sampling_top_p_limit(params.top_p, task.weight);
    }

    /* What is kept lies at the cut or nearer, as it does where only some of the logits are summed: each thread's
     * largest first, all of them if those do not reach the limit. */
    auto measure = [&](float logit) {
        int32_t bin = distance_bin(task.scale, logit);
        uint32_t amount = bin < 0 ? 0 : task.has_top_k ? 1 : weight_of(task.scale, logit);
        if (amount > 0) add_to_bin(&memory, (uint32_t)bin, amount);
    };
    clear_bins(&memory);
    measure(largest);
    team_sync(team);
    int32_t cut = find_cut(&memory, team, limit);
    if (cut < 0) {
        team_sync(team);
        clear_bins(&memory);
        for_each(team, row, [&](float logit, int32_t) { measure(logit); });
        team_sync(team);
        cut = max(find_cut(&memory, team, limit), 0);
    }
    if (distance_bin(task.scale, largest) >= cut) {
        for_each(team, row, [&](float logit, int32_t token) {
            if (distance_bin(task.scale, logit) >= cut) list_token(&memory, logit, token);
        });
    }
    team_sync(team);
    if (team.rank > 0) return;
    int32_t count = memory.n_listed;
    if (count <= PAIRED_CAPACITY) {
        best = best_of_pairs(&memory, task, count);
    } else {
        const struct candidates list = {memory.logits, memory.tokens, count};
        best = best_of_candidates(&memory, task, count <= LIST_CAPACITY ? list : row);
    }
    best = block_max(&memory, best);
    if (writes) sampled[index] = ranked_token(best);
}

bool cuda_sample(const struct context *ctx, struct error *err) {
    int32_t n_rows = ctx->batch.n_samples, n_multiprocessors = ctx->device->properties.multiProcessorCount;
    if (n_rows == 0) return true;
    struct launch launch = {};
    launch.cluster = ctx->device->properties.major >= 9 ? MAX_CLUSTER : 1;
    while (launch.cluster > 1 && n_rows * launch.cluster > n_multiprocessors) launch.cluster /= 2;
    launch.grid = dim3((unsigned)(n_rows * launch.cluster));
    launch.block = dim3(SAMPLE_THREADS);
    const float *adjusted = ctx->batch.n_adjusted > 0 ? ctx->scratch.adjusted : ctx->scratch.logits;
    return launch_kernel(ctx->device, launch, sample_kernel, err, ctx->scratch.logits, adjusted, ctx->batch.samples,
                         ctx->scratch.sampled, ctx->shape->vocab, launch.cluster);
}
