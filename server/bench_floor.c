#include "server/bench_floor.h"

#include <math.h>

enum { BF16_BYTES = 2 };

/* Experts of a layer that at least one of so many rows is sent to. */
static double touched_experts(const struct model_shape *shape, double n_rows) {
    double share = (double)shape->n_active_experts / shape->n_experts;
    return shape->n_experts * (1 - pow(1 - share, n_rows));
}

/* Weights in the matrices of all layers, of each that has experts so many of them. */
static double layer_matrices(const struct model_shape *shape, double n_experts) {
    double columns = 0;
    for (int32_t layer = 0; layer < shape->n_layers; ++layer) {
        columns += (double)shape_qkv_columns(shape) + shape_q_columns(shape); // qkv, output
        columns += shape_has_experts(shape, layer) ? shape->n_experts + 3.0 * shape->expert_intermediate * n_experts
                                                   : 3.0 * shape->intermediate; // gate, up, down
    }
    return shape->hidden * columns;
}

double bench_floor_weight_bytes(const struct model_shape *shape, double n_rows) {
    double norms = 2.0 * shape->hidden + 2.0 * shape->head_dim;
    double touched = shape->n_experts > 0 ? touched_experts(shape, n_rows) : 0;
    double layers = layer_matrices(shape, touched) + shape->n_layers * norms;
    double head = shape->hidden * (1.0 + shape->vocab); // final norm, LM head
    return BF16_BYTES * (layers + head);
}

double bench_floor_prompt_operations(const struct model_shape *shape, int32_t n_prompt) {
    double seen = (double)n_prompt * (n_prompt + 1.0) / 2; // by all tokens together
    double products = 2 * layer_matrices(shape, shape->n_active_experts) * n_prompt;
    double attention = 4.0 * shape_q_columns(shape) * seen * shape->n_layers;
    return products + attention + 2.0 * shape->hidden * shape->vocab;
}
