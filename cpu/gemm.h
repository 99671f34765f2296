/* Rows times a bf16 matrix [outputs][inputs], spread over the threads.
 *
 * Rows are first packed in groups of at most GROUP_ROWS (cpu/isa.h), once per op; then blocks of outputs x blocks of
 * row groups are computed by whichever thread is free. Few rows: a block is a short run of weight rows, so that memory
 * is read once and in order. Many rows: a block of weights stays in L2 while the groups pass, a group in L1. */
#ifndef QUERN_CPU_GEMM_H
#define QUERN_CPU_GEMM_H

#include "cpu/device.h"

#include <stdbool.h>

#define BLOCK_GROUPS 10 // row groups in a block: with PRODUCT_INPUTS float32 inputs they take 200 KB of L2
#define BLOCK_ROWS   (BLOCK_GROUPS * GROUP_ROWS)

static inline int32_t count_row_blocks(int32_t n_rows) {
    return (count_groups(n_rows) + BLOCK_GROUPS - 1) / BLOCK_GROUPS;
}

/* The rows of a block: [first, end). */
struct row_block {
    int32_t first_group;
    int32_t end_group;
    int32_t first_row;
    int32_t end_row;
};
struct row_block row_block_at(int32_t n_rows, int32_t index);

/* Rows to pack: x[rows ? rows[i].row : i], normalised first when norm is not NULL. */
struct gemm_rows {
    const float *x; // [..][n_inputs]
    int32_t n_inputs;
    int32_t n_rows;
    const uint16_t *norm; // [n_inputs] RMSNorm weight, or NULL
    float eps;
    const struct sample_row *rows; // [n_rows], or NULL: all rows in order
    void *packed;
};
void gemm_pack(struct device *device, const struct gemm_rows *rows);

struct gemm {
    const void *packed;
    const uint16_t *weights; // [n_outputs][n_inputs]
    int32_t n_inputs;
    int32_t n_outputs;
    int32_t n_rows;
    float *out; // [n_rows][n_outputs]
    bool add;   // out += instead of out =
};
void gemm_run(struct device *device, const struct gemm *gemm);

/* One block by the calling thread: outputs [first, first + n_outputs) of the block's rows, to
 * out[(row - first_row) * out_stride + output - first]. */
struct gemm_block {
    struct row_block rows;
    int32_t first;
    int32_t n_outputs;
    float *out;
    size_t out_stride;
};
void gemm_run_block(const struct device *device, const struct gemm *gemm, const struct gemm_block *block);

#endif
