/* Answers as OpenAI's chat and plain completions have them: a body with choices, or chunks of them and [DONE].
 *
 * Both endpoints are a generation_writer of these functions, and a format for what they differ in. */
#ifndef QUERN_SERVER_CHOICES_WRITER_H
#define QUERN_SERVER_CHOICES_WRITER_H

#include "server/generation.h"

#include <stdbool.h>

struct choices_format {
    const char *body_object;
    const char *chunk_object;
    void (*write_whole)(const struct answer *answer, struct string_builder *out);      // as a member of a choice
    bool (*write_piece)(const struct answer_delta *delta, struct string_builder *out); // false: nothing to tell
    const char *chunk_first; // what the first chunk of a choice holds, NULL: there is none
    const char *chunk_last;  // what the chunk with finish_reason holds
    bool counts_reasoning;   // in usage
    bool prompt_ids_at_top;  // prompt_token_ids stand beside the choices; otherwise in each
};

void choices_write_body(struct generation *generation, struct string_builder *out);
void choices_write_begin(struct generation *generation, struct string_builder *out);
void choices_write_delta(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                         struct string_builder *out);
void choices_write_choice_end(struct generation *generation, struct choice *choice, struct string_builder *out);
void choices_write_end(struct generation *generation, struct string_builder *out);
void choices_write_error(struct generation *generation, const struct openai_error *error, struct string_builder *out);

/* The functions above, for an initialiser. */
#define CHOICES_WRITER                                                                                                 \
    .write_body = choices_write_body, .write_begin = choices_write_begin, .write_delta = choices_write_delta,          \
    .write_choice_end = choices_write_choice_end, .write_end = choices_write_end, .write_error = choices_write_error

#endif
