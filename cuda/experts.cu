/* mlp of a layer with experts: which kernels, and the small ones between them. */
#include "cuda/experts.cuh"

#include "cuda/launch.cuh"
#include "cuda/math.cuh"
#include "cuda/ops.cuh"
#include "engine/arena.h"

#include <assert.h>

#define ROW_THREADS 256

struct expert_routing expert_routing_at(void *base, const struct model_shape *shape, int32_t max_rows) {
    struct expert_routing routing = {};
    if (shape->n_experts == 0) return routing;
    struct arena arena = {(char *)base, 0};
    size_t pairs = (size_t)max_rows * (size_t)shape->n_active_experts, hidden = (size_t)shape->hidden;
    routing.experts = (int32_t *)arena_take(&arena, pairs, sizeof *routing.experts);
    routing.weights = (float *)arena_take(&arena, pairs, sizeof *routing.weights);
    routing.places = (int32_t *)arena_take(&arena, pairs, sizeof *routing.places);
    routing.rows = (int32_t *)arena_take(&arena, pairs, sizeof *routing.rows);
    routing.active = (struct expert_rows *)arena_take(&arena, (size_t)shape->n_experts, sizeof *routing.active);
    routing.tiles =
        (struct expert_rows *)arena_take(&arena, (size_t)count_expert_tiles(shape, max_rows), sizeof *routing.tiles);
    routing.starts = (int32_t *)arena_take(&arena, (size_t)shape->n_experts, sizeof *routing.starts);
    routing.counts = (int32_t *)arena_take(&arena, 3, sizeof *routing.counts);
    if (max_rows > EXPERTS_FEW_ROWS) {
        routing.gathered = (uint16_t *)arena_take(&arena, pairs * hidden, sizeof *routing.gathered);
        routing.outputs = (float *)arena_take(&arena, pairs * hidden, sizeof *routing.outputs);
    }
    routing.bytes = arena.used;
    return routing;
}

/* Grid (pairs): each goes to its place. Moves 4 * hidden bytes. */
__global__ static void __launch_bounds__(ROW_THREADS)
    gather_kernel(const struct expert_routing routing, const uint16_t *normed, int32_t hidden, int32_t n_active) {
    let_next_begin();
    wait_for_previous();
    int32_t pair = (int32_t)blockIdx.x, expert = routing.experts[pair];
    if (expert < 0) return;
    int32_t place = routing.starts[expert] + routing.places[pair];
    __syncthreads(); // all have read it
    if (threadIdx.x == 0) routing.places[pair] = place;
    const uint4 *from = (const uint4 *)(normed + (size_t)(pair / n_active) * hidden);
    uint4 *to = (uint4 *)(routing.gathered + (size_t)place * hidden);
    for (int32_t i = (int32_t)threadIdx.x; i < hidden / 8; i += ROW_THREADS) to[i] = from[i];
}

/* Grid (rows). x, or 0 where nothing is added to it, += the sum of weight * output, by falling weight. Moves 4 * hidden
 * bytes for each expert, and 8. */
__global__ static void __launch_bounds__(ROW_THREADS)
    add_experts_kernel(const struct expert_routing routing, float *x, int32_t hidden, int32_t n_active, bool adds) {
    __shared__ const float4 *outputs[MODEL_MAX_ACTIVE_EXPERTS];
    __shared__ float weights[MODEL_MAX_ACTIVE_EXPERTS];
    let_next_begin();
    wait_for_previous();
    int32_t k = (int32_t)threadIdx.x, pair = (int32_t)blockIdx.x * n_active + k;
    if (k < n_active) {
        int32_t place = routing.places[pair];
        outputs[k] = place < 0 ? NULL : (const float4 *)(routing.outputs + (size_t)place * hidden);
        weights[k] = routing.weights[pair];
    }
    __syncthreads();
    if (!outputs[0]) n_active = 0; // of no sequence
    float4 *row = (float4 *)(x + (size_t)blockIdx.x * hidden);
    for (int32_t i = (int32_t)threadIdx.x; i < hidden / 4; i += ROW_THREADS) {
        float4 sum = make_float4(0, 0, 0, 0), old = adds ? row[i] : sum;
#pragma unroll 8
        for (int32_t of = 0; of < n_active; ++of) {
            float4 output = __ldcs(outputs[of] + i);
            sum.x += weights[of] * output.x;
            sum.y += weights[of] * output.y;
            sum.z += weights[of] * output.z;
            sum.w += weights[of] * output.w;
        }
        row[i] = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
    }
}

static bool run_many(const struct context *ctx, const struct layer_weights *weights,
                     const struct expert_routing *routing, struct error *err) {
    int32_t n_rows = ctx->batch.n_rows, hidden = ctx->shape->hidden, n_active = ctx->shape->n_active_experts;
    struct launch of_pairs = {dim3((unsigned)(n_rows * n_active)), dim3(ROW_THREADS)};
    struct launch of_rows = {dim3((unsigned)n_rows), dim3(ROW_THREADS)};
    return route_rows(ctx, weights, {0, n_rows}, routing, err) &&
           launch_kernel(ctx->device, of_pairs, gather_kernel, err, *routing, (const uint16_t *)ctx->scratch.normed,
                         hidden, n_active) &&
           experts_many(ctx, weights, routing, err) &&
           launch_kernel(ctx->device, of_rows, add_experts_kernel, err, *routing, ctx->scratch.hidden, hidden, n_active,
                         context_adds(ctx));
}

bool cuda_experts(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct expert_routing routing = expert_routing_at(ctx->scratch.workspace, ctx->shape, ctx->limits.max_rows);
    assert(routing.bytes <= ctx->scratch.workspace_bytes);
    int32_t n_rows = ctx->batch.n_rows, few = experts_few_rows(ctx->device, ctx->shape);
    if (n_rows > few && ctx->device->encode_map) return run_many(ctx, of_layer, &routing, err);
    for (int32_t first = 0; first < n_rows; first += few) {
        struct row_range range = {first, n_rows - first < few ? n_rows - first : few};
        if (!route_rows(ctx, of_layer, range, &routing, err) || !experts_few(ctx, of_layer, range, &routing, err))
            return false;
    }
    return true;
}

bool experts_configure(struct device *device, struct error *err) {
    size_t bytes = (1 + MODEL_MAX_EXPERTS) * sizeof *device->route_arrivals;
    CUDA_TRY(cudaMalloc((void **)&device->route_arrivals, bytes), err);
    CUDA_TRY(cudaMemsetAsync(device->route_arrivals, 0, bytes, device->stream), err);
    return experts_few_configure(device, err) && experts_many_configure(device, err);
}
