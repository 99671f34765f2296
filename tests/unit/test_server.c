/* The HTTP server in this process before a scripted engine: what a real one cannot be made to do when it should. */
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "fake_engine.h"
#include "http_client.h"
#include "server/http.h"
#include "server/routes.h"
#include "server/server.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SEQS = 2, MAX_QUEUE = 1, MAX_MODEL_LEN = 100000, MAX_BODY_BYTES = 4096 };

struct fixture {
    struct server server;
    struct engine *engine;
    struct tokenizer *tokenizer;
    struct http *http;
    const char *url;
};

static int set_up(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct error err;
    const struct engine_options options = {
        .max_seqs = MAX_SEQS, .max_queue = MAX_QUEUE, .max_model_len = MAX_MODEL_LEN};
    server_init(&fixture->server, "fake", NULL);
    const struct http_options http = {.host = "127.0.0.1",
                                      .n_threads = 2,
                                      .max_connections = 64,
                                      .max_body_bytes = MAX_BODY_BYTES,
                                      .handle = routes_handle,
                                      .user = &fixture->server};
    fixture->http = http_create(&http, &err);
    assert_non_null(fixture->http);
    fixture->url = http_url(fixture->http);
    fixture->engine = engine_create(&options, &err);
    fixture->tokenizer = tokenizer_load("", &err);
    server_ready(&fixture->server, fixture->engine, fixture->tokenizer);
    *state = fixture;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *fixture = *state;
    http_destroy(fixture->http);
    engine_destroy(fixture->engine);
    tokenizer_destroy(fixture->tokenizer);
    free(fixture);
    return 0;
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* Scripts one token for each byte of text. */
static void script_text(struct fixture *fixture, const char *text, struct fake_script script) {
    static int32_t tokens[4096];
    script.n_tokens = (int32_t)strlen(text);
    for (int32_t i = 0; i < script.n_tokens; ++i) tokens[i] = (unsigned char)text[i];
    script.tokens = tokens;
    fake_engine_script(fixture->engine, &script);
}

static int32_t n_live(struct fixture *fixture) {
    struct engine_stats stats;
    engine_stats(fixture->engine, &stats);
    return stats.n_running + stats.n_waiting;
}

/* How long until as many requests live in the engine, in ms. */
static int wait_for_live(struct fixture *fixture, int32_t n) {
    for (int ms = 0; ms < 5000; ++ms) {
        if (n_live(fixture) == n) return ms;
        sleep_ms(1);
    }
    fail_msg("%d requests live, expected %d", (int)n_live(fixture), (int)n);
    return -1;
}

static void assert_holds(const char *text, const char *part) {
    if (text == NULL || strstr(text, part) == NULL) fail_msg("expected to find\n%s\nin\n%s", part, text);
}

static void expect(struct http_answer answer, int status, const char *part) {
    if (answer.status != status) fail_msg("status %d, expected %d: %s", answer.status, status, answer.body);
    assert_true(answer.complete);
    assert_holds(answer.body, part);
    http_answer_finish(&answer);
}

static void test_completion(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "a \"quoted\"\n\xF0\x9F\x9A\x80", (struct fake_script){0});
    struct http_answer answer = http_call(fixture->url, "/v1/completions", "{\"model\": \"fake\", \"prompt\": \"Hi\"}");
    assert_int_equal(answer.status, 200);
    assert_holds(answer.head, "Content-Type: application/json");
    assert_holds(answer.body, "{\"id\":\"cmpl-");
    assert_holds(answer.body, "\"object\":\"text_completion\",\"created\":");
    assert_holds(
        answer.body,
        "\"choices\":[{\"index\":0,\"text\":\"a \\\"quoted\\\"\\n\xF0\x9F\x9A\x80\",\"logprobs\":null,"
        "\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":15,"
        "\"total_tokens\":17,\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    http_answer_finish(&answer);
}

static void test_defaults_and_parameters_reach_the_engine(void **state) {
    struct fixture *fixture = *state;
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\"}"), 200, "\"finish_reason\":\"stop\"");
    struct engine_request last = fake_engine_last(fixture->engine);
    assert_float_equal(last.sampling.temperature, 0.6f, 0);
    assert_int_equal(last.sampling.top_k, 20);
    assert_int_equal(last.max_new_tokens, 16);
    assert_false(last.ignore_eos);
    uint64_t first_seed = last.sampling.seed;
    expect(
        http_call(fixture->url, "/v1/chat/completions", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}"),
        200, "\"finish_reason\":\"stop\"");
    assert_int_equal(fake_engine_last(fixture->engine).max_new_tokens, INT32_MAX);

    expect(http_call(fixture->url, "/v1/completions",
                     "{\"prompt\": [1, 2, 3], \"temperature\": 0, \"top_p\": 0.5, \"min_p\": 0.1, \"top_k\": -1,"
                     "\"seed\": 18446744073709551615, \"max_tokens\": 7, \"ignore_eos\": true}"),
           200, "\"finish_reason\":\"length\"");
    last = fake_engine_last(fixture->engine);
    assert_int_equal(last.n_prompt, 3);
    assert_float_equal(last.sampling.temperature, 0, 0);
    assert_float_equal(last.sampling.top_p, 0.5f, 0);
    assert_float_equal(last.sampling.min_p, 0.1f, 0);
    assert_int_equal(last.sampling.top_k, 0);
    assert_true(last.sampling.seed == UINT64_MAX && first_seed != UINT64_MAX);
    assert_int_equal(last.max_new_tokens, 7);
    assert_true(last.ignore_eos);
    assert_int_equal(last.adjustments.n_biases, 0);

    expect(http_call(fixture->url, "/v1/completions",
                     "{\"prompt\": [1, 2, 3], \"presence_penalty\": 1, \"frequency_penalty\": 0.5,"
                     "\"repetition_penalty\": 1.5, \"logit_bias\": {\"5\": 2}, \"min_tokens\": 3,"
                     "\"stop_token_ids\": [9, 8], \"priority\": 4, \"timeout_ms\": 60000}"),
           200, "\"finish_reason\":\"stop\"");
    last = fake_engine_last(fixture->engine); // its arrays are gone with the request
    assert_float_equal(last.adjustments.presence_penalty, 1, 0);
    assert_float_equal(last.adjustments.frequency_penalty, 0.5f, 0);
    assert_float_equal(last.adjustments.repetition_penalty, 1.5f, 0);
    assert_int_equal(last.adjustments.n_biases, 1);
    assert_int_equal(last.min_new_tokens, 3);
    assert_int_equal(last.n_stop_tokens, 2);
    assert_int_equal(last.priority, 4);
    assert_int_equal(last.timeout_ms, 60000);
}

/* The whole stream, byte for byte but for id and time. */
static void test_stream(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "\xF0\x9F\x9A\x80!", (struct fake_script){.pace_ms = 20});
    struct http_answer answer =
        http_call(fixture->url, "/v1/completions",
                  "{\"prompt\": \"Hi\", \"stream\": true, \"stream_options\": {\"include_usage\": true}}");
    assert_int_equal(answer.status, 200);
    assert_true(answer.complete);
    assert_holds(answer.head, "Content-Type: text/event-stream");
    assert_holds(answer.head, "Cache-Control: no-cache");
    // The head of each chunk is the same; what stays is what the stream says.
    char said[4096] = "", head[512];
    const char *choices = strstr(answer.body, "[{\"index\"");
    snprintf(head, sizeof head, "%.*s", (int)(choices - answer.body), answer.body);
    assert_holds(head, "\"object\":\"text_completion\"");
    for (const char *at = answer.body; *at != '\0';) {
        bool is_head = strncmp(at, head, strlen(head)) == 0;
        if (is_head)
            strcat(said, "#");
        else
            strncat(said, at, 1);
        at += is_head ? strlen(head) : 1;
    }
    assert_string_equal(
        said,
        "#[{\"index\":0,\"text\":\"\xF0\x9F\x9A\x80\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"
        "#[{\"index\":0,\"text\":\"!\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"
        "#[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":"
        "null}\n\n"
        "#[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":5,\"total_tokens\":7,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n"
        "data: [DONE]\n\n");
    http_answer_finish(&answer);
}

#define TOP(text, bytes, logprob) "{\"token\":\"" text "\",\"logprob\":" logprob ",\"bytes\":[" bytes "]}"

static void test_chat_logprobs(void **state) {
    struct fixture *fixture = *state;
    int32_t tokens[] = {'a', 0xC3, 0xA9, 256}; // the two bytes of one character, and the end token
    fake_engine_script(fixture->engine, &(struct fake_script){.tokens = tokens, .n_tokens = 4});
    const char *body = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"logprobs\": true,"
                       "\"top_logprobs\": 2}";
    struct http_answer answer = http_call(fixture->url, "/v1/chat/completions", body);
    assert_holds(
        answer.body,
        "\"logprobs\":{\"content\":["
        "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":[" TOP("a", "97", "-0.25") "," TOP(
            "b", "98", "-0.5") "]},"
                               "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195],\"top_logprobs\":[");
    assert_holds(answer.body, "{\"token\":\"<|im_end|>\",\"logprob\":-0.5,"
                              "\"bytes\":[60,124,105,109,95,101,110,100,124,62],\"top_logprobs\":[");
    assert_holds(answer.body, "],\"refusal\":null},\"finish_reason\":\"stop\",\"stop_reason\":null}");
    http_answer_finish(&answer);
    body = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"logprobs\": true}";
    expect(http_call(fixture->url, "/v1/chat/completions", body), 200,
           "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":[]},");
    assert_int_equal(fake_engine_last(fixture->engine).n_scores, 1);
}

/* Half a character and its scores come with the other half; those of the end token with the last chunk. */
static void test_streamed_logprobs(void **state) {
    struct fixture *fixture = *state;
    int32_t tokens[] = {'a', 0xC3, 0xA9, 256};
    fake_engine_script(fixture->engine, &(struct fake_script){.tokens = tokens, .n_tokens = 4, .pace_ms = 20});
    struct http_answer answer =
        http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\", \"logprobs\": 1, \"stream\": true}");
    assert_holds(answer.body, "\"text\":\"a\",\"logprobs\":{\"text_offset\":[0],\"token_logprobs\":[-0.5],"
                              "\"tokens\":[\"a\"],\"top_logprobs\":[{\"a\":-0.25}]},\"finish_reason\":null}");
    // The token is among the likeliest: its object has one member. Two that look alike have one.
    assert_holds(answer.body,
                 "\"text\":\"\xC3\xA9\",\"logprobs\":{\"text_offset\":[1,2],\"token_logprobs\":[-0.5,-0.5],"
                 "\"tokens\":[\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\"],"
                 "\"top_logprobs\":[{\"\xEF\xBF\xBD\":-0.25},{\"\xEF\xBF\xBD\":-0.25}]}");
    assert_holds(answer.body, "\"text\":\"\",\"logprobs\":{\"text_offset\":[3],\"token_logprobs\":[-0.5],"
                              "\"tokens\":[\"<|im_end|>\"],\"top_logprobs\":[{\"<|im_end|>\":-0.25}]},"
                              "\"finish_reason\":\"stop\",\"stop_reason\":null}");
    http_answer_finish(&answer);
}

/* The ids of every token, with the text they belong to or the next that comes. */
static void test_token_ids(void **state) {
    struct fixture *fixture = *state;
    int32_t tokens[] = {'a', 0xC3, 0xA9, 256};
    fake_engine_script(fixture->engine, &(struct fake_script){.tokens = tokens, .n_tokens = 4, .pace_ms = 20});
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\", \"return_token_ids\": true}"), 200,
           "\"finish_reason\":\"stop\",\"stop_reason\":null,\"prompt_token_ids\":[72,105],\"token_ids\":[97,195,169,"
           "256]}],\"usage\"");
    struct http_answer answer = http_call(
        fixture->url, "/v1/chat/completions",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"return_token_ids\": true, \"stream\": true,"
        "\"stream_options\": {\"include_usage\": true, \"continuous_usage_stats\": true}}");
    assert_holds(answer.body, "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":[60,");
    assert_holds(answer.body, "\"content\":\"a\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[97]}],"
                              "\"usage\":{\"prompt_tokens\":");
    assert_holds(answer.body, "\"finish_reason\":null,\"token_ids\":[195,169]}],");
    assert_holds(
        answer.body,
        "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":[256]}],");
    assert_holds(answer.body, ",\"completion_tokens\":4,");
    http_answer_finish(&answer);
}

/* No stop string before the third token; then it may stay. */
static void test_stop_string_after_min_tokens(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "abcabc", (struct fake_script){0});
    expect(http_call(fixture->url, "/v1/completions",
                     "{\"prompt\": \"Hi\", \"stop\": \"b\", \"min_tokens\": 2, \"max_tokens\": 9}"),
           200, "\"text\":\"abca\",");
    expect(http_call(fixture->url, "/v1/completions",
                     "{\"prompt\": \"Hi\", \"stop\": \"bc\", \"include_stop_str_in_output\": true}"),
           200, "\"text\":\"abc\",");
    script_text(fixture, "abcabc", (struct fake_script){0});
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\", \"stop_token_ids\": [99]}"), 200,
           "\"text\":\"abab\","); // the double does not stop there; what stops has no text
}

static void test_stop_string_ends_the_request(void **state) {
    struct fixture *fixture = *state;
    for (int stream = 0; stream < 2; ++stream) {
        script_text(fixture, "one, two, three, ", (struct fake_script){.pace_ms = 1, .endless = true});
        const char *body =
            stream ? "{\"max_tokens\": 30000, \"prompt\": \"Hi\", \"stop\": [\"xyz\", \", three\"], \"stream\": true}"
                   : "{\"max_tokens\": 30000, \"prompt\": \"Hi\", \"stop\": [\"xyz\", \", three\"]}";
        struct http_answer answer = http_call(fixture->url, "/v1/completions", body);
        assert_holds(answer.body, "\"finish_reason\":\"stop\",\"stop_reason\":\", three\"");
        if (!stream) {
            assert_holds(answer.body, "\"text\":\"one, two\",");
            assert_holds(answer.body, "\"completion_tokens\":15,"); // to the end of ", three"
        }
        const char *said = strstr(answer.body, "hree"); // but for the reason
        assert_true(said != NULL && strstr(said + 1, "hree") == NULL);
        http_answer_finish(&answer);
        wait_for_live(fixture, 0);
    }
    expect(http_call(fixture->url, "/metrics", NULL), 200, "{model_name=\"fake\",finished_reason=\"stop\"} 2\n");
}

static void test_busy(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "x", (struct fake_script){.pace_ms = 10, .endless = true});
    int fds[MAX_SEQS + MAX_QUEUE];
    for (int i = 0; i < MAX_SEQS + MAX_QUEUE; ++i) {
        fds[i] = http_connect(fixture->url);
        http_send_post(fds[i], "/v1/completions", "{\"max_tokens\": 30000, \"prompt\": \"Hi\"}");
        wait_for_live(fixture, i + 1);
    }
    struct http_answer answer =
        http_call(fixture->url, "/v1/completions", "{\"max_tokens\": 30000, \"prompt\": \"Hi\", \"stream\": true}");
    assert_holds(answer.head, "Retry-After: 1");
    expect(answer, 429, "\"code\":\"rate_limit_exceeded\"");
    for (int i = 0; i < MAX_SEQS + MAX_QUEUE; ++i) close(fds[i]);
    wait_for_live(fixture, 0);

    // Of several prompts all are taken or none.
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": [\"a\", \"b\", \"c\", \"d\"]}"), 429, "");
    assert_true(wait_for_live(fixture, 0) <= 100);
}

static void test_failure_before_and_after_the_first_byte(void **state) {
    struct fixture *fixture = *state;
    struct error failure = {.code = ERR_NUMERIC, .message = "a logit was not finite"};
    script_text(fixture, "", (struct fake_script){.error = failure});
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\"}"), 500, "a logit was not finite");
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\", \"stream\": true}"), 500,
           "\"code\":\"not_finite\"");
    script_text(fixture, "ab", (struct fake_script){.error = failure, .pace_ms = 20});
    expect(http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\"}"), 500, "a logit was not finite");
    struct http_answer answer = http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\", \"stream\": true}");
    assert_holds(answer.body, "\"text\":\"a\"");
    assert_null(strstr(answer.body, "[DONE]"));
    expect(answer, 200, "data: {\"error\":{\"message\":\"a logit was not finite\",\"type\":\"server_error\",");
}

static void test_quiet_stream_gets_a_comment(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "ab", (struct fake_script){.first_ms = 100, .pace_ms = 5500});
    int fd = http_connect(fixture->url);
    http_send_post(fd, "/v1/completions", "{\"prompt\": \"Hi\", \"stream\": true}");
    assert_true(http_receive_until(fd, "\"text\":\"a\""));
    int64_t began = engine_now_ns();
    assert_true(http_receive_until(fd, ": keep-alive\n\n"));
    double seconds = (double)(engine_now_ns() - began) / 1e9;
    assert_true(seconds > 4.8 && seconds < 5.4);
    assert_true(http_receive_until(fd, "[DONE]"));
    close(fd);
}

/* All four: streaming or not, running or queued. */
static void test_client_that_leaves(void **state) {
    struct fixture *fixture = *state;
    for (int kind = 0; kind < 4; ++kind) {
        bool stream = kind & 1, queued = kind & 2;
        script_text(fixture, "x", (struct fake_script){.pace_ms = 5, .endless = true});
        int blockers[MAX_SEQS];
        int32_t n_before = queued ? MAX_SEQS : 0;
        for (int i = 0; i < n_before; ++i) {
            blockers[i] = http_connect(fixture->url);
            http_send_post(blockers[i], "/v1/completions", "{\"max_tokens\": 30000, \"prompt\": \"Hi\"}");
        }
        wait_for_live(fixture, n_before);
        int fd = http_connect(fixture->url);
        http_send_post(fd, "/v1/completions",
                       stream ? "{\"max_tokens\": 30000, \"prompt\": \"Hi\", \"stream\": true}"
                              : "{\"max_tokens\": 30000, \"prompt\": \"Hi\"}");
        wait_for_live(fixture, n_before + 1);
        sleep_ms(30);
        close(fd);
        int ms = wait_for_live(fixture, n_before);
        if (ms > 100) fail_msg("kind %d was let go only after %d ms", kind, ms);
        for (int i = 0; i < n_before; ++i) close(blockers[i]);
        wait_for_live(fixture, 0);
    }
}

/* The engine never waits for a reader, and the reader gets all. */
static void test_slow_reader(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "abcdefgh", (struct fake_script){.endless = true});
    int fd = http_connect(fixture->url);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){16 << 10}, sizeof(int));
    http_send_post(fd, "/v1/completions", "{\"prompt\": \"Hi\", \"stream\": true, \"max_tokens\": 30000}");
    wait_for_live(fixture, 1);
    for (int ms = 0; n_live(fixture) > 0 && ms < 20000; ++ms) sleep_ms(1);
    assert_int_equal(n_live(fixture), 0);
    // 30,000 events are some 5.5 MB, more than the 4 MiB that a socket takes: the stream has stood still by now.
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4 << 20}, sizeof(int));
    struct http_answer answer = http_receive(fd);
    assert_true(answer.complete);
    assert_holds(answer.body, "data: [DONE]\n\n");
    size_t n_letters = 0;
    for (const char *at = answer.body; (at = strstr(at, "\"text\":\"")) != NULL;) {
        at += 8;
        n_letters += strcspn(at, "\"");
    }
    assert_int_equal(n_letters, 30000);
    http_answer_finish(&answer);
    close(fd);
}

static void test_body_limits(void **state) {
    struct fixture *fixture = *state;
    char *large = malloc(MAX_BODY_BYTES + 2);
    memset(large, ' ', MAX_BODY_BYTES + 1);
    large[MAX_BODY_BYTES + 1] = '\0';
    expect(http_call(fixture->url, "/v1/completions", large), 413, "4096 bytes");
    memcpy(large, "{\"prompt\": \"Hi\"}", 16);
    large[MAX_BODY_BYTES] = '\0';
    expect(http_call(fixture->url, "/v1/completions", large), 200, "text_completion");
    free(large);

    int fd = http_connect(fixture->url); // announced, and not even sent
    http_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000000\r\n\r\n");
    expect(http_receive(fd), 413, "request_too_large");
    close(fd);
    fd = http_connect(fixture->url); // never announced
    http_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 1000; ++i) http_send(fd, "8\r\n        \r\n");
    http_send(fd, "0\r\n\r\n");
    expect(http_receive(fd), 413, "request_too_large");
    close(fd);
}

static void test_one_connection_serves_many(void **state) {
    struct fixture *fixture = *state;
    int fd = http_connect(fixture->url);
    for (int i = 0; i < 20; ++i) {
        http_send_post(fd, "/v1/completions",
                       i % 2 ? "{\"prompt\": \"Hi\", \"stream\": true}" : "{\"prompt\": \"Hi\"}");
        expect(http_receive(fd), 200, "text_completion");
    }
    close(fd);
}

static void test_closing_ends_what_runs(void **state) {
    struct fixture *fixture = *state;
    script_text(fixture, "x", (struct fake_script){.pace_ms = 5, .endless = true});
    int stream = http_connect(fixture->url), whole = http_connect(fixture->url);
    http_send_post(stream, "/v1/completions", "{\"max_tokens\": 30000, \"prompt\": \"Hi\", \"stream\": true}");
    http_send_post(whole, "/v1/completions", "{\"max_tokens\": 30000, \"prompt\": \"Hi\"}");
    wait_for_live(fixture, 2);
    assert_true(http_receive_until(stream, "\"text\":\"x\""));
    atomic_store(&fixture->server.state, SERVER_STOPPING);
    http_stop_accepting(fixture->http);
    assert_int_equal(http_connect(fixture->url), -1);
    assert_false(http_wait_idle(fixture->http, 50));
    http_close_requests(fixture->http);
    assert_true(http_wait_idle(fixture->http, 1000));
    assert_true(http_receive_until(stream, "data: {\"error\":{\"message\":\"the server is stopping\""));
    expect(http_receive(whole), 503, "the server is stopping");
    wait_for_live(fixture, 0);
    close(stream);
    close(whole);
}

static void test_loading(void **state) {
    struct fixture *fixture = *state;
    atomic_store(&fixture->server.state, SERVER_LOADING);
    expect(http_call(fixture->url, "/health", NULL), 503, "\"status\":\"loading\"");
    struct http_answer answer = http_call(fixture->url, "/v1/completions", "{\"prompt\": \"Hi\"}");
    assert_holds(answer.head, "Retry-After: ");
    expect(answer, 503, "still loading");
    atomic_store(&fixture->server.state, SERVER_READY);
    expect(http_call(fixture->url, "/health", NULL), 200, "\"status\":\"ok\"");
}

#define SERVER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVER_TEST(test_completion),
        SERVER_TEST(test_defaults_and_parameters_reach_the_engine),
        SERVER_TEST(test_stream),
        SERVER_TEST(test_chat_logprobs),
        SERVER_TEST(test_streamed_logprobs),
        SERVER_TEST(test_token_ids),
        SERVER_TEST(test_stop_string_after_min_tokens),
        SERVER_TEST(test_stop_string_ends_the_request),
        SERVER_TEST(test_busy),
        SERVER_TEST(test_failure_before_and_after_the_first_byte),
        SERVER_TEST(test_quiet_stream_gets_a_comment),
        SERVER_TEST(test_client_that_leaves),
        SERVER_TEST(test_slow_reader),
        SERVER_TEST(test_body_limits),
        SERVER_TEST(test_one_connection_serves_many),
        SERVER_TEST(test_closing_ends_what_runs),
        SERVER_TEST(test_loading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
