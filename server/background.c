#include "server/background.h"

#include "server/generation_state.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/response_store.h"
#include "server/responses_writer.h"
#include "server/server.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct job {
    struct background *background;
    struct generation *generation; // owned
    char id[SERVER_ID_SIZE];
    bool is_in_progress; // was stored so
    bool is_woken;       // guarded by the lock, as what follows
    bool is_cancelled;
    struct job *next;
};

struct background {
    struct server *server; // borrowed
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    pthread_cond_t ended;
    struct job *jobs;
    bool is_stopping;
};

/* --- one response, on our thread --- */

static void store(struct job *job, const char *status, const struct openai_error *error) {
    struct error err;
    if (responses_writer_store(job->generation, status, error, &err)) return;
    log_message(job->background->server->log, LOG_WARN, "%s is not stored: %s", job->generation->id, err.message);
}

static void end(struct job *job, const char *finish) {
    generation_destroy(job->generation, finish);
    job->generation = NULL;
}

/* Takes what came; the generation is gone once the response has its end. */
static void work(struct job *job, bool is_cancelled) {
    struct generation *generation = job->generation;
    generation_take_tokens(generation, false);
    if (generation->error.code != ERR_NONE) {
        const struct openai_error error = openai_error_from(&generation->error);
        store(job, "failed", &error);
        end(job, "error");
    } else if (generation->n_unfinished == 0) {
        struct string_builder body = {0};
        generation->writer->write_body(generation, &body); // and stores it
        string_builder_finish(&body);
        end(job, choice_end_word(generation->choices[0].end));
    } else if (is_cancelled) {
        store(job, "cancelled", NULL);
        end(job, "cancelled");
    } else if (!job->is_in_progress) {
        store(job, "in_progress", NULL);
        job->is_in_progress = true;
    }
}

/* --- the thread --- */

static struct job *find_woken(const struct background *background) {
    struct job *job = background->jobs;
    while (job != NULL && !job->is_woken && !job->is_cancelled) job = job->next;
    return job;
}

static void unlink_job(struct background *background, struct job *job) {
    struct job **place = &background->jobs;
    while (*place != job) place = &(*place)->next;
    *place = job->next;
}

static void *run(void *user) {
    struct background *background = user;
    pthread_mutex_lock(&background->lock);
    while (!background->is_stopping) {
        struct job *job = find_woken(background);
        if (job == NULL) {
            pthread_cond_wait(&background->woken, &background->lock);
            continue;
        }
        bool is_cancelled = job->is_cancelled;
        job->is_woken = false;
        pthread_mutex_unlock(&background->lock);
        work(job, is_cancelled);
        pthread_mutex_lock(&background->lock);
        if (job->generation != NULL) continue;
        unlink_job(background, job);
        free(job);
        pthread_cond_broadcast(&background->ended);
    }
    pthread_mutex_unlock(&background->lock);
    return NULL;
}

static void wake(void *user) {
    struct job *job = user;
    pthread_mutex_lock(&job->background->lock);
    job->is_woken = true;
    pthread_cond_signal(&job->background->woken);
    pthread_mutex_unlock(&job->background->lock);
}

struct background *background_create(struct server *server, struct error *err) {
    struct background *background = calloc(1, sizeof *background);
    if (background == NULL) {
        fail(err, ERR_MEMORY, "no memory for responses in the background");
        return NULL;
    }
    background->server = server;
    pthread_mutex_init(&background->lock, NULL);
    pthread_cond_init(&background->woken, NULL);
    pthread_cond_init(&background->ended, NULL);
    if (pthread_create(&background->thread, NULL, run, background) == 0) return background;
    free(background);
    fail(err, ERR_INTERNAL, "no thread for responses in the background");
    return NULL;
}

void background_destroy(struct background *background) {
    if (background == NULL) return;
    pthread_mutex_lock(&background->lock);
    background->is_stopping = true;
    pthread_cond_signal(&background->woken);
    pthread_mutex_unlock(&background->lock);
    pthread_join(background->thread, NULL);
    for (struct job *job = background->jobs, *next; job != NULL; job = next) {
        next = job->next;
        generation_destroy(job->generation, "stopping");
        free(job);
    }
    pthread_cond_destroy(&background->ended);
    pthread_cond_destroy(&background->woken);
    pthread_mutex_destroy(&background->lock);
    free(background);
}

/* --- for HTTP threads --- */

/* Into the store, and to our thread; the answer is what was stored. */
static bool take_on(struct background *background, struct job *job, struct string_builder *answer, struct error *err) {
    memcpy(job->id, job->generation->id, sizeof job->id);
    if (!responses_writer_store(job->generation, "queued", NULL, err) ||
        !response_store_get(background->server->responses, job->id, answer, err))
        return false;
    pthread_mutex_lock(&background->lock);
    job->next = background->jobs;
    background->jobs = job;
    pthread_cond_signal(&background->woken); // it may be woken already
    pthread_mutex_unlock(&background->lock);
    return true;
}

void background_start(struct background *background, struct http_request *http,
                      const struct generation_options *options) {
    struct server *server = background->server;
    struct error err;
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        options->writer->finish(options->state);
        fail(&err, ERR_MEMORY, "no memory for a response in the background");
        openai_respond_failure(server, http, &err);
        return;
    }
    job->background = background;
    const struct generation_waiting waiting = {.wake = wake, .user = job, .on_token = true};
    struct string_builder answer = {0};
    job->generation = generation_start_alone(server, http, &waiting, options);
    if (job->generation == NULL) {
        free(job);
    } else if (take_on(background, job, &answer, &err)) {
        openai_respond_json(http, &answer);
    } else {
        openai_respond_failure(server, http, &err);
        generation_destroy(job->generation, NULL);
        free(job);
    }
}

static struct job *find_job(const struct background *background, const char *id) {
    struct job *job = background->jobs;
    while (job != NULL && strcmp(job->id, id) != 0) job = job->next;
    return job;
}

void background_cancel(struct background *background, const char *id) {
    struct job *job;
    pthread_mutex_lock(&background->lock);
    while ((job = find_job(background, id)) != NULL) {
        job->is_cancelled = true;
        pthread_cond_signal(&background->woken);
        pthread_cond_wait(&background->ended, &background->lock);
    }
    pthread_mutex_unlock(&background->lock);
}
