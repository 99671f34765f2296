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
void threads_destroy(struct threads *threads);
int32_t threads_count(const struct threads *threads);

typedef void threads_function(void *argument, int32_t chunk);
void threads_run(struct threads *threads, threads_function *function, void *argument, int32_t n_chunks);

#endif
