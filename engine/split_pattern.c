#include "engine/split_pattern.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct split_pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
};

/* Oniguruma's \s is the Unicode property White_Space; PCRE2's also holds U+180E. */
#define WHITE_SPACE     "\\p{White_Space}"
#define NOT_WHITE_SPACE "\\P{White_Space}"
#define MAX_GROWTH      (sizeof WHITE_SPACE - 1) // bytes for each byte

/* Escapes that both engines read alike. \h, \w, \R, \X, … they do not. */
static const char shared_escapes[] = "dDnrtpPx";

static bool is_alphanumeric(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Returns the pattern in PCRE2's words, for the caller to free. */
static char *rewrite(const char *pattern, struct error *err) {
    char *out = malloc(strlen(pattern) * MAX_GROWTH + 1), *end = out;
    if (!out) {
        fail(err, ERR_MEMORY, "No memory for the split pattern.");
        return NULL;
    }
    bool is_in_set = false;
    for (const char *c = pattern; *c; c++) {
        if (*c == '\\') {
            c++;
            if (*c == 's' || *c == 'S') {
                end = stpcpy(end, *c == 's' ? WHITE_SPACE : NOT_WHITE_SPACE);
                continue;
            }
            if (*c == '\0' || (is_alphanumeric(*c) && !strchr(shared_escapes, *c))) {
                fail(err, ERR_INVALID, "The split pattern holds \"\\%.1s\" at byte %td, which is not supported.", c,
                     c - 1 - pattern);
                goto failed;
            }
            *end++ = '\\';
        } else if (is_in_set && (*c == '[' || (*c == '&' && c[1] == '&'))) {
            fail(err, ERR_INVALID, "The split pattern holds a set inside a set at byte %td, which is not supported.",
                 c - pattern);
            goto failed;
        } else if (*c == '[') {
            is_in_set = true;
        } else if (*c == ']') {
            is_in_set = false;
        }
        *end++ = *c;
    }
    *end = '\0';
    return out;
failed:
    free(out);
    return NULL;
}

static bool compile(struct split_pattern *pattern, const char *text, struct error *err) {
    int status;
    size_t offset;
    pattern->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                  &status, &offset, NULL);
    if (!pattern->code) {
        char reason[128];
        pcre2_get_error_message(status, (PCRE2_UCHAR *)reason, sizeof reason);
        return fail(err, ERR_INVALID, "The split pattern is wrong: %s, at byte %zu of \"%.200s\".", reason, offset,
                    text);
    }
    uint32_t matches_empty;
    pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) return fail(err, ERR_INVALID, "The split pattern \"%.200s\" matches the empty text.", text);
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); // where it cannot, pcre2_match interprets
    pattern->limits = pcre2_match_context_create(NULL);
    if (!pattern->limits) return fail(err, ERR_MEMORY, "No memory for the split pattern.");
    /* The defaults (10 million steps, 20 MB) end a match inside one long run of spaces. */
    pcre2_set_match_limit(pattern->limits, UINT32_MAX);
    pcre2_set_heap_limit(pattern->limits, UINT32_MAX);
    return true;
}

struct split_pattern *split_pattern_create(const char *text, struct error *err) {
    char *rewritten = rewrite(text, err);
    if (!rewritten) return NULL;
    struct split_pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern) {
        fail(err, ERR_MEMORY, "No memory for the split pattern.");
    } else if (!compile(pattern, rewritten, err)) {
        split_pattern_destroy(pattern);
        pattern = NULL;
    }
    free(rewritten);
    return pattern;
}

void split_pattern_destroy(struct split_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    free(pattern);
}

bool splitter_init(struct splitter *splitter, const struct split_pattern *pattern, struct error *err) {
    *splitter = (struct splitter){.pattern = pattern};
    splitter->match = pcre2_match_data_create(1, NULL);
    if (!splitter->match) return fail(err, ERR_MEMORY, "No memory to split text.");
    return true;
}

void splitter_finish(struct splitter *splitter) {
    pcre2_match_data_free(splitter->match);
    splitter->match = NULL;
}

void splitter_start(struct splitter *splitter, const char *text, size_t length) {
    splitter->text = text;
    splitter->length = length;
    splitter->offset = splitter->match_start = splitter->match_end = 0;
}

/* Finds the next match from offset on; without one it lies at the end of the text. */
static bool find_match(struct splitter *splitter, struct error *err) {
    const struct split_pattern *pattern = splitter->pattern;
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int status;
    do {
        status = pcre2_match(pattern->code, (PCRE2_SPTR)splitter->text, splitter->length, splitter->offset, options,
                             splitter->match, pattern->limits);
        options |= PCRE2_NO_JIT; // the interpreter keeps its stack on the heap
    } while (status == PCRE2_ERROR_JIT_STACKLIMIT);
    splitter->match_start = splitter->match_end = splitter->length;
    if (status == PCRE2_ERROR_NOMATCH) return true;
    if (status < 0)
        return fail(err, ERR_INTERNAL, "Splitting text failed at byte %zu with PCRE2 error %d.", splitter->offset,
                    status);
    const size_t *bounds = pcre2_get_ovector_pointer(splitter->match);
    splitter->match_start = bounds[0];
    splitter->match_end = bounds[1];
    return true;
}

bool splitter_next(struct splitter *splitter, const char **piece, size_t *length, struct error *err) {
    *length = 0;
    if (splitter->offset == splitter->length) return true;
    if (splitter->offset >= splitter->match_end && !find_match(splitter, err)) return false;
    bool is_gap = splitter->match_start > splitter->offset;
    size_t end = is_gap ? splitter->match_start : splitter->match_end;
    *piece = splitter->text + splitter->offset;
    *length = end - splitter->offset;
    splitter->offset = end;
    return true;
}
