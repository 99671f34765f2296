/* Answers as OpenAI's Responses API has them: the response object, or the events that lead to it. */
#ifndef QUERN_SERVER_RESPONSES_WRITER_H
#define QUERN_SERVER_RESPONSES_WRITER_H

#include "server/generation.h"
#include "server/responses_request.h"

extern const struct generation_writer responses_writer;

/* Stores the response as it is before its answer is complete; status "queued" or "in_progress": it is under way,
 * otherwise this is its end. error NULL: none. */
bool responses_writer_store(struct generation *generation, const char *status, const struct openai_error *error,
                            struct error *err);

/* The state of one response; NULL: no memory. Takes over what request holds. */
void *responses_writer_state(struct responses_request *request);

#endif
