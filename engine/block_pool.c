#include "engine/block_pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

struct block {
    struct block_hash hash; // of a published block
    int32_t references;
    int32_t newer, older; // free list, when references == 0
    int32_t next_in_slot; // of the published blocks in one slot of the table
    bool published;
};

struct block_pool {
    struct block *blocks; // [n_blocks], owned
    int32_t *slots;       // [n_slots] first published block of each slot, owned
    uint32_t n_slots;     // a power of two
    int32_t n_blocks;
    int32_t block_size;
    int32_t n_free;
    int32_t oldest, newest; // free list: unpublished blocks are put at the old end
    uint64_t seed;
    uint64_t n_evictions;
};

static void free_list_remove(struct block_pool *pool, int32_t id) {
    struct block *block = &pool->blocks[id];
    *(block->older == NONE ? &pool->oldest : &pool->blocks[block->older].newer) = block->newer;
    *(block->newer == NONE ? &pool->newest : &pool->blocks[block->newer].older) = block->older;
    pool->n_free--;
}

static void free_list_add(struct block_pool *pool, int32_t id) {
    struct block *block = &pool->blocks[id];
    bool as_newest = block->published;
    block->older = as_newest ? pool->newest : NONE;
    block->newer = as_newest ? NONE : pool->oldest;
    *(block->older == NONE ? &pool->oldest : &pool->blocks[block->older].newer) = id;
    *(block->newer == NONE ? &pool->newest : &pool->blocks[block->newer].older) = id;
    pool->n_free++;
}

struct block_pool *block_pool_create(int32_t n_blocks, int32_t block_size, uint64_t seed, struct error *err) {
    assert(n_blocks > 0 && block_size > 0);
    struct block_pool *pool = calloc(1, sizeof *pool);
    uint32_t n_slots = 1;
    while (n_slots < 2 * (uint32_t)n_blocks) n_slots *= 2;
    if (pool) {
        *pool = (struct block_pool){.blocks = calloc((size_t)n_blocks, sizeof *pool->blocks),
                                    .slots = malloc(n_slots * sizeof *pool->slots),
                                    .n_slots = n_slots,
                                    .n_blocks = n_blocks,
                                    .block_size = block_size,
                                    .oldest = NONE,
                                    .newest = NONE,
                                    .seed = seed};
    }
    if (!pool || !pool->blocks || !pool->slots) {
        fail(err, ERR_MEMORY, "no memory for a pool of %d blocks", n_blocks);
        block_pool_destroy(pool);
        return NULL;
    }
    memset(pool->slots, 0xff, n_slots * sizeof *pool->slots); // NONE
    for (int32_t id = n_blocks - 1; id >= 0; --id) free_list_add(pool, id);
    return pool;
}

void block_pool_destroy(struct block_pool *pool) {
    if (!pool) return;
    free(pool->blocks);
    free(pool->slots);
    free(pool);
}

int32_t block_pool_block_size(const struct block_pool *pool) {
    return pool->block_size;
}
int32_t block_pool_n_blocks(const struct block_pool *pool) {
    return pool->n_blocks;
}
int32_t block_pool_n_free(const struct block_pool *pool) {
    return pool->n_free;
}

uint64_t block_pool_n_evictions(const struct block_pool *pool) {
    return pool->n_evictions;
}

int32_t block_pool_references(const struct block_pool *pool, int32_t block) {
    assert(block >= 0 && block < pool->n_blocks);
    return pool->blocks[block].references;
}

static int32_t *slot_of(const struct block_pool *pool, struct block_hash hash) {
    return &pool->slots[hash.low & (pool->n_slots - 1)];
}

static bool same_hash(struct block_hash a, struct block_hash b) {
    return a.low == b.low && a.high == b.high;
}

static int32_t find_published(const struct block_pool *pool, struct block_hash hash) {
    int32_t id = *slot_of(pool, hash);
    while (id != NONE && !same_hash(pool->blocks[id].hash, hash)) id = pool->blocks[id].next_in_slot;
    return id;
}

void block_pool_unpublish(struct block_pool *pool, int32_t block) {
    if (!pool->blocks[block].published) return;
    int32_t *link = slot_of(pool, pool->blocks[block].hash);
    while (*link != block) link = &pool->blocks[*link].next_in_slot;
    *link = pool->blocks[block].next_in_slot;
    pool->blocks[block].published = false;
}

int32_t block_pool_alloc(struct block_pool *pool) {
    int32_t id = pool->oldest;
    if (id == NONE) return NONE;
    free_list_remove(pool, id);
    pool->n_evictions += pool->blocks[id].published;
    block_pool_unpublish(pool, id);
    pool->blocks[id].references = 1;
    return id;
}

void block_pool_retain(struct block_pool *pool, int32_t block) {
    assert(block >= 0 && block < pool->n_blocks);
    if (pool->blocks[block].references++ == 0) free_list_remove(pool, block);
}

void block_pool_release(struct block_pool *pool, int32_t block) {
    assert(block >= 0 && block < pool->n_blocks && pool->blocks[block].references > 0);
    if (--pool->blocks[block].references == 0) free_list_add(pool, block);
}

/* Multiply and fold: each lane absorbs one 64-bit word; the product's halves mix both ways. */
static uint64_t absorb(uint64_t state, uint64_t word, uint64_t multiplier) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(state ^ word) * multiplier;
    return (uint64_t)product ^ (uint64_t)(product >> 64) ^ (word << 32 | word >> 32);
}

static struct block_hash absorb_both(struct block_hash hash, uint64_t word) {
    return (struct block_hash){.low = absorb(hash.low, word, 0x9E3779B97F4A7C15u),
                               .high = absorb(hash.high, word + 0x632BE59BD9B4E019u, 0xD6E8FEB86659FD93u)};
}

struct block_hash block_pool_root(const struct block_pool *pool) {
    return absorb_both((struct block_hash){.low = pool->seed, .high = ~pool->seed}, 1);
}

struct block_hash block_pool_extend(const struct block_pool *pool, struct block_hash previous, const int32_t *tokens) {
    struct block_hash hash = previous;
    for (int32_t i = 0; i < pool->block_size; i += 2) {
        uint64_t second = i + 1 < pool->block_size ? (uint32_t)tokens[i + 1] : UINT32_MAX;
        hash = absorb_both(hash, second << 32 | (uint32_t)tokens[i]);
    }
    return absorb_both(hash, pool->seed);
}

void block_pool_publish(struct block_pool *pool, int32_t block, struct block_hash hash) {
    assert(pool->blocks[block].references > 0);
    if (pool->blocks[block].published || find_published(pool, hash) != NONE) return;
    int32_t *slot = slot_of(pool, hash);
    pool->blocks[block].hash = hash;
    pool->blocks[block].next_in_slot = *slot;
    pool->blocks[block].published = true;
    *slot = block;
}

bool block_pool_is_published(const struct block_pool *pool, struct block_hash hash) {
    return find_published(pool, hash) != NONE;
}

int32_t block_pool_find(struct block_pool *pool, struct block_hash hash) {
    int32_t id = find_published(pool, hash);
    if (id != NONE) block_pool_retain(pool, id);
    return id;
}
