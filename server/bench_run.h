/* One measurement: requests submitted at once, and the times at which their tokens came. */
#ifndef QUERN_SERVER_BENCH_RUN_H
#define QUERN_SERVER_BENCH_RUN_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct bench_run {
    int32_t n_requests;
    int32_t n_prompt;
    int32_t n_new;
    uint64_t seed; // of the prompts
};

struct bench_times {
    double first_token_s;  // submit to the first token of the request that got it last
    double step_s;         // median step while all decode; 0 when n_new is 1
    double tokens_per_s;   // in that phase
    double mean_kv_tokens; // seen by one sequence in that phase, on average
    int32_t n_steps;       // of that phase
};

/* ERR_INVALID when the phase in which all decode is empty. */
bool bench_measure(struct engine *engine, const struct bench_run *run, struct bench_times *times, struct error *err);

/* Sorts values. */
double bench_median(double *values, int32_t count);

#endif
