/* A loaded model with its context, driven step by step without an engine, so that tests see every tensor. */
#ifndef QUERN_TESTS_MODEL_DEMO_H
#define QUERN_TESTS_MODEL_DEMO_H

#include "engine/context.h"
#include "engine/model_config.h"
#include "engine/weights.h"
#include "tests/kernels/harness.h"

#include <cjson/cJSON.h>

#define MAX_NEW 160 // tokens that a golden case has at most

/* A model that knows the demo's skills, and what transformers recorded of it. */
struct demo_model {
    const char *name;
    const char *folder;
    const char *golden;    // golden.json
    const char *layers;    // layers.safetensors
    int32_t last_recorded; // layer in the latter: 0, 3 and this one
};
extern const struct demo_model demo_dense, demo_experts;

struct demo {
    const struct target *target; // borrowed
    struct model_config config;
    struct weights weights;
    struct context *ctx;
};

/* limits.n_blocks and max_blocks are derived: every sequence of a step has room for max_len tokens. */
struct demo *demo_open(const struct target *target, const struct demo_model *model, struct context_limits limits,
                       int32_t max_len);
/* shape_file: NULL for the dense demo model, else a config.json, with dummy weights from seed 0. */
struct demo *demo_open_shape(const struct target *target, const char *shape_file, struct context_limits limits,
                             int32_t max_len);
void demo_close(struct demo *demo);

/* Runs context_prepare: sequence i of the step uses the i-th part of the pool. */
void demo_prepare(struct demo *demo, struct batch_sequence *seqs, int32_t n_seqs, const int32_t *places);

/* One prompt and what was generated from it, greedily. */
struct trace {
    const int32_t *prompt;
    int32_t n_prompt;
    int32_t n_new; // at most MAX_NEW
    int32_t tokens[MAX_NEW];
    int32_t n_tokens;
    float *logits; // [n_tokens][vocab], owned
    int32_t n_computed, place;
};

/* All traces at once, at most chunk rows of prompt in a step, decode rows besides. Ends at an end token or n_new. */
void demo_generate(struct demo *demo, struct trace *traces, int32_t n_traces, int32_t chunk);
void traces_free(struct trace *traces, int32_t n_traces);

/* Host copy of device values as float32, the caller's to free. */
float *demo_read(const struct demo *demo, const void *data, enum dtype dtype, size_t count);

cJSON *read_json(const char *path); // ends the test when that fails
int32_t *json_ids(const cJSON *array, int32_t *count);

#endif
