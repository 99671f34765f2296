/* What an answer may be - a JSON schema, a regular expression, a list of choices, a tool call - and for each point of
 * an answer the tokens that may come next.
 *
 * A grammar is compiled once, on any thread, under limits: GRAMMAR_MAX_BYTES of text, NFA_MAX_STATES, NFA_MAX_DEPTH
 * levels of recursion; over them, or with a keyword that is not covered, compiling fails with ERR_INVALID, which says
 * what is wrong and what is allowed. A matcher is one answer's place in it. Whatever the masks let through fits the
 * grammar, and no mask is empty: a place that can be reached can be left towards an end. Stop ids are in a mask exactly
 * when the answer may end there; special and added tokens never are. A schema's language is narrower than the schema
 * where JSON has many spellings: see grammar_schema.h and grammar_json.h.
 *
 * A grammar is shared, counted by references, and locks itself: matchers of one grammar may live on several threads.
 * Masks are found when they are first needed (engine thread) and kept: then a step costs a look into a table. */
#ifndef QUERN_ENGINE_GRAMMAR_H
#define QUERN_ENGINE_GRAMMAR_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct grammar;
struct token_trie;

#define GRAMMAR_MAX_BYTES ((size_t)128 << 10)

enum grammar_kind {
    GRAMMAR_JSON_OBJECT, // any JSON object; no text
    GRAMMAR_JSON_SCHEMA, // text: the schema
    GRAMMAR_REGEX,       // text: an expression that the whole answer fits, syntax in grammar_regex.h
    GRAMMAR_CHOICE,      // text: a JSON array of strings, one of which is the answer
    GRAMMAR_TOOL_CALL,   // text: a JSON array of tools, one of which is called, form in grammar_calls.h
    GRAMMAR_XML_CALL,    // the same, called in XML
};

struct grammar_source {
    enum grammar_kind kind;
    const char *text; // [length] UTF-8, need not end in NUL
    size_t length;
};

/* trie is borrowed and must outlive the grammar. The caller has one reference. */
struct grammar *grammar_create(const struct token_trie *trie, const struct grammar_source *source, struct error *err);
struct grammar *grammar_retain(struct grammar *grammar); // gives it back
void grammar_release(struct grammar *grammar);           // takes NULL

/* A place in a grammar; holds a reference to it. Must not be moved in memory between init and finish. */
struct grammar_matcher {
    struct grammar *grammar;                 // owned reference
    struct grammar_matcher *next, *previous; // matchers of the same grammar
    int32_t state;
};

void grammar_matcher_init(struct grammar_matcher *matcher, struct grammar *grammar);
/* An equal place of its own, in memory that is not initialised. */
void grammar_matcher_copy(struct grammar_matcher *copy, const struct grammar_matcher *matcher);
/* A zeroed matcher is allowed. */
void grammar_matcher_finish(struct grammar_matcher *matcher);

/* The tokens that may come now: bit id % 32 of word id / 32, token_trie.n_words words. Borrowed: valid until this
 * matcher accepts or is finished. Two places with the same tokens may give the same pointer. NULL only when memory runs
 * out. */
const uint32_t *grammar_matcher_mask(struct grammar_matcher *matcher, struct error *err);

/* Takes a token, a stop id too. False, and the place stays as it was, when it may not come now. */
bool grammar_matcher_accept(struct grammar_matcher *matcher, int32_t token);
/* The same with bytes, which need not be whole tokens. */
bool grammar_matcher_accept_bytes(struct grammar_matcher *matcher, const char *bytes, size_t length);

/* The answer may end here. */
bool grammar_matcher_can_end(const struct grammar_matcher *matcher);

/* What a grammar has found so far; for tests and tuning. */
struct grammar_counts {
    int32_t n_automaton_states;
    int32_t n_states, n_frames, n_masks;
};
struct grammar_counts grammar_counts(struct grammar *grammar);

#endif
