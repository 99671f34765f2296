/* Watches the sockets of requests that wait: tells when a client has left, and when a request was quiet for too long.
 *
 * libmicrohttpd does not look at the socket of a suspended connection. One thread with its own epoll does, and sleeps
 * without limit while nothing is watched. A client that shuts down its sending side counts as gone.
 * Both callbacks come from the watcher's thread, under its lock: they must be quick and must not call the watcher.
 * After http_watch_remove returned, no callback runs or will run. */
#ifndef QUERN_SERVER_HTTP_WATCH_H
#define QUERN_SERVER_HTTP_WATCH_H

#include "engine/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct http_watcher;

struct http_watch {
    int socket; // must stay open until http_watch_remove
    void (*gone)(void *user);
    void (*quiet)(void *user); // each quiet_ns without activity
    void *user;
    _Atomic int64_t active_ns; // engine_now_ns of the last activity; any thread may set it
    int64_t told_ns;           // from here on the watcher's own
    uint64_t id;
    struct http_watch *next;
    struct http_watch *previous;
};

struct http_watcher *http_watcher_create(int64_t quiet_ns, struct error *err);
/* Nothing may be watched any more. Takes NULL. */
void http_watcher_destroy(struct http_watcher *watcher);

/* The watch is the caller's and is zero apart from its first fields. */
bool http_watch_add(struct http_watcher *watcher, struct http_watch *watch, struct error *err);
void http_watch_remove(struct http_watcher *watcher, struct http_watch *watch);

#endif
