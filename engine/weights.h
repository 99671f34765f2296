/* The parameters of one model, or of one rank's part, on one device: bf16 matrices [outputs][inputs], row-major, in one
 * allocation. Shapes below are those of the part.
 *
 * weights_load reads safetensors (one file or sharded by index), checks every shape against the config by name,
 * converts f16 and f32 to bf16, joins q, k, v and gate, up, and the experts of a layer. weights_dummy fills the same
 * layout from a seed. */
#ifndef QUERN_ENGINE_WEIGHTS_H
#define QUERN_ENGINE_WEIGHTS_H

#include "engine/error.h"
#include "engine/model_shape.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backend_ops;
struct device;
struct log;

/* Device pointers into weights.data. */
struct layer_weights {
    const uint16_t *input_norm;          // [hidden]
    const uint16_t *qkv;                 // [n_heads*head_dim + 2*n_kv_heads*head_dim][hidden]: q rows, k rows, v rows
    const uint16_t *q_norm;              // [head_dim]
    const uint16_t *k_norm;              // [head_dim]
    const uint16_t *attention_output;    // [hidden][n_heads*head_dim]
    const uint16_t *post_attention_norm; // [hidden]
    const uint16_t *router;              // [n_experts][hidden]; NULL: the layer has the one MLP
    const uint16_t *gate_up;             // [2*intermediate][hidden]: gate rows, then up rows
    const uint16_t *down;                // [hidden][intermediate]
                                         // with a router: [n_experts] of both, with expert_intermediate
};

struct weights {
    const struct backend_ops *ops; // borrowed
    struct device *device;         // borrowed
    void *data;                    // owned, device memory
    size_t bytes;
    struct layer_weights *layers; // [n_layers], owned
    const uint16_t *embedding;    // [vocab][hidden]
    const uint16_t *final_norm;   // [hidden]
    const uint16_t *lm_head;      // [vocab part][hidden]; part of embedding when tied
};

/* Device bytes that weights of this shape, whole or a rank's, take, for the memory plan; nothing is allocated. */
size_t weights_bytes(const struct model_shape *shape);

struct weights_source {
    const struct backend_ops *ops;
    struct device *device;
    const struct model_shape *shape; // of the whole model
    struct slice slice;              // which part of it
    const char *folder; // with model.safetensors or model.safetensors.index.json; NULL: dummy weights from seed
    uint64_t seed;
    struct log *log; // progress: GB, GB/s, share
};

/* Fills weights, which weights_finish releases, also after a failure. */
bool weights_init(struct weights *weights, const struct weights_source *source, struct error *err);
void weights_finish(struct weights *weights);

#ifdef __cplusplus
}
#endif
#endif
