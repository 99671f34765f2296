#include "server/http_watch.h"

#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAX_EVENTS = 64 };

struct http_watcher {
    int64_t quiet_ns;
    int epoll;
    int nudge; // eventfd: look at the state again
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    struct http_watch *first;
    uint64_t last_id; // 0 is the nudge
    bool sleeping;    // without limit, as nothing was watched
    bool stopping;
};

static void nudge(struct http_watcher *watcher) {
    uint64_t one = 1;
    ssize_t written = write(watcher->nudge, &one, sizeof one);
    (void)written; // only a full counter can fail it, and then it is readable already
}

/* An id, not a pointer, comes back from epoll: the watch may be gone by then, and its socket's number taken again. */
static void tell_gone(struct http_watcher *watcher, uint64_t id) {
    for (struct http_watch *watch = watcher->first; watch != NULL; watch = watch->next) {
        if (watch->id == id) {
            watch->gone(watch->user);
            return;
        }
    }
}

/* Returns the time until the next watch can have been quiet for too long, -1 when there is none. */
static int tell_quiet(struct http_watcher *watcher) {
    int64_t now = engine_now_ns();
    int64_t next = INT64_MAX;
    for (struct http_watch *watch = watcher->first; watch != NULL; watch = watch->next) {
        int64_t since = atomic_load(&watch->active_ns);
        since = since > watch->told_ns ? since : watch->told_ns;
        if (now - since >= watcher->quiet_ns) {
            watch->told_ns = since = now;
            watch->quiet(watch->user);
        }
        next = since < next ? since : next;
    }
    if (next == INT64_MAX) return -1;
    return (int)((next + watcher->quiet_ns - now) / 1000000) + 1;
}

static void *run(void *user) {
    struct http_watcher *watcher = user;
    struct epoll_event events[MAX_EVENTS];
    pthread_mutex_lock(&watcher->lock);
    while (!watcher->stopping) {
        int timeout_ms = tell_quiet(watcher);
        watcher->sleeping = timeout_ms < 0;
        pthread_mutex_unlock(&watcher->lock);
        int n_events = epoll_wait(watcher->epoll, events, MAX_EVENTS, timeout_ms);
        pthread_mutex_lock(&watcher->lock);
        for (int i = 0; i < n_events; ++i) {
            if (events[i].data.u64 != 0) {
                tell_gone(watcher, events[i].data.u64);
                continue;
            }
            uint64_t count;
            ssize_t got = read(watcher->nudge, &count, sizeof count);
            (void)got;
        }
    }
    pthread_mutex_unlock(&watcher->lock);
    return NULL;
}

struct http_watcher *http_watcher_create(int64_t quiet_ns, struct error *err) {
    struct http_watcher *watcher = calloc(1, sizeof *watcher);
    if (watcher == NULL) {
        fail(err, ERR_MEMORY, "no memory for the watcher of connections");
        return NULL;
    }
    watcher->quiet_ns = quiet_ns;
    watcher->epoll = epoll_create1(EPOLL_CLOEXEC);
    watcher->nudge = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&watcher->lock, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    if (watcher->epoll < 0 || watcher->nudge < 0 ||
        epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, watcher->nudge, &event) != 0) {
        fail(err, ERR_IO, "cannot watch connections: %s", strerror(errno));
        http_watcher_destroy(watcher);
        return NULL;
    }
    int code = pthread_create(&watcher->thread, NULL, run, watcher);
    watcher->has_thread = code == 0;
    if (code != 0) {
        fail(err, ERR_IO, "cannot start the thread that watches connections: %s", strerror(code));
        http_watcher_destroy(watcher);
        return NULL;
    }
    return watcher;
}

void http_watcher_destroy(struct http_watcher *watcher) {
    if (watcher == NULL) return;
    assert(watcher->first == NULL);
    if (watcher->has_thread) {
        pthread_mutex_lock(&watcher->lock);
        watcher->stopping = true;
        pthread_mutex_unlock(&watcher->lock);
        nudge(watcher);
        pthread_join(watcher->thread, NULL);
    }
    if (watcher->nudge >= 0) close(watcher->nudge);
    if (watcher->epoll >= 0) close(watcher->epoll);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

bool http_watch_add(struct http_watcher *watcher, struct http_watch *watch, struct error *err) {
    pthread_mutex_lock(&watcher->lock);
    watch->id = ++watcher->last_id;
    watch->told_ns = engine_now_ns();
    // One shot: a socket that is gone stays gone, and would be reported without end.
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = watch->id};
    if (epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, watch->socket, &event) != 0) {
        int code = errno;
        pthread_mutex_unlock(&watcher->lock);
        return fail(err, ERR_IO, "cannot watch the connection: %s", strerror(code));
    }
    watch->previous = NULL;
    watch->next = watcher->first;
    if (watch->next != NULL) watch->next->previous = watch;
    watcher->first = watch;
    bool sleeping = watcher->sleeping;
    watcher->sleeping = false;
    pthread_mutex_unlock(&watcher->lock);
    if (sleeping) nudge(watcher);
    return true;
}

void http_watch_remove(struct http_watcher *watcher, struct http_watch *watch) {
    pthread_mutex_lock(&watcher->lock);
    epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, watch->socket, NULL);
    if (watch->next != NULL) watch->next->previous = watch->previous;
    if (watch->previous != NULL)
        watch->previous->next = watch->next;
    else
        watcher->first = watch->next;
    pthread_mutex_unlock(&watcher->lock);
}
