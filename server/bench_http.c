#include "server/bench_http.h"

#include "server/json_writer.h"
#include "server/sse_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    VOCAB = 256, // the single bytes: every byte-level tokenizer begins with them
    MAX_EVENTS = 256,
    READ_BYTES = 1 << 16,
    MAX_URL = 255,
    PATIENCE_MS = 120000,
};

struct bench_http {
    struct sockaddr_storage address;
    socklen_t address_bytes;
    char host[MAX_URL + 1]; // with the port, for the Host header
};

struct connection {
    int socket;  // -1: closed
    char *bytes; // of the request, owned
    size_t length;
    size_t n_sent;
    int32_t n_new;
    struct sse_reader reader;
    int64_t first_ns, last_ns; // of events with data
};

struct client {
    int epoll;
    struct connection *connections; // [n_connections], owned
    int32_t n_connections;
    int32_t n_open;
};

/* --- the address --- */

/* Of http://host:port or http://host:port/; both point into text, which has room for url. */
static bool split(const char *url, char *text, char **host, char **port) {
    static const char scheme[] = "http://";
    if (strncmp(url, scheme, sizeof scheme - 1) != 0) return false;
    strcpy(text, url + sizeof scheme - 1);
    size_t length = strlen(text);
    if (length > 0 && text[length - 1] == '/') text[length - 1] = '\0';
    char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || strchr(text, '/') != NULL) return false;
    *colon = '\0';
    *host = text;
    *port = colon + 1;
    return true;
}

/* Keeps the first address that answers: a name such as localhost has several. */
static bool choose_address(struct bench_http *http, const struct addrinfo *found, struct error *err) {
    int reason = 0;
    for (; found != NULL; found = found->ai_next) {
        int probe = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
        bool answers = probe >= 0 && connect(probe, found->ai_addr, found->ai_addrlen) == 0;
        reason = errno;
        if (probe >= 0) close(probe);
        if (!answers) continue;
        memcpy(&http->address, found->ai_addr, found->ai_addrlen);
        http->address_bytes = found->ai_addrlen;
        return true;
    }
    return fail_param(err, ERR_IO, "url", "cannot connect to %s: %s", http->host, strerror(reason));
}

static bool resolve(struct bench_http *http, const char *url, struct error *err) {
    char text[MAX_URL + 1], *host, *port;
    if (strlen(url) > MAX_URL || !split(url, text, &host, &port)) {
        return fail_param(err, ERR_INVALID, "url", "--url %s: must be http://host:port", url);
    }
    snprintf(http->host, sizeof http->host, "%s:%s", host, port);
    if (host[0] == '[' && host[strlen(host) - 1] == ']') { // IPv6
        host[strlen(host) - 1] = '\0';
        ++host;
    }
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(host, port, &hints, &found);
    if (status != 0) return fail_param(err, ERR_INVALID, "url", "--url %s: %s", url, gai_strerror(status));
    bool ok = choose_address(http, found, err);
    freeaddrinfo(found);
    return ok;
}

struct bench_http *bench_http_create(const char *url, struct error *err) {
    struct bench_http *http = calloc(1, sizeof *http);
    if (http == NULL) {
        fail(err, ERR_MEMORY, "no memory for a client");
        return NULL;
    }
    if (resolve(http, url, err)) return http;
    free(http);
    return NULL;
}

void bench_http_destroy(struct bench_http *http) {
    free(http);
}

/* --- requests --- */

static char *write_request(const struct bench_http *http, const struct bench_run *run, const int32_t *prompt,
                           int32_t n_prompt, int32_t n_new, size_t *length) {
    struct string_builder body = {0}, request = {0};
    string_builder_append_text(&body, "{\"prompt\":[");
    for (int32_t i = 0; i < n_prompt; ++i) json_write_format(&body, i > 0 ? ",%d" : "%d", (int)prompt[i]);
    json_write_format(&body,
                      "],\"max_tokens\":%d,\"temperature\":%g,\"top_k\":%d,\"top_p\":%g,\"ignore_eos\":true,"
                      "\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
                      (int)n_new, (double)run->sampling.temperature, (int)run->sampling.top_k,
                      (double)run->sampling.top_p);
    json_write_format(&request,
                      "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                      "Connection: close\r\nContent-Length: %zu\r\n\r\n",
                      http->host, body.length);
    if (body.failure != ERR_NONE) request.failure = body.failure;
    if (body.data != NULL) string_builder_append(&request, body.data, body.length);
    string_builder_finish(&body);
    return string_builder_take(&request, length);
}

/* Lengths come from the seed; prompts from the time besides. */
static bool write_requests(struct client *client, const struct bench_http *http, const struct bench_run *run,
                           struct error *err) {
    uint64_t lengths = run->seed, tokens = run->seed ^ (uint64_t)engine_now_ns();
    int32_t *prompt = calloc((size_t)run->prompt.most, sizeof *prompt);
    bool ok = prompt != NULL;
    for (int32_t i = 0; i < run->n_requests && ok; ++i) {
        struct connection *connection = &client->connections[i];
        int32_t n_prompt = bench_draw(run->prompt, &lengths);
        connection->n_new = bench_draw(run->output, &lengths);
        bench_draw_tokens(prompt, n_prompt, VOCAB, &tokens);
        connection->bytes = write_request(http, run, prompt, n_prompt, connection->n_new, &connection->length);
        ok = connection->bytes != NULL;
    }
    free(prompt);
    return ok || fail(err, ERR_MEMORY, "no memory for %d requests", (int)run->n_requests);
}

/* --- connections --- */

static bool open_connection(struct client *client, const struct bench_http *http, struct connection *connection,
                            struct error *err) {
    connection->socket = socket(http->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->socket < 0) return fail(err, ERR_IO, "no socket: %s", strerror(errno));
    if (connect(connection->socket, (const struct sockaddr *)&http->address, http->address_bytes) != 0) {
        return fail(err, ERR_IO, "cannot connect to %s: %s", http->host, strerror(errno));
    }
    int on = 1;
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data = {.ptr = connection}};
    if (fcntl(connection->socket, F_SETFL, O_NONBLOCK) != 0 ||
        epoll_ctl(client->epoll, EPOLL_CTL_ADD, connection->socket, &event) != 0) {
        return fail(err, ERR_IO, "cannot wait for a connection: %s", strerror(errno));
    }
    return true;
}

static void close_connection(struct client *client, struct connection *connection) {
    close(connection->socket);
    connection->socket = -1;
    --client->n_open;
}

static bool send_rest(struct client *client, struct connection *connection, struct error *err) {
    while (connection->n_sent < connection->length) {
        ssize_t n = send(connection->socket, connection->bytes + connection->n_sent,
                         connection->length - connection->n_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return true;
        if (n < 0) return fail(err, ERR_IO, "a request could not be sent: %s", strerror(errno));
        connection->n_sent += (size_t)n;
    }
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = connection}};
    epoll_ctl(client->epoll, EPOLL_CTL_MOD, connection->socket, &event);
    return true;
}

static bool check_answer(const struct connection *connection, struct error *err) {
    const struct sse_reader *reader = &connection->reader;
    if (reader->failure[0] != '\0') return fail(err, ERR_IO, "HTTP %d: %.400s", reader->status, reader->failure);
    if (reader->done && reader->n_tokens == connection->n_new) return true;
    return fail(err, ERR_IO, "HTTP %d: the answer ended with %d of %d tokens", reader->status, (int)reader->n_tokens,
                (int)connection->n_new);
}

static bool receive(struct client *client, struct connection *connection, char *buffer, struct error *err) {
    ssize_t n = recv(connection->socket, buffer, READ_BYTES, 0);
    if (n < 0 && errno == EAGAIN) return true;
    if (n < 0) return fail(err, ERR_IO, "an answer could not be read: %s", strerror(errno));
    int64_t n_events = connection->reader.n_events;
    sse_reader_feed(&connection->reader, buffer, (size_t)n);
    if (connection->reader.n_events > n_events) {
        connection->last_ns = engine_now_ns();
        if (connection->first_ns == 0) connection->first_ns = connection->last_ns;
    }
    if (n > 0 && connection->reader.place != SSE_OVER) return true;
    close_connection(client, connection);
    return check_answer(connection, err);
}

static bool handle(struct client *client, const struct epoll_event *event, char *buffer, struct error *err) {
    struct connection *connection = event->data.ptr;
    if ((event->events & EPOLLOUT) != 0 && !send_rest(client, connection, err)) return false;
    return (event->events & ~(uint32_t)EPOLLOUT) == 0 || receive(client, connection, buffer, err);
}

static bool converse(struct client *client, struct error *err) {
    struct epoll_event events[MAX_EVENTS];
    char *buffer = malloc(READ_BYTES);
    bool ok = buffer != NULL || fail(err, ERR_MEMORY, "no memory to read into");
    while (client->n_open > 0 && ok) {
        int n_ready = epoll_wait(client->epoll, events, MAX_EVENTS, PATIENCE_MS);
        if (n_ready < 0 && errno == EINTR) continue;
        if (n_ready <= 0) ok = fail(err, ERR_IO, "the server said nothing for %d s", PATIENCE_MS / 1000);
        for (int i = 0; i < n_ready && ok; ++i) ok = handle(client, &events[i], buffer, err);
    }
    free(buffer);
    return ok;
}

/* --- a run --- */

static bool client_init(struct client *client, const struct bench_run *run, struct error *err) {
    *client = (struct client){.epoll = epoll_create1(EPOLL_CLOEXEC), .n_connections = run->n_requests};
    client->connections = calloc((size_t)run->n_requests, sizeof *client->connections);
    if (client->connections == NULL) {
        client->n_connections = 0;
        return fail(err, ERR_MEMORY, "no memory for %d connections", (int)run->n_requests);
    }
    for (int32_t i = 0; i < run->n_requests; ++i) client->connections[i].socket = -1;
    return client->epoll >= 0 || fail(err, ERR_IO, "no epoll: %s", strerror(errno));
}

static void client_finish(struct client *client) {
    for (int32_t i = 0; i < client->n_connections; ++i) {
        if (client->connections[i].socket >= 0) close(client->connections[i].socket);
        free(client->connections[i].bytes);
    }
    free(client->connections);
    if (client->epoll >= 0) close(client->epoll);
}

static bool open_all(struct client *client, const struct bench_http *http, struct error *err) {
    for (int32_t i = 0; i < client->n_connections; ++i) {
        if (!open_connection(client, http, &client->connections[i], err)) return false;
    }
    client->n_open = client->n_connections;
    return true;
}

static struct bench_times evaluate(const struct client *client, int64_t began_ns) {
    struct bench_times times = {0};
    int64_t first_ns = 0, last_ns = 0;
    for (int32_t i = 0; i < client->n_connections; ++i) {
        const struct connection *connection = &client->connections[i];
        if (connection->first_ns > first_ns) first_ns = connection->first_ns;
        if (connection->last_ns > last_ns) last_ns = connection->last_ns;
        if (connection->n_new > times.n_longest) times.n_longest = connection->n_new;
        times.n_tokens += connection->n_new;
    }
    times.first_token_s = (double)(first_ns - began_ns) / 1e9;
    times.total_s = (double)(last_ns - began_ns) / 1e9;
    return times;
}

bool bench_http_measure(struct bench_http *http, const struct bench_run *run, struct bench_times *times,
                        struct error *err) {
    struct client client;
    bool ok = client_init(&client, run, err) && write_requests(&client, http, run, err) && open_all(&client, http, err);
    int64_t began_ns = engine_now_ns();
    ok = ok && converse(&client, err);
    if (ok) *times = evaluate(&client, began_ns);
    client_finish(&client);
    return ok;
}
