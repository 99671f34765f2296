/* `quern bench`: the engine alone, or a server over HTTP, against what the hardware allows (bench_floor.h).
 *
 * steps: for each prompt length one prompt alone, submit to first token; then, for each batch size, so many requests
 * with random prompts at once. Counted is the phase in which all decode: its median step, tokens per second, and the
 * floor from the bandwidth measured right before and after; and the whole run, submit to last token. mixed: requests of
 * random lengths at once, tokens per second of the whole run and its floor. Over HTTP the times are those of the
 * client, and only first tokens and whole runs are counted. */
#ifndef QUERN_SERVER_BENCH_H
#define QUERN_SERVER_BENCH_H

#include "config/config.h"
#include "engine/error.h"
#include "engine/log.h"

#include <stdbool.h>

struct backend_ops;

/* Prints to stdout. ops is borrowed; NULL with --url, where no engine is made. */
bool bench(const struct config *config, const struct backend_ops *ops, struct log *log, struct error *err);

#endif
