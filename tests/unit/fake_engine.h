/* A test double behind engine/engine.h: its tokens come from a script, at a set pace, and it fails when told to.
 * Linked before the engine's library it takes the place of engine.c. A "step" is one turn of its thread. */
#ifndef QUERN_TESTS_FAKE_ENGINE_H
#define QUERN_TESTS_FAKE_ENGINE_H

#include "engine/engine.h"

/* What each request answers that is submitted from now on. */
struct fake_script {
    const int32_t *tokens; // [n_tokens], borrowed; an id of 256 ends the answer unless ignore_eos
    int32_t n_tokens;      // then FINISH_LENGTH
    int32_t first_ms;      // before the first token
    int32_t pace_ms;       // before each further token
    bool endless;          // repeats until max_new_tokens
    // With scores: logprob -0.5; the likeliest are the token and its next ids, with -0.25, -0.5, …
    struct error error; // code not ERR_NONE: FINISH_ERROR after the tokens
};
void fake_engine_script(struct engine *engine, const struct fake_script *script);

/* The parameters of the request submitted last. */
struct engine_request fake_engine_last(struct engine *engine);

#endif
