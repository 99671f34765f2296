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
    if (outcome->error == ERR_NUMERIC) engine->stats.not_finite++;
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

static void observe_step(struct engine *engine, const struct flight *flight, int64_t now) {
    struct engine_stats *stats = &engine->stats;
    int64_t begin_ns = flight->launch_ns > stats->last_step_end_ns ? flight->launch_ns : stats->last_step_end_ns;
    stats->n_steps++;
    stats->last_step_end_ns = now;
    stats->last_step_ns = now - begin_ns;
}

static void forget_live(struct engine *engine, const struct sequence *sequence) {
    struct sequence *last = engine->live[--engine->n_live];
    engine->live[sequence->live_index] = last;
    last->live_index = sequence->live_index;
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

static struct error error_of(const struct engine *engine, const struct outcome *outcome) {
    struct error error = {.code = ERR_NONE};
    int32_t n_tokens = outcome->sequence->n_known;
    if (outcome->error == ERR_DEVICE)
        fail(&error, ERR_DEVICE, "%s", engine->stats.failure); // written by this thread alone
    else if (outcome->error == ERR_NUMERIC)
        fail(&error, ERR_NUMERIC, "the model computed a %s that is not finite after %d tokens",
             outcome->sequence->pooling ? "state" : "logit", n_tokens);
    else if (outcome->error != ERR_NONE)
        fail(&error, outcome->error, "no token could be sampled after %d tokens", n_tokens);
    return error;
}

static void tell_end(const struct engine *engine, const struct outcome *outcome, int64_t now) {
    const struct sequence *sequence = outcome->sequence;
    struct engine_event event = {
        .kind = ENGINE_FINISHED,
        .reason = outcome->reason,
        .error = error_of(engine, outcome),
        .n_prompt = sequence->n_prompt,
        .n_cached = sequence->n_cached,
        .n_generated = sequence->n_known - sequence->n_prompt,
        .n_preemptions = sequence->n_preemptions,
        .queue_ns = (sequence->scheduled_ns ? sequence->scheduled_ns : now) - sequence->submit_ns,
        .first_token_ns = sequence->first_token_ns ? sequence->first_token_ns - sequence->submit_ns : 0,
        .total_ns = now - sequence->submit_ns,
    };
    sequence->listener(sequence->user, &event);
}

static void tell_pooled(const struct outcome *outcome) {
    const struct engine_event event = {.kind = ENGINE_POOLED, .pooled = outcome->pooled};
    outcome->sequence->listener(outcome->sequence->user, &event);
}

static void tell(const struct engine *engine, const struct outcome *outcomes, int32_t n_outcomes, int64_t now) {
    struct engine_event event = {.kind = ENGINE_TOKEN}; // 700 bytes, most of them for errors: made once
    for (int32_t i = 0; i < n_outcomes; ++i) {
        const struct sequence *sequence = outcomes[i].sequence;
        event.token = outcomes[i].token;
        event.scores = outcomes[i].scores;
        if (outcomes[i].has_token) sequence->listener(sequence->user, &event);
        if (outcomes[i].pooled) tell_pooled(&outcomes[i]);
        if (outcomes[i].finished) tell_end(engine, &outcomes[i], now);
    }
}

/* Statistics first, so that whoever got an answer finds it counted; then the listeners; then the memory. */
static void publish(struct engine *engine, const struct flight *flight, int32_t n_outcomes) {
    const struct outcome *outcomes = engine->outcomes;
    int64_t now = engine_now_ns();
    int32_t n_finished = 0;
    pthread_mutex_lock(&engine->lock);
    if (flight) observe_step(engine, flight, now);
    for (int32_t i = 0; i < n_outcomes; ++i) {
        if (outcomes[i].has_token) observe_token(engine, outcomes[i].sequence, now);
        if (outcomes[i].pooled) engine->stats.prompt_tokens += (uint64_t)outcomes[i].sequence->n_prompt;
        if (outcomes[i].finished) observe_finish(engine, &outcomes[i], now);
        n_finished += outcomes[i].finished;
    }
    publish_gauges(engine);
    pthread_mutex_unlock(&engine->lock);
    tell(engine, outcomes, n_outcomes, now);
    if (n_finished == 0) return;

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
                                   enum error_code error) {
    scheduler_remove(&engine->scheduler, sequence);
    if (sequence->constraint) sequence->constraint->destroy(sequence->constraint);
    sequence->constraint = NULL;
    return (struct outcome){.sequence = sequence, .finished = true, .reason = reason, .error = error};
}

static void end_all(struct engine *engine, enum finish_reason reason, enum error_code error) {
    struct scheduler *scheduler = &engine->scheduler;
    int32_t n_outcomes = 0;
    while (scheduler->running.last)
        engine->outcomes[n_outcomes++] = end_sequence(engine, scheduler->running.last, reason, error);
    while (scheduler->waiting.last)
        engine->outcomes[n_outcomes++] = end_sequence(engine, scheduler->waiting.last, reason, error);
    publish(engine, NULL, n_outcomes);
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

static bool has_work(const struct engine *engine) {
    return engine->scheduler.running.count > 0 || engine->scheduler.waiting.count > 0 ||
           engine->n_launched > engine->n_read;
}

static bool finish_step(struct engine *engine, struct error *err);

/* Where a constraint leaves a token free, min_new_tokens holds. */
static void fill_free(const struct sequence *sequence, uint32_t *mask, size_t words) {
    const struct sampling_seat *seat = sequence->adjusted;
    memset(mask, 0xFF, words * sizeof *mask);
    if (!seat || sequence->n_known >= seat->banned_until) return;
    for (int32_t i = 0; i < seat->n_bans; ++i) mask[seat->bans[i] / 32] &= ~(1u << (seat->bans[i] % 32));
}

/* Fills and uploads the masks of a step whose logits are under way. Their constraints have to know all earlier tokens:
 * older steps are finished first, and sequences may end by that. */
static bool fill_masks(struct engine *engine, const struct step *step, int32_t n_masks, struct error *err) {
    int32_t vocab = engine->info.model.shape.vocab, n_outcomes = 0, n_filled = 0;
    size_t words = (size_t)sampling_mask_words(vocab);
    while (engine->n_read < engine->n_launched) {
        if (!finish_step(engine, err)) return false;
    }
    for (int32_t i = 0; i < step->n_parts; ++i) {
        if (engine->batch[i].mask == 0) continue;
        struct sequence *sequence = step->parts[i].sequence;
        uint32_t *mask = engine->masks + (size_t)n_filled++ * words;
        if (!sequence) continue; // nobody reads what is sampled for it
        enum constraint_answer answer = sequence->constraint->fill(sequence->constraint, mask, vocab);
        if (answer == CONSTRAINT_FREE) fill_free(sequence, mask, words);
        if (answer == CONSTRAINT_STUCK)
            engine->outcomes[n_outcomes++] = end_sequence(engine, sequence, FINISH_ERROR, ERR_INTERNAL);
    }
    if (n_outcomes > 0) publish(engine, NULL, n_outcomes);
    return engine->options.ops->copy_beside(engine->device, engine->ctx->sampling.masks, engine->masks,
                                            (size_t)n_masks * words * sizeof *engine->masks, err);
}

static bool run_step(struct rank *rank, void *argument, struct error *err) {
    const struct engine *engine = argument;
    return context_prepare(rank->ctx, engine->batch, engine->n_parts, err) &&
           model_forward(rank->ctx, &rank->weights, err);
}

static bool start(struct engine *engine, const struct step *step, struct error *err) {
    int32_t n_masks = 0;
    seats_begin_step(&engine->seats);
    for (int32_t i = 0; i < step->n_parts; ++i) {
        const struct step_part *part = &step->parts[i];
        struct sequence *sequence = part->sequence;
        bool adjusted = part->sample && sequence->adjusted;
        if (adjusted && !seats_take(&engine->seats, sequence, err)) return false;
        engine->batch[i] = (struct batch_sequence){
            .tokens = sequence->tokens + part->start,
            .start = part->start,
            .n_rows = part->n_rows,
            .blocks = sequence->blocks,
            .n_blocks = sequence->n_blocks,
            .table = sequence->table,
            .sample = part->sample,
            .sampling = sequence->sampling,
            .n_scores = sequence->n_scores,
            .pools = part->pools,
            .seat = adjusted || part->n_pooled_rows > 0 ? sequence->seat : 0,
            .mask = part->sample && sequence->constraint ? ++n_masks : 0,
            .n_scored_rows = part->n_scored_rows,
            .n_prompt_scores = sequence->n_prompt_scores,
            .n_pooled_rows = part->n_pooled_rows,
            .n_pooled_before = sequence->pooling == POOLING_MEAN ? part->start : 0,
        };
    }
    const struct backend_ops *ops = engine->options.ops;
    engine->n_parts = step->n_parts;
    if (!ranks_run(&engine->ranks, run_step, engine, err)) return false;
    if (n_masks > 0 && !fill_masks(engine, step, n_masks, err)) return false;
    if (!model_sample(engine->ctx, err)) return false;
    int32_t slot = (int32_t)(engine->n_launched % 2), n_ids = step->n_samples + step->n_scored_rows;
    if (n_ids == 0) n_ids = 1; // the read also tells that the step is over
    if (engine->ctx->batch.n_scored > 0 &&
        !ops->read_begin(engine->device, slot, engine->scores[slot], engine->ctx->scratch.scores,
                         (size_t)n_ids * sizeof(struct token_scores), err))
        return false;
    size_t state_bytes = (size_t)engine->info.model.shape.hidden * sizeof(float);
    if (step->n_pooled > 0 && !ops->read_begin(engine->device, slot, engine->pooled[slot], engine->ctx->scratch.pooled,
                                               (size_t)step->n_pooled * state_bytes, err))
        return false;
    return ops->read_begin(engine->device, slot, engine->sampled[slot], engine->ctx->scratch.sampled,
                           (size_t)n_ids * sizeof(int32_t), err);
}

/* Plans the next step and launches it. *launched is false when there is none yet. */
static bool launch_step(struct engine *engine, bool *launched, struct error *err) {
    assert(engine->n_launched - engine->n_read <= 1); // context_prepare fills the arrays of the step before the last
    struct flight flight = {.launch_ns = engine_now_ns(), .step = scheduler_plan(&engine->scheduler)};
    *launched = flight.step->n_parts > 0;
    if (!*launched) {
        assert(engine->n_launched > engine->n_read);
        return true;
    }
    pthread_mutex_lock(&engine->lock);
    publish_gauges(engine); // what this step runs is seen while it runs
    pthread_mutex_unlock(&engine->lock);
    for (int32_t i = 0; i < flight.step->n_parts; ++i) {
        struct sequence *sequence = flight.step->parts[i].sequence;
        if (!sequence->scheduled_ns) sequence->scheduled_ns = flight.launch_ns;
    }
    if (!start(engine, flight.step, err)) return false;
    engine->flights[engine->n_launched++ % 2] = flight;
    return true;
}

static bool ends(const struct engine *engine, const struct sequence *sequence, int32_t token) {
    for (int32_t i = 0; i < engine->info.model.n_eos_ids && !sequence->ignore_eos; ++i) {
        if (engine->info.model.eos_ids[i] == token) return true;
    }
    for (int32_t i = 0; i < sequence->n_stop_tokens; ++i) {
        if (sequence->stop_tokens[i] == token) return true;
    }
    return false;
}

static struct outcome take_token(struct engine *engine, struct sequence *sequence, int32_t token) {
    if (token < 0 || token >= engine->info.model.shape.vocab) {
        scheduler_distrust(&engine->scheduler, sequence);
        return end_sequence(engine, sequence, FINISH_ERROR, token == SAMPLED_NOT_FINITE ? ERR_NUMERIC : ERR_INTERNAL);
    }
    struct outcome outcome = {.sequence = sequence, .token = token};
    scheduler_know(&engine->scheduler, sequence, token);
    if (sequence->constraint) sequence->constraint->accept(sequence->constraint, token);
    if (ends(engine, sequence, token))
        outcome = end_sequence(engine, sequence, FINISH_STOP, ERR_NONE);
    else if (sequence->n_known == sequence->max_tokens)
        outcome = end_sequence(engine, sequence, FINISH_LENGTH, ERR_NONE);
    outcome.has_token = true;
    outcome.token = token;
    return outcome;
}

/* The prompt's vector, the last that is wanted of it. */
static struct outcome take_pooled(struct engine *engine, struct sequence *sequence, const float *pooled) {
    bool finite = true;
    for (int32_t i = 0; i < engine->info.model.shape.hidden && finite; ++i) finite = sampling_is_finite(pooled[i]);
    if (!finite) {
        scheduler_distrust(&engine->scheduler, sequence);
        return end_sequence(engine, sequence, FINISH_ERROR, ERR_NUMERIC);
    }
    struct outcome outcome = end_sequence(engine, sequence, FINISH_STOP, ERR_NONE);
    outcome.pooled = pooled;
    return outcome;
}

/* Tells the scores of a part's prompt rows, the first of which is at index. A sequence that was preempted is told
 * nothing twice. False: a logit was not finite. */
static bool tell_prompt(const struct step_part *part, struct sequence *sequence, const int32_t *sampled,
                        const struct token_scores *scores) {
    for (int32_t i = 0; i < part->n_scored_rows; ++i) {
        int32_t position = part->start + i + 1;
        if (sampled[i] < 0) return false;
        if (position != sequence->n_prompt_scored) continue;
        sequence->n_prompt_scored++;
        const struct engine_event event = {
            .kind = ENGINE_PROMPT_TOKEN, .token = sequence->tokens[position], .scores = &scores[i]};
        sequence->listener(sequence->user, &event);
    }
    return true;
}

/* Waits for the oldest step under way and tells what came of it. */
static bool finish_step(struct engine *engine, struct error *err) {
    int32_t slot = (int32_t)(engine->n_read % 2), n_outcomes = 0, n_samples = 0, n_scored = 0, n_pooled = 0;
    if (!engine->options.ops->read_wait(engine->device, slot, err)) return false;
    engine->n_read++;
    const struct step *step = engine->flights[slot].step;
    for (int32_t i = 0; i < step->n_parts; ++i) {
        const struct step_part *part = &step->parts[i];
        struct sequence *sequence = scheduler_part_over(part);
        int32_t scored = step->n_samples + n_scored, sample = n_samples;
        n_scored += part->n_scored_rows;
        const float *pooled = engine->pooled[slot] + (size_t)n_pooled * (size_t)engine->info.model.shape.hidden;
        n_samples += part->sample;
        n_pooled += part->pools;
        if (!sequence) continue;
        if (part->pools) {
            engine->outcomes[n_outcomes++] = take_pooled(engine, sequence, pooled);
            continue;
        }
        if (!tell_prompt(part, sequence, engine->sampled[slot] + scored, engine->scores[slot] + scored)) {
            scheduler_distrust(&engine->scheduler, sequence);
            engine->outcomes[n_outcomes++] = end_sequence(engine, sequence, FINISH_ERROR, ERR_NUMERIC);
            continue;
        }
        if (!part->sample) continue;
        struct outcome outcome = take_token(engine, sequence, engine->sampled[slot][sample]);
        if (sequence->n_scores > 0) outcome.scores = &engine->scores[slot][sample];
        engine->outcomes[n_outcomes++] = outcome;
    }
    publish(engine, &engine->flights[slot], n_outcomes);
    return true;
}

static void stop_serving(struct engine *engine, const struct error *error) {
    ranks_break(&engine->ranks);
    log_message(engine->options.log, LOG_ERROR, "a step failed, no more requests are served: %s", error->message);
    pthread_mutex_lock(&engine->lock);
    engine->stats.failed = true;
    memcpy(engine->stats.failure, error->message, sizeof engine->stats.failure);
    pthread_mutex_unlock(&engine->lock);
    end_all(engine, FINISH_ERROR, ERR_DEVICE);
    engine->n_read = engine->n_launched; // nobody waits for what is under way
    if (engine->options.failed) engine->options.failed(engine->options.user);
}

/* One step further: an asynchronous device gets its next step before the host waits for the one under way. */
static void advance(struct engine *engine) {
    struct error error = {0};
    bool ahead = engine->options.ops->asynchronous, launched = false;
    bool ok = launch_step(engine, &launched, &error);
    uint64_t n_under_way = ahead && launched ? 1 : 0;
    while (ok && engine->n_launched - engine->n_read > n_under_way) ok = finish_step(engine, &error);
    if (!ok) stop_serving(engine, &error);
}

/* --- the thread ------------------------------------------------------------------------------------------------- */

/* With the lock held: ends what was cancelled and what has had its time. Returns how many outcomes there are. */
static int32_t end_some(struct engine *engine) {
    int32_t n_ended = 0;
    int64_t now = engine->next_deadline_ns ? engine_now_ns() : 0;
    bool any_due = engine->next_deadline_ns && now >= engine->next_deadline_ns;
    if (!any_due && !engine->any_cancelled) return 0;
    engine->any_cancelled = false;
    engine->next_deadline_ns = 0;
    for (int32_t i = 0; i < engine->n_live; ++i) {
        struct sequence *sequence = engine->live[i];
        int64_t deadline = sequence->deadline_ns;
        bool due = deadline && now >= deadline;
        if (sequence->cancelled || due)
            engine->outcomes[n_ended++] =
                end_sequence(engine, sequence, sequence->cancelled ? FINISH_CANCELLED : FINISH_LENGTH, ERR_NONE);
        else if (deadline && (!engine->next_deadline_ns || deadline < engine->next_deadline_ns))
            engine->next_deadline_ns = deadline;
    }
    return n_ended;
}

/* Waits for work, takes the inbox, takes out what is to end. False: time to stop. */
static bool take_requests(struct engine *engine, bool *failed, int32_t *n_ended) {
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping && !engine->inbox.first && !engine->any_cancelled && !has_work(engine))
        pthread_cond_wait(&engine->wake, &engine->lock);
    for (struct sequence *sequence; (sequence = sequence_queue_pop_front(&engine->inbox));)
        scheduler_add(&engine->scheduler, sequence);
    *n_ended = end_some(engine);
    *failed = engine->stats.failed;
    bool go_on = !engine->stopping;
    pthread_mutex_unlock(&engine->lock);
    return go_on;
}

static bool wait_for_device(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    return rank->ranks->ops->synchronize(rank->device, err);
}

void *engine_thread(void *argument) {
    struct engine *engine = argument;
    for (;;) {
        bool failed;
        int32_t n_ended;
        bool go_on = take_requests(engine, &failed, &n_ended);
        if (n_ended > 0) publish(engine, NULL, n_ended);
        if (!go_on) break;
        if (failed)
            end_all(engine, FINISH_ERROR, ERR_DEVICE);
        else if (has_work(engine))
            advance(engine);
    }
    end_all(engine, FINISH_CANCELLED, ERR_NONE);
    ranks_run(&engine->ranks, wait_for_device, NULL, NULL); // what is under way reads memory that is freed next
    return NULL;
}
