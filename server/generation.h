/* The life of one request that generates, from submit to the last byte: what all endpoints that generate share.
 *
 * All choices are submitted or none. A stream begins with the first token (or after HTTP_QUIET_NS), so that a failure
 * before it still gets its own status; a later failure is an event in the stream. A stop string ends a choice with
 * reason "stop". When the client leaves, all choices are cancelled at once.
 *
 * What is written is the endpoint's: its writer sees the answers as parts (server/answer.h), whole or as they grow. */
#ifndef QUERN_SERVER_GENERATION_H
#define QUERN_SERVER_GENERATION_H

#include "engine/error.h"
#include "server/answer.h"
#include "server/logprobs.h"
#include "server/openai_request.h"

#include <stdbool.h>
#include <stdint.h>

struct choice;
struct generation;
struct http_request;
struct openai_error;
struct server;

/* How an endpoint writes; static. Its functions append to out, read the generation (generation_state.h) and keep
 * what they have to remember in its state. Errors before the stream are written as routes.c says. */
struct generation_writer {
    const char *endpoint; // for the log
    const char *id_prefix;
    const char *limit_name; // of the field that limits the answer's tokens, for messages
    int32_t max_new_tokens; // where the request names none; cut to what the context leaves
    enum logprobs_form logprobs;
    bool scores_content; // of its tokens alone there are log-probabilities
    bool keeps_text;     // a stream needs all text of a part when it ends
    const void *format;  // for the functions, NULL: they need none

    /* The whole answer as one body, once all choices have ended. */
    void (*write_body)(struct generation *generation, struct string_builder *out);

    /* A stream: begin once, then of each choice its deltas in order and its end, and at last the end of all; an error
     * stands in the place of what is left. */
    void (*write_begin)(struct generation *generation, struct string_builder *out);
    void (*write_delta)(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                        struct string_builder *out);
    void (*write_choice_end)(struct generation *generation, struct choice *choice, struct string_builder *out);
    void (*write_end)(struct generation *generation, struct string_builder *out);
    void (*write_error)(struct generation *generation, const struct openai_error *error, struct string_builder *out);

    void (*finish)(void *state); // frees it, takes NULL; NULL: there is no state
};

struct generation_options {
    const struct generation_writer *writer; // static
    void *state;                            // of the writer; finished in any case
    struct openai_request *request;         // moved if it is taken on; the caller finishes what is left
    const struct token_list *prompts;       // [n_prompts], copied; request->n_choices for each
    int32_t n_prompts;
    struct answer_options answer; // what it points to belongs to request
};

/* Answers, defers, or answers with what went wrong. */
void generation_start(struct server *server, struct http_request *http, const struct generation_options *options);

/* Who takes the answer of a request that no client waits for. */
struct generation_waiting {
    void (*wake)(void *user); // from any thread: there is something to take
    void *user;
    bool on_token; // false: only when all choices have finished, or one may have to be stopped
};

/* The same without a client: it is the caller's to take tokens from and to destroy (generation_state.h). NULL: http is
 * answered with what went wrong. */
struct generation *generation_start_alone(struct server *server, struct http_request *http,
                                          const struct generation_waiting *waiting,
                                          const struct generation_options *options);

#endif
