/* What bias and penalties need of a sequence on the device: written when it takes a seat, from its tokens so far.
 *
 * A count of each token is made here and copied; from then on the device counts what it samples, so that no later step
 * waits for the host. A preempted sequence that runs again takes a seat again. What is being copied lies in page-locked
 * memory for two steps, as the arrays of the context do. */
#ifndef QUERN_ENGINE_SEATS_H
#define QUERN_ENGINE_SEATS_H

#include "engine/context.h"
#include "engine/error.h"
#include "engine/sequence.h"

#include <stdbool.h>
#include <stdint.h>

enum { SEATS_A_STEP = 8 }; // taken without waiting for the device

struct seats {
    const struct context *ctx;       // borrowed
    struct sampling_seat *staged[2]; // [SEATS_A_STEP], owned, page-locked
    uint16_t *counts[2];             // [SEATS_A_STEP][vocab], owned, page-locked
    int32_t n_staged;
    int32_t turn;
};

bool seats_init(struct seats *seats, const struct context *ctx, struct error *err);
void seats_finish(struct seats *seats);

/* The step before may still be on the device, the one before that must be over. */
void seats_begin_step(struct seats *seats);

/* Before the step that samples the sequence's next token: writes its seat unless it has been written. */
bool seats_take(struct seats *seats, struct sequence *sequence, struct error *err);

#endif
