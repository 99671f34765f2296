#include "engine/weights.h"
#include "engine/backend.h"
#include "engine/bf16.h"
#include "engine/checkpoint.h"
#include "engine/dummy_weights.h"
#include "engine/log.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ALIGNMENT     256 // bytes, of each tensor
#define STAGING_BYTES ((size_t)16 << 20)
#define PROGRESS_NS   100000000 // between two lines
#define GB            1e9

enum size { ONE, HIDDEN, Q_COLUMNS, KV_COLUMNS, HEAD_DIM, INTERMEDIATE, VOCAB, N_SIZES };

/* One published tensor and its place: field of struct weights or layer_weights, or right behind the tensor before. */
struct tensor_rule {
    const char *name;
    size_t field;
    enum size rows;
    enum size columns; // ONE: a vector
};
#define JOINED SIZE_MAX

static const struct tensor_rule model_rules[] = {
    {"model.embed_tokens.weight", offsetof(struct weights, embedding), VOCAB, HIDDEN},
    {"model.norm.weight", offsetof(struct weights, final_norm), HIDDEN, ONE},
    {"lm_head.weight", offsetof(struct weights, lm_head), VOCAB, HIDDEN}, // last: absent when tied
};

static const struct tensor_rule layer_rules[] = {
    {"input_layernorm.weight", offsetof(struct layer_weights, input_norm), HIDDEN, ONE},
    {"self_attn.q_proj.weight", offsetof(struct layer_weights, qkv), Q_COLUMNS, HIDDEN},
    {"self_attn.k_proj.weight", JOINED, KV_COLUMNS, HIDDEN},
    {"self_attn.v_proj.weight", JOINED, KV_COLUMNS, HIDDEN},
    {"self_attn.q_norm.weight", offsetof(struct layer_weights, q_norm), HEAD_DIM, ONE},
    {"self_attn.k_norm.weight", offsetof(struct layer_weights, k_norm), HEAD_DIM, ONE},
    {"self_attn.o_proj.weight", offsetof(struct layer_weights, attention_output), HIDDEN, Q_COLUMNS},
    {"post_attention_layernorm.weight", offsetof(struct layer_weights, post_attention_norm), HIDDEN, ONE},
    {"mlp.gate_proj.weight", offsetof(struct layer_weights, gate_up), INTERMEDIATE, HIDDEN},
    {"mlp.up_proj.weight", JOINED, INTERMEDIATE, HIDDEN},
    {"mlp.down_proj.weight", offsetof(struct layer_weights, down), HIDDEN, INTERMEDIATE},
};

#define N_MODEL_RULES (sizeof model_rules / sizeof *model_rules)
#define N_LAYER_RULES (sizeof layer_rules / sizeof *layer_rules)

/* A published tensor of this model: where it goes and where it comes from. */
struct part {
    char name[64];
    int32_t rows;
    int32_t columns;
    int32_t n_dims;                  // 1: a vector of rows
    int32_t layer;                   // -1: of the model
    size_t field;                    // or JOINED
    size_t offset;                   // bytes from weights.data
    const struct safetensor *tensor; // borrowed from the checkpoint; NULL: dummy
};

struct layout {
    struct part *parts; // NULL: only count
    size_t n_parts;
    size_t bytes;
};

static void place(struct layout *layout, const int32_t sizes[N_SIZES], const struct tensor_rule *rule, int32_t layer) {
    if (rule->field != JOINED) layout->bytes = (layout->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    int32_t rows = sizes[rule->rows], columns = sizes[rule->columns];
    if (layout->parts) {
        struct part *part = &layout->parts[layout->n_parts];
        *part = (struct part){
            .rows = rows,
            .columns = columns,
            .n_dims = rule->columns == ONE ? 1 : 2,
            .layer = layer,
            .field = rule->field,
            .offset = layout->bytes,
        };
        if (layer < 0) {
            snprintf(part->name, sizeof part->name, "%s", rule->name);
        } else {
            snprintf(part->name, sizeof part->name, "model.layers.%d.%s", layer, rule->name);
        }
    }
    layout->n_parts++;
    layout->bytes += (size_t)rows * (size_t)columns * sizeof(uint16_t);
}

static void lay_out(struct layout *layout, const struct model_shape *shape) {
    const int32_t sizes[N_SIZES] = {
        [ONE] = 1,
        [HIDDEN] = shape->hidden,
        [Q_COLUMNS] = shape_q_columns(shape),
        [KV_COLUMNS] = shape_kv_columns(shape),
        [HEAD_DIM] = shape->head_dim,
        [INTERMEDIATE] = shape->intermediate,
        [VOCAB] = shape->vocab,
    };
    layout->n_parts = 0;
    layout->bytes = 0;
    size_t n_model_rules = shape->tied_embeddings ? N_MODEL_RULES - 1 : N_MODEL_RULES;
    for (size_t i = 0; i < n_model_rules; i++) place(layout, sizes, &model_rules[i], -1);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        for (size_t i = 0; i < N_LAYER_RULES; i++) place(layout, sizes, &layer_rules[i], layer);
    }
}

size_t weights_bytes(const struct model_shape *shape) {
    struct layout layout = {0};
    lay_out(&layout, shape);
    return layout.bytes;
}

/* Points the fields of weights into weights->data. */
static void assign_fields(struct weights *weights, const struct layout *layout, bool tied) {
    for (size_t i = 0; i < layout->n_parts; i++) {
        const struct part *part = &layout->parts[i];
        if (part->field == JOINED) continue;
        char *owner = part->layer < 0 ? (char *)weights : (char *)&weights->layers[part->layer];
        *(const uint16_t **)(void *)(owner + part->field) =
            (const uint16_t *)(const void *)((char *)weights->data + part->offset);
    }
    if (tied) weights->lm_head = weights->embedding;
}

static bool has_shape(const struct safetensor *tensor, const struct part *part) {
    return tensor->n_dims == part->n_dims && tensor->dims[0] == part->rows &&
           (part->n_dims == 1 || tensor->dims[1] == part->columns);
}

static void describe_shape(char *text, size_t size, const int64_t *dims, int32_t n_dims) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < n_dims && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, i ? ", %lld" : "%lld", (long long)dims[i]);
    }
    if (used < size) snprintf(text + used, size - used, "]");
}

static bool parse_dtype(const char *name, enum dtype *dtype) {
    static const char *const names[] = {[DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16", [DTYPE_F32] = "F32"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *dtype = (enum dtype)i;
        if (strcmp(name, names[i]) == 0) return true;
    }
    return false;
}

static bool resolve_part(struct part *part, const struct checkpoint *checkpoint, struct error *err) {
    const char *path;
    enum dtype dtype;
    part->tensor = checkpoint_find(checkpoint, part->name, &path, err);
    if (!part->tensor) return false;
    if (!has_shape(part->tensor, part)) {
        char found[192], expected[64];
        describe_shape(found, sizeof found, part->tensor->dims, part->tensor->n_dims);
        describe_shape(expected, sizeof expected, (const int64_t[]){part->rows, part->columns}, part->n_dims);
        return fail(err, ERR_INVALID, "%s: tensor %s has the shape %s, the config asks for %s", path, part->name, found,
                    expected);
    }
    if (!parse_dtype(part->tensor->dtype_name, &dtype)) {
        return fail(err, ERR_INVALID, "%s: tensor %s has the dtype %s; BF16, F16 and F32 are supported", path,
                    part->name, part->tensor->dtype_name);
    }
    return true;
}

static bool is_part(const struct layout *layout, const char *name) {
    for (size_t i = 0; i < layout->n_parts; i++) {
        if (strcmp(layout->parts[i].name, name) == 0) return true;
    }
    return false;
}

/* A tensor that nobody reads may be a bias or a layer that the config does not know of. */
static void warn_of_unused(const struct layout *layout, const struct checkpoint *checkpoint, struct log *log) {
    const char *first = NULL;
    int32_t n_unused = 0;
    for (int32_t i = 0; i < checkpoint_count_files(checkpoint); i++) {
        const struct safetensors *file = checkpoint_file(checkpoint, i);
        for (size_t j = 0; j < safetensors_count(file); j++) {
            const char *name = safetensors_at(file, j)->name;
            if (is_part(layout, name) || strcmp(name, "lm_head.weight") == 0) continue;
            if (!first) first = name;
            n_unused++;
        }
    }
    if (n_unused > 0) log_message(log, LOG_WARN, "the weights hold %d unused tensors, first %s", n_unused, first);
}

/* Moves all parts to the device through two staging buffers, so that one is filled while the other is copied. */
struct uploader {
    const struct weights_source *source; // borrowed
    char *device_data;                   // borrowed: weights.data
    char *staging;                       // owned, [2][STAGING_BYTES]
    int32_t next;                        // which of the two
    size_t total_bytes;
    size_t done_bytes;
    int64_t start_ns;
    int64_t reported_ns;
};

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void report(struct uploader *uploader, bool done) {
    int64_t now = now_ns();
    if (!done && now - uploader->reported_ns < PROGRESS_NS) return;
    uploader->reported_ns = now;
    double bytes = (double)uploader->done_bytes;
    double seconds = (double)(now - uploader->start_ns) * 1e-9;
    log_progress(uploader->source->log, done, "%s: %.2f of %.2f GB, %.2f GB/s, %.0f %%",
                 uploader->source->folder ? "weights" : "dummy weights", bytes / GB, (double)uploader->total_bytes / GB,
                 seconds > 0 ? bytes / GB / seconds : 0, 100 * bytes / (double)uploader->total_bytes);
}

static void fill_from_tensor(uint16_t *to, const struct safetensor *tensor, size_t first, size_t count) {
    enum dtype dtype = DTYPE_BF16;
    parse_dtype(tensor->dtype_name, &dtype);
    const char *from = (const char *)tensor->data + first * dtype_bytes(dtype);
    if (dtype == DTYPE_BF16) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    for (size_t i = 0; i < count; i++) { // memcpy: the mapping need not be aligned
        float value;
        uint16_t half;
        if (dtype == DTYPE_F32) {
            memcpy(&value, from + i * sizeof value, sizeof value);
        } else {
            memcpy(&half, from + i * sizeof half, sizeof half);
            value = f32_from_f16(half);
        }
        to[i] = bf16_from_f32(value);
    }
}

static bool upload_part(struct uploader *uploader, const struct part *part, struct error *err) {
    const struct weights_source *source = uploader->source;
    size_t n_elements = (size_t)part->rows * (size_t)part->columns;
    size_t max_count = STAGING_BYTES / sizeof(uint16_t);
    uint64_t key = dummy_weights_key(source->seed, part->name);
    struct dummy_spread spread = dummy_weights_spread(part->name, part->n_dims, part->columns);
    for (size_t first = 0; first < n_elements; first += max_count) {
        size_t count = n_elements - first < max_count ? n_elements - first : max_count;
        uint16_t *staging = (uint16_t *)(void *)(uploader->staging + (size_t)uploader->next * STAGING_BYTES);
        if (part->tensor) {
            fill_from_tensor(staging, part->tensor, first, count);
        } else {
            dummy_weights_fill(staging, first, count, key, spread);
        }
        // The copy before this one has left the other buffer when synchronize returns: it is the next to be filled.
        char *to = uploader->device_data + part->offset + first * sizeof(uint16_t);
        if (!source->ops->synchronize(source->device, err) ||
            !source->ops->copy_to_device(source->device, to, staging, count * sizeof(uint16_t), err)) {
            return false;
        }
        uploader->next ^= 1;
        uploader->done_bytes += count * sizeof(uint16_t);
        report(uploader, false);
    }
    return true;
}

static bool upload(const struct weights *weights, const struct layout *layout, const struct weights_source *source,
                   struct error *err) {
    struct uploader uploader = {
        .source = source, .device_data = weights->data, .start_ns = now_ns(), .reported_ns = now_ns()};
    for (size_t i = 0; i < layout->n_parts; i++) {
        uploader.total_bytes += (size_t)layout->parts[i].rows * (size_t)layout->parts[i].columns * sizeof(uint16_t);
    }
    uploader.staging = source->ops->alloc_host(source->device, 2 * STAGING_BYTES, err);
    if (!uploader.staging) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < layout->n_parts; i++) ok = upload_part(&uploader, &layout->parts[i], err);
    // Also after a failure: the buffers may still be read. That failure's text is the one to keep.
    ok = source->ops->synchronize(source->device, ok ? err : NULL) && ok;
    report(&uploader, true);
    source->ops->free_host(source->device, uploader.staging);
    return ok;
}

/* Checks every tensor before the first byte is copied. */
static bool resolve(struct layout *layout, struct checkpoint *checkpoint, struct log *log, struct error *err) {
    for (size_t i = 0; i < layout->n_parts; i++) {
        if (!resolve_part(&layout->parts[i], checkpoint, err)) return false;
    }
    warn_of_unused(layout, checkpoint, log);
    return true;
}

bool weights_init(struct weights *weights, const struct weights_source *source, struct error *err) {
    *weights = (struct weights){.ops = source->ops, .device = source->device};
    const struct model_shape *shape = source->shape;
    struct layout layout = {0};
    struct checkpoint *checkpoint = NULL;
    bool ok = false;

    lay_out(&layout, shape);
    layout.parts = calloc(layout.n_parts, sizeof *layout.parts);
    weights->layers = calloc((size_t)shape->n_layers, sizeof *weights->layers);
    if (!layout.parts || !weights->layers) {
        fail(err, ERR_MEMORY, "no memory for the list of %zu tensors", layout.n_parts);
        goto done;
    }
    lay_out(&layout, shape);
    if (source->folder) {
        checkpoint = checkpoint_open(source->folder, err);
        if (!checkpoint || !resolve(&layout, checkpoint, source->log, err)) goto done;
    }
    weights->bytes = layout.bytes;
    weights->data = source->ops->alloc(source->device, layout.bytes, err);
    if (!weights->data) goto done;
    assign_fields(weights, &layout, shape->tied_embeddings);
    ok = upload(weights, &layout, source, err);
done:
    checkpoint_close(checkpoint);
    free(layout.parts);
    return ok;
}

void weights_finish(struct weights *weights) {
    if (weights->data) weights->ops->free(weights->device, weights->data);
    free(weights->layers);
    *weights = (struct weights){0};
}
