/* The shapes of Anthropic's API: errors, and a message as it is answered. */
#ifndef QUERN_SERVER_ANTHROPIC_H
#define QUERN_SERVER_ANTHROPIC_H

#include "server/generation.h"
#include "server/openai.h"

#include <stdbool.h>

/* {"type": "error", "error": {"type", "message"}, "request_id"}. The type follows from the status, which is the same as
 * at the other endpoints: a full queue is 429 and rate_limit_error, a server that is loading or stopping 503 and
 * overloaded_error. */
error_writer anthropic_write_error;

/* The writer of /v1/messages, and its state: whether the answer is cut to what the context leaves. NULL: no memory. */
extern const struct generation_writer anthropic_writer;
void *anthropic_writer_state(bool is_cut_to_context);

#endif
