/* A whole file as text, under a limit. */
#ifndef QUERN_SERVER_TEXT_FILE_H
#define QUERN_SERVER_TEXT_FILE_H

#include "engine/error.h"
#include "server/string_builder.h"

/* Appends the file to text, whose max_length says how large it may be; data is never NULL after success. The message
 * of a failure begins with the path. */
bool text_file_read(const char *path, struct string_builder *text, struct error *err);

#endif
