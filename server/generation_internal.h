/* One request's generation while it runs, shared by the three files that make it: tokens to text
 * (generation_choice.c), text to JSON (generation_write.c), and the deferred request itself (generation.c). */
#ifndef QUERN_SERVER_GENERATION_INTERNAL_H
#define QUERN_SERVER_GENERATION_INTERNAL_H

#include "server/detokenizer.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/stream.h"

struct choice {
    struct detokenizer detokenizer;
    struct stream_delivery delivery;
    struct string_builder text;   // stream: what is not sent yet; otherwise all of it; parsed: nothing
    struct answer answer;         // parsed
    struct string_builder before; // stream: of every chunk of this choice, up to what it holds
    struct logprobs logprobs;     // stream: what is not sent yet; otherwise all of them
    struct string_builder ids;    // return_token_ids: the same of the tokens' ids, "1,2,3"
    struct string_builder prompt_ids;
    struct string_builder prompt_logprobs; // elements of the array
    int32_t n_prompt;
    int32_t n_prompt_scored;   // tokens of the prompt that were taken, where it is scored: the first has no scores
    int32_t n_generated;       // tokens up to the end or the stop string
    const char *finish_reason; // NULL while it runs
    bool begun;                // its first chunk was written
    bool gave_prompt;          // return_token_ids: a chunk had those of the prompt
    bool ended;                // its last chunk was written
    struct engine_event last;  // valid with finish_reason
};

struct generation {
    struct server *server;                  // borrowed
    const struct generation_format *format; // static
    struct openai_request request;          // owned
    struct stream *stream;                  // owned reference
    bool parses;                            // text goes through the answers of the choices
    enum answer_thinking thinking;          // how they may begin
    char id[SERVER_ID_SIZE];
    struct string_builder head; // of every event, up to the choices
    struct string_builder out;  // stream: bytes not read yet, from n_read on
    size_t n_read;
    bool said_done; // [DONE] or an error was written: out is all that is left
    struct error error;
    int32_t n_unfinished;
    int32_t n_choices;
    struct choice choices[]; // [n_choices]
};

/* --- generation_choice.c --- */

/* What the engine has told of all choices since the last call; the first failure goes to generation->error. */
void generation_take_tokens(struct generation *generation, struct http_request *http);
/* scores NULL: the first token. */
void generation_take_prompt_token(struct generation *generation, struct choice *choice, int32_t token,
                                  const struct token_scores *scores);
/* How many scores the engine is to give of each token of the prompt. */
int32_t generation_prompt_scores(const struct openai_request *request);
void generation_write_id(struct string_builder *ids, int32_t id);

/* --- generation_write.c --- */

/* The whole answer, once all choices have ended. */
void generation_respond(struct generation *generation, struct http_request *http);
/* What every event and every chunk begins with: before the first. */
void generation_prepare_stream(struct generation *generation);
/* Turns what came into events in out. */
void generation_write_events(struct generation *generation);

#endif
