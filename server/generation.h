/* The life of one request that generates, from submit to the last byte: what chat and plain completions share.
 *
 * All choices are submitted or none. A stream begins with the first token (or after HTTP_QUIET_NS), so that a failure
 * before it still gets its own status; a later failure is an event in the stream. A stop string ends a choice with
 * reason "stop". When the client leaves, all choices are cancelled at once. */
#ifndef QUERN_SERVER_GENERATION_H
#define QUERN_SERVER_GENERATION_H

#include "engine/error.h"
#include "server/answer.h"
#include "server/logprobs.h"
#include "server/openai_request.h"

#include <stdbool.h>
#include <stdint.h>

struct http_request;
struct server;

/* How an endpoint writes: its names, and the JSON around a text. */
struct generation_format {
    const char *endpoint; // for the log
    const char *id_prefix;
    int32_t max_new_tokens; // where the request names none; cut to what the context leaves
    const char *body_object;
    const char *chunk_object;
    const char *body_before, *body_after;   // around the whole text in a body, unless it is parsed
    const char *chunk_before, *chunk_after; // around a piece of it in a chunk, unless it is parsed
    const char *chunk_first;                // what the first chunk of a choice holds, NULL: there is none
    const char *chunk_last;                 // what the chunk with finish_reason holds
    enum logprobs_form logprobs;
    bool prompt_ids_at_top; // prompt_token_ids stand beside the choices; otherwise in each
};

struct generation_options {
    const struct generation_format *format; // static
    struct openai_request *request;         // moved if it is taken on; the caller finishes what is left
    const struct token_list *prompts;       // [n_prompts], copied; request->n_choices for each
    int32_t n_prompts;
    const struct answer_options *answer; // NULL: text as it is; copied, what it points to belongs to request
};

/* Answers, defers, or answers with what went wrong. */
void generation_start(struct server *server, struct http_request *http, const struct generation_options *options);

#endif
