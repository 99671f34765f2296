/* What the roles of the prefill kernel share: a producer brings queries, keys and values through rings of shared
 * memory, consumers compute. Both take the same items in the same order. */
#ifndef QUERN_CUDA_PAGED_PREFILL_CUH
#define QUERN_CUDA_PAGED_PREFILL_CUH

#include "cuda/paged_attention.cuh"
#include "cuda/warpgroup.cuh"

#define TILE_ROWS          128
#define TILE_KEYS          128
#define TILE_ALIGN         1024 // bytes: of the swizzle
#define QUERY_STAGES       1
#define STAGES             3 // of keys and of values: with two, products wait for copies, 8 % of the time
#define CONSUMERS          (TILE_ROWS / 64)
#define CONSUMER_THREADS   (CONSUMERS * WARPGROUP)
#define PREFILL_THREADS    (WARPGROUP + CONSUMER_THREADS)
#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232                      // of 65,536 in all
#define HALF_BYTES         (TILE_KEYS * LINE_BYTES) // a tile is one or two halves of 64 values

/* Named barriers; the next is the other consumer's. */
#define TURN  1
#define ALONE 3

struct prefill_params {
    CUtensorMap q;            // [n_rows][n_heads][head_dim], box [tile_tokens][group][64]
    CUtensorMap keys, values; // [n_blocks * n_kv_heads * block_size][head_dim], box [box_keys][64]
    struct attention_params attention;
    int32_t first_seq, n_chunks;
    int32_t n_items;     // row tiles times KV heads
    int32_t max_tiles;   // of a chunk
    int32_t box_keys;    // a power of two that divides block_size
    int32_t group;       // query heads of a KV head
    int32_t by_group;    // 65,536 / group rounded up: i * by_group >> 16 is i / group below 512
    int32_t tile_tokens; // group * tile_tokens <= TILE_ROWS
    uint32_t *claims;    // of items, by the blocks; 0 before and after
};

/* Shared memory: rings of queries, whose place the results take, of keys and of values. */
template <int HEAD_DIM> struct layout {
    static constexpr int halves = HEAD_DIM / 64, tile_bytes = halves * HALF_BYTES;
    static constexpr int keys = QUERY_STAGES * tile_bytes, values = keys + STAGES * tile_bytes;
    static constexpr size_t bytes = values + STAGES * tile_bytes;
};

#if HAVE_WGMMA

/* One row tile of one KV head's queries. */
struct prefill_item {
    int32_t seq, kv_head;
    int32_t row;      // of the batch: where the tile begins
    int32_t n_tokens; // in the tile; the last may be short
    int32_t position; // of the first token
    int32_t n_keys;   // seen by the last
};

/* Barriers of a ring: full of each stage, then empty. An item is written before its queries are full. */
struct prefill_shared {
    uint64_t queries[2 * QUERY_STAGES], keys[2 * STAGES], values[2 * STAGES];
    struct prefill_item items[QUERY_STAGES]; // without keys: the end
};

/* A place in a ring, which goes on whatever the item. */
template <int N> struct ring {
    uint32_t barriers;
    int32_t stage;
    uint32_t parity;

    __device__ inline ring(const uint64_t (&of_shared)[2 * N])
        : barriers(shared_address(of_shared)), stage(0), parity(0) {}
    __device__ inline uint32_t full() const {
        return barriers + stage * (uint32_t)sizeof(uint64_t);
    }
    __device__ inline uint32_t empty() const {
        return full() + N * (uint32_t)sizeof(uint64_t);
    }
    __device__ inline void next() {
        if (++stage == N) stage = 0, parity ^= 1;
    }
    __device__ inline void wait_full() const {
        barrier_wait(full(), parity);
    }
    __device__ inline void wait_empty() const {
        barrier_wait(empty(), parity ^ 1);
    }
    __device__ inline void init() const {
        for (ring at = *this; at.parity == 0; at.next()) {
            barrier_init(at.full(), 1);
            barrier_init(at.empty(), CONSUMER_THREADS / WARP);
        }
    }
};

#endif
#endif
