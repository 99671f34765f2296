/* The MLP of a layer with experts: a router sends each row to a few of them, and no copy to the host tells which.
 *
 * A pair is a row with one of its experts, number row * n_active_experts + k, the k-th by falling weight. Pairs are
 * computed in places, in the order of their experts. Where in its expert's places a pair lies is left to chance: what
 * is computed of it does not depend on that. A row adds its experts up by falling weight. Rows of a padded step that
 * belong to no sequence have no pairs. */
#ifndef QUERN_CUDA_EXPERTS_CUH
#define QUERN_CUDA_EXPERTS_CUH

#include "cuda/device.cuh"

#define EXPERTS_FEW_ROWS  32  // up to here each expert's weights pass by its rows
#define EXPERTS_TILE_ROWS 192 // of one expert, beyond: 2,048 rows send 128 +- 11 to each of 128 experts

/* Pairs of one expert that lie together. */
struct expert_rows {
    int32_t expert, first, count, unused; // first: place
};

/* In scratch.workspace; written by route_rows, all but gathered and outputs. */
struct expert_routing {
    int32_t *experts;           // [pairs], -1: none
    float *weights;             // [pairs]
    int32_t *places;            // [pairs], -1: none; of many rows at first the number among those of the expert
    int32_t *rows;              // [places], of few rows
    struct expert_rows *active; // [counts[0]] the experts that have rows, ascending
    struct expert_rows *tiles;  // [counts[1]] the same in tiles of at most EXPERTS_TILE_ROWS
    int32_t *starts;            // [n_experts] first place of each
    int32_t *counts;            // [3] of active, of tiles, of places
    uint16_t *gathered;         // [places][hidden] normed rows, where rows are many
    float *outputs;             // [places][hidden] of experts, likewise
    size_t bytes;               // of all
};

/* With a NULL base only bytes has a meaning. */
struct expert_routing expert_routing_at(void *base, const struct model_shape *shape, int32_t max_rows);

/* The tiles that n_rows rows have at most. */
static inline int32_t count_expert_tiles(const struct model_shape *shape, int32_t n_rows) {
    return divide_up(n_rows * shape->n_active_experts, EXPERTS_TILE_ROWS) + shape->n_experts;
}

/* Rows [first, first + count) of the step. */
struct row_range {
    int32_t first, count;
};

/* scratch.normed of the rows, and their routing; row 0 there is the first of the range. */
bool route_rows(const struct context *ctx, const struct layer_weights *weights, struct row_range range,
                const struct expert_routing *routing, struct error *err);

/* Up to EXPERTS_FEW_ROWS rows, from normed to the residual stream. */
bool experts_few(const struct context *ctx, const struct layer_weights *weights, struct row_range range,
                 const struct expert_routing *routing, struct error *err);
int32_t experts_few_rows(const struct device *device, const struct model_shape *shape); // that one call takes
bool experts_few_configure(const struct device *device, struct error *err);

/* Any number of rows on wgmma, from gathered to outputs; where the device has it. */
bool experts_many(const struct context *ctx, const struct layer_weights *weights, const struct expert_routing *routing,
                  struct error *err);
bool experts_many_configure(const struct device *device, struct error *err);

bool cuda_experts(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool experts_configure(struct device *device, struct error *err); // after paged_prefill, which finds encode_map

#endif
