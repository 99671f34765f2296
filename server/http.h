/* HTTP itself: connections, bounded bodies, and requests that wait without holding a thread.
 *
 * `handle` is called on an HTTP thread once the body is complete (or is known to be too large) and either answers with
 * http_respond, or puts the request aside with http_defer. A deferred request is woken by http_wake from any thread;
 * each wake calls `advance` until it responds or begins a stream, then `read` until the stream ends. While there is
 * nothing to do its connection is suspended. A client that leaves ends the request at once: `finish` is always the last
 * call. Callbacks of one request never overlap. Every answer carries X-Request-Id: the client's, when that is 1 to
 * HTTP_MAX_REQUEST_ID printable characters without spaces, otherwise a new one; and what cors_origins has to say of its
 * Origin. Nothing outside http.c knows libmicrohttpd. */
#ifndef QUERN_SERVER_HTTP_H
#define QUERN_SERVER_HTTP_H

#include "engine/error.h"
#include "engine/log.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct http;
struct http_request;

/* Silence after which a deferred request is woken, and `read` may want to send a sign of life. */
#define HTTP_QUIET_NS INT64_C(5000000000)

struct http_options {
    const char *host;
    int32_t port;          // 0: any free one
    const char *unix_path; // of a Unix socket, in the place of host and port; borrowed; NULL: none
    const char *tls_cert;  // PEM, borrowed, as tls_key; NULL: without TLS
    const char *tls_key;
    int32_t n_threads;
    int32_t max_connections;
    size_t max_body_bytes;
    const char *cors_origins; // a list of server/cors.h, borrowed; NULL: none
    void (*handle)(struct http_request *request, void *user);
    void *user;
    struct log *log; // borrowed
};

struct http *http_create(const struct http_options *options, struct error *err);
/* Ends all requests, then frees. Takes NULL. */
void http_destroy(struct http *http);

/* "http://127.0.0.1:8000", with a name to connect to where host means every address; "https://…" with TLS; "unix:PATH"
 * of a Unix socket. */
const char *http_url(const struct http *http);

/* New connections are refused; open ones are served, and closed after their next answer. */
void http_stop_accepting(struct http *http);
/* From now on http_closing is true and every deferred request is woken to end. */
void http_close_requests(struct http *http);
/* Waits until no request is in flight; false when the time is over. */
bool http_wait_idle(struct http *http, int32_t timeout_ms);

/* --- one request --- */

const char *http_method(const struct http_request *request);
const char *http_path(const struct http_request *request);                     // decoded, without the query
const char *http_header(const struct http_request *request, const char *name); // NULL when absent
const char *http_query(const struct http_request *request, const char *name);  // of the query; NULL when absent
/* What its answer's X-Request-Id will say; "" when none could be made. */
const char *http_request_id(const struct http_request *request);
/* The request comes from a page of one of cors_origins. */
bool http_origin_allowed(const struct http_request *request);
/* The whole body; NULL when it was over max_body_bytes (ERR_TOO_LARGE) or memory ran out. */
const char *http_body(const struct http_request *request, size_t *length, struct error *err);
bool http_closing(const struct http_request *request);

struct http_header {
    const char *name;
    const char *value;
};

enum { HTTP_MAX_HEADERS = 5, HTTP_MAX_REQUEST_ID = 128 };

struct http_response {
    int status;
    const char *content_type;
    struct http_header headers[HTTP_MAX_HEADERS]; // name NULL: none; copied
};

/* Answers; body is taken and left empty. If an append to it failed the client gets status 500 without a body. */
void http_respond(struct http_request *request, const struct http_response *response, struct string_builder *body);

/* Answers with a stream: its bytes come from `read` of the deferred request. */
void http_respond_stream(struct http_request *request, const struct http_response *response);

enum { HTTP_STREAM_WAIT = 0, HTTP_STREAM_END = -1 };

struct http_deferred {
    void (*advance)(void *state, struct http_request *request);
    /* Writes up to size bytes to buffer and returns how many, HTTP_STREAM_WAIT or HTTP_STREAM_END. */
    ssize_t (*read)(void *state, struct http_request *request, char *buffer, size_t size);
    /* complete: all of the answer was sent. */
    void (*finish)(void *state, bool complete);
};

/* On success state belongs to the request until finish, otherwise it stays the caller's. */
bool http_defer(struct http_request *request, const struct http_deferred *deferred, void *state, struct error *err);

/* Any thread, until `finish` was called. */
void http_wake(struct http_request *request);
void http_wake_user(void *request); // the same, as a callback

/* Nothing was sent for HTTP_QUIET_NS. */
bool http_is_quiet(const struct http_request *request);

#endif
