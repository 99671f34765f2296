#include "server/bench_run.h"

#include <pthread.h>
#include <stdlib.h>

struct recorder; // all requests of a run

struct recorded {
    struct recorder *recorder;
    int32_t n_prompt;
    int32_t n_new;
    int64_t *token_ns; // [n_new] when each token came
    int32_t n_tokens;
};

struct recorder {
    const struct bench_run *run;
    int64_t began_ns;
    int64_t *token_ns;         // of all requests, owned
    int32_t *prompt;           // [run->prompt.most], owned
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
        if (request->n_tokens < request->n_new) request->token_ns[request->n_tokens++] = engine_now_ns();
        return;
    }
    pthread_mutex_lock(&recorder->lock);
    if (event->reason == FINISH_ERROR && recorder->error.code == ERR_NONE) recorder->error = event->error;
    if (--recorder->n_unfinished == 0) pthread_cond_signal(&recorder->finished);
    pthread_mutex_unlock(&recorder->lock);
}

/* Steele, Lea and Flood, 2014. */
static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

int32_t bench_draw(struct bench_range range, uint64_t *random) {
    return range.least + (int32_t)(next_random(random) % (uint64_t)(range.most - range.least + 1));
}

void bench_draw_tokens(int32_t *tokens, int32_t n_tokens, int32_t vocab, uint64_t *random) {
    for (int32_t i = 0; i < n_tokens; ++i) tokens[i] = (int32_t)(next_random(random) % (uint64_t)vocab);
}

/* The lengths of all requests, so that those of one seed are the same whatever the prompts are. */
static bool recorder_init(struct recorder *recorder, const struct bench_run *run, uint64_t *random, struct error *err) {
    *recorder = (struct recorder){.run = run, .n_unfinished = run->n_requests};
    pthread_mutex_init(&recorder->lock, NULL);
    pthread_cond_init(&recorder->finished, NULL);
    recorder->token_ns = calloc((size_t)run->n_requests * (size_t)run->output.most, sizeof *recorder->token_ns);
    recorder->prompt = calloc((size_t)run->prompt.most, sizeof *recorder->prompt);
    recorder->requests = calloc((size_t)run->n_requests, sizeof *recorder->requests);
    if (recorder->token_ns == NULL || recorder->prompt == NULL || recorder->requests == NULL) {
        return fail(err, ERR_MEMORY, "no memory for the times of %d requests", (int)run->n_requests);
    }
    for (int32_t i = 0; i < run->n_requests; ++i) {
        recorder->requests[i] = (struct recorded){
            .recorder = recorder,
            .n_prompt = bench_draw(run->prompt, random),
            .n_new = bench_draw(run->output, random),
            .token_ns = recorder->token_ns + (size_t)i * (size_t)run->output.most,
        };
    }
    return true;
}

static void recorder_finish(struct recorder *recorder) {
    pthread_cond_destroy(&recorder->finished);
    pthread_mutex_destroy(&recorder->lock);
    free(recorder->token_ns);
    free(recorder->prompt);
    free(recorder->requests);
}

static bool submit(struct engine *engine, struct recorder *recorder, int32_t index, uint64_t *random,
                   struct error *err) {
    const struct bench_run *run = recorder->run;
    struct recorded *recorded = &recorder->requests[index];
    bench_draw_tokens(recorder->prompt, recorded->n_prompt, engine_info(engine)->model.shape.vocab, random);
    struct engine_request request = {
        .prompt = recorder->prompt,
        .n_prompt = recorded->n_prompt,
        .max_new_tokens = recorded->n_new,
        .sampling = run->sampling,
        .ignore_eos = true,
        .listener = listen,
        .user = recorded,
    };
    request.sampling.seed = next_random(random);
    uint64_t id;
    if (engine_submit(engine, &request, &id, err)) return true;
    pthread_mutex_lock(&recorder->lock);
    recorder->n_unfinished -= run->n_requests - index; // those that are not submitted any more
    pthread_mutex_unlock(&recorder->lock);
    return false;
}

/* Also on failure waits for what was submitted: its listener points into the recorder. */
static bool run_all(struct engine *engine, struct recorder *recorder, uint64_t *random, struct error *err) {
    bool submitted = true;
    recorder->began_ns = engine_now_ns();
    for (int32_t i = 0; i < recorder->run->n_requests && submitted; ++i) {
        submitted = submit(engine, recorder, i, random, err);
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

/* What the requests saw in the decode steps that ended after from_ns and not after to_ns. The step of token j, counted
 * from 0, sees the prompt and the j tokens before it. */
static int64_t kv_tokens_between(const struct recorder *recorder, int64_t from_ns, int64_t to_ns) {
    int64_t sum = 0;
    for (int32_t i = 0; i < recorder->run->n_requests; ++i) {
        const struct recorded *request = &recorder->requests[i];
        for (int32_t j = 1; j < request->n_tokens; ++j) {
            if (request->token_ns[j] > from_ns && request->token_ns[j] <= to_ns) sum += request->n_prompt + j;
        }
    }
    return sum;
}

static bool evaluate_whole(const struct recorder *recorder, struct bench_times *times, struct error *err) {
    int64_t first_ns = 0, last_ns = 0;
    *times = (struct bench_times){0};
    for (int32_t i = 0; i < recorder->run->n_requests; ++i) {
        const struct recorded *request = &recorder->requests[i];
        if (request->n_tokens < request->n_new) return fail(err, ERR_INTERNAL, "a request ended before its last token");
        int64_t end_ns = request->token_ns[request->n_new - 1];
        if (request->token_ns[0] > first_ns) first_ns = request->token_ns[0];
        if (end_ns > last_ns) last_ns = end_ns;
        if (request->n_new > times->n_longest) times->n_longest = request->n_new;
        times->n_tokens += request->n_new;
    }
    times->first_token_s = (double)(first_ns - recorder->began_ns) / 1e9;
    times->total_s = (double)(last_ns - recorder->began_ns) / 1e9;
    times->kv_tokens = kv_tokens_between(recorder, recorder->began_ns, last_ns);
    return true;
}

/* The phase in which all decode: from the first token of the last to begin to the last token of the first to end.
 * Tokens of one step come microseconds apart, so the latest one's own clock counts the steps. */
static bool evaluate_phase(const struct recorder *recorder, struct bench_times *times, struct error *err) {
    const struct bench_run *run = recorder->run;
    const struct recorded *latest = &recorder->requests[0];
    int64_t end_ns = INT64_MAX;
    for (int32_t i = 0; i < run->n_requests; ++i) {
        const struct recorded *request = &recorder->requests[i];
        if (request->token_ns[0] > latest->token_ns[0]) latest = request;
        if (request->token_ns[request->n_new - 1] < end_ns) end_ns = request->token_ns[request->n_new - 1];
    }
    double *steps = calloc((size_t)latest->n_new, sizeof *steps);
    if (steps == NULL) return fail(err, ERR_MEMORY, "no memory for the times of %d steps", (int)latest->n_new);
    const int64_t *at = latest->token_ns;
    int32_t n = 0;
    for (; n < latest->n_new - 1 && at[n] < end_ns; ++n) steps[n] = (double)(at[n + 1] - at[n]) / 1e9;
    if (n > 0) {
        times->n_steps = n;
        times->step_s = bench_median(steps, n);
        times->tokens_per_s = (double)n * run->n_requests / ((double)(at[n] - at[0]) / 1e9);
        times->step_kv_tokens = (double)kv_tokens_between(recorder, at[0], at[n]) / n;
    }
    free(steps);
    return true;
}

bool bench_measure(struct engine *engine, const struct bench_run *run, struct bench_times *times, struct error *err) {
    struct recorder recorder;
    uint64_t random = run->seed;
    bool ok = recorder_init(&recorder, run, &random, err) && run_all(engine, &recorder, &random, err) &&
              evaluate_whole(&recorder, times, err) && evaluate_phase(&recorder, times, err);
    recorder_finish(&recorder);
    return ok;
}
