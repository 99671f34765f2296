/* A consumer of the prefill kernel, one warpgroup: scores, softmax and output of its 64 rows, item after item. */
#ifndef QUERN_CUDA_PREFILL_CONSUMER_CUH
#define QUERN_CUDA_PREFILL_CONSUMER_CUH

#include "cuda/paged_prefill.cuh"

#if HAVE_WGMMA

/* S = Q · Kᵀ, begun. */
template <int HEAD_DIM> __device__ static inline void begin_scores(float (&score)[64], uint64_t q, uint64_t keys) {
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; ++k) {
        uint32_t place = k / 4 * HALF_BYTES + k % 4 * 32;
        wgmma_k16(score, wgmma_moved(q, place), wgmma_moved(keys, place), k > 0);
    }
    wgmma_commit();
}

/* O (+)= P · V, begun. */
template <int HEAD_DIM>
__device__ static inline void begin_output(float (&output)[HEAD_DIM / 2], const uint32_t (&weight)[32], uint64_t values,
                                           bool add) {
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < TILE_KEYS / 16; ++k)
        wgmma_k16(output, weight + 4 * k, wgmma_moved(values, k * 16 * LINE_BYTES), add || k > 0);
    wgmma_commit();
}

__device__ static inline float power_of_two(float x) {
    float y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Softmax with a running maximum, of a lane's two rows; sums are of the lane's own columns. */
struct softmax {
    float maximum[2], sum[2], correction[2];
};
__device__ static inline void weigh(struct softmax *softmax, float (&score)[64], float scale_log2) {
    float offset[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float highest = softmax->maximum[r];
#pragma unroll
        for (int i = 2 * r; i < 64; i += 4) highest = fmaxf(highest, fmaxf(score[i], score[i + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
        softmax->correction[r] = power_of_two((softmax->maximum[r] - highest) * scale_log2);
        softmax->maximum[r] = highest;
        softmax->sum[r] *= softmax->correction[r];
        offset[r] = highest * scale_log2;
    }
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
        score[i] = power_of_two(fmaf(score[i], scale_log2, -offset[i / 2 % 2]));
        score[i + 1] = power_of_two(fmaf(score[i + 1], scale_log2, -offset[i / 2 % 2]));
        softmax->sum[i / 2 % 2] += score[i] + score[i + 1];
    }
}

/* One warpgroup: 64 rows. */
template <int HEAD_DIM>
__device__ static inline void consume(const struct prefill_params &p, struct prefill_shared *shared,
                                      unsigned char *tiles) {
    using at = layout<HEAD_DIM>;
    int thread = (int)threadIdx.x % WARPGROUP;
    int consumer = __shfl_sync(ALL_LANES, (int)threadIdx.x / WARPGROUP - 1, 0); // known to be the same in a warp
    int lane = thread % WARP, g = lane / 4, t = lane % 4, row = consumer * 64 + thread / WARP * 16;
    int32_t token[2] = {(row + g) * p.by_group >> 16, (row + g + 8) * p.by_group >> 16};
    uint64_t all_queries = wgmma_operand(shared_address(tiles) + consumer * 64 * LINE_BYTES);
    uint64_t all_keys = wgmma_operand(shared_address(tiles) + at::keys);
    uint64_t all_values = wgmma_operand_by_k(shared_address(tiles) + at::values, HALF_BYTES);
    ring<QUERY_STAGES> queries(shared->queries);
    ring<STAGES> keys(shared->keys), values(shared->values);
    float score[64], output[HEAD_DIM / 2];
    uint32_t weight[32];

    auto release = [&](const auto &ring) {
        if (lane == 0) barrier_arrive(ring.empty());
    };
    auto of_stage = [](uint64_t all, const auto &ring) { return wgmma_moved(all, ring.stage * at::tile_bytes); };
    auto round_weights = [&] {
#pragma unroll
        for (int i = 0; i < 32; ++i) weight[i] = bf16_pair(score[2 * i], score[2 * i + 1]);
    };

    if (consumer == 1) named_arrive(TURN, CONSUMER_THREADS);
    for (;; queries.next()) {
        queries.wait_full();
        struct prefill_item item = shared->items[queries.stage];
        if (item.n_keys == 0) return;
        uint64_t q = of_stage(all_queries, queries);
        struct softmax softmax = {{-INFINITY, -INFINITY}, {0, 0}, {0, 0}};

        auto mask = [&](int32_t first) { // matters in tiles that reach past the first row's position
            if (first + TILE_KEYS <= item.position + 1) return;
#pragma unroll
            for (int i = 0; i < 64; ++i)
                if (first + i / 4 * 8 + t * 2 + i % 2 > item.position + token[i / 2 % 2]) score[i] = -INFINITY;
        };

        keys.wait_full();
        begin_scores<HEAD_DIM>(score, q, of_stage(all_keys, keys));
        wgmma_wait<0>();
        release(keys);
        keys.next();
        mask(0);
        weigh(&softmax, score, p.attention.scale_log2);
        values.wait_full();
        round_weights();

        /* Scores of a tile, then the output of the one before; those of the other consumer follow while this one
         * weighs. The wait for values comes before that for the output: across it the compiler moves no weighing. */
        for (int32_t first = TILE_KEYS; first < item.n_keys; first += TILE_KEYS) {
            ring<STAGES> before = values;
            values.next();
            keys.wait_full();
            named_sync(TURN + consumer, CONSUMER_THREADS);
            begin_scores<HEAD_DIM>(score, q, of_stage(all_keys, keys));
            begin_output<HEAD_DIM>(output, weight, of_stage(all_values, before), first > TILE_KEYS);
            named_arrive(TURN + 1 - consumer, CONSUMER_THREADS);
            wgmma_wait<1>();
            release(keys);
            keys.next();
            mask(first);
            weigh(&softmax, score, p.attention.scale_log2);
            values.wait_full();
            wgmma_wait<0>();
            release(before);
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 2; ++i) output[i] *= softmax.correction[i / 2 % 2];
            round_weights();
        }

        /* Values past the last key: zeros, as shared memory there may hold anything. */
        int32_t n_valid = (item.n_keys - 1) % TILE_KEYS + 1;
        if (n_valid < TILE_KEYS) {
            unsigned char *lines = tiles + at::values + values.stage * at::tile_bytes;
            for (int i = n_valid * LINE_BYTES + thread * 16; i < HALF_BYTES; i += WARPGROUP * 16) {
                for (int h = 0; h < at::halves; ++h) *(uint4 *)(lines + h * HALF_BYTES + i) = make_uint4(0, 0, 0, 0);
            }
            wgmma_writes_done();
        }
        named_sync(ALONE + consumer, WARPGROUP); // nobody needs the queries any more
        begin_output<HEAD_DIM>(output, weight, of_stage(all_values, values), item.n_keys > TILE_KEYS);
        wgmma_wait<0>();
        release(values);
        values.next();

        /* A warp's 16 results take the place of their queries, swizzled as all tiles, and leave in 16-byte pieces. */
        unsigned char *results = tiles + queries.stage * at::tile_bytes;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float sum = softmax.sum[r];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            float share = 1 / sum;
            unsigned char *line = results + (row + g + 8 * r) * LINE_BYTES;
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n)
                *(uint32_t *)(line + n / 8 * HALF_BYTES + (n % 8 ^ g) * 16 + t * 4) =
                    bf16_pair(output[4 * n + 2 * r] * share, output[4 * n + 2 * r + 1] * share);
        }
        __syncwarp();
        constexpr int pieces = HEAD_DIM / 8;
#pragma unroll
        for (int i = lane; i < 16 * pieces; i += WARP) {
            int32_t line = row + i / pieces, piece = i % pieces, of_item = line * p.by_group >> 16;
            if (of_item >= item.n_tokens) continue;
            size_t head =
                (size_t)(item.row + of_item) * p.attention.n_heads + item.kv_head * p.group + line - of_item * p.group;
            *(uint4 *)(p.attention.attention + head * HEAD_DIM + piece * 8) =
                *(const uint4 *)(results + piece / 8 * HALF_BYTES + line * LINE_BYTES + (piece % 8 ^ line % 8) * 16);
        }
        wgmma_writes_done(); // before the next queries come by copy
        __syncwarp();
        release(queries);
    }
}

#endif
#endif
