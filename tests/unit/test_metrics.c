#include "engine/engine.h"
#include "server/metrics.h"
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

static void assert_line(const char *text, const char *line) {
    const char *at = strstr(text, line);
    if (at == NULL || (at != text && at[-1] != '\n')) fail_msg("no line %s in\n%s", line, text);
}

static void test_text(void **state) {
    (void)state;
    struct engine_stats stats;
    engine_stats_init(&stats);
    stats.n_running = 3;
    stats.n_waiting = 2;
    stats.n_blocks = 8;
    stats.n_used_blocks = 2;
    stats.prompt_tokens = 18446744073709551615u;
    stats.finished[FINISH_STOP] = 5;
    stats.finished[FINISH_CANCELLED] = 4;
    histogram_observe(&stats.first_token, 0.0005);
    histogram_observe(&stats.first_token, 0.001); // a bound belongs to its bucket
    histogram_observe(&stats.first_token, 0.003);
    histogram_observe(&stats.first_token, 1e9);
    struct string_builder out = {0};
    const struct engine_info info = {.n_ranks = 2, .ranks = {{100, 10, 1}, {200, 20, 2}}, .interconnect = "NVLink P2P"};
    metrics_write(&stats, &info, "a \"b\"\\c", 1, &out);

    assert_line(out.data, "# TYPE vllm:num_requests_running gauge\n");
    assert_line(out.data, "vllm:num_requests_running{model_name=\"a \\\"b\\\"\\\\c\"} 3\n");
    assert_line(out.data, "vllm:num_requests_waiting{model_name=\"a \\\"b\\\"\\\\c\"} 2\n");
    assert_line(out.data, "vllm:kv_cache_usage_perc{model_name=\"a \\\"b\\\"\\\\c\"} 0.25\n");
    assert_line(out.data, "vllm:prompt_tokens_total{model_name=\"a \\\"b\\\"\\\\c\"} 18446744073709551615\n");
    assert_line(out.data, "# TYPE vllm:request_success_total counter\n");
    // One of the cancelled was ended by its stop string.
    assert_line(out.data, "vllm:request_success_total{model_name=\"a \\\"b\\\"\\\\c\",finished_reason=\"stop\"} 6\n");
    assert_line(out.data, "vllm:request_success_total{model_name=\"a \\\"b\\\"\\\\c\",finished_reason=\"abort\"} 3\n");
    const char *bucket = "vllm:time_to_first_token_seconds_bucket{model_name=\"a \\\"b\\\"\\\\c\",le=";
    char line[256];
    const char *const rows[] = {"\"0.001\"} 2\n", "\"0.005\"} 3\n", "\"80\"} 3\n", "\"+Inf\"} 4\n"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        snprintf(line, sizeof line, "%s%s", bucket, rows[i]);
        assert_line(out.data, line);
    }
    assert_line(out.data, "vllm:time_to_first_token_seconds_count{model_name=\"a \\\"b\\\"\\\\c\"} 4\n");
    assert_line(out.data, "quern:ranks{model_name=\"a \\\"b\\\"\\\\c\"} 2\n");
    assert_line(out.data, "quern:interconnect_info{model_name=\"a \\\"b\\\"\\\\c\",interconnect=\"NVLink P2P\"} 1\n");
    assert_line(out.data, "quern:weights_bytes{model_name=\"a \\\"b\\\"\\\\c\",rank=\"1\"} 200\n");
    assert_line(out.data, "quern:scratch_bytes{model_name=\"a \\\"b\\\"\\\\c\",rank=\"0\"} 10\n");
    assert_line(out.data, "quern:kv_bytes{model_name=\"a \\\"b\\\"\\\\c\",rank=\"1\"} 2\n");
    string_builder_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
