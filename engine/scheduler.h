/* Decides what each step computes: continuous batching under a token budget.
 *
 * First come, first served. Every running sequence gets its next row (decode) before what is left of the budget goes to
 * prompts, in pieces if need be. When blocks run out the youngest running sequence gives up its own and waits at the
 * head of the queue; its tokens are kept and its K and V recomputed later (or found in the prefix cache).
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

/* One sequence's part of a step: its tokens [n_computed, n_computed + n_rows). */
struct step_part {
    struct sequence *sequence;
    int32_t n_rows;
    bool sample; // reaches the sequence's last token: a new one will be sampled
};

struct step {
    struct step_part *parts; // [n_parts], parts of one row first; owned by the scheduler
    int32_t n_parts;
};

struct scheduler_counts {
    uint64_t preemptions;
    uint64_t prefix_queries; // tokens looked up
    uint64_t prefix_hits;    // tokens found
};

struct scheduler {
    struct scheduler_options options;
    struct sequence_queue running; // in order of arrival
    struct sequence_queue waiting; // in order of arrival, preempted ones first
    struct step step;
    struct step_part *chunks; // [max_seqs], owned: parts of several rows while a step is planned
    struct scheduler_counts counts;
};

bool scheduler_init(struct scheduler *scheduler, const struct scheduler_options *options, struct error *err);
void scheduler_finish(struct scheduler *scheduler); // the queues must be empty

void scheduler_add(struct scheduler *scheduler, struct sequence *sequence);
/* Takes a sequence out of either queue and releases its blocks. */
void scheduler_remove(struct scheduler *scheduler, struct sequence *sequence);

/* Plans the next step and allocates its blocks. Empty only when nothing is running or waiting, given that the pool can
 * hold one sequence of the largest allowed length. Valid until the next call. */
const struct step *scheduler_plan(struct scheduler *scheduler);

/* The step ran: K and V of the part are there, its full blocks can be found by others. A sampled token, if any, is
 * appended by the caller afterwards. */
void scheduler_computed(struct scheduler *scheduler, const struct step_part *part);

#endif
