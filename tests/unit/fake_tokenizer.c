/* A test double behind engine/tokenizer.h: one token for each byte, so that every character is split where it can be,
 * and a few added tokens. */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { N_BYTES = 256, N_ADDED = 4 };

static const char *const added[N_ADDED] = {"<|im_end|>", "<|im_start|>", "<think>", "</think>"};
enum { N_SPECIAL = 2 };

struct tokenizer {
    char bytes[N_BYTES];
};

bool token_list_append(struct token_list *list, const int32_t *ids, size_t count, struct error *err) {
    int32_t *grown = realloc(list->ids, (list->count + count + 1) * sizeof *grown);
    if (grown == NULL) return fail(err, ERR_MEMORY, "no memory for %zu tokens", list->count + count);
    if (count > 0) memcpy(grown + list->count, ids, count * sizeof *ids);
    list->ids = grown;
    list->count = list->capacity = list->count + count;
    return true;
}

void token_list_finish(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

struct tokenizer *tokenizer_load(const char *path, struct error *err) {
    (void)path, (void)err;
    struct tokenizer *tokenizer = malloc(sizeof *tokenizer);
    for (int i = 0; tokenizer != NULL && i < N_BYTES; ++i) tokenizer->bytes[i] = (char)i;
    return tokenizer;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    free(tokenizer);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer) {
    (void)tokenizer;
    return N_BYTES + N_ADDED;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, struct token_list *out,
                      struct error *err) {
    (void)tokenizer;
    for (size_t i = 0; i < length; ++i) {
        if (!token_list_append(out, &(int32_t){(unsigned char)text[i]}, 1, err)) return false;
    }
    return true;
}

const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length) {
    bool is_byte = id >= 0 && id < N_BYTES, is_added = id >= N_BYTES && id < N_BYTES + N_ADDED;
    *length = is_byte ? 1 : is_added ? strlen(added[id - N_BYTES]) : 0;
    return is_byte ? &tokenizer->bytes[id] : is_added ? added[id - N_BYTES] : "";
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    (void)tokenizer;
    return id >= N_BYTES && id < N_BYTES + N_SPECIAL;
}

int32_t tokenizer_end_id(const struct tokenizer *tokenizer) {
    (void)tokenizer;
    return -1;
}

int32_t tokenizer_find_added(const struct tokenizer *tokenizer, const char *content) {
    (void)tokenizer;
    for (int i = 0; i < N_ADDED; ++i) {
        if (strcmp(content, added[i]) == 0) return N_BYTES + i;
    }
    return -1;
}
