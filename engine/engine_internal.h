/* The engine's own data, shared by engine.c (the door) and engine_thread.c (the steps). Nobody else includes this.
 *
 * Any thread may submit, cancel and read statistics; these touch only what `lock` guards. The engine thread alone
 * touches the scheduler, the pool, the context and every sequence it has taken from the inbox. Listeners are called on
 * the engine thread without the lock. */
#ifndef QUERN_ENGINE_ENGINE_INTERNAL_H
#define QUERN_ENGINE_ENGINE_INTERNAL_H

#include "engine/backend.h"
#include "engine/block_pool.h"
#include "engine/context.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/weights.h"

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
    struct error error;
};

struct engine {
    struct engine_options options;
    struct engine_info info;
    struct device *device;        // owned
    struct weights weights;       // owned
    struct context *ctx;          // owned
    struct block_pool *pool;      // owned
    struct scheduler scheduler;   // owned
    struct batch_sequence *batch; // [max_seqs], owned
    struct outcome *outcomes;     // [max_admitted], owned
    int32_t *sampled;             // [max_seqs], owned, page-locked

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
    uint64_t next_id;
    bool stopping, draining;
    struct engine_stats stats;
};

/* The thread's function; argument is the engine. Returns when `stopping` is set, all requests ended. */
void *engine_thread(void *argument);

#endif
