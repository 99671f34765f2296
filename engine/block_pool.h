/* KV block ids: who holds them, which are free, and which hold a prefix worth finding again.
 *
 * Owns no device memory: a block is a number. A full block may be published under the chained hash of all tokens up to
 * its end; it stays findable after its last holder lets go, until it is the least recently used free block and is
 * needed. Used by the engine thread only. */
#ifndef QUERN_ENGINE_BLOCK_POOL_H
#define QUERN_ENGINE_BLOCK_POOL_H

#include "engine/error.h"

#include <stdbool.h>
#include <stdint.h>

/* 128 bits, seeded per pool: two different prefixes share one with a chance of about 2^-128 per pair. */
struct block_hash {
    uint64_t low, high;
};

struct block_pool;

/* seed keys the hash, so that requests cannot construct collisions. */
struct block_pool *block_pool_create(int32_t n_blocks, int32_t block_size, uint64_t seed, struct error *err);
void block_pool_destroy(struct block_pool *pool);

int32_t block_pool_block_size(const struct block_pool *pool);
int32_t block_pool_n_blocks(const struct block_pool *pool);
/* Blocks nobody holds, published ones included: all of them can be allocated. */
int32_t block_pool_n_free(const struct block_pool *pool);

/* A block with one reference, taken from the unpublished free ones, else the least recently used; -1 when none is free.
 */
int32_t block_pool_alloc(struct block_pool *pool);
void block_pool_retain(struct block_pool *pool, int32_t block);
/* The last release frees the block; a published one stays findable. Release a sequence's last block first, so that
 * ends of prefixes are reused before their beginnings. */
void block_pool_release(struct block_pool *pool, int32_t block);
int32_t block_pool_references(const struct block_pool *pool, int32_t block);

/* The hash of no tokens, and of one more full block after previous. */
struct block_hash block_pool_root(const struct block_pool *pool);
struct block_hash block_pool_extend(const struct block_pool *pool, struct block_hash previous, const int32_t *tokens);

/* Makes a held block findable; without effect when another block already is published under the hash. */
void block_pool_publish(struct block_pool *pool, int32_t block, struct block_hash hash);
/* The block's content cannot be trusted: it is no longer findable. */
void block_pool_unpublish(struct block_pool *pool, int32_t block);
/* Published blocks that were given away for other content, since the start. */
uint64_t block_pool_n_evictions(const struct block_pool *pool);
bool block_pool_is_published(const struct block_pool *pool, struct block_hash hash);
/* The block published under hash, with one more reference, or -1. */
int32_t block_pool_find(struct block_pool *pool, struct block_hash hash);

#endif
