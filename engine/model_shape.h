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

struct model_shape {
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
};

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

#endif
