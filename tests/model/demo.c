#include "tests/model/demo.h"

#include "engine/backend.h"
#include "engine/model.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXTURES "tests/fixtures/"

const struct demo_model demo_dense = {"dense", "models/demo", FIXTURES "golden/golden.json",
                                      FIXTURES "golden/layers.safetensors", 6};
const struct demo_model demo_experts = {"experts", FIXTURES "demo-moe", FIXTURES "golden-moe/golden.json",
                                        FIXTURES "golden-moe/layers.safetensors", 5};

/* Exactly one of folder and shape_file. */
static struct demo *open_model(const struct target *target, const char *folder, const char *shape_file,
                               struct context_limits limits, int32_t max_len) {
    struct error err = {0};
    struct demo *demo = calloc(1, sizeof *demo);
    demo->target = target;
    rig_must(shape_file ? model_config_load_file(&demo->config, shape_file, &err)
                        : model_config_load(&demo->config, folder, &err),
             &err);
    struct weights_source source = {
        .ops = target->ops, .device = target->device, .shape = &demo->config.shape, .folder = folder};
    rig_must(weights_init(&demo->weights, &source, &err), &err);
    limits.max_blocks = (max_len + limits.block_size - 1) / limits.block_size;
    limits.n_blocks = limits.max_blocks * limits.max_seqs;
    demo->ctx = context_create(target->ops, target->device, &demo->config.shape, &limits, &err);
    rig_must(demo->ctx != NULL, &err);
    return demo;
}

struct demo *demo_open(const struct target *target, const struct demo_model *model, struct context_limits limits,
                       int32_t max_len) {
    return open_model(target, model->folder, NULL, limits, max_len);
}

struct demo *demo_open_shape(const struct target *target, const char *shape_file, struct context_limits limits,
                             int32_t max_len) {
    return open_model(target, shape_file ? NULL : demo_dense.folder, shape_file, limits, max_len);
}

void demo_close(struct demo *demo) {
    context_destroy(demo->ctx);
    weights_finish(&demo->weights);
    free(demo);
}

void demo_prepare(struct demo *demo, struct batch_sequence *seqs, int32_t n_seqs, const int32_t *places) {
    struct error err = {0};
    int32_t max_blocks = demo->ctx->limits.max_blocks;
    int32_t *blocks = calloc((size_t)n_seqs * (size_t)max_blocks, sizeof *blocks);
    for (int32_t s = 0; s < n_seqs; ++s) {
        int32_t *own = blocks + s * max_blocks;
        for (int32_t b = 0; b < max_blocks; ++b) // scattered: no two neighbours in memory
            own[b] = (places[s] + b * demo->ctx->limits.max_seqs) % demo->ctx->limits.n_blocks;
        seqs[s].blocks = own;
        seqs[s].n_blocks = max_blocks;
    }
    rig_must(context_prepare(demo->ctx, seqs, n_seqs, &err), &err);
    free(blocks);
}

static bool is_eos(const struct demo *demo, int32_t token) {
    for (int32_t i = 0; i < demo->config.n_eos_ids; ++i) {
        if (demo->config.eos_ids[i] == token) return true;
    }
    return false;
}

static bool is_done(const struct demo *demo, const struct trace *trace) {
    return trace->n_tokens == trace->n_new || (trace->n_tokens > 0 && is_eos(demo, trace->tokens[trace->n_tokens - 1]));
}

static int32_t plan(struct demo *demo, struct trace *traces, int32_t n_traces, int32_t chunk, bool decode,
                    struct batch_sequence *seqs, struct trace **order) {
    int32_t n = 0;
    for (int32_t t = 0; t < n_traces; ++t) {
        struct trace *trace = &traces[t];
        int32_t left = trace->n_prompt - trace->n_computed;
        int32_t n_rows = left > 0 ? (left < chunk ? left : chunk) : 1;
        if (is_done(demo, trace) || n_rows == 0 || (n_rows == 1) != decode) continue;
        seqs[n] = (struct batch_sequence){
            .tokens = left > 0 ? trace->prompt + trace->n_computed : &trace->tokens[trace->n_tokens - 1],
            .start = trace->n_computed,
            .n_rows = n_rows,
            .sample = left <= n_rows,
        };
        order[n++] = trace;
        if (left > 0) chunk -= n_rows;
    }
    return n;
}

void demo_generate(struct demo *demo, struct trace *traces, int32_t n_traces, int32_t chunk) {
    struct batch_sequence seqs[64];
    struct trace *order[64];
    int32_t places[64];
    size_t vocab = (size_t)demo->config.shape.vocab;
    assert_in_range(n_traces, 1, 64);
    for (int32_t t = 0; t < n_traces; ++t) {
        traces[t].place = t;
        traces[t].n_computed = traces[t].n_tokens = 0;
        traces[t].logits = malloc((size_t)traces[t].n_new * vocab * sizeof(float));
    }
    for (;;) {
        struct error err = {0};
        int32_t n_decode = plan(demo, traces, n_traces, chunk, true, seqs, order);
        int32_t n_seqs = n_decode + plan(demo, traces, n_traces, chunk, false, seqs + n_decode, order + n_decode);
        if (n_seqs == 0) return;
        for (int32_t s = 0; s < n_seqs; ++s) places[s] = order[s]->place;
        demo_prepare(demo, seqs, n_seqs, places);
        rig_must(model_forward(demo->ctx, &demo->weights, &err), &err);
        int32_t n_samples = demo->ctx->batch.n_samples, sampled[64];
        float *logits = demo_read(demo, demo->ctx->scratch.logits, DTYPE_F32, (size_t)n_samples * vocab);
        rig_must(demo->target->ops->copy_to_host(demo->target->device, sampled, demo->ctx->scratch.sampled,
                                                 sizeof sampled, &err),
                 &err);
        for (int32_t s = 0, sample = 0; s < n_seqs; ++s) {
            struct trace *trace = order[s];
            trace->n_computed += seqs[s].n_rows;
            if (!seqs[s].sample) continue;
            memcpy(trace->logits + (size_t)trace->n_tokens * vocab, logits + (size_t)sample * vocab,
                   vocab * sizeof(float));
            trace->tokens[trace->n_tokens++] = sampled[sample++];
        }
        free(logits);
    }
}

void traces_free(struct trace *traces, int32_t n_traces) {
    for (int32_t t = 0; t < n_traces; ++t) free(traces[t].logits);
}

float *demo_read(const struct demo *demo, const void *data, enum dtype dtype, size_t count) {
    struct rig rig = {.target = demo->target}; // what rig_read needs of one
    return rig_read(&rig, data, dtype, count);
}

cJSON *read_json(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s cannot be read", path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(size + 1);
    size_t n_read = fread(text, 1, size, file);
    fclose(file);
    cJSON *json = cJSON_ParseWithLength(text, n_read);
    free(text);
    if (!json) fail_msg("%s is not JSON", path);
    return json;
}

int32_t *json_ids(const cJSON *array, int32_t *count) {
    int32_t *ids = malloc((size_t)cJSON_GetArraySize(array) * sizeof *ids);
    *count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array) ids[(*count)++] = item->valueint;
    return ids;
}
