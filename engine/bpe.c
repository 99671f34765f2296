#include "engine/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FREE_PAIR UINT64_MAX
#define NO_RANK   UINT32_MAX

/* Up to here scanning all pairs beats the heap: most pieces are words of under ten bytes. */
#define MAX_SCANNED 32

struct bpe_symbol {
    int32_t id;
    int32_t previous; // -1: first
    int32_t next;     // -1: last
    uint32_t rank;    // of the merge with next; NO_RANK: none, or this symbol was joined to the one before
    int32_t merged;   // what that merge makes
};

bool bpe_init(struct bpe *bpe, size_t n_merges, struct error *err) {
    *bpe = (struct bpe){.slot_bits = 4};
    while (((size_t)1 << bpe->slot_bits) < n_merges * 2) bpe->slot_bits++;
    size_t n_slots = (size_t)1 << bpe->slot_bits;
    bpe->merges = malloc(n_slots * sizeof *bpe->merges);
    if (!bpe->merges) return fail(err, ERR_MEMORY, "No memory for %zu merges.", n_merges);
    for (size_t i = 0; i < n_slots; i++) bpe->merges[i] = (struct bpe_merge){FREE_PAIR, NO_RANK, -1};
    return true;
}

void bpe_finish(struct bpe *bpe) {
    free(bpe->merges);
    bpe->merges = NULL;
}

/* The rule of this pair, or the free slot where it would go, whose rank is NO_RANK. */
static struct bpe_merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << bpe->slot_bits) - 1;
    size_t slot = (pair * 0x9e3779b97f4a7c15u) >> (64 - bpe->slot_bits); // Fibonacci hashing
    while (bpe->merges[slot].pair != pair && bpe->merges[slot].pair != FREE_PAIR) slot = (slot + 1) & mask;
    return &bpe->merges[slot];
}

void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    assert(left >= 0 && right >= 0 && merged >= 0 && rank != NO_RANK);
    *find_merge(bpe, left, right) = (struct bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, merged};
}

static bool encode_by_scanning(const struct bpe *bpe, const char *piece, size_t length, struct token_list *out,
                               struct error *err) {
    int32_t ids[MAX_SCANNED];
    uint32_t ranks[MAX_SCANNED]; // of the merge of i with i + 1; the last has none
    int32_t merged[MAX_SCANNED];
    for (size_t i = 0; i < length; i++) ids[i] = bpe->byte_ids[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < length; i++) {
        const struct bpe_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
        ranks[i] = merge->rank;
        merged[i] = merge->merged;
    }
    while (length > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < length; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NO_RANK) break;
        ids[best] = merged[best];
        length--;
        size_t n_after = length - best - 1; // symbols behind the joined pair
        memmove(&ids[best + 1], &ids[best + 2], n_after * sizeof *ids);
        memmove(&ranks[best], &ranks[best + 1], n_after * sizeof *ranks);
        memmove(&merged[best], &merged[best + 1], n_after * sizeof *merged);
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < length; i++) {
            const struct bpe_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
            ranks[i] = merge->rank;
            merged[i] = merge->merged;
        }
    }
    return token_list_append(out, ids, length, err);
}

static bool heap_reserve(struct bpe_scratch *scratch, size_t count, struct error *err) {
    if (count <= scratch->heap_capacity) return true;
    size_t capacity = count * 2;
    uint64_t *heap = realloc(scratch->heap, capacity * sizeof *heap);
    if (!heap) return fail(err, ERR_MEMORY, "No memory to tokenise a piece of text with %zu merges.", count);
    scratch->heap = heap;
    scratch->heap_capacity = capacity;
    return true;
}

/* The caller has reserved the room. */
static void heap_push(struct bpe_scratch *scratch, uint64_t key) {
    size_t hole = scratch->heap_count++;
    while (hole > 0 && scratch->heap[(hole - 1) / 2] > key) {
        scratch->heap[hole] = scratch->heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    scratch->heap[hole] = key;
}

static uint64_t heap_pop(struct bpe_scratch *scratch) {
    uint64_t *heap = scratch->heap;
    uint64_t least = heap[0], key = heap[--scratch->heap_count];
    size_t count = scratch->heap_count, hole = 0;
    for (size_t child = 1; child < count; child = 2 * hole + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (heap[child] >= key) break;
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = key;
    return least;
}

/* Looks up the merge of the symbol with its next one and queues it. */
static void queue_pair(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t position) {
    struct bpe_symbol *symbol = &scratch->symbols[position];
    symbol->rank = NO_RANK;
    if (symbol->next < 0) return;
    const struct bpe_merge *merge = find_merge(bpe, symbol->id, scratch->symbols[symbol->next].id);
    symbol->rank = merge->rank;
    symbol->merged = merge->merged;
    if (symbol->rank != NO_RANK) heap_push(scratch, (uint64_t)symbol->rank << 32 | (uint32_t)position);
}

static bool prepare_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
                            struct error *err) {
    assert(length <= INT32_MAX);
    if (length > scratch->capacity) {
        free(scratch->symbols);
        scratch->capacity = 0;
        scratch->symbols = malloc(length * sizeof *scratch->symbols);
        if (!scratch->symbols) return fail(err, ERR_MEMORY, "No memory to tokenise a piece of %zu bytes.", length);
        scratch->capacity = length;
    }
    if (!heap_reserve(scratch, length, err)) return false;
    scratch->heap_count = 0;
    int32_t last = (int32_t)length - 1;
    for (int32_t i = 0; i <= last; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)piece[i]];
        scratch->symbols[i] = (struct bpe_symbol){id, i - 1, i < last ? i + 1 : -1, NO_RANK, -1};
    }
    for (int32_t i = 0; i < last; i++) queue_pair(bpe, scratch, i);
    return true;
}

static bool encode_by_heap(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
                           struct token_list *out, struct error *err) {
    if (!prepare_symbols(bpe, scratch, piece, length, err)) return false;
    struct bpe_symbol *symbols = scratch->symbols;
    while (scratch->heap_count > 0) {
        uint64_t key = heap_pop(scratch);
        struct bpe_symbol *symbol = &symbols[(uint32_t)key];
        if (symbol->rank != (uint32_t)(key >> 32)) continue; // the pair has changed since it was queued
        if (!heap_reserve(scratch, scratch->heap_count + 2, err)) return false;
        struct bpe_symbol *joined = &symbols[symbol->next];
        symbol->id = symbol->merged;
        symbol->next = joined->next;
        joined->rank = NO_RANK;
        if (symbol->next >= 0) symbols[symbol->next].previous = (int32_t)(uint32_t)key;
        queue_pair(bpe, scratch, (int32_t)(uint32_t)key);
        if (symbol->previous >= 0) queue_pair(bpe, scratch, symbol->previous);
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next)
        if (!token_list_append(out, &symbols[i].id, 1, err)) return false;
    return true;
}

bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
                struct token_list *out, struct error *err) {
    if (length == 0) return true;
    if (length <= MAX_SCANNED) return encode_by_scanning(bpe, piece, length, out, err);
    return encode_by_heap(bpe, scratch, piece, length, out, err);
}

void bpe_scratch_finish(struct bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}
