#include "server/sse_reader.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
static const char chunked_head[] =
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding:  Chunked\r\n\r\n";
static const char events[] = "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\n"
                             ": keep-alive\n\n"
                             "data: {\"choices\":[{\"text\":\"b\"}],\"usage\":null}\n\n"
                             "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":17}}\n\n"
                             "data: [DONE]\n\n";

/* In pieces of so many bytes. */
static void feed(struct sse_reader *reader, const char *text, size_t piece) {
    size_t length = strlen(text);
    for (size_t at = 0; at < length; at += piece) {
        sse_reader_feed(reader, text + at, length - at < piece ? length - at : piece);
    }
}

/* The events in chunks of `size` bytes, which also cut lines. */
static void chunk(char *out, size_t size) {
    size_t length = strlen(events);
    out += sprintf(out, "%s", chunked_head);
    for (size_t at = 0; at < length; at += size) {
        size_t n = length - at < size ? length - at : size;
        out += sprintf(out, "%zX;extension\r\n%.*s\r\n", n, (int)n, events + at);
    }
    sprintf(out, "0\r\n\r\n");
}

static void check(const struct sse_reader *reader) {
    assert_int_equal(reader->status, 200);
    assert_int_equal(reader->n_events, 3);
    assert_int_equal(reader->n_tokens, 17);
    assert_true(reader->done);
    assert_string_equal(reader->failure, "");
}

static void test_plain(void **state) {
    (void)state;
    char text[sizeof head + sizeof events];
    snprintf(text, sizeof text, "%s%s", head, events);
    for (size_t piece = 1; piece <= sizeof text; ++piece) {
        struct sse_reader reader = {0};
        feed(&reader, text, piece);
        check(&reader);
        assert_int_equal(reader.place, SSE_BODY);
    }
}

static void test_chunked(void **state) {
    (void)state;
    for (size_t size = 1; size <= sizeof events; size += size < 20 ? 1 : 37) {
        char text[64 + sizeof events * 24];
        chunk(text, size);
        for (size_t piece = 1; piece < 60; ++piece) {
            struct sse_reader reader = {0};
            feed(&reader, text, piece);
            check(&reader);
            assert_int_equal(reader.place, SSE_OVER);
        }
    }
}

static void test_an_error_body(void **state) {
    (void)state;
    for (size_t piece = 1; piece < 80; ++piece) {
        struct sse_reader reader = {0};
        feed(&reader, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n\r\n{\"error\":{\n \"message\":\"full\"}}",
             piece);
        assert_int_equal(reader.status, 429);
        assert_string_equal(reader.failure, "{\"error\":{\n \"message\":\"full\"}}");
        assert_false(reader.done);
    }
}

static void test_an_error_event(void **state) {
    (void)state;
    struct sse_reader reader = {0};
    feed(&reader, head, sizeof head);
    feed(&reader, "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"error\":{\"message\":\"device lost\"}}\n\n", 7);
    assert_non_null(strstr(reader.failure, "device lost"));
    assert_false(reader.done);
}

/* Longer than what is kept: the rest of the line is dropped, the next one is read. */
static void test_long_lines(void **state) {
    (void)state;
    enum { LONG = 3 * SSE_MAX_LINE };
    char *text = malloc(LONG + 1);
    assert_non_null(text);
    memset(text, 'x', LONG);
    text[LONG] = '\0';
    struct sse_reader reader = {0};
    feed(&reader, "HTTP/1.1 200 OK\r\nX: ", 100);
    feed(&reader, text, LONG);
    feed(&reader, "\r\n\r\ndata: {\"a\":\"", 100);
    feed(&reader, text, 1000);
    feed(&reader, "\"}\n\ndata: [DONE]\n\n", 100);
    assert_int_equal(reader.n_events, 1);
    assert_true(reader.done);
    reader = (struct sse_reader){0};
    feed(&reader, "HTTP/1.1 500 No\r\n\r\n", 100);
    feed(&reader, text, 100);
    assert_int_equal(strlen(reader.failure), sizeof reader.failure - 1);
    free(text);
}

static void test_not_http(void **state) {
    (void)state;
    struct sse_reader reader = {0};
    feed(&reader, "SSH-2.0-OpenSSH\r\n\r\n", 100);
    assert_int_not_equal(reader.status, 200);
    assert_false(reader.done);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),          cmocka_unit_test(test_chunked),    cmocka_unit_test(test_an_error_body),
        cmocka_unit_test(test_an_error_event), cmocka_unit_test(test_long_lines), cmocka_unit_test(test_not_http),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
