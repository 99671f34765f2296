#include "engine/engine_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

int64_t engine_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- create and destroy ----------------------------------------------------------------------------------------- */

static bool create_queues(struct engine *engine, struct error *err) {
    const struct engine_options *options = &engine->options;
    const struct engine_info *info = &engine->info;
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) return fail(err, ERR_IO, "getrandom gave no bytes");
    engine->pool = block_pool_create(info->n_blocks, info->block_size, seed, err);
    if (!engine->pool) return false;
    struct scheduler_options scheduler_options = {.max_seqs = info->max_seqs,
                                                  .max_rows = info->max_batch_tokens,
                                                  .prefix_cache = options->prefix_cache,
                                                  .pool = engine->pool};
    if (!scheduler_init(&engine->scheduler, &scheduler_options, err)) return false;
    if (!seats_init(&engine->seats, engine->ctx, err)) return false;
    engine->max_admitted = info->max_seqs + options->max_queue;
    engine->live = calloc(2 * (size_t)engine->max_admitted, sizeof(struct sequence *));
    engine->outcomes = calloc((size_t)engine->max_admitted, sizeof *engine->outcomes);
    engine->batch = calloc((size_t)info->max_seqs, sizeof *engine->batch);
    if (!engine->live || !engine->outcomes || !engine->batch)
        return fail(err, ERR_MEMORY, "no memory for %d requests", engine->max_admitted);
    for (int i = 0; i < 2; ++i) {
        engine->sampled[i] = options->ops->alloc_host(engine->device, (size_t)info->max_seqs * sizeof(int32_t), err);
        if (!engine->sampled[i]) return false;
        engine->scores[i] =
            options->ops->alloc_host(engine->device, (size_t)info->max_seqs * sizeof(struct token_scores), err);
        if (!engine->scores[i]) return false;
        size_t pooled_bytes = (size_t)info->max_seqs * (size_t)info->model.shape.hidden * sizeof(float);
        engine->pooled[i] = options->ops->alloc_host(engine->device, pooled_bytes, err);
        if (!engine->pooled[i]) return false;
    }
    size_t mask_bytes = (size_t)sampling_mask_words(info->model.shape.vocab) * sizeof *engine->masks;
    engine->masks = options->ops->alloc_host(engine->device, (size_t)info->max_seqs * mask_bytes, err);
    if (!engine->masks) return false;
    return true;
}

struct engine *engine_create(const struct engine_options *options, struct error *err) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        fail(err, ERR_MEMORY, "no memory for an engine");
        return NULL;
    }
    engine->options = *options;
    engine_stats_init(&engine->stats);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&engine->wake, NULL);
    pthread_cond_init(&engine->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);

    if (!engine_load(engine, err) || !create_queues(engine, err)) goto fail;
    engine->stats.n_blocks = engine->info.n_blocks;
    if (pthread_create(&engine->thread, NULL, engine_thread, engine) != 0) {
        fail(err, ERR_INTERNAL, "the engine thread did not start");
        goto fail;
    }
    engine->thread_started = true;
    return engine;

fail:
    engine_destroy(engine);
    return NULL;
}

void engine_destroy(struct engine *engine) {
    if (!engine) return;
    if (engine->thread_started) {
        pthread_mutex_lock(&engine->lock);
        engine->stopping = true;
        pthread_cond_signal(&engine->wake);
        pthread_mutex_unlock(&engine->lock);
        pthread_join(engine->thread, NULL);
    }
    const struct backend_ops *ops = engine->options.ops;
    for (int i = 0; i < 2; ++i) {
        ops->free_host(engine->device, engine->sampled[i]);
        ops->free_host(engine->device, engine->scores[i]);
        ops->free_host(engine->device, engine->pooled[i]);
    }
    ops->free_host(engine->device, engine->masks);
    free(engine->batch);
    free(engine->outcomes);
    free(engine->live);
    scheduler_finish(&engine->scheduler);
    seats_finish(&engine->seats);
    block_pool_destroy(engine->pool);
    ranks_finish(&engine->ranks);
    pthread_cond_destroy(&engine->idle);
    pthread_cond_destroy(&engine->wake);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* --- the door --------------------------------------------------------------------------------------------------- */

const struct engine_info *engine_info(const struct engine *engine) {
    return &engine->info;
}

/* Written so that NaN is refused. The ranges are those of engine/sampling.h; a greedy request needs no filter, so that
 * the filters of an all-zero struct pass. */
static bool check_sampling(const struct sampling_params *sampling, struct error *err) {
    if (!(sampling->temperature >= 0 && sampling->temperature <= 2))
        return fail_param(err, ERR_INVALID, "temperature", "temperature is %g; allowed are 0 to 2",
                          (double)sampling->temperature);
    if (sampling->temperature < SAMPLING_MIN_TEMPERATURE) return true;
    if (!(sampling->top_p > 0 && sampling->top_p <= 1))
        return fail_param(err, ERR_INVALID, "top_p", "top_p is %g; it must be above 0 and at most 1",
                          (double)sampling->top_p);
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return fail_param(err, ERR_INVALID, "min_p", "min_p is %g; allowed are 0 to 1", (double)sampling->min_p);
    if (sampling->top_k < 0)
        return fail_param(err, ERR_INVALID, "top_k", "top_k is %d; at least 0 is allowed", sampling->top_k);
    return true;
}

static bool check_tokens(const struct engine *engine, const char *name, const int32_t *tokens, int32_t n,
                         struct error *err) {
    int32_t vocab = engine->info.model.shape.vocab;
    for (int32_t i = 0; i < n; ++i) {
        if (tokens[i] < 0 || tokens[i] >= vocab)
            return fail_param(err, ERR_INVALID, name, "%s names token %d; allowed are 0 to %d", name, tokens[i],
                              vocab - 1);
    }
    return true;
}

static bool check_penalty(const char *name, float penalty, struct error *err) {
    if (penalty >= -2 && penalty <= 2) return true;
    return fail_param(err, ERR_INVALID, name, "%s is %g; allowed are -2 to 2", name, (double)penalty);
}

static bool check_adjustments(const struct engine *engine, const struct sampling_adjustments *given,
                              struct error *err) {
    if (!check_penalty("presence_penalty", given->presence_penalty, err) ||
        !check_penalty("frequency_penalty", given->frequency_penalty, err))
        return false;
    if (given->repetition_penalty != 0 && !(given->repetition_penalty >= 0.01f && given->repetition_penalty <= 100))
        return fail_param(err, ERR_INVALID, "repetition_penalty", "repetition_penalty is %g; allowed are 0.01 to 100",
                          (double)given->repetition_penalty);
    if (given->n_biases < 0 || given->n_biases > SAMPLING_MAX_BIASES)
        return fail_param(err, ERR_INVALID, "logit_bias", "logit_bias names %d tokens; at most %d are allowed",
                          given->n_biases, (int)SAMPLING_MAX_BIASES);
    for (int32_t i = 0; i < given->n_biases; ++i) {
        if (!check_tokens(engine, "logit_bias", &given->biases[i].token, 1, err)) return false;
        if (!(given->biases[i].bias >= -100 && given->biases[i].bias <= 100))
            return fail_param(err, ERR_INVALID, "logit_bias", "logit_bias gives token %d %g; allowed are -100 to 100",
                              given->biases[i].token, (double)given->biases[i].bias);
    }
    return true;
}

static bool check_end(const struct engine *engine, const struct engine_request *request, struct error *err) {
    if (request->n_stop_tokens < 0 || request->n_stop_tokens > ENGINE_MAX_STOP_TOKENS)
        return fail_param(err, ERR_INVALID, "stop_token_ids", "stop_token_ids has %d tokens; at most %d are allowed",
                          request->n_stop_tokens, (int)ENGINE_MAX_STOP_TOKENS);
    if (!check_tokens(engine, "stop_token_ids", request->stop_tokens, request->n_stop_tokens, err)) return false;
    if (request->min_new_tokens < 0 || request->min_new_tokens > request->max_new_tokens)
        return fail_param(err, ERR_INVALID, "min_tokens", "min_tokens is %d; allowed are 0 to the %d of max_tokens",
                          request->min_new_tokens, request->max_new_tokens);
    if (request->timeout_ms < 0)
        return fail_param(err, ERR_INVALID, "timeout_ms", "timeout_ms is %d; at least 0 is allowed",
                          request->timeout_ms);
    return true;
}

static bool check_prompt(const struct engine *engine, const struct engine_request *request, struct error *err) {
    const struct engine_info *info = &engine->info;
    if (request->n_prompt < 1) return fail(err, ERR_INVALID, "the prompt is empty: at least one token is needed");
    if (request->pooling && request->n_prompt > info->max_model_len)
        return fail(err, ERR_INVALID, "the prompt has %d tokens; at most %d are allowed", request->n_prompt,
                    info->max_model_len);
    if (!request->pooling && request->n_prompt >= info->max_model_len)
        return fail(err, ERR_INVALID, "the prompt has %d tokens; at most %d are allowed, so that one can be generated",
                    request->n_prompt, info->max_model_len - 1);
    for (int32_t i = 0; i < request->n_prompt; ++i) {
        if (request->prompt[i] < 0 || request->prompt[i] >= info->model.shape.vocab)
            return fail(err, ERR_INVALID, "token %d of the prompt is %d; allowed are 0 to %d", i, request->prompt[i],
                        info->model.shape.vocab - 1);
    }
    return true;
}

static bool check_request(const struct engine *engine, const struct engine_request *request, struct error *err) {
    if (!check_prompt(engine, request, err)) return false;
    if (request->pooling) return true;
    if (request->max_new_tokens < 1)
        return fail(err, ERR_INVALID, "%d tokens were asked for; at least 1 is allowed", request->max_new_tokens);
    int32_t most = 1 + SAMPLING_MAX_TOP;
    if (request->n_scores < 0 || request->n_scores > most || request->n_prompt_scores < 0 ||
        request->n_prompt_scores > most)
        return fail(err, ERR_INVALID, "%d scores were asked for, and %d of the prompt; allowed are 0 to %d",
                    request->n_scores, request->n_prompt_scores, most);
    return check_sampling(&request->sampling, err) && check_adjustments(engine, &request->adjustments, err) &&
           check_end(engine, request, err);
}

/* What the request does to its logits, NULL when that is nothing; false when there is no memory for it. */
static bool make_adjusted(const struct engine *engine, const struct engine_request *request,
                          struct sampling_seat **adjusted, struct error *err) {
    const struct sampling_adjustments *given = &request->adjustments;
    float repetition = given->repetition_penalty != 0 ? given->repetition_penalty : 1;
    bool penalties = repetition != 1 || given->frequency_penalty != 0 || given->presence_penalty != 0;
    *adjusted = NULL;
    if (request->pooling || (!penalties && given->n_biases == 0 && request->min_new_tokens == 0)) return true;
    struct sampling_seat *seat = calloc(1, sizeof *seat);
    if (!seat) return fail(err, ERR_MEMORY, "no memory for the penalties of a request");
    *adjusted = seat;
    seat->repetition_penalty = repetition;
    seat->frequency_penalty = given->frequency_penalty;
    seat->presence_penalty = given->presence_penalty;
    seat->has_penalties = penalties;
    seat->banned_until = request->n_prompt + request->min_new_tokens; // no more than max_new_tokens: no overflow
    for (int32_t i = 0; i < engine->info.model.n_eos_ids && !request->ignore_eos; ++i)
        seat->bans[seat->n_bans++] = engine->info.model.eos_ids[i];
    for (int32_t i = 0; i < request->n_stop_tokens; ++i) seat->bans[seat->n_bans++] = request->stop_tokens[i];
    seat->n_biases = given->n_biases;
    for (int32_t i = 0; i < given->n_biases; ++i) seat->biases[i] = given->biases[i];
    return true;
}

/* With the lock held: may one more request come in? */
static bool admit(const struct engine *engine, struct error *err) {
    if (engine->stats.failed) return fail(err, ERR_UNAVAILABLE, "the device has failed: %.400s", engine->stats.failure);
    if (engine->stopping || engine->draining) return fail(err, ERR_UNAVAILABLE, "the server is stopping");
    if (engine->n_admitted == engine->max_admitted)
        return fail(err, ERR_BUSY, "%d requests are running or waiting, which is the limit; try again later",
                    engine->n_admitted);
    return true;
}

bool engine_submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct error *err) {
    if (!check_request(engine, request, err)) return false;
    assert(!request->pooling || (request->n_scores == 0 && request->n_prompt_scores == 0 && !request->constraint));
    struct sequence *sequence = sequence_create(request, engine->info.max_model_len, engine->info.block_size, err);
    if (!sequence) return false;
    if (!make_adjusted(engine, request, &sequence->adjusted, err)) {
        sequence_destroy(sequence);
        return false;
    }
    sequence->submit_ns = engine_now_ns();
    if (request->timeout_ms > 0) sequence->deadline_ns = sequence->submit_ns + (int64_t)request->timeout_ms * 1000000;
    pthread_mutex_lock(&engine->lock);
    bool admitted = admit(engine, err);
    if (admitted) {
        *id = sequence->id = ++engine->next_id;
        sequence->live_index = engine->n_live;
        sequence->constraint = request->constraint;
        engine->live[engine->n_live++] = sequence;
        engine->n_admitted++;
        if (sequence->deadline_ns && (!engine->next_deadline_ns || sequence->deadline_ns < engine->next_deadline_ns))
            engine->next_deadline_ns = sequence->deadline_ns;
        sequence_queue_push_back(&engine->inbox, sequence);
        pthread_cond_signal(&engine->wake);
    }
    pthread_mutex_unlock(&engine->lock);
    if (!admitted) sequence_destroy(sequence);
    return admitted;
}

void engine_cancel(struct engine *engine, uint64_t id) {
    pthread_mutex_lock(&engine->lock);
    for (int32_t i = 0; i < engine->n_live; ++i) {
        if (engine->live[i]->id != id) continue;
        engine->live[i]->cancelled = engine->any_cancelled = true;
        pthread_cond_signal(&engine->wake);
    }
    pthread_mutex_unlock(&engine->lock);
}

bool engine_drain(struct engine *engine, int32_t timeout_ms) {
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&engine->lock);
    engine->draining = true;
    int waited = 0;
    while (engine->n_live > 0 && waited == 0) waited = pthread_cond_timedwait(&engine->idle, &engine->lock, &deadline);
    bool drained = engine->n_live == 0;
    pthread_mutex_unlock(&engine->lock);
    return drained;
}

void engine_stats(struct engine *engine, struct engine_stats *stats) {
    pthread_mutex_lock(&engine->lock);
    *stats = engine->stats;
    stats->n_waiting += engine->inbox.count;
    pthread_mutex_unlock(&engine->lock);
}

static bool measure_rank(struct rank *rank, void *argument, struct error *err) {
    double *rates = argument;
    return rank->ranks->ops->measure_bandwidth(rank->device, &rates[rank->slice.rank], err);
}

bool engine_measure_bandwidth(struct engine *engine, double *bytes_per_second, struct error *err) {
    double rates[SLICE_MAX_RANKS];
    if (!ranks_run(&engine->ranks, measure_rank, rates, err)) return false;
    *bytes_per_second = 0;
    for (int32_t r = 0; r < engine->info.n_ranks; ++r) *bytes_per_second += rates[r];
    return true;
}
