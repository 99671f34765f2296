/* `quern serve`: from options to the last answered request. */
#ifndef QUERN_SERVER_SERVE_H
#define QUERN_SERVER_SERVE_H

#include "config/config.h"
#include "engine/error.h"
#include "engine/log.h"

#include <stdbool.h>

struct backend_ops;
struct signals;

/* Listens at once (/health says "loading"), loads, serves until SIGTERM or SIGINT, then lets running requests finish
 * within the shutdown timeout. When the device fails, running requests get an error, /health says so for some seconds,
 * and serve returns false. */
struct serve_options {
    const struct config *config;   // borrowed, as all here
    const struct backend_ops *ops; // static
    struct signals *signals;       // made before any other thread, those of a GPU driver too
    struct log *log;
};
bool serve(const struct serve_options *options, struct error *err);

#endif
