/* The producer of the prefill kernel, one warp: claims items when the one before is nearly brought, so that whoever is
 * done first has the next, and brings their queries, keys and values. */
#ifndef QUERN_CUDA_PREFILL_PRODUCER_CUH
#define QUERN_CUDA_PREFILL_PRODUCER_CUH

#include "cuda/paged_prefill.cuh"

#if HAVE_WGMMA

#define BOXES_AT_ONCE 4 // their lines are ready before the first is asked for

/* Row tile number `rank` in the order: the last of each chunk, the second last of each, …, so that the longest of a
 * chunk come first. Level: counted from the last tile of a chunk. */
__device__ static inline void find_tile(const struct prefill_params &p, int32_t rank, int32_t *chunk, int32_t *tile) {
    const int32_t *starts = p.attention.query_starts + p.first_seq;
    int32_t lane = (int32_t)threadIdx.x % WARP;
    auto tiles_of = [&](int32_t i) {
        return i < p.n_chunks ? (starts[i + 1] - starts[i] + p.tile_tokens - 1) / p.tile_tokens : 0;
    };
    auto tiles_before = [&](int32_t level) {
        int32_t n = 0;
        for (int32_t i = lane; i < p.n_chunks; i += WARP) n += min(tiles_of(i), level);
        return (int32_t)__reduce_add_sync(ALL_LANES, (uint32_t)n);
    };
    int32_t level = 0;
    for (int32_t highest = p.max_tiles - 1; level < highest;) {
        int32_t middle = (level + highest + 1) / 2;
        if (tiles_before(middle) <= rank)
            level = middle;
        else
            highest = middle - 1;
    }
    rank -= tiles_before(level);
    for (int32_t first = 0;; first += WARP) {
        uint32_t deep = __ballot_sync(ALL_LANES, tiles_of(first + lane) > level);
        if (rank >= __popc(deep)) {
            rank -= __popc(deep);
            continue;
        }
        bool mine = deep >> lane & 1 && __popc(deep & ((1u << lane) - 1)) == rank;
        *chunk = first + __ffs((int)__ballot_sync(ALL_LANES, mine)) - 1;
        *tile = tiles_of(*chunk) - 1 - level;
        return;
    }
}

__device__ static inline struct prefill_item find_item(const struct prefill_params &p, int32_t index) {
    const struct attention_params &attention = p.attention;
    struct prefill_item item;
    int32_t chunk, tile;
    find_tile(p, index / attention.n_kv_heads, &chunk, &tile);
    item.kv_head = index % attention.n_kv_heads;
    item.seq = p.first_seq + chunk;
    int32_t start = attention.query_starts[item.seq], first = tile * p.tile_tokens;
    int32_t n_tokens = attention.query_starts[item.seq + 1] - start;
    item.row = start + first;
    item.n_tokens = min(p.tile_tokens, n_tokens - first);
    item.position = attention.kv_lens[item.seq] - n_tokens + first;
    item.n_keys = item.position + item.n_tokens;
    return item;
}

/* One warp: item after item its queries, then its keys and values box by box. Nothing is brought past the last key. */
template <int HEAD_DIM>
__device__ static inline void produce(const struct prefill_params &p, struct prefill_shared *shared, uint32_t tiles) {
    using at = layout<HEAD_DIM>;
    int32_t lane = (int32_t)threadIdx.x % WARP, block_size = p.attention.divider.block_size;
    ring<QUERY_STAGES> queries(shared->queries);
    ring<STAGES> keys(shared->keys), values(shared->values);

    auto show = [&](const struct prefill_item &item) { // to the consumers, with its queries
        queries.wait_empty();
        if (is_elected()) {
            shared->items[queries.stage] = item;
            uint32_t box_bytes = (uint32_t)(p.tile_tokens * p.group * LINE_BYTES);
            barrier_expect(queries.full(), item.n_keys > 0 ? at::halves * box_bytes : 0);
            for (int h = 0; h < at::halves && item.n_keys > 0; ++h)
                tma_load(tiles + queries.stage * at::tile_bytes + h * HALF_BYTES, &p.q, h * 64, item.kv_head * p.group,
                         item.row, queries.full());
        }
        queries.next();
    };
    /* Lane i knows the line of box i. */
    auto fetch = [&](const CUtensorMap *map, const auto &ring, uint32_t to, int32_t n_keys, int32_t line) {
        ring.wait_empty();
        if (is_elected()) {
            int32_t n_lines = (n_keys + p.box_keys - 1) & -p.box_keys;
            barrier_expect(ring.full(), (uint32_t)(n_lines * at::halves * LINE_BYTES));
        }
        to += ring.stage * at::tile_bytes;
        for (int32_t box = 0; box * p.box_keys < n_keys; box += BOXES_AT_ONCE) {
            int32_t lines[BOXES_AT_ONCE];
#pragma unroll
            for (int i = 0; i < BOXES_AT_ONCE; ++i) lines[i] = __shfl_sync(ALL_LANES, line, box + i);
#pragma unroll
            for (int i = 0; i < BOXES_AT_ONCE; ++i) {
                int32_t key = (box + i) * p.box_keys;
                if (key >= n_keys || !is_elected()) continue;
                for (int h = 0; h < at::halves; ++h)
                    tma_load(to + h * HALF_BYTES + key * LINE_BYTES, map, h * 64, lines[i], ring.full());
            }
        }
    };

    for (int32_t index = (int32_t)blockIdx.x; index < p.n_items;) {
        struct prefill_item item = find_item(p, index);
        uint32_t claim = 0;
        show(item);
        const int32_t *block_table = p.attention.block_tables + (size_t)item.seq * p.attention.max_blocks;
        for (int32_t first = 0; first < item.n_keys; first += TILE_KEYS, keys.next(), values.next()) {
            int32_t n_keys = min(item.n_keys - first, TILE_KEYS), line = 0;
            if (lane * p.box_keys < n_keys) {
                int32_t position = first + lane * p.box_keys, i = block_of(p.attention.divider, position);
                line =
                    (block_table[i] * p.attention.n_kv_heads + item.kv_head) * block_size + position - i * block_size;
            }
            /* The last block to ask brings the claims back to 0. */
            if (lane == 0 && first + TILE_KEYS >= item.n_keys) claim = atomicInc(p.claims, (uint32_t)p.n_items - 1);
            fetch(&p.keys, keys, tiles + at::keys, n_keys, line);
            fetch(&p.values, values, tiles + at::values, n_keys, line);
        }
        index = (int32_t)(gridDim.x + __shfl_sync(ALL_LANES, claim, 0));
    }
    show({});
}

#endif
#endif
