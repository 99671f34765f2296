#include "cpu/device.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define SERIAL_ELEMENTS                                                                                                \
    16384 // keys and values read by one sequence's head: shorter is done before another thread helps

struct attention_job {
    const struct context *ctx;
    const struct attention_item *items;
    int32_t n_items;
    const float *keys;
    const float *values;
};

/* Splits each sequence's queries evenly, so that as many as possible share each key that is read. */
static int32_t make_items(const struct context *ctx, struct attention_item *items) {
    int32_t n_items = 0, per_row = ctx->shape->n_heads / ctx->shape->n_kv_heads;
    for (int32_t s = 0; s < ctx->batch.n_seqs; ++s) {
        int32_t n_queries = (ctx->batch.query_starts[s + 1] - ctx->batch.query_starts[s]) * per_row;
        int32_t n_parts = (n_queries + MAX_QUERIES - 1) / MAX_QUERIES;
        for (int32_t part = 0; part < n_parts; ++part) {
            int32_t first = (int32_t)((int64_t)n_queries * part / n_parts);
            int32_t end = (int32_t)((int64_t)n_queries * (part + 1) / n_parts);
            items[n_items++] = (struct attention_item){s, first, end - first};
        }
    }
    return n_items;
}

/* One item and one KV head. Items of one head follow each other: its keys and values stay in cache. */
static void attend_chunk(void *argument, int32_t chunk, int32_t next) {
    const struct attention_job *job = argument;
    const struct context *ctx = job->ctx;
    const struct model_shape *shape = ctx->shape;
    const struct attention_item *item = &job->items[chunk % job->n_items];
    int32_t kv_head = chunk / job->n_items, per_row = shape->n_heads / shape->n_kv_heads;
    size_t head_elements = (size_t)ctx->kv.block_size * (size_t)shape->head_dim;
    struct attend_job attend = {
        .n_queries = item->count,
        .head_dim = shape->head_dim,
        .scale = 1.0f / sqrtf((float)shape->head_dim),
        .keys = job->keys + (size_t)kv_head * head_elements,
        .values = job->values + (size_t)kv_head * head_elements,
        .next_keys = next >= 0 && job->n_items == 1 ? job->keys + (size_t)next * head_elements : NULL,
        .block_stride = (size_t)shape->n_kv_heads * head_elements,
        .blocks = ctx->batch.block_tables + (size_t)item->seq * (size_t)ctx->limits.max_blocks,
        .block_size = ctx->kv.block_size,
    };
    for (int32_t i = 0; i < item->count; ++i) {
        int32_t row = ctx->batch.query_starts[item->seq] + (item->first + i) / per_row;
        int32_t head = kv_head * per_row + (item->first + i) % per_row;
        size_t at = ((size_t)row * (size_t)shape->n_heads + (size_t)head) * (size_t)shape->head_dim;
        attend.queries[i] = (const float *)ctx->scratch.q + at;
        attend.out[i] = (float *)ctx->scratch.attention + at;
        attend.n_visible[i] = ctx->batch.positions[row] + 1;
        if (ctx->batch.kv_lens[item->seq] == 0) memset(attend.out[i], 0, (size_t)shape->head_dim * sizeof(float));
    }
    if (ctx->batch.kv_lens[item->seq] == 0) return; // padding
    ctx->device->isa->attend(&attend);
}

bool cpu_paged_attention(const struct context *ctx, int32_t layer, struct error *err) {
    (void)err;
    assert(layer >= 0 && layer < ctx->shape->n_layers);
    assert(ctx->shape->head_dim % 16 == 0 && ctx->shape->head_dim <= MAX_HEAD_DIM);
    struct workspace workspace = workspace_of(ctx);
    struct attention_job job = {
        .ctx = ctx,
        .items = workspace.items,
        .n_items = make_items(ctx, workspace.items),
        .keys = (const float *)kv_keys(ctx, layer),
        .values = (const float *)kv_values(ctx, layer),
    };
    int32_t n_chunks = job.n_items * ctx->shape->n_kv_heads;
    if ((int64_t)n_chunks * ctx->batch.max_kv_len * ctx->shape->head_dim < SERIAL_ELEMENTS) {
        for (int32_t chunk = 0; chunk < n_chunks; ++chunk) attend_chunk(&job, chunk, -1);
    } else {
        threads_run_loop(ctx->device->threads,
                         &(struct threads_loop){.run = attend_chunk, .argument = &job, .n_chunks = n_chunks});
    }
    return true;
}
