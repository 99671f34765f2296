/* Tool calls that hold by construction: with tool_choice required or a named function the answer is calls that fit the
 * parameters of their tools, and with strict true what the model calls of its own accord fits them.
 *
 * Only for a request whose answer is held to nothing else. */
#ifndef QUERN_SERVER_CALL_GUARANTEE_H
#define QUERN_SERVER_CALL_GUARANTEE_H

#include "engine/error.h"
#include "server/openai_request.h"

#include <stdbool.h>

struct server;

/* Fills the grammar of a request that wants its calls guaranteed, once its tools are read; a named function is called
 * once. ERR_INVALID: that cannot be done. */
bool call_guarantee_make(const struct server *server, struct openai_request *request, struct error *err);

#endif
