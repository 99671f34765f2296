#include "cpu/device.h"
#include "engine/arena.h"

static size_t padded(int32_t inputs) {
    return (size_t)(inputs + PACK_STEP - 1) / PACK_STEP * PACK_STEP;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Of a row, with all its experts. */
static size_t padded_inputs(const struct model_shape *shape) {
    size_t n_pairs = (size_t)shape->n_active_experts;
    size_t most = larger(padded(shape->hidden), padded(shape->intermediate));
    most = larger(most, padded(shape_q_columns(shape)));
    return larger(most, n_pairs * larger(padded(shape->hidden), padded(shape->expert_intermediate)));
}

static struct routing place_routing(struct arena *arena, const struct model_shape *shape, size_t rows) {
    size_t pairs = rows * (size_t)shape->n_active_experts, experts = (size_t)shape->n_experts;
    struct routing routing = {0};
    if (experts == 0) return routing;
    routing.experts = arena_take(arena, pairs, sizeof *routing.experts);
    routing.weights = arena_take(arena, pairs, sizeof *routing.weights);
    routing.places = arena_take(arena, pairs, sizeof *routing.places);
    routing.rows = arena_take(arena, pairs, sizeof *routing.rows);
    routing.starts = arena_take(arena, experts + 1, sizeof *routing.starts);
    routing.chunks = arena_take(arena, experts + 1, sizeof *routing.chunks);
    routing.outputs = arena_take(arena, pairs * (size_t)shape->hidden, sizeof *routing.outputs);
    return routing;
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
    workspace.routing = place_routing(&forward, shape, rows);
    struct arena sampling = {.base = base}; // runs when the others have done their work
    for (int32_t lane = 0; lane < SAMPLE_LANES && lane < limits->max_seqs; ++lane)
        workspace.candidates[lane] = arena_take(&sampling, (size_t)shape->vocab + 1, sizeof(struct candidate));
    workspace.bytes = forward.used > sampling.used ? forward.used : sampling.used;
    return workspace;
}
