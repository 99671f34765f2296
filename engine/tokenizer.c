#include "engine/tokenizer.h"

#include "engine/nfc.h"
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

/* One call of tokenizer_encode: where it writes and what it works with. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct splitter splitter;
    struct bpe_scratch scratch;
};

bool token_list_append(struct token_list *list, const int32_t *ids, size_t count, struct error *err) {
    if (count > list->capacity - list->count) {
        size_t capacity = (list->count + count) * 2 + 16;
        int32_t *larger = realloc(list->ids, capacity * sizeof *larger);
        if (!larger) return fail(err, ERR_MEMORY, "No memory for %zu token ids.", list->count + count);
        list->ids = larger;
        list->capacity = capacity;
    }
    if (count > 0) memcpy(list->ids + list->count, ids, count * sizeof *ids);
    list->count += count;
    return true;
}

void token_list_finish(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    split_pattern_destroy(tokenizer->pattern);
    vocabulary_finish(&tokenizer->vocabulary);
    bpe_finish(&tokenizer->bpe);
    free(tokenizer->added);
    free(tokenizer);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer) {
    return tokenizer->vocabulary.size;
}

int32_t tokenizer_end_id(const struct tokenizer *tokenizer) {
    return tokenizer->end_id;
}

const char *tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length) {
    return vocabulary_bytes(&tokenizer->vocabulary, id, length);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    for (int32_t i = 0; i < tokenizer->n_added; i++)
        if (tokenizer->added[i].id == id) return tokenizer->added[i].is_special;
    return false;
}

/* The longest added token that text starts with, or NULL. Narrows [low, high) of the sorted tokens byte by byte. */
static const struct added_token *match_added(const struct tokenizer *tokenizer, const char *text, size_t length) {
    const struct added_token *added = tokenizer->added, *longest = NULL;
    int32_t low = 0, high = tokenizer->n_added;
    for (uint32_t depth = 0; depth < length && low < high; depth++) {
        unsigned char byte = (unsigned char)text[depth];
        int32_t ends[2]; // the first token whose byte at depth is not below byte, and not below byte + 1
        for (int side = 0; side < 2; side++) {
            int32_t first = low, last = high;
            while (first < last) {
                int32_t middle = first + (last - first) / 2;
                bool is_below =
                    added[middle].length <= depth || (unsigned char)added[middle].content[depth] < byte + side;
                if (is_below)
                    first = middle + 1;
                else
                    last = middle;
            }
            ends[side] = first;
        }
        low = ends[0];
        high = ends[1];
        if (low < high && added[low].length == depth + 1) longest = &added[low];
    }
    return longest;
}

int32_t tokenizer_find_added(const struct tokenizer *tokenizer, const char *content) {
    size_t length = strlen(content);
    const struct added_token *added = match_added(tokenizer, content, length);
    return added && added->length == length ? added->id : -1;
}

static bool check_utf8(const char *text, size_t length, struct error *err) {
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t code_point;
        utf8proc_ssize_t n = 1;
        if ((unsigned char)text[i] >= 0x80)
            n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &code_point);
        if (n < 1) return fail(err, ERR_INVALID, "The text is not valid UTF-8 at byte %zu.", i);
        i += (size_t)n;
    }
    return true;
}

/* Splits text in its normal form and encodes the pieces. */
static bool encode_normal(struct encoding *encoding, const char *text, size_t length, struct error *err) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    splitter_start(&encoding->splitter, text, length);
    for (;;) {
        const char *piece;
        size_t n;
        if (!splitter_next(&encoding->splitter, &piece, &n, err)) return false;
        if (n == 0) return true;
        if (!bpe_encode(&tokenizer->bpe, &encoding->scratch, piece, n, encoding->out, err)) return false;
    }
}

/* Encodes a stretch of text without added tokens. */
static bool encode_plain(struct encoding *encoding, const char *text, size_t length, struct error *err) {
    if (!encoding->tokenizer->uses_nfc || nfc_is_certain(text, length))
        return encode_normal(encoding, text, length, err);
    size_t n_normal;
    char *normal = nfc_normalise(text, length, &n_normal, err);
    bool done = normal && encode_normal(encoding, normal, n_normal, err);
    free(normal);
    return done;
}

/* The offset of the first added token at or after start, or length. */
static size_t find_added(const struct tokenizer *tokenizer, const char *text, size_t length, size_t start,
                         const struct added_token **added) {
    *added = NULL;
    for (size_t i = start; i < length; i++) {
        if (!tokenizer->added_first[(unsigned char)text[i]]) continue;
        *added = match_added(tokenizer, text + i, length - i);
        if (*added) return i;
    }
    return length;
}

static bool encode_all(struct encoding *encoding, const char *text, size_t length, struct error *err) {
    for (size_t start = 0; start < length;) {
        const struct added_token *added;
        size_t end = find_added(encoding->tokenizer, text, length, start, &added);
        if (end > start && !encode_plain(encoding, text + start, end - start, err)) return false;
        if (added && !token_list_append(encoding->out, &added->id, 1, err)) return false;
        start = end + (added ? added->length : 0);
    }
    return true;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, struct token_list *out,
                      struct error *err) {
    /* NFC may triple the bytes of a character, and BPE counts positions in int32_t. */
    if (length > INT32_MAX / 3)
        return fail(err, ERR_TOO_LARGE, "The text has %zu bytes, over %d.", length, INT32_MAX / 3);
    if (!check_utf8(text, length, err)) return false;
    struct encoding encoding = {.tokenizer = tokenizer, .out = out};
    if (!splitter_init(&encoding.splitter, tokenizer->pattern, err)) return false;
    size_t n_before = out->count;
    bool done = encode_all(&encoding, text, length, err);
    if (!done) out->count = n_before;
    bpe_scratch_finish(&encoding.scratch);
    splitter_finish(&encoding.splitter);
    return done;
}
