/* The `messages` and `tools` of a chat request body to struct chat.
 *
 * Roles: system, developer (taken as system), user, assistant, tool. Content: a string, or an array of text parts,
 * which are joined by a newline; null or absent only for an assistant message, where it means "". Reasoning of an
 * assistant: reasoning_content or, the same, reasoning. Arguments of a call: an object, or a string that spells one,
 * which is written as json_text_dump writes it; "" is {}, and any other string is kept. A fault is
 * ERR_INVALID with param such as "messages[2].role" and a message that says what is allowed. Fields not named here are
 * ignored. */
#ifndef QUERN_SERVER_CHAT_MESSAGES_H
#define QUERN_SERVER_CHAT_MESSAGES_H

#include "engine/error.h"
#include "server/chat_template.h"
#include "server/json_text.h"

#include <stdbool.h>
#include <stddef.h>

/* Reads the raw request body, not a parsed tree: a tree loses whether a number in a tool schema was 1 or 1.0, and
 * ends strings at \u0000. The body is checked again as strict JSON. Fills a zeroed chat: thinking stays default,
 * add_generation_prompt becomes true. On failure the chat is finished already. */
bool chat_messages_read(const char *body, size_t length, struct chat *chat, struct error *err);

/* The arguments of a call from the JSON string that spells them. */
bool chat_arguments_read(struct json_text string, struct chat_text *arguments, struct error *err);

#endif
