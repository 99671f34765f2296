#include "server/bench_run.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct recorder; // all requests of a run

struct recorded {
    struct recorder *recorder;
    int64_t *token_ns; // [n_new] when each token came
    int32_t n_tokens;
};

struct recorder {
    const struct bench_run *run;
    int64_t *token_ns;         // [n_requests][n_new], owned
    int32_t *prompt;           // [n_prompt], owned
    struct recorded *requests; // [n_requests], owned
    pthread_mutex_t lock;
    pthread_cond_t finished;
    int32_t n_unfinished;
    struct error error; // of the first that failed
};

/* The engine thread alone writes the times; the lock orders them before the reader. */
static void listen(void *user, const struct engine_event *event) {
    struct recorded *request = user;
    struct recorder *recorder = request->recorder;
    if (event->kind == ENGINE_TOKEN) {
        if (request->n_tokens < recorder->run->n_new) request->token_ns[request->n_tokens++] = engine_now_ns();
        return;
    }
    pthread_mutex_lock(&recorder->lock);
    if (event->reason == FINISH_ERROR && recorder->error.code == ERR_NONE) recorder->error = event->error;
    if (--recorder->n_unfinished == 0) pthread_cond_signal(&recorder->finished);
    pthread_mutex_unlock(&recorder->lock);
}

/* SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static bool submit(struct engine *engine, struct recorder *recorder, int32_t index, uint64_t *random,
                   struct error *err) {
    const struct bench_run *run = recorder->run;
    struct recorded *recorded = &recorder->requests[index];
    *recorded = (struct recorded){.recorder = recorder, .token_ns = recorder->token_ns + (size_t)index * run->n_new};
    uint64_t vocab = (uint64_t)engine_info(engine)->model.shape.vocab;
    for (int32_t i = 0; i < run->n_prompt; ++i) recorder->prompt[i] = (int32_t)(next_random(random) % vocab);
    const struct engine_request request = {
        .prompt = recorder->prompt,
        .n_prompt = run->n_prompt,
        .max_new_tokens = run->n_new,
        .sampling = {.temperature = 0, .top_p = 1},
        .ignore_eos = true,
        .listener = listen,
        .user = recorded,
    };
    uint64_t id;
    if (engine_submit(engine, &request, &id, err)) return true;
    pthread_mutex_lock(&recorder->lock);
    recorder->n_unfinished -= run->n_requests - index; // those that are not submitted any more
    pthread_mutex_unlock(&recorder->lock);
    return false;
}

/* Also on failure waits for what was submitted: its listener points into the recorder. */
static bool run_all(struct engine *engine, struct recorder *recorder, struct error *err) {
    uint64_t random = recorder->run->seed;
    bool submitted = true;
    for (int32_t i = 0; i < recorder->run->n_requests && submitted; ++i) {
        submitted = submit(engine, recorder, i, &random, err);
    }
    pthread_mutex_lock(&recorder->lock);
    while (recorder->n_unfinished > 0) pthread_cond_wait(&recorder->finished, &recorder->lock);
    pthread_mutex_unlock(&recorder->lock);
    if (!submitted) return false;
    if (recorder->error.code == ERR_NONE) return true;
    return fail(err, recorder->error.code, "%s", recorder->error.message);
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double bench_median(double *values, int32_t count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* The phase in which all decode: from the first token of the last to begin to the last token of the first to end. */
static bool evaluate(const struct recorder *recorder, int64_t began_ns, double *steps, struct bench_times *times,
                     struct error *err) {
    const struct bench_run *run = recorder->run;
    int32_t last = run->n_new - 1;
    const struct recorded *latest = &recorder->requests[0];
    int64_t end_ns = INT64_MAX;
    for (int32_t i = 0; i < run->n_requests; ++i) {
        const struct recorded *request = &recorder->requests[i];
        if (request->n_tokens < run->n_new) return fail(err, ERR_INTERNAL, "a request ended before its last token");
        if (request->token_ns[0] > latest->token_ns[0]) latest = request;
        if (request->token_ns[last] < end_ns) end_ns = request->token_ns[last];
    }
    *times = (struct bench_times){.first_token_s = (double)(latest->token_ns[0] - began_ns) / 1e9};
    if (run->n_new == 1) return true;
    // Tokens of one step come microseconds apart: the phase ends with the first to end, so the latest one's own clock
    // counts its steps.
    while (times->n_steps < last && latest->token_ns[times->n_steps] < end_ns) {
        const int64_t *at = &latest->token_ns[times->n_steps];
        steps[times->n_steps++] = (double)(at[1] - at[0]) / 1e9;
    }
    if (times->n_steps == 0) {
        return fail_param(err, ERR_INVALID, "new-tokens",
                          "--new-tokens %d is too few: the first of %d requests had ended before the last one began",
                          (int)run->n_new, (int)run->n_requests);
    }
    double seconds = (double)(latest->token_ns[times->n_steps] - latest->token_ns[0]) / 1e9;
    times->tokens_per_s = (double)times->n_steps * run->n_requests / seconds;
    times->mean_kv_tokens = (double)run->n_prompt + run->n_new - (double)times->n_steps / 2;
    times->step_s = bench_median(steps, times->n_steps);
    return true;
}

bool bench_measure(struct engine *engine, const struct bench_run *run, struct bench_times *times, struct error *err) {
    struct recorder recorder = {.run = run, .n_unfinished = run->n_requests};
    recorder.token_ns = calloc((size_t)run->n_requests * (size_t)run->n_new, sizeof *recorder.token_ns);
    recorder.prompt = calloc((size_t)run->n_prompt, sizeof *recorder.prompt);
    recorder.requests = calloc((size_t)run->n_requests, sizeof *recorder.requests);
    double *steps = calloc((size_t)run->n_new, sizeof *steps);
    pthread_mutex_init(&recorder.lock, NULL);
    pthread_cond_init(&recorder.finished, NULL);
    bool ok = recorder.token_ns != NULL && recorder.prompt != NULL && recorder.requests != NULL && steps != NULL;
    int64_t began_ns = engine_now_ns();
    ok = ok ? run_all(engine, &recorder, err) && evaluate(&recorder, began_ns, steps, times, err)
            : fail(err, ERR_MEMORY, "no memory for the times of %d requests", (int)run->n_requests);
    pthread_cond_destroy(&recorder.finished);
    pthread_mutex_destroy(&recorder.lock);
    free(recorder.token_ns);
    free(recorder.prompt);
    free(recorder.requests);
    free(steps);
    return ok;
}
