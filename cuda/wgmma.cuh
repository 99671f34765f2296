/* Instructions of compute capability 9.0 alone: barriers that count bytes, copies of tiles by the tensor memory
 * accelerator (TMA), and products by a warpgroup (wgmma). Without HAVE_WGMMA they are not there.
 *
 * Tiles lie in shared memory as the TMA's 128-byte swizzle leaves them: lines of 64 bf16 of k (128 bytes), 1024-byte
 * aligned, 16-byte piece p of line i at place p ^ i % 8. A product over 16 of k starts 32 bytes further in its line. */
#ifndef QUERN_CUDA_WGMMA_CUH
#define QUERN_CUDA_WGMMA_CUH

#include <cuda.h>
#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#else
#define HAVE_WGMMA 0
#endif

#define WARPGROUP  128 // threads
#define LINE_BYTES 128

#if HAVE_WGMMA

__device__ static inline uint32_t shared_address(const void *at) {
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* ---- Barriers in shared memory, by address. A phase ends when `count` have arrived and all bytes have come. ---- */

__device__ static inline void barrier_init(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/* After the inits, before a copy or another block uses them. */
__device__ static inline void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ static inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/* In this block or, by cluster_address, in another. */
__device__ static inline void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Until the phase of this parity is over. */
__device__ static inline void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- Copies: one thread asks, the bytes count at the barrier. Past the edges of the tensor come zeros. ---- */

__device__ static inline void tma_prefetch(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ static inline void tma_load(uint32_t to, const CUtensorMap *map, int32_t k, int32_t line, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(to),
                 "l"(map), "r"(k), "r"(line), "r"(barrier)
                 : "memory");
}

/* ---- Products: D[64][N] += A[64][16] · B[N][16]ᵀ, both from shared memory ----
 * Thread t of the warpgroup holds, in d[4j … 4j + 3], columns 8j + 2(t % 4) and the next of row 16(t / 32) + t % 32 /
 * 4, then the same of the row 8 below. */

/* A tile, or with the address moved on a part of one: lines of 128 bytes, 1024 bytes between groups of 8. */
__device__ static inline uint64_t wgmma_operand(uint32_t address) {
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 | (address & 0x3ffff) >> 4;
}

/* Before the first product, and after registers of d were touched. */
__device__ static inline void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ static inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending> __device__ static inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

#define WGMMA_TEN(t)                                                                                                   \
    "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define WGMMA_D4(i)  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define WGMMA_D16(i) WGMMA_D4(i), WGMMA_D4((i) + 4), WGMMA_D4((i) + 8), WGMMA_D4((i) + 12)
#define WGMMA_D32(i) WGMMA_D16(i), WGMMA_D16((i) + 16)
#define WGMMA_D64(i) WGMMA_D32(i), WGMMA_D32((i) + 32)

#endif
#endif
