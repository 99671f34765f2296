/* Log-probabilities as OpenAI writes them: an array of objects in a chat, parallel arrays in plain completions.
 *
 * A token's text is shown with U+FFFD for bytes that are no whole character, its `bytes` are exact. A token of no
 * probability at all has -9999, as JSON knows no infinity. text_offset counts characters of the text of the choice. */
#ifndef QUERN_SERVER_LOGPROBS_H
#define QUERN_SERVER_LOGPROBS_H

#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "server/string_builder.h"

#include <stdint.h>

enum logprobs_form { LOGPROBS_CHAT, LOGPROBS_COMPLETIONS };

/* What was added and not written yet; zero-initialise. */
struct logprobs {
    struct string_builder content;                                      // chat
    struct string_builder tokens, token_logprobs, top_logprobs, offset; // completions
    int64_t n_characters;                                               // before the next token
};

/* scores NULL: nothing is known of the token, the first of a prompt. */
void logprobs_add(struct logprobs *logprobs, enum logprobs_form form, const struct tokenizer *tokenizer, int32_t token,
                  const struct token_scores *scores);

/* Writes {…} of what was added since the last time, or null when that is nothing. */
void logprobs_write(struct logprobs *logprobs, enum logprobs_form form, struct string_builder *out);

/* Appends one element of vLLM's prompt_logprobs: {"id": {logprob, rank, decoded_token}, …}, the likeliest and the token
 * itself; scores NULL: null. */
void logprobs_add_prompt(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token,
                         const struct token_scores *scores);

void logprobs_finish(struct logprobs *logprobs);

#endif
