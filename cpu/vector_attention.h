/* Attention of a few query heads that share a KV head, over the paged cache, with an online softmax.
 *
 * Positions are visited in tiles of ATTENTION_TILE from position 0, whatever the block size, the chunk or the other
 * queries. In a tile: scores by dot products of keys and queries, the weights exp(score - max so far), then the values
 * summed position by position. What a query does not see has weight 0 and changes no bit. */
#ifndef QUERN_CPU_VECTOR_ATTENTION_H
#define QUERN_CPU_VECTOR_ATTENTION_H

#include "cpu/vector.h"

#include <math.h>

#define QUERY_GROUP 5  // queries that share registers
#define FEW_QUERIES 8  // up to here reading keys and values is most of the time
#define KEY_RUN     16 // keys that all queries pass while they are in L1
#define VALUE_RUN   32 // the same for VALUE_VECS vectors of each value: rows of 512 bytes fall on few sets of L1
#define VALUE_VECS  (LANES == 16 ? 4 : 2) // times a group of queries: sums in registers

/* Where the keys and values of a tile lie. */
struct kv_tile {
    const float *keys[ATTENTION_TILE];
    const float *values[ATTENTION_TILE];
    int32_t n_positions;
};

struct softmax_state {
    float queries[MAX_QUERIES * MAX_HEAD_DIM]; // by groups: [head_dim / LANES][query of the group][LANES], scaled
    float weights[MAX_QUERIES][ATTENTION_TILE];
    float sums[MAX_QUERIES][MAX_HEAD_DIM]; // of weighted values
    float max[MAX_QUERIES];
    float total[MAX_QUERIES]; // of weights
    struct kv_tile tile;
    struct kv_tile next;
};

/* The positions from start, none where nobody sees any. */
static inline void find_tile(struct kv_tile *tile, const struct attend_job *job, const float *keys, int32_t start) {
    int32_t left = keys ? job->n_visible[job->n_queries - 1] - start : 0;
    tile->n_positions = left < ATTENTION_TILE ? left : ATTENTION_TILE;
    for (int32_t j = 0; j < tile->n_positions; ++j) {
        int32_t position = start + j;
        size_t place = (size_t)job->blocks[position / job->block_size] * job->block_stride +
                       (size_t)(position % job->block_size) * (size_t)job->head_dim;
        tile->keys[j] = keys + place;
        tile->values[j] = job->values + place;
    }
}

/* Brings the 64 bytes at column d of a row near, where that is a row and they begin a line. */
ALWAYS_INLINE void fetch_row(const float *const *rows, int32_t row, int32_t n_rows, int32_t d) {
    if (row < n_rows && d % 16 == 0) fetch((uintptr_t)(rows[row] + d));
}

/* Scores of the n_queries of the group that begins at `first`, with n_keys keys from `key`; counts are constants where
 * this is inlined. Meanwhile the first n_ahead values are fetched, each where its key is read. */
ALWAYS_INLINE void score_tile(struct softmax_state *state, int32_t first, int32_t key, int32_t head_dim,
                              int32_t n_ahead, int n_queries, int n_keys) {
    vec sums[20];
#pragma GCC unroll 20
    for (int i = 0; i < n_queries * n_keys; ++i) sums[i] = (vec){0};
    const float *queries = state->queries + (size_t)first * (size_t)head_dim;
    for (int32_t d = 0; d < head_dim; d += LANES, queries += n_queries * LANES) {
        vec k[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_keys; ++j) {
            k[j] = vec_load(state->tile.keys[key + j] + d);
            HOLD(k[j]);
            fetch_row(state->tile.values, key + j, n_ahead, d);
        }
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; ++q) {
            vec query = vec_load(queries + q * LANES);
            HOLD(query);
#pragma GCC unroll 4
            for (int j = 0; j < n_keys; ++j) sums[q * n_keys + j] = vec_fma(query, k[j], sums[q * n_keys + j]);
        }
    }
    vec zero = {0};
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q) {
        vec4 scores = vec_sums(sums[q * n_keys], n_keys > 1 ? sums[q * n_keys + 1] : zero,
                               n_keys > 2 ? sums[q * n_keys + 2] : zero, n_keys > 3 ? sums[q * n_keys + 3] : zero);
        memcpy(&state->weights[first + q][key], &scores, (size_t)n_keys * sizeof(float));
    }
}

#define SCORE_CASE(queries, keys)                                                                                      \
    case queries:                                                                                                      \
        for (; key + (keys) <= end; key += (keys)) score_tile(state, first, key, head_dim, n_ahead, queries, keys);    \
        for (; key < end; ++key) score_tile(state, first, key, head_dim, n_ahead, queries, 1);                         \
        break

static inline void score_group(struct softmax_state *state, int32_t first, int32_t n_queries, int32_t key, int32_t end,
                               int32_t head_dim, int32_t n_ahead) {
    switch (n_queries) {
        SCORE_CASE(1, 4);
        SCORE_CASE(2, 4);
#if LANES == 16 // 32 registers
        SCORE_CASE(3, 4);
        SCORE_CASE(4, 4);
        SCORE_CASE(5, 4);
#else // 16 registers
        SCORE_CASE(3, 2);
        SCORE_CASE(4, 2);
        SCORE_CASE(5, 2);
#endif
    }
}

/* All scores of the tile; meanwhile its values are fetched. */
static inline void scores(struct softmax_state *state, int32_t n_queries, int32_t head_dim) {
    int32_t n_positions = state->tile.n_positions;
    for (int32_t key = 0; key < n_positions; key += KEY_RUN) {
        int32_t end = key + KEY_RUN < n_positions ? key + KEY_RUN : n_positions;
        for (int32_t group = 0; group < count_groups(n_queries, QUERY_GROUP); ++group) {
            int32_t first = group_start(n_queries, QUERY_GROUP, group);
            int32_t n_ahead = n_queries <= FEW_QUERIES && group == 0 ? n_positions : 0;
            score_group(state, first, group_start(n_queries, QUERY_GROUP, group + 1) - first, key, end, head_dim,
                        n_ahead);
        }
    }
}

/* Turns one query's scores into weights and moves its maximum, to which the sums so far are corrected. */
static inline void soften(struct softmax_state *state, int32_t q, int32_t n_visible, int32_t head_dim) {
    float *weights = state->weights[q];
    if (n_visible <= 0) {
        memset(weights, 0, sizeof state->weights[q]);
        return;
    }
    for (int32_t j = n_visible; j < ATTENTION_TILE; ++j) weights[j] = -INFINITY;
    vec largest = vec_load(weights);
    for (int32_t j = LANES; j < ATTENTION_TILE; j += LANES) largest = vec_max(largest, vec_load(weights + j));
    float max = vec_largest(largest) > state->max[q] ? vec_largest(largest) : state->max[q];
    vec sum = {0};
    for (int32_t j = 0; j < ATTENTION_TILE; j += LANES) vec_store(weights + j, vec_exp(vec_load(weights + j) - max));
    for (int32_t j = n_visible; j < ATTENTION_TILE; ++j) weights[j] = 0;
    for (int32_t j = 0; j < ATTENTION_TILE; j += LANES) sum += vec_load(weights + j);
    if (max != state->max[q]) {
        float correction = vec_exp(vec_all(state->max[q] - max))[0]; // the sums are 0 when there was no maximum yet
        for (int32_t d = 0; d < head_dim; d += LANES)
            vec_store(&state->sums[q][d], vec_load(&state->sums[q][d]) * correction);
        state->total[q] *= correction;
        state->max[q] = max;
    }
    state->total[q] += vec_sum(sum);
}

/* sums += weights · V over positions [start, end), for n_queries x n_vecs vectors from column d. Meanwhile the first
 * n_ahead keys of the next tile are fetched. */
ALWAYS_INLINE void add_values_tile(struct softmax_state *state, int32_t first, int32_t d, int32_t start, int32_t end,
                                   int32_t n_ahead, int n_queries, int n_vecs) {
    vec sums[QUERY_GROUP * VALUE_VECS];
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v) sums[q * n_vecs + v] = vec_load(&state->sums[first + q][d + v * LANES]);
    for (int32_t j = start; j < end; ++j) {
        const float *value = state->tile.values[j] + d;
        vec row[4];
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v) {
            row[v] = vec_load(value + v * LANES);
            HOLD(row[v]);
            fetch_row(state->next.keys, j, n_ahead, d + v * LANES);
        }
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; ++q) {
            vec weight = vec_all(state->weights[first + q][j]);
            HOLD(weight);
#pragma GCC unroll 4
            for (int v = 0; v < n_vecs; ++v) sums[q * n_vecs + v] = vec_fma(weight, row[v], sums[q * n_vecs + v]);
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; ++v) vec_store(&state->sums[first + q][d + v * LANES], sums[q * n_vecs + v]);
}

#define VALUES_CASE(queries)                                                                                           \
    case queries:                                                                                                      \
        add_values_tile(state, first, d, start, end, n_ahead, queries, n_vecs);                                        \
        break

ALWAYS_INLINE void add_values_columns(struct softmax_state *state, int32_t n_queries, int32_t d, int32_t start,
                                      int32_t end, int n_vecs) {
    for (int32_t group = 0; group < count_groups(n_queries, QUERY_GROUP); ++group) {
        int32_t first = group_start(n_queries, QUERY_GROUP, group);
        int32_t n_ahead = n_queries <= FEW_QUERIES && group == 0 ? state->next.n_positions : 0;
        switch (group_start(n_queries, QUERY_GROUP, group + 1) - first) {
            VALUES_CASE(1);
            VALUES_CASE(2);
            VALUES_CASE(3);
            VALUES_CASE(4);
            VALUES_CASE(5);
        }
    }
}

/* Adds all values of the tile; meanwhile the keys of the tile that comes next are fetched. */
static inline void add_values(struct softmax_state *state, int32_t n_queries, int32_t head_dim) {
    int32_t n_positions = state->tile.n_positions;
    for (int32_t start = 0; start < n_positions; start += VALUE_RUN) {
        int32_t end = start + VALUE_RUN < n_positions ? start + VALUE_RUN : n_positions, d = 0;
        for (; d + VALUE_VECS * LANES <= head_dim; d += VALUE_VECS * LANES)
            add_values_columns(state, n_queries, d, start, end, VALUE_VECS);
        for (; d < head_dim; d += LANES) add_values_columns(state, n_queries, d, start, end, 1);
    }
}

static inline void attend(const struct attend_job *job) {
    struct softmax_state state;
    int32_t n_queries = job->n_queries, head_dim = job->head_dim;
    float *packed_query = state.queries;
    for (int32_t group = 0; group < count_groups(n_queries, QUERY_GROUP); ++group)
        for (int32_t d = 0; d < head_dim; d += LANES)
            for (int32_t q = group_start(n_queries, QUERY_GROUP, group);
                 q < group_start(n_queries, QUERY_GROUP, group + 1); ++q, packed_query += LANES)
                vec_store(packed_query, vec_load(job->queries[q] + d) * job->scale);
    for (int32_t q = 0; q < n_queries; ++q) {
        state.max[q] = -INFINITY;
        state.total[q] = 0;
        memset(state.sums[q], 0, (size_t)head_dim * sizeof(float));
    }
    int32_t n_visible = job->n_visible[n_queries - 1];
    find_tile(&state.tile, job, job->keys, 0);
    for (int32_t start = 0; start < n_visible; start += ATTENTION_TILE) {
        int32_t next = start + ATTENTION_TILE;
        find_tile(&state.next, job, next < n_visible ? job->keys : job->next_keys, next < n_visible ? next : 0);
        scores(&state, n_queries, head_dim);
        for (int32_t q = 0; q < n_queries; ++q) {
            int32_t visible = job->n_visible[q] - start, n_positions = state.tile.n_positions;
            soften(&state, q, visible < n_positions ? visible : n_positions, head_dim);
        }
        add_values(&state, n_queries, head_dim);
        memcpy(&state.tile, &state.next, sizeof state.tile);
    }
    for (int32_t q = 0; q < n_queries; ++q) {
        float inverse = 1.0f / state.total[q];
        for (int32_t d = 0; d < head_dim; d += LANES) vec_store(job->out[q] + d, vec_load(&state.sums[q][d]) * inverse);
    }
}

#endif
