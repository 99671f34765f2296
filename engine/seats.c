#include "engine/seats.h"

#include "engine/backend.h"

#include <assert.h>
#include <string.h>

bool seats_init(struct seats *seats, const struct context *ctx, struct error *err) {
    const struct backend_ops *ops = ctx->ops;
    seats->ctx = ctx;
    for (int i = 0; i < 2; ++i) {
        seats->staged[i] = ops->alloc_host(ctx->device, SEATS_A_STEP * sizeof **seats->staged, err);
        if (!seats->staged[i]) return false;
        seats->counts[i] =
            ops->alloc_host(ctx->device, SEATS_A_STEP * (size_t)ctx->shape->vocab * sizeof **seats->counts, err);
        if (!seats->counts[i]) return false;
    }
    return true;
}

void seats_finish(struct seats *seats) {
    for (int i = 0; i < 2 && seats->ctx; ++i) {
        seats->ctx->ops->free_host(seats->ctx->device, seats->staged[i]);
        seats->ctx->ops->free_host(seats->ctx->device, seats->counts[i]);
    }
    *seats = (struct seats){0};
}

void seats_begin_step(struct seats *seats) {
    seats->turn = 1 - seats->turn;
    seats->n_staged = 0;
}

/* Tokens whose ids are known: all, as a sequence takes its seat with its first token since it waited. */
static void count_tokens(const struct sequence *sequence, uint16_t *counts, int32_t vocab) {
    assert(sequence->n_known == sequence->n_computed);
    memset(counts, 0, (size_t)vocab * sizeof *counts);
    for (int32_t i = 0; i < sequence->n_known; ++i) {
        uint16_t *count = &counts[sequence->tokens[i]];
        if (i < sequence->n_prompt)
            *count |= SAMPLING_IN_PROMPT;
        else if ((*count & SAMPLING_MAX_COUNT) < SAMPLING_MAX_COUNT)
            ++*count;
    }
}

static bool copy(const struct seats *seats, void *to, const void *from, size_t bytes, struct error *err) {
    return seats->ctx->ops->copy_to_device(seats->ctx->device, to, from, bytes, err);
}

bool seats_take(struct seats *seats, struct sequence *sequence, struct error *err) {
    const struct context *ctx = seats->ctx;
    if (sequence->seated == sequence->table) return true;
    if (seats->n_staged == SEATS_A_STEP) {
        if (!ctx->ops->synchronize(ctx->device, err)) return false;
        seats->n_staged = 0;
    }
    size_t place = (size_t)seats->n_staged++, at = (size_t)(sequence->seat - 1), vocab = (size_t)ctx->shape->vocab;
    struct sampling_seat *seat = &seats->staged[seats->turn][place];
    size_t bytes = offsetof(struct sampling_seat, biases) +
                   (size_t)sequence->adjusted->n_biases * sizeof *sequence->adjusted->biases;
    memcpy(seat, sequence->adjusted, bytes);
    if (!copy(seats, &ctx->sampling.seats[at], seat, bytes, err)) return false;
    if (seat->has_penalties) {
        uint16_t *counts = seats->counts[seats->turn] + place * vocab;
        count_tokens(sequence, counts, ctx->shape->vocab);
        if (!copy(seats, ctx->sampling.counts + at * vocab, counts, vocab * sizeof *counts, err)) return false;
    }
    sequence->seated = sequence->table;
    return true;
}
