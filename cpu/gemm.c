#include "cpu/gemm.h"

#include "cpu/isa.h"

#include <math.h>

#define FEW_ROWS         24                 // up to here reading the weights is a good part of the time
#define FEW_ROWS_OUTPUTS 32                 // outputs of a block then: short blocks end together
#define BLOCK_OUTPUTS    64                 // else
#define STREAM_OUTPUTS   8                  // one group passes all inputs of so many outputs, in the order of memory
#define STREAM_BYTES     ((int64_t)3 << 20) // a matrix of this size comes from memory, not from a cache
#define FETCH_BYTES      16384              // how far ahead of its use memory is fetched, at least
#define PACK_ROWS        8                  // rows that one chunk packs
#define SERIAL_WEIGHTS   16384              // so many weights x rows are done (1 us) before another thread would help

static int32_t round_up(int32_t n, int32_t step) {
    return (n + step - 1) / step * step;
}

struct row_block row_block_at(int32_t n_rows, int32_t index) {
    int32_t n_groups = count_groups(n_rows), first = index * BLOCK_GROUPS;
    int32_t end = first + BLOCK_GROUPS < n_groups ? first + BLOCK_GROUPS : n_groups;
    return (struct row_block){first, end, group_start(n_rows, first), group_start(n_rows, end)};
}

static size_t packed_offset(const struct isa *isa, int32_t row, int32_t n_inputs) {
    return (size_t)row * (size_t)round_up(n_inputs, PACK_STEP) * isa->packed_bytes;
}

struct pack_argument {
    const struct gemm_rows *rows;
    const struct isa *isa;
};

static void pack_chunk(void *argument, int32_t chunk) {
    const struct gemm_rows *rows = ((struct pack_argument *)argument)->rows;
    const struct isa *isa = ((struct pack_argument *)argument)->isa;
    int32_t n_groups = count_groups(rows->n_rows), group = 0;
    for (int32_t i = chunk * PACK_ROWS; i < (chunk + 1) * PACK_ROWS && i < rows->n_rows; ++i) {
        while (group + 1 < n_groups && group_start(rows->n_rows, group + 1) <= i) ++group;
        int32_t start = group_start(rows->n_rows, group);
        int32_t row = rows->rows ? rows->rows[i].row : i;
        const float *x = rows->x + (size_t)row * (size_t)rows->n_inputs;
        float scale = 1;
        if (rows->norm)
            scale = 1.0f / sqrtf(isa->sum_of_squares(x, rows->n_inputs) / (float)rows->n_inputs + rows->eps);
        isa->pack(&(struct pack_job){.x = x,
                                     .weight = rows->norm,
                                     .scale = scale,
                                     .n = rows->n_inputs,
                                     .group = (char *)rows->packed + packed_offset(isa, start, rows->n_inputs),
                                     .row = i - start,
                                     .n_rows = group_start(rows->n_rows, group + 1) - start});
    }
}

void gemm_pack(struct device *device, const struct gemm_rows *rows) {
    struct pack_argument argument = {rows, device->isa};
    threads_run(device->threads, pack_chunk, &argument, (rows->n_rows + PACK_ROWS - 1) / PACK_ROWS);
}

/* Outputs [first, first + n_outputs) of the block, all inputs, piece after piece. While the first group reads these
 * weights from memory, it fetches those of some outputs further on. */
static void run_outputs(const struct device *device, const struct gemm *gemm, const struct gemm_block *block,
                        int32_t first, int32_t n_outputs) {
    const struct isa *isa = device->isa;
    const uint16_t *weights = gemm->weights + (size_t)first * (size_t)gemm->n_inputs;
    uintptr_t bytes = (uintptr_t)n_outputs * (uintptr_t)gemm->n_inputs * sizeof *weights;
    uintptr_t ahead = (uintptr_t)weights + (bytes < FETCH_BYTES ? FETCH_BYTES : bytes);
    /* Rows of several blocks find all but the first time's weights in cache. */
    bool stream = gemm->n_rows <= BLOCK_ROWS &&
                  (int64_t)gemm->n_inputs * gemm->n_outputs * (int64_t)sizeof *weights >= STREAM_BYTES;
    for (int32_t input = 0; input < gemm->n_inputs; input += PRODUCT_INPUTS) {
        int32_t left = gemm->n_inputs - input;
        for (int32_t group = block->rows.first_group; group < block->rows.end_group; ++group) {
            int32_t start = group_start(gemm->n_rows, group);
            int32_t n_rows = group_start(gemm->n_rows, group + 1) - start;
            size_t skipped = (size_t)input * (size_t)n_rows * isa->packed_bytes;
            isa->product(&(struct product_job){
                .weights = weights + input,
                .weight_stride = (size_t)gemm->n_inputs,
                .n_outputs = n_outputs,
                .n_inputs = left < PRODUCT_INPUTS ? left : PRODUCT_INPUTS,
                .rows = (const char *)gemm->packed + packed_offset(isa, start, gemm->n_inputs) + skipped,
                .n_rows = n_rows,
                .out = block->out + (size_t)(start - block->rows.first_row) * block->out_stride + first - block->first,
                .out_stride = block->out_stride,
                .add = gemm->add || input > 0,
                .ahead = stream && group == block->rows.first_group
                             ? ahead + (uintptr_t)input * (uintptr_t)n_outputs * sizeof *weights
                             : 0,
            });
        }
    }
}

void gemm_run_block(const struct device *device, const struct gemm *gemm, const struct gemm_block *block) {
    bool one_group = block->rows.end_group - block->rows.first_group == 1;
    int32_t step = one_group ? STREAM_OUTPUTS : BLOCK_OUTPUTS, end = block->first + block->n_outputs;
    for (int32_t first = block->first; first < end; first += step)
        run_outputs(device, gemm, block, first, end - first < step ? end - first : step);
}

struct gemm_argument {
    const struct device *device;
    const struct gemm *gemm;
    int32_t n_row_blocks;
    int32_t block_outputs;
};

static void gemm_chunk(void *argument, int32_t chunk) {
    const struct gemm_argument *job = argument;
    const struct gemm *gemm = job->gemm;
    int32_t first = chunk / job->n_row_blocks * job->block_outputs, left = gemm->n_outputs - first;
    struct row_block rows = row_block_at(gemm->n_rows, chunk % job->n_row_blocks);
    struct gemm_block block = {.rows = rows,
                               .first = first,
                               .n_outputs = left < job->block_outputs ? left : job->block_outputs,
                               .out = gemm->out + (size_t)rows.first_row * (size_t)gemm->n_outputs + first,
                               .out_stride = (size_t)gemm->n_outputs};
    gemm_run_block(job->device, gemm, &block);
}

void gemm_run(struct device *device, const struct gemm *gemm) {
    struct gemm_argument job = {.device = device,
                                .gemm = gemm,
                                .n_row_blocks = count_row_blocks(gemm->n_rows),
                                .block_outputs = gemm->n_rows <= FEW_ROWS ? FEW_ROWS_OUTPUTS : BLOCK_OUTPUTS};
    if ((int64_t)gemm->n_inputs * gemm->n_outputs * gemm->n_rows < SERIAL_WEIGHTS) job.block_outputs = gemm->n_outputs;
    int32_t n_blocks = (gemm->n_outputs + job.block_outputs - 1) / job.block_outputs;
    threads_run(device->threads, gemm_chunk, &job, n_blocks * job.n_row_blocks);
}
