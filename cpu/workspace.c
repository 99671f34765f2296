#include "cpu/device.h"
#include "engine/arena.h"

static size_t padded_inputs(const struct model_shape *shape) {
    int32_t most = shape->hidden > shape->intermediate ? shape->hidden : shape->intermediate;
    if (most < shape_q_columns(shape)) most = shape_q_columns(shape);
    return (size_t)(most + PACK_STEP - 1) / PACK_STEP * PACK_STEP;
}

struct workspace workspace_at(void *base, const struct model_shape *shape, const struct context_limits *limits) {
    size_t rows = (size_t)limits->max_rows, seqs = (size_t)limits->max_seqs, half = (size_t)shape->head_dim / 2;
    size_t queries = rows * (size_t)(shape->n_heads / shape->n_kv_heads);
    struct workspace workspace = {0};
    struct arena forward = {.base = base};
    workspace.packed = arena_take(&forward, rows * padded_inputs(shape), sizeof(float));
    workspace.cosines = arena_take(&forward, rows * half, sizeof(float));
    workspace.sines = arena_take(&forward, rows * half, sizeof(float));
    /* Each sequence ends with an item that may not be full. */
    workspace.items = arena_take(&forward, queries / MAX_QUERIES + seqs, sizeof *workspace.items);
    struct arena sampling = {.base = base}; // runs when the others have done their work
    for (int32_t lane = 0; lane < SAMPLE_LANES && lane < limits->max_seqs; ++lane)
        workspace.candidates[lane] = arena_take(&sampling, (size_t)shape->vocab + 1, sizeof(struct candidate));
    workspace.bytes = forward.used > sampling.used ? forward.used : sampling.used;
    return workspace;
}
