/* Token ids of one answer to text that can be shown: valid UTF-8, whole characters only, ending before a stop string.
 *
 * Bytes that begin a character are held until it is complete, so that an emoji spread over tokens is never split. Text
 * that may be the start of a stop string is held until that is decided. The result does not depend on how the tokens
 * were grouped into calls. */
#ifndef QUERN_SERVER_DETOKENIZER_H
#define QUERN_SERVER_DETOKENIZER_H

#include "engine/tokenizer.h"
#include "server/string_builder.h"
#include "server/utf8.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STOP_MAX_STRINGS = 16, STOP_MAX_BYTES = 1024 };

struct stop_strings {
    struct stop_string {
        char *data; // [length], owned; 1 to STOP_MAX_BYTES
        size_t length;
    } strings[STOP_MAX_STRINGS];
    int32_t count;
    bool included; // the text ends with the stop string, not before it
};
void stop_strings_finish(struct stop_strings *stops);

struct detokenizer {
    const struct tokenizer *tokenizer; // borrowed
    const struct stop_strings *stops;  // borrowed
    struct utf8_decoder utf8;
    struct string_builder held; // not yet decided
    bool stopped;               // a stop string was completed: nothing comes any more
    int32_t stop;               // which, among stops
};

/* Zero-initialised but for tokenizer and stops. */
void detokenizer_finish(struct detokenizer *detokenizer);

/* Appends what the token makes certain; special tokens have no text. Returns true when it completes a stop string: of
 * several, the one that ends first, and the longest of those. */
bool detokenizer_push(struct detokenizer *detokenizer, int32_t token, struct string_builder *out);

/* The last token was pushed: appends what is still held. */
void detokenizer_flush(struct detokenizer *detokenizer, struct string_builder *out);

#endif
