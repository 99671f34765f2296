/* The mailbox between the engine thread and one request: the tokens of its choices, in order, none lost, or what
 * was pooled for them.
 *
 * The engine thread only appends under the lock and wakes the request; the thread that serves it takes whole arrays by
 * swapping, so neither waits for the other's work. A mailbox holds at most the tokens that its request may generate: a
 * client that reads slowly costs 4 bytes a token, 176 with its scores. Reference-counted: the request holds it until
 * stream_detach, each submitted choice until its last event, and whoever is last writes the request's one line to the
 * log. */
#ifndef QUERN_SERVER_STREAM_H
#define QUERN_SERVER_STREAM_H

#include "engine/engine.h"
#include "engine/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream;

/* What the mailbox has for one choice; zero-initialise, and free tokens, scores and pooled at the end. */
struct stream_delivery {
    int32_t *tokens;             // [count], owned; those of the prompt but the first come first, where it is scored
    struct token_scores *scores; // [count], owned; NULL: not asked for
    size_t count;
    size_t capacity;
    float *pooled;            // [hidden], owned; NULL: nothing was pooled, or not yet
    bool finished;            // `last` is valid, nothing follows
    bool lost;                // memory ran out, tokens are missing
    struct engine_event last; // ENGINE_FINISHED
};

struct stream_options {
    void (*wake)(void *user); // from any thread, until stream_detach
    void *user;
    bool wake_on_token; // false: only when all choices have finished
    int32_t n_choices;
    const char *id;       // for the log line; copied
    const char *endpoint; // for the log line; static
    struct log *log;      // borrowed
};

struct stream *stream_create(const struct stream_options *options, struct error *err);

/* Submits one choice, index in [0, n_choices), once for each; again where it was refused. The listener of request is
 * set here. */
bool stream_submit(struct stream *stream, int32_t index, struct engine *engine, struct engine_request *request,
                   struct error *err);

/* Ends a choice early; its last event still comes. No effect on one that was not submitted or has finished. */
void stream_cancel(struct stream *stream, int32_t index, struct engine *engine);

/* Hands over what came since the last call. The delivery's array is reused for what comes next. */
void stream_take(struct stream *stream, int32_t index, struct stream_delivery *delivery);

/* The request is over and will not be woken again: finish says how, for the log ("stop", "client_gone", …); static.
 * NULL: nothing is to be logged. The stream must not be used any more. */
void stream_detach(struct stream *stream, const char *finish);

#endif
