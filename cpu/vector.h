/* One vector type for all instruction sets. A file defines VECTOR_ISA and, for it, `#pragma GCC target` before it
 * includes this; the headers vector_*.h then hold the kernels once. Additions and products of vec are plain C. */
#ifndef QUERN_CPU_VECTOR_H
#define QUERN_CPU_VECTOR_H

#include "cpu/isa.h"

#include <stdint.h>
#include <string.h>

#define VECTOR_PLAIN      0
#define VECTOR_AVX2       1
#define VECTOR_AVX512     2
#define VECTOR_AVX512BF16 3
#ifndef VECTOR_ISA
#define VECTOR_ISA VECTOR_PLAIN
#endif

#if VECTOR_ISA != VECTOR_PLAIN
#include <immintrin.h>
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if VECTOR_ISA == VECTOR_PLAIN
#define LANES 4
#elif VECTOR_ISA == VECTOR_AVX2
#define LANES 8
#else
#define LANES 16
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t int_vec __attribute__((vector_size(LANES * 4)));
typedef uint16_t half_vec __attribute__((vector_size(LANES * 2)));
typedef double double_vec __attribute__((vector_size(LANES * 8)));
typedef float vec4 __attribute__((vector_size(16)));

ALWAYS_INLINE vec vec_load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

ALWAYS_INLINE void vec_store(float *to, vec v) {
    memcpy(to, &v, sizeof v);
}

ALWAYS_INLINE vec vec_all(float x) {
    return x - (vec){0}; // x - 0 is x, also for -0
}

/* Holds a value in a register: the compiler would rather read it from memory again for each use, and two reads in a
 * cycle are as scarce as two products. */
#if VECTOR_ISA == VECTOR_PLAIN
#define HOLD(v) ((void)(v))
#else
#define HOLD(v) __asm__("" : "+v"(v))
#endif

/* Brings a line of memory near: into L2, since with L1 the same loop reads 2 to 10 % slower. */
ALWAYS_INLINE void fetch(uintptr_t line) {
    __builtin_prefetch((const void *)line, 0, 2);
}

/* a * b + c, rounded once where the processor can. */
ALWAYS_INLINE vec vec_fma(vec a, vec b, vec c) {
#if VECTOR_ISA == VECTOR_PLAIN
    return a * b + c;
#elif VECTOR_ISA == VECTOR_AVX2
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
}

/* b where either is NaN. */
ALWAYS_INLINE vec vec_max(vec a, vec b) {
#if VECTOR_ISA == VECTOR_PLAIN
    int_vec larger = a > b;
    return (vec)((larger & (int_vec)a) | (~larger & (int_vec)b));
#elif VECTOR_ISA == VECTOR_AVX2
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#endif
}

/* The sums of the lanes of four vectors, each in the same order: inside of 4 lanes, then over them. */
ALWAYS_INLINE vec4 vec_sums(vec a, vec b, vec c, vec d) {
#if VECTOR_ISA == VECTOR_PLAIN
    return (vec4){(a[0] + a[1]) + (a[2] + a[3]), (b[0] + b[1]) + (b[2] + b[3]), (c[0] + c[1]) + (c[2] + c[3]),
                  (d[0] + d[1]) + (d[2] + d[3])};
#elif VECTOR_ISA == VECTOR_AVX2
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
    return (vec4)_mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
#else
    vec ab = (vec)_mm512_unpacklo_ps((__m512)a, (__m512)b) + (vec)_mm512_unpackhi_ps((__m512)a, (__m512)b);
    vec cd = (vec)_mm512_unpacklo_ps((__m512)c, (__m512)d) + (vec)_mm512_unpackhi_ps((__m512)c, (__m512)d);
    vec sums = (vec)_mm512_unpacklo_pd((__m512d)ab, (__m512d)cd) + (vec)_mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)sums), _mm512_extractf32x8_ps((__m512)sums, 1));
    return (vec4)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#endif
}

ALWAYS_INLINE float vec_sum(vec a) {
    return vec_sums(a, a, a, a)[0];
}

/* The largest lane; any number when one is NaN. */
ALWAYS_INLINE float vec_largest(vec v) {
#if VECTOR_ISA == VECTOR_PLAIN
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
#else
#if VECTOR_ISA == VECTOR_AVX2
    __m256 eight = (__m256)v;
#else
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#endif
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#endif
}

/* bf16 widened: the inputs 0, 2, 4, … of 2 * LANES (part 0), or 1, 3, 5, … (part 1): a shift or a mask each. */
ALWAYS_INLINE vec widen_alternate(const uint16_t *from, int part) {
    int_vec pairs;
    memcpy(&pairs, from, sizeof pairs);
    return (vec)(part == 0 ? pairs << 16 : pairs & (int32_t)0xFFFF0000);
}

/* LANES inputs in their order. */
ALWAYS_INLINE vec widen(const uint16_t *from) {
    half_vec halves;
    memcpy(&halves, from, sizeof halves);
    return (vec)(__builtin_convertvector(halves, int_vec) << 16);
}

/* exp(x) within 2 ulp for x in [-87, 87], clamped there. Coefficients: Chebyshev nodes on |r| <= log(2) / 2, 1e-8. */
ALWAYS_INLINE vec vec_exp(vec x) {
    x = vec_max(x, vec_all(-87.0f));
    x = -vec_max(-x, vec_all(-87.0f));
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; // 1.5 * 2^23: rounds to the nearest integer
    vec r = x - n * 0.693145752f;                          // log 2 in two parts, the first of 16 bits
    r = r - n * 1.42860677e-6f;
    vec q = vec_all(0.00139261761f);
    q = vec_fma(q, r, vec_all(0.00836317307f));
    q = vec_fma(q, r, vec_all(0.0416665547f));
    q = vec_fma(q, r, vec_all(0.16666577f));
    q = vec_fma(q, r, vec_all(0.5f));
    vec power = (vec)((__builtin_convertvector(n, int_vec) + 127) << 23);
    return vec_fma(q, r * r, r + 1.0f) * power;
}

#endif
