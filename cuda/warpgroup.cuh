/* More of compute capability 9.0 alone, beside wgmma.cuh: what attention needs, whose warpgroups have roles and whose
 * second product takes its rows from registers.
 *
 * Two neighbours of a D, rounded to bf16, are one register of an A: d[8k … 8k + 7], columns 16k … 16k + 15, are its 16
 * of k. */
#ifndef QUERN_CUDA_WARPGROUP_CUH
#define QUERN_CUDA_WARPGROUP_CUH

#include "cuda/wgmma.cuh"

#if HAVE_WGMMA

/* Registers of each thread from here on, by all four warps of a warpgroup. */
template <int registers> __device__ static inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ static inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

/* Named barriers 1 to 15: whole warps meet, or only say that they have come this far. */
__device__ static inline void named_sync(int id, int n_threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}
__device__ static inline void named_arrive(int id, int n_threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* One lane of a whole warp, always the same: the compiler knows it to be one and spares it a loop over lanes. */
__device__ static inline bool is_elected() {
    uint32_t elected;
    asm volatile("{\n"
                 ".reg .pred mine;\n"
                 "elect.sync _|mine, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, mine;\n"
                 "}"
                 : "=r"(elected));
    return elected != 0;
}

/* Between ordinary writes to shared memory and the barrier after which products read them. */
__device__ static inline void wgmma_writes_done() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ static inline void tma_load(uint32_t to, const CUtensorMap *map, int32_t x, int32_t y, int32_t z,
                                       uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                 "%4}], [%5];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
                 : "memory");
}

/* B whose lines are k and whose columns are the 64 values of a line; the next 64 columns are half_bytes on, the next 16
 * of k are 16 lines on. */
__device__ static inline uint64_t wgmma_operand_by_k(uint32_t address, uint32_t half_bytes) {
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(half_bytes >> 4) << 16 |
           (address & 0x3ffff) >> 4;
}

/* The same operand bytes further on: its upper half, which does not change, stays out of the sum. */
__device__ static inline uint64_t wgmma_moved(uint64_t operand, uint32_t bytes) {
    return (operand >> 32) << 32 | (uint32_t)((uint32_t)operand + (bytes >> 4));
}

#define WGMMA_D32_NAMES WGMMA_TEN() ", " WGMMA_TEN(1) ", " WGMMA_TEN(2) ", %30, %31"
#define WGMMA_D64_NAMES                                                                                                \
    WGMMA_D32_NAMES ", %32, %33, %34, %35, %36, %37, %38, %39, " WGMMA_TEN(4) ", " WGMMA_TEN(5) ", %60, %61, %62, %63"

/* D = A · Bᵀ or, to add, D += A · Bᵀ, both from shared memory. */
__device__ static inline void wgmma_k16(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" WGMMA_D64_NAMES "}, %64, %65, add, 1, 1, 0, 0;\n"
                 "}"
                 : WGMMA_D64(0)
                 : "l"(a), "l"(b), "r"((int)add));
}
/* D = A · B or D += A · B, A from registers, B by k. */
__device__ static inline void wgmma_k16(float (&d)[64], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" WGMMA_D64_NAMES "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n"
                 "}"
                 : WGMMA_D64(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}
__device__ static inline void wgmma_k16(float (&d)[32], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" WGMMA_D32_NAMES "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;\n"
                 "}"
                 : WGMMA_D32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

#endif
#endif
