#include "engine/token_trie.h"

#include "engine/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    const char *bytes;
    size_t length;
    int32_t id;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *left = a, *right = b;
    size_t shorter = left->length < right->length ? left->length : right->length;
    int order = memcmp(left->bytes, right->bytes, shorter);
    if (order != 0) return order;
    if (left->length != right->length) return left->length < right->length ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

const char *token_trie_bytes(const struct token_trie *trie, int32_t id, size_t *length) {
    *length = 0;
    if (id < 0 || id >= trie->n_vocab || trie->lengths[id] == 0) return "";
    return tokenizer_bytes(trie->tokenizer, id, length);
}

/* Whether the token is text that a grammar may have. */
static bool is_text(const struct tokenizer *tokenizer, int32_t id, const char *bytes, size_t length) {
    if (length == 0 || length > TOKEN_TRIE_MAX_BYTES || tokenizer_is_special(tokenizer, id)) return false;
    char text[TOKEN_TRIE_MAX_BYTES + 1];
    memcpy(text, bytes, length);
    text[length] = '\0';
    return tokenizer_find_added(tokenizer, text) != id;
}

bool token_trie_is_stop(const struct token_trie *trie, int32_t id) {
    for (int32_t i = 0; i < trie->n_stop_ids; i++)
        if (trie->stop_ids[i] == id) return true;
    return false;
}

const uint32_t *token_trie_content(const struct token_trie *trie, int32_t n_chars) {
    assert(n_chars >= 0);
    if (n_chars > trie->max_content_chars) n_chars = trie->max_content_chars;
    return trie->contents + (size_t)n_chars * (size_t)trie->n_words;
}

/* Bytes of the character that starts with these, 0: none does. A character cut off by the end counts. */
static size_t char_length(const unsigned char *at, size_t left) {
    unsigned char first = at[0];
    if (first < 0x80) return 1;
    size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                    : (first & 0xF0) == 0xE0         ? 3
                    : first >= 0xF0 && first <= 0xF4 ? 4
                                                     : 0;
    unsigned char low = 0x80, high = 0xBF; // of the second byte: no overlong form, no surrogate, none over U+10FFFF
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
    for (size_t i = 1; i < length && i < left; i++) {
        if (at[i] < low || at[i] > high) return 0;
        low = 0x80;
        high = 0xBF;
    }
    return length < left ? length : length == 0 ? 0 : left;
}

/* Characters that a token begins as content of a JSON string, -1 when it is none. */
static int32_t content_chars(const struct entry *entry) {
    const unsigned char *bytes = (const unsigned char *)entry->bytes;
    int32_t n_chars = 0;
    for (size_t at = 0; at < entry->length; n_chars++) {
        size_t length = char_length(bytes + at, entry->length - at);
        if (length == 0 || bytes[at] < 0x20 || bytes[at] == '"' || bytes[at] == '\\') return -1;
        at += length;
    }
    return n_chars;
}

static void nodes_finish(struct token_nodes *nodes) {
    free(nodes->bytes);
    free(nodes->depths);
    free(nodes->skips);
    free(nodes->first_tokens);
    free(nodes->tokens);
}

static size_t shared_prefix(const struct entry *a, const struct entry *b) {
    size_t length = 0;
    while (length < a->length && length < b->length && a->bytes[length] == b->bytes[length]) length++;
    return length;
}

/* entries are sorted. */
static bool nodes_init(struct token_nodes *nodes, const struct entry *entries, uint32_t n_entries, struct error *err) {
    static const struct entry none;
    size_t n_nodes = 0;
    for (uint32_t i = 0; i < n_entries; i++)
        n_nodes += entries[i].length - shared_prefix(&entries[i], i > 0 ? &entries[i - 1] : &none);
    nodes->bytes = malloc(n_nodes + 1);
    nodes->depths = malloc(n_nodes + 1);
    nodes->skips = malloc((n_nodes + 1) * sizeof *nodes->skips);
    nodes->first_tokens = malloc((n_nodes + 1) * sizeof *nodes->first_tokens);
    nodes->tokens = malloc(((size_t)n_entries + 1) * sizeof *nodes->tokens);
    if (!nodes->bytes || !nodes->depths || !nodes->skips || !nodes->first_tokens || !nodes->tokens)
        return fail(err, ERR_MEMORY, "No memory for a trie of %u tokens.", n_entries);
    uint32_t path[TOKEN_TRIE_MAX_BYTES + 1]; // [depth] nodes whose subtree is open
    uint32_t n_open = 0, node = 0;
    for (uint32_t i = 0; i < n_entries; i++) {
        uint32_t shared = (uint32_t)shared_prefix(&entries[i], i > 0 ? &entries[i - 1] : &none);
        while (n_open > shared) nodes->skips[path[--n_open]] = node;
        for (; n_open < entries[i].length; node++) {
            nodes->bytes[node] = (uint8_t)entries[i].bytes[n_open];
            path[n_open++] = node;
            nodes->depths[node] = (uint8_t)n_open;
            nodes->first_tokens[node] = i;
        }
        nodes->tokens[i] = entries[i].id;
    }
    while (n_open > 0) nodes->skips[path[--n_open]] = node;
    nodes->first_tokens[node] = n_entries;
    nodes->n_nodes = node;
    nodes->n_tokens = n_entries;
    return true;
}

/* Makes contents of those that are content, and leaves the others in entries. */
static bool take_contents(struct token_trie *trie, struct entry *entries, uint32_t *n_entries, struct error *err) {
    uint32_t n_others = 0;
    size_t n_words = (size_t)trie->n_words;
    for (uint32_t i = 0; i < *n_entries; i++) {
        int32_t n_chars = content_chars(&entries[i]);
        if (n_chars > trie->max_content_chars) trie->max_content_chars = n_chars;
    }
    trie->contents = calloc((size_t)(trie->max_content_chars + 1) * n_words, sizeof *trie->contents);
    if (!trie->contents) return fail(err, ERR_MEMORY, "No memory for the masks of %d tokens.", trie->n_vocab);
    for (uint32_t i = 0; i < *n_entries; i++) {
        int32_t n_chars = content_chars(&entries[i]), id = entries[i].id;
        if (n_chars < 0) {
            entries[n_others++] = entries[i];
        } else {
            trie->contents[(size_t)n_chars * n_words + (size_t)id / 32] |= 1u << (id % 32);
        }
    }
    for (int32_t n_chars = 1; n_chars <= trie->max_content_chars; n_chars++) {
        uint32_t *words = trie->contents + (size_t)n_chars * n_words;
        for (size_t i = 0; i < n_words; i++) words[i] |= words[i - n_words];
    }
    *n_entries = n_others;
    return true;
}

struct token_trie *token_trie_create(const struct token_trie_options *options, struct error *err) {
    int32_t size = tokenizer_size(options->tokenizer);
    assert(options->n_vocab > 0 && options->n_stop_ids > 0);
    if (size > options->n_vocab) size = options->n_vocab;
    struct token_trie *trie = calloc(1, sizeof *trie);
    struct entry *entries = malloc(((size_t)size + 1) * sizeof *entries);
    uint32_t n_entries = 0;
    if (!trie || !entries) {
        fail(err, ERR_MEMORY, "No memory for a trie of %d tokens.", size);
        goto failed;
    }
    trie->tokenizer = options->tokenizer;
    trie->n_vocab = options->n_vocab;
    trie->n_words = (options->n_vocab + 31) / 32;
    trie->stop_ids = malloc((size_t)options->n_stop_ids * sizeof *trie->stop_ids);
    trie->lengths = calloc((size_t)trie->n_vocab, sizeof *trie->lengths);
    if (!trie->stop_ids || !trie->lengths) {
        fail(err, ERR_MEMORY, "No memory for a trie of %d tokens.", size);
        goto failed;
    }
    for (int32_t i = 0; i < options->n_stop_ids; i++) {
        if (options->stop_ids[i] < 0 || options->stop_ids[i] >= options->n_vocab) continue;
        trie->stop_ids[trie->n_stop_ids++] = options->stop_ids[i];
    }
    for (int32_t id = 0; id < size; id++) {
        struct entry entry = {.id = id};
        entry.bytes = tokenizer_bytes(trie->tokenizer, id, &entry.length);
        if (!is_text(trie->tokenizer, id, entry.bytes, entry.length) || token_trie_is_stop(trie, id)) continue;
        trie->lengths[id] = (uint8_t)entry.length;
        entries[n_entries++] = entry;
    }
    qsort(entries, n_entries, sizeof *entries, compare_entries);
    if (!nodes_init(&trie->all, entries, n_entries, err) || !take_contents(trie, entries, &n_entries, err) ||
        !nodes_init(&trie->outside, entries, n_entries, err))
        goto failed;
    free(entries);
    return trie;
failed:
    free(entries);
    token_trie_destroy(trie);
    return NULL;
}

void token_trie_destroy(struct token_trie *trie) {
    if (!trie) return;
    nodes_finish(&trie->all);
    nodes_finish(&trie->outside);
    free(trie->contents);
    free(trie->stop_ids);
    free(trie->lengths);
    free(trie);
}
