#include "engine/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool scheduler_init(struct scheduler *scheduler, const struct scheduler_options *options, struct error *err) {
    assert(options->max_seqs > 0 && options->max_rows >= options->max_seqs);
    size_t n = (size_t)options->max_seqs;
    *scheduler = (struct scheduler){.options = *options};
    scheduler->chunks = calloc(3 * n, sizeof *scheduler->chunks);
    scheduler->free_seats = calloc(n, sizeof *scheduler->free_seats);
    scheduler->published = calloc((size_t)block_pool_n_blocks(options->pool), sizeof *scheduler->published);
    if (!scheduler->chunks || !scheduler->free_seats || !scheduler->published) {
        scheduler_finish(scheduler);
        return fail(err, ERR_MEMORY, "no memory to schedule %d sequences", options->max_seqs);
    }
    while (scheduler->n_free_seats < options->max_seqs) {
        scheduler->free_seats[scheduler->n_free_seats] = options->max_seqs - scheduler->n_free_seats;
        scheduler->n_free_seats++;
    }
    scheduler->steps[0].parts = scheduler->chunks + n;
    scheduler->steps[1].parts = scheduler->chunks + 2 * n;
    return true;
}

void scheduler_finish(struct scheduler *scheduler) {
    assert(scheduler->running.count == 0 && scheduler->waiting.count == 0);
    free(scheduler->chunks);
    free(scheduler->free_seats);
    free(scheduler->published);
    scheduler->chunks = NULL;
    scheduler->free_seats = NULL;
    scheduler->published = NULL;
}

void scheduler_add(struct scheduler *scheduler, struct sequence *sequence) {
    sequence_queue_insert(&scheduler->waiting, sequence);
}

static bool is_running(const struct sequence *sequence) {
    return sequence->n_blocks > 0;
}

/* Back to nothing computed. Last block first: the pool then reuses ends of prefixes before their beginnings. */
static void release_blocks(struct scheduler *scheduler, struct sequence *sequence) {
    while (sequence->n_blocks > 0) block_pool_release(scheduler->options.pool, sequence->blocks[--sequence->n_blocks]);
    sequence->n_computed = 0;
    sequence->n_published = 0;
    sequence->table = 0;
    if (sequence->seat > 0) scheduler->free_seats[scheduler->n_free_seats++] = sequence->seat;
    sequence->seat = 0;
}

void scheduler_remove(struct scheduler *scheduler, struct sequence *sequence) {
    sequence_queue_remove(is_running(sequence) ? &scheduler->running : &scheduler->waiting, sequence);
    release_blocks(scheduler, sequence);
    if (sequence->part) sequence->part->sequence = NULL;
    sequence->part = NULL;
}

/* What it has in the step under way still counts: a token may come of it. */
static void preempt(struct scheduler *scheduler, struct sequence *sequence) {
    sequence_queue_remove(&scheduler->running, sequence);
    release_blocks(scheduler, sequence);
    sequence_queue_push_front(&scheduler->waiting, sequence);
    sequence->n_preemptions++;
    sequence->n_needed = 0;
    scheduler->counts.preemptions++;
}

static int32_t blocks_for(const struct scheduler *scheduler, int32_t n_tokens) {
    int32_t block_size = block_pool_block_size(scheduler->options.pool);
    return (n_tokens + block_size - 1) / block_size;
}

/* Blocks for n_tokens in all, or as many as there are. */
static bool grow(struct scheduler *scheduler, struct sequence *sequence, int32_t n_tokens) {
    int32_t wanted = blocks_for(scheduler, n_tokens);
    while (sequence->n_blocks < wanted) {
        int32_t block = block_pool_alloc(scheduler->options.pool);
        if (block < 0) return false;
        sequence->blocks[sequence->n_blocks++] = block;
    }
    return true;
}

/* The tokens of its prompt are to be scored, and not all have been. */
static bool is_scored(const struct sequence *sequence) {
    return sequence->n_prompt_scores > 0 && sequence->n_prompt_scored < sequence->n_prompt;
}

/* Every row is wanted for itself: nothing is taken from the cache. */
static bool needs_all_rows(const struct sequence *sequence) {
    return is_scored(sequence) || sequence->pooling == POOLING_MEAN;
}

/* Blocks of the sequence, after those that it has found, that this step computes for others. */
static int32_t count_coming(struct scheduler *scheduler, const struct sequence *sequence) {
    struct block_pool *pool = scheduler->options.pool;
    int32_t block_size = block_pool_block_size(pool), n = sequence->n_published;
    struct block_hash hash = sequence->hash;
    for (; (n + 1) * block_size < sequence->n_tokens; ++n) {
        hash = block_pool_extend(pool, hash, sequence->tokens + n * block_size);
        if (!block_pool_is_published(pool, hash)) break;
    }
    return n - sequence->n_published;
}

/* Takes the published blocks of the sequence's prefix. The last token is always computed: its result is wanted. What
 * this very step computes is not there yet. */
static void take_cached_prefix(struct scheduler *scheduler, struct sequence *sequence) {
    struct block_pool *pool = scheduler->options.pool;
    int32_t block_size = block_pool_block_size(pool);
    sequence->hash = sequence->missing = block_pool_root(pool); // the root is never published
    if (!scheduler->options.prefix_cache || needs_all_rows(sequence)) return;
    while ((sequence->n_published + 1) * block_size < sequence->n_tokens) {
        const int32_t *tokens = sequence->tokens + sequence->n_published * block_size;
        struct block_hash hash = block_pool_extend(pool, sequence->hash, tokens);
        int32_t block = block_pool_find(pool, hash);
        if (block < 0) {
            sequence->missing = hash;
            break;
        }
        if (scheduler->published[block] == scheduler->n_plans) {
            block_pool_release(pool, block);
            sequence->missing = hash; // next time it is there
            break;
        }
        sequence->blocks[sequence->n_blocks++] = block;
        sequence->n_published++;
        sequence->hash = hash;
    }
    sequence->n_computed = sequence->n_published * block_size;
}

/* False: the sequence did not fit when it was tried last, and nothing has changed that could help. */
static bool may_fit(const struct scheduler *scheduler, const struct sequence *sequence) {
    return sequence->n_needed <= block_pool_n_free(scheduler->options.pool) ||
           block_pool_is_published(scheduler->options.pool, sequence->missing);
}

enum fit { FITS, FITS_LATER, FITS_NOT };

/* Finds the sequence's prefix, and whether there are blocks for all that it has so far. */
static enum fit try_to_fit(struct scheduler *scheduler, struct sequence *sequence) {
    if (!may_fit(scheduler, sequence)) return FITS_NOT;
    int32_t n_free = block_pool_n_free(scheduler->options.pool);
    take_cached_prefix(scheduler, sequence);
    bool finds = scheduler->options.prefix_cache && !needs_all_rows(sequence);
    int32_t n_coming = finds ? count_coming(scheduler, sequence) : 0;
    if (2 * n_coming * block_pool_block_size(scheduler->options.pool) > sequence->n_tokens - sequence->n_computed) {
        release_blocks(scheduler, sequence);
        return FITS_LATER;
    }
    int32_t wanted = blocks_for(scheduler, sequence->n_tokens) - sequence->n_blocks;
    int32_t n_left = block_pool_n_free(scheduler->options.pool);
    if (wanted <= n_left) return FITS;
    sequence->n_needed = wanted + n_free - n_left; // those of the prefix that nobody else holds too
    release_blocks(scheduler, sequence);
    return FITS_NOT;
}

static void count_prefix(struct scheduler *scheduler, struct sequence *sequence) {
    if (!scheduler->options.prefix_cache) return;
    scheduler->counts.prefix_queries += (uint64_t)sequence->n_tokens;
    scheduler->counts.prefix_hits += (uint64_t)sequence->n_computed;
    if (sequence->n_preemptions == 0) sequence->n_cached = sequence->n_computed;
}

static int32_t min(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* Blocks of the sequence that are full and whose tokens are known. */
static void publish_full_blocks(struct scheduler *scheduler, struct sequence *sequence) {
    struct block_pool *pool = scheduler->options.pool;
    int32_t block_size = block_pool_block_size(pool), n_tokens = min(sequence->n_computed, sequence->n_known);
    if (!scheduler->options.prefix_cache) return;
    while ((sequence->n_published + 1) * block_size <= n_tokens) {
        int32_t index = sequence->n_published++;
        sequence->hash = block_pool_extend(pool, sequence->hash, sequence->tokens + index * block_size);
        block_pool_publish(pool, sequence->blocks[index], sequence->hash);
        scheduler->published[sequence->blocks[index]] = scheduler->n_plans;
    }
}

/* Rows that it may have: one with logits is everybody's. */
static int32_t limit_rows(const struct scheduler *scheduler, const struct sequence *sequence, int32_t n_rows) {
    if (!is_scored(sequence) || sequence->n_computed >= sequence->n_prompt) return n_rows;
    int32_t n_left = scheduler->options.max_seqs - scheduler->running.count - scheduler->n_more_rows;
    return min(n_rows, 1 + (n_left > 0 ? n_left : 0));
}

static void add_part(struct scheduler *scheduler, struct sequence *sequence, int32_t n_rows, int32_t *n_chunks) {
    struct step *step = &scheduler->steps[scheduler->turn];
    bool reaches_end = sequence->n_computed + n_rows == sequence->n_tokens;
    struct step_part part = {.sequence = sequence,
                             .start = sequence->n_computed,
                             .n_rows = n_rows,
                             .sample = reaches_end && !sequence->pooling,
                             .pools = reaches_end && sequence->pooling};
    if (sequence->pooling) part.n_pooled_rows = sequence->pooling == POOLING_MEAN ? n_rows : part.pools;
    step->n_pooled += part.pools;
    if (is_scored(sequence) && part.start < sequence->n_prompt - 1) {
        part.n_scored_rows = min(n_rows, sequence->n_prompt - 1 - part.start);
        step->n_scored_rows += part.n_scored_rows;
        scheduler->n_more_rows += n_rows - 1;
    }
    if (n_rows == 1)
        step->parts[step->n_parts++] = part;
    else
        scheduler->chunks[(*n_chunks)++] = part;
    sequence->n_computed += n_rows;
    publish_full_blocks(scheduler, sequence);
}

/* Its last token is being sampled, or its prompt pooled: the step under way ends it. */
static bool is_ending(const struct sequence *sequence) {
    int32_t n_done = sequence->pooling ? sequence->n_computed : sequence->n_tokens;
    return n_done == sequence->max_tokens;
}

/* Running sequences, oldest first; the youngest make room. Returns the rows left for new ones, 0 after a preemption. */
static int32_t plan_running(struct scheduler *scheduler, int32_t *n_chunks) {
    int32_t n_unplanned = scheduler->running.count, budget = scheduler->options.max_rows;
    bool preempted = false;
    struct sequence *sequence = scheduler->running.first;
    while (sequence) {
        n_unplanned--; // each of the younger ones keeps a row, if only for its decode
        struct sequence *next = sequence->next;
        if (is_ending(sequence)) {
            sequence = next;
            continue;
        }
        int32_t n_rows = min(sequence->n_tokens - sequence->n_computed, budget - n_unplanned);
        n_rows = limit_rows(scheduler, sequence, n_rows);
        bool fits = grow(scheduler, sequence, sequence->n_computed + n_rows);
        while (!fits && scheduler->running.last != sequence) {
            preempt(scheduler, scheduler->running.last);
            preempted = true;
            n_unplanned--;
            fits = grow(scheduler, sequence, sequence->n_computed + n_rows);
        }
        next = sequence->next;
        if (fits) {
            add_part(scheduler, sequence, n_rows, n_chunks);
            budget -= n_rows;
        } else {
            preempt(scheduler, sequence);
            preempted = true;
        }
        sequence = next;
    }
    return preempted ? 0 : budget;
}

/* Waiting sequences in order, while rows and blocks for all that they have so far are there. */
static void plan_waiting(struct scheduler *scheduler, int32_t budget, int32_t *n_chunks) {
    struct sequence *next = scheduler->waiting.first;
    while (budget > 0 && next && scheduler->running.count + scheduler->n_more_rows < scheduler->options.max_seqs) {
        struct sequence *sequence = next;
        next = sequence->next;
        assert(sequence->n_known == sequence->n_tokens); // who was preempted in a step under way waits for its end
        enum fit fit = try_to_fit(scheduler, sequence);
        if (fit == FITS_NOT) return;
        if (fit == FITS_LATER) continue;
        count_prefix(scheduler, sequence);
        sequence_queue_remove(&scheduler->waiting, sequence);
        sequence_queue_push_back(&scheduler->running, sequence);
        int32_t n_rows = limit_rows(scheduler, sequence, min(sequence->n_tokens - sequence->n_computed, budget));
        bool fits = grow(scheduler, sequence, sequence->n_computed + n_rows);
        assert(fits);
        (void)fits;
        sequence->table = ++scheduler->n_tables;
        sequence->seat = scheduler->free_seats[--scheduler->n_free_seats];
        add_part(scheduler, sequence, n_rows, n_chunks);
        budget -= n_rows;
    }
}

const struct step *scheduler_plan(struct scheduler *scheduler) {
    scheduler->turn = 1 - scheduler->turn;
    scheduler->n_plans++;
    struct step *step = &scheduler->steps[scheduler->turn];
    int32_t n_chunks = 0;
    step->n_parts = step->n_samples = step->n_scored_rows = step->n_pooled = 0;
    scheduler->n_more_rows = 0;
    int32_t budget = plan_running(scheduler, &n_chunks);
    plan_waiting(scheduler, budget, &n_chunks);
    memcpy(step->parts + step->n_parts, scheduler->chunks, (size_t)n_chunks * sizeof *step->parts);
    step->n_parts += n_chunks;
    for (int32_t i = 0; i < step->n_parts; ++i) {
        struct sequence *sequence = step->parts[i].sequence;
        sequence->part = &step->parts[i];
        if (step->parts[i].sample) sequence->tokens[sequence->n_tokens++] = -1 - step->n_samples++;
    }
    return step;
}

struct sequence *scheduler_part_over(const struct step_part *part) {
    struct sequence *sequence = part->sequence;
    if (sequence && sequence->part == part) sequence->part = NULL;
    return sequence;
}

void scheduler_know(struct scheduler *scheduler, struct sequence *sequence, int32_t token) {
    assert(sequence->n_known < sequence->n_tokens);
    sequence->tokens[sequence->n_known++] = token;
    publish_full_blocks(scheduler, sequence);
}

/* By its tokens: a sequence that was preempted in a step under way no longer knows its blocks. */
void scheduler_distrust(struct scheduler *scheduler, const struct sequence *sequence) {
    struct block_pool *pool = scheduler->options.pool;
    int32_t block_size = block_pool_block_size(pool);
    struct block_hash hash = block_pool_root(pool);
    for (int32_t end = block_size; end <= sequence->n_known; end += block_size) {
        hash = block_pool_extend(pool, hash, sequence->tokens + end - block_size);
        int32_t block = block_pool_find(pool, hash);
        if (block < 0) continue;
        block_pool_unpublish(pool, block);
        block_pool_release(pool, block);
    }
}
