/* The pool of the CPU backend: every chunk once, from the first loop after a sleep to a million short ones. */
#include "cpu/threads.h"
#include "tests/test.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_CHUNKS 1000

struct counts {
    int32_t plain[MAX_CHUNKS]; // not atomic: each chunk is one thread's
    _Atomic int32_t sum;
    _Atomic int32_t n_entered, n_left, n_wrong;
};

static void count(void *argument, int32_t chunk, int32_t next) {
    struct counts *counts = argument;
    counts->plain[chunk]++;
    atomic_fetch_add(&counts->sum, chunk);
    if (next != -1 && next != chunk + 1 && next != chunk - 1) atomic_fetch_add(&counts->n_wrong, 1);
    int32_t n_left = counts->n_left; // before n_entered, which others raise meanwhile
    if (counts->n_entered <= n_left) atomic_fetch_add(&counts->n_wrong, 1);
}

static void count_plain(void *argument, int32_t chunk) {
    ((struct counts *)argument)->plain[chunk]++;
}

static void enter(void *argument) {
    atomic_fetch_add(&((struct counts *)argument)->n_entered, 1);
}

static void leave(void *argument, int32_t thread) {
    struct counts *counts = argument;
    atomic_fetch_add(&counts->n_left, 1);
    if (thread < 0 || thread >= 8) atomic_fetch_add(&counts->n_wrong, 1);
}

static void run_loop(struct threads *threads, struct counts *counts, int32_t n_chunks) {
    threads_run_loop(
        threads,
        &(struct threads_loop){.run = count, .argument = counts, .n_chunks = n_chunks, .enter = enter, .leave = leave});
    assert_int_equal(counts->n_entered, counts->n_left); // whoever took part has left
    assert_int_equal(counts->n_wrong, 0);
}

static void run_loops(int32_t n_threads, int32_t n_loops, int32_t n_chunks) {
    struct error err = {0};
    struct threads *threads = threads_create(n_threads, &err);
    assert_non_null(threads);
    assert_int_equal(threads_count(threads), n_threads);
    static struct counts counts;
    memset(&counts, 0, sizeof counts);
    for (int32_t loop = 0; loop < n_loops; ++loop) {
        run_loop(threads, &counts, n_chunks);
        for (int32_t i = 0; i < n_chunks; ++i) // the caller sees what the others wrote
            if (counts.plain[i] != loop + 1)
                fail_msg("chunk %d ran %d times in %d loops", i, counts.plain[i], loop + 1);
    }
    assert_int_equal(counts.n_entered > 0, n_chunks > 0);
    assert_int_equal(counts.sum, n_loops * (n_chunks * (n_chunks - 1) / 2));
    threads_destroy(threads);
}

static void test_every_chunk_once(void **state) {
    (void)state;
    static const int32_t thread_counts[] = {1, 2, 3, 8};
    static const int32_t chunk_counts[] = {0, 1, 2, 3, 17, MAX_CHUNKS};
    for (size_t t = 0; t < sizeof thread_counts / sizeof *thread_counts; ++t)
        for (size_t c = 0; c < sizeof chunk_counts / sizeof *chunk_counts; ++c)
            run_loops(thread_counts[t], chunk_counts[c] > 100 ? 20 : 500, chunk_counts[c]);
}

static void sleep_ms(int32_t ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void test_wakes_after_sleep(void **state) {
    (void)state;
    struct error err = {0};
    struct threads *threads = threads_create(4, &err);
    assert_non_null(threads);
    static struct counts counts;
    memset(&counts, 0, sizeof counts);
    for (int32_t loop = 0; loop < 30; ++loop) {
        if (loop % 3 == 0) sleep_ms(2); // workers sleep after 50 us
        run_loop(threads, &counts, 40);
    }
    for (int32_t i = 0; i < 40; ++i) assert_int_equal(counts.plain[i], 30);
    threads_destroy(threads);
}

/* A pool that nobody uses takes no processor time. */
static void test_idle(void **state) {
    (void)state;
    struct error err = {0};
    struct threads *threads = threads_create(8, &err);
    assert_non_null(threads);
    static struct counts counts;
    memset(&counts, 0, sizeof counts);
    threads_run(threads, count_plain, &counts, 100);
    for (int32_t i = 0; i < 100; ++i) assert_int_equal(counts.plain[i], 1);
    sleep_ms(20);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    sleep_ms(300);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used_ms = (double)(after.tv_sec - before.tv_sec) * 1e3 + (double)(after.tv_nsec - before.tv_nsec) * 1e-6;
    if (used_ms > 1.5) fail_msg("an idle pool used %.2f ms in 300", used_ms); // 0.5 %
    threads_destroy(threads);
}

static void test_destroy_null(void **state) {
    (void)state;
    threads_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chunk_once),
        cmocka_unit_test(test_wakes_after_sleep),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_destroy_null),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
