/* What a chat request makes the model read: its messages and tools as the chat template writes them, and their ids. */
#ifndef QUERN_SERVER_CHAT_PROMPT_H
#define QUERN_SERVER_CHAT_PROMPT_H

#include "engine/error.h"
#include "engine/tokenizer.h"
#include "server/chat_template.h"
#include "server/openai_request.h"
#include "server/string_builder.h"

#include <stdbool.h>

struct server;

struct chat_prompt {
    struct string_builder text;
    struct token_list ids;
};

/* Reads source's messages and tools; request is what openai_request_read made of the rest, and is given the tools.
 * prompt is zeroed, and chat_prompt_finish frees it whether this succeeds or not. */
bool chat_prompt_make(struct server *server, const struct openai_source *source, struct openai_request *request,
                      struct chat_prompt *prompt, struct error *err);
/* The same of a chat that was read already; it is finished in any case. */
bool chat_prompt_render(struct server *server, struct chat *chat, struct openai_request *request,
                        struct chat_prompt *prompt, struct error *err);
void chat_prompt_finish(struct chat_prompt *prompt);

#endif
