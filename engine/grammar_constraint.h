/* A grammar as the engine's constraint on one answer, reasoning left free.
 *
 * Before the answer proper a model may reason between two tokens: until the closing one any token may come, but none
 * that ends the answer, for then nothing would fit the grammar. After it comes the line break that the Qwen3 templates
 * have there, if the vocabulary has it as a token, and then the grammar holds. A model that may reason but does not
 * begin with the opening token is held to the grammar at once.
 *
 * With calls, the answer proper is tool calls: each the grammar between two tokens. Calls that are required are all
 * there is, with a line break between two. Calls that are allowed stand between texts that are as free as the
 * reasoning, and may end. What is free never spells in plain characters the token that would end it: for readers of
 * the text it would be the same. */
#ifndef QUERN_ENGINE_GRAMMAR_CONSTRAINT_H
#define QUERN_ENGINE_GRAMMAR_CONSTRAINT_H

#include "engine/constraint.h"
#include "engine/error.h"
#include "engine/grammar.h"

struct tokenizer;

enum reasoning_place {
    REASONING_NONE,   // the answer begins at once
    REASONING_MAY,    // the opening token may come first
    REASONING_INSIDE, // the prompt ends behind the opening token
};

enum constrained_calls {
    CALLS_NONE,     // the grammar is the answer
    CALLS_ALLOWED,  // the grammar is what is called
    CALLS_ONE,      // there is one call
    CALLS_REQUIRED, // there are calls
};

struct grammar_constraint_options {
    struct grammar *grammar;       // retained
    const struct token_trie *trie; // of the grammar, borrowed
    enum reasoning_place reasoning;
    int32_t opens, closes; // tokens around reasoning; -1: the vocabulary has none, and reasoning is as REASONING_NONE
    int32_t line_break;    // token between the closing one and the answer; -1: none
    enum constrained_calls calls;
    int32_t call_opens, call_closes; // tokens around a call; must be there unless CALLS_NONE
    int32_t call_break;              // token between two calls; -1: none
};

/* NULL: no memory. For one request: engine_submit takes it. */
struct constraint *grammar_constraint_create(const struct grammar_constraint_options *options, struct error *err);

/* Fills the tokens from the vocabulary: "<think>", "</think>", two newlines, "<tool_call>", "</tool_call>", a newline;
 * -1 for those it has not. */
void grammar_constraint_find_tokens(struct grammar_constraint_options *options, const struct tokenizer *tokenizer);

#endif
