/* The CPU backend's device: its threads and its instruction set; and what the ops keep in scratch.workspace. */
#ifndef QUERN_CPU_DEVICE_H
#define QUERN_CPU_DEVICE_H

#include "cpu/isa.h"
#include "cpu/threads.h"
#include "engine/context.h"

#define SAMPLE_LANES 8 // rows of logits that are sampled at once

struct device {
    struct threads *threads;                  // owned
    int32_t n_ranks;                          // that share this machine
    struct ranks_table *table;                // where ranks meet, owned by all of them; NULL: alone
    const struct isa *isa;                    // static
    float rope_frequencies[MAX_HEAD_DIM / 2]; // theta^(-2i / head_dim) of the prepared shape
};

/* A token that may be sampled. */
struct candidate {
    int32_t token;
    uint32_t weight; // in units of SAMPLING_WEIGHT_ONE
};

/* Up to MAX_QUERIES query heads of one KV head: queries [first, first + count) of the sequence, counted
 * row * (n_heads / n_kv_heads) + head. */
struct attention_item {
    int32_t seq;
    int32_t first;
    int32_t count;
};

/* How the rows of a step are shared out between the experts of a layer. A pair is a row with one of its experts, number
 * row * n_active_experts + k, the k-th by falling weight; pairs are computed in the order of their experts. */
struct routing {
    int32_t *experts; // [pairs]
    float *weights;   // [pairs]
    int32_t *places;  // [pairs] in that order
    int32_t *rows;    // [pairs] in that order: whose row it is
    int32_t *starts;  // [n_experts + 1] the first place of each expert
    int32_t *chunks;  // [n_experts + 1] the first chunk of work of each
    float *outputs;   // [pairs][hidden] in that order, not weighted yet
};

/* Nothing here outlives an op, so that the parts may share memory where no op needs both. */
struct workspace {
    void *packed;                 // [rows or pairs][largest number of inputs], in groups: see isa.h
    float *cosines;               // [max_rows][head_dim / 2]
    float *sines;                 // [max_rows][head_dim / 2]
    struct attention_item *items; // [workspace_max_items]
    struct routing routing;
    struct candidate *candidates[SAMPLE_LANES]; // [vocab + 1] each: the one after the last kept is written
    size_t bytes;
};

/* With a NULL base only bytes has a meaning. */
struct workspace workspace_at(void *base, const struct model_shape *shape, const struct context_limits *limits);

static inline struct workspace workspace_of(const struct context *ctx) {
    return workspace_at(ctx->scratch.workspace, ctx->shape, &ctx->limits);
}

/* The ops. */
struct weights;
bool cpu_prepare_shape(struct device *device, const struct model_shape *shape, struct error *err);
bool cpu_embed(const struct context *ctx, const struct weights *weights, struct error *err);
bool cpu_rmsnorm_qkv_fused(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cpu_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                              struct error *err);
bool cpu_paged_attention(const struct context *ctx, int32_t layer, struct error *err);
bool cpu_attention_output(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cpu_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cpu_pool(const struct context *ctx, const struct weights *weights, struct error *err);
bool cpu_experts(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cpu_lm_head(const struct context *ctx, const struct weights *weights, struct error *err);
bool cpu_adjust(const struct context *ctx, struct error *err);
bool cpu_count(const struct context *ctx, struct error *err);
bool cpu_sample(const struct context *ctx, struct error *err);
bool cpu_score(const struct context *ctx, struct error *err);
bool cpu_share_sampled(const struct context *ctx, struct error *err);
bool cpu_all_reduce(const struct context *ctx, struct error *err);
bool cpu_gather_logits(const struct context *ctx, struct error *err);

bool cpu_ranks_join(struct device *const *devices, int32_t n_ranks, struct error *err);
void cpu_ranks_part(struct device *const *devices, int32_t n_ranks);
void cpu_ranks_break(struct device *device);
void cpu_ranks_describe(const struct device *device, char *text, size_t size);

#endif
