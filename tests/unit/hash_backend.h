/* A backend whose "model" is exact: the next token is a hash of all tokens that the sequence sees through its block
 * table. A wrong slot, block, length or position gives other tokens, so scheduling, paging, prefix cache and preemption
 * are proved without a float. Use with tests/fixtures/hash-model. */
#ifndef QUERN_TESTS_HASH_BACKEND_H
#define QUERN_TESTS_HASH_BACKEND_H

#include "engine/backend.h"

#define HASH_VOCAB 1000 // of tests/fixtures/hash-model; token 0 ends a sequence

/* What the model answers after these tokens. */
int32_t hash_next_token(const int32_t *tokens, int32_t n_tokens);

/* Faults to provoke; zero is none. */
struct hash_faults {
    int32_t fail_at_step;     // this call of sample, the two of the warm-up included, fails with ERR_DEVICE
    int32_t not_finite_after; // rows that see exactly this many tokens are SAMPLED_NOT_FINITE
    int32_t step_us;          // how long a step takes
};

/* The table is static; faults are taken by the next device_create. */
const struct backend_ops *hash_backend(const struct hash_faults *faults);

#endif
