#include "server/bench_report.h"

#include "server/json_writer.h"

#include <stdlib.h>

static const char *model_of(const struct config *config) {
    if (config->url[0] != '\0') return config->url;
    return config->shape[0] != '\0' ? config->shape : config->model;
}

static double overall(const struct bench_times *times) {
    return (double)times->n_tokens / times->total_s;
}

static double share(double floor_s, double measured_s) {
    return measured_s > 0 ? floor_s / measured_s : 0;
}

static double prefill_floor_s(const struct bench_report *report, const struct bench_prefill *prefill) {
    double speed = report->config->product_tflops * 1e12;
    return speed > 0 ? prefill->operations / speed : 0;
}

/* --- for people --- */

static void print_prefill(const struct bench_report *report, FILE *stream) {
    fprintf(stream, "\n%8s %14s %12s %12s %10s %9s\n", "prompt", "first token ms", "us a token", "floor us", "TFLOP/s",
            "of floor");
    for (int32_t i = 0; i < report->n_prefill; ++i) {
        const struct bench_prefill *prefill = &report->prefill[i];
        double floor_s = prefill_floor_s(report, prefill);
        fprintf(stream, "%8d %14.3f %12.3f", (int)prefill->n_prompt, prefill->first_token_s * 1e3,
                prefill->first_token_s / prefill->n_prompt * 1e6);
        if (floor_s > 0) fprintf(stream, " %12.3f", floor_s / prefill->n_prompt * 1e6);
        if (floor_s == 0) fprintf(stream, " %12s", "-");
        if (prefill->operations > 0) fprintf(stream, " %10.2f", prefill->operations / prefill->first_token_s / 1e12);
        if (floor_s > 0) fprintf(stream, " %8.1f%%", 100 * share(floor_s, prefill->first_token_s));
        fprintf(stream, "\n");
    }
}

static void print_decode(const struct bench_report *report, FILE *stream) {
    fprintf(stream, "\n%8s %6s %10s %12s %10s %9s %16s\n", "prompt", "batch", "step ms", "tok/s", "floor ms",
            "of floor", "tok/s with start");
    for (int32_t i = 0; i < report->n_decode; ++i) {
        const struct bench_decode *decode = &report->decode[i];
        const struct bench_times *times = &decode->times;
        fprintf(stream, "%8d %6d", (int)decode->n_prompt, (int)decode->batch);
        if (times->n_steps > 0) {
            fprintf(stream, " %10.3f %12.1f %10.3f %8.1f%%", times->step_s * 1e3, times->tokens_per_s,
                    decode->floor_s * 1e3, 100 * share(decode->floor_s, times->step_s));
        } else {
            fprintf(stream, " %10s %12s %10s %9s", "-", "-", "-", "-");
        }
        fprintf(stream, " %16.1f\n", overall(times));
    }
}

static void print_mixed(const struct bench_report *report, FILE *stream) {
    const struct bench_times *mixed = &report->mixed;
    fprintf(stream, "\nmixed      %lld tokens for %d requests in %.3f s: %.1f tok/s\n", (long long)mixed->n_tokens,
            (int)report->config->requests, mixed->total_s, overall(mixed));
    if (report->info == NULL) return;
    fprintf(stream,
            "floor      %.3f s: K and V of %.1f million tokens, and the weights %d times; %.1f tok/s, %.1f%% reached\n",
            report->mixed_floor_s, (double)mixed->kv_tokens / 1e6, (int)mixed->n_longest,
            (double)mixed->n_tokens / report->mixed_floor_s, 100 * share(report->mixed_floor_s, mixed->total_s));
}

static void print_text(const struct bench_report *report, FILE *stream) {
    fprintf(stream, "model      %s\n", model_of(report->config));
    if (report->info != NULL) {
        fprintf(stream, "weights    %.3f GB\n", (double)report->info->weights_bytes / 1e9);
        fprintf(stream, "device     %s: %s\n", report->info->backend, report->info->device);
        if (report->info->n_ranks > 1)
            fprintf(stream, "ranks      %d such devices, connected by %s\n", (int)report->info->n_ranks,
                    report->info->interconnect);
    }
    if (report->bandwidth > 0) fprintf(stream, "bandwidth  %.1f GB/s, measured in this run\n", report->bandwidth / 1e9);
    if (report->n_prefill > 0) print_prefill(report, stream);
    if (report->n_decode > 0) print_decode(report, stream);
    if (report->mixed.n_tokens > 0) print_mixed(report, stream);
}

/* --- for programs --- */

static void write_engine(const struct bench_report *report, struct string_builder *out) {
    const struct engine_info *info = report->info;
    json_write_format(out, ", \"backend\": \"%s\", \"device\": ", info->backend);
    json_write_text(out, info->device);
    json_write_format(out, ", \"ranks\": %d, \"interconnect\": \"%s\"", (int)info->n_ranks, info->interconnect);
    json_write_format(out,
                      ", \"fused\": %s, \"weights_bytes\": %zu, \"kv_token_bytes\": %zu, "
                      "\"bandwidth_bytes_per_s\": %.0f, \"product_tflops\": %.3f",
                      report->config->fused ? "true" : "false", info->weights_bytes, info->kv_token_bytes,
                      report->bandwidth, report->config->product_tflops);
}

static void write_prefill(const struct bench_report *report, const struct bench_prefill *prefill,
                          struct string_builder *out) {
    double floor_s = prefill_floor_s(report, prefill);
    json_write_format(out, "{\"prompt_tokens\": %d, \"first_token_ms\": %.6f, \"us_per_token\": %.6f",
                      (int)prefill->n_prompt, prefill->first_token_s * 1e3,
                      prefill->first_token_s / prefill->n_prompt * 1e6);
    if (prefill->operations > 0) {
        json_write_format(out, ", \"operations\": %.6e, \"tflop_per_s\": %.4f", prefill->operations,
                          prefill->operations / prefill->first_token_s / 1e12);
    }
    if (floor_s > 0) {
        json_write_format(out, ", \"floor_us_per_token\": %.6f, \"share_of_floor\": %.4f",
                          floor_s / prefill->n_prompt * 1e6, share(floor_s, prefill->first_token_s));
    }
    string_builder_append_text(out, "}");
}

static void write_whole_run(const struct bench_times *times, struct string_builder *out) {
    json_write_format(out, "\"n_tokens\": %lld, \"total_ms\": %.6f, \"overall_tokens_per_s\": %.3f",
                      (long long)times->n_tokens, times->total_s * 1e3, overall(times));
}

static void write_decode(const struct bench_decode *decode, struct string_builder *out) {
    const struct bench_times *times = &decode->times;
    json_write_format(out, "{\"prompt_tokens\": %d, \"batch\": %d, \"first_token_ms\": %.6f, ", (int)decode->n_prompt,
                      (int)decode->batch, times->first_token_s * 1e3);
    write_whole_run(times, out);
    if (times->n_steps > 0) {
        json_write_format(out,
                          ", \"n_steps\": %d, \"step_ms\": %.6f, \"tokens_per_s\": %.3f, \"step_kv_tokens\": %.1f, "
                          "\"bandwidth_bytes_per_s\": %.0f, \"floor_ms\": %.6f, \"share_of_floor\": %.4f",
                          (int)times->n_steps, times->step_s * 1e3, times->tokens_per_s, times->step_kv_tokens,
                          times->bandwidth, decode->floor_s * 1e3, share(decode->floor_s, times->step_s));
    }
    string_builder_append_text(out, "}");
}

static void write_mixed(const struct bench_report *report, struct string_builder *out) {
    const struct config *config = report->config;
    const struct bench_times *mixed = &report->mixed;
    json_write_format(out, ", \"mixed\": {\"requests\": %d, \"prompt_range\": [%d, %d], \"output_range\": [%d, %d], ",
                      (int)config->requests, (int)config->prompt_range.values[0], (int)config->prompt_range.values[1],
                      (int)config->output_range.values[0], (int)config->output_range.values[1]);
    write_whole_run(mixed, out);
    if (report->info != NULL) {
        json_write_format(out,
                          ", \"kv_tokens\": %lld, \"longest_output\": %d, \"floor_tokens_per_s\": %.3f, "
                          "\"share_of_floor\": %.4f",
                          (long long)mixed->kv_tokens, (int)mixed->n_longest,
                          (double)mixed->n_tokens / report->mixed_floor_s,
                          share(report->mixed_floor_s, mixed->total_s));
    }
    string_builder_append_text(out, "}");
}

static void write_json(const struct bench_report *report, struct string_builder *out) {
    const struct config *config = report->config;
    string_builder_append_text(out, "{\"version\": \"" QUERN_VERSION "\", \"model\": ");
    json_write_text(out, model_of(config));
    if (report->info != NULL) write_engine(report, out);
    json_write_format(out, ", \"new_tokens\": %d, \"repeat\": %d, \"temperature\": %g, \"top_k\": %d, \"top_p\": %g",
                      (int)config->new_tokens, (int)config->repeat, config->temperature, (int)config->top_k,
                      config->top_p);
    string_builder_append_text(out, ", \"prefill\": [");
    for (int32_t i = 0; i < report->n_prefill; ++i) {
        if (i > 0) string_builder_append_text(out, ", ");
        write_prefill(report, &report->prefill[i], out);
    }
    string_builder_append_text(out, "], \"decode\": [");
    for (int32_t i = 0; i < report->n_decode; ++i) {
        if (i > 0) string_builder_append_text(out, ", ");
        write_decode(&report->decode[i], out);
    }
    string_builder_append_text(out, "]");
    if (report->mixed.n_tokens > 0) write_mixed(report, out);
    string_builder_append_text(out, "}\n");
}

static bool print_json(const struct bench_report *report, FILE *stream, struct error *err) {
    struct string_builder out = {0};
    write_json(report, &out);
    bool ok = string_builder_check(&out, "the report", err);
    if (ok) fwrite(out.data, 1, out.length, stream);
    string_builder_finish(&out);
    return ok;
}

bool bench_report_print(const struct bench_report *report, FILE *stream, struct error *err) {
    if (report->config->output == CONFIG_OUTPUT_JSON) return print_json(report, stream, err);
    print_text(report, stream);
    return true;
}
