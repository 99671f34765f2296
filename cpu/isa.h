/* The vectorised pieces, once for each instruction set, behind one table that is chosen when the device is created.
 *
 * "plain" runs on any processor, "avx2" needs AVX2 and FMA, "avx512" F, BW, DQ and VL, "avx512bf16" the dot products of
 * bf16 pairs too, "amx" the tile products of bf16. The first three keep float32 activations; the last two round the
 * rows of a matrix product to bf16 once per op (relative error up to 2^-9 per factor), sums stay float32. Each piece
 * has one order of additions per output, whatever the tile: results of one table never depend on what else is
 * computed. Tables differ in the last bits from each other. */
#ifndef QUERN_CPU_ISA_H
#define QUERN_CPU_ISA_H

#include "engine/error.h"

#include <stddef.h>
#include <stdint.h>

#define MAX_GROUP_ROWS 16 // rows that a product takes at once, packed together
#define PACK_STEP      32 // packed rows are filled with zeros to a multiple of this
#define ATTENTION_TILE 64 // positions between two corrections of the online softmax
#define MAX_QUERIES    20 // that go through a tile together: its keys and values are read once for all
#define MAX_HEAD_DIM   256

/* n rows in groups of the same size, or one row less: the first row of a group, or n for the number of groups. */
static inline int32_t count_groups(int32_t n_rows, int32_t group_rows) {
    return (n_rows + group_rows - 1) / group_rows;
}
static inline int32_t group_start(int32_t n_rows, int32_t group_rows, int32_t group) {
    int32_t n_groups = count_groups(n_rows, group_rows), larger = n_rows % n_groups;
    return group * (n_rows / n_groups) + (group < larger ? group : larger);
}

/* Rows into a packed group: weight NULL: x, else (x * scale) * weight. */
struct pack_job {
    const float *x[MAX_GROUP_ROWS]; // [n] each
    float scale[MAX_GROUP_ROWS];
    const uint16_t *weight; // [n] bf16, or NULL
    int32_t n;
    int32_t n_rows; // in [1, group_rows]
    void *group;    // [n rounded up to PACK_STEP][n_rows]
};

/* out[r][o] = or += rows[r] · weights[o] over n_inputs <= product_inputs inputs. */
struct product_job {
    const uint16_t *weights; // bf16, first output, first input of this part
    size_t weight_stride;    // elements between outputs
    int32_t n_outputs;
    int32_t n_inputs;
    const void *rows; // packed group, first input of this part
    int32_t n_rows;   // in [1, group_rows]
    float *out;
    size_t out_stride; // elements between rows
    bool add;
    uintptr_t ahead;     // 0, or where the memory lies that is fetched meanwhile:
    int32_t ahead_share; // as much as this job's weights / ahead_share
};

/* Up to MAX_QUERIES query heads that share a KV head: out[i] = softmax(queries[i] · K * scale) · V over the first
 * n_visible[i] positions. */
struct attend_job {
    const float *queries[MAX_QUERIES]; // [head_dim]
    float *out[MAX_QUERIES];           // [head_dim]
    int32_t n_visible[MAX_QUERIES];    // not falling
    int32_t n_queries;
    int32_t head_dim; // multiple of 16, at most MAX_HEAD_DIM
    float scale;
    const float *keys; // this KV head in block 0: [block_size][head_dim]
    const float *values;
    const float *next_keys; // of the KV head in block 0 that this thread attends to next, or NULL
    size_t block_stride;    // elements between blocks
    const int32_t *blocks;
    int32_t block_size;
};

struct isa {
    const char *name;
    size_t packed_bytes;    // of one input of one packed row
    int32_t group_rows;     // of a packed group, at most MAX_GROUP_ROWS
    int32_t block_groups;   // groups that pass over a block of weights while it is in L2
    int32_t product_inputs; // that are summed in one piece
    int32_t stream_outputs; // that are read together from memory, at least, when rows are few
    void (*pack)(const struct pack_job *job);
    /* What a thread does before and after products of groups of so many rows, and between when the number changes. */
    void (*begin)(int32_t n_rows);
    void (*end)(void);
    void (*product)(const struct product_job *job);
    void (*attend)(const struct attend_job *job);
    float (*sum_of_squares)(const float *x, int32_t n);
    /* out = (x * scale) * weight; may be in place. */
    void (*scale_by)(const float *x, float scale, const uint16_t *weight, float *out, int32_t n);
    /* out[o] = x · weights[o], x in float32 whatever products do. */
    void (*dots)(const float *x, const uint16_t *weights, int32_t n, float *out, int32_t n_outputs);
    /* out = silu(gate) * up */
    void (*swiglu)(const float *gate, const float *up, float *out, int32_t n);
    /* cosines and sines of position * frequencies[i], the product rounded to float32. */
    void (*rope_angles)(int32_t position, const float *frequencies, float *cosines, float *sines, int32_t n);
    /* Rotates the pairs (head[i], head[half + i]). */
    void (*rotate)(float *head, const float *cosines, const float *sines, int32_t half);
    /* The largest of n >= 1 numbers, or NaN when one is not finite. */
    float (*largest)(const float *x, int32_t n);
    /* sampling_weight of each logit. */
    void (*sampling_weights)(const float *logits, int32_t n, float max, float inverse_temperature, uint32_t *weights);
    /* Sum of exp(logit - max) of n logits, none above max. */
    float (*exp_sum)(const float *logits, int32_t n, float max);
    /* Reads memory and adds it up: for the bandwidth. */
    uint32_t (*read)(const void *memory, size_t bytes);
};

extern const struct isa isa_plain, isa_avx2, isa_avx512, isa_avx512bf16, isa_amx;

/* "auto" or NULL: the best that this processor has. ERR_INVALID: unknown, or not on this processor. */
const struct isa *isa_find(const char *name, struct error *err);

#endif
