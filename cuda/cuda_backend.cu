#include "cuda/cuda_backend.h"

#include "cuda/ops.cuh"

typedef bool prepare_op(struct device *, const struct model_shape *, struct error *);
typedef bool layer_op(const struct context *, const struct weights *, int32_t, struct error *);

static constexpr struct backend_ops backend_with(prepare_op *prepare_shape, layer_op *rmsnorm_qkv) {
    return {
        .name = "cuda",
        .activation_dtype = DTYPE_BF16,
        .kv_dtype = DTYPE_BF16,
        .default_batch_tokens = 4096,
        .default_kv_bytes = 0,
        .asynchronous = true,
        .device_create = cuda_device_create,
        .device_destroy = cuda_device_destroy,
        .device_describe = cuda_device_describe,
        .device_memory = cuda_device_memory,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .alloc_host = cuda_alloc_host,
        .free_host = cuda_free_host,
        .copy_to_device = cuda_copy_to_device,
        .copy_beside = cuda_copy_beside,
        .copy_to_host = cuda_copy_to_host,
        .synchronize = cuda_synchronize,
        .read_begin = cuda_read_begin,
        .read_wait = cuda_read_wait,
        .measure_bandwidth = cuda_measure_bandwidth,
#ifdef QUERN_NCCL
        .ranks_join = cuda_ranks_join,
        .ranks_part = cuda_ranks_part,
        .ranks_break = cuda_ranks_break,
        .ranks_describe = cuda_ranks_describe,
#endif
        .prepare_shape = prepare_shape,
        .workspace_bytes = cuda_workspace_bytes,
        .recordings_create = cuda_recordings_create,
        .recordings_destroy = cuda_recordings_destroy,
        .record_begin = cuda_record_begin,
        .record_end = cuda_record_end,
        .padded_rows = cuda_padded_rows,
        .replay = cuda_replay,
        .embed = cuda_embed,
        .rmsnorm_qkv = rmsnorm_qkv,
        .paged_attention = cuda_paged_attention,
        .attention_output = cuda_attention_output,
        .mlp = cuda_mlp,
        .pool = cuda_pool,
#ifdef QUERN_NCCL
        .share_sampled = cuda_share_sampled,
        .all_reduce = cuda_all_reduce,
        .gather_logits = cuda_gather_logits,
#endif
        .lm_head = cuda_lm_head,
        .adjust = cuda_adjust,
        .sample = cuda_sample,
        .count = cuda_count,
        .score = cuda_score,
    };
}

static constexpr struct backend_ops fused_ops = backend_with(cuda_prepare_shape_fused, cuda_rmsnorm_qkv_fused);
static constexpr struct backend_ops separate_ops = backend_with(cuda_prepare_shape_separate, cuda_rmsnorm_qkv_separate);

extern "C" const struct backend_ops *cuda_backend(bool fused) {
    return fused ? &fused_ops : &separate_ops;
}
