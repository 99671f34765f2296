/* Bias, penalties, masks and bans as engine/sampling.h defines them, and the counts that penalties look at: the bits
 * that the CPU backend gets. A row without a seat and a mask costs its blocks' start and end. */
#include "cuda/launch.cuh"
#include "cuda/ops.cuh"

#include "engine/sampling.h"

#define ADJUST_THREADS 256
#define SLICES         8 // blocks that share a row
#define COUNT_THREADS  256

struct adjust_params {
    const float *logits; // [n_samples][vocab]
    float *adjusted;     // [n_samples][vocab]
    const struct sample_row *rows;
    struct sampling_memory sampling;
    int32_t vocab;
};

/* What there is for one row. */
struct row {
    const float *logits;
    float *adjusted;
    const struct sampling_seat *seat; // NULL: none
    const uint16_t *counts;           // NULL: no penalties
    const uint32_t *mask;             // NULL: any token
};

__device__ static inline struct row row_of(const struct adjust_params &params, const struct sample_row &sample,
                                           int32_t index) {
    struct row row = {params.logits + (size_t)index * params.vocab, params.adjusted + (size_t)index * params.vocab};
    if (sample.seat > 0) row.seat = &params.sampling.seats[sample.seat - 1];
    if (row.seat && row.seat->has_penalties)
        row.counts = params.sampling.counts + (size_t)(sample.seat - 1) * params.vocab;
    if (sample.mask > 0)
        row.mask = params.sampling.masks + (size_t)(sample.mask - 1) * sampling_mask_words(params.vocab);
    return row;
}

/* Vectors of a row begin at multiples of 16 bytes, and four tokens share a word of the mask: cuda_prepare_shape asks
 * for a vocabulary of eights. */
__device__ static inline void adjust_vector(const struct row &row, int32_t token) {
    float4 v = *(const float4 *)(row.logits + token);
    uint2 counts = row.counts ? *(const uint2 *)(row.counts + token) : make_uint2(0, 0);
    uint32_t bits = row.mask ? row.mask[token / 32] >> (token % 32) : 0xfu;
    v.x = sampling_adjusted(v.x, row.seat, 0, counts.x & 0xffffu, bits & 1);
    v.y = sampling_adjusted(v.y, row.seat, 0, counts.x >> 16, bits & 2);
    v.z = sampling_adjusted(v.z, row.seat, 0, counts.y & 0xffffu, bits & 4);
    v.w = sampling_adjusted(v.w, row.seat, 0, counts.y >> 16, bits & 8);
    *(float4 *)(row.adjusted + token) = v;
}

/* Blocks (slice, row); each reads 4 * vocab / SLICES bytes of logits and writes as many, reads half as many of counts
 * and a thirty-second of mask, where the row has them. */
__global__ static void __launch_bounds__(ADJUST_THREADS) adjust_kernel(const struct adjust_params params) {
    int32_t index = (int32_t)blockIdx.y, vectors = (params.vocab / 4 + SLICES - 1) / SLICES;
    const struct sample_row sample = params.rows[index];
    wait_for_previous();
    let_next_begin();
    if (sample.seat == 0 && sample.mask == 0) return;
    const struct row row = row_of(params, sample, index);
    int32_t begin = 4 * vectors * (int32_t)blockIdx.x, end = min(begin + 4 * vectors, params.vocab);
    for (int32_t token = begin + 4 * (int32_t)threadIdx.x; token < end; token += 4 * ADJUST_THREADS)
        adjust_vector(row, token);
    if (!row.seat) return;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < row.seat->n_biases; i += ADJUST_THREADS) {
        const struct token_bias at = row.seat->biases[i];
        if (at.token < begin || at.token >= end) continue;
        int allowed = !row.mask || (row.mask[at.token / 32] >> (at.token % 32) & 1);
        row.adjusted[at.token] =
            sampling_adjusted(row.logits[at.token], row.seat, at.bias, row.counts ? row.counts[at.token] : 0, allowed);
    }
    if (row.mask || sample.position >= row.seat->banned_until) return;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < row.seat->n_bans; i += ADJUST_THREADS) {
        int32_t token = row.seat->bans[i];
        if (token >= begin && token < end && sampling_is_finite(row.adjusted[token]))
            row.adjusted[token] = SAMPLING_BANNED;
    }
}

bool cuda_adjust(const struct context *ctx, struct error *err) {
    struct launch launch = {};
    launch.grid = dim3(SLICES, (unsigned)ctx->batch.n_samples);
    launch.block = dim3(ADJUST_THREADS);
    const struct adjust_params params = {ctx->scratch.logits, ctx->scratch.adjusted, ctx->batch.samples, ctx->sampling,
                                         ctx->shape->vocab};
    return launch_kernel(ctx->device, launch, adjust_kernel, err, params);
}

/* One thread for each row: no two rows share a seat. */
__global__ static void __launch_bounds__(COUNT_THREADS)
    count_kernel(const struct sample_row *rows, const int32_t *sampled, struct sampling_memory sampling,
                 int32_t n_samples, int32_t vocab) {
    int32_t index = (int32_t)(blockIdx.x * COUNT_THREADS + threadIdx.x);
    wait_for_previous();
    let_next_begin();
    if (index >= n_samples) return;
    int32_t seat = rows[index].seat - 1, token = sampled[index];
    if (seat < 0 || token < 0 || !sampling.seats[seat].has_penalties) return;
    uint16_t *count = sampling.counts + (size_t)seat * vocab + token;
    if ((*count & SAMPLING_MAX_COUNT) < SAMPLING_MAX_COUNT) ++*count;
}

bool cuda_count(const struct context *ctx, struct error *err) {
    struct launch launch = {};
    launch.grid = dim3((unsigned)divide_up(ctx->batch.n_samples, COUNT_THREADS));
    launch.block = dim3(COUNT_THREADS);
    return launch_kernel(ctx->device, launch, count_kernel, err, ctx->batch.samples, ctx->scratch.sampled,
                         ctx->sampling, ctx->batch.n_samples, ctx->shape->vocab);
}
