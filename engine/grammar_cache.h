/* Compiled grammars by their text, so that a schema that comes with every request is compiled once.
 *
 * Holds at most max_grammars and lets go of the one that was longest not asked for; whoever still uses it has a
 * reference of their own. Any thread may ask. Two threads that ask for a new text at once both compile it, and one
 * result is kept. */
#ifndef QUERN_ENGINE_GRAMMAR_CACHE_H
#define QUERN_ENGINE_GRAMMAR_CACHE_H

#include "engine/grammar.h"

struct grammar_cache;

/* trie is borrowed. */
struct grammar_cache *grammar_cache_create(const struct token_trie *trie, int32_t max_grammars, struct error *err);
void grammar_cache_destroy(struct grammar_cache *cache);

/* With a reference for the caller. Failures are those of grammar_create and are not kept. */
struct grammar *grammar_cache_get(struct grammar_cache *cache, const struct grammar_source *source, struct error *err);

struct grammar_cache_counts {
    int32_t n_grammars;
    uint64_t n_found, n_compiled;
};
struct grammar_cache_counts grammar_cache_counts(struct grammar_cache *cache);

#endif
