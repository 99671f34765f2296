#include "engine/log.h"
#include "tests/test.h"

#include <math.h>
#include <pthread.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cJSON.h>

struct capture {
    FILE *stream;
    struct log *log;
    char text[65536];
};

static void capture_open(struct capture *capture, enum log_level level, enum log_format format) {
    capture->stream = tmpfile();
    assert_non_null(capture->stream);
    capture->log = log_create(capture->stream, level, format);
    assert_non_null(capture->log);
}

/* Everything that was logged; the log is closed. */
static const char *capture_close(struct capture *capture) {
    log_destroy(capture->log);
    rewind(capture->stream);
    size_t length = fread(capture->text, 1, sizeof capture->text - 1, capture->stream);
    capture->text[length] = '\0';
    fclose(capture->stream);
    return capture->text;
}

static int count_lines(const char *text) {
    int n_lines = 0;
    for (; (text = strchr(text, '\n')); text++) n_lines++;
    return n_lines;
}

static void test_text_line(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_TEXT);
    log_message(capture.log, LOG_INFO, "listening on port %d", 8000);
    const char *text = capture_close(&capture);
    int year, month, day, hour, minute, second, millisecond, n_read = 0;
    assert_int_equal(sscanf(text, "%4d-%2d-%2d %2d:%2d:%2d.%3d%n", &year, &month, &day, &hour, &minute, &second,
                            &millisecond, &n_read),
                     7);
    assert_int_equal(n_read, strlen("2026-11-22 20:14:03.123"));
    assert_string_equal(text + n_read, " info  listening on port 8000\n");
}

static void test_levels_below_the_limit_are_silent(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_WARN, LOG_TEXT);
    assert_false(log_enabled(capture.log, LOG_INFO));
    assert_true(log_enabled(capture.log, LOG_WARN));
    log_message(capture.log, LOG_DEBUG, "one");
    log_event(capture.log, LOG_INFO, "two", NULL, 0);
    log_progress(capture.log, true, "three");
    log_message(capture.log, LOG_WARN, "four");
    log_message(capture.log, LOG_ERROR, "five");
    const char *text = capture_close(&capture);
    assert_int_equal(count_lines(text), 2);
    assert_non_null(strstr(text, " warn  four\n"));
    assert_non_null(strstr(text, " error five\n"));
}

static void test_no_log_logs_nothing(void **state) {
    (void)state;
    assert_false(log_enabled(NULL, LOG_ERROR));
    log_message(NULL, LOG_ERROR, "x");
    log_event(NULL, LOG_ERROR, "x", NULL, 0);
    log_progress(NULL, true, "x");
    log_destroy(NULL);
}

static const struct log_field FIELDS[] = {
    {.name = "id", .kind = LOG_FIELD_STRING, .string = "chatcmpl-1"},
    {.name = "queue_ms", .kind = LOG_FIELD_NUMBER, .number = 1.25},
    {.name = "tokens", .kind = LOG_FIELD_INTEGER, .integer = -9007199254740993},
    {.name = "reason", .kind = LOG_FIELD_STRING, .string = "a \"b\"\n\x01\\ c"},
    {.name = "rate", .kind = LOG_FIELD_NUMBER, .number = INFINITY},
    {.name = "user", .kind = LOG_FIELD_STRING, .string = ""},
};
enum { N_FIELDS = sizeof FIELDS / sizeof FIELDS[0] };

static void test_text_event(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_TEXT);
    log_event(capture.log, LOG_INFO, "request", FIELDS, N_FIELDS);
    const char *text = capture_close(&capture);
    assert_non_null(strstr(text, " info  request id=chatcmpl-1 queue_ms=1.25 tokens=-9007199254740993 "
                                 "reason=\"a \\\"b\\\"\\n\\u0001\\\\ c\" rate=null user=\"\"\n"));
}

static void test_json_event(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_JSON);
    log_event(capture.log, LOG_ERROR, "request", FIELDS, N_FIELDS);
    const char *text = capture_close(&capture);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, "\"tokens\": -9007199254740993,"));
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    assert_string_equal(cJSON_GetObjectItem(json, "level")->valuestring, "error");
    assert_string_equal(cJSON_GetObjectItem(json, "event")->valuestring, "request");
    assert_string_equal(cJSON_GetObjectItem(json, "id")->valuestring, "chatcmpl-1");
    assert_string_equal(cJSON_GetObjectItem(json, "reason")->valuestring, "a \"b\"\n\x01\\ c");
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "rate")));
    assert_true(cJSON_GetObjectItem(json, "queue_ms")->valuedouble == 1.25);
    const char *time = cJSON_GetObjectItem(json, "time")->valuestring;
    assert_int_equal(strlen(time), strlen("2026-11-22T20:14:03.123Z"));
    assert_int_equal(time[10], 'T');
    assert_int_equal(time[23], 'Z');
    cJSON_Delete(json);
}

static void test_json_message_keeps_any_text(void **state) {
    (void)state;
    char nasty[300];
    for (int i = 1; i < 128; i++) nasty[i - 1] = (char)i;
    strcpy(nasty + 127, "grüße 🚀");
    struct capture capture;
    capture_open(&capture, LOG_DEBUG, LOG_JSON);
    log_message(capture.log, LOG_DEBUG, "%s", nasty);
    const char *text = capture_close(&capture);
    assert_int_equal(count_lines(text), 1);
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    assert_string_equal(cJSON_GetObjectItem(json, "message")->valuestring, nasty);
    cJSON_Delete(json);
}

static void test_a_message_cannot_forge_a_line(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_TEXT);
    log_message(capture.log, LOG_INFO, "user said %s", "hello\n2026-11-22 00:00:00.000 error\rfire \033[2J");
    const char *text = capture_close(&capture);
    assert_int_equal(count_lines(text), 1);
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\033'));
}

static void test_long_message_is_whole(void **state) {
    (void)state;
    char *long_text = malloc(40001);
    memset(long_text, 'a', 40000);
    long_text[40000] = '\0';
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_JSON);
    log_message(capture.log, LOG_INFO, "%s", long_text);
    cJSON *json = cJSON_Parse(capture_close(&capture));
    assert_non_null(json);
    assert_string_equal(cJSON_GetObjectItem(json, "message")->valuestring, long_text);
    cJSON_Delete(json);
    free(long_text);
}

static void test_progress_elsewhere_is_at_most_one_line_a_second(void **state) {
    (void)state;
    struct capture capture;
    capture_open(&capture, LOG_INFO, LOG_TEXT);
    for (int i = 0; i < 1000; i++) log_progress(capture.log, false, "loading %d", i);
    usleep(1050 * 1000);
    for (int i = 1000; i < 2000; i++) log_progress(capture.log, false, "loading %d", i);
    log_progress(capture.log, true, "loaded");
    const char *text = capture_close(&capture);
    assert_int_equal(count_lines(text), 2);
    assert_non_null(strstr(text, " info  loading 1000\n"));
    assert_non_null(strstr(text, " info  loaded\n"));
    assert_null(strchr(text, '\r'));
}

static void test_progress_on_a_terminal_replaces_itself(void **state) {
    (void)state;
    int controller, terminal;
    assert_int_equal(openpty(&controller, &terminal, NULL, NULL, NULL), 0);
    FILE *stream = fdopen(terminal, "w");
    assert_non_null(stream);
    struct log *log = log_create(stream, LOG_INFO, LOG_TEXT);
    log_progress(log, false, "at 1");
    log_progress(log, false, "at 2");
    log_message(log, LOG_WARN, "between");
    log_progress(log, true, "at 3");
    log_destroy(log);
    char text[4096] = "";
    for (size_t length = 0; !strstr(text, "at 3\r\n");) { // the kernel hands the lines over one by one
        ssize_t n_read = read(controller, text + length, sizeof text - 1 - length);
        assert_true(n_read > 0);
        length += (size_t)n_read;
    }
    fclose(stream);
    close(controller);
    assert_int_equal(count_lines(text), 2); // the message and the end
    const char *second = strstr(text, "at 1\r\033[K");
    assert_non_null(second);
    const char *message = strstr(second, "at 2\r\033[K");
    assert_non_null(message);
    assert_non_null(strstr(message, "warn  between\r\n"));
    assert_non_null(strstr(message, "info  at 3\r\n"));
}

enum { N_THREADS = 4, LINES_PER_THREAD = 250 };

static void *log_many(void *log) {
    for (int i = 0; i < LINES_PER_THREAD; i++) {
        if (i % 2)
            log_message(log, LOG_INFO, "thread line %d", i);
        else
            log_event(log, LOG_INFO, "thread", &FIELDS[1], 1);
        log_progress(log, false, "never due");
    }
    return NULL;
}

static void test_threads_write_whole_lines(void **state) {
    (void)state;
    struct capture *capture = malloc(sizeof *capture);
    capture_open(capture, LOG_INFO, LOG_JSON);
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, log_many, capture->log), 0);
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    log_destroy(capture->log);
    rewind(capture->stream);
    char line[1024];
    int n_lines = 0;
    while (fgets(line, sizeof line, capture->stream)) {
        cJSON *json = cJSON_Parse(line);
        assert_non_null(json);
        n_lines += !strstr(line, "never due");
        cJSON_Delete(json);
    }
    fclose(capture->stream);
    free(capture);
    assert_int_equal(n_lines, N_THREADS * LINES_PER_THREAD);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_line),
        cmocka_unit_test(test_levels_below_the_limit_are_silent),
        cmocka_unit_test(test_no_log_logs_nothing),
        cmocka_unit_test(test_text_event),
        cmocka_unit_test(test_json_event),
        cmocka_unit_test(test_json_message_keeps_any_text),
        cmocka_unit_test(test_a_message_cannot_forge_a_line),
        cmocka_unit_test(test_long_message_is_whole),
        cmocka_unit_test(test_progress_elsewhere_is_at_most_one_line_a_second),
        cmocka_unit_test(test_progress_on_a_terminal_replaces_itself),
        cmocka_unit_test(test_threads_write_whole_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
