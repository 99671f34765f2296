/* One running request: its tokens, how many of them have K and V, the blocks that hold those, and its clock.
 * Made by the submitting thread, then owned by the engine thread. What steps under way will have done counts as done:
 * a token that they sample has a place in tokens and no id yet. */
#ifndef QUERN_ENGINE_SEQUENCE_H
#define QUERN_ENGINE_SEQUENCE_H

#include "engine/block_pool.h"
#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct sequence {
    uint64_t id;
    int32_t live_index; // in the engine's list
    int32_t *tokens; // [max_tokens], owned: the prompt, then what was generated; -1 - i: sample i of a step under way
    int32_t n_prompt;
    int32_t n_known; // tokens with ids
    int32_t n_tokens;
    int32_t max_tokens;
    int32_t n_computed; // tokens whose K and V are in blocks; below n_tokens while more is to be computed
    int32_t n_cached;   // prompt tokens found in the prefix cache when it was first scheduled
    int32_t *blocks;    // [max_blocks], owned
    int32_t n_blocks;
    uint64_t table;            // names blocks, which only grow under one name; 0 while there are none
    int32_t n_published;       // full blocks whose hash is known, a prefix of blocks
    struct block_hash hash;    // of those
    int32_t n_needed;          // waiting: free blocks without which it cannot start, 0: not asked yet
    struct block_hash missing; // the first of its blocks that was not published then
    struct step_part *part;    // in the newest step, while that is under way; NULL without one
    int32_t seat;              // n: place n - 1 among the running, 0 while it waits
    uint64_t seated;           // the table that was current when its seat on the device was written
    struct sampling_params sampling;
    struct sampling_seat *adjusted; // owned, NULL: its logits are sampled as they are
    int32_t *stop_tokens;           // [n_stop_tokens], owned
    int32_t n_stop_tokens;
    struct constraint *constraint; // NULL: none; destroyed by the engine thread when the sequence ends
    bool ignore_eos;
    int32_t priority;
    int64_t deadline_ns; // 0: none
    int32_t n_scores;
    int32_t n_prompt_scores;
    int32_t n_prompt_scored; // tokens of the prompt whose scores were told, or that have none: the first
    enum engine_pooling pooling;
    bool cancelled;
    engine_listener *listener;
    void *user;
    int32_t n_preemptions;
    int64_t submit_ns;
    int64_t scheduled_ns; // first time; 0 before
    int64_t first_token_ns;
    int64_t last_token_ns;
    struct sequence *previous, *next; // in the queue that holds it
};

/* Copies the request but for what is adjusted; tokens beyond max_model_len are cut from max_new_tokens. NULL: no
 * memory. */
struct sequence *sequence_create(const struct engine_request *request, int32_t max_model_len, int32_t block_size,
                                 struct error *err);
void sequence_destroy(struct sequence *sequence);

/* A doubly linked queue of sequences; zero is empty. Borrows them. */
struct sequence_queue {
    struct sequence *first, *last;
    int32_t count;
};
void sequence_queue_push_back(struct sequence_queue *queue, struct sequence *sequence);
void sequence_queue_push_front(struct sequence_queue *queue, struct sequence *sequence);
/* Behind the last of its priority or of a lower number. */
void sequence_queue_insert(struct sequence_queue *queue, struct sequence *sequence);
void sequence_queue_remove(struct sequence_queue *queue, struct sequence *sequence);
struct sequence *sequence_queue_pop_front(struct sequence_queue *queue); // NULL when empty

#endif
