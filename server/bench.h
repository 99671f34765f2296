/* `quern bench`: the engine alone, without HTTP, against the memory bandwidth measured in the same run.
 *
 * For each batch size so many requests with random prompts are submitted at once. Counted is the phase in which all of
 * them decode: the median step, tokens per second, and the floor of a step = (weights + KV read) / bandwidth. */
#ifndef QUERN_SERVER_BENCH_H
#define QUERN_SERVER_BENCH_H

#include "config/config.h"
#include "engine/error.h"
#include "engine/log.h"

#include <stdbool.h>

struct backend_ops;

/* Prints to stdout. ops is borrowed. */
bool bench(const struct config *config, const struct backend_ops *ops, struct log *log, struct error *err);

#endif
