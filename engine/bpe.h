/* Byte-pair encoding: the bytes of one piece become ids by joining, again and again, the neighbours whose merge has the
 * lowest rank (the leftmost of equals). Short pieces by scanning, long ones with a heap over a linked list, O(n log n).
 * Filled once, then read by any number of threads, each with its own scratch. */
#ifndef QUERN_ENGINE_BPE_H
#define QUERN_ENGINE_BPE_H

#include "engine/error.h"
#include "engine/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bpe_merge {
    uint64_t pair; // left id << 32 | right id; UINT64_MAX: free
    uint32_t rank;
    int32_t merged; // id of both together
};

struct bpe {
    int32_t byte_ids[256];    // the token of each single byte
    struct bpe_merge *merges; // [1 << slot_bits] open-addressed hash, owned
    int32_t slot_bits;
};

/* Working memory that grows with the longest piece seen; zero-initialise. */
struct bpe_scratch {
    struct bpe_symbol *symbols; // [capacity], owned
    size_t capacity;
    uint64_t *heap; // [heap_capacity] rank << 32 | position, owned
    size_t heap_count;
    size_t heap_capacity;
};

/* Room for n_merges; byte_ids are the caller's to fill. */
bool bpe_init(struct bpe *bpe, size_t n_merges, struct error *err);
void bpe_finish(struct bpe *bpe);

/* Of a pair added twice the later rule holds, as in the published tokenizer. */
void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t merged);

/* Appends the ids of one piece of at most INT32_MAX bytes. Fails for want of memory only. */
bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
                struct token_list *out, struct error *err);

void bpe_scratch_finish(struct bpe_scratch *scratch);

#endif
