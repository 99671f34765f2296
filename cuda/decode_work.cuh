/* How the blocks of a decode launch share its work: from kv_lens alone, on the device, so that the grid follows from
 * the GPU and one recording of the launch serves sequences of any lengths.
 *
 * A task is a sequence and up to eight query heads of one KV head; it has a round for each 64 keys. The rounds of all
 * tasks, one task after another, are the line of work; each block takes an equal piece of it. A task's splits are its
 * rounds by equally many from the first on: a limited number, so their length follows from the sequence's. Sums are
 * taken of the rounds of a split in order, then of the splits in order.
 *
 * Pieces end between units, and what several blocks have of a task they store by units. A unit is a split, but a round
 * in a launch of few, so that more blocks have work. That changes where the sums are taken, not their order. */
#ifndef QUERN_CUDA_DECODE_WORK_CUH
#define QUERN_CUDA_DECODE_WORK_CUH

#include "cuda/paged_attention.cuh"

#define ROUND_KEYS       64
#define TILE_HEADS       8
#define MIN_SPLIT_ROUNDS 4   // shorter ones cost large batches 5 %: more is stored
#define SEQUENCE_SPLITS  256 // of a long sequence, in all its tasks: about two for each SM
#define MAX_SPLITS       64  // of a task
#define MAX_BLOCKS       512 // of a launch

struct decode_work {
    int32_t n_seqs;
    int32_t head_tiles; // of one KV head
    int32_t max_splits; // of a task
    int32_t n_multiprocessors;
    int32_t n_stages;     // rounds in shared memory
    void *stored;         // see stored_sums: MAX_BLOCKS * max_splits
    uint32_t *n_arrivals; // [MAX_BLOCKS][COMPUTE_WARPS] units that are stored of a task; 0 between launches
};

/* The units that begin in rounds [begin, end) of the line. */
struct piece {
    int32_t begin, end;
    int32_t n_rounds, n_pieces; // of the launch
};

/* A round of a piece. */
struct place {
    int32_t seq, kv_len;
    int32_t kv_head, tile; // tile of its query heads
    int32_t task_begin;    // the task's first round in the line
    int32_t n_rounds;      // of the task
    int32_t split_rounds, unit_rounds;
    int32_t round; // in the task
    int32_t left;  // rounds to the end of the unit, this one included
    bool fresh;    // the block's first round of this task
    bool past;     // no round: the piece ended before it
};

__device__ static inline int32_t rounds_of(int32_t kv_len) {
    return (kv_len + ROUND_KEYS - 1) / ROUND_KEYS;
}

/* No more than one for each piece. */
__device__ static inline bool has_few_rounds(const struct piece &piece) {
    return piece.n_rounds <= piece.n_pieces;
}

__device__ static inline int32_t piece_begin(const struct piece &piece, int32_t index) {
    if (has_few_rounds(piece)) return min(index, piece.n_rounds);
    return (int32_t)((int64_t)index * piece.n_rounds / piece.n_pieces);
}

__device__ static inline int32_t piece_of_round(const struct piece &piece, int32_t round) {
    if (has_few_rounds(piece)) return round;
    return (int32_t)((((int64_t)round + 1) * piece.n_pieces - 1) / piece.n_rounds);
}

/* By a whole warp. Blocks begin one on each SM before any has two: few pieces go to different SMs, neighbours of many
 * to one. */
__device__ static struct piece piece_of_block(const struct attention_params &p, const struct decode_work &work) {
    struct piece piece = {};
    int32_t index = (int32_t)blockIdx.x, n_rounds = 0;
#pragma unroll 4
    for (int32_t seq = (int32_t)threadIdx.x % WARP; seq < work.n_seqs; seq += WARP)
        n_rounds += rounds_of(__ldg(p.kv_lens + seq));
    piece.n_rounds = __reduce_add_sync(ALL_LANES, n_rounds) * p.n_kv_heads * work.head_tiles;
    piece.n_pieces = (int32_t)gridDim.x;
    int32_t blocks_an_sm = piece.n_pieces / work.n_multiprocessors;
    if (!has_few_rounds(piece) && piece.n_pieces == blocks_an_sm * work.n_multiprocessors)
        index = index % work.n_multiprocessors * blocks_an_sm + index / work.n_multiprocessors;
    piece.begin = piece_begin(piece, index);
    piece.end = piece_begin(piece, index + 1);
    return piece;
}

__device__ static inline void enter_sequence(const struct decode_work &work, const struct piece &piece,
                                             struct place &place, int32_t kv_len) {
    place.kv_len = kv_len;
    place.n_rounds = rounds_of(kv_len);
    place.split_rounds = max((place.n_rounds + work.max_splits - 1) / work.max_splits, MIN_SPLIT_ROUNDS);
    place.unit_rounds = place.split_rounds > MIN_SPLIT_ROUNDS || !has_few_rounds(piece) ? place.split_rounds : 1;
}

__device__ static inline void enter_unit(const struct piece &piece, struct place &place) {
    place.left = place.unit_rounds;
    place.past = place.task_begin + place.round >= piece.end;
}

__device__ static inline void next_task(const struct attention_params &p, const struct decode_work &work,
                                        const struct piece &piece, struct place &place) {
    place.task_begin += place.n_rounds;
    place.round = 0;
    place.fresh = true;
    if (++place.tile < work.head_tiles) return;
    place.tile = 0;
    if (++place.kv_head < p.n_kv_heads || place.task_begin >= piece.end) return;
    int32_t kv_len;
    place.kv_head = 0;
    do kv_len = __ldg(p.kv_lens + ++place.seq);
    while (kv_len == 0);
    enter_sequence(work, piece, place, kv_len);
}

__device__ static inline void next_round(const struct attention_params &p, const struct decode_work &work,
                                         const struct piece &piece, struct place &place) {
    place.fresh = false;
    if (++place.round == place.n_rounds)
        next_task(p, work, piece, place);
    else if (--place.left > 0)
        return;
    enter_unit(piece, place);
}

/* By a whole warp. */
__device__ static struct place first_place(const struct attention_params &p, const struct decode_work &work,
                                           const struct piece &piece) {
    struct place place = {};
    place.fresh = true;
    place.past = piece.begin >= piece.end;
    if (place.past) return place;

    /* The sequence, 32 at a time. */
    int32_t lane = (int32_t)threadIdx.x % WARP, n_tasks = p.n_kv_heads * work.head_tiles;
    for (int32_t first = 0;; first += WARP) {
        int32_t kv_len = first + lane < work.n_seqs ? __ldg(p.kv_lens + first + lane) : 0;
        int32_t n_rounds = rounds_of(kv_len) * n_tasks, of_all = __reduce_add_sync(ALL_LANES, n_rounds);
        if (place.task_begin + of_all <= piece.begin) {
            place.task_begin += of_all;
            continue;
        }
        int32_t through = n_rounds;
        for (int step = 1; step < WARP; step *= 2) {
            int32_t other = __shfl_up_sync(ALL_LANES, through, step);
            if (lane >= step) through += other;
        }
        int owner = __ffs((int)__ballot_sync(ALL_LANES, place.task_begin + through > piece.begin)) - 1;
        place.seq = first + owner;
        place.task_begin += __shfl_sync(ALL_LANES, through - n_rounds, owner);
        enter_sequence(work, piece, place, __shfl_sync(ALL_LANES, kv_len, owner));
        break;
    }

    /* The task, and its first unit from there on. */
    int32_t task = (piece.begin - place.task_begin) / place.n_rounds;
    place.task_begin += task * place.n_rounds;
    place.kv_head = task / work.head_tiles;
    place.tile = task % work.head_tiles;
    int32_t unit = (piece.begin - place.task_begin + place.unit_rounds - 1) / place.unit_rounds;
    place.round = unit * place.unit_rounds;
    if (place.round >= place.n_rounds) next_task(p, work, piece, place);
    enter_unit(piece, place);
    return place;
}

#endif
