#include "server/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct signals {
    sigset_t set;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t came;
    bool waiting; // signals_wait was called
    bool hung_up; // since signals_wait last told
    bool woken;   // likewise
    int first;    // to end; 0: none yet
};

enum { STATUS_INTERRUPTED = 130 }; // 128 + SIGINT, as shells have it

static void *run(void *user) {
    struct signals *signals = user;
    for (;;) {
        int number;
        if (sigwait(&signals->set, &number) != 0) continue;
        pthread_mutex_lock(&signals->lock);
        if (number == SIGHUP) {
            signals->hung_up = true;
        } else {
            if (!signals->waiting) _exit(0);
            if (signals->first != 0) _exit(STATUS_INTERRUPTED);
            signals->first = number;
        }
        pthread_cond_signal(&signals->came);
        pthread_mutex_unlock(&signals->lock);
    }
    return NULL;
}

struct signals *signals_create(bool with_hangup, struct error *err) {
    struct signals *signals = calloc(1, sizeof *signals);
    if (signals == NULL) {
        fail(err, ERR_MEMORY, "no memory to wait for signals");
        return NULL;
    }
    pthread_mutex_init(&signals->lock, NULL);
    pthread_cond_init(&signals->came, NULL);
    sigemptyset(&signals->set);
    sigaddset(&signals->set, SIGTERM);
    sigaddset(&signals->set, SIGINT);
    if (with_hangup) sigaddset(&signals->set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals->set, NULL);
    int code = pthread_create(&signals->thread, NULL, run, signals);
    if (code == 0) return signals;
    fail(err, ERR_IO, "cannot start the thread that waits for signals: %s", strerror(code));
    pthread_cond_destroy(&signals->came);
    pthread_mutex_destroy(&signals->lock);
    free(signals);
    return NULL;
}

void signals_destroy(struct signals *signals) {
    if (signals == NULL) return;
    pthread_cancel(signals->thread); // it only ever waits in sigwait, or for a moment in the lock
    pthread_join(signals->thread, NULL);
    pthread_cond_destroy(&signals->came);
    pthread_mutex_destroy(&signals->lock);
    free(signals);
}

int signals_wait(struct signals *signals, int32_t timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&signals->lock);
    signals->waiting = true;
    int waited = 0;
    while (signals->first == 0 && !signals->hung_up && !signals->woken && waited == 0)
        waited = timeout_ms < 0 ? pthread_cond_wait(&signals->came, &signals->lock)
                                : pthread_cond_timedwait(&signals->came, &signals->lock, &until);
    int number = signals->first != 0 ? signals->first : signals->hung_up ? SIGHUP : 0;
    if (number == 0) signals->woken = false;
    if (number == SIGHUP) signals->hung_up = false;
    pthread_mutex_unlock(&signals->lock);
    return number;
}

void signals_wake(struct signals *signals) {
    pthread_mutex_lock(&signals->lock);
    signals->woken = true;
    pthread_cond_signal(&signals->came);
    pthread_mutex_unlock(&signals->lock);
}
