/* The ops of the table in engine/backend.h. */
#ifndef QUERN_CUDA_OPS_CUH
#define QUERN_CUDA_OPS_CUH

#include "engine/backend.h"

bool cuda_embed(const struct context *ctx, const struct weights *weights, struct error *err);
bool cuda_rmsnorm_qkv_fused(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool rmsnorm_qkv_many(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool rmsnorm_qkv_thin_pays(const struct context *ctx, const struct layer_weights *weights);
bool rmsnorm_qkv_thin(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cuda_rmsnorm_qkv_separate(const struct context *ctx, const struct weights *weights, int32_t layer,
                               struct error *err);
bool cuda_paged_attention(const struct context *ctx, int32_t layer, struct error *err);
bool cuda_attention_output(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cuda_mlp(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);
bool cuda_pool(const struct context *ctx, const struct weights *weights, struct error *err);
bool cuda_lm_head(const struct context *ctx, const struct weights *weights, struct error *err);
bool cuda_adjust(const struct context *ctx, struct error *err);
bool cuda_count(const struct context *ctx, struct error *err);
bool cuda_sample(const struct context *ctx, struct error *err);
bool cuda_score(const struct context *ctx, struct error *err);

bool cuda_share_sampled(const struct context *ctx, struct error *err);
bool cuda_all_reduce(const struct context *ctx, struct error *err);
bool cuda_gather_logits(const struct context *ctx, struct error *err);

bool cuda_ranks_join(struct device *const *devices, int32_t n_ranks, struct error *err);
void cuda_ranks_part(struct device *const *devices, int32_t n_ranks);
void cuda_ranks_break(struct device *device);
void cuda_ranks_describe(const struct device *device, char *text, size_t size);

bool cuda_prepare_shape_fused(struct device *device, const struct model_shape *shape, struct error *err);
bool cuda_prepare_shape_separate(struct device *device, const struct model_shape *shape, struct error *err);
size_t cuda_workspace_bytes(const struct model_shape *shape, const struct context_limits *limits);

struct device *cuda_device_create(const struct device_options *options, struct error *err);
void cuda_device_destroy(struct device *device);
void cuda_device_describe(const struct device *device, char *text, size_t size);
bool cuda_device_memory(struct device *device, struct device_memory *memory, struct error *err);
void *cuda_alloc(struct device *device, size_t bytes, struct error *err);
void cuda_free(struct device *device, void *memory);
void *cuda_alloc_host(struct device *device, size_t bytes, struct error *err);
void cuda_free_host(struct device *device, void *memory);
bool cuda_copy_to_device(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
bool cuda_copy_beside(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
bool cuda_copy_to_host(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
bool cuda_synchronize(struct device *device, struct error *err);
bool cuda_read_begin(struct device *device, int32_t slot, void *to, const void *from, size_t bytes, struct error *err);
bool cuda_read_wait(struct device *device, int32_t slot, struct error *err);
bool cuda_measure_bandwidth(struct device *device, double *bytes_per_second, struct error *err);

bool cuda_recordings_create(struct context *ctx, int32_t *n_recordings, struct error *err);
void cuda_recordings_destroy(struct context *ctx);
bool cuda_record_begin(struct context *ctx, int32_t index, struct error *err);
bool cuda_record_end(struct context *ctx, int32_t index, struct error *err);
int32_t cuda_padded_rows(const struct context *ctx, int32_t n_rows);
bool cuda_replay(const struct context *ctx, bool *replayed, struct error *err);

#endif
