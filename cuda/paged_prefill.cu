/* Attention of chunks of rows on compute capability 9.0, in the manner of FlashAttention-3 (Shah et al., 2024): two
 * warpgroups of 64 rows each against tiles of 128 keys from position 0 on; a third brings the keys and values. While
 * one warpgroup weighs its scores, the other has the tensor cores.
 *
 * A row is one query head at one token: the heads of a KV head lie side by side, so that a short chunk fills a tile and
 * shares its keys. A tile of keys that a row does not see changes none of its values (its weights are 0, its correction
 * is 1), so a row's result does not depend on the other rows of its chunk. P is rounded to bf16, as is the result. */
#include "cuda/launch.cuh"
#include "cuda/prefill_consumer.cuh"
#include "cuda/prefill_producer.cuh"

#include <cudaTypedefs.h>

/* Grid: a block on each SM, or fewer for few items. For an item a block reads 4 * head_dim bytes for each key up to its
 * last row, and moves 2 * head_dim in and out for each row. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(PREFILL_THREADS, 1)
    paged_prefill_kernel(const __grid_constant__ struct prefill_params p) {
#if HAVE_WGMMA
    __shared__ struct prefill_shared shared;
    extern __shared__ unsigned char unaligned[];
    unsigned char *tiles = unaligned + (-shared_address(unaligned) & (TILE_ALIGN - 1));
    if (threadIdx.x == 0) {
        tma_prefetch(&p.q);
        tma_prefetch(&p.keys);
        tma_prefetch(&p.values);
        ring<QUERY_STAGES>(shared.queries).init();
        ring<STAGES>(shared.keys).init();
        ring<STAGES>(shared.values).init();
        barrier_init_done();
    }
    __syncthreads();
    let_next_begin();
    wait_for_previous();
    if (threadIdx.x < WARPGROUP) {
        give_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x < WARP) produce<HEAD_DIM>(p, &shared, shared_address(tiles));
    } else {
        take_registers<CONSUMER_REGISTERS>();
        consume<HEAD_DIM>(p, &shared, tiles);
    }
#endif
}

template <int HEAD_DIM> static bool configure(struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(paged_prefill_kernel<HEAD_DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)layout<HEAD_DIM>::bytes + TILE_ALIGN),
             err);
    return true;
}

/* device->encode_map, where the device has wgmma and the driver the call. */
static bool find_encoder(struct device *device, struct error *err) {
    cudaFuncAttributes attributes;
    if (device->properties.major != 9) return true;
    CUDA_TRY(cudaFuncGetAttributes(&attributes, paged_prefill_kernel<128>), err);
    if (attributes.sharedSizeBytes == 0) return true; // built without wgmma: no barriers

    void *encode_map = NULL;
    cudaDriverEntryPointQueryResult found;
    CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode_map, 12000, cudaEnableDefault, &found),
             err);
    if (found == cudaDriverEntryPointSuccess) device->encode_map = encode_map;
    return true;
}

bool paged_prefill_configure(struct device *device, struct error *err) {
    if (!paged_prefill_mma_configure(err) || !find_encoder(device, err)) return false;
    if (!device->encode_map) return true;
    CUDA_TRY(cudaMalloc((void **)&device->prefill_claims, sizeof *device->prefill_claims), err);
    CUDA_TRY(cudaMemsetAsync(device->prefill_claims, 0, sizeof *device->prefill_claims, device->stream), err);
    return configure<64>(err) && configure<128>(err);
}

/* A map of bf16, extents and box from head_dim outwards, whose boxes arrive swizzled. */
struct box_map {
    const uint16_t *base;
    uint32_t n_dimensions;
    cuuint64_t extents[3];
    cuuint32_t box[3];
};
static bool encode(const struct device *device, CUtensorMap *map, const struct box_map *from, struct error *err) {
    cuuint64_t strides[2] = {from->extents[0] * sizeof *from->base,
                             from->extents[0] * from->extents[1] * sizeof *from->base};
    cuuint32_t steps[3] = {1, 1, 1};
    CUresult status = ((PFN_cuTensorMapEncodeTiled_v12000)device->encode_map)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, from->n_dimensions, (void *)from->base, from->extents, strides,
        from->box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) return fail(err, ERR_DEVICE, "a tensor map for attention: CUDA error %d", (int)status);
    return true;
}

static bool params_from(const struct context *ctx, const struct attention_params *attention,
                        struct prefill_params *params, struct error *err) {
    const struct batch *batch = &ctx->batch;
    const int32_t *starts = ctx->host.query_starts;
    int32_t head_dim = ctx->shape->head_dim, block_size = ctx->kv.block_size;
    int32_t group = attention->n_heads / attention->n_kv_heads, tile_tokens = TILE_ROWS / group, n_tiles = 0;
    for (int32_t s = batch->n_decode; s < batch->n_seqs; ++s)
        n_tiles += divide_up(starts[s + 1] - starts[s], tile_tokens);
    params->attention = *attention;
    params->first_seq = batch->n_decode;
    params->n_chunks = batch->n_seqs - batch->n_decode;
    params->n_items = n_tiles * attention->n_kv_heads;
    params->max_tiles = divide_up(batch->max_query_len, tile_tokens);
    params->box_keys = block_size & -block_size;
    if (params->box_keys > TILE_KEYS) params->box_keys = TILE_KEYS;
    params->group = group;
    params->by_group = divide_up(1 << 16, group);
    params->tile_tokens = tile_tokens;
    params->claims = ctx->device->prefill_claims;

    cuuint64_t lines = (cuuint64_t)ctx->kv.n_blocks * (cuuint64_t)attention->n_kv_heads * (cuuint64_t)block_size;
    struct box_map q = {attention->q,
                        3,
                        {(cuuint64_t)head_dim, (cuuint64_t)attention->n_heads, (cuuint64_t)batch->n_rows},
                        {64, (cuuint32_t)group, (cuuint32_t)tile_tokens}};
    struct box_map keys = {attention->keys, 2, {(cuuint64_t)head_dim, lines}, {64, (cuuint32_t)params->box_keys}};
    struct box_map values = keys;
    values.base = attention->values;
    return encode(ctx->device, &params->q, &q, err) && encode(ctx->device, &params->keys, &keys, err) &&
           encode(ctx->device, &params->values, &values, err);
}

bool paged_prefill(const struct context *ctx, const struct attention_params *attention, struct error *err) {
    if (!ctx->device->encode_map || attention->n_heads / attention->n_kv_heads > TILE_ROWS)
        return paged_prefill_mma(ctx, attention, err);
    struct prefill_params params;
    if (!params_from(ctx, attention, &params, err)) return false;
    bool narrow = ctx->shape->head_dim == 64;
    int32_t n_sms = ctx->device->properties.multiProcessorCount;
    struct launch launch = {dim3((unsigned)(params.n_items < n_sms ? params.n_items : n_sms)), dim3(PREFILL_THREADS),
                            (narrow ? layout<64>::bytes : layout<128>::bytes) + TILE_ALIGN};
    return launch_kernel(ctx->device, launch, narrow ? paged_prefill_kernel<64> : paged_prefill_kernel<128>, err,
                         params);
}
