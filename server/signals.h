/* SIGTERM and SIGINT, taken by one thread so that they interrupt nothing.
 *
 * Before signals_wait is called the first one ends the process at once with status 0: there is nothing to finish yet.
 * After it returned, the next one ends the process at once with status 130. */
#ifndef QUERN_SERVER_SIGNALS_H
#define QUERN_SERVER_SIGNALS_H

#include "engine/error.h"

struct signals;

/* Blocks both signals in the calling thread, and so in all threads it starts later: call it first. */
struct signals *signals_create(struct error *err);
/* Takes NULL. */
void signals_destroy(struct signals *signals);

/* Returns the number of the signal that came. */
int signals_wait(struct signals *signals);

#endif
