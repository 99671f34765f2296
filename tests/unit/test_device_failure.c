/* A rank fails under a running server: clients are told, /health says so, and the process ends with a status that is
 * not 0. The server is a process of its own on the hash backend. */
#include "config/config.h"
#include "engine/log.h"
#include "server/serve.h"
#include "server/signals.h"
#include "tests/test.h"
#include "tests/unit/hash_backend.h"
#include "tests/unit/http_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    pid_t pid;
    FILE *log;
    char url[64];
};

/* Never returns. */
static void run_server(int log_fd, int32_t fail_rank, int32_t fail_rank_at) {
    char *arguments[] = {"quern",
                         "serve",
                         "--port",
                         "0",
                         "--model",
                         "tests/fixtures/hash-model",
                         "--tokenizer",
                         "models/demo",
                         "--load-format",
                         "dummy",
                         "--tensor-parallel-size",
                         "2"};
    struct config config;
    struct error err = {0};
    FILE *stream = fdopen(log_fd, "w");
    setvbuf(stream, NULL, _IOLBF, 0);
    struct log *log = log_create(stream, LOG_INFO, LOG_TEXT);
    bool ok = config_parse(&config, (int)(sizeof arguments / sizeof *arguments), arguments, &err);
    struct signals *signals = ok ? signals_create(false, &err) : NULL;
    const struct hash_faults faults = {.fail_rank = fail_rank, .fail_rank_at = fail_rank_at, .step_us = 2000};
    const struct serve_options options = {
        .config = &config, .ops = hash_backend(&faults), .signals = signals, .log = log};
    ok = signals != NULL && serve(&options, &err);
    if (!ok) log_message(log, LOG_ERROR, "%s", err.message);
    signals_destroy(signals);
    config_finish(&config);
    log_destroy(log);
    fclose(stream);
    exit(ok ? 0 : 1);
}

/* Reads the log up to a line that holds text. */
static bool read_log(struct child *child, const char *text, char *line, size_t size) {
    while (fgets(line, (int)size, child->log)) {
        if (strstr(line, text)) return true;
    }
    return false;
}

static struct child start_server(int32_t fail_rank, int32_t fail_rank_at) {
    int ends[2];
    char line[1024];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    struct child child = {.pid = fork()};
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        close(ends[0]);
        run_server(ends[1], fail_rank, fail_rank_at);
    }
    close(ends[1]);
    child.log = fdopen(ends[0], "r");
    if (!read_log(&child, "listening on ", line, sizeof line)) fail_msg("the server did not listen");
    sscanf(strstr(line, "listening on "), "listening on %63[^,]", child.url);
    return child;
}

static int wait_for_end(struct child *child) {
    int status;
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    fclose(child->log);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(struct http_answer answer, int status, const char *text) {
    assert_int_equal(answer.status, status);
    if (!strstr(answer.body, text)) fail_msg("no \"%s\" in: %s", text, answer.body);
    http_answer_finish(&answer);
}

static const char request[] = "{\"prompt\":[1,2,3],\"max_tokens\":200,\"ignore_eos\":true,\"temperature\":0}";

static void a_failed_rank_ends_the_process(void **state) {
    (void)state;
    char line[1024];
    struct child child = start_server(1, 40);
    assert_true(read_log(&child, "ready: ", line, sizeof line));
    expect(http_call(child.url, "/health", NULL), 200, "\"status\":\"ok\"");
    struct http_answer answer = http_call(child.url, "/v1/completions", request);
    assert_true(answer.status >= 500);
    if (!strstr(answer.body, "rank 1: the hash device broke")) fail_msg("%s", answer.body);
    http_answer_finish(&answer);
    expect(http_call(child.url, "/health", NULL), 503, "\"status\":\"failed\"");
    expect(http_call(child.url, "/v1/completions", request), 503, "the device has failed: rank 1");
    assert_int_equal(wait_for_end(&child), 1);
}

static void a_rank_that_fails_at_the_start_ends_it(void **state) {
    (void)state;
    char line[1024];
    struct child child = start_server(1, 1);
    assert_true(read_log(&child, "rank 1: the hash device broke", line, sizeof line));
    assert_int_equal(wait_for_end(&child), 1);
}

/* SIGTERM in the seconds in which /health tells of the failure. */
static void a_signal_ends_a_failed_server_at_once(void **state) {
    (void)state;
    char line[1024];
    struct child child = start_server(0, 40);
    assert_true(read_log(&child, "ready: ", line, sizeof line));
    http_answer_finish(&(struct http_answer[]){http_call(child.url, "/v1/completions", request)}[0]);
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for_end(&child), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_rank_ends_the_process),
        cmocka_unit_test(a_rank_that_fails_at_the_start_ends_it),
        cmocka_unit_test(a_signal_ends_a_failed_server_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
