/* The demo vocabulary as a trie, and grammars of it. */
#ifndef QUERN_TESTS_UNIT_GRAMMAR_FIXTURE_H
#define QUERN_TESTS_UNIT_GRAMMAR_FIXTURE_H

#include "engine/grammar.h"
#include "engine/token_trie.h"
#include "engine/tokenizer.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#define GRAMMAR_DEMO      "models/demo/tokenizer.json"
#define GRAMMAR_PUBLISHED "../shared/tokenizer-qwen3/tokenizer.json"

struct grammar_fixture {
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    int32_t stop;
    uint64_t random;
};

/* n_padding: ids of the logits that stand for nothing. */
static inline struct grammar_fixture *grammar_fixture_create(const char *path, int32_t n_padding) {
    struct error err = {0};
    struct grammar_fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    fixture->tokenizer = tokenizer_load(path, &err);
    if (!fixture->tokenizer) print_error("%s\n", err.message);
    assert_non_null(fixture->tokenizer);
    fixture->stop = tokenizer_find_added(fixture->tokenizer, "<|im_end|>");
    struct token_trie_options options = {fixture->tokenizer, tokenizer_size(fixture->tokenizer) + n_padding,
                                         &fixture->stop, 1};
    fixture->trie = token_trie_create(&options, &err);
    assert_non_null(fixture->trie);
    fixture->random = 1;
    return fixture;
}

static inline void grammar_fixture_destroy(struct grammar_fixture *fixture) {
    token_trie_destroy(fixture->trie);
    tokenizer_destroy(fixture->tokenizer);
    free(fixture);
}

static inline uint32_t grammar_fixture_draw(struct grammar_fixture *fixture, uint32_t below) {
    fixture->random = fixture->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fixture->random >> 33) % below);
}

static inline struct grammar *grammar_of(struct grammar_fixture *fixture, enum grammar_kind kind, const char *text) {
    struct error err = {0};
    struct grammar_source source = {kind, text, strlen(text)};
    struct grammar *grammar = grammar_create(fixture->trie, &source, &err);
    if (!grammar) print_error("%s: %s\n", text, err.message);
    assert_non_null(grammar);
    return grammar;
}

/* Whether the whole text is an answer. */
static inline bool grammar_takes(struct grammar *grammar, const char *text) {
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    bool takes = grammar_matcher_accept_bytes(&matcher, text, strlen(text)) && grammar_matcher_can_end(&matcher);
    grammar_matcher_finish(&matcher);
    return takes;
}

static inline bool mask_has(const uint32_t *mask, int32_t id) {
    return mask[id / 32] >> (id % 32) & 1;
}

/* One of the tokens of the mask, each as likely; -1: it is empty. */
static inline int32_t mask_draw(struct grammar_fixture *fixture, const uint32_t *mask) {
    int32_t n_allowed = 0, word = 0;
    for (int32_t i = 0; i < fixture->trie->n_words; i++) n_allowed += __builtin_popcount(mask[i]);
    if (n_allowed == 0) return -1;
    int32_t left = (int32_t)grammar_fixture_draw(fixture, (uint32_t)n_allowed);
    while (left >= __builtin_popcount(mask[word])) left -= __builtin_popcount(mask[word++]);
    uint32_t bits = mask[word];
    while (left-- > 0) bits &= bits - 1;
    return word * 32 + __builtin_ctz(bits);
}

/* --- languages --- */

/* In schemas, choices and answers to schemas ' stands for ". */
static inline char *grammar_quoted(const char *text) {
    char *copy = strdup(text);
    assert_non_null(copy);
    for (char *at = copy; *at; at++)
        if (*at == '\'') *at = '"';
    return copy;
}

struct grammar_language {
    const char *text;
    const char *taken[12];
    const char *not_taken[12];
};

static inline void grammar_assert_takes(struct grammar *grammar, const char *schema, const char *answer,
                                        bool expected) {
    char *text = grammar_quoted(answer);
    bool takes = grammar_takes(grammar, text);
    if (takes != expected) print_error("%s %s %s\n", schema, expected ? "must take" : "must not take", text);
    assert_int_equal(takes, expected);
    free(text);
}

static inline void grammar_assert_language(struct grammar_fixture *fixture, enum grammar_kind kind,
                                           const struct grammar_language *language) {
    char *text = grammar_quoted(language->text);
    struct grammar *grammar = grammar_of(fixture, kind, text);
    for (int i = 0; i < 12 && language->taken[i]; i++) grammar_assert_takes(grammar, text, language->taken[i], true);
    for (int i = 0; i < 12 && language->not_taken[i]; i++)
        grammar_assert_takes(grammar, text, language->not_taken[i], false);
    grammar_release(grammar);
    free(text);
}

static inline void grammar_assert_languages(struct grammar_fixture *fixture, enum grammar_kind kind,
                                            const struct grammar_language *languages, size_t n_languages) {
    for (size_t i = 0; i < n_languages; i++) grammar_assert_language(fixture, kind, &languages[i]);
}

static inline void grammar_assert_refused(struct grammar_fixture *fixture, enum grammar_kind kind, const char *text,
                                          const char *named) {
    struct error err = {0};
    char *copy = grammar_quoted(text);
    struct grammar_source source = {kind, copy, strlen(copy)};
    struct grammar *grammar = grammar_create(fixture->trie, &source, &err);
    if (grammar) print_error("%s was not refused\n", copy);
    assert_null(grammar);
    assert_int_equal(err.code, ERR_INVALID);
    if (!strstr(err.message, named)) print_error("%s: %s, not %s\n", copy, err.message, named);
    assert_non_null(strstr(err.message, named));
    free(copy);
}

#endif
