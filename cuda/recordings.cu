/* Recorded steps: one CUDA graph for each rung of a ladder of batch sizes, all made before the first request.
 *
 * A launch from a graph costs the host nothing and the device about a microsecond, where one by one they are slower
 * than the kernels of a small model. What changes from step to step, a kernel reads from the batch arrays, whose
 * addresses never change; its grid follows from the rung alone. */
#include "cuda/device.cuh"

#include "cuda/ops.cuh"

#include <stdlib.h>

#define MAX_RECORDINGS 64

struct recordings {
    const struct device *device;
    int32_t count;
    int32_t rows[MAX_RECORDINGS]; // ascending, the last is max_seqs or the ladder's end
    cudaGraphExec_t graphs[MAX_RECORDINGS];
};

/* Rungs close enough that a padded step costs little more than its own rows. */
static int32_t next_rung(int32_t rows) {
    if (rows < 4) return rows * 2;
    if (rows < 16) return rows + 4;
    if (rows < 64) return rows + 8;
    if (rows < 128) return rows + 16;
    return rows < 256 ? rows + 32 : rows + 64;
}

bool cuda_recordings_create(struct context *ctx, int32_t *n_recordings, struct error *err) {
    struct recordings *recordings = (struct recordings *)calloc(1, sizeof *recordings);
    if (!recordings) return fail(err, ERR_MEMORY, "no memory for %d recordings", MAX_RECORDINGS);
    recordings->device = ctx->device;
    for (int32_t rows = 1; recordings->count < MAX_RECORDINGS; rows = next_rung(rows)) {
        recordings->rows[recordings->count++] = rows < ctx->limits.max_seqs ? rows : ctx->limits.max_seqs;
        if (rows >= ctx->limits.max_seqs) break;
    }
    ctx->recordings = recordings;
    *n_recordings = recordings->count;
    return true;
}

/* What fails here cannot be helped. */
void cuda_recordings_destroy(struct context *ctx) {
    struct recordings *recordings = ctx->recordings;
    if (!recordings) return;
    cudaSetDevice(recordings->device->index);
    cudaStreamSynchronize(recordings->device->stream);
    for (int32_t i = 0; i < recordings->count; ++i) {
        if (recordings->graphs[i]) cudaGraphExecDestroy(recordings->graphs[i]);
    }
    free(recordings);
    ctx->recordings = NULL;
}

bool cuda_record_begin(struct context *ctx, int32_t index, struct error *err) {
    int32_t rows = ctx->recordings->rows[index];
    struct batch *batch = &ctx->batch;
    batch->n_rows = batch->n_seqs = batch->n_decode = batch->n_samples = rows;
    batch->max_query_len = 1;
    batch->max_kv_len = ctx->limits.max_blocks * ctx->limits.block_size;
    if (!device_use(ctx->device, err)) return false;
    CUDA_TRY(cudaStreamBeginCapture(ctx->device->stream, cudaStreamCaptureModeRelaxed), err);
    return true;
}

/* Ends a capture also when an op has failed: the stream is usable again. */
bool cuda_record_end(struct context *ctx, int32_t index, struct error *err) {
    cudaGraph_t graph = NULL;
    CUDA_TRY(cudaStreamEndCapture(ctx->device->stream, &graph), err);
    cudaError_t status = cudaGraphInstantiate(&ctx->recordings->graphs[index], graph, 0);
    cudaGraphDestroy(graph);
    CUDA_TRY(status, err);
    CUDA_TRY(cudaGraphUpload(ctx->recordings->graphs[index], ctx->device->stream), err);
    return true;
}

/* -1: no recording is large enough. */
static int32_t recording_for(const struct recordings *recordings, int32_t n_rows) {
    int32_t first = 0, count = recordings ? recordings->count : 0;
    while (first < count && (recordings->rows[first] < n_rows || !recordings->graphs[first])) first++;
    return first < count ? first : -1;
}

int32_t cuda_padded_rows(const struct context *ctx, int32_t n_rows) {
    int32_t index = recording_for(ctx->recordings, n_rows);
    return index < 0 ? n_rows : ctx->recordings->rows[index];
}

bool cuda_replay(const struct context *ctx, bool *replayed, struct error *err) {
    const struct batch *batch = &ctx->batch;
    *replayed = false;
    if (batch->n_decode != batch->n_rows || batch->n_samples != batch->n_rows) return true;
    int32_t index = recording_for(ctx->recordings, batch->n_rows);
    if (index < 0 || ctx->recordings->rows[index] != batch->n_rows) return true;
    if (!device_use(ctx->device, err)) return false;
    CUDA_TRY(cudaGraphLaunch(ctx->recordings->graphs[index], ctx->device->stream), err);
    *replayed = true;
    return true;
}
