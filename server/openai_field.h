/* Fields of a request's body, one at a time: what their readers share, and the readers that have files of their own.
 *
 * A reader is called with the field's line of the table in openai_request.c and the value as text; it stores what it
 * read or fails with ERR_INVALID, param set, and a message that says what is allowed and what was given. */
#ifndef QUERN_SERVER_OPENAI_FIELD_H
#define QUERN_SERVER_OPENAI_FIELD_H

#include "server/json_text.h"
#include "server/openai_request.h"

#define PROMPT_ALLOWED "a string, an array of strings, an array of token ids or an array of such arrays, and not empty"

/* What a body says before the fields are seen together. */
struct reading {
    struct openai_request *request;
    const struct openai_source *source;
    int32_t max_tokens;
    int32_t max_completion_tokens;
    bool has_prompt;
    bool has_stream_options;
    bool has_generation_prompt; // asked for
    bool logprobs;              // chat
    int32_t top_logprobs;       // chat
    char passed_over[384];      // strict: the names of what has no effect, "a, b", cut to what a message can carry
    size_t n_passed_over;       // bytes of it
};

/* One line of the table of fields. */
struct field {
    const char *name;
    int endpoints;
    bool (*read)(const struct field *field, struct json_text value, struct reading *reading, struct error *err);
    const char *allowed; // completes "… must be …"
    double min;
    double max;
};

/* --- values --- */

/* The value as it was given, cut to what a message can carry. */
struct field_excerpt {
    char text[64];
};
struct field_excerpt field_excerpt_of(struct json_text value);
bool field_refuse(const struct field *field, struct json_text value, struct error *err);
bool field_no_memory(struct error *err);
/* A whole number in any JSON spelling; false when it is none or does not fit. */
bool field_integer_of(struct json_text value, int64_t *integer);
bool field_integer(const struct field *field, struct json_text value, int32_t *integer, struct error *err);
bool field_real(const struct field *field, struct json_text value, float *real, struct error *err);
bool field_flag(const struct field *field, struct json_text value, bool *flag, struct error *err);
bool field_text(struct json_text value, char **data, size_t *length, struct error *err);

/* --- what has no effect --- */

/* A field, or a member of the field that prefix names, that is not known: logged at debug, or noted where the source is
 * strict. */
void field_pass_over_unknown(struct reading *reading, const char *prefix, struct json_text key);
/* The same for all members of object but those that are known, up to NULL, and those that are null. */
void field_pass_over_members(struct reading *reading, const char *prefix, struct json_text object,
                             const char *const *known);
/* ERR_INVALID where something was noted. */
bool field_check_passed_over(const struct reading *reading, struct error *err);

/* The table of /v1/embeddings; NULL behind its end. */
const struct field *embeddings_field(size_t index);
/* And of /v1/messages. */
const struct field *anthropic_field(size_t index);
/* And of /v1/responses. */
const struct field *responses_field(size_t index);

void openai_prompts_clear(struct openai_request *request);

/* --- readers --- */

#define FIELD_READER(name)                                                                                             \
    bool name(const struct field *field, struct json_text value, struct reading *reading, struct error *err)

FIELD_READER(read_elsewhere);
FIELD_READER(read_model);
FIELD_READER(read_max_completion_tokens);
FIELD_READER(read_stop);
FIELD_READER(read_priority);
FIELD_READER(read_timeout);
FIELD_READER(read_stream);
FIELD_READER(read_ignore_eos);
FIELD_READER(read_thinking);
FIELD_READER(read_template_arguments);
FIELD_READER(read_reasoning_effort);
FIELD_READER(read_thinking_budget);
FIELD_READER(read_parallel_calls);
FIELD_READER(read_tool_choice);
FIELD_READER(read_temperature);
FIELD_READER(read_top_p);
FIELD_READER(read_min_p);
FIELD_READER(read_top_k);
FIELD_READER(read_seed);
FIELD_READER(read_presence_penalty);
FIELD_READER(read_frequency_penalty);
FIELD_READER(read_repetition_penalty);
FIELD_READER(read_logit_bias);
FIELD_READER(read_min_tokens);
FIELD_READER(read_stop_token_ids);
FIELD_READER(read_allowed_token_ids);
FIELD_READER(read_logprobs);
FIELD_READER(read_top_logprobs);
FIELD_READER(read_number_of_logprobs);
FIELD_READER(read_prompt_logprobs);
FIELD_READER(read_prompt);
/* allowed has the values that ask for nothing, as JSON, with " or " between them; NULL: none does. */
FIELD_READER(read_without_effect);
FIELD_READER(read_unserved);

#endif
