/* Scores as engine/sampling.h defines them: one block for each row that wants them.
 *
 * The n likeliest tokens lie with the n threads whose own best are the largest: no other thread has anything to list.
 * What these hold at or above the smallest of their bests is listed, some twenty tokens out of 150,000, and ranked by
 * comparing every pair. Sums have one order, whatever else is in the step. */
#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"

#include "engine/sampling.h"

#define SCORE_THREADS 1024
#define SCORE_WARPS   (SCORE_THREADS / WARP)
#define VECTORS       4 // float4 under way in each thread

struct score_memory {
    double sums[SCORE_WARPS];
    int32_t ranks[SCORE_WARPS];
    int32_t n_listed;
};

/* Larger logits first, then lower tokens; never 0. */
__device__ static inline uint64_t ranked(float logit, int32_t token) {
    return (uint64_t)sampling_key(logit) << 32 | (0xffffffffu - (uint32_t)token);
}
__device__ static inline int32_t ranked_token(uint64_t rank) {
    return (int32_t)(0xffffffffu - (uint32_t)rank);
}

/* The thread's share of a row: float4 number i * SCORE_THREADS + threadIdx.x. */
template <class Visit> __device__ static inline void for_each(const float *logits, int32_t vocab, Visit visit) {
    const float4 *vectors = (const float4 *)logits;
    int32_t count = vocab / 4;
    for (int32_t first = (int32_t)threadIdx.x; first < count; first += VECTORS * SCORE_THREADS) {
        float4 v[VECTORS];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i)
            v[i] = first + i * SCORE_THREADS < count ? vectors[first + i * SCORE_THREADS] : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            int32_t token = 4 * (first + i * SCORE_THREADS);
            if (token >= vocab) break;
            visit(v[i].x, token);
            visit(v[i].y, token + 1);
            visit(v[i].z, token + 2);
            visit(v[i].w, token + 3);
        }
    }
}

/* The n-th largest of the threads' bests, bit by bit from the top; 0 when fewer than n have one. */
__device__ static uint64_t find_threshold(uint64_t best, int32_t n) {
    uint64_t threshold = 0;
    for (uint64_t bit = (uint64_t)1 << 63; bit > 0; bit /= 2) {
        if (__syncthreads_count(best >= (threshold | bit)) >= n) threshold |= bit;
    }
    return threshold;
}

/* What the block's threads sum up to, in every thread. */
__device__ static void sum_up(struct score_memory *memory, double *sum, int32_t *rank) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int step = WARP / 2; step > 0; step /= 2) {
        *sum += __shfl_xor_sync(ALL_LANES, *sum, step);
        *rank += __shfl_xor_sync(ALL_LANES, *rank, step);
    }
    if (lane == 0) memory->sums[warp] = *sum, memory->ranks[warp] = *rank;
    __syncthreads();
    *sum = memory->sums[lane], *rank = memory->ranks[lane];
    for (int step = WARP / 2; step > 0; step /= 2) {
        *sum += __shfl_xor_sync(ALL_LANES, *sum, step);
        *rank += __shfl_xor_sync(ALL_LANES, *rank, step);
    }
}

/* Reads 4 * vocab bytes from memory and once more from L2. */
__global__ static void __launch_bounds__(SCORE_THREADS, 1)
    score_kernel(const float *all_logits, const struct sample_row *rows, const int32_t *sampled,
                 struct token_scores *all_scores, int32_t vocab) {
    extern __shared__ uint64_t listed[]; // [SAMPLING_MAX_TOP * tokens of one thread]
    __shared__ struct score_memory memory;
    int32_t index = (int32_t)blockIdx.x, n_top = min(rows[index].n_scores - 1, vocab);
    const float *logits = all_logits + (size_t)index * vocab;
    struct token_scores *scores = &all_scores[index];
    wait_for_previous();
    if (n_top < 0) return;
    int32_t token = sampled[index];
    if (token < 0) return;
    if (rows[index].target > 0) token = rows[index].target - 1;

    uint64_t best = 0;
    for_each(logits, vocab, [&](float logit, int32_t of) { best = max(best, ranked(logit, of)); });
    if (threadIdx.x == 0) memory.n_listed = 0;
    uint64_t largest = find_threshold(best, 1), threshold = n_top > 0 ? find_threshold(best, n_top) : largest;

    float highest = logits[ranked_token(largest)], chosen = logits[token], sum = 0;
    int32_t rank = 0;
    for_each(logits, vocab, [&](float logit, int32_t of) {
        sum += __expf(logit - highest);
        rank += logit >= chosen;
        if (best >= threshold && n_top > 0 && ranked(logit, of) >= threshold)
            listed[atomicAdd(&memory.n_listed, 1)] = ranked(logit, of);
    });
    double total = sum;
    sum_up(&memory, &total, &rank); // and the list is full
    double log_sum = log(total);
    if (threadIdx.x == 0) {
        scores->logprob = (float)((double)(chosen - highest) - log_sum);
        scores->rank = rank;
        scores->n_top = n_top;
    }
    int32_t count = memory.n_listed;
    for (int32_t i = (int32_t)threadIdx.x; i < count; i += SCORE_THREADS) {
        int32_t place = 0;
        for (int32_t other = 0; other < count; ++other) place += listed[other] > listed[i];
        if (place >= n_top) continue;
        scores->tokens[place] = ranked_token(listed[i]);
        scores->logprobs[place] = (float)((double)(logits[ranked_token(listed[i])] - highest) - log_sum);
    }
}

bool cuda_score(const struct context *ctx, struct error *err) {
    int32_t vocab = ctx->shape->vocab;
    if (ctx->batch.n_samples == 0) return true;
    struct launch launch = {};
    launch.grid = dim3((unsigned)ctx->batch.n_samples);
    launch.block = dim3(SCORE_THREADS);
    launch.shared_bytes = (size_t)SAMPLING_MAX_TOP * 4 * (size_t)divide_up(vocab / 4, SCORE_THREADS) * sizeof(uint64_t);
    if (launch.shared_bytes > (48 << 10) - sizeof(struct score_memory) &&
        !allow_shared(score_kernel, launch.shared_bytes, err))
        return false;
    return launch_kernel(ctx->device, launch, score_kernel, err, ctx->scratch.logits, ctx->batch.samples,
                         ctx->scratch.sampled, ctx->scratch.scores, vocab);
}
