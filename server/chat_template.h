/* Messages to Qwen3 ChatML text, as the published chat templates of Qwen3 write it, byte for byte.
 *
 * struct chat is one conversation, decoded and checked (server/chat_messages.h makes it from a request body). Texts are
 * UTF-8 with a length, may hold NUL, and belong to the chat. Control tokens written inside a message are not escaped:
 * the published template does not either. */
#ifndef QUERN_SERVER_CHAT_TEMPLATE_H
#define QUERN_SERVER_CHAT_TEMPLATE_H

#include "engine/error.h"
#include "server/chat_family.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };

/* Whether a hybrid model may think before it answers; off closes an empty <think> block in the generation prompt. */
enum chat_thinking { CHAT_THINKING_DEFAULT, CHAT_THINKING_ON, CHAT_THINKING_OFF };

struct chat_text {
    char *data; // [length], owned; NULL: not given
    size_t length;
};

struct chat_tool_call {
    struct chat_text name;
    struct chat_text arguments; // JSON, written into the prompt as it stands; CHAT_CODER needs an object
};

struct chat_message {
    enum chat_role role;
    struct chat_text content;
    struct chat_text reasoning_content; // assistant only; not given: taken from <think>…</think> in content
    struct chat_tool_call *tool_calls;  // [n_tool_calls], owned; assistant only
    int32_t n_tool_calls;
};

struct chat {
    enum chat_family family;
    struct chat_message *messages; // [n_messages], owned
    int32_t n_messages;            // at least 1 to render
    struct chat_text *tools;       // [n_tools], owned; each the JSON of one tool, as json_text_dump writes it
    int32_t n_tools;
    bool has_strict_tools; // at least one asks that its calls fit its schema; the prompt does not depend on it
    enum chat_thinking thinking;
    bool add_generation_prompt; // end with the start of the assistant's turn
};

/* Appends the prompt to out; out->max_length bounds it. Fails with ERR_TOO_LARGE or ERR_MEMORY, and with ERR_INVALID
 * when arguments are not what the family needs. */
bool chat_template_render(const struct chat *chat, struct string_builder *out, struct error *err);

/* CHAT_CODER; for chat_template.c. */
bool chat_template_render_coder(const struct chat *chat, struct string_builder *out, struct error *err);

/* Frees what the chat owns and zeroes it. */
void chat_finish(struct chat *chat);

#endif
