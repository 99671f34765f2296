/* The MLP of a layer with experts. Each row is sent to the few that its router chooses; then the pairs of row and
 * expert are computed expert by expert, so that the weights of each are read once, and those of the others not at all.
 * What an expert makes of a row does not depend on its other rows (cpu/isa.h), and a row adds its experts up by falling
 * weight: its bits do not depend on its company. */
#include "cpu/gemm.h"
#include "engine/weights.h"

#include <math.h>
#include <string.h>

struct experts_job {
    const struct context *ctx;
    const struct layer_weights *weights;
    struct workspace workspace;
};

/* ---- Routing ---- */

/* Exponentials in the place of logits; their sum. */
static float exponentials(float *logits, int32_t n) {
    float max = logits[0], sum = 0;
    for (int32_t e = 1; e < n; ++e) max = fmaxf(max, logits[e]);
    for (int32_t e = 0; e < n; ++e) sum += logits[e] = expf(logits[e] - max);
    return sum;
}

/* The first of the largest. Those that are taken are -1; a NaN that comes first is the largest. */
static int32_t largest_left(const float *values, int32_t n) {
    int32_t best = -1;
    for (int32_t e = 0; e < n; ++e) {
        if (values[e] < 0) continue;
        if (best < 0 || values[e] > values[best]) best = e;
    }
    return best;
}

static void route_row(void *argument, int32_t row) {
    const struct experts_job *job = argument;
    const struct model_shape *shape = job->ctx->shape;
    const struct isa *isa = job->ctx->device->isa;
    size_t hidden = (size_t)shape->hidden, first = (size_t)row * (size_t)shape->n_active_experts;
    const float *x = job->ctx->scratch.hidden + (size_t)row * hidden;
    float *normed = (float *)job->ctx->scratch.normed + (size_t)row * hidden;
    float scale = 1.0f / sqrtf(isa->sum_of_squares(x, shape->hidden) / (float)shape->hidden + shape->rms_eps);
    isa->scale_by(x, scale, job->weights->post_attention_norm, normed, shape->hidden);

    float values[MODEL_MAX_EXPERTS], chosen = 0;
    isa->dots(normed, job->weights->router, shape->hidden, values, shape->n_experts);
    float all = exponentials(values, shape->n_experts);
    int32_t *experts = job->workspace.routing.experts + first;
    float *weights = job->workspace.routing.weights + first;
    for (int32_t k = 0; k < shape->n_active_experts; ++k) {
        experts[k] = largest_left(values, shape->n_experts);
        weights[k] = values[experts[k]] / all;
        values[experts[k]] = -1;
        chosen += weights[k];
    }
    for (int32_t k = 0; k < shape->n_active_experts && shape->normalised_experts; ++k) weights[k] /= chosen;
}

/* Puts the pairs in the order of their experts, of one expert in the order of rows. */
static void sort_pairs(const struct routing *routing, const struct model_shape *shape, int32_t n_rows) {
    int32_t n_pairs = n_rows * shape->n_active_experts, *starts = routing->starts;
    memset(starts, 0, (size_t)(shape->n_experts + 1) * sizeof *starts);
    for (int32_t i = 0; i < n_pairs; ++i) starts[routing->experts[i] + 1]++;
    for (int32_t e = 0; e < shape->n_experts; ++e) starts[e + 1] += starts[e];
    for (int32_t i = 0; i < n_pairs; ++i) { // a start moves to its expert's end, which is the next one's start
        int32_t place = starts[routing->experts[i]]++;
        routing->places[i] = place;
        routing->rows[place] = i / shape->n_active_experts;
    }
    memmove(starts + 1, starts, (size_t)shape->n_experts * sizeof *starts);
    starts[0] = 0;
}

/* ---- Products ---- */

/* Rows of all experts times the matrix of each, in chunks: of the first expert, then of the next one … */
struct experts_product {
    struct gemm gemm; // of expert 0, with no rows
    const struct experts_job *job;
    int32_t n_outputs; // of chunks: half of the gemm's where gate and up go together
    void (*run)(const struct experts_product *product, const struct gemm *gemm, struct gemm_block *block,
                int32_t place);
};

static struct gemm gemm_of(const struct experts_product *product, int32_t expert) {
    const struct routing *routing = &product->job->workspace.routing;
    struct gemm gemm = product->gemm;
    int32_t first = routing->starts[expert];
    gemm.n_rows = routing->starts[expert + 1] - first;
    gemm.weights += (size_t)expert * (size_t)gemm.n_inputs * (size_t)gemm.n_outputs;
    gemm.packed = (const char *)gemm.packed + gemm_packed_offset(gemm.device->isa, first, gemm.n_inputs);
    return gemm;
}

static int32_t count_chunks(const struct experts_product *product) {
    int32_t *chunks = product->job->workspace.routing.chunks, n_experts = product->job->ctx->shape->n_experts;
    chunks[0] = 0;
    for (int32_t e = 0; e < n_experts; ++e) {
        struct gemm gemm = gemm_of(product, e);
        chunks[e + 1] = chunks[e];
        if (gemm.n_rows == 0) continue;
        int32_t outputs = gemm_chunk_outputs(gemm.device->isa, &gemm);
        chunks[e + 1] += (product->n_outputs + outputs - 1) / outputs * count_row_blocks(gemm.device->isa, gemm.n_rows);
    }
    return chunks[n_experts];
}

/* The expert of a chunk. */
static int32_t expert_at(const struct experts_product *product, int32_t chunk) {
    const int32_t *chunks = product->job->workspace.routing.chunks;
    int32_t low = 0, high = product->job->ctx->shape->n_experts - 1;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (chunks[middle + 1] > chunk)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static struct gemm_block block_at(const struct experts_product *product, const struct gemm *gemm, int32_t expert,
                                  int32_t chunk) {
    const struct isa *isa = gemm->device->isa;
    int32_t n_row_blocks = count_row_blocks(isa, gemm->n_rows), outputs = gemm_chunk_outputs(isa, gemm);
    int32_t index = chunk - product->job->workspace.routing.chunks[expert];
    int32_t first = index / n_row_blocks * outputs, left = product->n_outputs - first;
    return (struct gemm_block){.rows = row_block_at(isa, gemm->n_rows, index % n_row_blocks),
                               .first = first,
                               .n_outputs = left < outputs ? left : outputs,
                               .next = -1};
}

/* Where the next chunk's weights lie, as an output of this expert: those of the next one follow. */
static int32_t next_output(const struct experts_product *product, int32_t expert, int32_t next) {
    if (next < 0) return -1;
    int32_t next_expert = expert_at(product, next);
    struct gemm gemm = gemm_of(product, next_expert);
    int64_t output =
        (int64_t)(next_expert - expert) * gemm.n_outputs + block_at(product, &gemm, next_expert, next).first;
    return output >= 0 && output <= INT32_MAX ? (int32_t)output : -1;
}

static void run_chunk(void *argument, int32_t chunk, int32_t next) {
    const struct experts_product *product = argument;
    int32_t expert = expert_at(product, chunk);
    struct gemm gemm = gemm_of(product, expert);
    struct gemm_block block = block_at(product, &gemm, expert, chunk);
    block.next = next_output(product, expert, next);
    gemm_enter(&gemm); // its groups of rows may be larger or smaller than those of the chunk before
    product->run(product, &gemm, &block, product->job->workspace.routing.starts[expert]);
}

static void leave(void *argument, int32_t thread) {
    (void)thread;
    ((struct experts_product *)argument)->gemm.device->isa->end();
}

static void run_product(struct experts_product *product) {
    threads_run_loop(product->gemm.device->threads,
                     &(struct threads_loop){
                         .run = run_chunk, .argument = product, .n_chunks = count_chunks(product), .leave = leave});
}

static void run_gate_up(const struct experts_product *product, const struct gemm *gemm, struct gemm_block *block,
                        int32_t place) {
    int32_t width = product->n_outputs, next = block->next;
    bool one_block = count_row_blocks(gemm->device->isa, gemm->n_rows) == 1;
    float gate[MAX_BLOCK_ROWS * MAX_CHUNK_OUTPUTS], up[MAX_BLOCK_ROWS * MAX_CHUNK_OUTPUTS]; // 16 KB each
    block->out_stride = MAX_CHUNK_OUTPUTS;
    block->out = gate;
    block->next = one_block ? width + block->first : next;
    gemm_run_block(gemm, block);
    block->first += width;
    block->out = up;
    block->next = next;
    gemm_run_block(gemm, block);
    for (int32_t r = block->rows.first_row; r < block->rows.end_row; ++r) {
        size_t at = (size_t)(r - block->rows.first_row) * MAX_CHUNK_OUTPUTS;
        float *activated = (float *)product->job->ctx->scratch.activated + (size_t)(place + r) * (size_t)width +
                           (block->first - width);
        gemm->device->isa->swiglu(gate + at, up + at, activated, block->n_outputs);
    }
}

static void run_down(const struct experts_product *product, const struct gemm *gemm, struct gemm_block *block,
                     int32_t place) {
    size_t hidden = (size_t)product->n_outputs;
    block->out_stride = hidden;
    block->out =
        product->job->workspace.routing.outputs + (size_t)(place + block->rows.first_row) * hidden + block->first;
    gemm_run_block(gemm, block);
}

/* ---- What surrounds them ---- */

static void pack_normed(void *argument, int32_t expert) {
    const struct experts_job *job = argument;
    const struct routing *routing = &job->workspace.routing;
    const struct device *device = job->ctx->device;
    int32_t first = routing->starts[expert], hidden = job->ctx->shape->hidden;
    struct gemm_rows rows = {.x = job->ctx->scratch.normed,
                             .n_inputs = hidden,
                             .n_rows = routing->starts[expert + 1] - first,
                             .indices = routing->rows + first,
                             .packed = (char *)job->workspace.packed + gemm_packed_offset(device->isa, first, hidden)};
    gemm_pack_here(device, &rows);
}

static void pack_activated(void *argument, int32_t expert) {
    const struct experts_job *job = argument;
    const struct routing *routing = &job->workspace.routing;
    const struct device *device = job->ctx->device;
    int32_t first = routing->starts[expert], width = job->ctx->shape->expert_intermediate;
    struct gemm_rows rows = {.x = (const float *)job->ctx->scratch.activated + (size_t)first * (size_t)width,
                             .n_inputs = width,
                             .n_rows = routing->starts[expert + 1] - first,
                             .packed = (char *)job->workspace.packed + gemm_packed_offset(device->isa, first, width)};
    gemm_pack_here(device, &rows);
}

static void add_row(void *argument, int32_t row) {
    const struct experts_job *job = argument;
    const struct routing *routing = &job->workspace.routing;
    const struct model_shape *shape = job->ctx->shape;
    float *x = job->ctx->scratch.hidden + (size_t)row * (size_t)shape->hidden;
    const float *outputs[MODEL_MAX_ACTIVE_EXPERTS];
    const float *weights = routing->weights + (size_t)row * (size_t)shape->n_active_experts;
    bool adds = context_adds(job->ctx);
    for (int32_t k = 0; k < shape->n_active_experts; ++k)
        outputs[k] =
            routing->outputs + (size_t)routing->places[row * shape->n_active_experts + k] * (size_t)shape->hidden;
    for (int32_t i = 0; i < shape->hidden; ++i) {
        float sum = 0;
        for (int32_t k = 0; k < shape->n_active_experts; ++k) sum += weights[k] * outputs[k][i];
        x[i] = adds ? x[i] + sum : sum;
    }
}

bool cpu_experts(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    (void)err;
    const struct model_shape *shape = ctx->shape;
    struct experts_job job = {.ctx = ctx, .weights = &weights->layers[layer], .workspace = workspace_of(ctx)};
    struct threads *threads = ctx->device->threads;
    int32_t width = shape->expert_intermediate;
    threads_run(threads, route_row, &job, ctx->batch.n_rows);
    sort_pairs(&job.workspace.routing, shape, ctx->batch.n_rows);

    threads_run(threads, pack_normed, &job, shape->n_experts);
    run_product(&(struct experts_product){.gemm = {.device = ctx->device,
                                                   .packed = job.workspace.packed,
                                                   .weights = job.weights->gate_up,
                                                   .n_inputs = shape->hidden,
                                                   .n_outputs = 2 * width},
                                          .job = &job,
                                          .n_outputs = width,
                                          .run = run_gate_up});
    threads_run(threads, pack_activated, &job, shape->n_experts);
    run_product(&(struct experts_product){.gemm = {.device = ctx->device,
                                                   .packed = job.workspace.packed,
                                                   .weights = job.weights->down,
                                                   .n_inputs = width,
                                                   .n_outputs = shape->hidden},
                                          .job = &job,
                                          .n_outputs = shape->hidden,
                                          .run = run_down});
    threads_run(threads, add_row, &job, ctx->batch.n_rows);
    return true;
}
