/* What a GPU needs to know of the others that compute the same model. */
#ifndef QUERN_CUDA_RANKS_CUH
#define QUERN_CUDA_RANKS_CUH

#include "cuda/device.cuh"

#include <nccl.h>

#define MAX_RANKS     16
#define DIRECT_CHUNK  2048 // floats that a block of the direct sum takes: 512 threads of four
#define DIRECT_BLOCKS 512  // at most: more would not all run at once, and 4 MB are NCCL's
#define DIRECT_SENT   ((int64_t)DIRECT_BLOCKS * DIRECT_CHUNK) // floats that a rank sends at most

/* A rank's memory that the others write: what they add, and flags that say that it is there. */
struct direct_inbox {
    float *data;     // [2 turns][n_ranks][DIRECT_BLOCKS * DIRECT_CHUNK]
    uint32_t *flags; // [n_ranks][DIRECT_BLOCKS] the turn that has come
};

struct peers {
    int32_t rank, n_ranks;
    ncclComm_t comm;                        // owned; NULL once broken
    struct device *devices[MAX_RANKS];      // [n_ranks], borrowed
    struct direct_inbox inboxes[MAX_RANKS]; // [n_ranks]; of this rank owned, device memory; all NULL: no direct sums
    uint32_t *turns;                        // [DIRECT_BLOCKS] sums that each block has made, owned, device memory
    volatile int *broken;                   // of all ranks, owned by the first, page-locked
    bool direct_allowed;
    const char *interconnect; // static
};

#define NCCL_TRY(call, err)                                                                                            \
    do {                                                                                                               \
        ncclResult_t status_ = (call);                                                                                 \
        if (status_ != ncclSuccess)                                                                                    \
            return fail(err, ERR_DEVICE, "%s:%d: NCCL: %s", __FILE__, __LINE__, ncclGetErrorString(status_));          \
    } while (0)

/* x = its sum over all ranks in their order, by each GPU writing to all others. count at most DIRECT_SENT / (n_ranks -
 * 1), a multiple of 4. */
bool all_reduce_direct(const struct device *device, float *x, int32_t count, struct error *err);

#endif
