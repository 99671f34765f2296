/* A client that measures a server: streams of POST /v1/completions, as many as a run has requests, from one thread.
 *
 * Prompts are token ids that every tokenizer has, never the same twice, so that no prefix cache helps. All connections
 * are open before the clock starts. A run fails when an answer is not 200 or has not all its tokens, by its usage.
 * Of bench_times it fills n_tokens, n_longest, total_s and first_token_s. */
#ifndef QUERN_SERVER_BENCH_HTTP_H
#define QUERN_SERVER_BENCH_HTTP_H

#include "engine/error.h"
#include "server/bench_run.h"

#include <stdbool.h>

struct bench_http;

/* url is http://host:port; a name is looked up now. */
struct bench_http *bench_http_create(const char *url, struct error *err);
/* Takes NULL. */
void bench_http_destroy(struct bench_http *http);

bool bench_http_measure(struct bench_http *http, const struct bench_run *run, struct bench_times *times,
                        struct error *err);

#endif
