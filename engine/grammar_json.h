/* The parts that JSON is made of, as automata: strings, numbers, literals, and any value at all.
 *
 * Between tokens of JSON stands nothing, but for at most one space after ':' and ',': what Qwen3 writes by itself is
 * {"a": 1, "b": [2, 3]}, and a model that may put spaces anywhere can go on for ever. Strings are valid UTF-8, with
 * every escape but \u0000 and lone surrogates; with a limit of length or a pattern, characters have one spelling each.
 * Integers have at most 18 digits, numbers 16 before the point, 16 after it and an exponent of 2; with bounds less. */
#ifndef QUERN_ENGINE_GRAMMAR_JSON_H
#define QUERN_ENGINE_GRAMMAR_JSON_H

#include "engine/grammar_nfa.h"
#include "engine/grammar_regex.h"

struct cJSON;

#define JSON_MAX_INTEGER 999999999999999999 // 18 digits: fits 64 bits
#define JSON_EXACT       9007199254740992.0 // 2^53: larger numbers may have been rounded by who read them

/* Rules that are made when they are first called. Zero-initialise. */
struct json_rules {
    int32_t any;    // 0: not made yet
    int32_t string; // from after the opening quote
};

/* --- values --- */
void json_add_any(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to);
void json_add_any_object(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to);
void json_add_any_array(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to);
void json_add_number(struct nfa *nfa, int32_t from, int32_t to);
/* Numbers from low to high, without exponent and at most 15 digits; infinite: no bound. */
struct json_range {
    double low, high;
    bool excludes_low, excludes_high;
};
void json_add_bounded_number(struct nfa *nfa, int32_t from, struct json_range range, int32_t to); // grammar_decimal.c
/* Both ends count; within ±JSON_MAX_INTEGER. Nothing when low > high. */
void json_add_integer(struct nfa *nfa, int32_t from, int64_t low, int64_t high, int32_t to);
void json_add_string(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to);
/* max_chars: REGEX_ENDLESS for no limit. */
void json_add_bounded_string(struct nfa *nfa, int32_t from, int64_t min_chars, int64_t max_chars, int32_t to);
void json_add_pattern_string(struct nfa *nfa, int32_t from, const struct regex_use *use, int32_t to);
/* Exactly this value, members in their order. Fails at a number that JSON_EXACT does not cover. */
void json_add_literal(struct nfa *nfa, int32_t from, const struct cJSON *value, int32_t to);

/* --- punctuation --- */
void json_add_colon(struct nfa *nfa, int32_t from, int32_t to);
void json_add_comma(struct nfa *nfa, int32_t from, int32_t to);
/* "name" and the colon. */
void json_add_key(struct nfa *nfa, int32_t from, const char *name, int32_t to);
/* Any other key, written without escapes, and the colon. names are valid UTF-8, in the order of strcmp. */
void json_add_other_key(struct nfa *nfa, int32_t from, const char *const *names, int32_t n_names, int32_t to);

#endif
