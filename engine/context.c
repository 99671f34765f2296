#include "engine/context.h"

#include "engine/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 256

static size_t align_up(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Places arrays one after another; with a NULL base it only counts. */
struct arena {
    char *base;
    size_t used;
};

static void *take(struct arena *arena, size_t count, size_t element_bytes) {
    void *place = arena->base ? arena->base + arena->used : NULL;
    arena->used += align_up(count * element_bytes);
    return place;
}

static void place_batch(struct arena *arena, struct batch *batch, const struct context_limits *limits) {
    size_t rows = (size_t)limits->max_rows, seqs = (size_t)limits->max_seqs;
    batch->tokens = take(arena, rows, sizeof(int32_t));
    batch->positions = take(arena, rows, sizeof(int32_t));
    batch->kv_slots = take(arena, rows, sizeof(int32_t));
    batch->row_seqs = take(arena, rows, sizeof(int32_t));
    batch->query_starts = take(arena, seqs + 1, sizeof(int32_t));
    batch->kv_lens = take(arena, seqs, sizeof(int32_t));
    batch->samples = take(arena, seqs, sizeof(struct sample_row));
    batch->block_tables = take(arena, seqs * (size_t)limits->max_blocks, sizeof(int32_t)); // last: copied by rows
}

static void place_scratch(struct arena *arena, struct scratch *scratch, const struct backend_ops *ops,
                          const struct model_shape *shape, const struct context_limits *limits) {
    size_t rows = (size_t)limits->max_rows, seqs = (size_t)limits->max_seqs;
    size_t act = dtype_bytes(ops->activation_dtype);
    scratch->hidden = take(arena, rows * (size_t)shape->hidden, sizeof(float));
    scratch->normed = take(arena, rows * (size_t)shape->hidden, act);
    scratch->qkv = take(arena, rows * (size_t)shape_qkv_columns(shape), act);
    scratch->q = take(arena, rows * (size_t)shape_q_columns(shape), act);
    scratch->attention = take(arena, rows * (size_t)shape_q_columns(shape), act);
    scratch->gate_up = take(arena, rows * 2 * (size_t)shape->intermediate, act);
    scratch->activated = take(arena, rows * (size_t)shape->intermediate, act);
    scratch->logits = take(arena, seqs * (size_t)shape->vocab, sizeof(float));
    scratch->sampled = take(arena, seqs, sizeof(int32_t));
    scratch->workspace_bytes = ops->workspace_bytes(shape, limits);
    scratch->workspace = take(arena, scratch->workspace_bytes, 1);
}

size_t context_scratch_bytes(const struct backend_ops *ops, const struct model_shape *shape,
                             const struct context_limits *limits) {
    struct arena counting = {0};
    place_batch(&counting, &(struct batch){0}, limits);
    place_scratch(&counting, &(struct scratch){0}, ops, shape, limits);
    return counting.used;
}

size_t context_kv_block_bytes(const struct backend_ops *ops, const struct model_shape *shape, int32_t block_size) {
    return 2 * (size_t)shape->n_layers * (size_t)shape_kv_columns(shape) * (size_t)block_size *
           dtype_bytes(ops->kv_dtype);
}

struct context *context_create(const struct backend_ops *ops, struct device *device, const struct model_shape *shape,
                               const struct context_limits *limits, struct error *err) {
    assert(limits->max_rows >= limits->max_seqs && limits->max_seqs > 0 && limits->max_blocks > 0);
    if (!ops->prepare_shape(device, shape, err)) return NULL;
    struct context *ctx = calloc(1, sizeof *ctx);
    if (!ctx) {
        fail(err, ERR_MEMORY, "no memory for a context");
        return NULL;
    }
    *ctx = (struct context){.ops = ops, .shape = shape, .device = device, .limits = *limits};
    ctx->kv.dtype = ops->kv_dtype;
    ctx->kv.n_blocks = limits->n_blocks;
    ctx->kv.block_size = limits->block_size;
    ctx->kv.bytes = (size_t)limits->n_blocks * context_kv_block_bytes(ops, shape, limits->block_size);

    ctx->device_memory = ops->alloc(device, context_scratch_bytes(ops, shape, limits), err);
    if (!ctx->device_memory) goto fail;
    struct arena on_device = {.base = ctx->device_memory};
    place_batch(&on_device, &ctx->batch, limits);
    place_scratch(&on_device, &ctx->scratch, ops, shape, limits);

    struct arena counting = {0};
    place_batch(&counting, &ctx->host, limits);
    ctx->host_memory = ops->alloc_host(device, counting.used, err);
    if (!ctx->host_memory) goto fail;
    memset(ctx->host_memory, 0, counting.used);
    struct arena on_host = {.base = ctx->host_memory};
    place_batch(&on_host, &ctx->host, limits);
    ctx->host_bytes = (size_t)((char *)ctx->host.block_tables - (char *)ctx->host_memory);
    /* -1 is no block: the first use of every table row differs from this mirror and is copied. */
    memset(ctx->host.block_tables, 0xff, (size_t)limits->max_seqs * (size_t)limits->max_blocks * sizeof(int32_t));

    ctx->kv.data = ops->alloc(device, ctx->kv.bytes, err);
    if (!ctx->kv.data) goto fail;
    return ctx;

fail:
    context_destroy(ctx);
    return NULL;
}

void context_destroy(struct context *ctx) {
    if (!ctx) return;
    ctx->ops->free(ctx->device, ctx->kv.data);
    ctx->ops->free_host(ctx->device, ctx->host_memory);
    ctx->ops->free(ctx->device, ctx->device_memory);
    free(ctx);
}

/* Writes one sequence's rows, table and sample into the host batch. */
static void add_sequence(struct context *ctx, const struct batch_sequence *seq) {
    struct batch *host = &ctx->host;
    int32_t index = host->n_seqs++, first = host->n_rows, block_size = ctx->limits.block_size;
    int32_t kv_len = seq->start + seq->n_rows;
    assert(seq->n_rows > 0 && seq->start >= 0 && first + seq->n_rows <= ctx->limits.max_rows);
    assert(seq->n_blocks <= ctx->limits.max_blocks && kv_len <= seq->n_blocks * block_size);
    for (int32_t i = 0; i < seq->n_rows; ++i) {
        int32_t position = seq->start + i;
        host->tokens[first + i] = seq->tokens[i];
        host->positions[first + i] = position;
        host->kv_slots[first + i] = seq->blocks[position / block_size] * block_size + position % block_size;
        host->row_seqs[first + i] = index;
    }
    host->n_rows += seq->n_rows;
    host->query_starts[index + 1] = host->n_rows;
    host->kv_lens[index] = kv_len;
    if (kv_len > host->max_kv_len) host->max_kv_len = kv_len;
    if (seq->n_rows > host->max_query_len) host->max_query_len = seq->n_rows;
    if (seq->n_rows == 1 && host->n_decode == index) host->n_decode++;
    if (seq->sample)
        host->samples[host->n_samples++] =
            (struct sample_row){.params = seq->sampling, .row = host->n_rows - 1, .position = kv_len};
}

/* Host tables mirror the device's: only rows from the first to the last that changed are copied. */
static bool copy_block_tables(struct context *ctx, const struct batch_sequence *seqs, int32_t n_seqs,
                              struct error *err) {
    int32_t first_changed = n_seqs, last_changed = -1;
    size_t stride = (size_t)ctx->limits.max_blocks;
    for (int32_t s = 0; s < n_seqs; ++s) {
        int32_t *row = ctx->host.block_tables + (size_t)s * stride;
        size_t bytes = (size_t)seqs[s].n_blocks * sizeof *row;
        if (memcmp(row, seqs[s].blocks, bytes) == 0) continue;
        memcpy(row, seqs[s].blocks, bytes);
        if (first_changed == n_seqs) first_changed = s;
        last_changed = s;
    }
    if (last_changed < 0) return true;
    size_t offset = (size_t)first_changed * stride;
    return ctx->ops->copy_to_device(ctx->device, ctx->batch.block_tables + offset, ctx->host.block_tables + offset,
                                    (size_t)(last_changed - first_changed + 1) * stride * sizeof(int32_t), err);
}

bool context_prepare(struct context *ctx, const struct batch_sequence *seqs, int32_t n_seqs, struct error *err) {
    assert(n_seqs > 0 && n_seqs <= ctx->limits.max_seqs);
    struct batch *host = &ctx->host, *device = &ctx->batch;
    host->n_rows = host->n_seqs = host->n_decode = host->n_samples = host->max_kv_len = host->max_query_len = 0;
    host->query_starts[0] = 0;
    for (int32_t s = 0; s < n_seqs; ++s) {
        assert(s == 0 || seqs[s - 1].n_rows == 1 || seqs[s].n_rows > 1); // single rows first
        add_sequence(ctx, &seqs[s]);
    }
    device->n_rows = host->n_rows;
    device->n_seqs = host->n_seqs;
    device->n_decode = host->n_decode;
    device->n_samples = host->n_samples;
    device->max_kv_len = host->max_kv_len;
    device->max_query_len = host->max_query_len;
    if (!copy_block_tables(ctx, seqs, n_seqs, err)) return false;
    /* ctx->device_memory begins with the batch, placed like the host's. */
    return ctx->ops->copy_to_device(ctx->device, ctx->device_memory, ctx->host_memory, ctx->host_bytes, err);
}
