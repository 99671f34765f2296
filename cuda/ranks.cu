/* Ranks on several GPUs of one machine: NCCL, and for small sums our own all-reduce where the GPUs reach each other.
 *
 * All of it is in the stream, and so in recorded steps. */
#include "cuda/ranks.cuh"

#include "cuda/cuda_backend.h"
#include "cuda/launch.cuh"
#include "cuda/ops.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- collective ops --------------------------------------------------------------------------------------------- */

static bool check_whole(const struct peers *peers, struct error *err) {
    if (!*peers->broken) return true;
    return fail(err, ERR_DEVICE, "another rank has failed");
}

bool cuda_share_sampled(const struct context *ctx, struct error *err) {
    const struct peers *peers = ctx->device->peers;
    if (!check_whole(peers, err)) return false;
    NCCL_TRY(ncclBroadcast(ctx->scratch.sampled, ctx->scratch.sampled, (size_t)ctx->limits.max_seqs, ncclInt32, 0,
                           peers->comm, ctx->device->stream),
             err);
    return true;
}

bool cuda_all_reduce(const struct context *ctx, struct error *err) {
    const struct peers *peers = ctx->device->peers;
    int64_t count = (int64_t)ctx->batch.n_rows * ctx->shape->hidden;
    if (!check_whole(peers, err)) return false;
    if (peers->direct_allowed && peers->turns && count * (peers->n_ranks - 1) <= DIRECT_SENT)
        return all_reduce_direct(ctx->device, ctx->scratch.hidden, (int32_t)count, err);
    NCCL_TRY(ncclAllReduce(ctx->scratch.hidden, ctx->scratch.hidden, (size_t)count, ncclFloat32, ncclSum, peers->comm,
                           ctx->device->stream),
             err);
    return true;
}

#define JOIN_THREADS 256

struct parts {
    int32_t n_ranks, n_samples, vocab;
    int32_t first[MAX_RANKS + 1]; // column of each part, then vocab
};

/* Grid (pieces of a row, samples): parts [n_samples][columns] that follow each other to rows [vocab], 4 columns a
 * thread: parts begin at multiples of 8. */
__global__ static void __launch_bounds__(JOIN_THREADS)
    join_parts_kernel(const float *parts, float *logits, const __grid_constant__ struct parts p) {
    let_next_begin();
    wait_for_previous();
    int32_t column = ((int32_t)blockIdx.x * JOIN_THREADS + (int32_t)threadIdx.x) * 4, r = 0;
    if (column >= p.vocab) return;
    while (column >= p.first[r + 1]) ++r;
    int32_t columns = p.first[r + 1] - p.first[r];
    const float *part = parts + (size_t)p.n_samples * p.first[r];
    *(float4 *)(logits + (size_t)blockIdx.y * p.vocab + column) =
        *(const float4 *)(part + (size_t)blockIdx.y * columns + column - p.first[r]);
}

/* Parts arrive behind each other in adjusted, where the first rank's own lies already. */
bool cuda_gather_logits(const struct context *ctx, struct error *err) {
    const struct peers *peers = ctx->device->peers;
    const struct model_shape *shape = ctx->shape;
    struct parts parts = {peers->n_ranks, ctx->batch.n_samples, shape->vocab, {}};
    if (!check_whole(peers, err)) return false;
    for (int32_t r = 0; r <= peers->n_ranks; ++r) parts.first[r] = shape_vocab_before(shape, r);
    NCCL_TRY(ncclGroupStart(), err);
    for (int32_t r = 1; r < peers->n_ranks; ++r) {
        size_t count = (size_t)parts.n_samples * (size_t)(parts.first[r + 1] - parts.first[r]);
        if (peers->rank == 0)
            NCCL_TRY(ncclRecv(ctx->scratch.adjusted + (size_t)parts.n_samples * (size_t)parts.first[r], count,
                              ncclFloat32, r, peers->comm, ctx->device->stream),
                     err);
        else if (peers->rank == r)
            NCCL_TRY(ncclSend(context_logits_part(ctx), count, ncclFloat32, 0, peers->comm, ctx->device->stream), err);
    }
    NCCL_TRY(ncclGroupEnd(), err);
    if (peers->rank > 0) return true;
    struct launch launch = {dim3((unsigned)divide_up(shape->vocab, JOIN_THREADS * 4), (unsigned)ctx->batch.n_samples),
                            dim3(JOIN_THREADS)};
    return launch_kernel(ctx->device, launch, join_parts_kernel, err, (const float *)ctx->scratch.adjusted,
                         ctx->scratch.logits, parts);
}

/* --- joining ---------------------------------------------------------------------------------------------------- */

/* NVLink is what has atomics across GPUs. */
static bool find_interconnect(struct device *const *devices, int32_t n_ranks, const char **name, struct error *err) {
    *name = "NVLink P2P";
    for (int32_t a = 0; a < n_ranks; ++a) {
        for (int32_t b = 0; b < n_ranks; ++b) {
            int can_access = 0, has_atomics = 0;
            if (a == b) continue;
            CUDA_TRY(cudaDeviceCanAccessPeer(&can_access, devices[a]->index, devices[b]->index), err);
            CUDA_TRY(cudaDeviceGetP2PAttribute(&has_atomics, cudaDevP2PAttrNativeAtomicSupported, devices[a]->index,
                                               devices[b]->index),
                     err);
            if (!can_access) {
                *name = "PCIe, through the host";
                return true;
            }
            if (!has_atomics) *name = "PCIe P2P";
        }
    }
    return true;
}

static bool open_inbox(struct device *device, struct error *err) {
    struct peers *peers = device->peers;
    size_t n_flags = (size_t)peers->n_ranks * DIRECT_BLOCKS;
    if (!device_use(device, err)) return false;
    for (int32_t r = 0; r < peers->n_ranks; ++r) {
        if (r == peers->rank) continue;
        cudaError_t status = cudaDeviceEnablePeerAccess(peers->devices[r]->index, 0);
        if (status == cudaErrorPeerAccessAlreadyEnabled)
            cudaGetLastError();
        else
            CUDA_TRY(status, err);
    }
    struct direct_inbox *own = &peers->inboxes[peers->rank];
    CUDA_TRY(cudaMalloc((void **)&own->data, 2 * (size_t)peers->n_ranks * DIRECT_SENT * sizeof(float)), err);
    CUDA_TRY(cudaMalloc((void **)&own->flags, n_flags * sizeof(uint32_t)), err);
    CUDA_TRY(cudaMalloc((void **)&peers->turns, DIRECT_BLOCKS * sizeof(uint32_t)), err);
    CUDA_TRY(cudaMemset(own->flags, 0, n_flags * sizeof(uint32_t)), err);
    CUDA_TRY(cudaMemset(peers->turns, 0, DIRECT_BLOCKS * sizeof(uint32_t)), err);
    CUDA_TRY(cudaDeviceSynchronize(), err);
    return true;
}

static bool make_peers(struct device *const *devices, int32_t n_ranks, const char *interconnect, struct error *err) {
    volatile int *broken = NULL;
    if (!device_use(devices[0], err)) return false;
    CUDA_TRY(cudaHostAlloc((void **)&broken, sizeof *broken, cudaHostAllocPortable | cudaHostAllocMapped), err);
    *broken = 0;
    for (int32_t r = 0; r < n_ranks; ++r) {
        struct peers *peers = (struct peers *)calloc(1, sizeof *peers);
        if (!peers) {
            if (r == 0) cudaFreeHost((void *)broken);
            return fail(err, ERR_MEMORY, "no memory for %d ranks", n_ranks);
        }
        devices[r]->peers = peers;
        peers->rank = r;
        peers->n_ranks = n_ranks;
        peers->broken = broken;
        peers->direct_allowed = true;
        peers->interconnect = interconnect;
        for (int32_t other = 0; other < n_ranks; ++other) peers->devices[other] = devices[other];
    }
    return true;
}

static bool join_nccl(struct device *const *devices, int32_t n_ranks, struct error *err) {
    ncclComm_t comms[MAX_RANKS];
    int indices[MAX_RANKS];
    for (int32_t r = 0; r < n_ranks; ++r) indices[r] = devices[r]->index;
    NCCL_TRY(ncclCommInitAll(comms, n_ranks, indices), err);
    for (int32_t r = 0; r < n_ranks; ++r) devices[r]->peers->comm = comms[r];
    return true;
}

static bool join_direct(struct device *const *devices, int32_t n_ranks, struct error *err) {
    for (int32_t r = 0; r < n_ranks; ++r) {
        if (!open_inbox(devices[r], err)) return false;
    }
    for (int32_t r = 0; r < n_ranks; ++r) {
        for (int32_t other = 0; other < n_ranks; ++other)
            devices[r]->peers->inboxes[other] = devices[other]->peers->inboxes[other];
    }
    return true;
}

bool cuda_ranks_join(struct device *const *devices, int32_t n_ranks, struct error *err) {
    const char *interconnect;
    bool ok = n_ranks <= MAX_RANKS || fail(err, ERR_INVALID, "%d ranks; at most %d are allowed", n_ranks, MAX_RANKS);
    ok = ok && find_interconnect(devices, n_ranks, &interconnect, err) &&
         make_peers(devices, n_ranks, interconnect, err) && join_nccl(devices, n_ranks, err) &&
         (strstr(interconnect, "P2P") == NULL || join_direct(devices, n_ranks, err));
    if (!ok) cuda_ranks_part(devices, n_ranks);
    return ok;
}

/* What fails here cannot be helped. */
void cuda_ranks_part(struct device *const *devices, int32_t n_ranks) {
    volatile int *broken = devices[0]->peers ? devices[0]->peers->broken : NULL;
    for (int32_t r = 0; r < n_ranks && broken; ++r) {
        struct peers *peers = devices[r]->peers;
        if (!peers) continue;
        cudaSetDevice(devices[r]->index);
        cudaStreamSynchronize(devices[r]->stream);
    }
    for (int32_t r = 0; r < n_ranks && broken; ++r) {
        struct peers *peers = devices[r]->peers;
        if (!peers) continue;
        cudaSetDevice(devices[r]->index);
        if (peers->comm) *broken ? ncclCommAbort(peers->comm) : ncclCommDestroy(peers->comm);
        cudaFree(peers->inboxes[r].data);
        cudaFree(peers->inboxes[r].flags);
        cudaFree(peers->turns);
        free(peers);
        devices[r]->peers = NULL;
    }
    if (broken) cudaFreeHost((void *)broken);
}

/* Kernels that wait for another rank end: ours look at the flag, NCCL's are aborted. */
void cuda_ranks_break(struct device *device) {
    struct peers *peers = device->peers;
    if (!peers || *peers->broken) return;
    *peers->broken = 1;
    for (int32_t r = 0; r < peers->n_ranks; ++r) {
        struct peers *other = peers->devices[r]->peers;
        ncclComm_t comm = other->comm;
        other->comm = NULL;
        if (comm) ncclCommAbort(comm);
    }
}

void cuda_ranks_describe(const struct device *device, char *text, size_t size) {
    snprintf(text, size, "%s", device->peers->interconnect);
}

extern "C" void cuda_allow_direct_sums(struct device *device, bool allowed) {
    device->peers->direct_allowed = allowed;
}

/* A GPU that fails leaves the others waiting for it: while the host waits for one it looks at all. */
bool ranks_check(const struct device *device, struct error *err) {
    const struct peers *peers = device->peers;
    if (!check_whole(peers, err)) return false;
    for (int32_t r = 0; r < peers->n_ranks; ++r) {
        const struct device *other = peers->devices[r];
        cudaError_t status = cudaStreamQuery(other->stream);
        if (status != cudaSuccess && status != cudaErrorNotReady)
            return fail(err, ERR_DEVICE, "rank %d: CUDA: %s", r, cudaGetErrorString(status));
        ncclResult_t result = ncclSuccess;
        if (other->peers->comm) ncclCommGetAsyncError(other->peers->comm, &result);
        if (result != ncclSuccess && result != ncclInProgress)
            return fail(err, ERR_DEVICE, "rank %d: NCCL: %s", r, ncclGetErrorString(result));
    }
    return true;
}
