#include "cpu/gemm.h"

#include "cpu/isa.h"

#include <math.h>

#define CHUNK_BYTES    ((size_t)64 << 10) // of weights when rows are few: short chunks end together
#define STREAM_BYTES   ((int64_t)3 << 20) // a matrix of this size comes from memory, not from a cache
#define RUN_BYTES      ((size_t)16 << 10) // that all groups pass while as many are fetched
#define SERIAL_WEIGHTS 16384 // so many weights x rows, or inputs, are done (1 us) before another thread would help

static int32_t round_up(int32_t n, int32_t step) {
    return (n + step - 1) / step * step;
}

int32_t count_row_blocks(const struct isa *isa, int32_t n_rows) {
    return (count_groups(n_rows, isa->group_rows) + isa->block_groups - 1) / isa->block_groups;
}

struct row_block row_block_at(const struct isa *isa, int32_t n_rows, int32_t index) {
    int32_t n_groups = count_groups(n_rows, isa->group_rows), first = index * isa->block_groups;
    int32_t end = first + isa->block_groups < n_groups ? first + isa->block_groups : n_groups;
    return (struct row_block){first, end, group_start(n_rows, isa->group_rows, first),
                              group_start(n_rows, isa->group_rows, end)};
}

size_t gemm_packed_offset(const struct isa *isa, int32_t row, int32_t n_inputs) {
    return (size_t)row * (size_t)round_up(n_inputs, PACK_STEP) * isa->packed_bytes;
}

struct pack_argument {
    const struct gemm_rows *rows;
    const struct isa *isa;
};

static void pack_group(void *argument, int32_t group) {
    const struct gemm_rows *rows = ((struct pack_argument *)argument)->rows;
    const struct isa *isa = ((struct pack_argument *)argument)->isa;
    int32_t start = group_start(rows->n_rows, isa->group_rows, group);
    struct pack_job job = {.weight = rows->norm,
                           .n = rows->n_inputs,
                           .n_rows = group_start(rows->n_rows, isa->group_rows, group + 1) - start,
                           .group = (char *)rows->packed + gemm_packed_offset(isa, start, rows->n_inputs)};
    for (int32_t i = 0; i < job.n_rows; ++i) {
        int32_t row = rows->rows ? rows->rows[start + i].row : rows->indices ? rows->indices[start + i] : start + i;
        job.x[i] = rows->x + (size_t)row * (size_t)rows->n_inputs;
        if (!rows->norm) continue;
        float squares = isa->sum_of_squares(job.x[i], rows->n_inputs);
        job.scale[i] = 1.0f / sqrtf(squares / (float)rows->n_inputs + rows->eps);
    }
    isa->pack(&job);
}

void gemm_pack_here(const struct device *device, const struct gemm_rows *rows) {
    struct pack_argument argument = {rows, device->isa};
    int32_t n_groups = count_groups(rows->n_rows, device->isa->group_rows);
    for (int32_t group = 0; group < n_groups; ++group) pack_group(&argument, group);
}

void gemm_pack(struct device *device, const struct gemm_rows *rows) {
    struct pack_argument argument = {rows, device->isa};
    if ((int64_t)rows->n_rows * rows->n_inputs < SERIAL_WEIGHTS) {
        gemm_pack_here(device, rows);
    } else {
        threads_run(device->threads, pack_group, &argument, count_groups(rows->n_rows, device->isa->group_rows));
    }
}

/* Outputs [first, first + n_outputs) of the block's rows; `next` is the output whose weights come after them, or -1. */
static void run_outputs(const struct gemm *gemm, const struct gemm_block *block, int32_t first, int32_t n_outputs,
                        int32_t next) {
    const struct isa *isa = gemm->device->isa;
    size_t n_inputs = (size_t)gemm->n_inputs;
    const uint16_t *weights = gemm->weights + (size_t)first * n_inputs;
    int32_t n_groups = block->rows.end_group - block->rows.first_group;
    bool one_group = count_groups(gemm->n_rows, isa->group_rows) == 1;
    /* The last rows that pass these weights fetch the next ones. */
    bool stream = next >= 0 && block->rows.end_row == gemm->n_rows &&
                  (int64_t)gemm->n_inputs * gemm->n_outputs * (int64_t)sizeof *weights >= STREAM_BYTES;
    uintptr_t ahead = stream ? (uintptr_t)(gemm->weights + (size_t)next * n_inputs) : 0;
    for (int32_t input = 0; input < gemm->n_inputs; input += isa->product_inputs) {
        int32_t left = gemm->n_inputs - input, part = left < isa->product_inputs ? left : isa->product_inputs;
        size_t group_bytes = (size_t)part * (size_t)n_outputs * sizeof *weights / (size_t)n_groups;
        for (int32_t group = block->rows.first_group; group < block->rows.end_group; ++group) {
            int32_t start = group_start(gemm->n_rows, isa->group_rows, group);
            int32_t n_rows = group_start(gemm->n_rows, isa->group_rows, group + 1) - start;
            if (!one_group) isa->begin(n_rows);
            size_t skipped = (size_t)input * (size_t)n_rows * isa->packed_bytes;
            isa->product(&(struct product_job){
                .weights = weights + input,
                .weight_stride = n_inputs,
                .n_outputs = n_outputs,
                .n_inputs = part,
                .rows = (const char *)gemm->packed + gemm_packed_offset(isa, start, gemm->n_inputs) + skipped,
                .n_rows = n_rows,
                .out = block->out + (size_t)(start - block->rows.first_row) * block->out_stride + first - block->first,
                .out_stride = block->out_stride,
                .add = gemm->add || input > 0,
                .ahead = ahead,
                .ahead_share = n_groups,
            });
            if (ahead) ahead += group_bytes;
        }
    }
}

/* The outputs whose weights fit so many bytes, in whole runs of the instruction set. */
static int32_t outputs_of(size_t bytes, const struct isa *isa, int32_t n_inputs) {
    size_t fit = bytes / ((size_t)n_inputs * sizeof(uint16_t));
    int32_t n_outputs = fit < MAX_CHUNK_OUTPUTS ? (int32_t)fit : MAX_CHUNK_OUTPUTS;
    n_outputs -= n_outputs % isa->stream_outputs;
    return n_outputs > isa->stream_outputs ? n_outputs : isa->stream_outputs;
}

int32_t gemm_chunk_outputs(const struct isa *isa, const struct gemm *gemm) {
    return count_row_blocks(isa, gemm->n_rows) > 1 ? MAX_CHUNK_OUTPUTS : outputs_of(CHUNK_BYTES, isa, gemm->n_inputs);
}

void gemm_run_block(const struct gemm *gemm, const struct gemm_block *block) {
    const struct isa *isa = gemm->device->isa;
    bool few_rows = count_row_blocks(isa, gemm->n_rows) == 1;
    int32_t step = few_rows ? outputs_of(RUN_BYTES, isa, gemm->n_inputs) : MAX_CHUNK_OUTPUTS;
    int32_t end = block->first + block->n_outputs;
    for (int32_t first = block->first; first < end; first += step) {
        int32_t n_outputs = end - first < step ? end - first : step;
        run_outputs(gemm, block, first, n_outputs, first + n_outputs < end ? first + n_outputs : block->next);
    }
}

void gemm_enter(void *argument) {
    const struct gemm *gemm = argument;
    const struct isa *isa = gemm->device->isa;
    isa->begin(group_start(gemm->n_rows, isa->group_rows, 1));
}

void gemm_leave(void *argument, int32_t thread) {
    const struct gemm *gemm = argument;
    const struct isa *isa = gemm->device->isa;
    const struct gemm_weights *then = &gemm->then;
    isa->end();
    if (!then->weights || count_row_blocks(isa, gemm->n_rows) > 1) return;
    int32_t chunk_outputs = outputs_of(CHUNK_BYTES, isa, then->n_inputs);
    int32_t n_chunks = (then->n_outputs + chunk_outputs - 1) / chunk_outputs;
    int32_t first = threads_first_chunk(gemm->device->threads, n_chunks, thread) * chunk_outputs;
    size_t output_bytes = (size_t)then->n_inputs * sizeof *then->weights;
    const char *start = (const char *)then->weights + (size_t)first * output_bytes;
    const char *end = start + (size_t)outputs_of(RUN_BYTES, isa, then->n_inputs) * output_bytes;
    for (; start < end; start += 64) __builtin_prefetch(start, 0, 2);
}

struct gemm_job {
    struct gemm gemm;
    int32_t n_row_blocks;
    int32_t chunk_outputs;
};

static void gemm_chunk(void *argument, int32_t chunk, int32_t next) {
    const struct gemm_job *job = argument;
    const struct gemm *gemm = &job->gemm;
    int32_t first = chunk / job->n_row_blocks * job->chunk_outputs, left = gemm->n_outputs - first;
    struct row_block rows = row_block_at(gemm->device->isa, gemm->n_rows, chunk % job->n_row_blocks);
    struct gemm_block block = {.rows = rows,
                               .first = first,
                               .n_outputs = left < job->chunk_outputs ? left : job->chunk_outputs,
                               .next = next < 0 ? -1 : next / job->n_row_blocks * job->chunk_outputs,
                               .out = gemm->out + (size_t)rows.first_row * (size_t)gemm->n_outputs + first,
                               .out_stride = (size_t)gemm->n_outputs};
    gemm_run_block(gemm, &block);
}

void gemm_run(const struct gemm *gemm) {
    const struct isa *isa = gemm->device->isa;
    struct gemm_job job = {.gemm = *gemm,
                           .n_row_blocks = count_row_blocks(isa, gemm->n_rows),
                           .chunk_outputs = gemm_chunk_outputs(isa, gemm)};
    if ((int64_t)gemm->n_inputs * gemm->n_outputs * gemm->n_rows < SERIAL_WEIGHTS) job.chunk_outputs = gemm->n_outputs;
    int32_t n_chunks = (gemm->n_outputs + job.chunk_outputs - 1) / job.chunk_outputs;
    threads_run_loop(gemm->device->threads, &(struct threads_loop){.run = gemm_chunk,
                                                                   .argument = &job,
                                                                   .n_chunks = n_chunks * job.n_row_blocks,
                                                                   .enter = gemm_enter,
                                                                   .leave = gemm_leave});
}
