/* What is done to single rows and heads: norms, SwiGLU, RoPE, and the passes of sampling over all logits. Any length;
 * what is left after the last whole vector is padded. */
#ifndef QUERN_CPU_VECTOR_ROWS_H
#define QUERN_CPU_VECTOR_ROWS_H

#include "cpu/vector.h"
#include "engine/sampling.h"

/* n - i floats, zeros after them. */
ALWAYS_INLINE vec load_left(const float *from, int32_t n_left) {
    if (n_left >= LANES) return vec_load(from);
    float lanes[LANES] = {0};
    memcpy(lanes, from, (size_t)n_left * sizeof *lanes);
    return vec_load(lanes);
}

ALWAYS_INLINE void store_left(float *to, vec v, int32_t n_left) {
    if (n_left >= LANES) {
        vec_store(to, v);
    } else {
        memcpy(to, &v, (size_t)n_left * sizeof *to);
    }
}

ALWAYS_INLINE vec widen_left(const uint16_t *from, int32_t n_left) {
    if (n_left >= LANES) return widen(from);
    uint16_t lanes[LANES] = {0};
    memcpy(lanes, from, (size_t)n_left * sizeof *lanes);
    return widen(lanes);
}

static inline float sum_of_squares(const float *x, int32_t n) {
    vec even = {0}, odd = {0};
    int32_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec a = vec_load(x + i), b = vec_load(x + i + LANES);
        even = vec_fma(a, a, even);
        odd = vec_fma(b, b, odd);
    }
    for (; i < n; i += LANES) {
        vec a = load_left(x + i, n - i);
        even = vec_fma(a, a, even);
    }
    return vec_sum(even + odd);
}

static inline void scale_by(const float *x, float scale, const uint16_t *weight, float *out, int32_t n) {
    for (int32_t i = 0; i < n; i += LANES)
        store_left(out + i, load_left(x + i, n - i) * scale * widen_left(weight + i, n - i), n - i);
}

/* Two sums for each output: a product waits some four cycles for the one before on the same sum. */
static inline void dots(const float *x, const uint16_t *weights, int32_t n, float *out, int32_t n_outputs) {
    for (int32_t o = 0; o < n_outputs; ++o, weights += n) {
        vec even = {0}, odd = {0};
        int32_t i = 0;
        for (; i + 2 * LANES <= n; i += 2 * LANES) {
            even = vec_fma(vec_load(x + i), widen(weights + i), even);
            odd = vec_fma(vec_load(x + i + LANES), widen(weights + i + LANES), odd);
        }
        for (; i < n; i += LANES) even = vec_fma(load_left(x + i, n - i), widen_left(weights + i, n - i), even);
        out[o] = vec_sum(even + odd);
    }
}

static inline void swiglu(const float *gate, const float *up, float *out, int32_t n) {
    for (int32_t i = 0; i < n; i += LANES) {
        vec g = load_left(gate + i, n - i);
        store_left(out + i, g / (1.0f + vec_exp(-g)) * load_left(up + i, n - i), n - i);
    }
}

/* The angle is reduced in double: positions up to 2^18 turn 41,000 times. Coefficients: Chebyshev nodes of sine and
 * cosine on |r| <= pi / 4, 1e-8. */
static inline void rope_angles(int32_t position, const float *frequencies, float *cosines, float *sines, int32_t n) {
    for (int32_t i = 0; i < n; i += LANES) {
        vec angle = (float)position * load_left(frequencies + i, n - i);
        double_vec wide = __builtin_convertvector(angle, double_vec);
        double_vec turns = (wide * 0.63661977236758134 + 0x1.8p52) - 0x1.8p52; // quarter turns
        vec r = __builtin_convertvector(wide - turns * 1.5707963267948966, vec);
        int_vec quarter = __builtin_convertvector(__builtin_convertvector(turns, vec), int_vec); // below 2^24: exact
        vec z = r * r;
        vec s = vec_fma(vec_all(2.72499258e-6f), z, vec_all(-0.000198400867f));
        s = vec_fma(s, z, vec_all(0.00833333187f));
        s = vec_fma(s, z, vec_all(-0.166666667f));
        s = vec_fma(s, z * r, r);
        vec c = vec_fma(vec_all(-2.73009592e-7f), z, vec_all(2.48006004e-5f));
        c = vec_fma(c, z, vec_all(-0.00138888877f));
        c = vec_fma(c, z, vec_all(0.0416666667f));
        c = vec_fma(c, z * z, 1.0f - 0.5f * z);
        int_vec swap = (quarter & 1) != 0;
        int_vec sine = (swap & (int_vec)c) | (~swap & (int_vec)s);
        int_vec cosine = (swap & (int_vec)s) | (~swap & (int_vec)c);
        sine ^= -(quarter & 2) & INT32_MIN;
        cosine ^= -((quarter + 1) & 2) & INT32_MIN;
        store_left(sines + i, (vec)sine, n - i);
        store_left(cosines + i, (vec)cosine, n - i);
    }
}

static inline void rotate(float *head, const float *cosines, const float *sines, int32_t half) {
    for (int32_t i = 0; i < half; i += LANES) {
        int32_t left = half - i;
        vec a = load_left(head + i, left), b = load_left(head + half + i, left);
        vec c = load_left(cosines + i, left), s = load_left(sines + i, left);
        store_left(head + i, a * c - b * s, left);
        store_left(head + half + i, b * c + a * s, left);
    }
}

static inline float largest(const float *x, int32_t n) {
    vec max = vec_all(x[0]), poison = {0}; // x - x is NaN where x is not finite
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = vec_load(x + i);
        max = vec_max(v, max);
        poison += v - v;
    }
    float result = vec_largest(max), sum = vec_sum(poison);
    for (; i < n; ++i) {
        result = x[i] > result ? x[i] : result;
        sum += x[i] - x[i];
    }
    return result + sum;
}

static inline void sampling_weights(const float *logits, int32_t n, float max, float inverse_temperature,
                                    uint32_t *weights) {
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) // of constant length: becomes one vector
            weights[i + lane] = sampling_weight(logits[i + lane], max, inverse_temperature);
    for (; i < n; ++i) weights[i] = sampling_weight(logits[i], max, inverse_temperature);
}

static inline float exp_sum(const float *logits, int32_t n, float max) {
    vec sums = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += vec_exp(vec_load(logits + i) - max);
    float sum = vec_sum(sums);
    for (; i < n; ++i) sum += sampling_exp(logits[i] - max);
    return sum;
}

static inline uint32_t read_memory(const void *memory, size_t bytes) {
    int_vec sums[8] = {0};
    const char *from = memory;
    for (size_t at = 0; at + sizeof sums <= bytes; at += sizeof sums) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; ++i) {
            int_vec v;
            memcpy(&v, from + at + i * sizeof v, sizeof v);
            sums[i] ^= v;
        }
    }
    uint32_t sum = 0;
    for (int i = 0; i < 8; ++i)
        for (int lane = 0; lane < LANES; ++lane) sum ^= (uint32_t)sums[i][lane];
    return sum;
}

#endif
