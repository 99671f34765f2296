/* The ranks of one engine, one or several: each a device with its weights and its context, and a thread to drive it.
 *
 * The first rank is driven by whoever calls ranks_run, so that a model on one device is computed without a change of
 * threads; the others have threads that wait for work. What the ranks' ops do together (struct backend_ops) they do
 * inside one ranks_run. */
#ifndef QUERN_ENGINE_RANKS_H
#define QUERN_ENGINE_RANKS_H

#include "engine/backend.h"
#include "engine/context.h"
#include "engine/error.h"
#include "engine/slice.h"
#include "engine/weights.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct ranks;

struct rank {
    struct ranks *ranks;      // borrowed
    struct slice slice;       // which one this is
    struct model_shape shape; // of its part
    struct device *device;    // owned, as the next two
    struct weights weights;
    struct context *ctx;
    pthread_t thread; // of all but the first
    bool thread_started;
};

/* Does one rank's part of something. */
typedef bool rank_job(struct rank *rank, void *argument, struct error *err);

struct ranks {
    const struct backend_ops *ops; // borrowed
    int32_t n;
    struct rank rank[SLICE_MAX_RANKS]; // [n]
    bool joined;                       // the backend has them connected
    pthread_mutex_t lock;              // guards all below
    pthread_cond_t begin, end;
    rank_job *job;
    void *argument;
    uint64_t n_jobs;   // begun
    int32_t n_running; // ranks that have not ended the newest
    bool failed;
    struct error error; // the first in time: what others say follows from it
    bool broken;        // the backend knows
    bool stopping;
};

/* Opens the devices, connects them and starts the threads. ERR_INVALID when the backend or this machine has no n.
 * ranks_finish frees all that ranks own, also after a failure and of a zeroed struct. */
bool ranks_init(struct ranks *ranks, const struct backend_ops *ops, int32_t n, const struct device_options *options,
                struct error *err);
void ranks_finish(struct ranks *ranks);

/* Runs the job on all ranks at once and returns when all have ended it. The error is that of the rank that failed
 * first, whose number it names where there are several; those that waited for it fail too. One caller at a time. */
bool ranks_run(struct ranks *ranks, rank_job *job, void *argument, struct error *err);

/* Nobody waits for another rank any more. From any thread. */
void ranks_break(struct ranks *ranks);

#endif
