#include "tests/kernels/harness.h"

#include "cpu/cpu_backend.h"
#include "engine/bf16.h"
#include "tests/test.h"
#ifdef QUERN_CUDA
#include "cuda/cuda_backend.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD_BYTES 256
#define GUARD_VALUE 0xA5
#define NAN_BYTE    0xFF // in every dtype

/* float32 sums of a few thousand terms lose about 1e-6; bf16 factors lose 2^-9 each, of which half remains on
 * average. */
#define TOLERANCE_F32  1e-5
#define TOLERANCE_BF16 6e-3

void rig_must(bool ok, const struct error *err) {
    if (!ok) fail_msg("%s", err->message);
}

static void *must_allocate(size_t count, size_t bytes) {
    void *memory = calloc(count ? count : 1, bytes);
    if (!memory) fail_msg("no memory for %zu elements", count);
    return memory;
}

static void open_device(struct target *target, const struct device_options *options) {
    struct error err = {0};
    target->device = target->ops->device_create(options, &err);
    rig_must(target->device != NULL, &err);
}

void target_open_cpu(struct target *target, bool fused, const char *isa, int32_t n_threads) {
    bool bf16 = strcmp(isa, "avx512bf16") == 0 || strcmp(isa, "amx") == 0;
    *target = (struct target){.ops = cpu_backend(fused),
                              .cpu_isa = isa,
                              .fused = fused,
                              .matrix_tolerance = bf16 ? TOLERANCE_BF16 : TOLERANCE_F32,
                              .attention_tolerance = TOLERANCE_F32};
    snprintf(target->label, sizeof target->label, "cpu %s%s", isa, fused ? "" : " separate");
    open_device(target, &(struct device_options){.n_threads = n_threads, .cpu_isa = isa});
}

static int32_t open_cpu_targets(struct target *targets) {
    static const char *const isas[] = {"plain", "avx2", "avx512", "avx512bf16", "amx"};
    int32_t n_targets = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; ++i) {
        struct device *device = cpu_backend(true)->device_create(&(struct device_options){.cpu_isa = isas[i]}, NULL);
        if (!device) continue; // not on this processor
        cpu_backend(true)->device_destroy(device);
        target_open_cpu(&targets[n_targets++], true, isas[i], 2);
        target_open_cpu(&targets[n_targets++], false, isas[i], 2);
    }
    return n_targets;
}

static int32_t open_cuda_targets(struct target *targets) {
    int32_t n_targets = 0;
#ifdef QUERN_CUDA
    if (cuda_device_count() == 0) return 0;
    for (int fused = 1; fused >= 0; --fused) {
        struct target *target = &targets[n_targets++];
        *target = (struct target){.ops = cuda_backend(fused),
                                  .fused = fused,
                                  .matrix_tolerance = TOLERANCE_BF16,
                                  .attention_tolerance = TOLERANCE_BF16};
        snprintf(target->label, sizeof target->label, "cuda%s", fused ? "" : " separate");
        open_device(target, &(struct device_options){0});
    }
#else
    (void)targets;
#endif
    return n_targets;
}

int32_t targets_open(const char *backend, struct target targets[MAX_TARGETS]) {
    return strcmp(backend, "cpu") == 0 ? open_cpu_targets(targets) : open_cuda_targets(targets);
}

void targets_close(struct target *targets, int32_t n_targets) {
    for (int32_t t = 0; t < n_targets; ++t) targets[t].ops->device_destroy(targets[t].device);
}

void on_targets(void **state, void (*check)(const struct target *target)) {
    struct target targets[MAX_TARGETS];
    int32_t n_targets = targets_open(*state, targets);
    if (n_targets == 0) skip();
    for (int32_t t = 0; t < n_targets; ++t) check(&targets[t]);
    targets_close(targets, n_targets);
}

struct rig_options rig_defaults(void) {
    return (struct rig_options){
        .shape = {.n_layers = 2,
                  .hidden = 192,
                  .n_heads = 4,
                  .n_kv_heads = 2,
                  .head_dim = 128,
                  .intermediate = 352,
                  .vocab = 1032,
                  .max_positions = 40960,
                  .rms_eps = 1e-6f,
                  .rope_theta = 1e6f},
        .limits = {.max_rows = 128, .max_seqs = 16, .max_blocks = 16, .block_size = 16, .n_blocks = 64},
        .seed = 1,
        .pool_seed = 1,
    };
}

static uint64_t mix(uint64_t x) { // splitmix64 (Steele, Lea and Flood, 2014)
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

float random_value(uint64_t seed, uint64_t stream, uint64_t index) {
    uint64_t bits = mix(mix(mix(seed) ^ stream) ^ index);
    return (float)(bits >> 40) * 0x1p-23f - 1.0f;
}

float bf16_to_float(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

float *rig_read(const struct rig *rig, const void *data, enum dtype dtype, size_t count) {
    const struct backend_ops *ops = rig->target->ops;
    struct error err = {0};
    float *values = must_allocate(count, sizeof *values);
    if (dtype == DTYPE_F32) {
        rig_must(ops->copy_to_host(rig->target->device, values, data, count * sizeof *values, &err), &err);
        return values;
    }
    assert_int_equal(dtype, DTYPE_BF16);
    uint16_t *halves = must_allocate(count, sizeof *halves);
    rig_must(ops->copy_to_host(rig->target->device, halves, data, count * sizeof *halves, &err), &err);
    for (size_t i = 0; i < count; ++i) values[i] = bf16_to_float(halves[i]);
    free(halves);
    return values;
}

void rig_write(const struct rig *rig, void *data, enum dtype dtype, const float *values, size_t count) {
    const struct backend_ops *ops = rig->target->ops;
    struct error err = {0};
    if (dtype == DTYPE_F32) {
        rig_must(ops->copy_to_device(rig->target->device, data, values, count * sizeof *values, &err), &err);
    } else {
        assert_int_equal(dtype, DTYPE_BF16);
        uint16_t *halves = must_allocate(count, sizeof *halves);
        for (size_t i = 0; i < count; ++i) halves[i] = bf16_from_f32(values[i]);
        rig_must(ops->copy_to_device(rig->target->device, data, halves, count * sizeof *halves, &err), &err);
        rig_must(ops->synchronize(rig->target->device, &err), &err);
        free(halves);
    }
}

static void fill_bytes(const struct rig *rig, void *data, uint8_t value, size_t bytes) {
    struct error err = {0};
    uint8_t *host = must_allocate(bytes, 1);
    memset(host, value, bytes);
    rig_must(rig->target->ops->copy_to_device(rig->target->device, data, host, bytes, &err), &err);
    rig_must(rig->target->ops->synchronize(rig->target->device, &err), &err);
    free(host);
}

/* Replaces *pointer by guarded device memory of exactly that many bytes, full of NaN. */
static void guard(struct rig *rig, void **pointer, size_t bytes) {
    struct error err = {0};
    assert_true(rig->n_guarded < MAX_GUARDED);
    struct guarded *guarded = &rig->guarded[rig->n_guarded++];
    guarded->bytes = bytes;
    guarded->base = rig->target->ops->alloc(rig->target->device, bytes + 2 * GUARD_BYTES, &err);
    rig_must(guarded->base != NULL, &err);
    guarded->data = (char *)guarded->base + GUARD_BYTES;
    fill_bytes(rig, guarded->base, GUARD_VALUE, bytes + 2 * GUARD_BYTES);
    fill_bytes(rig, guarded->data, NAN_BYTE, bytes);
    *pointer = guarded->data;
}

static void check_guard(const struct rig *rig, const void *device_bytes, int32_t index, const char *where) {
    struct error err = {0};
    uint8_t host[GUARD_BYTES];
    rig_must(rig->target->ops->copy_to_host(rig->target->device, host, device_bytes, sizeof host, &err), &err);
    for (int32_t i = 0; i < GUARD_BYTES; ++i)
        if (host[i] != GUARD_VALUE)
            fail_msg("%s: guarded buffer %d was written %s, byte %d", rig->target->label, index, where, i);
}

static void guard_context(struct rig *rig) {
    struct context *ctx = rig->ctx;
    struct scratch *scratch = &ctx->scratch;
    size_t rows = (size_t)ctx->limits.max_rows, seqs = (size_t)ctx->limits.max_seqs;
    size_t act = dtype_bytes(ctx->ops->activation_dtype);
    rig->original = *ctx;
    guard(rig, (void **)&scratch->hidden, rows * (size_t)rig->shape.hidden * sizeof(float));
    guard(rig, &scratch->normed, rows * (size_t)rig->shape.hidden * act);
    guard(rig, &scratch->qkv, rows * (size_t)shape_qkv_columns(&rig->shape) * sizeof(float));
    guard(rig, &scratch->q, rows * (size_t)shape_q_columns(&rig->shape) * act);
    guard(rig, &scratch->attention, rows * (size_t)shape_q_columns(&rig->shape) * act);
    guard(rig, &scratch->gate_up, rows * 2 * (size_t)rig->shape.intermediate * act);
    guard(rig, &scratch->activated, rows * (size_t)shape_activated_columns(&rig->shape) * act);
    guard(rig, (void **)&scratch->logits, seqs * (size_t)rig->shape.vocab * sizeof(float));
    guard(rig, (void **)&scratch->sampled, seqs * sizeof(int32_t));
    guard(rig, (void **)&scratch->adjusted, seqs * (size_t)rig->shape.vocab * sizeof(float));
    guard(rig, (void **)&ctx->sampling.seats, seqs * sizeof(struct sampling_seat));
    guard(rig, (void **)&ctx->sampling.counts, seqs * (size_t)rig->shape.vocab * sizeof(uint16_t));
    guard(rig, (void **)&ctx->sampling.masks, seqs * (size_t)sampling_mask_words(rig->shape.vocab) * sizeof(uint32_t));
    guard(rig, (void **)&scratch->scores, seqs * sizeof(struct token_scores));
    guard(rig, (void **)&scratch->pooled, seqs * (size_t)rig->shape.hidden * sizeof(float));
    guard(rig, (void **)&scratch->row_scales, rows * sizeof(float));
    guard(rig, (void **)&ctx->pool_sums, seqs * (size_t)rig->shape.hidden * sizeof(float));
    guard(rig, &scratch->workspace, scratch->workspace_bytes);
    guard(rig, &ctx->kv.data, ctx->kv.bytes);
}

/* A matrix or norm at *host (walked) and the same place on the device: center + spread * uniform. */
struct weight_writer {
    uint16_t *host;
    const uint16_t *device;
    uint64_t seed;
    uint64_t stream;
};

struct placed {
    const uint16_t *host;
    const uint16_t *device;
};

static struct placed place(struct weight_writer *writer, size_t count, float center, float spread) {
    struct placed placed = {writer->host, writer->device};
    writer->stream++;
    for (size_t i = 0; i < count; ++i)
        writer->host[i] = bf16_from_f32(center + spread * random_value(writer->seed, writer->stream, i));
    size_t step = (count + 127) / 128 * 128; // 256-byte aligned, as engine/weights.c places them
    writer->host += step;
    writer->device += step;
    return placed;
}

#define PLACE(field, count, center, spread)                                                                            \
    do {                                                                                                               \
        struct placed placed_ = place(&writer, (count), (center), (spread));                                           \
        host->field = placed_.host;                                                                                    \
        device->field = placed_.device;                                                                                \
    } while (0)

static size_t mlp_elements(const struct model_shape *shape, int32_t layer) {
    size_t hidden = (size_t)shape->hidden;
    if (!shape_has_experts(shape, layer)) return 3 * (size_t)shape->intermediate * hidden;
    return (size_t)shape->n_experts * (3 * (size_t)shape->expert_intermediate + 1) * hidden;
}

static void make_layer(struct rig *rig, struct weight_writer *walk, int32_t layer, const struct rig_options *options) {
    float k_norm_max = options->k_norm_max;
    const struct model_shape *shape = &rig->shape;
    struct layer_weights *host = &rig->host.layers[layer], *device = &rig->weights.layers[layer];
    struct weight_writer writer = *walk;
    size_t hidden = (size_t)shape->hidden, q_columns = (size_t)shape_q_columns(shape);
    size_t intermediate = (size_t)shape->intermediate, head_dim = (size_t)shape->head_dim, n = 1;
    float k_center = k_norm_max > 0 ? k_norm_max * 0.5f : 1.0f; // uniform up to the largest
    PLACE(input_norm, hidden, 1.0f, 0.3f);
    PLACE(qkv, (size_t)shape_qkv_columns(shape) * hidden, 0, 0.1f);
    PLACE(q_norm, head_dim, 1.0f, 0.3f);
    PLACE(k_norm, head_dim, k_center, k_center);
    PLACE(attention_output, hidden * q_columns, 0, 0.1f);
    PLACE(post_attention_norm, hidden, 1.0f, 0.3f);
    if (shape_has_experts(shape, layer)) {
        n = (size_t)shape->n_experts;
        intermediate = (size_t)shape->expert_intermediate;
        PLACE(router, n * hidden, 0, options->equal_experts ? 0 : 0.1f);
    }
    PLACE(gate_up, n * 2 * intermediate * hidden, 0, 0.2f);
    PLACE(down, n * hidden * intermediate, 0, 0.1f);
    if (k_norm_max > 0) ((uint16_t *)(uintptr_t)host->k_norm)[head_dim / 3] = bf16_from_f32(k_norm_max);
    *walk = writer;
}

static void make_weights(struct rig *rig, const struct rig_options *options) {
    const struct model_shape *shape = &rig->shape;
    struct error err = {0};
    size_t hidden = (size_t)shape->hidden, table = (size_t)shape->vocab * hidden;
    size_t in_layer = ((size_t)shape_qkv_columns(shape) + (size_t)shape_q_columns(shape)) * hidden +
                      2 * (hidden + (size_t)shape->head_dim);
    size_t elements = 2 * table + hidden + (size_t)shape->n_layers * in_layer;
    for (int32_t layer = 0; layer < shape->n_layers; ++layer) elements += mlp_elements(shape, layer);
    elements += 128 * (size_t)(9 * shape->n_layers + 3); // alignment
    struct weights *host = &rig->host, *device = &rig->weights;
    *host = (struct weights){.bytes = elements * sizeof(uint16_t)};
    *device = (struct weights){.ops = rig->target->ops, .device = rig->target->device, .bytes = host->bytes};
    host->data = must_allocate(elements, sizeof(uint16_t));
    host->layers = must_allocate((size_t)shape->n_layers, sizeof *host->layers);
    device->layers = must_allocate((size_t)shape->n_layers, sizeof *device->layers);
    device->data = rig->target->ops->alloc(rig->target->device, device->bytes, &err);
    rig_must(device->data != NULL, &err);

    struct weight_writer writer = {.host = host->data, .device = device->data, .seed = options->seed};
    PLACE(embedding, table, 0, 1.0f);
    PLACE(lm_head, table, 0, 0.1f);
    PLACE(final_norm, hidden, 1.0f, 0.3f);
    for (int32_t layer = 0; layer < shape->n_layers; ++layer) make_layer(rig, &writer, layer, options);
    assert_true((size_t)(writer.host - (uint16_t *)host->data) <= elements);
    rig_must(rig->target->ops->copy_to_device(rig->target->device, device->data, host->data, host->bytes, &err), &err);
    rig_must(rig->target->ops->synchronize(rig->target->device, &err), &err);
}

struct rig *rig_create(const struct target *target, const struct rig_options *options) {
    struct error err = {0};
    struct rig *rig = must_allocate(1, sizeof *rig);
    rig->target = target;
    rig->shape = options->shape;
    rig->pool_seed = options->pool_seed;
    rig->ctx = context_create(target->ops, target->device, &rig->shape, &options->limits, &err);
    rig_must(rig->ctx != NULL, &err);
    guard_context(rig);
    make_weights(rig, options);
    return rig;
}

void rig_destroy(struct rig *rig) {
    const struct backend_ops *ops = rig->target->ops;
    for (int32_t i = 0; i < rig->n_guarded; ++i) {
        const struct guarded *guarded = &rig->guarded[i];
        check_guard(rig, guarded->base, i, "before its start");
        check_guard(rig, (const char *)guarded->data + guarded->bytes, i, "after its end");
        ops->free(rig->target->device, guarded->base);
    }
    rig->ctx->scratch = rig->original.scratch;
    rig->ctx->sampling = rig->original.sampling;
    rig->ctx->pool_sums = rig->original.pool_sums;
    rig->ctx->kv = rig->original.kv;
    context_destroy(rig->ctx);
    ops->free(rig->target->device, rig->weights.data);
    free(rig->weights.layers);
    free(rig->host.layers);
    free(rig->host.data);
    free(rig);
}

/* A random order of the pool's blocks. */
static int32_t *shuffled_blocks(const struct rig *rig) {
    int32_t n_blocks = rig->ctx->limits.n_blocks;
    int32_t *blocks = must_allocate((size_t)n_blocks, sizeof *blocks);
    for (int32_t i = 0; i < n_blocks; ++i) {
        int32_t other = (int32_t)(mix(rig->pool_seed * 1000003u + (uint64_t)i) % (uint64_t)(i + 1));
        blocks[i] = blocks[other];
        blocks[other] = i;
    }
    return blocks;
}

size_t rig_kv_index(const struct rig *rig, int32_t seq, int32_t position, int32_t kv_head) {
    const struct context_limits *limits = &rig->ctx->limits;
    const int32_t *table = rig->ctx->host.block_tables + (size_t)seq * (size_t)limits->max_blocks;
    size_t block = (size_t)table[position / limits->block_size];
    size_t head = block * (size_t)rig->shape.n_kv_heads + (size_t)kv_head;
    size_t slot = head * (size_t)limits->block_size + (size_t)(position % limits->block_size);
    return slot * (size_t)rig->shape.head_dim;
}

static void fill_kv(struct rig *rig, bool rows_too) {
    const struct model_shape *shape = &rig->shape;
    size_t plane = kv_plane_elements(rig->ctx);
    float *values = must_allocate(plane, sizeof *values);
    for (int32_t which = 0; which < 2 * shape->n_layers; ++which) {
        for (size_t i = 0; i < plane; ++i) values[i] = NAN;
        for (int32_t s = 0; s < rig->n_seqs; ++s) {
            const struct rig_sequence *seq = &rig->seqs[s];
            int32_t end = rows_too ? seq->start + seq->n_rows : seq->start;
            for (int32_t position = 0; position < end; ++position)
                for (int32_t head = 0; head < shape->n_kv_heads; ++head)
                    for (int32_t d = 0; d < shape->head_dim; ++d)
                        values[rig_kv_index(rig, s, position, head) + (size_t)d] =
                            random_value(seq->content, 100 + (uint64_t)which,
                                         ((uint64_t)position << 20) + (uint64_t)(head * shape->head_dim + d));
        }
        void *to = (char *)rig->ctx->kv.data + (size_t)which * plane * dtype_bytes(rig->ctx->kv.dtype);
        rig_write(rig, to, rig->ctx->kv.dtype, values, plane);
    }
    free(values);
}

void rig_prepare_step(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs) {
    struct error err = {0};
    const struct context_limits *limits = &rig->ctx->limits;
    int32_t *pool = shuffled_blocks(rig), used = 0;
    struct batch_sequence *batch = must_allocate((size_t)n_seqs, sizeof *batch);
    int32_t **tokens = must_allocate((size_t)n_seqs, sizeof *tokens);
    for (int32_t s = 0; s < n_seqs; ++s) {
        const struct rig_sequence *seq = &seqs[s];
        int32_t n_blocks = (seq->start + seq->n_rows + limits->block_size - 1) / limits->block_size;
        if (seq->place > 0) used = (seq->place - 1) * limits->max_blocks;
        assert_true(used + n_blocks <= limits->n_blocks);
        tokens[s] = must_allocate((size_t)seq->n_rows, sizeof **tokens);
        for (int32_t i = 0; i < seq->n_rows; ++i)
            tokens[s][i] = (int32_t)(mix(mix(seq->content) + (uint64_t)(seq->start + i)) % (uint64_t)rig->shape.vocab);
        batch[s] = (struct batch_sequence){.tokens = tokens[s],
                                           .start = seq->start,
                                           .n_rows = seq->n_rows,
                                           .blocks = pool + used,
                                           .n_blocks = n_blocks,
                                           .sample = seq->sample,
                                           .sampling = seq->sampling,
                                           .n_scores = seq->n_scores,
                                           .seat = seq->seat,
                                           .mask = seq->mask,
                                           .n_pooled_rows = seq->n_pooled_rows,
                                           .n_pooled_before = seq->n_pooled_before,
                                           .pools = seq->pools};
        used += n_blocks;
    }
    rig_must(context_prepare(rig->ctx, batch, n_seqs, &err), &err);
    rig_must(rig->target->ops->synchronize(rig->target->device, &err), &err);
    rig->seqs = seqs;
    rig->n_seqs = n_seqs;
    for (int32_t s = 0; s < n_seqs; ++s) free(tokens[s]);
    free(tokens);
    free(batch);
    free(pool);
}

void rig_prepare(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs, bool rows_too) {
    rig_prepare_step(rig, seqs, n_seqs);
    fill_kv(rig, rows_too);
}

#define HIDDEN_STREAM 10

static float row_value(uint64_t content, uint64_t stream, int32_t position, int32_t column) {
    return 2.0f * random_value(content, stream, ((uint64_t)position << 20) + (uint64_t)column);
}

static void fill_rows(struct rig *rig, void *data, enum dtype dtype, int32_t columns, uint64_t stream) {
    const struct batch *batch = &rig->ctx->host;
    float *values = must_allocate((size_t)batch->n_rows * (size_t)columns, sizeof *values);
    for (int32_t r = 0; r < batch->n_rows; ++r) {
        uint64_t content = rig->seqs[batch->row_seqs[r]].content;
        for (int32_t c = 0; c < columns; ++c)
            values[(size_t)r * (size_t)columns + (size_t)c] = row_value(content, stream, batch->positions[r], c);
    }
    rig_write(rig, data, dtype, values, (size_t)batch->n_rows * (size_t)columns);
    free(values);
}

void rig_fill_hidden(struct rig *rig) {
    fill_rows(rig, rig->ctx->scratch.hidden, DTYPE_F32, rig->shape.hidden, HIDDEN_STREAM);
}

float rig_hidden_value(uint64_t content, int32_t position, int32_t column) {
    return row_value(content, HIDDEN_STREAM, position, column);
}

void rig_fill_q(struct rig *rig) {
    fill_rows(rig, rig->ctx->scratch.q, rig->ctx->ops->activation_dtype, shape_q_columns(&rig->shape), 11);
}

void rig_fill_attention(struct rig *rig) {
    fill_rows(rig, rig->ctx->scratch.attention, rig->ctx->ops->activation_dtype, shape_q_columns(&rig->shape), 12);
}

float *rig_read_kv(const struct rig *rig, int32_t layer, int32_t which) {
    const void *plane = which == 0 ? kv_keys(rig->ctx, layer) : kv_values(rig->ctx, layer);
    return rig_read(rig, plane, rig->ctx->kv.dtype, kv_plane_elements(rig->ctx));
}

double relative_error(const float *a, const double *b, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; ++i) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    double error = sqrt(difference / size);
    return isfinite(error) ? error : INFINITY;
}

void check_error(const struct target *target, const char *what, double error, double tolerance) {
    if (!(error <= tolerance))
        fail_msg("%s: %s is %.3g away from the reference, allowed %.3g", target->label, what, error, tolerance);
}
