#include "engine/context.h"

#include "engine/arena.h"
#include "engine/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The batch arrays: for any step, then for those of at most max_seqs rows, then the tables of both, so that few bytes
 * next to each other are all that a decode step copies. */
struct layout {
    struct batch wide, narrow;
};

static void place_rows(struct arena *arena, struct batch *batch, int32_t max_rows, int32_t max_seqs) {
    size_t rows = (size_t)max_rows, seqs = (size_t)max_seqs;
    batch->tokens = arena_take(arena, rows, sizeof(int32_t));
    batch->positions = arena_take(arena, rows, sizeof(int32_t));
    batch->kv_slots = arena_take(arena, rows, sizeof(int32_t));
    batch->row_seqs = arena_take(arena, rows, sizeof(int32_t));
    batch->query_starts = arena_take(arena, seqs + 1, sizeof(int32_t));
    batch->kv_lens = arena_take(arena, seqs, sizeof(int32_t));
    batch->samples = arena_take(arena, seqs, sizeof(struct sample_row)); // these last: copied up to what is used
    batch->pools = arena_take(arena, seqs, sizeof(struct pool_rows));
}

static struct layout place_batch(struct arena *arena, const struct context_limits *limits) {
    struct layout layout = {0};
    place_rows(arena, &layout.wide, limits->max_rows, limits->max_seqs);
    place_rows(arena, &layout.narrow, limits->max_seqs, limits->max_seqs);
    size_t table_blocks = (size_t)limits->max_seqs * (size_t)limits->max_blocks;
    layout.wide.block_tables = layout.narrow.block_tables = arena_take(arena, table_blocks, sizeof(int32_t));
    return layout;
}

static void place_scratch(struct arena *arena, struct scratch *scratch, const struct backend_ops *ops,
                          const struct model_shape *shape, const struct context_limits *limits) {
    size_t rows = (size_t)limits->max_rows, seqs = (size_t)limits->max_seqs;
    size_t act = dtype_bytes(ops->activation_dtype);
    scratch->hidden = arena_take(arena, rows * (size_t)shape->hidden, sizeof(float));
    scratch->normed = arena_take(arena, rows * (size_t)shape->hidden, act);
    scratch->qkv = arena_take(arena, rows * (size_t)shape_qkv_columns(shape), sizeof(float));
    scratch->q = arena_take(arena, rows * (size_t)shape_q_columns(shape), act);
    scratch->attention = arena_take(arena, rows * (size_t)shape_q_columns(shape), act);
    scratch->gate_up = arena_take(arena, rows * 2 * (size_t)shape->intermediate, act);
    scratch->activated = arena_take(arena, rows * (size_t)shape_activated_columns(shape), act);
    bool samples = shape->slice.rank == 0;
    scratch->logits = samples ? arena_take(arena, seqs * (size_t)shape->vocab, sizeof(float)) : NULL;
    scratch->adjusted =
        arena_take(arena, seqs * (size_t)(samples ? shape->vocab : shape_vocab_part(shape)), sizeof(float));
    scratch->sampled = arena_take(arena, seqs, sizeof(int32_t));
    scratch->scores = arena_take(arena, seqs, sizeof(struct token_scores));
    scratch->pooled = arena_take(arena, seqs * (size_t)shape->hidden, sizeof(float));
    scratch->row_scales = arena_take(arena, rows, sizeof(float));
    scratch->workspace_bytes = ops->workspace_bytes(shape, limits);
    scratch->workspace = arena_take(arena, scratch->workspace_bytes, 1);
}

static void place_sampling(struct arena *arena, struct sampling_memory *sampling, const struct model_shape *shape,
                           const struct context_limits *limits) {
    size_t seqs = (size_t)limits->max_seqs;
    if (shape->slice.rank > 0) return; // it does not sample
    sampling->seats = arena_take(arena, seqs, sizeof(struct sampling_seat));
    sampling->counts = arena_take(arena, seqs * (size_t)shape->vocab, sizeof(uint16_t));
    sampling->masks = arena_take(arena, seqs * (size_t)sampling_mask_words(shape->vocab), sizeof(uint32_t));
}

static float *place_pool_sums(struct arena *arena, const struct model_shape *shape,
                              const struct context_limits *limits) {
    return arena_take(arena, (size_t)limits->max_seqs * (size_t)shape->hidden, sizeof(float));
}

size_t context_scratch_bytes(const struct backend_ops *ops, const struct model_shape *shape,
                             const struct context_limits *limits) {
    struct arena counting = {0};
    place_batch(&counting, limits);
    place_scratch(&counting, &(struct scratch){0}, ops, shape, limits);
    place_sampling(&counting, &(struct sampling_memory){0}, shape, limits);
    place_pool_sums(&counting, shape, limits);
    return counting.used;
}

size_t context_kv_block_bytes(const struct backend_ops *ops, const struct model_shape *shape, int32_t block_size) {
    return 2 * (size_t)shape->n_layers * (size_t)shape_kv_columns(shape) * (size_t)block_size *
           dtype_bytes(ops->kv_dtype);
}

static bool create_mirrors(struct context *ctx, struct error *err) {
    struct arena counting = {0};
    place_batch(&counting, &ctx->limits);
    size_t n_rows = (size_t)ctx->limits.max_seqs;
    for (int i = 0; i < 2; ++i) {
        ctx->host_memory[i] = ctx->ops->alloc_host(ctx->device, counting.used, err);
        if (!ctx->host_memory[i]) return false;
        memset(ctx->host_memory[i], 0, counting.used);
    }
    ctx->device_rows = calloc(3 * n_rows, sizeof *ctx->device_rows);
    if (!ctx->device_rows) return fail(err, ERR_MEMORY, "no memory for the tables of %zu sequences", n_rows);
    ctx->host_rows[0] = ctx->device_rows + n_rows;
    ctx->host_rows[1] = ctx->host_rows[0] + n_rows;
    return true;
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
    place_batch(&on_device, limits);
    place_scratch(&on_device, &ctx->scratch, ops, shape, limits);
    place_sampling(&on_device, &ctx->sampling, shape, limits);
    ctx->pool_sums = place_pool_sums(&on_device, shape, limits);
    if (!create_mirrors(ctx, err)) goto fail;

    ctx->kv.data = ops->alloc(device, ctx->kv.bytes, err);
    if (!ctx->kv.data) goto fail;
    return ctx;

fail:
    context_destroy(ctx);
    return NULL;
}

void context_destroy(struct context *ctx) {
    if (!ctx) return;
    if (ctx->recordings) ctx->ops->recordings_destroy(ctx);
    ctx->ops->free(ctx->device, ctx->kv.data);
    free(ctx->device_rows);
    for (int i = 0; i < 2; ++i) ctx->ops->free_host(ctx->device, ctx->host_memory[i]);
    ctx->ops->free(ctx->device, ctx->device_memory);
    free(ctx);
}

/* The sequence's last rows, which have just been added. */
static void add_pool(struct batch *host, const struct batch_sequence *seq) {
    assert(seq->n_pooled_rows <= seq->n_rows && seq->seat > 0 && !seq->sample);
    host->n_pooled += seq->pools;
    host->pools[host->n_pools++] = (struct pool_rows){.first = host->n_rows - seq->n_pooled_rows,
                                                      .n_rows = seq->n_pooled_rows,
                                                      .n_before = seq->n_pooled_before,
                                                      .sum = seq->seat - 1,
                                                      .result = seq->pools ? host->n_pooled : 0};
}

/* Writes one sequence's rows and sample into the host batch. */
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
    if (seq->n_pooled_rows > 0) add_pool(host, seq);
    if (!seq->sample) return;
    host->samples[host->n_samples++] = (struct sample_row){.params = seq->sampling,
                                                           .row = host->n_rows - 1,
                                                           .position = kv_len,
                                                           .n_scores = seq->n_scores,
                                                           .seat = seq->seat,
                                                           .mask = seq->mask};
    host->n_scored += seq->n_scores > 0;
    host->n_adjusted += seq->seat > 0 || seq->mask > 0;
}

/* Behind the samples of all sequences. What is sampled for such a row nobody reads, but whether it was finite. */
static void add_prompt_scores(struct context *ctx, const struct batch_sequence *seq, int32_t index) {
    struct batch *host = &ctx->host;
    assert(host->n_samples + seq->n_scored_rows <= ctx->limits.max_seqs && seq->n_scored_rows <= seq->n_rows);
    for (int32_t i = 0; i < seq->n_scored_rows; ++i)
        host->samples[host->n_samples++] = (struct sample_row){.params = {.top_p = 1},
                                                               .row = host->query_starts[index] + i,
                                                               .n_scores = seq->n_prompt_scores,
                                                               .target = 1 + seq->tokens[i + 1]};
    host->n_scored += seq->n_scored_rows;
}

/* A row of no sequence: nothing is visible to it, and what is sampled for it nobody reads. */
static void add_padding(struct context *ctx) {
    struct batch *host = &ctx->host;
    int32_t index = host->n_seqs++;
    host->tokens[index] = host->positions[index] = 0;
    host->kv_slots[index] = -1;
    host->row_seqs[index] = index;
    host->query_starts[index + 1] = index + 1;
    host->kv_lens[index] = 0;
    host->samples[index] = (struct sample_row){.params = {.top_p = 1}, .row = index};
    host->n_rows = host->n_decode = host->n_samples = host->n_seqs;
}

static void pad(struct context *ctx) {
    const struct batch *host = &ctx->host;
    if (!ctx->recordings || host->n_decode != host->n_seqs || host->n_samples != host->n_seqs) return;
    int32_t n_rows = ctx->ops->padded_rows(ctx, host->n_rows);
    assert(n_rows >= host->n_rows && n_rows <= ctx->limits.max_seqs);
    while (host->n_rows < n_rows) add_padding(ctx);
}

/* Rows of block_tables, from first to last. */
struct row_range {
    int32_t first, last;
};

/* Brings the host's tables up to date and says which rows the device does not have yet. The two hosts' tables lag
 * behind each other, so that a row between two that changed may be new to this one and not to the device. */
static struct row_range update_tables(struct context *ctx, const struct batch_sequence *seqs, int32_t n_seqs) {
    struct row_range changed = {.first = n_seqs, .last = -1};
    for (int32_t s = 0; s < n_seqs; ++s) {
        struct table_row wanted = {.table = seqs[s].table, .n_blocks = seqs[s].n_blocks};
        struct table_row *on_host = &ctx->host_rows[ctx->turn][s], *on_device = &ctx->device_rows[s];
        int32_t n_same = wanted.table && wanted.table == on_host->table ? on_host->n_blocks : 0;
        if (n_same < wanted.n_blocks) {
            int32_t *row = ctx->host.block_tables + (size_t)s * (size_t)ctx->limits.max_blocks;
            memcpy(row + n_same, seqs[s].blocks + n_same, (size_t)(wanted.n_blocks - n_same) * sizeof *row);
            *on_host = wanted;
        }
        if (wanted.table && wanted.table == on_device->table && wanted.n_blocks <= on_device->n_blocks) continue;
        *on_device = wanted;
        if (changed.first == n_seqs) changed.first = s;
        changed.last = s;
    }
    return changed;
}

/* A copy costs the host 2 to 3 us; 64 KiB take about as long on their way to a GPU. */
#define WORTH_A_COPY ((size_t)64 << 10)

/* From the step's first array to the last sample or pool, and the tables that changed: in one copy where they lie near.
 */
static bool copy_step(struct context *ctx, struct row_range tables, struct error *err) {
    const struct batch *host = &ctx->host, *device = &ctx->batch;
    const struct backend_ops *ops = ctx->ops;
    size_t row_bytes = (size_t)ctx->limits.max_blocks * sizeof(int32_t);
    const char *begin = (const char *)host->tokens, *end = (const char *)(host->samples + host->n_samples);
    if (host->n_pools > 0) end = (const char *)(host->pools + host->n_pools);
    if (tables.last >= 0) {
        const char *table_begin = (const char *)host->block_tables + (size_t)tables.first * row_bytes;
        const char *table_end = (const char *)host->block_tables + (size_t)(tables.last + 1) * row_bytes;
        if (table_begin < end + WORTH_A_COPY)
            end = table_end;
        else if (!ops->copy_to_device(ctx->device, (char *)device->block_tables + (size_t)tables.first * row_bytes,
                                      table_begin, (size_t)(table_end - table_begin), err))
            return false;
    }
    return ops->copy_to_device(ctx->device, device->tokens, begin, (size_t)(end - begin), err);
}

void context_prepare_recording(struct context *ctx) {
    ctx->batch = place_batch(&(struct arena){.base = ctx->device_memory}, &ctx->limits).narrow;
}

bool context_prepare(struct context *ctx, const struct batch_sequence *seqs, int32_t n_seqs, struct error *err) {
    assert(n_seqs > 0 && n_seqs <= ctx->limits.max_seqs);
    int32_t n_rows = 0;
    for (int32_t s = 0; s < n_seqs; ++s) n_rows += seqs[s].n_rows;
    bool narrow = n_rows <= ctx->limits.max_seqs;
    ctx->turn = 1 - ctx->turn;
    struct layout on_host = place_batch(&(struct arena){.base = ctx->host_memory[ctx->turn]}, &ctx->limits);
    struct layout on_device = place_batch(&(struct arena){.base = ctx->device_memory}, &ctx->limits);
    ctx->host = narrow ? on_host.narrow : on_host.wide;
    ctx->host.query_starts[0] = 0;
    for (int32_t s = 0; s < n_seqs; ++s) {
        assert(s == 0 || seqs[s - 1].n_rows == 1 || seqs[s].n_rows > 1); // single rows first
        add_sequence(ctx, &seqs[s]);
    }
    for (int32_t s = 0; s < n_seqs; ++s) add_prompt_scores(ctx, &seqs[s], s);
    pad(ctx);

    /* The device has the same counts and arrays of its own. */
    struct batch arrays = narrow ? on_device.narrow : on_device.wide;
    ctx->batch = ctx->host;
    ctx->batch.tokens = arrays.tokens;
    ctx->batch.positions = arrays.positions;
    ctx->batch.kv_slots = arrays.kv_slots;
    ctx->batch.row_seqs = arrays.row_seqs;
    ctx->batch.query_starts = arrays.query_starts;
    ctx->batch.kv_lens = arrays.kv_lens;
    ctx->batch.block_tables = arrays.block_tables;
    ctx->batch.samples = arrays.samples;
    ctx->batch.pools = arrays.pools;
    return copy_step(ctx, update_tables(ctx, seqs, n_seqs), err);
}
