#include "engine/grammar_chars.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- sets --- */

bool char_set_add(struct char_set *set, uint32_t low, uint32_t high) {
    if (set->count == set->capacity) {
        int32_t capacity = set->capacity ? set->capacity * 2 : 8;
        struct char_range *ranges = realloc(set->ranges, (size_t)capacity * sizeof *ranges);
        if (!ranges) return false;
        set->ranges = ranges;
        set->capacity = capacity;
    }
    set->ranges[set->count++] = (struct char_range){low, high};
    return true;
}

bool char_set_add_set(struct char_set *set, const struct char_set *other) {
    for (int32_t i = 0; i < other->count; i++)
        if (!char_set_add(set, other->ranges[i].low, other->ranges[i].high)) return false;
    return true;
}

static int compare_ranges(const void *a, const void *b) {
    const struct char_range *left = a, *right = b;
    return (left->low > right->low) - (left->low < right->low);
}

void char_set_normalise(struct char_set *set) {
    if (set->count == 0) return;
    qsort(set->ranges, (size_t)set->count, sizeof *set->ranges, compare_ranges);
    int32_t last = 0;
    for (int32_t i = 1; i < set->count; i++) {
        if (set->ranges[i].low > set->ranges[last].high + 1) {
            set->ranges[++last] = set->ranges[i];
        } else if (set->ranges[i].high > set->ranges[last].high) {
            set->ranges[last].high = set->ranges[i].high;
        }
    }
    set->count = last + 1;
}

bool char_set_negate(struct char_set *set) {
    struct char_set outside = {0};
    uint32_t next = 0;
    bool added = true;
    for (int32_t i = 0; i < set->count && added; i++) {
        if (set->ranges[i].low > next) added = char_set_add(&outside, next, set->ranges[i].low - 1);
        next = set->ranges[i].high + 1;
    }
    if (added && next <= CHARS_LAST) added = char_set_add(&outside, next, CHARS_LAST);
    char_set_finish(set);
    *set = outside;
    return added;
}

bool char_set_contains(const struct char_set *set, uint32_t character) {
    for (int32_t i = 0; i < set->count; i++)
        if (set->ranges[i].low <= character && character <= set->ranges[i].high) return true;
    return false;
}

void char_set_finish(struct char_set *set) {
    free(set->ranges);
    *set = (struct char_set){0};
}

/* --- UTF-8 --- */

uint32_t char_next(const char **at) {
    const unsigned char *bytes = (const unsigned char *)*at;
    int length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xE0 ? 2 : bytes[0] < 0xF0 ? 3 : 4;
    uint32_t character = length == 1 ? bytes[0] : bytes[0] & (0xFFu >> (length + 1));
    for (int i = 1; i < length; i++) character = character << 6 | (bytes[i] & 0x3Fu);
    *at += length;
    return character;
}

bool chars_are_valid(const char *text, size_t length) {
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t at = 0; at < length;) {
        unsigned char first = bytes[at++];
        int n_more = first < 0x80 ? 0 : first < 0xC2 ? -1 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : first < 0xF5 ? 3 : -1;
        if (first == 0 || n_more < 0 || (size_t)n_more > length - at) return false;
        uint32_t character = first & (0x7Fu >> (n_more + (n_more > 0)));
        for (int i = 0; i < n_more; i++, at++) {
            if ((bytes[at] & 0xC0) != 0x80) return false;
            character = character << 6 | (bytes[at] & 0x3Fu);
        }
        if ((n_more == 2 && character < 0x800) || (n_more == 3 && character < 0x10000) || character > CHARS_LAST ||
            (character >= 0xD800 && character <= 0xDFFF))
            return false;
    }
    return true;
}

size_t chars_count(const char *text) {
    size_t count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
    return count;
}

static int encode(uint32_t character, unsigned char *bytes) {
    int length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, character >>= 6) bytes[i] = (unsigned char)(0x80 | (character & 0x3F));
    bytes[0] = (unsigned char)(length == 1 ? character : (0xF00u >> length & 0xFF) | character);
    return length;
}

/* One call of nfa_add_chars: `tails[n]` reads any n continuation bytes and then is at `to`; -1 until it is needed. */
struct char_edges {
    struct nfa *nfa;
    int32_t to;
    int32_t tails[4];
};

static int32_t tail(struct char_edges *edges, int n) {
    if (n == 0) return edges->to;
    if (edges->tails[n] < 0) {
        int32_t next = tail(edges, n - 1);
        edges->tails[n] = nfa_add_state(edges->nfa);
        nfa_add_bytes(edges->nfa, edges->tails[n], 0x80, 0xBF, next);
    }
    return edges->tails[n];
}

/* from --the byte strings of `length` bytes from low to high--> to. */
static void add_range(struct char_edges *edges, int32_t from, const unsigned char *low, const unsigned char *high,
                      int length) {
    static const unsigned char first[3] = {0x80, 0x80, 0x80}, last[3] = {0xBF, 0xBF, 0xBF};
    int begin = low[0], end = high[0];
    size_t rest = (size_t)length - 1;
    bool low_is_full = memcmp(low + 1, first, rest) == 0, high_is_full = memcmp(high + 1, last, rest) == 0;
    if (begin == end && !(low_is_full && high_is_full)) {
        int32_t next = nfa_add_state(edges->nfa);
        nfa_add_byte(edges->nfa, from, begin, next);
        add_range(edges, next, low + 1, high + 1, length - 1);
        return;
    }
    if (!low_is_full) {
        int32_t next = nfa_add_state(edges->nfa);
        nfa_add_byte(edges->nfa, from, begin++, next);
        add_range(edges, next, low + 1, last, length - 1);
    }
    if (!high_is_full) {
        int32_t next = nfa_add_state(edges->nfa);
        nfa_add_byte(edges->nfa, from, end--, next);
        add_range(edges, next, first, high + 1, length - 1);
    }
    if (begin <= end) nfa_add_bytes(edges->nfa, from, begin, end, tail(edges, (int)rest));
}

static void add_utf8(struct char_edges *edges, int32_t from, uint32_t low, uint32_t high) {
    static const struct char_range lengths[] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, CHARS_LAST}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint32_t begin = low > lengths[i].low ? low : lengths[i].low;
        uint32_t end = high < lengths[i].high ? high : lengths[i].high;
        if (begin > end) continue;
        unsigned char first[4], last[4];
        encode(begin, first);
        add_range(edges, from, first, last, encode(end, last));
    }
}

/* --- JSON --- */

static bool is_escaped(uint32_t character) {
    return character < 0x20 || character == '"' || character == '\\';
}

static void add_escape(struct nfa *nfa, int32_t from, uint32_t character, int32_t to) {
    static const char shorts[] = "\bb\tt\nn\ff\rr\"\"\\\\";
    char text[8];
    int length = snprintf(text, sizeof text, "\\u%04x", character);
    for (size_t i = 0; shorts[i]; i += 2)
        if ((uint32_t)shorts[i] == character) length = snprintf(text, sizeof text, "\\%c", shorts[i + 1]);
    nfa_add_text(nfa, from, text, (size_t)length, to);
}

/* Calls add_utf8 for the parts of [low, high] between escaped characters. */
static void add_json(struct char_edges *edges, int32_t from, uint32_t low, uint32_t high) {
    static const uint32_t stops[] = {'"', '\\'};
    for (; low < 0x20 && low <= high; low++) add_escape(edges->nfa, from, low, edges->to);
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        if (stops[i] < low || stops[i] > high) continue;
        if (low < stops[i]) add_utf8(edges, from, low, stops[i] - 1);
        add_escape(edges->nfa, from, stops[i], edges->to);
        low = stops[i] + 1;
    }
    if (low <= high) add_utf8(edges, from, low, high);
}

void nfa_add_chars(struct nfa *nfa, int32_t from, const struct char_set *set, enum char_encoding encoding, int32_t to) {
    struct char_edges edges = {.nfa = nfa, .to = to, .tails = {-1, -1, -1, -1}};
    for (int32_t i = 0; i < set->count && !nfa_has_failed(nfa); i++) {
        if (encoding == CHARS_JSON) {
            add_json(&edges, from, set->ranges[i].low, set->ranges[i].high);
        } else {
            add_utf8(&edges, from, set->ranges[i].low, set->ranges[i].high);
        }
    }
}

void nfa_add_string(struct nfa *nfa, int32_t from, const char *text, enum char_encoding encoding, int32_t to) {
    while (*text && !nfa_has_failed(nfa)) {
        const char *start = text;
        uint32_t character = char_next(&text);
        int32_t next = nfa_add_state(nfa);
        if (encoding == CHARS_JSON && is_escaped(character)) {
            add_escape(nfa, from, character, next);
        } else {
            nfa_add_text(nfa, from, start, (size_t)(text - start), next);
        }
        from = next;
    }
    nfa_add_epsilon(nfa, from, to);
}
