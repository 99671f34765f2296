/* The dimensions of a Qwen3 model: all that a kernel may know of it. Plain data, set once by model_config. */
#ifndef QUERN_ENGINE_MODEL_SHAPE_H
#define QUERN_ENGINE_MODEL_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_BF16, DTYPE_F16, DTYPE_F32 };

static inline size_t dtype_bytes(enum dtype dtype) {
    return dtype == DTYPE_F32 ? 4 : 2;
}

/* Upper limits: far above any published model. */
#define MODEL_MAX_LAYERS         1024
#define MODEL_MAX_EXPERTS        512
#define MODEL_MAX_ACTIVE_EXPERTS 32

/* Which part of a model: that of one rank of several that compute it together. All zero: the whole of it. */
struct slice {
    int32_t rank;
    int32_t n_ranks; // 0 as 1
};

struct model_shape {
    struct slice slice; // whose heads, KV heads and intermediate columns these are; see engine/slice.h
    int32_t n_layers;
    int32_t hidden;
    int32_t n_heads;      // query heads
    int32_t n_kv_heads;   // divides n_heads
    int32_t head_dim;     // from the config, not hidden / n_heads
    int32_t intermediate; // of the SwiGLU MLP
    int32_t vocab;
    int32_t max_positions;
    float rms_eps;
    float rope_theta;
    bool tied_embeddings; // the LM head is the embedding table

    /* Mixture of experts: in the place of one MLP n_experts smaller ones, of which a router chooses for each row. */
    int32_t n_experts;                            // 0: every layer has the one MLP
    int32_t n_active_experts;                     // that a row is computed by
    int32_t expert_intermediate;                  // of each
    bool normalised_experts;                      // the weights of a row's experts add up to 1
    uint32_t dense_layers[MODEL_MAX_LAYERS / 32]; // bit of a layer: it has the one MLP all the same
};

static inline bool shape_has_experts(const struct model_shape *shape, int32_t layer) {
    return shape->n_experts > 0 && !(shape->dense_layers[layer / 32] >> layer % 32 & 1);
}

/* Activated values of a row, in whichever layer has most of them. */
static inline int32_t shape_activated_columns(const struct model_shape *shape) {
    int32_t of_experts = shape->n_active_experts * shape->expert_intermediate;
    return of_experts > shape->intermediate ? of_experts : shape->intermediate;
}

/* Columns of the joined QKV projection: all query heads, then K heads, then V heads. */
static inline int32_t shape_q_columns(const struct model_shape *shape) {
    return shape->n_heads * shape->head_dim;
}
static inline int32_t shape_kv_columns(const struct model_shape *shape) {
    return shape->n_kv_heads * shape->head_dim;
}
static inline int32_t shape_qkv_columns(const struct model_shape *shape) {
    return shape_q_columns(shape) + 2 * shape_kv_columns(shape);
}

static inline bool shape_is_whole(const struct model_shape *shape) {
    return shape->slice.n_ranks <= 1;
}

/* Rows of the LM head that come before those of a rank: parts of multiples of 8 (CUDA's products take no other) as
 * equal as can be, the last one with what is left. So the vocabulary need be no multiple of the number of ranks. */
static inline int32_t shape_vocab_before(const struct model_shape *shape, int32_t rank) {
    int32_t n_ranks = shape_is_whole(shape) ? 1 : shape->slice.n_ranks;
    int32_t before = (shape->vocab + 7) / 8 * rank / n_ranks * 8;
    return before < shape->vocab ? before : shape->vocab;
}
static inline int32_t shape_vocab_first(const struct model_shape *shape) {
    return shape_vocab_before(shape, shape->slice.rank);
}
static inline int32_t shape_vocab_part(const struct model_shape *shape) {
    return shape_vocab_before(shape, shape->slice.rank + 1) - shape_vocab_first(shape);
}

#endif
