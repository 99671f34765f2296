/* Thread block clusters (compute capability 9.0): blocks that run side by side and reach each other's shared memory.
 * A kernel that needs them is launched only where they exist; elsewhere its code is empty. */
#ifndef QUERN_CUDA_CLUSTER_CUH
#define QUERN_CUDA_CLUSTER_CUH

#include <stdint.h>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define HAVE_CLUSTERS 1
#else
#define HAVE_CLUSTERS 0
#endif

__device__ static inline int cluster_rank() {
    uint32_t rank = 0;
#if HAVE_CLUSTERS
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return (int)rank;
}

/* What a thread wrote before it arrives, to any block, every thread of the cluster sees after it waits. */
__device__ static inline void cluster_arrive() {
#if HAVE_CLUSTERS
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ static inline void cluster_wait() {
#if HAVE_CLUSTERS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
/* Orders no memory: all that is known after it is that all have come here. */
__device__ static inline void cluster_arrive_relaxed() {
#if HAVE_CLUSTERS
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ static inline void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

/* What lies in block `rank` where `local` lies in this one. Without a cluster: itself. */
template <class T> __device__ static inline T *cluster_pointer(T *local, int rank) {
    uint64_t address = (uint64_t)local;
#if HAVE_CLUSTERS
    asm("mapa.u64 %0, %0, %1;" : "+l"(address) : "r"(rank));
#endif
    return (T *)address;
}

/* The address, in block `rank`, of what lies at `local` in this block. */
__device__ static inline uint32_t cluster_address(const void *local, int rank) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(local);
#if HAVE_CLUSTERS
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
#endif
    return address;
}
__device__ static inline void cluster_store(uint32_t address, float value) {
#if HAVE_CLUSTERS
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
#endif
}
/* Sends 16 bytes on their way, which count at a barrier of the block they go to (wgmma.cuh). */
__device__ static inline void cluster_send(uint32_t address, uint32_t barrier, const float *values) {
#if HAVE_CLUSTERS
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            address),
        "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(barrier)
        : "memory");
#endif
}

#endif
