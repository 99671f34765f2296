/* Counters and histograms of one engine, for /metrics, /health and the bench. Plain data, copied whole. */
#ifndef QUERN_ENGINE_STATS_H
#define QUERN_ENGINE_STATS_H

#include <stdbool.h>
#include <stdint.h>

#define HISTOGRAM_MAX_BOUNDS 24

/* Prometheus semantics: counts[i] observations at most bounds[i] (not cumulative here), the last beyond all bounds. */
struct histogram {
    const double *bounds; // [n_bounds], static, ascending, in seconds
    int32_t n_bounds;
    uint64_t counts[HISTOGRAM_MAX_BOUNDS + 1];
    uint64_t total;
    double sum;
};
void histogram_observe(struct histogram *histogram, double value);

struct engine_stats {
    bool failed; // the device failed: no request can be served any more
    char failure[512];
    int32_t n_running;
    int32_t n_waiting;
    int32_t n_blocks;      // in the pool
    int32_t n_used_blocks; // held by running sequences
    uint64_t n_steps;
    int64_t last_step_end_ns;  // engine_now_ns, 0 before the first
    int64_t last_step_ns;      // duration of the last step
    uint64_t prefix_queries;   // tokens looked up in the prefix cache
    uint64_t prefix_hits;      // of these, tokens found
    uint64_t prefix_evictions; // blocks of the prefix cache that were given away
    uint64_t prompt_tokens;
    uint64_t generation_tokens;
    uint64_t preemptions;
    uint64_t not_finite;  // requests ended by a logit that was not finite
    uint64_t finished[4]; // by enum finish_reason
    struct histogram first_token;
    struct histogram inter_token;
    struct histogram request;
};

/* Zeroes and sets the bounds, those of vLLM. */
void engine_stats_init(struct engine_stats *stats);

#endif
