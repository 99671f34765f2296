/* Matrix products: rows packed in groups, weights read as they lie.
 *
 * A group's inputs are packed [step][part][row][lane], so that a step loads them in a row: two parts of LANES float32
 * (even inputs, odd inputs: how bf16 weights widen cheapest), or one part of bf16 pairs. A tile of rows x outputs keeps
 * one vector sum each in registers; lane l adds the inputs of its step in order, then the lanes are added, then the
 * pieces of PRODUCT_INPUTS: the same for every tile. */
#ifndef QUERN_CPU_VECTOR_PRODUCT_H
#define QUERN_CPU_VECTOR_PRODUCT_H

#include "cpu/vector.h"

#define GROUP_ROWS     5    // times two outputs they fit 16 registers
#define BLOCK_GROUPS   10   // with PRODUCT_INPUTS float32 inputs they take 200 KB of L2
#define PRODUCT_INPUTS 1024 // 5 rows of float32 take 20 of the 32 KB of L1
#define STREAM_OUTPUTS 4
#define MAX_TILE       20 // sums of one tile: registers

#if VECTOR_ISA == VECTOR_AVX512BF16
#define PARTS 1
typedef uint16_t packed; // bf16
typedef __m512i operand; // 32 bf16

ALWAYS_INLINE operand load_weights(const uint16_t *from, int part) {
    (void)part;
    return _mm512_loadu_si512(from);
}

ALWAYS_INLINE operand load_rows(const packed *from) {
    return _mm512_loadu_si512(from);
}

ALWAYS_INLINE vec multiply_add(operand row, operand weights, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)row, (__m512bh)weights);
}

ALWAYS_INLINE void store_packed(packed *to, size_t n_rows, vec first, vec second) {
    (void)n_rows;
    __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(to, &pairs, sizeof pairs);
}
#else
#define PARTS 2
typedef float packed;
typedef vec operand;

ALWAYS_INLINE operand load_weights(const uint16_t *from, int part) {
    return widen_alternate(from, part);
}

ALWAYS_INLINE operand load_rows(const packed *from) {
    return vec_load(from);
}

ALWAYS_INLINE vec multiply_add(operand row, operand weights, vec sum) {
    return vec_fma(row, weights, sum);
}

/* Even inputs to part 0, odd inputs to part 1. */
ALWAYS_INLINE void store_packed(packed *to, size_t n_rows, vec first, vec second) {
    float inputs[2 * LANES];
    vec_store(inputs, first);
    vec_store(inputs + LANES, second);
    for (size_t i = 0; i < LANES; ++i) {
        to[i] = inputs[2 * i];
        to[n_rows * LANES + i] = inputs[2 * i + 1];
    }
}
#endif

#define STEP         (2 * LANES) // inputs in one step
#define PART_ENTRIES (STEP / PARTS)

/* One row; `to` is its place in the first step. */
ALWAYS_INLINE void pack_row(const struct pack_job *job, int32_t row, packed *to) {
    size_t n_rows = (size_t)job->n_rows;
    int32_t padded = (job->n + PACK_STEP - 1) / PACK_STEP * PACK_STEP;
    for (int32_t i = 0; i < padded; i += STEP, to += n_rows * STEP) {
        float inputs[STEP] = {0};
        const float *from = job->x[row] + i;
        uint16_t norm[STEP] = {0};
        const uint16_t *weight = job->weight ? job->weight + i : NULL;
        if (i + STEP > job->n) {
            size_t left = i < job->n ? (size_t)(job->n - i) : 0;
            if (left > 0) memcpy(inputs, from, left * sizeof *inputs);
            if (left > 0 && weight) memcpy(norm, weight, left * sizeof *norm);
            from = inputs;
            weight = weight ? norm : NULL;
        }
        vec first = vec_load(from), second = vec_load(from + LANES);
        if (weight) {
            first = first * job->scale[row] * widen(weight);
            second = second * job->scale[row] * widen(weight + LANES);
        }
        store_packed(to, n_rows, first, second);
    }
}

static inline void pack(const struct pack_job *job) {
    for (int32_t row = 0; row < job->n_rows; ++row)
        pack_row(job, row, (packed *)job->group + (size_t)row * PART_ENTRIES);
}

/* One step of a tile of n_rows x n_outputs sums, both constants where this is inlined. The fewer of the two stay in
 * registers beside the sums, the others pass. */
ALWAYS_INLINE void tile_step(vec *sums, const uint16_t *weights, size_t stride, const packed *rows, int n_rows,
                             int n_outputs) {
#pragma GCC unroll 2
    for (int part = 0; part < PARTS; ++part) {
        const packed *part_rows = rows + part * n_rows * PART_ENTRIES;
        if (n_rows < n_outputs) {
            operand row[GROUP_ROWS];
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; ++r) {
                row[r] = load_rows(part_rows + r * PART_ENTRIES);
                HOLD(row[r]);
            }
#pragma GCC unroll 8
            for (int o = 0; o < n_outputs; ++o) {
                operand w = load_weights(weights + (size_t)o * stride, part);
                HOLD(w);
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; ++r)
                    sums[r * n_outputs + o] = multiply_add(row[r], w, sums[r * n_outputs + o]);
            }
        } else {
            operand w[8];
#pragma GCC unroll 8
            for (int o = 0; o < n_outputs; ++o) w[o] = load_weights(weights + (size_t)o * stride, part);
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; ++r) {
                operand row = load_rows(part_rows + r * PART_ENTRIES);
                HOLD(row);
#pragma GCC unroll 8
                for (int o = 0; o < n_outputs; ++o)
                    sums[r * n_outputs + o] = multiply_add(row, w[o], sums[r * n_outputs + o]);
            }
        }
    }
}

ALWAYS_INLINE void store_sums(const vec *sums, float *out, size_t out_stride, bool add, int n_rows, int n_outputs) {
    int n = n_rows * n_outputs;
#pragma GCC unroll 8
    for (int i = 0; i < n; i += 4) {
        vec zero = {0};
        vec4 four = vec_sums(sums[i], i + 1 < n ? sums[i + 1] : zero, i + 2 < n ? sums[i + 2] : zero,
                             i + 3 < n ? sums[i + 3] : zero);
        if (n_outputs == 4) { // of one row
            float *to = out + (size_t)(i / 4) * out_stride;
            if (add) {
                vec4 before;
                memcpy(&before, to, sizeof before);
                four += before;
            }
            memcpy(to, &four, sizeof four);
            continue;
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            if (i + j >= n) continue;
            float *to = out + (size_t)((i + j) / n_outputs) * out_stride + (size_t)((i + j) % n_outputs);
            *to = add ? *to + four[j] : four[j];
        }
    }
}

/* Whole steps. Meanwhile `pace` bytes a step are fetched from `ahead`. */
ALWAYS_INLINE int32_t tile_steps(vec *sums, const struct product_job *job, const uint16_t *weights, uintptr_t ahead,
                                 uintptr_t pace, int n_rows, int n_outputs) {
    const packed *rows = job->rows;
    uintptr_t due = ahead;
    int32_t i = 0;
    for (; i + STEP <= job->n_inputs; i += STEP, rows += n_rows * STEP) {
        for (due += pace; ahead < due; ahead += 64) fetch(ahead);
        tile_step(sums, weights + i, job->weight_stride, rows, n_rows, n_outputs);
    }
    return i;
}

/* Outputs [first, first + n_outputs) of a job. */
ALWAYS_INLINE void product_tile(const struct product_job *job, int32_t first, int n_rows, int n_outputs) {
    const uint16_t *weights = job->weights + (size_t)first * job->weight_stride;
    vec sums[MAX_TILE];
#pragma GCC unroll 20
    for (int i = 0; i < n_rows * n_outputs; ++i) sums[i] = (vec){0};
    int32_t i;
    if (job->ahead) {
        uintptr_t share = (uintptr_t)job->ahead_share, step_bytes = (uintptr_t)(n_outputs * STEP) * sizeof *weights;
        uintptr_t ahead = job->ahead + (uintptr_t)first * (uintptr_t)job->n_inputs * sizeof *weights / share;
        i = tile_steps(sums, job, weights, ahead, (step_bytes + share - 1) / share, n_rows, n_outputs);
    } else {
        i = tile_steps(sums, job, weights, 0, 0, n_rows, n_outputs);
    }
    if (i < job->n_inputs) { // the last, partly filled step
        uint16_t last[8 * STEP] = {0};
        for (int o = 0; o < n_outputs; ++o)
            memcpy(last + o * STEP, weights + (size_t)o * job->weight_stride + i,
                   (size_t)(job->n_inputs - i) * sizeof *last);
        tile_step(sums, last, STEP, (const packed *)job->rows + (size_t)i * (size_t)n_rows, n_rows, n_outputs);
    }
    store_sums(sums, job->out + first, job->out_stride, job->add, n_rows, n_outputs);
}

static void begin(int32_t n_rows) {
    (void)n_rows;
}

static void end(void) {}

/* As many outputs at once as the registers hold; what is left one by one. */
#define PRODUCT_CASE(rows, outputs)                                                                                    \
    case rows:                                                                                                         \
        for (; o + (outputs) <= job->n_outputs; o += (outputs)) product_tile(job, o, rows, outputs);                   \
        for (; o < job->n_outputs; ++o) product_tile(job, o, rows, 1);                                                 \
        break

static inline void product(const struct product_job *job) {
    int32_t o = 0;
    if (job->n_rows == 1 && job->ahead) // memory is read fastest in few streams
        for (; o + 2 <= job->n_outputs; o += 2) product_tile(job, o, 1, 2);
    switch (job->n_rows) {
        PRODUCT_CASE(1, 4);
        PRODUCT_CASE(2, 4);
#if LANES == 16 // 32 registers
        PRODUCT_CASE(3, 4);
        PRODUCT_CASE(4, 4);
        PRODUCT_CASE(5, 4);
#else // 16 registers
        PRODUCT_CASE(3, 3);
        PRODUCT_CASE(4, 2);
        PRODUCT_CASE(5, 2);
#endif
    }
}

#endif
