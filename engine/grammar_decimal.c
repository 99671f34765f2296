/* Numbers between two bounds, as decimals of at most 15 digits, which doubles tell apart: below 10^9 with 6 digits
 * behind the point, from there to 10^13 with 2. */
#include "engine/grammar_json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of so many digits before and at most so many behind the point. */
struct zone {
    int first_whole, last_whole;
    int n_fraction;
    int64_t units; // 10^n_fraction: numbers are counted in 1 / units
};
static const struct zone zones[] = {{1, 9, 6, 1000000}, {10, 13, 2, 100}};

#define MAX_DIGITS 15

/* value in n_digits digits, with zeros before it. */
static void write_digits(char *text, int64_t value, int n_digits) {
    assert(n_digits <= MAX_DIGITS);
    text[n_digits] = '\0';
    for (int i = n_digits - 1; i >= 0; i--, value /= 10) text[i] = (char)('0' + value % 10);
}

/* What a reader makes of n units. */
static double value_of(const struct zone *zone, int64_t n) {
    char text[32 + MAX_DIGITS];
    int length = snprintf(text, 32, "%" PRId64 ".", n / zone->units);
    write_digits(text + length, n % zone->units, zone->n_fraction);
    return strtod(text, NULL);
}

static bool is_above(const struct zone *zone, int64_t n, double bound, bool excludes) {
    return excludes ? value_of(zone, n) > bound : value_of(zone, n) >= bound;
}

/* The least n, at most limit, whose value is above (or equal to) the bound. */
static int64_t first_above(const struct zone *zone, double bound, bool excludes, int64_t limit) {
    int64_t low = 0, high = limit;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (is_above(zone, middle, bound, excludes)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

struct digits {
    struct nfa *nfa;
    int32_t to;
    int n_whole, n_all;
};

static bool are_zeros(const char *digits) {
    return strspn(digits, "0") == strlen(digits);
}

/* Behind n digits, the rest from low to high (NULL: no such bound any more). Digits left out behind the point are 0. */
static void add_rest(const struct digits *digits, int32_t from, const char *low, const char *high, int n) {
    struct nfa *nfa = digits->nfa;
    if (n >= digits->n_whole && (!low || are_zeros(low))) nfa_add_epsilon(nfa, from, digits->to);
    if (n == digits->n_all || nfa_has_failed(nfa)) return;
    if (n == digits->n_whole) {
        int32_t point = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, '.', point);
        from = point;
    }
    int begin = low ? low[0] : '0', end = high ? high[0] : '9';
    if (low && high && begin == end) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, begin, next);
        add_rest(digits, next, low + 1, high + 1, n + 1);
        return;
    }
    if (low) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, begin++, next);
        add_rest(digits, next, low + 1, NULL, n + 1);
    }
    if (high) {
        int32_t next = nfa_add_state(nfa);
        nfa_add_byte(nfa, from, end--, next);
        add_rest(digits, next, NULL, high + 1, n + 1);
    }
    if (begin > end) return;
    int32_t next = nfa_add_state(nfa);
    nfa_add_bytes(nfa, from, begin, end, next);
    add_rest(digits, next, NULL, NULL, n + 1);
}

/* Magnitudes of a zone, low and high in its units. */
static void add_zone(struct nfa *nfa, int32_t from, const struct zone *zone, int64_t low, int64_t high, int32_t to) {
    int64_t whole = 1; // the least with so many digits, but 0 for one digit
    for (int n = 1; n <= zone->last_whole; n++, whole *= 10) {
        int64_t first = (n == 1 ? 0 : whole) * zone->units, last = whole * 10 * zone->units - 1;
        if (n < zone->first_whole) continue;
        int64_t begin = low > first ? low : first, end = high < last ? high : last;
        if (begin > end) continue;
        struct digits digits = {nfa, to, n, n + zone->n_fraction};
        char from_digits[MAX_DIGITS + 1], to_digits[MAX_DIGITS + 1];
        write_digits(from_digits, begin, digits.n_all);
        write_digits(to_digits, end, digits.n_all);
        add_rest(&digits, from, from_digits, to_digits, 0);
    }
}

/* Not negative; neither are the bounds. */
static void add_magnitudes(struct nfa *nfa, int32_t from, struct json_range range, int32_t to) {
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
        const struct zone *zone = &zones[i];
        int64_t limit = zone->units;
        for (int n = 0; n < zone->last_whole; n++) limit *= 10;
        int64_t low = first_above(zone, range.low, range.excludes_low, limit);
        int64_t behind = first_above(zone, range.high, !range.excludes_high, limit);
        add_zone(nfa, from, zone, low, behind - 1, to);
    }
}

void json_add_bounded_number(struct nfa *nfa, int32_t from, struct json_range range, int32_t to) {
    if (range.high >= 0) {
        struct json_range positive = range;
        if (range.low < 0) positive.low = 0, positive.excludes_low = false;
        add_magnitudes(nfa, from, positive, to);
    }
    if (range.low < 0) {
        int32_t sign = nfa_add_state(nfa);
        struct json_range negative = {-range.high, -range.low, range.excludes_high, range.excludes_low};
        if (range.high >= 0) negative.low = 0, negative.excludes_low = true;
        nfa_add_byte(nfa, from, '-', sign);
        add_magnitudes(nfa, sign, negative, to);
    }
}
