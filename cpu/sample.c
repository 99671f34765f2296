/* Sampling as engine/sampling.h defines it. The filters top_k and top_p keep all logits above a threshold; it is found
 * on the integer keys of the logits, 8 bits at a time from the top, without sorting. */
#include "cpu/device.h"

#include <math.h>
#include <string.h>

#define DIGITS 256
#define BLOCK  1024 // logits that one vectorised pass takes

struct row {
    const float *logits; // [vocab]
    int32_t vocab;
    float max;
    float inverse_temperature;
    struct candidate *candidates; // the tokens still kept, in the order of their ids
    int32_t n_candidates;
};

/* False when a logit is not finite. best is the lowest id of the largest logit. */
static bool find_largest(const struct isa *isa, const float *logits, int32_t vocab, int32_t *best) {
    float max = -INFINITY;
    int32_t block = 0;
    for (int32_t first = 0; first < vocab; first += BLOCK) {
        float largest = isa->largest(logits + first, vocab - first < BLOCK ? vocab - first : BLOCK);
        if (!isfinite(largest)) return false;
        if (!(largest > max)) continue;
        max = largest;
        block = first;
    }
    *best = block;
    while (logits[*best] != max) ++*best;
    return true;
}

static void collect(struct row *row, const struct isa *isa) {
    uint32_t weights[BLOCK];
    row->n_candidates = 0;
    for (int32_t first = 0; first < row->vocab; first += BLOCK) {
        int32_t n = row->vocab - first < BLOCK ? row->vocab - first : BLOCK;
        isa->sampling_weights(row->logits + first, n, row->max, row->inverse_temperature, weights);
        for (int32_t i = 0; i < n; ++i) {
            row->candidates[row->n_candidates] = (struct candidate){first + i, weights[i]};
            row->n_candidates += weights[i] > 0;
        }
    }
}

/* The key of the last logit, from the largest down, of which less than limit lies above: limit counts tokens, or
 * weights. */
static uint32_t find_threshold(const struct row *row, uint64_t limit, bool by_weight) {
    uint32_t prefix = 0;
    uint64_t above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t sums[DIGITS] = {0};
        uint32_t settled = shift == 24 ? 0 : ~0u << (shift + 8); // digits already known
        for (int32_t i = 0; i < row->n_candidates; ++i) {
            uint32_t key = sampling_key(row->logits[row->candidates[i].token]);
            if ((key & settled) == prefix)
                sums[key >> shift & (DIGITS - 1)] += by_weight ? row->candidates[i].weight : 1;
        }
        uint32_t digit = DIGITS - 1;
        while (digit > 0 && (sums[digit] == 0 || above + sums[digit] < limit)) above += sums[digit--];
        prefix |= digit << shift;
    }
    return prefix;
}

static void keep_from(struct row *row, uint32_t threshold) {
    int32_t n_kept = 0;
    for (int32_t i = 0; i < row->n_candidates; ++i) {
        struct candidate candidate = row->candidates[i];
        row->candidates[n_kept] = candidate;
        n_kept += sampling_key(row->logits[candidate.token]) >= threshold;
    }
    row->n_candidates = n_kept;
}

static void filter(struct row *row, const struct sampling_params *params) {
    if (params->top_k > 0 && params->top_k < row->n_candidates)
        keep_from(row, find_threshold(row, (uint64_t)params->top_k, false));
    if (params->top_p < 1) {
        uint64_t total = 0;
        for (int32_t i = 0; i < row->n_candidates; ++i) total += row->candidates[i].weight;
        keep_from(row, find_threshold(row, sampling_top_p_limit(params->top_p, total), true));
    }
}

/* A token beats the best score so far only if v <= -log(1 - v) < w * exp(-best), v = word / 2^32: most need no
 * logarithm. 1.01 covers the rounding. */
static int32_t draw(const struct row *row, const struct sampling_params *params, int32_t position) {
    uint32_t least = sampling_min_weight(params->min_p);
    float best_score = -INFINITY, words_per_weight = INFINITY;
    int32_t best = row->candidates[0].token;
    for (int32_t i = 0; i < row->n_candidates; ++i) {
        uint32_t weight = row->candidates[i].weight;
        int32_t token = row->candidates[i].token;
        uint32_t word = sampling_philox(params->seed, (uint32_t)token, (uint32_t)position);
        if (weight < least || (float)word > (float)(weight + 1) * words_per_weight) continue;
        float score = sampling_score(row->logits[token], row->max, row->inverse_temperature, sampling_gumbel_of(word));
        if (!(score > best_score)) continue;
        best_score = score;
        best = token;
        words_per_weight = 1.01f * (0x1p32f / (float)SAMPLING_WEIGHT_ONE) * expf(-best_score);
    }
    return best;
}

static int32_t sample_row(const struct context *ctx, int32_t index, struct candidate *candidates) {
    const struct sample_row *sample = &ctx->batch.samples[index];
    bool adjusted = ctx->batch.n_adjusted > 0 && (sample->seat > 0 || sample->mask > 0);
    const float *logits = adjusted ? ctx->scratch.adjusted : ctx->scratch.logits;
    struct row row = {.logits = logits + (size_t)index * (size_t)ctx->shape->vocab,
                      .vocab = ctx->shape->vocab,
                      .candidates = candidates};
    const struct isa *isa = ctx->device->isa;
    int32_t best;
    if (!find_largest(isa, row.logits, row.vocab, &best)) return SAMPLED_NOT_FINITE;
    if (sample->params.temperature < SAMPLING_MIN_TEMPERATURE) return best;
    row.max = row.logits[best];
    row.inverse_temperature = 1.0f / sample->params.temperature;
    collect(&row, isa);
    filter(&row, &sample->params);
    return draw(&row, &sample->params, sample->position);
}

struct sample_job {
    const struct context *ctx;
    struct workspace workspace;
};

/* Each lane has room for one row's candidates and takes every SAMPLE_LANES-th row. */
static void sample_lane(void *argument, int32_t lane) {
    const struct sample_job *job = argument;
    for (int32_t i = lane; i < job->ctx->batch.n_samples; i += SAMPLE_LANES)
        job->ctx->scratch.sampled[i] = sample_row(job->ctx, i, job->workspace.candidates[lane]);
}

bool cpu_sample(const struct context *ctx, struct error *err) {
    (void)err;
    struct sample_job job = {ctx, workspace_of(ctx)};
    int32_t n_lanes = ctx->batch.n_samples < SAMPLE_LANES ? ctx->batch.n_samples : SAMPLE_LANES;
    threads_run(ctx->device->threads, sample_lane, &job, n_lanes);
    return true;
}
