/* The vocabulary as a trie of bytes, so that an automaton can be run over every token at once.
 *
 * Made once at load, then immutable: any number of threads may read it. Tokens that stand for nothing, added tokens
 * (special ones among them) and tokens over TOKEN_TRIE_MAX_BYTES are in no trie and in no mask. A token mask is an
 * array of uint32_t words, bit id % 32 of word id / 32: set when the token is allowed.
 *
 * Most of a JSON answer is the inside of strings, where nearly every token is allowed. The masks of the tokens that
 * stay inside a string are made here once, by the number of characters they begin; only the others need a walk then. */
#ifndef QUERN_ENGINE_TOKEN_TRIE_H
#define QUERN_ENGINE_TOKEN_TRIE_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

#define TOKEN_TRIE_MAX_BYTES 255

/* Nodes in preorder, the root left out. */
struct token_nodes {
    uint8_t *bytes;         // [n_nodes] of the edge to the node, owned
    uint8_t *depths;        // [n_nodes] 1 for a first byte, owned
    uint32_t *skips;        // [n_nodes] the node after the subtree, owned
    uint32_t *first_tokens; // [n_nodes + 1] tokens[first_tokens[i]] to tokens[first_tokens[i + 1]] end at node i, owned
    int32_t *tokens;        // [n_tokens] in the order of their bytes, owned
    uint32_t n_nodes;
    uint32_t n_tokens;
};

struct token_trie {
    const struct tokenizer *tokenizer; // borrowed
    int32_t n_vocab;
    int32_t n_words;            // of a mask
    uint8_t *lengths;           // [n_vocab] bytes of each token, 0 when it is in no trie, owned
    struct token_nodes all;     // every token of the trie
    struct token_nodes outside; // those that leave a JSON string or are none of its content
    uint32_t *contents;         // [max_content_chars + 1][n_words] content of at most so many characters, owned
    int32_t max_content_chars;  // of the longest token that is content
    int32_t *stop_ids;          // [n_stop_ids] owned
    int32_t n_stop_ids;
};

struct token_trie_options {
    const struct tokenizer *tokenizer; // borrowed, must outlive the trie
    int32_t n_vocab;                   // of the logits; tokens past it are in no trie
    const int32_t *stop_ids;           // [n_stop_ids] what ends an answer, copied; at least one in the vocabulary
    int32_t n_stop_ids;
};

struct token_trie *token_trie_create(const struct token_trie_options *options, struct error *err);
void token_trie_destroy(struct token_trie *trie);

/* The bytes of a token that is in the trie, borrowed from the tokenizer; length 0 for every other id. */
const char *token_trie_bytes(const struct token_trie *trie, int32_t id, size_t *length);

bool token_trie_is_stop(const struct token_trie *trie, int32_t id);

/* Tokens that are at most n_chars characters of a JSON string: as they stand there, without escapes; the last may be
 * unfinished. [n_words], borrowed. */
const uint32_t *token_trie_content(const struct token_trie *trie, int32_t n_chars);

#endif
