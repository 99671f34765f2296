/* How many tokens of an answer are reasoning: those between <think> and </think> at its beginning, which do not count
 * themselves. By ids, not by text: text may still wait for the rest of a character or of a stop string. */
#ifndef QUERN_SERVER_REASONING_COUNT_H
#define QUERN_SERVER_REASONING_COUNT_H

#include "server/answer_parser.h"

#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

struct reasoning_count {
    enum answer_phase phase; // of the next token
    int32_t n_tokens;
};

struct reasoning_count reasoning_count_begin(enum answer_thinking thinking);
/* Every token of the answer but the one that ends it. */
void reasoning_count_take(struct reasoning_count *count, const struct tokenizer *tokenizer, int32_t token);

/* The token is nothing but line breaks. */
bool reasoning_is_line_breaks(const struct tokenizer *tokenizer, int32_t token);

#endif
