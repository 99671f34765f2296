/* Regular expressions to automata: ECMAScript's syntax as JSON Schema has it, in what is regular.
 *
 * Literals, '.', classes with \d \w \s and their negations, groups, '|', * + ? {m} {m,} {m,n} (lazy forms mean the
 * same), \n \t \r \f \v \xHH \uHHHH, ^ at the very beginning and $ at the very end of an alternative of the whole. \d
 * and \w are ASCII, \s is Unicode's white space, '.' leaves out line ends. Refused by name: lookaround, backreferences,
 * named groups, \b, \p. The whole pattern has REGEX_MAX_NODES at most, and REGEX_MAX_STATES once counts are written
 * out. */
#ifndef QUERN_ENGINE_GRAMMAR_REGEX_H
#define QUERN_ENGINE_GRAMMAR_REGEX_H

#include "engine/grammar_chars.h"

#define REGEX_MAX_NODES  4096
#define REGEX_MAX_STATES 20000
#define REGEX_MAX_DEPTH  64
#define REGEX_ENDLESS    (-1)

/* Over characters: what the whole text or, in a search, any part of it must be. */
struct regex {
    struct char_set *sets; // [n_sets] normal, owned
    int32_t n_sets;
    struct regex_edge {
        int32_t from, to;
        int32_t set;      // -1: reads nothing
    } * edges;            // [n_edges] by `from`, owned
    int32_t *first_edges; // [n_states + 1] owned
    int32_t n_edges;
    int32_t n_states;
    int32_t start, end;
};

enum regex_mode { REGEX_WHOLE, REGEX_SEARCH };

/* pattern is valid UTF-8. ERR_INVALID says what is not understood or not supported, and where. */
bool regex_compile(struct regex *regex, const char *pattern, enum regex_mode mode, struct error *err);
void regex_finish(struct regex *regex);

/* Whether text, valid UTF-8, fits. False too when there is no memory. */
bool regex_fits(const struct regex *regex, const char *text);

/* from --a text that fits, of min_chars to max_chars (REGEX_ENDLESS: no limit) characters--> to. */
struct regex_use {
    const struct regex *regex;
    enum char_encoding encoding;
    int64_t min_chars, max_chars;
};
void nfa_add_regex(struct nfa *nfa, int32_t from, const struct regex_use *use, int32_t to);

#endif
