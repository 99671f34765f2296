#include "engine/nfc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define NFC_OPTIONS    (UTF8PROC_STABLE | UTF8PROC_COMPOSE)
#define MAX_DECOMPOSED 4 // code points of the longest canonical decomposition of one

struct range {
    uint32_t first, last;
};

/* Code points that are starters, are unchanged by NFC, and do not join what stands before them. */
static const struct range stable_ranges[] = {
    {0x0000, 0x02ff},   // ASCII and Latin
    {0x0391, 0x03a1},   // Greek letters
    {0x03a3, 0x03ce},   //
    {0x0400, 0x0482},   // Cyrillic
    {0x05d0, 0x05ea},   // Hebrew letters
    {0x0620, 0x064a},   // Arabic letters
    {0x0e01, 0x0e30},   // Thai letters
    {0x2010, 0x2027},   // dashes and quotes
    {0x3001, 0x3029},   // CJK punctuation
    {0x3041, 0x3096},   // Hiragana
    {0x30a1, 0x30fd},   // Katakana
    {0x4e00, 0x9fff},   // CJK ideographs
    {0xac00, 0xd7a3},   // Hangul syllables
    {0xff01, 0xff9f},   // fullwidth forms
    {0x1f300, 0x1faff}, // emoji
};

/* Code points that have a combining class, join, or come apart, only since Unicode 10 to 15. */
static const struct range newer_marks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
    {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
    {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}};

/* Ranges are in rising order. */
static bool is_in(const struct range *ranges, size_t n_ranges, utf8proc_int32_t code_point) {
    size_t i = 0;
    while (i < n_ranges && ranges[i].last < (uint32_t)code_point) i++;
    return i < n_ranges && ranges[i].first <= (uint32_t)code_point;
}

static bool is_stable(utf8proc_int32_t code_point) {
    return is_in(stable_ranges, sizeof stable_ranges / sizeof *stable_ranges, code_point);
}

static bool is_newer_mark(utf8proc_int32_t code_point) {
    return is_in(newer_marks, sizeof newer_marks / sizeof *newer_marks, code_point);
}

/* Length of a part at the start of text that is NFC and stays so whatever follows it. */
static size_t stable_length(const char *text, size_t length) {
    size_t previous = 0; // where the last character starts: what follows may join it
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t code_point = (unsigned char)text[i];
        utf8proc_ssize_t n = 1;
        if (code_point >= 0x80) {
            n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &code_point);
            if (n < 1 || !is_stable(code_point)) return previous;
        }
        previous = i;
        i += (size_t)n;
    }
    return length;
}

bool nfc_is_certain(const char *text, size_t length) {
    return stable_length(text, length) == length;
}

static int combining_class(utf8proc_int32_t code_point) {
    int class = utf8proc_get_property(code_point)->combining_class;
    return class != 0 && is_newer_mark(code_point) ? 0 : class;
}

/* Stable counting sort of one run of combining marks: utf8proc's own is quadratic in the length of the run. */
static bool sort_marks(utf8proc_int32_t *marks, size_t count) {
    bool is_sorted = true;
    for (size_t i = 1; i < count && is_sorted; i++)
        is_sorted = combining_class(marks[i - 1]) <= combining_class(marks[i]);
    if (is_sorted) return true;
    utf8proc_int32_t *unsorted = malloc(count * sizeof *unsorted);
    if (!unsorted) return false;
    memcpy(unsorted, marks, count * sizeof *unsorted);
    size_t starts[257] = {0};
    for (size_t i = 0; i < count; i++) starts[combining_class(unsorted[i]) + 1]++;
    for (int i = 0; i < 256; i++) starts[i + 1] += starts[i];
    for (size_t i = 0; i < count; i++) marks[starts[combining_class(unsorted[i])]++] = unsorted[i];
    free(unsorted);
    return true;
}

static bool sort_all_marks(utf8proc_int32_t *points, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t start = i;
        while (i < count && combining_class(points[i]) != 0) i++;
        if (i - start > 1 && !sort_marks(points + start, i - start)) return false;
    }
    return true;
}

/* Code points of the canonical decomposition, in canonical order; NULL for want of memory. */
static utf8proc_int32_t *decompose(const char *text, size_t length, size_t *out_count) {
    size_t count = 0, capacity = length + MAX_DECOMPOSED;
    utf8proc_int32_t *points = malloc(capacity * sizeof *points);
    int last_class = 0; // of grapheme boundaries, which NFC does not ask for
    for (size_t i = 0; points && i < length;) {
        utf8proc_int32_t code_point;
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &code_point);
        if (capacity - count < MAX_DECOMPOSED) {
            utf8proc_int32_t *larger = realloc(points, (capacity *= 2) * sizeof *points);
            if (!larger) free(points);
            points = larger;
            if (!points) break;
        }
        if (is_newer_mark(code_point))
            points[count++] = code_point;
        else
            count +=
                (size_t)utf8proc_decompose_char(code_point, points + count, MAX_DECOMPOSED, NFC_OPTIONS, &last_class);
    }
    if (points && !sort_all_marks(points, count)) {
        free(points);
        return NULL;
    }
    *out_count = count;
    return points;
}

/* Joins what joins and writes UTF-8; a newer mark stands for itself and parts its neighbours. Returns the bytes
 * written. */
static size_t compose(utf8proc_int32_t *points, size_t count, utf8proc_uint8_t *out) {
    size_t n_bytes = 0;
    for (size_t start = 0, end; start < count; start = end) {
        end = start;
        while (end < count && !is_newer_mark(points[end])) end++;
        utf8proc_ssize_t n_composed = 1;
        if (end == start)
            end++;
        else
            n_composed = utf8proc_normalize_utf32(points + start, (utf8proc_ssize_t)(end - start), NFC_OPTIONS);
        for (utf8proc_ssize_t i = 0; i < n_composed; i++)
            n_bytes += (size_t)utf8proc_encode_char(points[start + (size_t)i], out + n_bytes);
    }
    return n_bytes;
}

char *nfc_normalise(const char *text, size_t length, size_t *out_length, struct error *err) {
    size_t n_stable = stable_length(text, length), count = 0;
    utf8proc_int32_t *points = decompose(text + n_stable, length - n_stable, &count);
    char *out = points ? malloc(n_stable + count * 4 + 1) : NULL; // UTF-8 has at most 4 bytes for each
    if (out) {
        memcpy(out, text, n_stable);
        *out_length = n_stable + compose(points, count, (utf8proc_uint8_t *)out + n_stable);
    } else {
        fail(err, ERR_MEMORY, "No memory to normalise %zu bytes of text.", length);
    }
    free(points);
    return out;
}
