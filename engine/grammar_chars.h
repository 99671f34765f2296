/* Sets of characters, and the byte edges that read one of a set: as UTF-8, or as a JSON string writes it.
 *
 * A character is a code point that UTF-8 can carry: 0 to 0x10FFFF without the surrogates. In a JSON string '"', '\' and
 * the controls below U+0020 are read in their shortest escape, all others as they are: one spelling for each. */
#ifndef QUERN_ENGINE_GRAMMAR_CHARS_H
#define QUERN_ENGINE_GRAMMAR_CHARS_H

#include "engine/grammar_nfa.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHARS_LAST 0x10FFFFu

enum char_encoding { CHARS_UTF8, CHARS_JSON };

struct char_range {
    uint32_t low, high;
};

/* Zero-initialise, then char_set_finish. */
struct char_set {
    struct char_range *ranges; // [count] owned; ascending and apart after char_set_normalise
    int32_t count;
    int32_t capacity;
};

bool char_set_add(struct char_set *set, uint32_t low, uint32_t high);
bool char_set_add_set(struct char_set *set, const struct char_set *other);
/* These three expect and leave a normal set, but for the first, which makes one. False: no memory. */
void char_set_normalise(struct char_set *set);
bool char_set_negate(struct char_set *set);
bool char_set_contains(const struct char_set *set, uint32_t character);
void char_set_finish(struct char_set *set);

/* Whether these bytes are UTF-8 without NUL. */
bool chars_are_valid(const char *text, size_t length);
/* How many characters valid UTF-8 has. */
size_t chars_count(const char *text);
/* The character at *at of valid UTF-8, which is moved past it. */
uint32_t char_next(const char **at);

/* from --one character of the normal set--> to. */
void nfa_add_chars(struct nfa *nfa, int32_t from, const struct char_set *set, enum char_encoding encoding, int32_t to);

/* from --exactly this text, valid UTF-8--> to. */
void nfa_add_string(struct nfa *nfa, int32_t from, const char *text, enum char_encoding encoding, int32_t to);

#endif
