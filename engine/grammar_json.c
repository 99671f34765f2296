#include "engine/grammar_json.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- punctuation --- */

static void add_spaced(struct nfa *nfa, int32_t from, int byte, int32_t to) {
    int32_t after = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, byte, after);
    nfa_add_byte(nfa, after, ' ', to);
    nfa_add_epsilon(nfa, after, to);
}

void json_add_colon(struct nfa *nfa, int32_t from, int32_t to) {
    add_spaced(nfa, from, ':', to);
}

void json_add_comma(struct nfa *nfa, int32_t from, int32_t to) {
    add_spaced(nfa, from, ',', to);
}

static void add_quoted(struct nfa *nfa, int32_t from, const char *text, int32_t to) {
    int32_t open = nfa_add_state(nfa), close = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '"', open);
    nfa_add_string(nfa, open, text, CHARS_JSON, close);
    nfa_add_byte(nfa, close, '"', to);
}

void json_add_key(struct nfa *nfa, int32_t from, const char *name, int32_t to) {
    int32_t colon = nfa_add_state(nfa);
    add_quoted(nfa, from, name, colon);
    json_add_colon(nfa, colon, to);
}

/* --- strings --- */

/* What stands in a string as itself, but for the n characters of `without`, which ascend. */
static void add_plain_chars(struct nfa *nfa, int32_t from, const uint32_t *without, int32_t n, int32_t to) {
    struct char_set plain = {0};
    bool added = char_set_add(&plain, 0, 0x1F) && char_set_add(&plain, '"', '"') && char_set_add(&plain, '\\', '\\');
    for (int32_t i = 0; i < n && added; i++) added = char_set_add(&plain, without[i], without[i]);
    char_set_normalise(&plain);
    if (added && char_set_negate(&plain)) {
        nfa_add_chars(nfa, from, &plain, CHARS_UTF8, to);
    } else {
        nfa_fail(nfa, ERR_MEMORY, "No memory for a set of characters.");
    }
    char_set_finish(&plain);
}

/* n hexadecimal digits. */
static void add_hex(struct nfa *nfa, int32_t from, int n, int32_t to) {
    for (; n > 0; n--) {
        int32_t next = n > 1 ? nfa_add_state(nfa) : to;
        nfa_add_bytes(nfa, from, '0', '9', next);
        nfa_add_bytes(nfa, from, 'A', 'F', next);
        nfa_add_bytes(nfa, from, 'a', 'f', next);
        from = next;
    }
}

/* After \u: four digits, not 0000, or two surrogates in the right order. */
static void add_code_point(struct nfa *nfa, int32_t from, int32_t to) {
    int32_t three = nfa_add_state(nfa), surrogate = nfa_add_state(nfa), zero = from;
    nfa_add_bytes(nfa, from, '1', '9', three);
    for (int letter = 0; letter <= 0x20; letter += 0x20) {
        nfa_add_bytes(nfa, from, 'A' + letter, 'C' + letter, three);
        nfa_add_bytes(nfa, from, 'E' + letter, 'F' + letter, three);
        nfa_add_byte(nfa, from, 'D' + letter, surrogate);
    }
    add_hex(nfa, three, 3, to);
    for (int left = 3; left > 0; left--) { // zeros, then a digit that is none and left - 1 more of any kind
        int32_t next = nfa_add_state(nfa), rest = left > 1 ? nfa_add_state(nfa) : to;
        nfa_add_byte(nfa, zero, '0', next);
        nfa_add_bytes(nfa, next, '1', '9', rest);
        nfa_add_bytes(nfa, next, 'A', 'F', rest);
        nfa_add_bytes(nfa, next, 'a', 'f', rest);
        add_hex(nfa, rest, left - 1, to);
        zero = next;
    }
    int32_t two = nfa_add_state(nfa), high = nfa_add_state(nfa), second = nfa_add_state(nfa);
    int32_t slash = nfa_add_state(nfa), low = nfa_add_state(nfa), last = nfa_add_state(nfa);
    nfa_add_bytes(nfa, surrogate, '0', '7', two);
    add_hex(nfa, two, 2, to);
    nfa_add_bytes(nfa, surrogate, '8', '9', high);
    nfa_add_bytes(nfa, surrogate, 'A', 'B', high);
    nfa_add_bytes(nfa, surrogate, 'a', 'b', high);
    add_hex(nfa, high, 2, second);
    nfa_add_byte(nfa, second, '\\', slash);
    nfa_add_byte(nfa, slash, 'u', low);
    int32_t d = nfa_add_state(nfa);
    nfa_add_byte(nfa, low, 'D', d);
    nfa_add_byte(nfa, low, 'd', d);
    nfa_add_bytes(nfa, d, 'C', 'F', last);
    nfa_add_bytes(nfa, d, 'c', 'f', last);
    add_hex(nfa, last, 2, to);
}

static void add_short_escapes(struct nfa *nfa, int32_t from, const char *letters, int32_t to) {
    for (; *letters; letters++) nfa_add_byte(nfa, from, *letters, to);
}

void json_add_string(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to) {
    if (rules->string == 0) {
        rules->string = nfa_add_rule(nfa);
        if (nfa_has_failed(nfa)) return;
        struct nfa_rule rule = nfa->rules[rules->string];
        int32_t body = nfa_add_state(nfa), escape = nfa_add_state(nfa), code = nfa_add_state(nfa);
        nfa_add_epsilon(nfa, rule.start, body);
        nfa_set_contents(nfa, body, NFA_ENDLESS);
        add_plain_chars(nfa, body, NULL, 0, body);
        nfa_add_byte(nfa, body, '\\', escape);
        add_short_escapes(nfa, escape, "\"\\/bfnrt", body);
        nfa_add_byte(nfa, escape, 'u', code);
        add_code_point(nfa, code, body);
        nfa_add_byte(nfa, body, '"', rule.end);
    }
    int32_t open = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '"', open);
    nfa_add_call(nfa, open, rules->string, to);
}

/* Here a control is written in its short form, if it has one: a copy for each character must be small. */
void json_add_bounded_string(struct nfa *nfa, int32_t from, int64_t min_chars, int64_t max_chars, int32_t to) {
    bool is_endless = max_chars == REGEX_ENDLESS;
    int64_t last = is_endless ? min_chars : max_chars;
    if (last > NFA_MAX_STATES) {
        nfa_fail(nfa, ERR_INVALID, "A string of %lld characters is more than a grammar can count.", (long long)last);
        return;
    }
    int32_t body = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '"', body);
    for (int64_t n_chars = 0; n_chars <= last && !nfa_has_failed(nfa); n_chars++) {
        if (n_chars >= min_chars) nfa_add_byte(nfa, body, '"', to);
        if (n_chars == last && !is_endless) break;
        int32_t next = n_chars < last ? nfa_add_state(nfa) : body, escape = nfa_add_state(nfa);
        nfa_set_contents(nfa, body, is_endless ? NFA_ENDLESS : (int32_t)(last - n_chars));
        add_plain_chars(nfa, body, NULL, 0, next);
        nfa_add_byte(nfa, body, '\\', escape);
        add_short_escapes(nfa, escape, "\"\\bfnrt", next);
        body = next;
    }
}

void json_add_pattern_string(struct nfa *nfa, int32_t from, const struct regex_use *use, int32_t to) {
    int32_t open = nfa_add_state(nfa), close = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '"', open);
    nfa_add_regex(nfa, open, use, close);
    nfa_add_byte(nfa, close, '"', to);
}

/* Names that share their first `offset` bytes, all ending after them: what is none of them goes to `body`. */
struct other_key {
    struct nfa *nfa;
    int32_t body;  // in the string, unlike all names
    int32_t close; // after the string
};

static void add_unlike(struct other_key *key, int32_t from, const char *const *names, int32_t n_names, size_t offset) {
    struct nfa *nfa = key->nfa;
    uint32_t *heads = malloc(((size_t)n_names + 1) * sizeof *heads); // [n_heads] next characters of the names
    if (!heads) {
        nfa_fail(nfa, ERR_MEMORY, "No memory for %d names.", n_names);
        return;
    }
    int32_t n_heads = 0, first = 0;
    if (n_names > 0 && names[0][offset] == '\0') {
        first = 1; // equal names stand there once
    } else {
        nfa_add_byte(nfa, from, '"', key->close);
    }
    while (first < n_names && !nfa_has_failed(nfa)) {
        const char *at = names[first] + offset;
        uint32_t head = char_next(&at);
        size_t length = (size_t)(at - (names[first] + offset));
        int32_t end = first + 1;
        while (end < n_names && strncmp(names[first] + offset, names[end] + offset, length) == 0) end++;
        heads[n_heads++] = head;
        if (head >= 0x20 && head != '"' && head != '\\') { // others are no key without escapes
            int32_t next = nfa_add_state(nfa);
            nfa_add_text(nfa, from, names[first] + offset, length, next);
            add_unlike(key, next, names + first, end - first, offset + length);
        }
        first = end;
    }
    add_plain_chars(nfa, from, heads, n_heads, key->body);
    free(heads);
}

void json_add_other_key(struct nfa *nfa, int32_t from, const char *const *names, int32_t n_names, int32_t to) {
    int32_t open = nfa_add_state(nfa);
    struct other_key key = {nfa, nfa_add_state(nfa), nfa_add_state(nfa)};
    nfa_add_byte(nfa, from, '"', open);
    nfa_set_contents(nfa, key.body, NFA_ENDLESS);
    add_plain_chars(nfa, key.body, NULL, 0, key.body);
    nfa_add_byte(nfa, key.body, '"', key.close);
    add_unlike(&key, open, names, n_names, 0);
    json_add_colon(nfa, key.close, to);
}

/* --- numbers --- */

/* From min to max digits. */
static void add_digits(struct nfa *nfa, int32_t from, int min, int max, int32_t to) {
    for (int i = 0; i < max; i++) {
        if (i >= min) nfa_add_epsilon(nfa, from, to);
        int32_t next = i + 1 < max ? nfa_add_state(nfa) : to;
        nfa_add_bytes(nfa, from, '0', '9', next);
        from = next;
    }
    if (max == 0) nfa_add_epsilon(nfa, from, to);
}

void json_add_number(struct nfa *nfa, int32_t from, int32_t to) {
    int32_t sign = nfa_add_state(nfa), more = nfa_add_state(nfa), whole = nfa_add_state(nfa);
    int32_t point = nfa_add_state(nfa), fraction = nfa_add_state(nfa), e = nfa_add_state(nfa);
    int32_t exponent = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '-', sign);
    nfa_add_epsilon(nfa, from, sign);
    nfa_add_byte(nfa, sign, '0', whole);
    nfa_add_bytes(nfa, sign, '1', '9', more);
    add_digits(nfa, more, 0, 15, whole);
    nfa_add_byte(nfa, whole, '.', point);
    add_digits(nfa, point, 1, 16, fraction);
    nfa_add_epsilon(nfa, whole, fraction);
    nfa_add_epsilon(nfa, fraction, to);
    nfa_add_byte(nfa, fraction, 'E', e);
    nfa_add_byte(nfa, fraction, 'e', e);
    nfa_add_byte(nfa, e, '+', exponent);
    nfa_add_byte(nfa, e, '-', exponent);
    nfa_add_epsilon(nfa, e, exponent);
    add_digits(nfa, exponent, 1, 2, to);
}

/* Digit strings of one length from low to high; NULL: all zeros, all nines. */
static void add_digit_range(struct nfa *nfa, int32_t from, const char *low, const char *high, int length, int32_t to) {
    if (!low && !high) {
        add_digits(nfa, from, length, length, to);
        return;
    }
    int begin = low ? low[0] : '0', end = high ? high[0] : '9';
    if (length == 1) {
        nfa_add_bytes(nfa, from, begin, end, to);
        return;
    }
    if (low && high && begin == end) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, begin, next);
        add_digit_range(nfa, next, low + 1, high + 1, length - 1, to);
        return;
    }
    if (low) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, begin++, next);
        add_digit_range(nfa, next, low + 1, NULL, length - 1, to);
    }
    if (high) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, end--, next);
        add_digit_range(nfa, next, NULL, high + 1, length - 1, to);
    }
    if (begin > end) return;
    int32_t next = nfa_add_state(nfa);
    nfa_add_bytes(nfa, from, begin, end, next);
    add_digits(nfa, next, length - 1, length - 1, to);
}

static void add_magnitudes(struct nfa *nfa, int32_t from, int64_t low, int64_t high, int32_t to) {
    int64_t first = 0, last = 9; // of the numbers with so many digits
    for (int length = 1; length <= 18; length++, first = last + 1, last = length <= 18 ? last * 10 + 9 : last) {
        int64_t begin = low > first ? low : first, end = high < last ? high : last;
        if (begin > end) continue;
        char from_digits[24], to_digits[24];
        snprintf(from_digits, sizeof from_digits, "%" PRId64, begin);
        snprintf(to_digits, sizeof to_digits, "%" PRId64, end);
        add_digit_range(nfa, from, from_digits, to_digits, length, to);
    }
}

void json_add_integer(struct nfa *nfa, int32_t from, int64_t low, int64_t high, int32_t to) {
    if (low < -JSON_MAX_INTEGER) low = -JSON_MAX_INTEGER;
    if (high > JSON_MAX_INTEGER) high = JSON_MAX_INTEGER;
    if (low < 0 && low <= high) {
        int32_t sign = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, '-', sign);
        add_magnitudes(nfa, sign, high < 0 ? -high : 1, -low, to);
    }
    if (high >= 0) add_magnitudes(nfa, from, low > 0 ? low : 0, high, to);
}

/* --- literals --- */

static void add_literal_number(struct nfa *nfa, int32_t from, double value, int32_t to) {
    char text[40];
    if (!(fabs(value) <= JSON_EXACT)) {
        nfa_fail(nfa, ERR_INVALID, "The number %g in a const or enum is beyond 2^53, where numbers are not exact.",
                 value);
        return;
    }
    int length = snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value) length = snprintf(text, sizeof text, "%.17g", value);
    if (value == floor(value)) length = snprintf(text, sizeof text, "%.0f", value == 0 ? 0.0 : value);
    nfa_add_text(nfa, from, text, (size_t)length, to);
}

static void add_literal_members(struct nfa *nfa, int32_t from, const cJSON *value, int32_t to) {
    const cJSON *member;
    int32_t open = nfa_add_state(nfa), close = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, cJSON_IsObject(value) ? '{' : '[', open);
    nfa_add_byte(nfa, close, cJSON_IsObject(value) ? '}' : ']', to);
    cJSON_ArrayForEach(member, value) {
        int32_t at = nfa_add_state(nfa), after = nfa_add_state(nfa);
        if (nfa_has_failed(nfa)) return;
        if (member == value->child) {
            nfa_add_epsilon(nfa, open, at);
        } else {
            json_add_comma(nfa, open, at);
        }
        if (cJSON_IsObject(value)) {
            int32_t key = at;
            at = nfa_add_state(nfa);
            json_add_key(nfa, key, member->string, at);
        }
        json_add_literal(nfa, at, member, after);
        open = after;
    }
    nfa_add_epsilon(nfa, open, close);
}

void json_add_literal(struct nfa *nfa, int32_t from, const cJSON *value, int32_t to) {
    if (cJSON_IsNull(value)) nfa_add_text(nfa, from, "null", 4, to);
    if (cJSON_IsTrue(value)) nfa_add_text(nfa, from, "true", 4, to);
    if (cJSON_IsFalse(value)) nfa_add_text(nfa, from, "false", 5, to);
    if (cJSON_IsNumber(value)) add_literal_number(nfa, from, value->valuedouble, to);
    if (cJSON_IsString(value)) add_quoted(nfa, from, value->valuestring, to);
    if (cJSON_IsObject(value) || cJSON_IsArray(value)) add_literal_members(nfa, from, value, to);
}

/* --- any value --- */

void json_add_any_object(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to) {
    int32_t open = nfa_add_state(nfa), key = nfa_add_state(nfa), colon = nfa_add_state(nfa);
    int32_t value = nfa_add_state(nfa), after = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '{', open);
    nfa_add_byte(nfa, open, '}', to);
    nfa_add_epsilon(nfa, open, key);
    json_add_string(nfa, rules, key, colon);
    json_add_colon(nfa, colon, value);
    json_add_any(nfa, rules, value, after);
    json_add_comma(nfa, after, key);
    nfa_add_byte(nfa, after, '}', to);
}

void json_add_any_array(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to) {
    int32_t open = nfa_add_state(nfa), value = nfa_add_state(nfa), after = nfa_add_state(nfa);
    nfa_add_byte(nfa, from, '[', open);
    nfa_add_byte(nfa, open, ']', to);
    nfa_add_epsilon(nfa, open, value);
    json_add_any(nfa, rules, value, after);
    json_add_comma(nfa, after, value);
    nfa_add_byte(nfa, after, ']', to);
}

void json_add_any(struct nfa *nfa, struct json_rules *rules, int32_t from, int32_t to) {
    if (rules->any == 0) {
        rules->any = nfa_add_rule(nfa);
        if (nfa_has_failed(nfa)) return;
        struct nfa_rule rule = nfa->rules[rules->any];
        json_add_any_object(nfa, rules, rule.start, rule.end);
        json_add_any_array(nfa, rules, rule.start, rule.end);
        json_add_string(nfa, rules, rule.start, rule.end);
        json_add_number(nfa, rule.start, rule.end);
        nfa_add_text(nfa, rule.start, "true", 4, rule.end);
        nfa_add_text(nfa, rule.start, "false", 5, rule.end);
        nfa_add_text(nfa, rule.start, "null", 4, rule.end);
    }
    nfa_add_call(nfa, from, rules->any, to);
}
