/* One request's generation while it runs: tokens to parts (generation_choice.c), and the deferred request itself
 * (generation.c). The writers of the endpoints read it. */
#ifndef QUERN_SERVER_GENERATION_STATE_H
#define QUERN_SERVER_GENERATION_STATE_H

#include "server/detokenizer.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/stream.h"

enum choice_end {
    CHOICE_RUNS,
    CHOICE_STOPPED, // by the model, or a stop string: detokenizer.stopped
    CHOICE_CUT,     // by a limit
    CHOICE_CALLED,  // stopped, with calls of tools
};

struct choice {
    int32_t index;
    struct detokenizer detokenizer;
    struct stream_delivery delivery;
    struct string_builder text; // on its way to the answer
    struct answer answer;       // a stream tells it in pieces
    struct logprobs logprobs;   // stream: what is not sent yet; otherwise all of them
    struct string_builder ids;  // return_token_ids: the same of the tokens' ids, "1,2,3"
    struct string_builder prompt_ids;
    struct string_builder prompt_logprobs; // elements of the array
    int32_t n_prompt;
    int32_t n_prompt_scored; // tokens of the prompt that were taken, where it is scored: the first has no scores
    int32_t n_generated;     // tokens up to the end or the stop string
    int32_t stop_token;      // one of stop_token_ids that ended it; -1: none did
    enum choice_end end;
    bool gave_prompt;         // return_token_ids: a chunk had those of the prompt
    bool is_told;             // its end was written
    struct engine_event last; // valid once it has ended
};

struct generation_usage {
    int64_t n_prompt, n_cached, n_generated, n_reasoning;
};

struct generation {
    struct server *server;                  // borrowed
    const struct generation_writer *writer; // static
    void *state;                            // of the writer, owned
    struct openai_request request;          // owned
    struct stream *stream;                  // owned reference
    enum answer_thinking thinking;          // how the answers may begin
    char id[SERVER_ID_SIZE];
    int64_t created_s;          // Unix time
    struct string_builder head; // stream: what the writer begins events with
    struct string_builder out;  // stream: bytes not read yet, from n_read on
    size_t n_read;
    bool is_begun; // stream: its beginning was written
    bool is_over;  // its end or an error was written: out is all that is left
    struct error error;
    int32_t n_unfinished;
    int32_t n_choices;
    struct choice choices[]; // [n_choices]
};

/* --- generation.c --- */

/* Cancels what still runs and frees all; finish is how the request ended, for the log, NULL: nothing is logged. */
void generation_destroy(struct generation *generation, const char *finish);

/* --- generation_choice.c --- */

/* What the engine has told of all choices since the last call; the first failure goes to generation->error. is_closing:
 * that something still runs is one. */
void generation_take_tokens(struct generation *generation, bool is_closing);
/* scores NULL: the first token. */
void generation_take_prompt_token(struct generation *generation, struct choice *choice, int32_t token,
                                  const struct token_scores *scores);
/* How many scores the engine is to give of each token of the prompt. */
int32_t generation_prompt_scores(const struct openai_request *request);
void generation_write_id(struct string_builder *ids, int32_t id);
/* Of all choices; those of one prompt share it. */
struct generation_usage generation_usage(const struct generation *generation);
/* "stop", "length" or "tool_calls", as OpenAI's clients and the log have it. */
const char *choice_end_word(enum choice_end end);
/* vLLM's stop_reason: the stop string or stop token that ended it, otherwise null. */
void choice_write_stop_reason(const struct choice *choice, struct string_builder *out);

#endif
