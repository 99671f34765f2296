#include "engine/grammar_constraint.h"

#include "engine/token_trie.h"
#include "engine/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum place {
    PLACE_REASONING,
    PLACE_BREAK,  // between reasoning and answer
    PLACE_ANSWER, // all of it fits the grammar
    PLACE_TEXT,   // in which calls are allowed
    PLACE_OPEN,   // a call must be opened
    PLACE_CALL,   // what stands in it fits the grammar
    PLACE_CLOSED, // behind a call, where another may follow
    PLACE_END,
    PLACE_STUCK,
};

struct grammar_constraint {
    struct constraint base;                    // first: this is what the engine knows
    struct grammar_constraint_options options; // with a reference to the grammar
    struct grammar_matcher matcher;            // of the answer or of the call at hand
    enum place place;
    bool may_reason;  // the next token may open reasoning
    size_t n_spelled; // bytes of the mark that would end free text, with which that text ends
};

/* --- masks --- */

static void set_bit(uint32_t *mask, int32_t token) {
    mask[token / 32] |= 1u << (token % 32);
}

static void clear_bit(uint32_t *mask, int32_t token) {
    mask[token / 32] &= ~(1u << (token % 32));
}

static void clear_stops(uint32_t *mask, const struct token_trie *trie) {
    for (int32_t i = 0; i < trie->n_stop_ids; i++) clear_bit(mask, trie->stop_ids[i]);
}

static void set_stops(uint32_t *mask, const struct token_trie *trie) {
    for (int32_t i = 0; i < trie->n_stop_ids; i++) set_bit(mask, trie->stop_ids[i]);
}

static void copy_words(uint32_t *mask, const uint32_t *words, const struct token_trie *trie) {
    memcpy(mask, words, (size_t)trie->n_words * sizeof *mask);
}

/* --- free text --- */

/* A mark has its first byte nowhere else, so that text which stops spelling it can only begin it anew. */
static const char *mark_of(enum place place) {
    return place == PLACE_REASONING ? "</think>" : "<tool_call>";
}

static void follow_text(struct grammar_constraint *constraint, int32_t token) {
    const char *mark = mark_of(constraint->place);
    size_t length, n = constraint->n_spelled;
    const char *bytes = token_trie_bytes(constraint->options.trie, token, &length);
    for (size_t i = 0; i < length; i++) {
        n = bytes[i] == mark[n] ? n + 1 : bytes[i] == mark[0];
        if (mark[n] == '\0') n = 0;
    }
    constraint->n_spelled = n;
}

/* Tokens that would complete the mark: one subtree of the vocabulary. */
static void clear_spelling(const struct grammar_constraint *constraint, uint32_t *mask) {
    const struct token_nodes *nodes = &constraint->options.trie->all;
    uint32_t node = 0, end = nodes->n_nodes;
    for (const char *rest = mark_of(constraint->place) + constraint->n_spelled; *rest; rest++) {
        while (node < end && nodes->bytes[node] != (uint8_t)*rest) node = nodes->skips[node];
        if (node == end) return;
        if (rest[1] == '\0') break;
        end = nodes->skips[node++];
    }
    end = nodes->first_tokens[nodes->skips[node]];
    for (uint32_t i = nodes->first_tokens[node]; i < end; i++) clear_bit(mask, nodes->tokens[i]);
}

static enum constraint_answer fill_free(const struct grammar_constraint *constraint, uint32_t *mask) {
    bool may_end = constraint->options.calls == CALLS_ALLOWED;
    if (may_end && constraint->n_spelled == 0) return CONSTRAINT_FREE;
    memset(mask, 0xFF, (size_t)constraint->options.trie->n_words * sizeof *mask);
    if (!may_end) clear_stops(mask, constraint->options.trie);
    if (constraint->n_spelled > 0) clear_spelling(constraint, mask);
    return CONSTRAINT_MASKED;
}

/* --- what may come --- */

static enum constraint_answer fill_grammar(struct grammar_constraint *constraint, uint32_t *mask) {
    const uint32_t *allowed = grammar_matcher_mask(&constraint->matcher, NULL);
    if (!allowed) return CONSTRAINT_STUCK;
    copy_words(mask, allowed, constraint->options.trie);
    if (constraint->place == PLACE_CALL && grammar_matcher_can_end(&constraint->matcher)) {
        clear_stops(mask, constraint->options.trie);
        set_bit(mask, constraint->options.call_closes);
    }
    return CONSTRAINT_MASKED;
}

/* No other tokens than a few. */
static enum constraint_answer fill_listed(const struct grammar_constraint *constraint, uint32_t *mask) {
    const struct grammar_constraint_options *options = &constraint->options;
    memset(mask, 0, (size_t)options->trie->n_words * sizeof *mask);
    if (constraint->place == PLACE_BREAK) set_bit(mask, options->line_break);
    if (constraint->place == PLACE_OPEN) set_bit(mask, options->call_opens);
    if (constraint->place == PLACE_CLOSED)
        set_bit(mask, options->call_break >= 0 ? options->call_break : options->call_opens);
    if (constraint->place == PLACE_CLOSED || constraint->place == PLACE_END) set_stops(mask, options->trie);
    return CONSTRAINT_MASKED;
}

static enum constraint_answer fill(struct constraint *base, uint32_t *mask, int32_t vocab) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    assert(vocab == constraint->options.trie->n_vocab);
    (void)vocab;
    enum constraint_answer answer = CONSTRAINT_STUCK;
    switch (constraint->place) {
    case PLACE_REASONING:
    case PLACE_TEXT:
        answer = fill_free(constraint, mask);
        break;
    case PLACE_ANSWER:
    case PLACE_CALL:
        answer = fill_grammar(constraint, mask);
        break;
    case PLACE_BREAK:
    case PLACE_OPEN:
    case PLACE_CLOSED:
    case PLACE_END:
        answer = fill_listed(constraint, mask);
        break;
    case PLACE_STUCK:
        break;
    }
    if (constraint->may_reason && answer == CONSTRAINT_MASKED) set_bit(mask, constraint->options.opens);
    return answer;
}

/* --- what has come --- */

static void go_to(struct grammar_constraint *constraint, enum place place) {
    constraint->place = place;
    constraint->n_spelled = 0;
}

static enum place answer_place(const struct grammar_constraint *constraint) {
    enum constrained_calls calls = constraint->options.calls;
    return calls == CALLS_NONE ? PLACE_ANSWER : calls == CALLS_ALLOWED ? PLACE_TEXT : PLACE_OPEN;
}

static void leave_reasoning(struct grammar_constraint *constraint) {
    bool has_break = constraint->options.line_break >= 0 && constraint->options.calls != CALLS_ALLOWED;
    go_to(constraint, has_break ? PLACE_BREAK : answer_place(constraint));
}

static void open_call(struct grammar_constraint *constraint) {
    go_to(constraint, PLACE_CALL);
    grammar_matcher_finish(&constraint->matcher);
    grammar_matcher_init(&constraint->matcher, constraint->options.grammar);
}

static void close_call(struct grammar_constraint *constraint) {
    static const enum place behind[] = {
        [CALLS_ALLOWED] = PLACE_TEXT, [CALLS_ONE] = PLACE_END, [CALLS_REQUIRED] = PLACE_CLOSED};
    go_to(constraint, behind[constraint->options.calls]);
}

static void accept_in_call(struct grammar_constraint *constraint, int32_t token) {
    bool is_stop = token_trie_is_stop(constraint->options.trie, token);
    if (token == constraint->options.call_closes && grammar_matcher_can_end(&constraint->matcher)) {
        close_call(constraint);
    } else if (is_stop || !grammar_matcher_accept(&constraint->matcher, token)) {
        go_to(constraint, PLACE_STUCK);
    }
}

static void accept(struct constraint *base, int32_t token) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    const struct grammar_constraint_options *options = &constraint->options;
    bool opens_reasoning = constraint->may_reason && token == options->opens;
    constraint->may_reason = false;
    if (opens_reasoning) {
        go_to(constraint, PLACE_REASONING);
        return;
    }
    switch (constraint->place) {
    case PLACE_REASONING:
        follow_text(constraint, token);
        if (token == options->closes) leave_reasoning(constraint);
        return;
    case PLACE_TEXT:
        follow_text(constraint, token);
        if (token == options->call_opens) open_call(constraint);
        return;
    case PLACE_BREAK:
        go_to(constraint, token == options->line_break ? answer_place(constraint) : PLACE_STUCK);
        return;
    case PLACE_OPEN:
        if (token == options->call_opens) {
            open_call(constraint);
        } else {
            go_to(constraint, PLACE_STUCK);
        }
        return;
    case PLACE_CALL:
        accept_in_call(constraint, token);
        return;
    case PLACE_CLOSED:
        if (token_trie_is_stop(options->trie, token)) {
            go_to(constraint, PLACE_END);
        } else if (token == options->call_opens && options->call_break < 0) {
            open_call(constraint);
        } else {
            go_to(constraint, token == options->call_break ? PLACE_OPEN : PLACE_STUCK);
        }
        return;
    case PLACE_END:
        if (!token_trie_is_stop(options->trie, token)) go_to(constraint, PLACE_STUCK);
        return;
    case PLACE_ANSWER:
        if (!grammar_matcher_accept(&constraint->matcher, token)) go_to(constraint, PLACE_STUCK);
        return;
    case PLACE_STUCK:
        return;
    }
}

/* --- life --- */

static void destroy(struct constraint *base) {
    struct grammar_constraint *constraint = (struct grammar_constraint *)base;
    grammar_matcher_finish(&constraint->matcher);
    grammar_release(constraint->options.grammar);
    free(constraint);
}

struct constraint *grammar_constraint_create(const struct grammar_constraint_options *options, struct error *err) {
    assert(options->calls == CALLS_NONE || (options->call_opens >= 0 && options->call_closes >= 0));
    struct grammar_constraint *constraint = calloc(1, sizeof *constraint);
    if (!constraint) {
        fail(err, ERR_MEMORY, "No memory for a constraint.");
        return NULL;
    }
    bool can_reason = options->opens >= 0 && options->closes >= 0;
    constraint->base = (struct constraint){.fill = fill, .accept = accept, .destroy = destroy};
    constraint->options = *options;
    grammar_retain(constraint->options.grammar);
    constraint->may_reason = can_reason && options->reasoning == REASONING_MAY;
    constraint->place =
        can_reason && options->reasoning == REASONING_INSIDE ? PLACE_REASONING : answer_place(constraint);
    grammar_matcher_init(&constraint->matcher, options->grammar);
    return &constraint->base;
}

static int32_t find_plain(const struct tokenizer *tokenizer, const char *text, size_t length) {
    struct token_list ids = {0};
    int32_t id = tokenizer_encode(tokenizer, text, length, &ids, NULL) && ids.count == 1 ? ids.ids[0] : -1;
    token_list_finish(&ids);
    return id;
}

void grammar_constraint_find_tokens(struct grammar_constraint_options *options, const struct tokenizer *tokenizer) {
    options->opens = tokenizer_find_added(tokenizer, "<think>");
    options->closes = tokenizer_find_added(tokenizer, "</think>");
    options->line_break = find_plain(tokenizer, "\n\n", 2);
    options->call_opens = tokenizer_find_added(tokenizer, "<tool_call>");
    options->call_closes = tokenizer_find_added(tokenizer, "</tool_call>");
    options->call_break = find_plain(tokenizer, "\n", 1);
}
