/* A backend whose "model" is exact: the next token is a hash of all tokens that the sequence sees through its block
 * table. A wrong slot, block, length or position gives other tokens, so scheduling, paging, prefix cache and preemption
 * are proved without a float. Use with tests/fixtures/hash-model.
 *
 * An asynchronous one does everything as late as it may: copies, ops and recorded steps wait until the host asks for a
 * result behind them, which holds rubbish before. Who reuses memory too early or reads too early gets wrong tokens. */
#ifndef QUERN_TESTS_HASH_BACKEND_H
#define QUERN_TESTS_HASH_BACKEND_H

#include "engine/backend.h"

#define HASH_HIDDEN 4
#define HASH_VOCAB  1000 // of tests/fixtures/hash-model; token 0, one in 32, ends a sequence

/* What the model answers after these tokens. */
int32_t hash_next_token(const int32_t *tokens, int32_t n_tokens);

/* The same where the row is adjusted. The sequence's frequency_penalty tells the length of its prompt, in thousandths,
 * and the device checks the counts of its seat by that. */
int32_t hash_adjusted_token(const int32_t *tokens, int32_t n_tokens);

/* What a mask makes of a token: the first from it on, in a circle, that is allowed. */
int32_t hash_masked_token(int32_t token, const uint32_t *mask);

/* The scores that the model gives a token. */
struct token_scores hash_scores(int32_t token, int32_t n_scores);

/* And the token at this position of a prompt. */
struct token_scores hash_prompt_scores(const int32_t *prompt, int32_t position, int32_t n_scores);

/* The mean of its states of positions [first, n_prompt). */
void hash_pooled(const int32_t *prompt, int32_t n_prompt, int32_t first, float pooled[HASH_HIDDEN]);

#define HASH_MAX_EVENTS 64
#define HASH_ALL_RANKS  (-1)

/* What the device is like, and faults to provoke; zero is none. */
struct hash_faults {
    bool asynchronous;
    bool records;             // decode steps of 4, 8 and 16 rows
    int32_t fail_at_step;     // this call of sample, those of the warm-up included, fails with ERR_DEVICE when it runs
    int32_t fail_at_launch;   // the same, when it is called
    bool fail_recording;      // an op that is recorded fails
    int32_t not_finite_after; // rows that see exactly this many tokens are SAMPLED_NOT_FINITE, and their states NaN
    int32_t step_us;          // how long a step takes
    int32_t fail_rank;        // of several ranks, this one fails, or HASH_ALL_RANKS
    int32_t fail_rank_at;     // in this call of lm_head, those of the warm-up included; 0: never
    char *events; // [HASH_MAX_EVENTS] gets L for each launched step, W for each wait, R for each replay, a 0
};

/* Several ranks, where the device is not asynchronous: each holds all tokens, and all must see the same.
 *
 * The tables are static; faults are taken by the next device_create. */
const struct backend_ops *hash_backend(const struct hash_faults *faults);

#endif
