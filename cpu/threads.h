/* A pool of workers that stay, and a parallel loop over chunk numbers.
 *
 * threads_run returns when every chunk has run. The caller takes part. Each thread starts with its own contiguous share
 * of the chunks, in order, so that it walks through memory; who is done takes from the ends of the others' shares, so
 * that a thread that the system holds back delays one chunk and not the loop. Between loops workers watch for the next
 * one for some tens of microseconds (a step's ops follow each other faster than that), then sleep: an idle pool uses no
 * processor time. A loop of one chunk runs on the caller without a word to the others. One caller at a time. */
#ifndef QUERN_CPU_THREADS_H
#define QUERN_CPU_THREADS_H

#include "engine/error.h"

#include <stdint.h>

struct threads;

/* n_threads counts the caller; 0: every processor that this process may run on. */
struct threads *threads_create(int32_t n_threads, struct error *err);
/* Threads for each of n pools that share n_threads (0: every processor) between them: at least 1. */
int32_t threads_share(int32_t n_threads, int32_t n_pools);
void threads_destroy(struct threads *threads);
int32_t threads_count(const struct threads *threads);

typedef void threads_function(void *argument, int32_t chunk);
void threads_run(struct threads *threads, threads_function *function, void *argument, int32_t n_chunks);

/* The same for chunks that need to know who runs them and what comes next. */
struct threads_loop {
    /* Runs a chunk; next is the one that the thread takes after it as far as is known, or -1. */
    void (*run)(void *argument, int32_t chunk, int32_t next);
    void *argument;
    int32_t n_chunks;
    void (*enter)(void *argument);                 // what a thread does before its first chunk, or NULL
    void (*leave)(void *argument, int32_t thread); // and after its last: thread is 0 for the caller
};
void threads_run_loop(struct threads *threads, const struct threads_loop *loop);

/* Where the share of a thread begins. */
int32_t threads_first_chunk(const struct threads *threads, int32_t n_chunks, int32_t thread);

#endif
