/* Unicode normalisation form C in linear time, as the published tokenizer has it: its tables are those of Unicode 9, so
 * that later combining marks neither move nor join. Text that is in NFC by today's tables is left alone by both. */
#ifndef QUERN_ENGINE_NFC_H
#define QUERN_ENGINE_NFC_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Whether valid UTF-8 is in NFC for certain; cheap, and true for most text that is. */
bool nfc_is_certain(const char *text, size_t length);

/* The NFC form of valid UTF-8, for the caller to free; NULL for want of memory. */
char *nfc_normalise(const char *text, size_t length, size_t *out_length, struct error *err);

#endif
