#include "engine/grammar_constraint.h"

#include "engine/token_trie.h"
#include "engine/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum place { PLACE_START, PLACE_REASONING, PLACE_BREAK, PLACE_ANSWER, PLACE_STUCK };

struct grammar_constraint {
    struct constraint base; // first: this is what the engine knows
    struct grammar_matcher matcher;
    const struct token_trie *trie; // borrowed
    int32_t opens, closes, line_break;
    enum place place;
};

static void set_bit(uint32_t *mask, int32_t token) {
    mask[token / 32] |= 1u << (token % 32);
}

static enum constraint_answer fill(struct constraint *base, uint32_t *mask, int32_t vocab) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    const struct token_trie *trie = constraint->trie;
    size_t bytes = (size_t)trie->n_words * sizeof *mask;
    assert(vocab == trie->n_vocab);
    (void)vocab;
    if (constraint->place == PLACE_STUCK) return CONSTRAINT_STUCK;
    if (constraint->place == PLACE_BREAK) {
        memset(mask, 0, bytes);
        set_bit(mask, constraint->line_break);
        return CONSTRAINT_MASKED;
    }
    if (constraint->place == PLACE_REASONING) {
        memset(mask, 0xFF, bytes);
        for (int32_t i = 0; i < trie->n_stop_ids; i++)
            mask[trie->stop_ids[i] / 32] &= ~(1u << (trie->stop_ids[i] % 32));
        return CONSTRAINT_MASKED;
    }
    const uint32_t *allowed = grammar_matcher_mask(&constraint->matcher, NULL);
    if (!allowed) return CONSTRAINT_STUCK;
    memcpy(mask, allowed, bytes);
    if (constraint->place == PLACE_START) set_bit(mask, constraint->opens);
    return CONSTRAINT_MASKED;
}

static void accept(struct constraint *base, int32_t token) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    enum place after_reasoning = constraint->line_break >= 0 ? PLACE_BREAK : PLACE_ANSWER;
    switch (constraint->place) {
    case PLACE_START:
        constraint->place = PLACE_ANSWER;
        if (token != constraint->opens) break;
        constraint->place = PLACE_REASONING;
        return;
    case PLACE_REASONING:
        if (token == constraint->closes) constraint->place = after_reasoning;
        return;
    case PLACE_BREAK:
        constraint->place = token == constraint->line_break ? PLACE_ANSWER : PLACE_STUCK;
        return;
    case PLACE_ANSWER:
        break;
    case PLACE_STUCK:
        return;
    }
    if (!grammar_matcher_accept(&constraint->matcher, token)) constraint->place = PLACE_STUCK;
}

static void destroy(struct constraint *base) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    grammar_matcher_finish(&constraint->matcher);
    free(constraint);
}

struct constraint *grammar_constraint_create(const struct grammar_constraint_options *options, struct error *err) {
    struct grammar_constraint *constraint = calloc(1, sizeof *constraint);
    if (!constraint) {
        fail(err, ERR_MEMORY, "No memory for a constraint.");
        return NULL;
    }
    bool can_reason = options->opens >= 0 && options->closes >= 0;
    constraint->base = (struct constraint){.fill = fill, .accept = accept, .destroy = destroy};
    constraint->trie = options->trie;
    constraint->opens = options->opens;
    constraint->closes = options->closes;
    constraint->line_break = options->line_break;
    constraint->place = PLACE_ANSWER;
    if (can_reason && options->reasoning == REASONING_MAY) constraint->place = PLACE_START;
    if (can_reason && options->reasoning == REASONING_INSIDE) constraint->place = PLACE_REASONING;
    grammar_matcher_init(&constraint->matcher, options->grammar);
    return &constraint->base;
}

void grammar_constraint_find_tokens(struct grammar_constraint_options *options, const struct tokenizer *tokenizer) {
    struct token_list ids = {0};
    options->opens = tokenizer_find_added(tokenizer, "<think>");
    options->closes = tokenizer_find_added(tokenizer, "</think>");
    options->line_break = tokenizer_encode(tokenizer, "\n\n", 2, &ids, NULL) && ids.count == 1 ? ids.ids[0] : -1;
    token_list_finish(&ids);
}
