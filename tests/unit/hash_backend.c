#include "tests/unit/hash_backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct device {
    struct hash_faults faults;
    int32_t n_steps;
};

static struct hash_faults next_faults;

int32_t hash_next_token(const int32_t *tokens, int32_t n_tokens) {
    uint64_t hash = 1469598103934665603u;
    for (int32_t i = 0; i < n_tokens; ++i) hash = (hash ^ (uint32_t)tokens[i]) * 1099511628211u;
    hash ^= hash >> 29;
    return (int32_t)(hash % HASH_VOCAB);
}

static struct device *device_create(const struct device_options *options, struct error *err) {
    (void)options, (void)err;
    struct device *device = calloc(1, sizeof *device);
    assert(device);
    device->faults = next_faults;
    return device;
}
static void device_destroy(struct device *device) {
    free(device);
}
static void device_describe(const struct device *device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "hash model");
}
static bool device_memory(struct device *device, struct device_memory *memory, struct error *err) {
    (void)device, (void)err;
    *memory = (struct device_memory){.free_bytes = 64u << 20, .total_bytes = 64u << 20};
    return true;
}
static void *alloc(struct device *device, size_t bytes, struct error *err) {
    (void)device, (void)err;
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    memset(memory, 0xee, bytes);
    return memory;
}
static void release(struct device *device, void *memory) {
    (void)device;
    free(memory);
}
static bool copy(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    (void)device, (void)err;
    memcpy(to, from, bytes);
    return true;
}
static bool synchronize(struct device *device, struct error *err) {
    (void)device, (void)err;
    return true;
}
static bool measure_bandwidth(struct device *device, double *bytes_per_second, struct error *err) {
    (void)device, (void)err;
    *bytes_per_second = 1e9;
    return true;
}
static bool prepare_shape(struct device *device, const struct model_shape *shape, struct error *err) {
    (void)device, (void)shape, (void)err;
    return true;
}
static size_t workspace_bytes(const struct model_shape *shape, const struct context_limits *limits) {
    (void)shape, (void)limits;
    return 256;
}

static int32_t *slot(const struct context *ctx, int32_t kv_slot) {
    return (int32_t *)kv_keys(ctx, 0) + (size_t)kv_slot * (size_t)ctx->shape->head_dim;
}

static bool embed(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)weights, (void)err;
    for (int32_t row = 0; row < ctx->batch.n_rows; ++row) *slot(ctx, ctx->batch.kv_slots[row]) = ctx->batch.tokens[row];
    return true;
}
static bool layer_op(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    (void)ctx, (void)weights, (void)layer, (void)err;
    return true;
}
static bool paged_attention(const struct context *ctx, int32_t layer, struct error *err) {
    (void)ctx, (void)layer, (void)err;
    return true;
}
static bool lm_head(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)weights, (void)err;
    if (ctx->device->faults.step_us) usleep((useconds_t)ctx->device->faults.step_us);
    return true;
}

/* The tokens that a row sees, read back through its sequence's block table. */
static bool sample(const struct context *ctx, struct error *err) {
    const struct batch *batch = &ctx->batch;
    const struct hash_faults *faults = &ctx->device->faults;
    if (++ctx->device->n_steps == faults->fail_at_step) return fail(err, ERR_DEVICE, "the hash device broke");
    int32_t seen[4096], block_size = ctx->limits.block_size;
    for (int32_t i = 0; i < batch->n_samples; ++i) {
        int32_t row = batch->samples[i].row, seq = batch->row_seqs[row], n_seen = batch->kv_lens[seq];
        assert(n_seen == batch->positions[row] + 1 && n_seen <= (int32_t)(sizeof seen / sizeof *seen));
        assert(batch->samples[i].position == n_seen && batch->query_starts[seq + 1] == row + 1);
        const int32_t *table = batch->block_tables + (size_t)seq * (size_t)ctx->limits.max_blocks;
        for (int32_t p = 0; p < n_seen; ++p) seen[p] = *slot(ctx, table[p / block_size] * block_size + p % block_size);
        ctx->scratch.sampled[i] =
            n_seen == faults->not_finite_after ? SAMPLED_NOT_FINITE : hash_next_token(seen, n_seen);
    }
    return true;
}

static const struct backend_ops hash_ops = {
    .name = "hash",
    .activation_dtype = DTYPE_F32,
    .kv_dtype = DTYPE_F32,
    .default_batch_tokens = 64,
    .device_create = device_create,
    .device_destroy = device_destroy,
    .device_describe = device_describe,
    .device_memory = device_memory,
    .alloc = alloc,
    .free = release,
    .alloc_host = alloc,
    .free_host = release,
    .copy_to_device = copy,
    .copy_to_host = copy,
    .synchronize = synchronize,
    .measure_bandwidth = measure_bandwidth,
    .prepare_shape = prepare_shape,
    .workspace_bytes = workspace_bytes,
    .embed = embed,
    .rmsnorm_qkv = layer_op,
    .paged_attention = paged_attention,
    .attention_output = layer_op,
    .mlp = layer_op,
    .lm_head = lm_head,
    .sample = sample,
};

const struct backend_ops *hash_backend(const struct hash_faults *faults) {
    next_faults = faults ? *faults : (struct hash_faults){0};
    return &hash_ops;
}
