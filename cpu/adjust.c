/* Bias, penalties, masks and bans as engine/sampling.h defines them, and the counts that penalties look at. */
#include "cpu/device.h"

struct row {
    const float *logits; // [vocab]
    float *adjusted;     // [vocab]
    int32_t vocab;
    const struct sampling_seat *seat; // NULL: none
    const uint16_t *counts;           // [vocab], NULL: no penalties
    const uint32_t *mask;             // NULL: any token
};

static void adjust_token(const struct row *row, int32_t token, float bias) {
    int allowed = row->mask == NULL || (row->mask[token / 32] >> (token % 32) & 1);
    uint32_t count = row->counts != NULL ? row->counts[token] : 0;
    row->adjusted[token] = sampling_adjusted(row->logits[token], row->seat, bias, count, allowed);
}

static void adjust_row(const struct row *row, int32_t position) {
    for (int32_t token = 0; token < row->vocab; ++token) adjust_token(row, token, 0);
    const struct sampling_seat *seat = row->seat;
    if (seat == NULL) return;
    for (int32_t i = 0; i < seat->n_biases; ++i) adjust_token(row, seat->biases[i].token, seat->biases[i].bias);
    if (row->mask != NULL || position >= seat->banned_until) return;
    for (int32_t i = 0; i < seat->n_bans; ++i) {
        float *banned = &row->adjusted[seat->bans[i]];
        if (sampling_is_finite(*banned)) *banned = SAMPLING_BANNED;
    }
}

static void adjust_chunk(void *argument, int32_t chunk) {
    const struct context *ctx = argument;
    const struct sample_row *sample = &ctx->batch.samples[chunk];
    const struct sampling_memory *sampling = &ctx->sampling;
    size_t vocab = (size_t)ctx->shape->vocab, words = (size_t)sampling_mask_words(ctx->shape->vocab);
    if (sample->seat == 0 && sample->mask == 0) return;
    struct row row = {.logits = ctx->scratch.logits + (size_t)chunk * vocab,
                      .adjusted = ctx->scratch.adjusted + (size_t)chunk * vocab,
                      .vocab = ctx->shape->vocab};
    if (sample->seat > 0) row.seat = &sampling->seats[sample->seat - 1];
    if (row.seat != NULL && row.seat->has_penalties) row.counts = sampling->counts + (size_t)(sample->seat - 1) * vocab;
    if (sample->mask > 0) row.mask = sampling->masks + (size_t)(sample->mask - 1) * words;
    adjust_row(&row, sample->position);
}

bool cpu_adjust(const struct context *ctx, struct error *err) {
    (void)err;
    struct context job = *ctx; // the loop's argument is not const
    threads_run(ctx->device->threads, adjust_chunk, &job, ctx->batch.n_samples);
    return true;
}

bool cpu_count(const struct context *ctx, struct error *err) {
    (void)err;
    for (int32_t i = 0; i < ctx->batch.n_samples; ++i) {
        int32_t seat = ctx->batch.samples[i].seat - 1, token = ctx->scratch.sampled[i];
        if (seat < 0 || token < 0 || !ctx->sampling.seats[seat].has_penalties) continue;
        uint16_t *count = &ctx->sampling.counts[(size_t)seat * (size_t)ctx->shape->vocab + (size_t)token];
        if ((*count & SAMPLING_MAX_COUNT) < SAMPLING_MAX_COUNT) ++*count;
    }
    return true;
}
