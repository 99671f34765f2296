#include "server/stream.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 64 };

struct mailbox {
    struct stream *stream;       // borrowed, as the choice holds a reference
    int32_t *tokens;             // [n_tokens] not taken yet, owned
    struct token_scores *scores; // [n_tokens], owned; NULL: not asked for
    bool scored;
    size_t n_tokens;
    size_t capacity;
    bool lost;     // memory ran out
    float *pooled; // [n_pooled], owned; NULL: not asked for, or taken
    int32_t n_pooled;
    struct engine_event last; // ENGINE_FINISHED, or zero
    bool submitted;
    uint64_t id; // of the engine
};

struct stream {
    pthread_mutex_t lock;
    void (*wake)(void *user); // NULL once detached
    void *user;               // borrowed
    bool wake_on_token;
    int32_t n_references;
    int32_t n_unfinished; // submitted choices without a last event
    char id[64];
    const char *endpoint;
    const char *finish;
    struct log *log;
    int32_t n_choices;
    struct mailbox mailboxes[]; // [n_choices]
};

static double milliseconds(int64_t ns) {
    return (double)ns / 1e6;
}

/* Sums over the choices; times are those of the request as a whole. */
static void log_request(const struct stream *stream) {
    int64_t n_prompt = 0, n_cached = 0, n_generated = 0, queue_ns = 0, first_ns = 0, total_ns = 0;
    for (int32_t i = 0; i < stream->n_choices; ++i) {
        const struct engine_event *last = &stream->mailboxes[i].last;
        n_prompt += last->n_prompt;
        n_cached += last->n_cached;
        n_generated += last->n_generated;
        queue_ns = last->queue_ns > queue_ns ? last->queue_ns : queue_ns;
        total_ns = last->total_ns > total_ns ? last->total_ns : total_ns;
        if (last->first_token_ns > 0 && (first_ns == 0 || last->first_token_ns < first_ns)) {
            first_ns = last->first_token_ns;
        }
    }
    // The first token of each choice belongs to the prefill.
    int64_t n_decoded = n_generated - stream->n_choices;
    double seconds = (double)(total_ns - first_ns) / 1e9;
    double tokens_per_s = n_decoded > 0 && first_ns > 0 && seconds > 0 ? (double)n_decoded / seconds : 0;
    const struct log_field fields[] = {
        {.name = "id", .kind = LOG_FIELD_STRING, .string = stream->id},
        {.name = "endpoint", .kind = LOG_FIELD_STRING, .string = stream->endpoint},
        {.name = "prompt_tokens", .kind = LOG_FIELD_INTEGER, .integer = n_prompt},
        {.name = "cached_tokens", .kind = LOG_FIELD_INTEGER, .integer = n_cached},
        {.name = "generated_tokens", .kind = LOG_FIELD_INTEGER, .integer = n_generated},
        {.name = "queue_ms", .kind = LOG_FIELD_NUMBER, .number = milliseconds(queue_ns)},
        {.name = "ttft_ms", .kind = LOG_FIELD_NUMBER, .number = milliseconds(first_ns)},
        {.name = "tokens_per_s", .kind = LOG_FIELD_NUMBER, .number = tokens_per_s},
        {.name = "finish", .kind = LOG_FIELD_STRING, .string = stream->finish},
    };
    log_event(stream->log, LOG_INFO, "request", fields, sizeof fields / sizeof *fields);
}

/* Called with the lock held; gives it up. */
static void release(struct stream *stream) {
    assert(stream->n_references > 0);
    bool last = --stream->n_references == 0;
    pthread_mutex_unlock(&stream->lock);
    if (!last) return;
    if (stream->finish != NULL) log_request(stream);
    for (int32_t i = 0; i < stream->n_choices; ++i) {
        free(stream->mailboxes[i].tokens);
        free(stream->mailboxes[i].scores);
        free(stream->mailboxes[i].pooled);
    }
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

struct stream *stream_create(const struct stream_options *options, struct error *err) {
    assert(options->n_choices > 0);
    size_t mailbox_bytes = (size_t)options->n_choices * sizeof(struct mailbox);
    struct stream *stream = calloc(1, sizeof *stream + mailbox_bytes);
    if (stream == NULL) {
        fail(err, ERR_MEMORY, "no memory for a request with %d choices", (int)options->n_choices);
        return NULL;
    }
    pthread_mutex_init(&stream->lock, NULL);
    stream->wake = options->wake;
    stream->user = options->user;
    stream->wake_on_token = options->wake_on_token;
    stream->n_references = 1;
    stream->endpoint = options->endpoint;
    stream->log = options->log;
    stream->n_choices = options->n_choices;
    snprintf(stream->id, sizeof stream->id, "%s", options->id);
    for (int32_t i = 0; i < stream->n_choices; ++i) stream->mailboxes[i].stream = stream;
    return stream;
}

static bool grow(struct mailbox *mailbox) {
    size_t capacity = mailbox->capacity > 0 ? 2 * mailbox->capacity : FIRST_CAPACITY;
    int32_t *tokens = realloc(mailbox->tokens, capacity * sizeof *tokens);
    if (tokens == NULL) return false;
    mailbox->tokens = tokens;
    if (mailbox->scored) {
        struct token_scores *scores = realloc(mailbox->scores, capacity * sizeof *scores);
        if (scores == NULL) return false;
        mailbox->scores = scores;
    }
    mailbox->capacity = capacity;
    return true;
}

static void append(struct mailbox *mailbox, const struct engine_event *event) {
    if (mailbox->n_tokens == mailbox->capacity && !grow(mailbox)) {
        mailbox->lost = true;
        return;
    }
    if (mailbox->scored)
        mailbox->scores[mailbox->n_tokens] = event->scores != NULL ? *event->scores : (struct token_scores){0};
    mailbox->tokens[mailbox->n_tokens++] = event->token;
}

/* On the engine thread. A request that was woken for one token takes all that came until it looks. */
static void listen(void *user, const struct engine_event *event) {
    struct mailbox *mailbox = user;
    struct stream *stream = mailbox->stream;
    pthread_mutex_lock(&stream->lock);
    bool finished = event->kind == ENGINE_FINISHED;
    bool wake = stream->wake_on_token && (finished || mailbox->n_tokens == 0);
    if (finished) {
        mailbox->last = *event;
        wake |= --stream->n_unfinished == 0;
    } else if (event->kind == ENGINE_POOLED) {
        memcpy(mailbox->pooled, event->pooled, (size_t)mailbox->n_pooled * sizeof *mailbox->pooled);
    } else if (stream->wake != NULL) {
        append(mailbox, event);
    }
    if (wake && stream->wake != NULL) stream->wake(stream->user);
    if (finished) {
        release(stream);
    } else {
        pthread_mutex_unlock(&stream->lock);
    }
}

bool stream_submit(struct stream *stream, int32_t index, struct engine *engine, struct engine_request *request,
                   struct error *err) {
    struct mailbox *mailbox = &stream->mailboxes[index];
    request->listener = listen;
    request->user = mailbox;
    mailbox->scored = request->n_scores > 0 || request->n_prompt_scores > 0;
    if (request->pooling != POOLING_NONE) {
        mailbox->n_pooled = engine_info(engine)->model.shape.hidden;
        if (mailbox->pooled == NULL) mailbox->pooled = calloc((size_t)mailbox->n_pooled, sizeof *mailbox->pooled);
        if (mailbox->pooled == NULL) return fail(err, ERR_MEMORY, "no memory for %d numbers", (int)mailbox->n_pooled);
    }
    pthread_mutex_lock(&stream->lock);
    ++stream->n_references;
    ++stream->n_unfinished;
    pthread_mutex_unlock(&stream->lock);

    // Not under the lock: events may come before the engine returns.
    uint64_t id;
    bool accepted = engine_submit(engine, request, &id, err);
    pthread_mutex_lock(&stream->lock);
    if (accepted) {
        mailbox->submitted = true;
        mailbox->id = id;
        pthread_mutex_unlock(&stream->lock);
    } else {
        --stream->n_unfinished;
        release(stream);
    }
    return accepted;
}

void stream_cancel(struct stream *stream, int32_t index, struct engine *engine) {
    struct mailbox *mailbox = &stream->mailboxes[index];
    pthread_mutex_lock(&stream->lock);
    bool running = mailbox->submitted && mailbox->last.kind != ENGINE_FINISHED;
    uint64_t id = mailbox->id;
    pthread_mutex_unlock(&stream->lock);
    if (running) engine_cancel(engine, id);
}

void stream_take(struct stream *stream, int32_t index, struct stream_delivery *delivery) {
    struct mailbox *mailbox = &stream->mailboxes[index];
    int32_t *tokens = delivery->tokens;
    struct token_scores *scores = delivery->scores;
    size_t capacity = delivery->capacity;
    pthread_mutex_lock(&stream->lock);
    delivery->tokens = mailbox->tokens;
    delivery->scores = mailbox->scores;
    delivery->count = mailbox->n_tokens;
    delivery->capacity = mailbox->capacity;
    delivery->lost = mailbox->lost;
    delivery->finished = mailbox->last.kind == ENGINE_FINISHED;
    if (delivery->finished) {
        delivery->last = mailbox->last;
        delivery->pooled = mailbox->pooled;
        mailbox->pooled = NULL;
    }
    mailbox->tokens = tokens;
    mailbox->scores = scores;
    mailbox->n_tokens = 0;
    mailbox->capacity = capacity;
    pthread_mutex_unlock(&stream->lock);
}

void stream_detach(struct stream *stream, const char *finish) {
    pthread_mutex_lock(&stream->lock);
    stream->wake = NULL;
    stream->finish = finish;
    release(stream);
}
