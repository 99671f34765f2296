/* Everything one step needs, in one struct that every op takes first.
 *
 * context_prepare turns the scheduler's choice into device arrays; the ops of that step all read the same positions,
 * slots, lengths and block tables. There is no other way to tell an op what to compute, so a fused projection and the
 * attention after it cannot disagree. Addresses and strides never change after context_create. One context per rank. */
#ifndef QUERN_ENGINE_CONTEXT_H
#define QUERN_ENGINE_CONTEXT_H

#include "engine/error.h"
#include "engine/model_shape.h"
#include "engine/sampling.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backend_ops;
struct device;

/* One row of logits to compute and sample. */
struct sample_row {
    struct sampling_params params;
    int32_t row;      // in [0, n_rows)
    int32_t position; // of the token that is sampled: keys its randomness
    int32_t n_scores; // 0: none; n: of the token and of the n - 1 likeliest, at most 1 + SAMPLING_MAX_TOP
    int32_t seat;     // 0: nothing is adjusted; n: by seat n - 1
    int32_t mask;     // 0: any token; n: those of mask n - 1
    int32_t target;   // 0: scores are of the token that is sampled; n: of token n - 1
};

/* A sequence's rows whose states are averaged, in the order of their positions, over as many steps as they take. */
struct pool_rows {
    int32_t first;    // row, in [0, n_rows)
    int32_t n_rows;   // at least 1
    int32_t n_before; // of the same sequence, added up by earlier steps; 0: the sum begins here
    int32_t sum;      // the place of the sum, in [0, max_seqs)
    int32_t result;   // 0: more is to come; n: the mean goes to pooled[n - 1]
};

/* What one step runs: rows are the tokens computed, grouped by sequence. Arrays at fixed addresses: one set for steps
 * of at most max_seqs rows, which a decode step always is, and one for the others; block_tables belong to both. A
 * decode step may be padded to the size of a recording: its last rows then are sequences of length 0, whose K and V go
 * nowhere and whose results nobody reads. */
struct batch {
    int32_t n_rows;
    int32_t n_seqs;
    int32_t n_decode;      // sequences [0, n_decode) have one row each; the rest are prefill chunks
    int32_t n_samples;     // rows with logits: of sequences whose last token is in this step, then prompt rows
    int32_t n_scored;      // of these, the samples that want scores
    int32_t n_adjusted;    // of these, the samples that have a seat or a mask
    int32_t n_pools;       // sequences whose states are averaged; 0 in a decode step
    int32_t n_pooled;      // of these, the ones whose mean is complete
    int32_t max_kv_len;    // largest of kv_lens
    int32_t max_query_len; // largest chunk
    int32_t *tokens;       // [n_rows] ids, or -1 - i: what the step before left in sampled[i]
    int32_t *positions;    // [n_rows]
    int32_t *kv_slots;     // [n_rows] block * block_size + offset: where the row's K and V are written; -1: nowhere
    int32_t *row_seqs;     // [n_rows] the row's sequence in this batch
    int32_t *query_starts; // [n_seqs + 1] first row of each sequence
    int32_t *kv_lens;      // [n_seqs] tokens visible after this step; the last row of sequence s is at kv_lens[s] - 1
    int32_t *block_tables; // [n_seqs][max_blocks] of stride max_blocks
    struct sample_row *samples; // [n_samples]
    struct pool_rows *pools;    // [n_pools], at most one of each sequence
};

/* Keys and values of all sequences, in blocks of block_size tokens.
 * data: [n_layers][2: K, V][n_blocks][n_kv_heads][block_size][head_dim] of the backend's kv_dtype. */
struct kv_cache {
    void *data; // owned, device memory
    size_t bytes;
    enum dtype dtype;
    int32_t n_blocks;
    int32_t block_size;
};

/* Activations of one step, sized for the largest. `act` is the backend's activation_dtype. Of several ranks each has
 * its own heads and columns, and the first alone samples. */
struct scratch {
    float *hidden;               // [max_rows][hidden] the residual stream
    void *normed;                // act [max_rows][hidden]
    void *qkv;                   // act or float32 [max_rows][qkv_columns] before QK-norm
    void *q;                     // act [max_rows][n_heads][head_dim] after QK-norm and RoPE
    void *attention;             // act [max_rows][n_heads][head_dim]
    void *gate_up;               // act [max_rows][2*intermediate]
    void *activated;             // act [max_rows][shape_activated_columns] silu(gate) * up
    float *logits;               // [max_seqs][vocab] row i belongs to samples[i]; on the first rank alone
    float *adjusted;             // the same: what is sampled from where samples[i] has a seat or a mask
    int32_t *sampled;            // [max_seqs] token ids, or SAMPLED_NOT_FINITE
    struct token_scores *scores; // [max_seqs] of sampled, where samples[i] wants them
    float *pooled;               // [max_seqs][hidden] means of states, where a pool has its result
    float *row_scales;           // [max_rows] 1 / rms of each row of hidden, while an op runs
    void *workspace;             // backend-private, ops->workspace_bytes
    size_t workspace_bytes;
};

/* What the sampling of a sequence looks at beside its logits. Stays from step to step: the host writes a seat when a
 * sequence takes it, the device counts what it samples. Masks are those of one step. */
struct sampling_memory {
    struct sampling_seat *seats; // [max_seqs]
    uint16_t *counts;            // [max_seqs][vocab] of the seats with penalties
    uint32_t *masks;             // [max_seqs][sampling_mask_words]
};

struct context_limits {
    int32_t max_rows;   // tokens in one step
    int32_t max_seqs;   // sequences in one step
    int32_t max_blocks; // blocks of one sequence
    int32_t block_size;
    int32_t n_blocks; // in the pool
};

/* What a row of block_tables holds: the first n_blocks of the table of that name. */
struct table_row {
    uint64_t table;
    int32_t n_blocks;
};

struct context {
    const struct backend_ops *ops;   // borrowed
    const struct model_shape *shape; // borrowed
    struct device *device;           // borrowed; backend-private: stream, handles, threads
    struct context_limits limits;
    struct kv_cache kv;              // owned
    struct recordings *recordings;   // owned, backend-private: recorded steps, or NULL
    struct scratch scratch;          // owned
    struct sampling_memory sampling; // owned
    float *pool_sums;                // [max_seqs][hidden] of states, owned; stays from step to step
    struct batch batch;              // device arrays; valid from context_prepare to the next
    struct batch host;               // the same in host memory
    void *device_memory;             // owned: batch and scratch
    void *host_memory[2];            // owned, pinned where the backend has that; in turn: one may still be on its way
    struct table_row *host_rows[2];  // [max_seqs] of the tables in host_memory; part of device_rows
    struct table_row *device_rows;   // [max_seqs] of those on the device, owned
    int32_t turn;                    // whose host_memory host is
};

/* Device bytes for scratch and batch arrays, and for the KV cache, of a context with these limits. */
size_t context_scratch_bytes(const struct backend_ops *ops, const struct model_shape *shape,
                             const struct context_limits *limits);
size_t context_kv_block_bytes(const struct backend_ops *ops, const struct model_shape *shape, int32_t block_size);

struct context *context_create(const struct backend_ops *ops, struct device *device, const struct model_shape *shape,
                               const struct context_limits *limits, struct error *err);
void context_destroy(struct context *ctx);

/* One sequence's part of a step: n_rows tokens from position start. */
struct batch_sequence {
    const int32_t *tokens; // [n_rows] as in struct batch
    int32_t start;
    int32_t n_rows;
    const int32_t *blocks; // [n_blocks] covering positions [0, start + n_rows)
    int32_t n_blocks;
    uint64_t table;   // names blocks: they only grow while it stays the same; 0: no such promise
    bool sample;      // the last row's logits are wanted
    bool pools;       // the mean of the states pooled so far is wanted; seat, then, is the place of their sum
    int32_t n_scores; // this and the next two as in struct sample_row
    int32_t seat;
    int32_t mask;
    struct sampling_params sampling;
    int32_t n_scored_rows;   // the first rows, of which the next token, tokens[row + 1], is scored
    int32_t n_prompt_scores; // for each of these, as n_scores
    int32_t n_pooled_rows;   // the last rows, whose states are averaged with those of
    int32_t n_pooled_before; // so many rows of earlier steps
};

/* Sequences of one row come first, then chunks. Asserts the limits: the scheduler keeps them. A step that a recording
 * serves is padded to it; counts are then those of the recording. The step before may still be on the device; the one
 * before that must be over, for its host arrays are filled anew. */
bool context_prepare(struct context *ctx, const struct batch_sequence *seqs, int32_t n_seqs, struct error *err);

/* Does this rank's attention_output and mlp add to hidden? See struct backend_ops. */
static inline bool context_adds(const struct context *ctx) {
    return ctx->shape->slice.rank == 0;
}

/* Where lm_head leaves this rank's columns of the logits, [n_samples][shape_vocab_part]: where nothing is left to
 * gather in logits, else in adjusted, which is not needed until they are gathered. */
static inline float *context_logits_part(const struct context *ctx) {
    return shape_is_whole(ctx->shape) ? ctx->scratch.logits : ctx->scratch.adjusted;
}

/* ctx->batch gets the arrays of decode steps, and no counts: those are record_begin's. */
void context_prepare_recording(struct context *ctx);

/* Where one layer's K or V begins; index by kv_offset. */
static inline size_t kv_plane_elements(const struct context *ctx) {
    return (size_t)ctx->kv.n_blocks * (size_t)ctx->shape->n_kv_heads * (size_t)ctx->kv.block_size *
           (size_t)ctx->shape->head_dim;
}
static inline void *kv_keys(const struct context *ctx, int32_t layer) {
    return (char *)ctx->kv.data + (size_t)(2 * layer) * kv_plane_elements(ctx) * dtype_bytes(ctx->kv.dtype);
}
static inline void *kv_values(const struct context *ctx, int32_t layer) {
    return (char *)ctx->kv.data + (size_t)(2 * layer + 1) * kv_plane_elements(ctx) * dtype_bytes(ctx->kv.dtype);
}

#ifdef __cplusplus
}
#endif
#endif
