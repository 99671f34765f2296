/* Text to token ids and back, from a Hugging Face `tokenizer.json` (Qwen2/Qwen3 family): NFC, the file's own split
 * pattern, byte-level BPE, added tokens. Immutable after load: any number of threads may use one tokenizer at once. */
#ifndef QUERN_ENGINE_TOKENIZER_H
#define QUERN_ENGINE_TOKENIZER_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* A growing array of ids; zero-initialise, then token_list_finish. */
struct token_list {
    int32_t *ids; // [count], owned
    size_t count;
    size_t capacity;
};
bool token_list_append(struct token_list *list, const int32_t *ids, size_t count, struct error *err);
void token_list_finish(struct token_list *list);

struct tokenizer *tokenizer_load(const char *path, struct error *err);
void tokenizer_destroy(struct tokenizer *tokenizer);

/* Ids lie in [0, size); the model's vocabulary may be larger (padded), such ids have no bytes. */
int32_t tokenizer_size(const struct tokenizer *tokenizer);

/* Appends the ids of text (UTF-8, length bytes, may hold NUL) to out. Added tokens in the text become their ids, as
 * the published tokenizer does. ERR_INVALID when text is not valid UTF-8. O(n log n) in the length of the text. */
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, struct token_list *out,
                      struct error *err);

/* The token that the published tokenizer puts behind a text that is no chat, as those of embedding models do; -1: none.
 * tokenizer_encode does not. */
int32_t tokenizer_end_id(const struct tokenizer *tokenizer);

/* The bytes that id stands for (not necessarily whole characters); borrowed from the tokenizer. Unknown: length 0. */
const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length);

/* Control tokens such as <|im_end|>, which are not shown to users. */
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* The id of an added token by its exact text, or -1. */
int32_t tokenizer_find_added(const struct tokenizer *tokenizer, const char *content);

#endif
