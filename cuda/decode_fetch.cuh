/* The warps of a decode block that fetch: rounds of keys, values and queries into a ring in shared memory, from which
 * the block's other warps compute. They wait for each other, round by round, at barriers in shared memory. */
#ifndef QUERN_CUDA_DECODE_FETCH_CUH
#define QUERN_CUDA_DECODE_FETCH_CUH

#include "cuda/decode_work.cuh"
#include "cuda/launch.cuh"

#define COMPUTE_WARPS (ROUND_KEYS / 16)
#define FETCH_WARPS   2
#define MAX_STAGES    3 // 102 KB at head_dim 128

/* What the computing warps are told of a round. */
struct alignas(16) round_info {
    int32_t n_keys;        // from its first on; 0: there is no further round
    int32_t line, n_heads; // of the task, from line seq * n_heads + head on
    uint32_t newest_line;  // of its last key
    int32_t number;        // where its units arrive: the piece in which it begins, and no other task of several blocks
    int32_t stored, unit;  // where they are stored, in order of the line if they are few; the round's
    int32_t n_units;
    int32_t split_units;      // 1 or 4
    bool fresh, whole;        // whole: all of the task is this block's
    bool ends_sum, ends_task; // of a split if whole, else of a unit; of what the block has of the task
};

template <int HEAD_DIM> struct stage {
    uint4 keys[ROUND_KEYS * HEAD_DIM / 8], values[ROUND_KEYS * HEAD_DIM / 8]; // see spot
    uint4 queries[TILE_HEADS * HEAD_DIM / 8];                                 // with the first round of a task
};

/* Where the 16-byte piece of a row lies: swapped within 128 bytes, so that eight rows of one piece use all banks. */
template <int HEAD_DIM> __device__ static inline int spot(int row, int piece) {
    return row * (HEAD_DIM / 8) + (piece ^ (row & 7));
}

/* Barriers in shared memory: the phase of a parity ends when all have arrived; that before the first has parity 1. */
__device__ static inline void barrier_init(uint64_t *barrier, uint32_t n_arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"((uint32_t)__cvta_generic_to_shared(barrier)),
                 "r"(n_arrivals)
                 : "memory");
}
__device__ static inline void barrier_arrive(uint64_t *barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(barrier))
                 : "memory");
}
/* Once this thread's copies so far have landed. */
__device__ static inline void barrier_arrive_copied(uint64_t *barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"((uint32_t)__cvta_generic_to_shared(barrier))
                 : "memory");
}
__device__ static inline void barrier_wait(uint64_t *barrier, uint32_t parity) {
    uint32_t done = 0;
    while (!done) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
#else
        asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
#endif
                     : "=r"(done)
                     : "r"((uint32_t)__cvta_generic_to_shared(barrier)), "r"(parity)
                     : "memory");
    }
}

/* copy_async, if it is wanted, without a branch; of what is not read again soon. */
__device__ static inline void copy_once(void *to, const void *from, bool wanted, bool valid, uint64_t policy) {
    asm volatile("{\n.reg .pred wanted;\nsetp.ne.b32 wanted, %3, 0;\n"
                 "@wanted cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %4;\n}" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 16 : 0), "r"((int)wanted), "l"(policy)
                 : "memory");
}
__device__ static inline uint64_t evict_first() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* A ring of rounds in shared memory, between the warps that fetch and those that compute. */
struct ring {
    struct round_info infos[MAX_STAGES];
    uint64_t full[MAX_STAGES], empty[MAX_STAGES];
};

/* Where in the ring, and the parity of the phase of `full` in this turn. */
struct cursor {
    int slot;
    uint32_t parity;
};
__device__ static inline void advance(const struct decode_work &work, struct cursor &cursor) {
    if (++cursor.slot < work.n_stages) return;
    cursor.slot = 0;
    cursor.parity ^= 1;
}

/* Each of the fetching warps walks over the block's piece and fetches its share of the keys of every round; the first
 * also fetches the queries and describes the round. */
template <int HEAD_DIM>
__device__ static inline void fetch_rounds(const struct attention_params &p, const struct decode_work &work,
                                           struct stage<HEAD_DIM> *stages, struct ring &ring) {
    constexpr int row_pieces = HEAD_DIM / 8, rows = WARP / row_pieces; // rows of one copy by all lanes
    constexpr int eights = ROUND_KEYS / 8 / FETCH_WARPS;
    int lane = threadIdx.x % WARP, row = lane / row_pieces, warp = threadIdx.x / WARP - COMPUTE_WARPS;
    int32_t group = p.n_heads / p.n_kv_heads;
    const struct piece piece = piece_of_block(p, work);
    struct place at = first_place(p, work, piece);
    int spots[8 / rows]; // of this lane, in eight rows
    for (int i = 0; i < 8 / rows; ++i) spots[i] = spot<HEAD_DIM>(i * rows + row, lane % row_pieces);
    const uint4 *keys = (const uint4 *)p.keys + lane, *values = (const uint4 *)p.values + lane;
    const uint64_t policy = evict_first();

    auto line_of = [&](int32_t position) {
        int32_t index = block_of(p.divider, position), offset = position - index * p.divider.block_size;
        int32_t block = __ldg(p.block_tables + (size_t)at.seq * p.max_blocks + index);
        return ((uint32_t)block * p.n_kv_heads + at.kv_head) * p.divider.block_size + offset;
    };
    /* Eight keys from a multiple of 8 on lie in one block, as block_size is a multiple of 8: lane i looks up the warp's
     * i-th eight. */
    auto lines_of_eights = [&]() {
        int32_t position = at.round * ROUND_KEYS + (warp * eights + lane) * 8;
        return !at.past && lane < eights && position < at.kv_len ? line_of(position) : 0;
    };
    uint32_t lines = lines_of_eights();

    /* Zeros past the end, as memory there may hold anything. */
    auto fetch = [&](struct stage<HEAD_DIM> &to, bool newest_too) {
        int32_t left = at.kv_len - at.round * ROUND_KEYS - row;
#pragma unroll
        for (int i = 0; i < eights; ++i) {
            size_t from = (size_t)__shfl_sync(ALL_LANES, lines, i) * row_pieces;
            int first_key = (warp * eights + i) * 8;
#pragma unroll
            for (int k = 0; k < 8 / rows; ++k) {
                int key = first_key + k * rows, place_of_piece = first_key * row_pieces + spots[k];
                bool wanted = newest_too || key != left - 1;
                copy_once(to.keys + place_of_piece, keys + from + k * WARP, wanted, key < left, policy);
                copy_once(to.values + place_of_piece, values + from + k * WARP, wanted, key < left, policy);
            }
        }
    };

    struct round_info info = {};
    auto describe = [&](int slot) {
        if (at.fresh) {
            int32_t number = piece_of_round(piece, at.task_begin);
            info.line = at.seq * p.n_heads + at.kv_head * group + at.tile * TILE_HEADS;
            info.n_heads = min(TILE_HEADS, group - at.tile * TILE_HEADS);
            info.newest_line = line_of(at.kv_len - 1);
            info.number = number;
            info.stored = has_few_rounds(piece) ? at.task_begin : number * work.max_splits;
            info.n_units = (at.n_rounds + at.unit_rounds - 1) / at.unit_rounds;
            info.split_units = at.split_rounds / at.unit_rounds;
            int32_t last_unit = at.task_begin + (info.n_units - 1) * at.unit_rounds;
            info.whole = at.task_begin >= piece.begin && last_unit < piece.end;
        }
        int32_t next = at.round + 1;
        bool ends_unit = at.left == 1 || next == at.n_rounds;
        info.n_keys = at.kv_len - at.round * ROUND_KEYS;
        info.unit = at.round / at.unit_rounds;
        info.fresh = at.fresh;
        info.ends_sum = ends_unit && (!info.whole || next % at.split_rounds == 0 || next == at.n_rounds);
        info.ends_task = next == at.n_rounds || (ends_unit && at.task_begin + next >= piece.end);
        if (lane == 0) ring.infos[slot] = info;
    };
    auto fetch_queries = [&](struct stage<HEAD_DIM> &to, const struct round_info &info) {
        if (!info.fresh) return;
        const uint4 *q = (const uint4 *)p.q + (size_t)info.line * row_pieces + lane;
#pragma unroll
        for (int i = 0; i < 8 / rows; ++i) {
            bool valid = i * rows + row < info.n_heads;
            copy_async(to.queries + spots[i], valid ? q + i * WARP : q - lane, valid);
        }
    };
    auto fetch_newest = [&](struct stage<HEAD_DIM> &to, const struct round_info &info) {
        if (info.n_keys > ROUND_KEYS || lane >= row_pieces) return;
        int place_of_piece = spot<HEAD_DIM>(info.n_keys - 1, lane);
        copy_async(to.keys + place_of_piece, keys + (size_t)info.newest_line * row_pieces, true);
        copy_async(to.values + place_of_piece, values + (size_t)info.newest_line * row_pieces, true);
    };
    auto go_on = [&]() {
        next_round(p, work, piece, at);
        lines = lines_of_eights();
    };
    auto publish = [&](int slot) {
        if (warp == 0 && lane == 0) barrier_arrive(&ring.full[slot]);
        barrier_arrive_copied(&ring.full[slot]);
    };

    /* Before this step's other kernels are done only the newest key and value and the queries are missing: all else was
     * written by the host or by steps before. */
    int n_early = 0;
#pragma unroll 1
    for (; n_early < work.n_stages && !at.past; ++n_early) {
        fetch(stages[n_early], false);
        if (warp == 0) describe(n_early);
        go_on();
    }
    __syncwarp();
    let_next_begin();
    wait_for_previous();
    struct cursor cursor = {};
#pragma unroll 1
    for (int i = 0; i < n_early; ++i) {
        if (warp == 0) {
            fetch_queries(stages[i], ring.infos[i]);
            fetch_newest(stages[i], ring.infos[i]);
        }
        publish(cursor.slot);
        advance(work, cursor);
    }
#pragma unroll 1
    while (!at.past) {
        barrier_wait(&ring.empty[cursor.slot], cursor.parity ^ 1);
        fetch(stages[cursor.slot], true);
        if (warp == 0) {
            describe(cursor.slot);
            fetch_queries(stages[cursor.slot], info);
        }
        publish(cursor.slot);
        advance(work, cursor);
        go_on();
    }
    barrier_wait(&ring.empty[cursor.slot], cursor.parity ^ 1);
    if (warp == 0 && lane == 0) ring.infos[cursor.slot].n_keys = 0;
    publish(cursor.slot);
}

#endif
