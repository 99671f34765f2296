#include "fake_engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_REQUESTS = 256, END_TOKEN = 256, VOCAB = 512 };

struct fake_request {
    uint64_t id; // 0: free
    struct engine_request request;
    struct fake_script script;
    bool cancelled;
    int32_t n_generated;
    int64_t submitted_ns;
    int64_t started_ns; // 0: waits
    int64_t first_ns;
    int64_t due_ns;
};

struct engine {
    struct engine_info info;
    int32_t max_queue;
    pthread_t thread;
    pthread_mutex_t lock;
    struct fake_script script;
    struct engine_request last;
    struct fake_request requests[MAX_REQUESTS];
    uint64_t last_id;
    bool draining;
    bool stopping;
    struct engine_stats stats;
};

int64_t engine_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void count(const struct engine *engine, int32_t *n_running, int32_t *n_waiting) {
    *n_running = *n_waiting = 0;
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        if (engine->requests[i].id == 0) continue;
        ++*(engine->requests[i].started_ns != 0 ? n_running : n_waiting);
    }
}

static void finish(struct engine *engine, struct fake_request *request, enum finish_reason reason) {
    int64_t now = engine_now_ns();
    struct engine_event event = {
        .kind = ENGINE_FINISHED,
        .reason = reason,
        .error = request->script.error,
        .n_prompt = request->request.n_prompt,
        .n_generated = request->n_generated,
        .queue_ns = (request->started_ns != 0 ? request->started_ns : now) - request->submitted_ns,
        .first_token_ns = request->first_ns != 0 ? request->first_ns - request->submitted_ns : 0,
        .total_ns = now - request->submitted_ns,
    };
    ++engine->stats.finished[reason];
    struct engine_request listened = request->request;
    request->id = 0;
    if (listened.constraint != NULL) listened.constraint->destroy(listened.constraint);
    listened.listener(listened.user, &event);
}

/* One token, or the end. */
static void step(struct engine *engine, struct fake_request *request, int64_t now) {
    const struct fake_script *script = &request->script;
    bool script_over = !script->endless && request->n_generated == script->n_tokens;
    if (script_over && script->error.code != ERR_NONE) {
        finish(engine, request, FINISH_ERROR);
        return;
    }
    if (script_over || request->n_generated == request->request.max_new_tokens) {
        finish(engine, request, FINISH_LENGTH);
        return;
    }
    int32_t token = script->tokens[request->n_generated % script->n_tokens];
    ++request->n_generated;
    if (request->first_ns == 0) request->first_ns = now;
    request->due_ns = now + (int64_t)script->pace_ms * 1000000;
    struct token_scores scores = {.logprob = -0.5f, .rank = 2, .n_top = request->request.n_scores - 1};
    for (int32_t i = 0; i < scores.n_top; ++i) {
        scores.tokens[i] = (token + i) % VOCAB;
        scores.logprobs[i] = -0.25f * (float)(1 + i);
    }
    struct engine_event event = {
        .kind = ENGINE_TOKEN, .token = token, .scores = request->request.n_scores > 0 ? &scores : NULL};
    request->request.listener(request->request.user, &event);
    if (token == END_TOKEN && !request->request.ignore_eos) finish(engine, request, FINISH_STOP);
}

static void run_step(struct engine *engine) {
    int32_t n_running, n_waiting;
    int64_t now = engine_now_ns();
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        struct fake_request *request = &engine->requests[i];
        if (request->id != 0 && request->cancelled) finish(engine, request, FINISH_CANCELLED);
    }
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        struct fake_request *request = &engine->requests[i];
        if (request->id == 0) continue;
        count(engine, &n_running, &n_waiting);
        if (request->started_ns == 0 && n_running < engine->info.max_seqs) {
            request->started_ns = now;
            request->due_ns = now + (int64_t)request->script.first_ms * 1000000;
        }
        if (request->started_ns != 0 && now >= request->due_ns) step(engine, request, now);
    }
    ++engine->stats.n_steps;
    engine->stats.last_step_end_ns = engine_now_ns();
}

static void *run(void *user) {
    struct engine *engine = user;
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping) {
        run_step(engine);
        pthread_mutex_unlock(&engine->lock);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        pthread_mutex_lock(&engine->lock);
    }
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        if (engine->requests[i].id != 0) finish(engine, &engine->requests[i], FINISH_CANCELLED);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

struct engine *engine_create(const struct engine_options *options, struct error *err) {
    static const int32_t nothing[] = {END_TOKEN};
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        fail(err, ERR_MEMORY, "no memory for a fake engine");
        return NULL;
    }
    engine->info = (struct engine_info){
        .model = {.shape = {.vocab = VOCAB},
                  .eos_ids = {END_TOKEN},
                  .n_eos_ids = 1,
                  .sampling = {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20}},
        .max_model_len = options->max_model_len,
        .max_seqs = options->max_seqs,
    };
    engine->max_queue = options->max_queue;
    engine->script = (struct fake_script){.tokens = nothing, .n_tokens = 1};
    engine_stats_init(&engine->stats);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_create(&engine->thread, NULL, run, engine);
    return engine;
}

void engine_destroy(struct engine *engine) {
    if (engine == NULL) return;
    pthread_mutex_lock(&engine->lock);
    engine->stopping = true;
    pthread_mutex_unlock(&engine->lock);
    pthread_join(engine->thread, NULL);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

const struct engine_info *engine_info(const struct engine *engine) {
    return &engine->info;
}

void fake_engine_script(struct engine *engine, const struct fake_script *script) {
    pthread_mutex_lock(&engine->lock);
    engine->script = *script;
    pthread_mutex_unlock(&engine->lock);
}

struct engine_request fake_engine_last(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct engine_request last = engine->last;
    pthread_mutex_unlock(&engine->lock);
    return last;
}

static bool submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct error *err) {
    int32_t n_running, n_waiting;
    count(engine, &n_running, &n_waiting);
    if (engine->draining) return fail(err, ERR_UNAVAILABLE, "the engine is stopping");
    if (n_running + n_waiting >= engine->info.max_seqs + engine->max_queue) {
        return fail(err, ERR_BUSY, "%d requests wait already, %d may", n_waiting, engine->max_queue);
    }
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        if (engine->requests[i].id != 0) continue;
        *id = ++engine->last_id;
        engine->last = *request;
        engine->requests[i] = (struct fake_request){
            .id = *id, .request = *request, .script = engine->script, .submitted_ns = engine_now_ns()};
        return true;
    }
    return fail(err, ERR_BUSY, "%d requests are too many for a fake", MAX_REQUESTS);
}

bool engine_submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct error *err) {
    pthread_mutex_lock(&engine->lock);
    bool accepted = submit(engine, request, id, err);
    pthread_mutex_unlock(&engine->lock);
    return accepted;
}

void engine_cancel(struct engine *engine, uint64_t id) {
    pthread_mutex_lock(&engine->lock);
    for (int i = 0; i < MAX_REQUESTS; ++i) {
        if (engine->requests[i].id == id) engine->requests[i].cancelled = true;
    }
    pthread_mutex_unlock(&engine->lock);
}

bool engine_drain(struct engine *engine, int32_t timeout_ms) {
    int64_t until = engine_now_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        struct engine_stats stats;
        pthread_mutex_lock(&engine->lock);
        engine->draining = true;
        pthread_mutex_unlock(&engine->lock);
        engine_stats(engine, &stats);
        if (stats.n_running + stats.n_waiting == 0) return true;
        if (engine_now_ns() > until) return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void engine_stats(struct engine *engine, struct engine_stats *stats) {
    pthread_mutex_lock(&engine->lock);
    *stats = engine->stats;
    count(engine, &stats->n_running, &stats->n_waiting);
    pthread_mutex_unlock(&engine->lock);
}

bool engine_measure_bandwidth(struct engine *engine, double *bytes_per_second, struct error *err) {
    (void)engine, (void)err;
    *bytes_per_second = 1e9;
    return true;
}
