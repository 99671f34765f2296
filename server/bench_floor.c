#include "server/bench_floor.h"

enum { BF16_BYTES = 2 };

static double layer_matrices(const struct model_shape *shape) {
    double attention = (double)shape_qkv_columns(shape) + shape_q_columns(shape); // qkv, output
    return shape->hidden * (attention + 3.0 * shape->intermediate);               // gate, up, down
}

double bench_floor_weight_bytes(const struct model_shape *shape) {
    double norms = 2.0 * shape->hidden + 2.0 * shape->head_dim;
    double layers = shape->n_layers * (layer_matrices(shape) + norms);
    double head = shape->hidden * (1.0 + shape->vocab); // final norm, LM head
    return BF16_BYTES * (layers + head);
}

double bench_floor_prompt_operations(const struct model_shape *shape, int32_t n_prompt) {
    double seen = (double)n_prompt * (n_prompt + 1.0) / 2; // by all tokens together
    double products = 2 * layer_matrices(shape) * n_prompt;
    double attention = 4.0 * shape_q_columns(shape) * seen;
    return shape->n_layers * (products + attention) + 2.0 * shape->hidden * shape->vocab;
}
