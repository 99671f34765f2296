/* SIGTERM and SIGINT, and SIGHUP where it is wanted, taken by one thread so that they interrupt nothing.
 *
 * Before signals_wait is called the first one to end ends the process at once with status 0: there is nothing to finish
 * yet. After it was returned, the next one ends the process at once with status 130. A SIGHUP is kept until it is
 * waited for; where it is not wanted it does what it does to any program. */
#ifndef QUERN_SERVER_SIGNALS_H
#define QUERN_SERVER_SIGNALS_H

#include "engine/error.h"

#include <stdint.h>

struct signals;

/* Blocks the signals in the calling thread, and so in all threads it starts later: call it first. */
struct signals *signals_create(bool with_hangup, struct error *err);
/* Takes NULL. */
void signals_destroy(struct signals *signals);

/* Returns the number of the signal that came: a SIGHUP, or the first one to end; 0 when signals_wake was called and
 * there is no other, or after timeout_ms, where that is not negative. */
int signals_wait(struct signals *signals, int32_t timeout_ms);

/* Ends a wait, or the next. From any thread. */
void signals_wake(struct signals *signals);

#endif
