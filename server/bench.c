#include "server/bench.h"

#include "server/bench_floor.h"
#include "server/bench_http.h"
#include "server/bench_report.h"
#include "server/bench_run.h"
#include "server/engine_setup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { MIN_PREFILL_RUNS = 3 };

/* What is measured: exactly one of the two. */
struct target {
    struct engine *engine;
    struct bench_http *http;
};

/* With the bandwidth right before and after where the run decodes: machines change state within seconds. */
static bool measure_once(const struct target *target, const struct bench_run *run, struct bench_times *times,
                         struct error *err) {
    if (target->engine == NULL) return bench_http_measure(target->http, run, times, err);
    if (run->output.most == 1) return bench_measure(target->engine, run, times, err);
    double before, after;
    if (!engine_measure_bandwidth(target->engine, &before, err) || !bench_measure(target->engine, run, times, err) ||
        !engine_measure_bandwidth(target->engine, &after, err)) {
        return false;
    }
    times->bandwidth = (before + after) / 2;
    return true;
}

/* By the share of the bandwidth. */
static int compare_steps(const void *left, const void *right) {
    const struct bench_times *a = left, *b = right;
    double bytes_a = a->step_s * a->bandwidth, bytes_b = b->step_s * b->bandwidth;
    return (bytes_a > bytes_b) - (bytes_a < bytes_b);
}

static int compare_totals(const void *left, const void *right) {
    double a = ((const struct bench_times *)left)->total_s, b = ((const struct bench_times *)right)->total_s;
    return (a > b) - (a < b);
}

/* The run that is the median by compare, with the median total of all; each gets a seed of its own. */
static bool measure_median(const struct target *target, const struct bench_run *run, int32_t n_runs,
                           int (*compare)(const void *, const void *), struct bench_times *median, struct error *err) {
    struct bench_times *times = calloc((size_t)n_runs, sizeof *times);
    if (times == NULL) return fail(err, ERR_MEMORY, "no memory for %d runs", (int)n_runs);
    bool ok = true;
    for (int32_t i = 0; i < n_runs && ok; ++i) {
        struct bench_run seeded = *run;
        seeded.seed = run->seed + (uint64_t)i;
        ok = measure_once(target, &seeded, &times[i], err);
    }
    if (ok) {
        qsort(times, (size_t)n_runs, sizeof *times, compare_totals);
        double total_s = times[n_runs / 2].total_s;
        qsort(times, (size_t)n_runs, sizeof *times, compare);
        *median = times[n_runs / 2];
        median->total_s = total_s;
    }
    free(times);
    return ok;
}

static struct bench_run run_of(const struct config *config, int32_t n_requests, int32_t n_prompt, int32_t n_new) {
    return (struct bench_run){
        .n_requests = n_requests,
        .prompt = {n_prompt, n_prompt},
        .output = {n_new, n_new},
        .sampling = {.temperature = (float)config->temperature, .top_p = (float)config->top_p, .top_k = config->top_k},
        .seed = ((uint64_t)n_requests << 32) + (uint64_t)n_prompt * 1000003 + (uint64_t)n_new,
    };
}

static bool measure_prefill(const struct target *target, struct bench_report *report, int32_t n_prompt,
                            struct error *err) {
    struct bench_run run = run_of(report->config, 1, n_prompt, 1);
    int32_t n_runs = report->config->repeat > MIN_PREFILL_RUNS ? report->config->repeat : MIN_PREFILL_RUNS;
    struct bench_times times;
    if (!measure_once(target, &run, &times, err)) return false; // warms up
    run.seed ^= UINT64_C(1) << 63;
    if (!measure_median(target, &run, n_runs, compare_totals, &times, err)) return false;
    report->prefill[report->n_prefill++] =
        (struct bench_prefill){.n_prompt = n_prompt, .first_token_s = times.first_token_s};
    return true;
}

static bool measure_decode(const struct target *target, struct bench_report *report, int32_t n_prompt, int32_t batch,
                           struct error *err) {
    const struct config *config = report->config;
    const struct bench_run run = run_of(config, batch, n_prompt, config->new_tokens);
    struct bench_decode *decode = &report->decode[report->n_decode++];
    *decode = (struct bench_decode){.n_prompt = n_prompt, .batch = batch};
    bool alone = target->engine != NULL;
    if (!measure_median(target, &run, config->repeat, alone ? compare_steps : compare_totals, &decode->times, err)) {
        return false;
    }
    if (!alone || decode->times.n_steps > 0) return true;
    return fail_param(err, ERR_INVALID, "new-tokens",
                      "--new-tokens %d is too few: the first of %d requests had ended before the last one began",
                      (int)config->new_tokens, (int)batch);
}

static bool measure_steps(const struct target *target, struct bench_report *report, struct error *err) {
    const struct config *config = report->config;
    for (int32_t p = 0; p < config->prompt_tokens.count; ++p) {
        int32_t n_prompt = config->prompt_tokens.values[p];
        int32_t n_batches = p == 0 ? config->batch.count : 1;
        if (!measure_prefill(target, report, n_prompt, err)) return false;
        for (int32_t b = 0; b < n_batches && config->new_tokens > 1; ++b) {
            if (!measure_decode(target, report, n_prompt, config->batch.values[b], err)) return false;
        }
    }
    return true;
}

static bool measure_mixed(const struct target *target, struct bench_report *report, struct error *err) {
    const struct config *config = report->config;
    struct bench_run run = run_of(config, config->requests, 1, 1);
    run.prompt = (struct bench_range){config->prompt_range.values[0], config->prompt_range.values[1]};
    run.output = (struct bench_range){config->output_range.values[0], config->output_range.values[1]};
    return measure_median(target, &run, config->repeat, compare_totals, &report->mixed, err);
}

static bool measure(const struct target *target, struct bench_report *report, struct error *err) {
    if (report->config->workload == CONFIG_WORKLOAD_MIXED) return measure_mixed(target, report, err);
    return measure_steps(target, report, err);
}

static void note_bandwidth(struct bench_report *report, double bandwidth) {
    if (bandwidth > report->bandwidth) report->bandwidth = bandwidth;
}

static void add_floors(struct bench_report *report) {
    const struct model_shape *shape = &report->info->model.shape;
    double kv_token = (double)report->info->kv_token_bytes;
    for (int32_t i = 0; i < report->n_prefill; ++i) {
        report->prefill[i].operations = bench_floor_prompt_operations(shape, report->prefill[i].n_prompt);
    }
    for (int32_t i = 0; i < report->n_decode; ++i) {
        struct bench_decode *decode = &report->decode[i];
        double weights = bench_floor_weight_bytes(shape, decode->batch);
        decode->floor_s = (weights + decode->times.step_kv_tokens * kv_token) / decode->times.bandwidth;
        note_bandwidth(report, decode->times.bandwidth);
    }
    const struct bench_times *mixed = &report->mixed;
    if (mixed->n_tokens == 0) return;
    double weights = bench_floor_weight_bytes(shape, (double)mixed->n_tokens / mixed->n_longest);
    report->mixed_floor_s = (weights * mixed->n_longest + (double)mixed->kv_tokens * kv_token) / mixed->bandwidth;
    note_bandwidth(report, mixed->bandwidth);
}

static int32_t largest(const struct config_numbers *numbers) {
    int32_t most = 1;
    for (int32_t i = 0; i < numbers->count; ++i) most = numbers->values[i] > most ? numbers->values[i] : most;
    return most;
}

/* Room for what will be run, and no more. */
static void size_engine(const struct config *config, struct engine_options *options) {
    bool mixed = config->workload == CONFIG_WORKLOAD_MIXED;
    options->max_seqs = mixed ? config->requests : largest(&config->batch);
    options->max_queue = options->max_seqs;
    options->max_model_len = mixed ? largest(&config->prompt_range) + largest(&config->output_range)
                                   : largest(&config->prompt_tokens) + config->new_tokens;
    options->prefix_cache = false;
}

static bool bench_engine(const struct engine_options *options, struct bench_report *report, struct error *err) {
    struct target target = {.engine = engine_create(options, err)};
    if (target.engine == NULL) return false;
    report->info = engine_info(target.engine);
    bool ok = measure(&target, report, err);
    if (ok) add_floors(report);
    ok = ok && bench_report_print(report, stdout, err);
    engine_destroy(target.engine);
    return ok;
}

static bool bench_server(const struct config *config, struct bench_report *report, struct error *err) {
    struct target target = {.http = bench_http_create(config->url, err)};
    if (target.http == NULL) return false;
    bool ok = measure(&target, report, err);
    ok = ok && bench_report_print(report, stdout, err);
    bench_http_destroy(target.http);
    return ok;
}

bool bench(const struct config *config, const struct backend_ops *ops, struct log *log, struct error *err) {
    struct bench_report report = {.config = config};
    if (config->url[0] != '\0') return bench_server(config, &report, err);
    char config_file[PATH_MAX];
    snprintf(config_file, sizeof config_file, "%s/%s.json", config->shapes, config->shape);
    struct engine_options options = engine_setup_options(config, ops, log);
    if (config->shape[0] != '\0') {
        options.config_file = config_file;
        options.dummy_weights = true;
    }
    size_engine(config, &options);
    return bench_engine(&options, &report, err);
}
