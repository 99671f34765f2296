/* Which of the Qwen3 chat templates a model folder has: they differ in reasoning and in how tools are written. */
#ifndef QUERN_SERVER_CHAT_FAMILY_H
#define QUERN_SERVER_CHAT_FAMILY_H

#include "engine/error.h"

#include <stdbool.h>

enum chat_family {
    CHAT_HYBRID,   // Qwen3: thinks unless it is asked not to
    CHAT_INSTRUCT, // Instruct-2507: never thinks
    CHAT_THINKING, // Thinking-2507: always thinks, the prompt opens <think>
    CHAT_CODER,    // Qwen3-Coder: never thinks, tools and calls in XML
};

/* "hybrid", "instruct", "thinking", "coder" */
const char *chat_family_name(enum chat_family family);

/* By what only its template has. False when template is that of another model. */
bool chat_family_recognise(const char *template, enum chat_family *family);

/* choice: a name, or a file with a template, or "" for what lies in folder: chat_template.jinja, else chat_template in
 * tokenizer_config.json, else CHAT_HYBRID. ERR_INVALID: the template is none of the four. */
bool chat_family_find(const char *folder, const char *choice, enum chat_family *family, struct error *err);

#endif
