/* The bodies of POST /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/messages to one plain struct.
 *
 * Each field is checked where it is read; a failure is ERR_INVALID with param set and a message that names the field,
 * what was given and what is allowed. Fields that would change the answer but are not served are refused unless they
 * hold the value that changes nothing. Fields without effect are passed over, unknown ones too (logged at debug), or,
 * by a strict reader, refused together. null means not given. The messages and tools of a chat are read by
 * chat_messages. */
#ifndef QUERN_SERVER_OPENAI_REQUEST_H
#define QUERN_SERVER_OPENAI_REQUEST_H

#include "engine/engine.h"
#include "engine/error.h"
#include "engine/log.h"
#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "server/answer_grammar.h"
#include "server/chat_template.h"
#include "server/detokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OPENAI_MAX_PROMPTS = 128, // and choices
    OPENAI_MAX_INPUTS = 2048, // of embeddings
};

/* How an embedding is to be made and written. */
struct openai_embedding {
    enum engine_pooling pooling; // POOLING_NONE: as the server has it
    int32_t n_dimensions;        // 0: all
    int32_t truncation;          // tokens that are kept of the end of a prompt; 0: all, -1: what the context holds
    bool as_it_is;               // not normalised
    bool no_end;                 // without the token that the tokenizer puts behind a text
    bool base64;
};

/* A text, or ids that are used as they are. */
struct openai_prompt {
    struct chat_text text; // data NULL: ids
    struct token_list ids;
};

struct openai_request {
    char *model;            // owned, NULL: not given
    int32_t max_new_tokens; // 0: not given
    struct sampling_params sampling;
    bool has_seed;
    int32_t n_choices; // of each prompt
    struct stop_strings stops;
    bool stream;
    bool include_usage;
    bool continuous_usage; // in every chunk
    bool return_token_ids;
    struct sampling_adjustments adjustments; // its biases are owned
    int32_t min_new_tokens;
    struct token_list stop_tokens;    // owned
    struct token_list allowed_tokens; // owned; empty: all
    struct answer_grammar grammar;    // owned
    int32_t priority;
    int32_t timeout_ms;        // 0: none
    bool continues_final;      // chat: the last message is not closed
    bool no_generation_prompt; // chat: the assistant's turn is not opened
    bool ignore_eos;
    int32_t n_scores;            // 0: no logprobs; n: of each token and of the n - 1 likeliest
    enum chat_thinking thinking; // chat
    int32_t n_thinking;          // chat: thinking_token_budget; 0: none, n: at most n - 1 tokens of reasoning
    bool drops_reasoning;        // chat
    bool has_no_tools;           // chat: tool_choice none
    bool one_call;               // chat: not parallel_tool_calls
    struct chat_text *tools;     // [n_tools], owned; chat: put here by who reads its messages
    int32_t n_tools;
    bool has_strict_tools;
    bool needs_call;               // chat: tool_choice required or a named function
    char *named_tool;              // chat: which; owned, NULL: any
    int32_t n_prompt_scores;       // prompt_logprobs, as n_scores
    bool echo;                     // completions
    bool echo_only;                // completions: max_tokens is 0
    struct openai_prompt *prompts; // [n_prompts], owned; completions and embeddings
    int32_t n_prompts;
    struct openai_embedding embedding;
};

enum openai_endpoint {
    OPENAI_CHAT = 1,
    OPENAI_COMPLETIONS = 2,
    OPENAI_RESPONSES = 4,
    OPENAI_EMBEDDINGS = 8,
    OPENAI_MESSAGES = 16,
};

struct openai_source {
    enum openai_endpoint endpoint;
    const char *body; // [length], NUL-terminated
    size_t length;
    struct sampling_params defaults;
    int32_t vocab;   // ids of a prompt lie in [0, vocab)
    struct log *log; // may be NULL
    bool is_strict;  // fields without effect are refused
};

/* Fills request, which openai_request_finish frees whether this succeeds or not. */
bool openai_request_read(const struct openai_source *source, struct openai_request *request, struct error *err);
void openai_request_finish(struct openai_request *request);

/* --- the table of fields of chat and completions: all that OpenAI and vLLM define --- */

enum openai_field_state { OPENAI_FIELD_SERVED, OPENAI_FIELD_WITHOUT_EFFECT, OPENAI_FIELD_REFUSED };

struct openai_field {
    const char *name;
    int endpoints; // openai_endpoint, or-ed
    enum openai_field_state state;
    const char *allowed; // in words; of those that are not served JSON values that ask for nothing; NULL: not said
};

/* By index from 0; false behind the last. A name may come twice, for different endpoints. */
bool openai_request_field(size_t index, struct openai_field *field);

#endif
