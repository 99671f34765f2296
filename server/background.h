/* Responses that are made while no client waits: one thread does for them what an HTTP thread does for the others.
 *
 * A response is in the store from its beginning, queued, then in_progress with its first token; it stays there until it
 * has its end, so that the limit of the store is that of this too. */
#ifndef QUERN_SERVER_BACKGROUND_H
#define QUERN_SERVER_BACKGROUND_H

#include "engine/error.h"
#include "server/generation.h"

#include <stdbool.h>

struct background;

struct background *background_create(struct server *server, struct error *err);
/* Cancels what still runs; takes NULL. The engine must still be there. */
void background_destroy(struct background *background);

/* options are those of a response that is to be stored. Answers with the response as it is queued, or with what went
 * wrong. */
void background_start(struct background *background, struct http_request *http,
                      const struct generation_options *options);

/* Waits until the response has its end, which is stored then. No effect on one that is not made here. */
void background_cancel(struct background *background, const char *id);

#endif
