/* Decides what each step computes: continuous batching under a token budget.
 *
 * First come, first served, within one priority. Every running sequence gets its next row (decode) before what is left
 * of the budget goes to prompts, in pieces if need be. When blocks run out the youngest running sequence gives up its
 * own and waits at the head of the queue; its tokens are kept and its K and V recomputed later (or found in the prefix
 * cache). A step may be planned while the one before is under way: what that one computes counts as there, because
 * steps run in order, and what it samples has its place among the tokens without an id. Numbers do not depend on it.
 * A sequence most of whose prompt is computed for another in the same step waits for the next step and finds it in the
 * prefix cache: so do the choices of one request share their prompt.
 * A row of a prompt that is to be scored needs logits, of which a step has max_seqs rows: such prompts come in pieces.
 * Knows tokens and blocks only: no device, no clock, no threads. */
#ifndef QUERN_ENGINE_SCHEDULER_H
#define QUERN_ENGINE_SCHEDULER_H

#include "engine/block_pool.h"
#include "engine/error.h"
#include "engine/sequence.h"

#include <stdbool.h>
#include <stdint.h>

struct scheduler_options {
    int32_t max_seqs; // running at once, and in one step
    int32_t max_rows; // tokens in one step, at least max_seqs
    bool prefix_cache;
    struct block_pool *pool; // borrowed
};

/* One sequence's part of a step: its tokens [start, start + n_rows). */
struct step_part {
    struct sequence *sequence; // NULL: ended while the step was under way
    int32_t start;
    int32_t n_rows;
    bool sample;           // reaches the sequence's last token: a new one will be sampled
    int32_t n_scored_rows; // its first rows, whose logits score the prompt's next tokens
    int32_t n_pooled_rows; // its last rows, whose states are pooled
    bool pools;            // reaches the last token of a prompt that is pooled
};

struct step {
    struct step_part *parts; // [n_parts], parts of one row first; owned by the scheduler
    int32_t n_parts;
    int32_t n_samples;     // parts that sample
    int32_t n_scored_rows; // of all parts
    int32_t n_pooled;      // parts that pool
};

struct scheduler_counts {
    uint64_t preemptions;
    uint64_t prefix_queries; // tokens looked up
    uint64_t prefix_hits;    // tokens found
};

struct scheduler {
    struct scheduler_options options;
    struct sequence_queue running; // in order of arrival
    struct sequence_queue waiting; // preempted ones first, then by priority, then in order of arrival
    int32_t *free_seats;           // [n_free_seats], owned
    int32_t n_free_seats;
    struct step steps[2];     // planned in turn
    int32_t turn;             // the newest
    uint64_t n_tables;        // named so far
    uint64_t n_plans;         // made so far
    uint64_t *published;      // [n_blocks] the plan that published the block, owned
    int32_t n_more_rows;      // rows with logits in the step at hand beyond one for each running sequence
    struct step_part *chunks; // [max_seqs], owned with the parts of steps: several rows, while a step is planned
    struct scheduler_counts counts;
};

bool scheduler_init(struct scheduler *scheduler, const struct scheduler_options *options, struct error *err);
void scheduler_finish(struct scheduler *scheduler); // the queues must be empty

void scheduler_add(struct scheduler *scheduler, struct sequence *sequence);
/* Takes a sequence out of either queue and releases its blocks. */
void scheduler_remove(struct scheduler *scheduler, struct sequence *sequence);

/* Plans the next step and allocates its blocks; its parts count as computed from now on. At most one step may be under
 * way. Empty when nothing is running or waiting, or the step under way must end first; given that the pool can hold one
 * sequence of the largest allowed length. Valid until the next call but one. */
const struct step *scheduler_plan(struct scheduler *scheduler);

/* The part's step is over. Returns its sequence, NULL when that has ended meanwhile. */
struct sequence *scheduler_part_over(const struct step_part *part);

/* The sequence's first token without an id is this one; full blocks can be found by others. */
void scheduler_know(struct scheduler *scheduler, struct sequence *sequence, int32_t token);

/* What was computed for the sequence cannot be trusted: nobody finds it any more. */
void scheduler_distrust(struct scheduler *scheduler, const struct sequence *sequence);

#endif
