/* Scores as engine/sampling.h defines them: one pass for the largest logit and the likeliest tokens, one for the sum of
 * all exponentials, one for the rank. */
#include "cpu/device.h"

#include <math.h>

#define BLOCK 1024 // logits summed in float32; the blocks' sums are added in double

static double sum_of_exponentials(const struct isa *isa, const float *logits, int32_t vocab, float max) {
    double sum = 0;
    for (int32_t first = 0; first < vocab; first += BLOCK)
        sum += isa->exp_sum(logits + first, vocab - first < BLOCK ? vocab - first : BLOCK, max);
    return sum;
}

/* The n largest in order; a token comes before its equals of higher ids because it is met before them. */
static void find_likeliest(const float *logits, int32_t vocab, int32_t n, int32_t *tokens) {
    int32_t n_found = 0;
    for (int32_t token = 0; token < vocab; ++token) {
        if (n_found == n && !(logits[token] > logits[tokens[n - 1]])) continue;
        int32_t place = n_found < n ? n_found++ : n - 1;
        for (; place > 0 && logits[token] > logits[tokens[place - 1]]; --place) tokens[place] = tokens[place - 1];
        tokens[place] = token;
    }
}

static void score_row(const struct context *ctx, int32_t index) {
    const struct sample_row *sample = &ctx->batch.samples[index];
    int32_t token = ctx->scratch.sampled[index], vocab = ctx->shape->vocab, n_top = sample->n_scores - 1;
    if (n_top < 0 || token < 0) return;
    if (sample->target > 0) token = sample->target - 1;
    const float *logits = ctx->scratch.logits + (size_t)index * (size_t)vocab;
    struct token_scores *scores = &ctx->scratch.scores[index];
    int32_t likeliest[SAMPLING_MAX_TOP + 1] = {0};
    if (n_top > vocab) n_top = vocab;
    find_likeliest(logits, vocab, n_top > 0 ? n_top : 1, likeliest);
    float max = logits[likeliest[0]];
    double log_sum = log(sum_of_exponentials(ctx->device->isa, logits, vocab, max));
    int32_t rank = 0;
    for (int32_t i = 0; i < vocab; ++i) rank += logits[i] >= logits[token];
    *scores = (struct token_scores){
        .logprob = (float)((double)(logits[token] - max) - log_sum), .rank = rank, .n_top = n_top};
    for (int32_t i = 0; i < n_top; ++i) {
        scores->tokens[i] = likeliest[i];
        scores->logprobs[i] = (float)((double)(logits[likeliest[i]] - max) - log_sum);
    }
}

static void score_chunk(void *argument, int32_t chunk) {
    score_row(argument, chunk);
}

bool cpu_score(const struct context *ctx, struct error *err) {
    (void)err;
    struct context job = *ctx; // the loop's argument is not const
    threads_run(ctx->device->threads, score_chunk, &job, ctx->batch.n_samples);
    return true;
}
