/* The engine's own data, shared by engine.c (the door), engine_load.c (the start) and engine_thread.c (the steps).
 * Nobody else includes this.
 *
 * Any thread may submit, cancel and read statistics; these touch only what `lock` guards. The engine thread alone
 * touches the scheduler, the pool, the context and every sequence it has taken from the inbox. Listeners are called on
 * the engine thread without the lock.
 *
 * Look-ahead: on an asynchronous device the engine thread launches a step while the one before is under way, and only
 * then waits for that one's tokens. The token that a sequence will get by then is planned for without its id: -1 - i in
 * its place tells embed to take sample i of the step before from the device. What this can get wrong is put right when
 * the tokens are read: a sequence that ends there (end token, not finite; cancelled likewise) leaves a part without a
 * sequence in the step under way, whose result is dropped. Its blocks are free at once, because steps run in order:
 * whoever gets them writes after that step. For the same reason a block of known tokens can be found by others as soon
 * as its step is planned. A sequence known to end by length is not planned again, and one that is preempted while under
 * way waits for its token like any other. On other devices each step is waited for before the next is planned.
 *
 * Several ranks: the engine thread plans and drives the first rank; the others' threads prepare and launch the same
 * step at the same time. Sampling, its seats, masks and scores belong to the first rank alone, and so does reading: the
 * others learn the tokens of a step at the beginning of the next.
 *
 * A mask follows from the token of the step before: a step with constrained sequences is computed up to its logits like
 * any other, and sampled when the host has learnt that token and has filled the masks, while the device computes. */
#ifndef QUERN_ENGINE_ENGINE_INTERNAL_H
#define QUERN_ENGINE_ENGINE_INTERNAL_H

#include "engine/backend.h"
#include "engine/block_pool.h"
#include "engine/context.h"
#include "engine/engine.h"
#include "engine/ranks.h"
#include "engine/scheduler.h"
#include "engine/seats.h"
#include "engine/sequence.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* What a step did to one sequence, told to its listener once the statistics have it. */
struct outcome {
    struct sequence *sequence;
    int32_t token; // valid when has_token
    bool has_token;
    bool finished;
    enum finish_reason reason;
    enum error_code error;             // of FINISH_ERROR
    const struct token_scores *scores; // borrowed, NULL: not asked for
    const float *pooled;               // borrowed, NULL: there is none
};

/* A launched step whose tokens are not read yet. */
struct flight {
    const struct step *step; // borrowed from the scheduler
    int64_t launch_ns;
};

struct engine {
    struct engine_options options;
    struct engine_info info;
    struct ranks ranks;             // owned
    struct device *device;          // of the first rank, borrowed
    struct context *ctx;            // of the first rank, borrowed
    struct block_pool *pool;        // owned
    struct scheduler scheduler;     // owned
    struct seats seats;             // owned
    struct batch_sequence *batch;   // [max_seqs], owned
    int32_t n_parts;                // of these, in the step that is being started
    struct outcome *outcomes;       // [max_admitted], owned
    struct flight flights[2];       // step n of all at n % 2
    int32_t *sampled[2];            // [max_seqs] their tokens, owned, page-locked
    struct token_scores *scores[2]; // [max_seqs] of these, owned, page-locked
    float *pooled[2];               // [max_seqs][hidden] what they pool, owned, page-locked
    uint32_t *masks;                // [max_seqs][sampling_mask_words], owned, page-locked
    uint64_t n_launched, n_read;    // steps

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock;
    pthread_cond_t wake; // for the engine thread: inbox, cancel, stop
    pthread_cond_t idle; // for engine_drain: the last live request finished
    /* Guarded by lock: */
    struct sequence_queue inbox;
    struct sequence **live; // [2 * max_admitted], owned: requests until their listener knows their end
    int32_t n_live;
    int32_t n_admitted, max_admitted; // accepted, and not yet counted as finished
    bool any_cancelled;               // a live sequence was marked since the engine thread last looked
    int64_t next_deadline_ns;         // the earliest of a live sequence may be later, not earlier; 0: none
    uint64_t next_id;
    bool stopping, draining;
    struct engine_stats stats;
};

/* Devices, weights, contexts and what info says of them. */
bool engine_load(struct engine *engine, struct error *err);

/* The thread's function; argument is the engine. Returns when `stopping` is set, all requests ended. */
void *engine_thread(void *argument);

#endif
