/* Rows times a bf16 matrix [outputs][inputs], spread over the threads.
 *
 * Rows are first packed in groups (cpu/isa.h), once per op; then blocks of outputs x blocks of row groups are computed
 * by whichever thread is free. When one block holds all rows, they pass one short run of weight rows after another,
 * each while the run after it is fetched, so that memory is read once, in order and all the time. With more rows a
 * larger run of weights stays in L2 while the blocks pass. */
#ifndef QUERN_CPU_GEMM_H
#define QUERN_CPU_GEMM_H

#include "cpu/device.h"

#include <stdbool.h>

#define MAX_BLOCK_ROWS    64
#define MAX_CHUNK_OUTPUTS 64

/* The rows of a block: [first, end). */
struct row_block {
    int32_t first_group;
    int32_t end_group;
    int32_t first_row;
    int32_t end_row; // at most first_row + MAX_BLOCK_ROWS
};
int32_t count_row_blocks(const struct isa *isa, int32_t n_rows);
struct row_block row_block_at(const struct isa *isa, int32_t n_rows, int32_t index);

/* Rows to pack: row indices[i] or rows[i].row of x, or row i, normalised first when norm is not NULL. */
struct gemm_rows {
    const float *x; // [..][n_inputs]
    int32_t n_inputs;
    int32_t n_rows;
    const uint16_t *norm; // [n_inputs] RMSNorm weight, or NULL
    float eps;
    const struct sample_row *rows; // [n_rows], or NULL
    const int32_t *indices;        // likewise
    void *packed;
};
void gemm_pack(struct device *device, const struct gemm_rows *rows);

/* By the calling thread alone. */
void gemm_pack_here(const struct device *device, const struct gemm_rows *rows);

/* Bytes from the first packed row to this one. */
size_t gemm_packed_offset(const struct isa *isa, int32_t row, int32_t n_inputs);

/* A matrix that the step reads later. */
struct gemm_weights {
    const uint16_t *weights; // [n_outputs][n_inputs], or NULL
    int32_t n_inputs;
    int32_t n_outputs;
};

struct gemm {
    struct device *device; // borrowed
    const void *packed;
    const uint16_t *weights; // [n_outputs][n_inputs]
    int32_t n_inputs;
    int32_t n_outputs;
    int32_t n_rows;
    float *out;               // [n_rows][n_outputs]
    bool add;                 // out += instead of out =
    struct gemm_weights then; // of the product after this one: who is done with this one fetches what it begins with
};
void gemm_run(const struct gemm *gemm);

/* How many outputs one chunk of work should have, at most MAX_CHUNK_OUTPUTS. */
int32_t gemm_chunk_outputs(const struct isa *isa, const struct gemm *gemm);

/* What a thread does before and after its blocks: for struct threads_loop, whose argument begins with the struct gemm.
 */
void gemm_enter(void *gemm);
void gemm_leave(void *gemm, int32_t thread);

/* One block by the calling thread: outputs [first, first + n_outputs) of the block's rows, to
 * out[(row - first_row) * out_stride + output - first]. */
struct gemm_block {
    struct row_block rows;
    int32_t first;
    int32_t n_outputs;
    int32_t next; // the output whose weights this thread reads after the block, as far as it knows, or -1
    float *out;
    size_t out_stride;
};
void gemm_run_block(const struct gemm *gemm, const struct gemm_block *block);

#endif
