#include "cpu/threads.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_THREADS    256
#define MAX_UNITS      65535
#define SPIN_NS        50000 // a worker's watch before it sleeps; waking it costs some 5 us
#define SPINS_PER_LOOK 32    // pauses between two looks at the clock

/* What is left of one thread's share is one word: the loop's number, the first chunk, the chunk after the last. Its
 * owner takes from the front, others from the end, by changing the word, which succeeds only while the loop is the one
 * that was looked at: the pointer to it, read before, is then right, because it changes only when no chunk is left, and
 * what it points to stays until the thread has counted its chunks as done. */
struct share {
    _Alignas(64) _Atomic uint64_t word; // loop << 32 | first << 16 | end
};

struct threads {
    _Alignas(64) _Atomic uint32_t number; // of the latest loop: what waiting workers watch
    _Atomic(const struct threads_loop *) loop;
    _Alignas(64) _Atomic int32_t n_done; // units
    _Alignas(64) _Atomic int32_t n_sleeping;
    _Atomic bool stopping;
    pthread_mutex_t lock; // guards nothing but the sleep itself
    pthread_cond_t wake;
    int32_t n_workers;
    struct worker {
        struct threads *threads;
        int32_t index; // of its share; the caller's is 0
        pthread_t thread;
    } workers[MAX_THREADS];
    struct share shares[MAX_THREADS];
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Chunks that are taken at once: more than one when there are over 65,535. */
static int32_t chunks_per_unit(const struct threads_loop *loop) {
    return loop->n_chunks / MAX_UNITS + 1;
}

static void run_unit(const struct threads_loop *loop, int32_t unit, int32_t next_unit) {
    int32_t size = chunks_per_unit(loop), end = (unit + 1) * size < loop->n_chunks ? (unit + 1) * size : loop->n_chunks;
    for (int32_t chunk = unit * size; chunk < end - 1; ++chunk) loop->run(loop->argument, chunk, chunk + 1);
    loop->run(loop->argument, end - 1, next_unit < 0 ? -1 : next_unit * size);
}

/* What one thread has taken of a loop. */
struct part {
    const struct threads_loop *loop;
    int32_t n_units;
};

/* Runs what is left of one share. */
static void run_share(struct threads *threads, int32_t index, bool own, struct part *part) {
    _Atomic uint64_t *word = &threads->shares[index].word;
    uint64_t left = atomic_load_explicit(word, memory_order_acquire);
    for (;;) {
        int32_t first = (int32_t)(left >> 16 & 0xffff), end = (int32_t)(left & 0xffff);
        if (first == end) return;
        const struct threads_loop *loop = atomic_load_explicit(&threads->loop, memory_order_relaxed);
        uint64_t rest = own ? left + (1u << 16) : left - 1;
        if (!atomic_compare_exchange_weak_explicit(word, &left, rest, memory_order_acq_rel, memory_order_acquire))
            continue;
        if (part->n_units++ == 0 && loop->enter) loop->enter(loop->argument);
        part->loop = loop;
        bool last = first + 1 == end;
        run_unit(loop, own ? first : end - 1, last ? -1 : own ? first + 1 : end - 2);
        left = atomic_load_explicit(word, memory_order_acquire);
    }
}

static void run_shares(struct threads *threads, int32_t index) {
    int32_t n_threads = threads->n_workers + 1;
    struct part part = {0};
    run_share(threads, index, true, &part);
    for (int32_t i = 1; i < n_threads; ++i) run_share(threads, (index + i) % n_threads, false, &part);
    if (part.n_units == 0) return;
    if (part.loop->leave) part.loop->leave(part.loop->argument, index);
    atomic_fetch_add_explicit(&threads->n_done, part.n_units, memory_order_release);
}

/* Watches for a loop after `seen`, then sleeps. The order of n_sleeping and number here is the reverse of
 * threads_run's: one sees the other. */
static uint32_t wait_for_loop(struct threads *threads, uint32_t seen) {
    uint32_t number = seen;
    for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;) {
        for (int i = 0; i < SPINS_PER_LOOK; ++i) {
            number = atomic_load_explicit(&threads->number, memory_order_acquire);
            if (number != seen) return number;
            relax();
        }
    }
    pthread_mutex_lock(&threads->lock);
    atomic_fetch_add(&threads->n_sleeping, 1);
    while ((number = atomic_load(&threads->number)) == seen) pthread_cond_wait(&threads->wake, &threads->lock);
    atomic_fetch_sub(&threads->n_sleeping, 1);
    pthread_mutex_unlock(&threads->lock);
    return number;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct threads *threads = worker->threads;
    for (uint32_t number = 0;;) {
        number = wait_for_loop(threads, number);
        if (atomic_load_explicit(&threads->stopping, memory_order_relaxed)) return NULL;
        run_shares(threads, worker->index);
    }
}

static void wake_all(struct threads *threads) {
    pthread_mutex_lock(&threads->lock);
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->lock);
}

static void run_alone(const struct threads_loop *loop) {
    if (loop->n_chunks == 0) return;
    if (loop->enter) loop->enter(loop->argument);
    for (int32_t chunk = 0; chunk < loop->n_chunks; ++chunk)
        loop->run(loop->argument, chunk, chunk + 1 < loop->n_chunks ? chunk + 1 : -1);
    if (loop->leave) loop->leave(loop->argument, 0);
}

static int32_t share_start(int32_t n_units, int32_t n_threads, int32_t thread) {
    return (int32_t)((int64_t)n_units * thread / n_threads);
}

int32_t threads_first_chunk(const struct threads *threads, int32_t n_chunks, int32_t thread) {
    return share_start(n_chunks, threads->n_workers + 1, thread);
}

void threads_run_loop(struct threads *threads, const struct threads_loop *loop) {
    assert(loop->n_chunks >= 0);
    if (loop->n_chunks <= 1 || threads->n_workers == 0) {
        run_alone(loop);
        return;
    }
    int32_t n_threads = threads->n_workers + 1, unit = chunks_per_unit(loop);
    int32_t n_units = (loop->n_chunks + unit - 1) / unit;
    uint32_t number = atomic_load_explicit(&threads->number, memory_order_relaxed) + 1;
    atomic_store_explicit(&threads->loop, loop, memory_order_relaxed);
    atomic_store_explicit(&threads->n_done, 0, memory_order_relaxed);
    for (int32_t i = 0; i < n_threads; ++i) {
        uint64_t first = (uint64_t)share_start(n_units, n_threads, i),
                 end = (uint64_t)share_start(n_units, n_threads, i + 1);
        atomic_store_explicit(&threads->shares[i].word, (uint64_t)number << 32 | first << 16 | end,
                              memory_order_release);
    }
    atomic_store(&threads->number, number);
    if (atomic_load(&threads->n_sleeping) > 0) wake_all(threads);
    run_shares(threads, 0);
    for (int spins = 0; atomic_load_explicit(&threads->n_done, memory_order_acquire) < n_units; ++spins) {
        relax();
        if (spins > 1000) sched_yield(); // whoever holds the last chunk may wait for this processor
    }
}

struct plain_loop {
    threads_function *function;
    void *argument;
};

static void run_plain(void *argument, int32_t chunk, int32_t next) {
    const struct plain_loop *loop = argument;
    (void)next;
    loop->function(loop->argument, chunk);
}

void threads_run(struct threads *threads, threads_function *function, void *argument, int32_t n_chunks) {
    struct plain_loop loop = {function, argument};
    threads_run_loop(threads, &(struct threads_loop){.run = run_plain, .argument = &loop, .n_chunks = n_chunks});
}

static int32_t usable_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count;
}

int32_t threads_share(int32_t n_threads, int32_t n_pools) {
    int32_t share = (n_threads == 0 ? usable_processors() : n_threads) / n_pools;
    return share > 1 ? share : 1;
}

struct threads *threads_create(int32_t n_threads, struct error *err) {
    if (n_threads == 0) n_threads = usable_processors();
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    struct threads *threads = aligned_alloc(64, sizeof *threads);
    if (!threads) {
        fail(err, ERR_MEMORY, "no memory for a thread pool");
        return NULL;
    }
    memset(threads, 0, sizeof *threads);
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->wake, NULL);
    while (threads->n_workers < n_threads - 1) {
        struct worker *worker = &threads->workers[threads->n_workers];
        *worker = (struct worker){.threads = threads, .index = threads->n_workers + 1};
        int code = pthread_create(&worker->thread, NULL, work, worker);
        if (code != 0) {
            fail(err, ERR_MEMORY, "cannot start thread %d of %d: %s", worker->index + 1, n_threads, strerror(code));
            threads_destroy(threads);
            return NULL;
        }
        threads->n_workers++;
    }
    return threads;
}

void threads_destroy(struct threads *threads) {
    if (!threads) return;
    atomic_store(&threads->stopping, true);
    atomic_fetch_add(&threads->number, 1);
    wake_all(threads);
    for (int32_t i = 0; i < threads->n_workers; ++i) pthread_join(threads->workers[i].thread, NULL);
    pthread_cond_destroy(&threads->wake);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

int32_t threads_count(const struct threads *threads) {
    return threads->n_workers + 1;
}
