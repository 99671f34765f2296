/* `quern serve`: from options to the last answered request. */
#ifndef QUERN_SERVER_SERVE_H
#define QUERN_SERVER_SERVE_H

#include "config/config.h"
#include "engine/error.h"
#include "engine/log.h"

#include <stdbool.h>

struct backend_ops;

/* Listens at once (/health says "loading"), loads, serves until SIGTERM or SIGINT, then lets running requests finish
 * within the shutdown timeout. ops is borrowed. */
bool serve(const struct config *config, const struct backend_ops *ops, struct log *log, struct error *err);

#endif
