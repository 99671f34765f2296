#include "engine/engine_internal.h"

#include "engine/model.h"

#include <assert.h>
#include <string.h>

static double seconds(int64_t ns) {
    return (double)ns * 1e-9;
}

/* --- telling listeners ------------------------------------------------------------------------------------------ */

static void observe_finish(struct engine *engine, const struct outcome *outcome, int64_t now) {
    const struct sequence *sequence = outcome->sequence;
    engine->n_admitted--; // before the listener knows: who hears of an end finds room for one more
    engine->stats.finished[outcome->reason]++;
    histogram_observe(&engine->stats.request, seconds(now - sequence->submit_ns));
    if (outcome->error.code == ERR_NUMERIC) engine->stats.not_finite++;
}

static void observe_token(struct engine *engine, struct sequence *sequence, int64_t now) {
    engine->stats.generation_tokens++;
    if (!sequence->first_token_ns) {
        sequence->first_token_ns = now;
        engine->stats.prompt_tokens += (uint64_t)sequence->n_prompt;
        histogram_observe(&engine->stats.first_token, seconds(now - sequence->submit_ns));
    } else {
        histogram_observe(&engine->stats.inter_token, seconds(now - sequence->last_token_ns));
    }
    sequence->last_token_ns = now;
}

static void forget_live(struct engine *engine, const struct sequence *sequence) {
    for (int32_t i = 0; i < engine->n_live; ++i) {
        if (engine->live[i] != sequence) continue;
        engine->live[i] = engine->live[--engine->n_live];
        return;
    }
    assert(!"a finished sequence was not live");
}

static void publish_gauges(struct engine *engine) {
    const struct scheduler *scheduler = &engine->scheduler;
    const struct scheduler_counts *counts = &scheduler->counts;
    engine->stats.n_running = scheduler->running.count;
    engine->stats.n_waiting = scheduler->waiting.count; // and the inbox: engine_stats
    engine->stats.n_used_blocks = block_pool_n_blocks(engine->pool) - block_pool_n_free(engine->pool);
    engine->stats.preemptions = counts->preemptions;
    engine->stats.prefix_queries = counts->prefix_queries;
    engine->stats.prefix_hits = counts->prefix_hits;
    engine->stats.prefix_evictions = block_pool_n_evictions(engine->pool);
}

static void tell(const struct outcome *outcome, int64_t now) {
    const struct sequence *sequence = outcome->sequence;
    if (outcome->has_token)
        sequence->listener(sequence->user, &(struct engine_event){.kind = ENGINE_TOKEN, .token = outcome->token});
    if (!outcome->finished) return;
    struct engine_event event = {
        .kind = ENGINE_FINISHED,
        .reason = outcome->reason,
        .error = outcome->error,
        .n_prompt = sequence->n_prompt,
        .n_cached = sequence->n_cached,
        .n_generated = sequence->n_tokens - sequence->n_prompt,
        .n_preemptions = sequence->n_preemptions,
        .queue_ns = (sequence->scheduled_ns ? sequence->scheduled_ns : now) - sequence->submit_ns,
        .first_token_ns = sequence->first_token_ns ? sequence->first_token_ns - sequence->submit_ns : 0,
        .total_ns = now - sequence->submit_ns,
    };
    sequence->listener(sequence->user, &event);
}

/* Statistics first, so that whoever got an answer finds it counted; then the listeners; then the memory. */
static void publish(struct engine *engine, struct outcome *outcomes, int32_t n_outcomes) {
    int64_t now = engine_now_ns();
    pthread_mutex_lock(&engine->lock);
    for (int32_t i = 0; i < n_outcomes; ++i) {
        if (outcomes[i].has_token) observe_token(engine, outcomes[i].sequence, now);
        if (outcomes[i].finished) observe_finish(engine, &outcomes[i], now);
    }
    publish_gauges(engine);
    pthread_mutex_unlock(&engine->lock);
    for (int32_t i = 0; i < n_outcomes; ++i) tell(&outcomes[i], now);

    pthread_mutex_lock(&engine->lock);
    for (int32_t i = 0; i < n_outcomes; ++i) {
        if (outcomes[i].finished) forget_live(engine, outcomes[i].sequence);
    }
    if (engine->n_live == 0) pthread_cond_broadcast(&engine->idle);
    pthread_mutex_unlock(&engine->lock);
    for (int32_t i = 0; i < n_outcomes; ++i) {
        if (outcomes[i].finished) sequence_destroy(outcomes[i].sequence);
    }
}

/* Takes a live sequence out of the scheduler; its outcome is published with others. */
static struct outcome end_sequence(struct engine *engine, struct sequence *sequence, enum finish_reason reason,
                                   const struct error *error) {
    scheduler_remove(&engine->scheduler, sequence);
    struct outcome outcome = {.sequence = sequence, .finished = true, .reason = reason};
    if (error) outcome.error = *error;
    return outcome;
}

static void end_all(struct engine *engine, enum finish_reason reason, const struct error *error) {
    struct scheduler *scheduler = &engine->scheduler;
    int32_t n_outcomes = 0;
    while (scheduler->running.last)
        engine->outcomes[n_outcomes++] = end_sequence(engine, scheduler->running.last, reason, error);
    while (scheduler->waiting.last)
        engine->outcomes[n_outcomes++] = end_sequence(engine, scheduler->waiting.last, reason, error);
    publish(engine, engine->outcomes, n_outcomes);
}

/* --- one step --------------------------------------------------------------------------------------------------- */

static bool compute(struct engine *engine, const struct step *step, struct error *err) {
    int32_t n_samples = 0;
    for (int32_t i = 0; i < step->n_parts; ++i) {
        const struct step_part *part = &step->parts[i];
        const struct sequence *sequence = part->sequence;
        n_samples += part->sample;
        engine->batch[i] = (struct batch_sequence){
            .tokens = sequence->tokens + sequence->n_computed,
            .start = sequence->n_computed,
            .n_rows = part->n_rows,
            .blocks = sequence->blocks,
            .n_blocks = sequence->n_blocks,
            .sample = part->sample,
            .sampling = sequence->sampling,
        };
    }
    const struct backend_ops *ops = engine->options.ops;
    if (!context_prepare(engine->ctx, engine->batch, step->n_parts, err)) return false;
    if (!model_forward(engine->ctx, &engine->weights, err)) return false;
    if (n_samples == 0) return ops->synchronize(engine->device, err);
    return ops->copy_to_host(engine->device, engine->sampled, engine->ctx->scratch.sampled,
                             (size_t)n_samples * sizeof *engine->sampled, err);
}

static bool is_eos(const struct engine *engine, int32_t token) {
    for (int32_t i = 0; i < engine->info.model.n_eos_ids; ++i) {
        if (engine->info.model.eos_ids[i] == token) return true;
    }
    return false;
}

static struct outcome append_token(struct engine *engine, struct sequence *sequence, int32_t token) {
    struct outcome outcome = {.sequence = sequence};
    if (token < 0 || token >= engine->info.model.shape.vocab) {
        outcome.finished = true;
        outcome.reason = FINISH_ERROR;
        fail(&outcome.error, token == SAMPLED_NOT_FINITE ? ERR_NUMERIC : ERR_INTERNAL,
             token == SAMPLED_NOT_FINITE ? "the model computed a logit that is not finite after %d tokens"
                                         : "no token could be sampled after %d tokens",
             sequence->n_tokens);
        for (int32_t i = 0; i < sequence->n_blocks; ++i) block_pool_unpublish(engine->pool, sequence->blocks[i]);
        return outcome;
    }
    sequence->tokens[sequence->n_tokens++] = token;
    outcome.token = token;
    outcome.has_token = true;
    if (is_eos(engine, token) && !sequence->ignore_eos) {
        outcome.finished = true;
        outcome.reason = FINISH_STOP;
    } else if (sequence->n_tokens == sequence->max_tokens) {
        outcome.finished = true;
        outcome.reason = FINISH_LENGTH;
    }
    return outcome;
}

static void finish_step(struct engine *engine, const struct step *step, int64_t start_ns) {
    int32_t n_outcomes = 0, n_samples = 0;
    for (int32_t i = 0; i < step->n_parts; ++i) {
        const struct step_part *part = &step->parts[i];
        struct sequence *sequence = part->sequence;
        scheduler_computed(&engine->scheduler, part);
        if (!part->sample) continue;
        struct outcome outcome = append_token(engine, sequence, engine->sampled[n_samples++]);
        if (outcome.finished) scheduler_remove(&engine->scheduler, sequence);
        engine->outcomes[n_outcomes++] = outcome;
    }
    int64_t now = engine_now_ns();
    pthread_mutex_lock(&engine->lock);
    engine->stats.n_steps++;
    engine->stats.last_step_end_ns = now;
    engine->stats.last_step_ns = now - start_ns;
    pthread_mutex_unlock(&engine->lock);
    publish(engine, engine->outcomes, n_outcomes);
}

static void run_step(struct engine *engine) {
    struct error error = {0};
    int64_t start_ns = engine_now_ns();
    const struct step *step = scheduler_plan(&engine->scheduler);
    if (step->n_parts == 0) return;
    pthread_mutex_lock(&engine->lock);
    publish_gauges(engine); // what this step runs is seen while it runs
    pthread_mutex_unlock(&engine->lock);
    for (int32_t i = 0; i < step->n_parts; ++i) {
        if (!step->parts[i].sequence->scheduled_ns) step->parts[i].sequence->scheduled_ns = start_ns;
    }
    if (compute(engine, step, &error)) {
        finish_step(engine, step, start_ns);
        return;
    }
    log_message(engine->options.log, LOG_ERROR, "a step failed, no more requests are served: %s", error.message);
    pthread_mutex_lock(&engine->lock);
    engine->stats.failed = true;
    memcpy(engine->stats.failure, error.message, sizeof engine->stats.failure);
    pthread_mutex_unlock(&engine->lock);
    end_all(engine, FINISH_ERROR, &error);
}

/* --- the thread ------------------------------------------------------------------------------------------------- */

static bool has_work(const struct engine *engine) {
    return engine->scheduler.running.count > 0 || engine->scheduler.waiting.count > 0;
}

/* Waits for work, takes the inbox, takes out what was cancelled. False: time to stop. */
static bool take_requests(struct engine *engine, bool *failed, int32_t *n_cancelled) {
    *n_cancelled = 0;
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping && !engine->inbox.first && !engine->any_cancelled && !has_work(engine))
        pthread_cond_wait(&engine->wake, &engine->lock);
    for (struct sequence *sequence; (sequence = sequence_queue_pop_front(&engine->inbox));)
        scheduler_add(&engine->scheduler, sequence);
    for (int32_t i = 0; engine->any_cancelled && i < engine->n_live; ++i) {
        if (engine->live[i]->cancelled)
            engine->outcomes[(*n_cancelled)++] = end_sequence(engine, engine->live[i], FINISH_CANCELLED, NULL);
    }
    engine->any_cancelled = false;
    *failed = engine->stats.failed;
    bool go_on = !engine->stopping;
    pthread_mutex_unlock(&engine->lock);
    return go_on;
}

void *engine_thread(void *argument) {
    struct engine *engine = argument;
    for (;;) {
        bool failed;
        int32_t n_cancelled;
        bool go_on = take_requests(engine, &failed, &n_cancelled);
        if (n_cancelled > 0) publish(engine, engine->outcomes, n_cancelled);
        if (!go_on) break;
        if (failed) {
            struct error error;
            fail(&error, ERR_UNAVAILABLE, "the device has failed");
            end_all(engine, FINISH_ERROR, &error);
        } else if (has_work(engine)) {
            run_step(engine);
        }
    }
    end_all(engine, FINISH_CANCELLED, NULL);
    return NULL;
}
