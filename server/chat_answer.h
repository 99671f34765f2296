/* The answer of one choice of a chat as OpenAI's clients are told it.
 *
 * message: {"role", "content", "refusal"}, and where there are any "reasoning_content" with its second name
 * "reasoning", and "tool_calls". content is null beside calls without content. Of deltas each holds one of reasoning,
 * content, the beginning of a call ("index", "id", "type", name, arguments "") or more of its arguments: joined in
 * order they are the message. */
#ifndef QUERN_SERVER_CHAT_ANSWER_H
#define QUERN_SERVER_CHAT_ANSWER_H

#include "server/answer.h"
#include "server/openai_request.h"
#include "server/string_builder.h"

#include <stdbool.h>

struct server;

/* How the answer to a chat may begin and what to look for in it; request has its tools. */
struct answer_options chat_answer_options(const struct server *server, const struct openai_request *request);

/* "message":{…} */
void chat_write_message(const struct answer *answer, struct string_builder *out);

/* "delta":{…}; false when a chat has nothing to tell of it. */
bool chat_write_delta(const struct answer_delta *delta, struct string_builder *out);

#endif
