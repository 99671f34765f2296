/* The regular expression that cuts text into pieces before BPE, compiled from the file's own pattern.
 *
 * The pattern was written for Oniguruma with Unicode classes; PCRE2 runs it. Where both read a construct differently it
 * is rewritten (\s is the property White_Space) or refused by name. Characters newer than PCRE2's Unicode (14 in 10.42)
 * are neither letters nor numbers. Any number of threads may use one pattern. */
#ifndef QUERN_ENGINE_SPLIT_PATTERN_H
#define QUERN_ENGINE_SPLIT_PATTERN_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>

struct split_pattern;

struct split_pattern *split_pattern_create(const char *pattern, struct error *err);
void split_pattern_destroy(struct split_pattern *pattern);

/* Walks over the pieces of one text, which the caller keeps: what matches, and what lies between matches. */
struct splitter {
    const struct split_pattern *pattern; // borrowed
    void *match;                         // PCRE2's match data, owned
    const char *text;                    // [length] valid UTF-8, borrowed
    size_t length;
    size_t offset;      // what was handed out already
    size_t match_start; // of a match found behind a gap; it is handed out next
    size_t match_end;   // 0: none is kept
};

bool splitter_init(struct splitter *splitter, const struct split_pattern *pattern, struct error *err);
void splitter_finish(struct splitter *splitter);
void splitter_start(struct splitter *splitter, const char *text, size_t length);

/* Gives the next piece, never empty; length 0 at the end of the text. */
bool splitter_next(struct splitter *splitter, const char **piece, size_t *length, struct error *err);

#endif
