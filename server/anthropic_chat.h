/* The conversation of a request in Anthropic's form, written in OpenAI's: so that there is one reader of chats, and one
 * prompt for the same conversation in either form.
 *
 * system and the texts of a message become text parts, thinking becomes reasoning_content, tool_use blocks become
 * tool_calls, and each tool_result a message of the role tool, in the order given. redacted_thinking, the signatures,
 * cache_control and is_error are passed over: the prompt has no place for them. Images, documents and whatever else is
 * no text are refused by name. A fault is ERR_INVALID with param such as "messages[2].content[0].type". */
#ifndef QUERN_SERVER_ANTHROPIC_CHAT_H
#define QUERN_SERVER_ANTHROPIC_CHAT_H

#include "engine/error.h"
#include "server/json_text.h"
#include "server/string_builder.h"

#include <stdbool.h>

/* Appends {"messages": […], "tools": […]} of a request, which is an object. *is_open: its last message is the
 * assistant's, to be gone on with. */
bool anthropic_write_chat(struct json_text request, struct string_builder *chat, bool *is_open, struct error *err);

#endif
