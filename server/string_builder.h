/* A growing string with a limit and a sticky failure: append freely, ask once at the end.
 *
 * Zero-initialise (max_length 0: no limit). After the first failure appends do nothing, so that code which writes text
 * reads like the text. `data` is NUL-terminated once anything was appended, and may hold NUL itself. */
#ifndef QUERN_SERVER_STRING_BUILDER_H
#define QUERN_SERVER_STRING_BUILDER_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>

struct string_builder {
    char *data; // [length + 1], owned
    size_t length;
    size_t capacity;         // bytes at data
    size_t max_length;       // 0: no limit
    enum error_code failure; // ERR_NONE, ERR_TOO_LARGE or ERR_MEMORY
};

void string_builder_append(struct string_builder *builder, const char *data, size_t length);
void string_builder_append_text(struct string_builder *builder, const char *text);

/* False with ERR_TOO_LARGE or ERR_MEMORY if any append failed; `what` names the text in the message. */
bool string_builder_check(const struct string_builder *builder, const char *what, struct error *err);

/* The string (never NULL, "" when nothing was appended), now the caller's to free; NULL if an append failed.
 * The builder is empty afterwards and keeps its limit. */
char *string_builder_take(struct string_builder *builder, size_t *length);

void string_builder_finish(struct string_builder *builder);

#endif
