/* What `quern bench` found, as a table for people or as one JSON object. */
#ifndef QUERN_SERVER_BENCH_REPORT_H
#define QUERN_SERVER_BENCH_REPORT_H

#include "config/config.h"
#include "engine/engine.h"
#include "engine/error.h"
#include "server/bench_run.h"

#include <stdbool.h>
#include <stdio.h>

struct bench_prefill {
    int32_t n_prompt;
    double first_token_s; // median
    double operations;    // of the prompt; 0 over HTTP
};

struct bench_decode {
    int32_t n_prompt;
    int32_t batch;
    struct bench_times times;
    double floor_s; // of a step; 0 over HTTP
};

enum { BENCH_MAX_DECODE = 2 * CONFIG_MAX_NUMBERS };

struct bench_report {
    const struct config *config;
    const struct engine_info *info; // NULL over HTTP, and then no floor is known
    double bandwidth;               // bytes per second, the largest of all runs; 0: none was measured
    struct bench_prefill prefill[CONFIG_MAX_NUMBERS];
    int32_t n_prefill;
    struct bench_decode decode[BENCH_MAX_DECODE];
    int32_t n_decode;
    struct bench_times mixed; // n_tokens 0: not run
    double mixed_floor_s;
};

bool bench_report_print(const struct bench_report *report, FILE *stream, struct error *err);

#endif
