/* Bytes to valid UTF-8: whole characters only, and U+FFFD for what can be none, as Python's errors="replace" has it.
 *
 * Zero-initialise. The result does not depend on how the bytes were grouped into calls. */
#ifndef QUERN_SERVER_UTF8_H
#define QUERN_SERVER_UTF8_H

#include "server/string_builder.h"

#include <stddef.h>

struct utf8_decoder {
    char partial[4]; // [n_partial] the bytes of a character that is not complete
    size_t n_partial;
};

/* Appends to out what the bytes complete. */
void utf8_push(struct utf8_decoder *decoder, const char *data, size_t length, struct string_builder *out);

/* No more bytes come: a character that is not complete becomes U+FFFD. */
void utf8_flush(struct utf8_decoder *decoder, struct string_builder *out);

#endif
