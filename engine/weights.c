#include "engine/weights.h"
#include "engine/backend.h"
#include "engine/bf16.h"
#include "engine/checkpoint.h"
#include "engine/dummy_weights.h"
#include "engine/log.h"
#include "engine/slice.h"
#include "engine/upload.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ALIGNMENT       256       // bytes, of each tensor
#define CONVERTED_COUNT 16384     // elements converted at once: 64 KiB of stack
#define PROGRESS_NS     100000000 // between two lines
#define GB              1e9

enum size {
    ONE,
    HIDDEN,
    Q_COLUMNS,
    KV_COLUMNS,
    HEAD_DIM,
    INTERMEDIATE,
    EXPERTS,
    EXPERT_INTERMEDIATE,
    VOCAB,
    LM_HEAD_ROWS,
    N_SIZES
};

/* Of `whole` rows or columns of a published tensor, those that are kept. */
struct range {
    int32_t first, count, whole;
};

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
    {"lm_head.weight", offsetof(struct weights, lm_head), LM_HEAD_ROWS, HIDDEN}, // last: absent when tied
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
};

static const struct tensor_rule mlp_rules[] = {
    {"mlp.gate_proj.weight", offsetof(struct layer_weights, gate_up), INTERMEDIATE, HIDDEN},
    {"mlp.up_proj.weight", JOINED, INTERMEDIATE, HIDDEN},
    {"mlp.down_proj.weight", offsetof(struct layer_weights, down), HIDDEN, INTERMEDIATE},
};

static const struct tensor_rule router_rule = {"mlp.gate.weight", offsetof(struct layer_weights, router), EXPERTS,
                                               HIDDEN};

/* Of each expert; all gates and ups follow each other, then all downs. */
static const struct tensor_rule gate_up_rules[] = {
    {"gate_proj.weight", offsetof(struct layer_weights, gate_up), EXPERT_INTERMEDIATE, HIDDEN},
    {"up_proj.weight", JOINED, EXPERT_INTERMEDIATE, HIDDEN},
};
static const struct tensor_rule down_rules[] = {
    {"down_proj.weight", offsetof(struct layer_weights, down), HIDDEN, EXPERT_INTERMEDIATE},
};

#define COUNT(rules) (sizeof(rules) / sizeof *(rules))

/* A published tensor of this model: where it goes and where it comes from. */
struct part {
    char name[80];
    struct range rows;
    struct range columns;
    int32_t n_dims;                  // 1: a vector of rows
    int32_t layer;                   // -1: of the model
    size_t field;                    // or JOINED
    size_t offset;                   // bytes from weights.data
    const struct safetensor *tensor; // borrowed from the checkpoint; NULL: dummy
    enum dtype dtype;                // of the tensor
};

struct layout {
    struct part *parts; // NULL: only count
    size_t n_parts;
    size_t bytes;
};

/* Of the model where layer is negative, else of the layer or, where expert is not negative, of that expert in it. */
static void place(struct layout *layout, const struct range sizes[N_SIZES], const struct tensor_rule *rule,
                  int32_t layer, int32_t expert) {
    size_t field = expert > 0 ? JOINED : rule->field;
    if (field != JOINED) layout->bytes = (layout->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct range rows = sizes[rule->rows], columns = sizes[rule->columns];
    if (layout->parts) {
        struct part *part = &layout->parts[layout->n_parts];
        *part = (struct part){
            .rows = rows,
            .columns = columns,
            .n_dims = rule->columns == ONE ? 1 : 2,
            .layer = layer,
            .field = field,
            .offset = layout->bytes,
        };
        if (layer < 0) {
            snprintf(part->name, sizeof part->name, "%s", rule->name);
        } else if (expert >= 0) {
            snprintf(part->name, sizeof part->name, "model.layers.%d.mlp.experts.%d.%s", layer, expert, rule->name);
        } else {
            snprintf(part->name, sizeof part->name, "model.layers.%d.%s", layer, rule->name);
        }
    }
    layout->n_parts++;
    layout->bytes += (size_t)rows.count * (size_t)columns.count * sizeof(uint16_t);
}

static void place_experts(struct layout *layout, const struct range sizes[N_SIZES], int32_t layer) {
    place(layout, sizes, &router_rule, layer, -1);
    for (int32_t expert = 0; expert < sizes[EXPERTS].count; expert++) {
        for (size_t i = 0; i < COUNT(gate_up_rules); i++) place(layout, sizes, &gate_up_rules[i], layer, expert);
    }
    for (int32_t expert = 0; expert < sizes[EXPERTS].count; expert++) {
        for (size_t i = 0; i < COUNT(down_rules); i++) place(layout, sizes, &down_rules[i], layer, expert);
    }
}

static void place_layer(struct layout *layout, const struct range sizes[N_SIZES], int32_t layer, bool has_experts) {
    for (size_t i = 0; i < COUNT(layer_rules); i++) place(layout, sizes, &layer_rules[i], layer, -1);
    if (has_experts) {
        place_experts(layout, sizes, layer);
    } else {
        for (size_t i = 0; i < COUNT(mlp_rules); i++) place(layout, sizes, &mlp_rules[i], layer, -1);
    }
}

static struct range all_of(int32_t count) {
    return (struct range){.count = count, .whole = count};
}

/* The part's share of what the ranks split evenly. */
static struct range share_of(const struct model_shape *part, int32_t count, int32_t whole) {
    return (struct range){.first = part->slice.rank * count, .count = count, .whole = whole};
}

/* With the part as `whole` the sizes are right and the rest has no meaning: enough to count bytes. */
static void lay_out(struct layout *layout, const struct model_shape *shape, const struct model_shape *whole) {
    const struct range sizes[N_SIZES] = {
        [ONE] = all_of(1),
        [HIDDEN] = all_of(shape->hidden),
        [Q_COLUMNS] = share_of(shape, shape_q_columns(shape), shape_q_columns(whole)),
        [KV_COLUMNS] = {.first = slice_first_kv_head(whole, shape->slice) * shape->head_dim,
                        .count = shape_kv_columns(shape),
                        .whole = shape_kv_columns(whole)},
        [HEAD_DIM] = all_of(shape->head_dim),
        [INTERMEDIATE] = share_of(shape, shape->intermediate, whole->intermediate),
        [EXPERTS] = all_of(shape->n_experts),
        [EXPERT_INTERMEDIATE] = share_of(shape, shape->expert_intermediate, whole->expert_intermediate),
        [VOCAB] = all_of(shape->vocab),
        [LM_HEAD_ROWS] = {.first = shape_vocab_first(shape), .count = shape_vocab_part(shape), .whole = shape->vocab},
    };
    layout->n_parts = 0;
    layout->bytes = 0;
    size_t n_model_rules = shape->tied_embeddings ? COUNT(model_rules) - 1 : COUNT(model_rules);
    for (size_t i = 0; i < n_model_rules; i++) place(layout, sizes, &model_rules[i], -1, -1);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        place_layer(layout, sizes, layer, shape_has_experts(shape, layer));
    }
}

size_t weights_bytes(const struct model_shape *shape) {
    struct layout layout = {0};
    lay_out(&layout, shape, shape);
    return layout.bytes;
}

/* Points the fields of weights into weights->data. */
static void assign_fields(struct weights *weights, const struct layout *layout, const struct model_shape *shape) {
    for (size_t i = 0; i < layout->n_parts; i++) {
        const struct part *part = &layout->parts[i];
        if (part->field == JOINED) continue;
        char *owner = part->layer < 0 ? (char *)weights : (char *)&weights->layers[part->layer];
        *(const uint16_t **)(void *)(owner + part->field) =
            (const uint16_t *)(const void *)((char *)weights->data + part->offset);
    }
    if (shape->tied_embeddings)
        weights->lm_head = weights->embedding + (size_t)shape_vocab_first(shape) * (size_t)shape->hidden;
}

static bool has_shape(const struct safetensor *tensor, const struct part *part) {
    return tensor->n_dims == part->n_dims && tensor->dims[0] == part->rows.whole &&
           (part->n_dims == 1 || tensor->dims[1] == part->columns.whole);
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
    part->tensor = checkpoint_find(checkpoint, part->name, &path, err);
    if (!part->tensor) return false;
    if (!has_shape(part->tensor, part)) {
        char found[192], expected[64];
        describe_shape(found, sizeof found, part->tensor->dims, part->tensor->n_dims);
        describe_shape(expected, sizeof expected, (const int64_t[]){part->rows.whole, part->columns.whole},
                       part->n_dims);
        return fail(err, ERR_INVALID, "%s: tensor %s has the shape %s, the config asks for %s", path, part->name, found,
                    expected);
    }
    if (!parse_dtype(part->tensor->dtype_name, &part->dtype)) {
        return fail(err, ERR_INVALID, "%s: tensor %s has the dtype %s; BF16, F16 and F32 are supported", path,
                    part->name, part->tensor->dtype_name);
    }
    return true;
}

static int by_address(const void *a, const void *b) {
    uintptr_t left = (uintptr_t)((const struct part *)a)->tensor, right = (uintptr_t)((const struct part *)b)->tensor;
    return (left > right) - (left < right);
}

static bool is_part(const struct layout *layout, const struct safetensor *tensor) {
    const struct part key = {.tensor = tensor};
    return bsearch(&key, layout->parts, layout->n_parts, sizeof key, by_address) != NULL;
}

/* A tensor that nobody reads may be a bias or a layer that the config does not know of. Sorts the parts: with 128
 * experts there are 18,000. */
static void warn_of_unused(struct layout *layout, const struct checkpoint *checkpoint, struct log *log) {
    qsort(layout->parts, layout->n_parts, sizeof *layout->parts, by_address);
    const char *first = NULL;
    int32_t n_unused = 0;
    for (int32_t i = 0; i < checkpoint_count_files(checkpoint); i++) {
        const struct safetensors *file = checkpoint_file(checkpoint, i);
        for (size_t j = 0; j < safetensors_count(file); j++) {
            const struct safetensor *tensor = safetensors_at(file, j);
            if (is_part(layout, tensor) || strcmp(tensor->name, "lm_head.weight") == 0) continue;
            if (!first) first = tensor->name;
            n_unused++;
        }
    }
    if (n_unused > 0) log_message(log, LOG_WARN, "the weights hold %d unused tensors, first %s", n_unused, first);
}

struct loading {
    const struct weights_source *source; // borrowed
    const struct layout *layout;         // borrowed
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

static void report(struct loading *loading, bool done) {
    int64_t now = now_ns();
    if (!done && now - loading->reported_ns < PROGRESS_NS) return;
    loading->reported_ns = now;
    double bytes = (double)loading->done_bytes;
    double seconds = (double)(now - loading->start_ns) * 1e-9;
    log_progress(loading->source->log, done, "%s: %.2f of %.2f GB, %.2f GB/s, %.0f %%",
                 loading->source->folder ? "weights" : "dummy weights", bytes / GB, (double)loading->total_bytes / GB,
                 seconds > 0 ? bytes / GB / seconds : 0, 100 * bytes / (double)loading->total_bytes);
}

static void add_copied(void *user, size_t n_bytes) {
    struct loading *loading = user;
    loading->done_bytes += n_bytes;
    report(loading, false);
}

/* The next three: elements [first, first + count) of the whole tensor. */
static bool read_converted(const struct part *part, size_t first, size_t count, uint16_t *to, struct error *err) {
    union {
        float wide[CONVERTED_COUNT];
        uint16_t half[CONVERTED_COUNT];
    } from;
    size_t width = dtype_bytes(part->dtype);
    for (size_t done = 0; done < count;) {
        size_t n = count - done < CONVERTED_COUNT ? count - done : CONVERTED_COUNT;
        if (!safetensor_read(part->tensor, (first + done) * width, n * width, &from, err)) return false;
        for (size_t i = 0; i < n; i++) {
            to[done + i] = bf16_from_f32(part->dtype == DTYPE_F32 ? from.wide[i] : f32_from_f16(from.half[i]));
        }
        done += n;
    }
    return true;
}

static void make_dummy(const struct loading *loading, const struct part *part, size_t first, size_t count,
                       uint16_t *to) {
    dummy_weights_fill(to, first, count, dummy_weights_key(loading->source->seed, part->name),
                       dummy_weights_spread(part->name, part->n_dims, part->columns.whole));
}

static bool make_run(const struct loading *loading, const struct part *part, size_t first, size_t count, uint16_t *to,
                     struct error *err) {
    if (!part->tensor) {
        make_dummy(loading, part, first, count, to);
        return true;
    }
    if (part->dtype != DTYPE_BF16) return read_converted(part, first, count, to, err);
    return safetensor_read(part->tensor, first * sizeof *to, count * sizeof *to, to, err);
}

/* On several threads at once. Where columns are left out, a run of elements ends with each row. */
static bool make_piece(void *user, const struct upload_piece *piece, struct error *err) {
    const struct loading *loading = user;
    const struct part *part = &loading->layout->parts[piece->target];
    size_t columns = (size_t)part->columns.count, whole = (size_t)part->columns.whole;
    size_t at = piece->first / sizeof(uint16_t), end = at + piece->n_bytes / sizeof(uint16_t);
    uint16_t *to = piece->memory;
    while (at < end) {
        size_t row = at / columns, column = at % columns, run = columns == whole ? end - at : columns - column;
        size_t first = (row + (size_t)part->rows.first) * whole + column + (size_t)part->columns.first;
        if (run > end - at) run = end - at;
        if (!make_run(loading, part, first, run, to, err)) return false;
        at += run;
        to += run;
    }
    return true;
}

static bool load(const struct weights *weights, const struct layout *layout, const struct weights_source *source,
                 struct error *err) {
    struct upload_target *targets = calloc(layout->n_parts, sizeof *targets);
    if (!targets) return fail(err, ERR_MEMORY, "no memory for the list of %zu tensors", layout->n_parts);
    struct loading loading = {.source = source, .layout = layout, .start_ns = now_ns(), .reported_ns = now_ns()};
    for (size_t i = 0; i < layout->n_parts; i++) {
        const struct part *part = &layout->parts[i];
        targets[i].to = (char *)weights->data + part->offset;
        targets[i].n_bytes = (size_t)part->rows.count * (size_t)part->columns.count * sizeof(uint16_t);
        loading.total_bytes += targets[i].n_bytes;
    }
    const struct upload upload = {
        .ops = source->ops,
        .device = source->device,
        .targets = targets,
        .n_targets = layout->n_parts,
        .make = make_piece,
        .copied = add_copied,
        .user = &loading,
    };
    bool ok = upload_run(&upload, err);
    report(&loading, true);
    free(targets);
    return ok;
}

/* Tensors in the order in which their files hold them: a disk reads ahead. */
static int by_place(const void *a, const void *b) {
    const char *left = ((const struct part *)a)->tensor->data, *right = ((const struct part *)b)->tensor->data;
    return (left > right) - (left < right);
}

/* A model that was saved without its head, as Qwen3-Embedding is: its names lack "model.". Where the config expects an
 * lm_head of its own there is none; states, and what is pooled of them, do not depend on it. */
static void drop_prefix(struct layout *layout, const struct checkpoint *checkpoint, struct log *log) {
    static const char prefix[] = "model.", first[] = "embed_tokens.weight";
    const char *path;
    if (!checkpoint_find(checkpoint, first, &path, NULL)) return;
    for (size_t i = 0; i < layout->n_parts; i++) {
        struct part *part = &layout->parts[i];
        if (strncmp(part->name, prefix, sizeof prefix - 1) == 0) {
            memmove(part->name, part->name + sizeof prefix - 1, strlen(part->name) - sizeof prefix + 2);
        } else if (!checkpoint_find(checkpoint, part->name, &path, NULL)) {
            log_message(log, LOG_WARN, "the weights have no %s: this model embeds, what it generates means nothing",
                        part->name);
            memcpy(part->name, first, sizeof first);
        }
    }
}

/* Checks every tensor before the first byte is copied. */
static bool resolve(struct layout *layout, struct checkpoint *checkpoint, struct log *log, struct error *err) {
    drop_prefix(layout, checkpoint, log);
    for (size_t i = 0; i < layout->n_parts; i++) {
        if (!resolve_part(&layout->parts[i], checkpoint, err)) return false;
    }
    warn_of_unused(layout, checkpoint, log);
    qsort(layout->parts, layout->n_parts, sizeof *layout->parts, by_place);
    return true;
}

bool weights_init(struct weights *weights, const struct weights_source *source, struct error *err) {
    *weights = (struct weights){.ops = source->ops, .device = source->device};
    struct model_shape part;
    const struct model_shape *shape = &part;
    struct layout layout = {0};
    struct checkpoint *checkpoint = NULL;
    bool ok = false;

    if (!slice_shape(&part, source->shape, source->slice, err)) return false;
    lay_out(&layout, shape, source->shape);
    layout.parts = calloc(layout.n_parts, sizeof *layout.parts);
    weights->layers = calloc((size_t)shape->n_layers, sizeof *weights->layers);
    if (!layout.parts || !weights->layers) {
        fail(err, ERR_MEMORY, "no memory for the list of %zu tensors", layout.n_parts);
        goto done;
    }
    lay_out(&layout, shape, source->shape);
    if (source->folder) {
        checkpoint = checkpoint_open(source->folder, err);
        if (!checkpoint || !resolve(&layout, checkpoint, source->log, err)) goto done;
    }
    weights->bytes = layout.bytes;
    weights->data = source->ops->alloc(source->device, layout.bytes, err);
    if (!weights->data) goto done;
    assign_fields(weights, &layout, shape);
    ok = load(weights, &layout, source, err);
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
