#include "server/http.h"

#include "engine/engine.h"
#include "server/cors.h"
#include "server/http_listen.h"
#include "server/http_watch.h"

#include <assert.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    IDLE_TIMEOUT_S = 120,           // an open connection on which nothing moves
    STREAM_BLOCK_BYTES = 16 * 1024, // asked of `read` at once
    MAX_DISCARDED_BYTES = 64 << 20, // of a body that is too large, so that its sender gets to read why
};

static const char REQUEST_ID[] = "X-Request-Id", ANTHROPIC_ID[] = "request-id"; // the same, where its SDK looks

struct http {
    struct http_options options;
    char url[320];
    struct http_watcher *watcher; // owned
    struct MHD_Daemon *daemon;    // owned
    int quiesced;                 // listening socket after http_stop_accepting, -1
    const char *unix_path;        // borrowed; to remove; NULL: none
    _Atomic bool stopping;
    _Atomic bool closing;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct http_request *first; // in flight
    _Atomic bool started;
    char complaint[256]; // ": " and the first of libmicrohttpd until started, or ""
};

struct http_request {
    struct http *http;
    struct MHD_Connection *connection; // borrowed
    const char *method;                // borrowed from the connection, as path
    const char *path;
    char id[HTTP_MAX_REQUEST_ID + 1];
    struct string_builder body;
    size_t n_discarded; // body bytes beyond the limit
    bool handled;

    struct MHD_Response *response; // owned until queued
    unsigned status;
    bool streams;

    const struct http_deferred *deferred; // NULL: not deferred
    void *state;
    struct http_watch watch;

    pthread_mutex_t lock; // guards the three below
    bool suspended;
    bool woken; // since the last look
    bool gone;  // the client left

    struct http_request *next; // in flight, under http->lock
    struct http_request *previous;
};

/* --- waiting --- */

/* A wake between the look at the state and the suspension is remembered, so that none is lost. */
static bool suspend_unless_woken(struct http_request *request) {
    pthread_mutex_lock(&request->lock);
    bool suspend = !request->woken;
    request->woken = false;
    request->suspended = suspend;
    if (suspend) MHD_suspend_connection(request->connection);
    pthread_mutex_unlock(&request->lock);
    return suspend;
}

static void wake(struct http_request *request, bool gone) {
    pthread_mutex_lock(&request->lock);
    request->woken = !request->suspended;
    request->gone |= gone;
    if (request->suspended) MHD_resume_connection(request->connection);
    request->suspended = false;
    pthread_mutex_unlock(&request->lock);
}

void http_wake(struct http_request *request) {
    wake(request, false);
}

void http_wake_user(void *request) {
    http_wake(request);
}

static void on_gone(void *user) {
    wake(user, true);
}

static bool is_gone(struct http_request *request) {
    pthread_mutex_lock(&request->lock);
    bool gone = request->gone;
    pthread_mutex_unlock(&request->lock);
    return gone;
}

bool http_is_quiet(const struct http_request *request) {
    return engine_now_ns() - atomic_load(&request->watch.active_ns) >= HTTP_QUIET_NS;
}

bool http_defer(struct http_request *request, const struct http_deferred *deferred, void *state, struct error *err) {
    assert(request->deferred == NULL && request->response == NULL);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    request->watch = (struct http_watch){.socket = info->connect_fd,
                                         .gone = on_gone,
                                         .quiet = http_wake_user,
                                         .user = request,
                                         .active_ns = engine_now_ns()};
    if (!http_watch_add(request->http->watcher, &request->watch, err)) return false;
    request->deferred = deferred;
    request->state = state;
    return true;
}

/* --- what a handler sees of its request --- */

const char *http_method(const struct http_request *request) {
    return request->method;
}

const char *http_path(const struct http_request *request) {
    return request->path;
}

const char *http_request_id(const struct http_request *request) {
    return request->id;
}

const char *http_header(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *http_query(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

static const char *allowed_origin(const struct http_request *request) {
    const char *list = request->http->options.cors_origins;
    return list != NULL ? cors_allow(list, http_header(request, MHD_HTTP_HEADER_ORIGIN)) : NULL;
}

bool http_origin_allowed(const struct http_request *request) {
    return http_header(request, MHD_HTTP_HEADER_ORIGIN) != NULL && allowed_origin(request) != NULL;
}

bool http_closing(const struct http_request *request) {
    return atomic_load(&request->http->closing);
}

const char *http_body(const struct http_request *request, size_t *length, struct error *err) {
    if (request->body.failure == ERR_TOO_LARGE || request->n_discarded > 0) {
        fail(err, ERR_TOO_LARGE, "the request body is larger than the limit of %zu bytes (--max-body-bytes)",
             request->http->options.max_body_bytes);
        return NULL;
    }
    if (!string_builder_check(&request->body, "the request body", err)) return NULL;
    *length = request->body.length;
    return *length > 0 ? request->body.data : "";
}

static bool is_request_id(const char *id) {
    size_t length = 0;
    for (; id[length] > ' ' && id[length] <= '~'; ++length) continue;
    return id[length] == '\0' && length > 0 && length <= HTTP_MAX_REQUEST_ID;
}

static void choose_id(struct http_request *request) {
    const char *given = http_header(request, REQUEST_ID);
    uint64_t random[2];
    if (given != NULL && is_request_id(given))
        snprintf(request->id, sizeof request->id, "%s", given);
    else if (getrandom(random, sizeof random, 0) == (ssize_t)sizeof random)
        snprintf(request->id, sizeof request->id, "%016llx%016llx", (unsigned long long)random[0],
                 (unsigned long long)random[1]);
}

static void add_origin(const struct http_request *request, struct MHD_Response *made) {
    const char *list = request->http->options.cors_origins, *allowed = allowed_origin(request);
    // A cache must not give the answer for one origin to another.
    if (list != NULL && *list != '\0' && strcmp(list, "*") != 0)
        MHD_add_response_header(made, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ORIGIN);
    if (allowed == NULL) return;
    MHD_add_response_header(made, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    MHD_add_response_header(made, MHD_HTTP_HEADER_ACCESS_CONTROL_EXPOSE_HEADERS,
                            "X-Request-Id, request-id, Retry-After");
}

static void set_response(struct http_request *request, const struct http_response *response,
                         struct MHD_Response *made) {
    assert(request->response == NULL);
    if (made == NULL) return; // out of memory: the connection is closed without an answer
    if (request->id[0] != '\0') {
        MHD_add_response_header(made, REQUEST_ID, request->id);
        MHD_add_response_header(made, ANTHROPIC_ID, request->id);
    }
    add_origin(request, made);
    if (response->content_type != NULL)
        MHD_add_response_header(made, MHD_HTTP_HEADER_CONTENT_TYPE, response->content_type);
    for (int i = 0; i < HTTP_MAX_HEADERS; ++i) {
        const struct http_header *header = &response->headers[i];
        if (header->name != NULL) MHD_add_response_header(made, header->name, header->value);
    }
    if (atomic_load(&request->http->stopping)) MHD_add_response_header(made, MHD_HTTP_HEADER_CONNECTION, "close");
    request->response = made;
    request->status = (unsigned)response->status;
}

void http_respond(struct http_request *request, const struct http_response *response, struct string_builder *body) {
    struct http_response answer = *response;
    size_t length = 0;
    char *data = string_builder_take(body, &length);
    if (data == NULL) answer.status = MHD_HTTP_INTERNAL_SERVER_ERROR;
    struct MHD_Response *made =
        MHD_create_response_from_buffer(length, data, data != NULL ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (made == NULL) free(data);
    string_builder_finish(body);
    set_response(request, &answer, made);
}

static ssize_t read_stream(void *user, uint64_t position, char *buffer, size_t size) {
    struct http_request *request = user;
    (void)position;
    for (;;) {
        if (is_gone(request)) return MHD_CONTENT_READER_END_WITH_ERROR;
        ssize_t n = request->deferred->read(request->state, request, buffer, size);
        if (n == HTTP_STREAM_END) return MHD_CONTENT_READER_END_OF_STREAM;
        if (n > 0) {
            atomic_store(&request->watch.active_ns, engine_now_ns());
            return n;
        }
        if (suspend_unless_woken(request)) return 0;
    }
}

void http_respond_stream(struct http_request *request, const struct http_response *response) {
    assert(request->deferred != NULL);
    request->streams = true;
    set_response(request, response,
                 MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, request, NULL));
}

/* --- one request, as libmicrohttpd tells it --- */

static struct http_request *request_create(struct http *http, struct MHD_Connection *connection) {
    struct http_request *request = calloc(1, sizeof *request);
    if (request == NULL) return NULL;
    request->http = http;
    request->connection = connection;
    request->body.max_length = http->options.max_body_bytes;
    pthread_mutex_init(&request->lock, NULL);
    pthread_mutex_lock(&http->lock);
    request->next = http->first;
    if (request->next != NULL) request->next->previous = request;
    http->first = request;
    pthread_mutex_unlock(&http->lock);
    return request;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **closure,
                         enum MHD_RequestTerminationCode code) {
    struct http *http = user;
    struct http_request *request = *closure;
    (void)connection;
    if (request == NULL) return;
    *closure = NULL;
    pthread_mutex_lock(&http->lock);
    if (request->next != NULL) request->next->previous = request->previous;
    if (request->previous != NULL)
        request->previous->next = request->next;
    else
        http->first = request->next;
    if (http->first == NULL) pthread_cond_broadcast(&http->idle);
    pthread_mutex_unlock(&http->lock);
    if (request->deferred != NULL) {
        http_watch_remove(http->watcher, &request->watch);
        request->deferred->finish(request->state, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    }
    if (request->response != NULL) MHD_destroy_response(request->response);
    string_builder_finish(&request->body);
    pthread_mutex_destroy(&request->lock);
    free(request);
}

static void receive(struct http_request *request, const char *data, size_t size) {
    if (request->n_discarded == 0) {
        string_builder_append(&request->body, data, size);
        if (request->body.failure == ERR_NONE) return;
        free(request->body.data);
        request->body.data = NULL;
    }
    request->n_discarded += size;
}

/* A body that is announced as too large is not read when its sender waits for our word, nor when reading it to the end
 * would take long. */
static bool refuse_body(struct http_request *request) {
    const char *length = http_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (length == NULL) return false;
    unsigned long long bytes = strtoull(length, NULL, 10);
    if (bytes <= request->http->options.max_body_bytes) return false;
    if (http_header(request, MHD_HTTP_HEADER_EXPECT) == NULL && bytes <= MAX_DISCARDED_BYTES) return false;
    request->body.failure = ERR_TOO_LARGE;
    return true;
}

/* Runs the handler until there is a response to queue; NULL: suspended, or nothing could be made. */
static struct MHD_Response *respond(struct http_request *request, bool *suspended) {
    *suspended = false;
    if (!request->handled) {
        request->handled = true;
        request->http->options.handle(request, request->http->options.user);
    }
    while (request->response == NULL && request->deferred != NULL && !is_gone(request)) {
        request->deferred->advance(request->state, request);
        if (request->response == NULL && suspend_unless_woken(request)) {
            *suspended = true;
            return NULL;
        }
    }
    struct MHD_Response *response = request->response;
    request->response = NULL;
    return response;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **closure) {
    struct http_request *request = *closure;
    (void)version;
    if (request == NULL) {
        request = request_create(user, connection);
        if (request == NULL) return MHD_NO;
        *closure = request;
        request->method = method;
        request->path = url;
        choose_id(request);
        if (!refuse_body(request)) return MHD_YES;
    } else if (*size > 0) {
        receive(request, data, *size);
        *size = 0;
        return request->n_discarded <= MAX_DISCARDED_BYTES ? MHD_YES : MHD_NO;
    }
    bool suspended;
    struct MHD_Response *response = respond(request, &suspended);
    if (suspended) return MHD_YES;
    if (response == NULL) return MHD_NO;
    enum MHD_Result queued = MHD_queue_response(connection, request->status, response);
    MHD_destroy_response(response); // the connection holds its own reference
    return queued;
}

static void on_log(void *user, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
static void on_log(void *user, const char *format, va_list arguments) {
    struct http *http = user;
    char line[512];
    int length = vsnprintf(line, sizeof line, format, arguments);
    length = length < (int)sizeof line ? length : (int)sizeof line - 1;
    while (length > 0 && line[length - 1] == '\n') line[--length] = '\0';
    if (!atomic_load(&http->started)) { // later the lock may be held by the caller
        pthread_mutex_lock(&http->lock);
        if (http->complaint[0] == '\0') snprintf(http->complaint, sizeof http->complaint, ": %.250s", line);
        pthread_mutex_unlock(&http->lock);
    }
    log_message(http->options.log, LOG_DEBUG, "libmicrohttpd: %s", line);
}

/* --- the daemon --- */

/* A path is a C string: one with a NUL in it stays as it was sent, and is none that is served. */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text) {
    (void)user, (void)connection;
    return strstr(text, "%00") != NULL ? strlen(text) : MHD_http_unescape(text);
}

static int start_listening(struct http *http, struct error *err) {
    const struct http_options *options = &http->options;
    if (options->unix_path == NULL) {
        char authority[300];
        int listener = http_listen(options->host, options->port, authority, sizeof authority, err);
        if (listener >= 0)
            snprintf(http->url, sizeof http->url, "%s://%s", options->tls_cert != NULL ? "https" : "http", authority);
        return listener;
    }
    int listener = http_listen_unix(options->unix_path, err);
    if (listener >= 0) http->unix_path = options->unix_path;
    snprintf(http->url, sizeof http->url, "unix:%s", options->unix_path);
    return listener;
}

static void remove_unix_path(struct http *http) {
    if (http->unix_path != NULL) unlink(http->unix_path);
    http->unix_path = NULL;
}

/* NULL: it could not start, and complaint may say why. */
static struct MHD_Daemon *start_daemon(struct http *http, int listener) {
    const struct http_options *options = &http->options;
    bool tls = options->tls_cert != NULL;
    const struct MHD_OptionItem end = {MHD_OPTION_END, 0, NULL};
    struct MHD_OptionItem tls_options[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (char *)options->tls_cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (char *)options->tls_key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        end,
    };
    if (!tls) tls_options[0] = end;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    // libmicrohttpd calls one thread no pool.
    unsigned pool = options->n_threads > 1 ? (unsigned)options->n_threads : 0;
    return MHD_start_daemon(tls ? flags | MHD_USE_TLS : flags, 0, NULL, NULL, on_request, http,
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, http, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
                            MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->max_connections,
                            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S, MHD_OPTION_THREAD_POOL_SIZE, pool,
                            MHD_OPTION_ARRAY, tls_options, MHD_OPTION_END);
}

static void fail_to_start(const struct http *http, struct error *err) {
    const struct http_options *options = &http->options;
    if (options->tls_cert != NULL)
        fail_param(err, ERR_INVALID, "tls-cert", "TLS cannot start with what --tls-cert and --tls-key name%s",
                   http->complaint);
    else
        fail(err, ERR_IO, "libmicrohttpd cannot start with %d threads and %d connections%s", (int)options->n_threads,
             (int)options->max_connections, http->complaint);
}

struct http *http_create(const struct http_options *options, struct error *err) {
    struct http *http = calloc(1, sizeof *http);
    if (http == NULL) {
        fail(err, ERR_MEMORY, "no memory for the HTTP server");
        return NULL;
    }
    http->options = *options;
    http->quiesced = -1;
    pthread_mutex_init(&http->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&http->idle, &clock);
    pthread_condattr_destroy(&clock);

    http->watcher = http_watcher_create(HTTP_QUIET_NS, err);
    int listener = http->watcher != NULL ? start_listening(http, err) : -1;
    if (listener < 0) {
        http_destroy(http);
        return NULL;
    }
    http->daemon = start_daemon(http, listener);
    if (http->daemon == NULL) {
        fail_to_start(http, err);
        close(listener);
        http_destroy(http);
        return NULL;
    }
    atomic_store(&http->started, true);
    return http;
}

const char *http_url(const struct http *http) {
    return http->url;
}

void http_stop_accepting(struct http *http) {
    atomic_store(&http->stopping, true);
    if (http->quiesced >= 0) return;
    remove_unix_path(http); // while it is ours: once nobody listens, another server may take its place
    http->quiesced = MHD_quiesce_daemon(http->daemon);
    // Closed only after the daemon's threads have ended; until then the kernel would go on queueing connections.
    if (http->quiesced >= 0) shutdown(http->quiesced, SHUT_RDWR);
}

void http_close_requests(struct http *http) {
    atomic_store(&http->closing, true);
    pthread_mutex_lock(&http->lock);
    for (struct http_request *request = http->first; request != NULL; request = request->next) http_wake(request);
    pthread_mutex_unlock(&http->lock);
}

bool http_wait_idle(struct http *http, int32_t timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec += 1;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&http->lock);
    int code = 0;
    while (http->first != NULL && code == 0) code = pthread_cond_timedwait(&http->idle, &http->lock, &until);
    bool idle = http->first == NULL;
    pthread_mutex_unlock(&http->lock);
    return idle;
}

void http_destroy(struct http *http) {
    if (http == NULL) return;
    if (http->daemon != NULL) {
        http_stop_accepting(http);
        http_close_requests(http);
        http_wait_idle(http, 1000); // a client that does not read cannot hold the end up
        MHD_stop_daemon(http->daemon);
        if (http->quiesced >= 0) close(http->quiesced);
    }
    remove_unix_path(http);
    http_watcher_destroy(http->watcher);
    pthread_cond_destroy(&http->idle);
    pthread_mutex_destroy(&http->lock);
    free(http);
}
