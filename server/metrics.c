#include "server/metrics.h"

#include "server/endpoints.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/server.h"

#include <stddef.h>
#include <string.h>

struct writer {
    struct string_builder *out;
    const char *model_name;
};

static void write_head(const struct writer *writer, const char *name, const char *type, const char *help) {
    json_write_format(writer->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name{model_name="…" — without the closing brace. The escapes of a label value are among those of a JSON string. */
static void write_name(const struct writer *writer, const char *name, const char *suffix) {
    json_write_format(writer->out, "%s%s{model_name=", name, suffix);
    json_write_text(writer->out, writer->model_name);
}

static void write_gauge(const struct writer *writer, const char *name, const char *help, double value) {
    write_head(writer, name, "gauge", help);
    write_name(writer, name, "");
    json_write_format(writer->out, "} %.17g\n", value);
}

static void write_counter(const struct writer *writer, const char *name, const char *help, uint64_t value) {
    write_head(writer, name, "counter", help);
    write_name(writer, name, "");
    json_write_format(writer->out, "} %llu\n", (unsigned long long)value);
}

static void write_histogram(const struct writer *writer, const char *name, const char *help,
                            const struct histogram *histogram) {
    write_head(writer, name, "histogram", help);
    uint64_t count = 0;
    for (int32_t i = 0; i < histogram->n_bounds; ++i) {
        count += histogram->counts[i];
        write_name(writer, name, "_bucket");
        json_write_format(writer->out, ",le=\"%g\"} %llu\n", histogram->bounds[i], (unsigned long long)count);
    }
    write_name(writer, name, "_bucket");
    json_write_format(writer->out, ",le=\"+Inf\"} %llu\n", (unsigned long long)histogram->total);
    write_name(writer, name, "_sum");
    json_write_format(writer->out, "} %.9g\n", histogram->sum);
    write_name(writer, name, "_count");
    json_write_format(writer->out, "} %llu\n", (unsigned long long)histogram->total);
}

static void write_finished(const struct writer *writer, const struct engine_stats *stats, uint64_t n_by_string) {
    static const char name[] = "vllm:request_success_total";
    // The engine counts a cancellation before the server knows that it was its own.
    uint64_t n_cancelled = stats->finished[FINISH_CANCELLED];
    uint64_t n_moved = n_by_string < n_cancelled ? n_by_string : n_cancelled;
    const struct {
        const char *reason;
        uint64_t count;
    } rows[] = {
        {"stop", stats->finished[FINISH_STOP] + n_moved},
        {"length", stats->finished[FINISH_LENGTH]},
        {"abort", n_cancelled - n_moved},
        {"error", stats->finished[FINISH_ERROR]},
    };
    write_head(writer, name, "counter", "Requests that have ended, by reason.");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        write_name(writer, name, "");
        json_write_format(writer->out, ",finished_reason=\"%s\"} %llu\n", rows[i].reason,
                          (unsigned long long)rows[i].count);
    }
}

static void write_rank_bytes(const struct writer *writer, const struct engine_info *info, const char *name,
                             const char *help, size_t member) {
    write_head(writer, name, "gauge", help);
    for (int32_t r = 0; r < info->n_ranks; ++r) {
        size_t bytes;
        memcpy(&bytes, (const char *)&info->ranks[r] + member, sizeof bytes);
        write_name(writer, name, "");
        json_write_format(writer->out, ",rank=\"%d\"} %zu\n", (int)r, bytes);
    }
}

static void write_ranks(const struct writer *writer, const struct engine_info *info) {
    static const char link[] = "quern:interconnect_info";
    write_gauge(writer, "quern:ranks", "Devices that share the model.", info->n_ranks);
    write_head(writer, link, "gauge", "How the ranks are connected.");
    write_name(writer, link, "");
    json_write_format(writer->out, ",interconnect=\"%s\"} 1\n", info->interconnect);
    write_rank_bytes(writer, info, "quern:weights_bytes", "Weights on the device of each rank.",
                     offsetof(struct engine_rank, weights_bytes));
    write_rank_bytes(writer, info, "quern:scratch_bytes", "Activations and batch arrays on the device of each rank.",
                     offsetof(struct engine_rank, scratch_bytes));
    write_rank_bytes(writer, info, "quern:kv_bytes", "KV cache on the device of each rank.",
                     offsetof(struct engine_rank, kv_bytes));
}

void metrics_write(const struct engine_stats *stats, const struct engine_info *info, const char *model_name,
                   uint64_t n_stopped_by_string, struct string_builder *out) {
    const struct writer writer = {out, model_name};
    write_gauge(&writer, "vllm:num_requests_running", "Requests that run now.", stats->n_running);
    write_gauge(&writer, "vllm:num_requests_waiting", "Requests that wait to run.", stats->n_waiting);
    write_gauge(&writer, "vllm:kv_cache_usage_perc", "Share of the KV blocks held by running requests, 0 to 1.",
                stats->n_blocks > 0 ? (double)stats->n_used_blocks / stats->n_blocks : 0);
    /* vLLM names these two without _total in its documents and with it on the wire: dashboards ask for either. */
    write_counter(&writer, "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.",
                  stats->prefix_queries);
    write_counter(&writer, "vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
                  stats->prefix_queries);
    write_counter(&writer, "vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats->prefix_hits);
    write_counter(&writer, "vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
                  stats->prefix_hits);
    write_counter(&writer, "vllm:prompt_tokens_total", "Prompt tokens processed.", stats->prompt_tokens);
    write_counter(&writer, "vllm:generation_tokens_total", "Tokens generated.", stats->generation_tokens);
    write_finished(&writer, stats, n_stopped_by_string);
    write_counter(&writer, "vllm:num_preemptions_total", "Times a running request was put back to waiting.",
                  stats->preemptions);
    write_histogram(&writer, "vllm:time_to_first_token_seconds", "From submit to the first token.",
                    &stats->first_token);
    write_histogram(&writer, "vllm:inter_token_latency_seconds", "Between two tokens of one request.",
                    &stats->inter_token);
    write_histogram(&writer, "vllm:e2e_request_latency_seconds", "From submit to the end.", &stats->request);
    write_counter(&writer, "quern:not_finite_total", "Requests ended by a logit that was not finite.",
                  stats->not_finite);
    write_counter(&writer, "quern:steps_total", "Steps of the engine.", stats->n_steps);
    write_ranks(&writer, info);
}

void metrics_get(struct server *server, struct http_request *http) {
    struct engine_stats stats;
    engine_stats(server->engine, &stats);
    struct string_builder body = {0};
    metrics_write(&stats, engine_info(server->engine), server->model_name, atomic_load(&server->n_stopped_by_string),
                  &body);
    http_respond(http,
                 &(struct http_response){.status = 200, .content_type = "text/plain; version=0.0.4; charset=utf-8"},
                 &body);
}
