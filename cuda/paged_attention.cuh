/* What the two kernels of paged_attention share: one for sequences with one row, one for chunks. */
#ifndef QUERN_CUDA_PAGED_ATTENTION_CUH
#define QUERN_CUDA_PAGED_ATTENTION_CUH

#include "cuda/device.cuh"
#include "cuda/math.cuh"

struct attention_params {
    const uint16_t *q;             // [n_rows][n_heads][head_dim]
    const uint16_t *keys, *values; // [n_blocks][n_kv_heads][block_size][head_dim] of this layer
    uint16_t *attention;           // [n_rows][n_heads][head_dim]
    const int32_t *query_starts;   // [n_seqs + 1]
    const int32_t *kv_lens;        // [n_seqs]
    const int32_t *block_tables;   // [n_seqs][max_blocks]
    struct block_divider divider;
    int32_t n_heads, n_kv_heads, max_blocks;
    float scale_log2; // log2(e) / sqrt(head_dim): softmax in powers of two
};

size_t paged_decode_workspace_bytes(const struct model_shape *shape);

bool paged_decode(const struct context *ctx, const struct attention_params *params, struct error *err);
bool paged_prefill(const struct context *ctx, const struct attention_params *params, struct error *err);
/* The same where paged_prefill has no wgmma. */
bool paged_prefill_mma(const struct context *ctx, const struct attention_params *params, struct error *err);
bool paged_prefill_mma_configure(struct error *err);

/* Where the head_dim values of a position begin, in its block. */
__device__ static inline size_t kv_line(const struct attention_params &p, int32_t block, int32_t position,
                                        int32_t kv_head, int head_dim) {
    int32_t offset = position - block_of(p.divider, position) * p.divider.block_size;
    return (((size_t)block * p.n_kv_heads + kv_head) * p.divider.block_size + offset) * head_dim;
}

#endif
