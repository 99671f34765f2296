/* Attention of a few query heads that share a KV head, over the paged cache, with an online softmax.
 *
 * Positions are visited in tiles of ATTENTION_TILE from position 0, whatever the block size, the chunk or the other
 * queries. In a tile: scores by dot products of keys and queries, the weights exp(score - max so far), then the values
 * summed position by position. What a query does not see has weight 0 and changes no bit. */
#ifndef QUERN_CPU_VECTOR_ATTENTION_H
#define QUERN_CPU_VECTOR_ATTENTION_H

#include "cpu/vector.h"

#include <math.h>

#define MAX_HEAD_VECS (MAX_HEAD_DIM / LANES)

struct softmax_state {
    float queries[GROUP_ROWS * MAX_HEAD_DIM]; // [head_dim / LANES][query][LANES], scaled
    float weights[GROUP_ROWS][ATTENTION_TILE];
    float sums[GROUP_ROWS][MAX_HEAD_DIM]; // of weighted values
    float max[GROUP_ROWS];
    float total[GROUP_ROWS];      // of weights
    float correction[GROUP_ROWS]; // what this tile multiplies the sums so far with
    const float *keys[ATTENTION_TILE];
    const float *values[ATTENTION_TILE];
};

/* Scores of n_queries x n_keys, constants where inlined. */
ALWAYS_INLINE void score_tile(struct softmax_state *state, int32_t first, int32_t head_dim, int n_queries, int n_keys) {
    vec sums[16];
#pragma GCC unroll 16
    for (int i = 0; i < n_queries * n_keys; ++i) sums[i] = (vec){0};
    const float *queries = state->queries;
    for (int32_t d = 0; d < head_dim; d += LANES, queries += n_queries * LANES) {
        vec k[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_keys; ++j) k[j] = vec_load(state->keys[first + j] + d);
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; ++q) {
            vec query = vec_load(queries + q * LANES);
#pragma GCC unroll 4
            for (int j = 0; j < n_keys; ++j) sums[q * n_keys + j] = vec_fma(query, k[j], sums[q * n_keys + j]);
        }
    }
    vec zero = {0};
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q) {
        vec4 scores = vec_sums(sums[q * n_keys], n_keys > 1 ? sums[q * n_keys + 1] : zero,
                               n_keys > 2 ? sums[q * n_keys + 2] : zero, n_keys > 3 ? sums[q * n_keys + 3] : zero);
#pragma GCC unroll 4
        for (int j = 0; j < n_keys; ++j) state->weights[q][first + j] = scores[j];
    }
}

#define SCORE_CASE(queries, keys)                                                                                      \
    case queries:                                                                                                      \
        for (; j + (keys) <= n_positions; j += (keys)) score_tile(state, j, head_dim, queries, keys);                  \
        for (; j < n_positions; ++j) score_tile(state, j, head_dim, queries, 1);                                       \
        break

static inline void scores(struct softmax_state *state, int32_t n_queries, int32_t n_positions, int32_t head_dim) {
    int32_t j = 0;
    switch (n_queries) {
        SCORE_CASE(1, 4);
        SCORE_CASE(2, 4);
        SCORE_CASE(3, 4);
        SCORE_CASE(4, 2);
        SCORE_CASE(5, 2);
        SCORE_CASE(6, 2);
    }
}

/* Turns one query's scores into weights and moves its maximum. */
static inline void soften(struct softmax_state *state, int32_t q, int32_t n_visible) {
    float *weights = state->weights[q];
    if (n_visible <= 0) {
        memset(weights, 0, sizeof state->weights[q]);
        state->correction[q] = 1;
        return;
    }
    for (int32_t j = n_visible; j < ATTENTION_TILE; ++j) weights[j] = -INFINITY;
    vec largest = vec_load(weights);
    for (int32_t j = LANES; j < ATTENTION_TILE; j += LANES) largest = vec_max(largest, vec_load(weights + j));
    float max = state->max[q];
    for (int lane = 0; lane < LANES; ++lane) max = largest[lane] > max ? largest[lane] : max;
    vec sum = {0};
    for (int32_t j = 0; j < ATTENTION_TILE; j += LANES) vec_store(weights + j, vec_exp(vec_load(weights + j) - max));
    for (int32_t j = n_visible; j < ATTENTION_TILE; ++j) weights[j] = 0;
    for (int32_t j = 0; j < ATTENTION_TILE; j += LANES) sum += vec_load(weights + j);
    float correction = state->max[q] == -INFINITY ? 0 : vec_exp(vec_all(state->max[q] - max))[0];
    state->correction[q] = correction;
    state->total[q] = state->total[q] * correction + vec_sum(sum);
    state->max[q] = max;
}

/* sums = sums * correction + weights · V for n_queries x n_vecs vectors from column d. */
ALWAYS_INLINE void add_values_tile(struct softmax_state *state, int32_t first, int32_t d, int32_t n_positions,
                                   int n_queries, int n_vecs) {
    vec sums[MAX_HEAD_VECS < 24 ? 24 : MAX_HEAD_VECS];
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v)
            sums[q * n_vecs + v] =
                vec_load(&state->sums[first + q][d + v * LANES]) * vec_all(state->correction[first + q]);
    for (int32_t j = 0; j < n_positions; ++j) {
        const float *value = state->values[j] + d;
        vec row[4];
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v) row[v] = vec_load(value + v * LANES);
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; ++q) {
            vec weight = vec_all(state->weights[first + q][j]);
#pragma GCC unroll 4
            for (int v = 0; v < n_vecs; ++v) sums[q * n_vecs + v] = vec_fma(weight, row[v], sums[q * n_vecs + v]);
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v) vec_store(&state->sums[first + q][d + v * LANES], sums[q * n_vecs + v]);
}

#define VALUES_CASE(n)                                                                                                 \
    case n:                                                                                                            \
        for (; d + 4 * LANES <= head_dim; d += 4 * LANES) add_values_tile(state, first, d, n_positions, n, 4);         \
        for (; d < head_dim; d += LANES) add_values_tile(state, first, d, n_positions, n, 1);                          \
        break

static inline void add_values(struct softmax_state *state, int32_t n_queries, int32_t n_positions, int32_t head_dim) {
    for (int32_t first = 0; first < n_queries; first += 3) {
        int32_t d = 0;
        switch (n_queries - first) {
            VALUES_CASE(1);
            VALUES_CASE(2);
        default:
            VALUES_CASE(3);
        }
    }
}

static inline void attend(const struct attend_job *job) {
    struct softmax_state state;
    int32_t n_queries = job->n_queries, head_dim = job->head_dim;
    float *packed_query = state.queries;
    for (int32_t d = 0; d < head_dim; d += LANES)
        for (int32_t q = 0; q < n_queries; ++q, packed_query += LANES)
            vec_store(packed_query, vec_load(job->queries[q] + d) * job->scale);
    for (int32_t q = 0; q < n_queries; ++q) {
        state.max[q] = -INFINITY;
        state.total[q] = 0;
        memset(state.sums[q], 0, (size_t)head_dim * sizeof(float));
    }
    int32_t n_visible = job->n_visible[n_queries - 1];
    for (int32_t start = 0; start < n_visible; start += ATTENTION_TILE) {
        int32_t n_positions = n_visible - start < ATTENTION_TILE ? n_visible - start : ATTENTION_TILE;
        for (int32_t j = 0; j < n_positions; ++j) {
            int32_t position = start + j;
            size_t place = (size_t)job->blocks[position / job->block_size] * job->block_stride +
                           (size_t)(position % job->block_size) * (size_t)head_dim;
            state.keys[j] = job->keys + place;
            state.values[j] = job->values + place;
        }
        scores(&state, n_queries, n_positions, head_dim);
        for (int32_t q = 0; q < n_queries; ++q) {
            int32_t visible = job->n_visible[q] - start;
            soften(&state, q, visible < n_positions ? visible : n_positions);
        }
        add_values(&state, n_queries, n_positions, head_dim);
    }
    for (int32_t q = 0; q < n_queries; ++q) {
        float inverse = 1.0f / state.total[q];
        for (int32_t d = 0; d < head_dim; d += LANES) vec_store(job->out[q] + d, vec_load(&state.sums[q][d]) * inverse);
    }
}

#endif
