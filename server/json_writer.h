/* Small appenders for answers: formatted text, and strings escaped as JSON. */
#ifndef QUERN_SERVER_JSON_WRITER_H
#define QUERN_SERVER_JSON_WRITER_H

#include "server/string_builder.h"

#include <stddef.h>

/* At most 1,023 bytes at a time. */
void json_write_format(struct string_builder *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A quoted string; data is valid UTF-8 and may hold NUL. */
void json_write_string(struct string_builder *out, const char *data, size_t length);
void json_write_text(struct string_builder *out, const char *text);

#endif
