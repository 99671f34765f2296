#include "engine/ranks.h"

#include <stdio.h>
#include <string.h>

static void keep_failure(struct ranks *ranks, const struct rank *rank, const struct error *error) {
    pthread_mutex_lock(&ranks->lock);
    if (!ranks->failed) {
        ranks->error = *error;
        snprintf(ranks->error.message, sizeof ranks->error.message, "rank %d: %.480s", rank->slice.rank,
                 error->message);
    }
    ranks->failed = true;
    pthread_mutex_unlock(&ranks->lock);
    ranks_break(ranks);
}

static void run_job(struct rank *rank, rank_job *job, void *argument) {
    struct error error = {0};
    if (!job(rank, argument, &error)) keep_failure(rank->ranks, rank, &error);
}

static void *drive(void *user) {
    struct rank *rank = user;
    struct ranks *ranks = rank->ranks;
    uint64_t n_done = 0;
    pthread_mutex_lock(&ranks->lock);
    for (;;) {
        while (ranks->n_jobs == n_done && !ranks->stopping) pthread_cond_wait(&ranks->begin, &ranks->lock);
        if (ranks->stopping) break;
        rank_job *job = ranks->job;
        void *argument = ranks->argument;
        n_done = ranks->n_jobs;
        pthread_mutex_unlock(&ranks->lock);
        run_job(rank, job, argument);
        pthread_mutex_lock(&ranks->lock);
        if (--ranks->n_running == 0) pthread_cond_signal(&ranks->end);
    }
    pthread_mutex_unlock(&ranks->lock);
    return NULL;
}

bool ranks_run(struct ranks *ranks, rank_job *job, void *argument, struct error *err) {
    if (ranks->n == 1) return job(&ranks->rank[0], argument, err);
    pthread_mutex_lock(&ranks->lock);
    ranks->job = job;
    ranks->argument = argument;
    ranks->n_running = ranks->n - 1;
    ranks->n_jobs++;
    pthread_cond_broadcast(&ranks->begin);
    pthread_mutex_unlock(&ranks->lock);
    run_job(&ranks->rank[0], job, argument);
    pthread_mutex_lock(&ranks->lock);
    while (ranks->n_running > 0) pthread_cond_wait(&ranks->end, &ranks->lock);
    bool ok = !ranks->failed;
    if (!ok && err) *err = ranks->error;
    pthread_mutex_unlock(&ranks->lock);
    return ok;
}

void ranks_break(struct ranks *ranks) {
    pthread_mutex_lock(&ranks->lock);
    bool is_first = !ranks->broken; // ranks may fail at once, and the backend gives up what they share
    ranks->broken = true;
    pthread_mutex_unlock(&ranks->lock);
    if (is_first && ranks->joined) ranks->ops->ranks_break(ranks->rank[0].device);
}

static bool open_devices(struct ranks *ranks, const struct device_options *options, struct error *err) {
    struct device *devices[SLICE_MAX_RANKS];
    for (int32_t r = 0; r < ranks->n; ++r) {
        struct device_options own = *options;
        own.index = r;
        own.n_ranks = ranks->n;
        devices[r] = ranks->rank[r].device = ranks->ops->device_create(&own, err);
        if (!devices[r]) return false;
    }
    ranks->joined = ranks->n > 1 && ranks->ops->ranks_join(devices, ranks->n, err);
    return ranks->joined || ranks->n == 1;
}

static bool start_threads(struct ranks *ranks, struct error *err) {
    for (int32_t r = 1; r < ranks->n; ++r) {
        struct rank *rank = &ranks->rank[r];
        if (pthread_create(&rank->thread, NULL, drive, rank) != 0)
            return fail(err, ERR_INTERNAL, "the thread of rank %d did not start", r);
        rank->thread_started = true;
    }
    return true;
}

bool ranks_init(struct ranks *ranks, const struct backend_ops *ops, int32_t n, const struct device_options *options,
                struct error *err) {
    *ranks = (struct ranks){.ops = ops, .n = n > 1 ? n : 1};
    pthread_mutex_init(&ranks->lock, NULL);
    pthread_cond_init(&ranks->begin, NULL);
    pthread_cond_init(&ranks->end, NULL);
    for (int32_t r = 0; r < ranks->n; ++r) {
        ranks->rank[r].ranks = ranks;
        ranks->rank[r].slice = (struct slice){.rank = r, .n_ranks = ranks->n};
    }
    if (ranks->n > 1 && !ops->ranks_join)
        return fail_param(err, ERR_INVALID, "tensor-parallel-size",
                          "tensor-parallel-size is %d, but the %s backend of this build computes on one device alone%s",
                          n, ops->name, strcmp(ops->name, "cuda") == 0 ? ": it was built without NCCL" : "");
    return open_devices(ranks, options, err) && start_threads(ranks, err);
}

static void close_devices(struct ranks *ranks) {
    struct device *devices[SLICE_MAX_RANKS];
    for (int32_t r = 0; r < ranks->n; ++r) {
        struct rank *rank = &ranks->rank[r];
        devices[r] = rank->device;
        context_destroy(rank->ctx); // recorded steps hold what ranks_part ends
        weights_finish(&rank->weights);
    }
    if (ranks->joined) ranks->ops->ranks_part(devices, ranks->n);
    for (int32_t r = 0; r < ranks->n; ++r) ranks->ops->device_destroy(devices[r]);
}

void ranks_finish(struct ranks *ranks) {
    if (!ranks->ops) return;
    pthread_mutex_lock(&ranks->lock);
    ranks->stopping = true;
    pthread_cond_broadcast(&ranks->begin);
    pthread_mutex_unlock(&ranks->lock);
    for (int32_t r = 1; r < ranks->n; ++r) {
        if (ranks->rank[r].thread_started) pthread_join(ranks->rank[r].thread, NULL);
    }
    close_devices(ranks);
    pthread_cond_destroy(&ranks->end);
    pthread_cond_destroy(&ranks->begin);
    pthread_mutex_destroy(&ranks->lock);
    *ranks = (struct ranks){0};
}
