#include "server/bench.h"

#include "engine/engine.h"
#include "server/bench_run.h"
#include "server/engine_setup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { MIN_PREFILL_RUNS = 3 };

struct decode_result {
    int32_t batch;
    struct bench_times times;
    double floor_s;
};

struct report {
    const struct config *config;
    const struct engine_info *info;
    double bandwidth; // bytes per second, the larger of before and after
    double prefill_tokens_per_s;
    struct decode_result decode[CONFIG_MAX_NUMBERS]; // [n_decode]
    int32_t n_decode;
};

/* What one decode step has to read of the weights: of an embedding table that is not the LM head only a few rows. */
static double step_weight_bytes(const struct engine_info *info) {
    const struct model_shape *shape = &info->model.shape;
    double embedding = shape->tied_embeddings ? 0 : (double)shape->vocab * shape->hidden * 2; // bf16
    return (double)info->weights_bytes - embedding;
}

static bool measure_bandwidth(struct engine *engine, struct report *report, struct error *err) {
    double bandwidth;
    if (!engine_measure_bandwidth(engine, &bandwidth, err)) return false;
    report->bandwidth = bandwidth > report->bandwidth ? bandwidth : report->bandwidth;
    return true;
}

static bool measure_prefill(struct engine *engine, struct report *report, struct error *err) {
    const struct config *config = report->config;
    int32_t n_runs = config->repeat > MIN_PREFILL_RUNS ? config->repeat : MIN_PREFILL_RUNS;
    double *seconds = calloc((size_t)n_runs, sizeof *seconds);
    if (seconds == NULL) return fail(err, ERR_MEMORY, "no memory for %d runs", (int)n_runs);
    bool ok = true;
    for (int32_t i = -1; i < n_runs && ok; ++i) { // run -1 warms up
        const struct bench_run run = {
            .n_requests = 1, .n_prompt = config->prompt_tokens, .n_new = 1, .seed = (uint64_t)(i + 1)};
        struct bench_times times;
        ok = bench_measure(engine, &run, &times, err);
        if (ok && i >= 0) seconds[i] = times.first_token_s;
    }
    if (ok) report->prefill_tokens_per_s = config->prompt_tokens / bench_median(seconds, n_runs);
    free(seconds);
    return ok;
}

static int compare_steps(const void *left, const void *right) {
    double a = ((const struct bench_times *)left)->step_s, b = ((const struct bench_times *)right)->step_s;
    return (a > b) - (a < b);
}

/* The run with the median step of all repeats. */
static bool measure_decode(struct engine *engine, struct report *report, int32_t batch, struct error *err) {
    const struct config *config = report->config;
    struct bench_times *times = calloc((size_t)config->repeat, sizeof *times);
    if (times == NULL) return fail(err, ERR_MEMORY, "no memory for %d runs", (int)config->repeat);
    bool ok = true;
    for (int32_t i = 0; i < config->repeat && ok; ++i) {
        const struct bench_run run = {.n_requests = batch,
                                      .n_prompt = config->prompt_tokens,
                                      .n_new = config->new_tokens,
                                      .seed = (uint64_t)batch * 1000003 + (uint64_t)i};
        ok = bench_measure(engine, &run, &times[i], err);
    }
    if (ok) {
        qsort(times, (size_t)config->repeat, sizeof *times, compare_steps);
        report->decode[report->n_decode++] = (struct decode_result){.batch = batch, .times = times[config->repeat / 2]};
    }
    free(times);
    return ok;
}

static bool measure(struct engine *engine, struct report *report, struct error *err) {
    const struct config *config = report->config;
    if (!measure_bandwidth(engine, report, err) || !measure_prefill(engine, report, err)) return false;
    for (int32_t i = 0; i < config->batch.count && config->new_tokens > 1; ++i) {
        if (!measure_decode(engine, report, config->batch.values[i], err)) return false;
    }
    if (!measure_bandwidth(engine, report, err)) return false;
    for (int32_t i = 0; i < report->n_decode; ++i) {
        struct decode_result *decode = &report->decode[i];
        double kv_bytes = decode->times.mean_kv_tokens * (double)report->info->kv_token_bytes * decode->batch;
        decode->floor_s = (step_weight_bytes(report->info) + kv_bytes) / report->bandwidth;
    }
    return true;
}

static const char *model_of(const struct config *config) {
    return config->shape[0] != '\0' ? config->shape : config->model;
}

static void print_text(const struct report *report) {
    const struct config *config = report->config;
    printf("model      %s, %.3f GB of weights\n", model_of(config), (double)report->info->weights_bytes / 1e9);
    printf("device     %s: %s\n", report->info->backend, report->info->device);
    printf("bandwidth  %.1f GB/s, measured in this run\n", report->bandwidth / 1e9);
    printf("prefill    %.1f tok/s, one prompt of %d tokens\n\n", report->prefill_tokens_per_s,
           (int)config->prompt_tokens);
    printf("%6s %10s %12s %10s %9s\n", "batch", "step ms", "tok/s", "floor ms", "of floor");
    for (int32_t i = 0; i < report->n_decode; ++i) {
        const struct decode_result *decode = &report->decode[i];
        printf("%6d %10.3f %12.1f %10.3f %8.1f%%\n", (int)decode->batch, decode->times.step_s * 1e3,
               decode->times.tokens_per_s, decode->floor_s * 1e3, 100 * decode->floor_s / decode->times.step_s);
    }
}

static void print_json(const struct report *report) {
    const struct config *config = report->config;
    printf("{\"version\": \"%s\", \"model\": \"%s\", \"weights_bytes\": %zu, \"backend\": \"%s\", \"fused\": %s, "
           "\"bandwidth_bytes_per_s\": %.0f, \"prompt_tokens\": %d, \"new_tokens\": %d, "
           "\"prefill_tokens_per_s\": %.3f, \"decode\": [",
           QUERN_VERSION, model_of(config), report->info->weights_bytes, report->info->backend,
           config->fused ? "true" : "false", report->bandwidth, (int)config->prompt_tokens, (int)config->new_tokens,
           report->prefill_tokens_per_s);
    for (int32_t i = 0; i < report->n_decode; ++i) {
        const struct decode_result *decode = &report->decode[i];
        printf("%s{\"batch\": %d, \"step_ms\": %.6f, \"tokens_per_s\": %.3f, \"floor_ms\": %.6f, "
               "\"share_of_floor\": %.4f, \"n_steps\": %d}",
               i > 0 ? ", " : "", (int)decode->batch, decode->times.step_s * 1e3, decode->times.tokens_per_s,
               decode->floor_s * 1e3, decode->floor_s / decode->times.step_s, (int)decode->times.n_steps);
    }
    printf("]}\n");
}

static int32_t largest(const struct config_numbers *numbers) {
    int32_t most = 1;
    for (int32_t i = 0; i < numbers->count; ++i) most = numbers->values[i] > most ? numbers->values[i] : most;
    return most;
}

bool bench(const struct config *config, const struct backend_ops *ops, struct log *log, struct error *err) {
    char config_file[PATH_MAX];
    snprintf(config_file, sizeof config_file, "%s/%s.json", config->shapes, config->shape);
    struct engine_options options = engine_setup_options(config, ops, log);
    if (config->shape[0] != '\0') {
        options.config_file = config_file;
        options.dummy_weights = true;
    }
    options.max_seqs = largest(&config->batch);
    options.max_queue = options.max_seqs;
    options.max_model_len = config->prompt_tokens + config->new_tokens;
    options.prefix_cache = false;
    struct engine *engine = engine_create(&options, err);
    if (engine == NULL) return false;
    struct report report = {.config = config, .info = engine_info(engine)};
    bool ok = measure(engine, &report, err);
    if (ok && config->output == CONFIG_OUTPUT_JSON) print_json(&report);
    if (ok && config->output == CONFIG_OUTPUT_TEXT) print_text(&report);
    engine_destroy(engine);
    return ok;
}
