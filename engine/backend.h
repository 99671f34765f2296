/* The op table: what a device can do, and nothing else the engine knows of it.
 *
 * cpu/ is the definition, cuda/ the fast copy; a test holds them equal op by op. Every op takes the step's context,
 * writes only scratch and kv, is asynchronous where the device is, and fails with ERR_DEVICE. Copies to the device from
 * alloc_host memory may be asynchronous too: that memory must keep its content until copy_to_host, read_wait or
 * synchronize has waited for what came later. Ops run in the order they are called. What an asynchronous device readies
 * for a number of rows, it readies for all up to the next eighth of a power of two, from 64 on. `x` below is
 * scratch.hidden (float32); `act` is activation_dtype; sums are float32.
 */
#ifndef QUERN_ENGINE_BACKEND_H
#define QUERN_ENGINE_BACKEND_H

#include "engine/context.h"
#include "engine/error.h"
#include "engine/weights.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device; // defined by each backend for itself

struct device_options {
    int32_t n_threads;   // worker threads of the CPU backend for all ranks, the callers included; 0: all cores
    const char *cpu_isa; // "auto" or NULL: the best there is; "plain", "avx2", "avx512", "avx512bf16", "amx"
    int32_t index;       // which device of several: that of the rank
    int32_t n_ranks;     // that share this machine; 0 as 1
};

struct device_memory {
    size_t free_bytes;
    size_t total_bytes;
};

struct backend_ops {
    const char *name; // "cpu", "cuda"
    enum dtype activation_dtype;
    enum dtype kv_dtype;
    int32_t default_batch_tokens; // rows of one step when the user does not say
    size_t default_kv_bytes;      // likewise for the KV pool; 0: what is left of the memory share
    bool host_writable;           // the host may write what alloc gives, before the first op
    bool asynchronous;            // ops return before the device is done: the host prepares the next step meanwhile

    /* The device and its memory. destroy and free take NULL. copies are ordered with the ops. */
    struct device *(*device_create)(const struct device_options *options, struct error *err);
    void (*device_destroy)(struct device *device);
    void (*device_describe)(const struct device *device, char *text, size_t size); // "NVIDIA H200, 132 SMs, 140 GiB"
    bool (*device_memory)(struct device *device, struct device_memory *memory, struct error *err);
    void *(*alloc)(struct device *device, size_t bytes, struct error *err); // 256-byte aligned, not cleared
    void (*free)(struct device *device, void *memory);
    void *(*alloc_host)(struct device *device, size_t bytes, struct error *err); // page-locked if that matters
    void (*free_host)(struct device *device, void *memory);
    bool (*copy_to_device)(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
    /* The same at once, beside the ops under way: nothing of these may read or write `to`. Later ops wait for it. */
    bool (*copy_beside)(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
    bool (*copy_to_host)(struct device *device, void *to, const void *from, size_t bytes, struct error *err); // waits
    bool (*synchronize)(struct device *device, struct error *err);
    /* A copy to alloc_host memory that the host waits for later, in slot 0 or 1; for all of its slot at once. */
    bool (*read_begin)(struct device *device, int32_t slot, void *to, const void *from, size_t bytes,
                       struct error *err);
    bool (*read_wait)(struct device *device, int32_t slot, struct error *err);
    /* Bytes per second of reading (CPU, all threads) or copying (CUDA, read + write) device memory, measured now. */
    bool (*measure_bandwidth)(struct device *device, double *bytes_per_second, struct error *err);

    /* Ranks that compute one model together (engine/slice.h), each on a device and a thread of its own; all four NULL:
     * this backend cannot. ranks_join makes the devices, in the order of their ranks, known to each other, and
     * ranks_part ends that before they are destroyed: one thread calls either, once. ranks_break comes at most
     * once, from any thread and at any time: what waits for another rank fails, now and from then on. */
    bool (*ranks_join)(struct device *const *devices, int32_t n_ranks, struct error *err);
    void (*ranks_part)(struct device *const *devices, int32_t n_ranks);
    void (*ranks_break)(struct device *device);
    void (*ranks_describe)(const struct device *device, char *text, size_t size); // "NVLink P2P", "shared memory"

    /* Refuses with ERR_INVALID, naming the dimension, a shape that the ops cannot compute; else readies what depends on
     * the shape alone (RoPE frequencies). Before the first op; context_create calls it. */
    bool (*prepare_shape)(struct device *device, const struct model_shape *shape, struct error *err);

    /* Bytes of scratch.workspace that the ops need at these limits. */
    size_t (*workspace_bytes)(const struct model_shape *shape, const struct context_limits *limits);

    /* Recorded steps, where a device gains by them; else all five are NULL. A recording is one decode step (every
     * sequence has one row and is sampled) of one number of rows; smaller steps are padded to it. The calls of the ops
     * between record_begin, which sets the counts of ctx->batch, and record_end are kept and not run.
     * recordings_create fills ctx->recordings and says how many there are; context_destroy releases them. */
    bool (*recordings_create)(struct context *ctx, int32_t *n_recordings, struct error *err);
    void (*recordings_destroy)(struct context *ctx);
    bool (*record_begin)(struct context *ctx, int32_t index, struct error *err);
    bool (*record_end)(struct context *ctx, int32_t index, struct error *err);
    /* Rows of the recording that serves n_rows rows; n_rows when there is none. */
    int32_t (*padded_rows)(const struct context *ctx, int32_t n_rows);
    /* Runs the prepared step from its recording; *replayed is false when there is none, and the ops are to be called.
     */
    bool (*replay)(const struct context *ctx, bool *replayed, struct error *err);

    /* x[r] = embedding[token], where the token is tokens[r] or, when that is negative, sampled[-1 - tokens[r]] of the
     * step before; any one when that is negative too. */
    bool (*embed)(const struct context *ctx, const struct weights *weights, struct error *err);

    /* n = rmsnorm(x[r]) * input_norm; qkv = n · qkvᵀ; q and k: per head rmsnorm * q_norm / k_norm, then RoPE (rotate
     * half) at positions[r]. q goes to scratch.q, k and v to kv at kv_slots[r]. The separate form leaves n in normed
     * and the projection in qkv. */
    bool (*rmsnorm_qkv)(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);

    /* attention[r][h] = softmax(q[r][h] · Kᵀ / sqrt(head_dim)) · V over positions [0, positions[r]] of the row's
     * sequence, K and V of head h / (n_heads / n_kv_heads) through block_tables; 0 for a sequence of length 0. */
    bool (*paged_attention)(const struct context *ctx, int32_t layer, struct error *err);

    /* x[r] += attention[r] · attention_outputᵀ. Of several ranks all but the first set x[r] and do not add to it, here
     * and in mlp: so the sum over the ranks, which all_reduce makes, holds the old x once. */
    bool (*attention_output)(const struct context *ctx, const struct weights *weights, int32_t layer,
                             struct error *err);

    /* n = rmsnorm(x[r]) * post_attention_norm; x[r] += (silu(n · gateᵀ) * (n · upᵀ)) · downᵀ.
     * Where the layer has a router: p = softmax(n · routerᵀ) over all experts, in float32; the n_active_experts largest
     * of p, of equal ones the first, are the row's experts and their p its weights, divided by their sum if
     * normalised_experts; x[r] += the sum of weight * (the same MLP of that expert), by falling weight. */
    bool (*mlp)(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err);

    /* For each of pools: sums[c] of its place (0 when n_before is) += state[c] of its rows, one row after another,
     * where the state is rmsnorm(x[r]) * final_norm; with a result, pooled[result - 1] = sums / (n_before + n_rows).
     * May write normed and row_scales. */
    bool (*pool)(const struct context *ctx, const struct weights *weights, struct error *err);

    /* What ranks do together, each in its own step and all in the same order; called only where there are several.
     * share_sampled: sampled of the first rank, as the step before left it, to all. all_reduce: x[r] becomes its sum
     * over all ranks, the same bits on each. gather_logits: context_logits_part of all to logits of the first rank. */
    bool (*share_sampled)(const struct context *ctx, struct error *err);
    bool (*all_reduce)(const struct context *ctx, struct error *err);
    bool (*gather_logits)(const struct context *ctx, struct error *err);

    /* context_logits_part[i] = (rmsnorm(x[samples[i].row]) * final_norm) · lm_headᵀ. */
    bool (*lm_head)(const struct context *ctx, const struct weights *weights, struct error *err);

    /* adjusted[i] from logits[i] as engine/sampling.h defines, where samples[i] has a seat or a mask. */
    bool (*adjust)(const struct context *ctx, struct error *err);

    /* sampled[i] from logits[i] and samples[i], as engine/sampling.h defines; from adjusted[i] where samples[i] has a
     * seat or a mask, if the batch's n_adjusted says that there are such. */
    bool (*sample)(const struct context *ctx, struct error *err);

    /* One more of sampled[i] in the counts of its seat, where samples[i] has one with penalties. */
    bool (*count)(const struct context *ctx, struct error *err);

    /* scores[i] of sampled[i], or of samples[i].target, from logits[i], where samples[i] wants them and a token was
     * sampled, that is, all logits were finite. */
    bool (*score)(const struct context *ctx, struct error *err);
};

#ifdef __cplusplus
}
#endif
#endif
