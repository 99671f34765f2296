/* One token from each row of logits, by the definition in engine/sampling.h: the same token as the CPU backend.
 *
 * Filters need the largest few of 150,000 logits. One histogram finds a cut that they lie above; what lies above it is
 * gathered in shared memory, and the exact threshold and the draw look at that list alone. A list that would not fit
 * leaves them the whole row: slower, the same result. */
#include "cuda/device.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"

#include "engine/sampling.h"

#define SAMPLE_THREADS 512
#define SAMPLE_WARPS   (SAMPLE_THREADS / WARP)
#define DIGIT_BITS     11 // three digits of a 32-bit key: 11, 11 and 10 bits
#define BINS           (1 << DIGIT_BITS)
#define BINS_A_THREAD  (BINS / SAMPLE_THREADS)
#define LIST_CAPACITY  3072
#define MAX_DISTANCE   21.0f // (max - logit) / temperature from which every weight is 0: exp(-21) < 2^-30
#define VECTORS        4     // float4 under way in each thread: 32 KB on an SM

struct sample_memory {
    uint32_t low[BINS], high[BINS]; // 64-bit sums; the high word counts carries
    uint64_t warps[SAMPLE_WARPS];
    uint64_t above;
    uint32_t bin;
    int32_t n_listed;
    float logits[LIST_CAPACITY];
    int32_t tokens[LIST_CAPACITY];
};

/* What is left to look at: the row, or the list. */
struct candidates {
    const float *logits;
    const int32_t *tokens; // NULL: the row, of which every logit is its own token
    int32_t count;
};

template <class Visit> __device__ static inline void for_each(const struct candidates &from, Visit visit) {
    int32_t done = 0;
    if (!from.tokens && from.count % 4 == 0) { // rows begin at multiples of 16 bytes
        const float4 *vectors = (const float4 *)from.logits;
        for (int32_t first = threadIdx.x; first < from.count / 4; first += VECTORS * SAMPLE_THREADS) {
            float4 v[VECTORS];
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                int32_t at = first + i * SAMPLE_THREADS;
                v[i] = at < from.count / 4 ? vectors[at] : make_float4(0, 0, 0, 0);
            }
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                int32_t token = 4 * (first + i * SAMPLE_THREADS);
                if (token >= from.count) break;
                visit(v[i].x, token);
                visit(v[i].y, token + 1);
                visit(v[i].z, token + 2);
                visit(v[i].w, token + 3);
            }
        }
        done = from.count;
    }
    for (int32_t i = done + (int32_t)threadIdx.x; i < from.count; i += SAMPLE_THREADS)
        visit(from.logits[i], from.tokens ? from.tokens[i] : i);
}

/* The largest value of the block, in every thread. */
__device__ static inline uint64_t block_max(struct sample_memory *memory, uint64_t value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = max(value, __shfl_xor_sync(ALL_LANES, value, step));
    __syncthreads();
    if (threadIdx.x % WARP == 0) memory->warps[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int i = 0; i < SAMPLE_WARPS; ++i) value = max(value, memory->warps[i]);
    return value;
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
    *total = 0;
    for (int i = 0; i < SAMPLE_WARPS; ++i) {
        if (i == warp) sum += *total;
        *total += memory->warps[i];
    }
    return sum - value;
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
        for_each(from, [&](float logit, int32_t) {
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
    return max(BINS - 1 - (int32_t)(distance * (BINS / MAX_DISTANCE)), 0);
}

/* Lists the tokens down to the bin at which the sum of measure(logit) reaches limit_of(total). The row, when they do
 * not fit. */
template <class Measure, class Limit>
__device__ static struct candidates gather(struct sample_memory *memory, const struct candidates &row,
                                           const struct scale &scale, Measure measure, Limit limit_of) {
    clear_bins(memory);
    for_each(row, [&](float logit, int32_t) {
        int32_t bin = distance_bin(scale, logit);
        uint32_t amount = bin < 0 ? 0 : measure(logit);
        if (amount > 0) add_to_bin(memory, (uint32_t)bin, amount);
    });
    uint64_t limit;
    int32_t cut = (int32_t)find_bin(memory, limit_of, &limit);
    if (threadIdx.x == 0) memory->n_listed = 0;
    __syncthreads();
    for_each(row, [&](float logit, int32_t token) {
        if (distance_bin(scale, logit) < cut) return;
        int32_t at = atomicAdd(&memory->n_listed, 1);
        if (at >= LIST_CAPACITY) return;
        memory->logits[at] = logit;
        memory->tokens[at] = token;
    });
    __syncthreads();
    struct candidates list = {memory->logits, memory->tokens, memory->n_listed};
    return list.count <= LIST_CAPACITY ? list : row;
}

/* One block per row. Reads 4 * vocab bytes once for greedy, once more for a draw without filters, twice more with
 * filters whose tokens fit the list. */
__global__ static void __launch_bounds__(SAMPLE_THREADS, 1)
    sample_kernel(const float *logits, const struct sample_row *rows, int32_t *sampled, int32_t vocab) {
    __shared__ struct sample_memory memory;
    const struct sample_row row = rows[blockIdx.x];
    const struct sampling_params params = row.params;
    struct candidates from = {logits + (size_t)blockIdx.x * vocab, NULL, vocab};

    /* The largest logit, the first of equals; a value above every rank where one is not finite. */
    float largest = -INFINITY;
    int32_t token_of_largest = 0;
    bool all_finite = true;
    for_each(from, [&](float logit, int32_t token) {
        all_finite &= sampling_is_finite(logit) != 0;
        token_of_largest = logit > largest ? token : token_of_largest;
        largest = fmaxf(largest, logit);
    });
    uint64_t best = block_max(&memory, all_finite ? ranked(largest, token_of_largest) : UINT64_MAX);
    bool finite = best != UINT64_MAX;
    if (!finite || params.temperature < SAMPLING_MIN_TEMPERATURE) {
        if (threadIdx.x == 0) sampled[blockIdx.x] = finite ? ranked_token(best) : SAMPLED_NOT_FINITE;
        return;
    }
    struct scale scale = {from.logits[ranked_token(best)], 1.0f / params.temperature};

    /* Filters: keys from `threshold` on are kept. */
    uint32_t threshold = 0;
    bool has_top_k = params.top_k > 0 && params.top_k < vocab, has_top_p = params.top_p < 1.0f;
    uint64_t row_weight = 0; // of the whole row, where top_p is alone
    auto top_k_limit = [&](uint64_t) { return (uint64_t)params.top_k; };
    auto top_p_limit = [&](uint64_t total) {
        if (!has_top_k && row_weight == 0) row_weight = total;
        return sampling_top_p_limit(params.top_p, has_top_k ? total : row_weight);
    };
    if (has_top_k) {
        from = gather(
            &memory, from, scale, [](float) { return 1u; }, top_k_limit);
        threshold = select_key(
            &memory, from, [](float, uint32_t) { return 1u; }, top_k_limit);
    } else if (has_top_p) {
        from = gather(
            &memory, from, scale, [&](float logit) { return weight_of(scale, logit); }, top_p_limit);
    }
    if (has_top_p) {
        threshold = select_key(
            &memory, from, [&](float logit, uint32_t key) { return key < threshold ? 0 : weight_of(scale, logit); },
            top_p_limit);
    }
    uint32_t min_weight = max(1u, sampling_min_weight(params.min_p));

    /* The draw. */
    best = 0;
    for_each(from, [&](float logit, int32_t token) {
        if (sampling_key(logit) < threshold || weight_of(scale, logit) < min_weight) return;
        float gumbel = sampling_gumbel(params.seed, (uint32_t)token, (uint32_t)row.position);
        best = max(best, ranked(sampling_score(logit, scale.highest, scale.inverse_temperature, gumbel), token));
    });
    best = block_max(&memory, best);
    if (threadIdx.x == 0) sampled[blockIdx.x] = ranked_token(best);
}

bool cuda_sample(const struct context *ctx, struct error *err) {
    if (ctx->batch.n_samples == 0) return true;
    sample_kernel<<<ctx->batch.n_samples, SAMPLE_THREADS, 0, ctx->device->stream>>>(
        ctx->scratch.logits, ctx->batch.samples, ctx->scratch.sampled, ctx->shape->vocab);
    CUDA_TRY(cudaGetLastError(), err);
    return true;
}
