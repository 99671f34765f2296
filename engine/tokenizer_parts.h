/* What a tokenizer is made of; for tokenizer.c, which uses it, and tokenizer_load.c, which fills it. */
#ifndef QUERN_ENGINE_TOKENIZER_PARTS_H
#define QUERN_ENGINE_TOKENIZER_PARTS_H

#include "engine/bpe.h"
#include "engine/split_pattern.h"
#include "engine/tokenizer.h"
#include "engine/vocabulary.h"

/* A token that is found in the raw text before anything else. */
struct added_token {
    const char *content; // [length], borrowed from the vocabulary
    uint32_t length;
    int32_t id;
    bool is_special;
};

struct tokenizer {
    bool uses_nfc;
    int32_t end_id;                // behind every text, -1: none
    struct split_pattern *pattern; // owned
    struct vocabulary vocabulary;  // findable: the tokens that BPE may make
    struct bpe bpe;
    struct added_token *added; // [n_added] in byte order, so that binary search reads it as a trie, owned
    int32_t n_added;
    bool added_first[256]; // bytes that start an added token
};

#endif
