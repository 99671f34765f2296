/* What the kernels share: bf16, warp sums, tensor core fragments, asynchronous copies.
 *
 * Fragments. A 16x8 product over 32 values of k is two mma.m16n8k16. Lane l has g = l / 4 and t = l % 4; it holds k =
 * 8t … 8t + 7 of rows g and g + 8 of A and of column g of B, each one 16-byte load. The mma would number these k
 * differently, but numbers A and B alike, and a sum does not ask for the numbers. C: lane l holds columns 2t, 2t + 1 of
 * row g (0, 1) and of row g + 8 (2, 3). */
#ifndef QUERN_CUDA_MATH_CUH
#define QUERN_CUDA_MATH_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#define WARP      32
#define ALL_LANES 0xffffffffu

__device__ static inline float bf16_low(uint32_t pair) {
    return __uint_as_float(pair << 16);
}
__device__ static inline float bf16_high(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}
/* Rounds to nearest, ties to even. */
__device__ static inline uint32_t bf16_pair(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}
__device__ static inline uint16_t bf16_bits(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/* Neighbours; two at once where they are two, at an address that is a multiple of their size. */
template <int N> __device__ static inline void store_bf16(uint16_t *to, const float (&values)[N]) {
    if constexpr (N == 2) {
        *(uint32_t *)to = bf16_pair(values[0], values[1]);
    } else {
        for (int i = 0; i < N; ++i) to[i] = bf16_bits(values[i]);
    }
}
__device__ static inline float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

/* Reads that are not read again soon: weights and cached keys and values. */
__device__ static inline uint4 load_once(const void *from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
}

__device__ static inline void mma_k16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                      uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* C += A · B over 32 values of k; top: row g, bottom: row g + 8. */
__device__ static inline void mma_k32(float (&c)[4], const uint4 &top, const uint4 &bottom, const uint4 &b) {
    mma_k16(c, top.x, bottom.x, top.y, bottom.y, b.x, b.y);
    mma_k16(c, top.z, bottom.z, top.w, bottom.w, b.z, b.w);
}

/* The same for a column of tiles: the first halves of all, then the second, so that a product does not wait for the one
 * before it. */
template <int TILES, int COLUMNS>
__device__ static inline void mma_k32_tiles(float (&c)[TILES][COLUMNS][4], int column, const uint4 (&top)[TILES],
                                            const uint4 (&bottom)[TILES], const uint4 &b) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) mma_k16(c[m][column], top[m].x, bottom[m].x, top[m].y, bottom[m].y, b.x, b.y);
#pragma unroll
    for (int m = 0; m < TILES; ++m) mma_k16(c[m][column], top[m].z, bottom[m].z, top[m].w, bottom[m].w, b.z, b.w);
}

/* Four 8x8 tiles of bf16, lane l giving row l % 8 of tile l / 8: A fragments, or B fragments from rows of columns. */
__device__ static inline uint4 load_tiles(const uint4 *from) {
    uint4 out;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "r"((uint32_t)__cvta_generic_to_shared(from))
                 : "memory");
    return out;
}
__device__ static inline uint4 load_tiles_transposed(const uint4 *from) {
    uint4 out;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "r"((uint32_t)__cvta_generic_to_shared(from))
                 : "memory");
    return out;
}

/* 16 bytes from device to shared memory; zeros where valid is false (from must still be a mapped address). */
__device__ static inline void copy_async(void *to, const void *from, bool valid) {
    uint32_t shared = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ static inline void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most `pending` of the newest groups are under way. */
template <int pending> __device__ static inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Division of a position by block_size: exact below 2^24, as the error of the multiplier is under block_size <= 256. */
struct block_divider {
    uint32_t multiplier; // ceil(2^32 / block_size)
    int32_t block_size;
};
static inline struct block_divider block_divider_of(int32_t block_size) {
    struct block_divider divider = {(uint32_t)((((uint64_t)1 << 32) + (uint64_t)block_size - 1) / (uint64_t)block_size),
                                    block_size};
    return divider;
}
__device__ static inline int32_t block_of(const struct block_divider &divider, int32_t position) {
    return (int32_t)__umulhi((uint32_t)position, divider.multiplier);
}

#endif
