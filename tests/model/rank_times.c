/* How long a sum over all GPUs takes, inside a recorded step, by our own kernel and by NCCL: rank_times [N] [HIDDEN].
 */
#include "cuda/cuda_backend.h"
#include "engine/engine.h"
#include "engine/ranks.h"

#include <stdio.h>
#include <stdlib.h>

#define SUMS 200 // in one recording
#define RUNS 5

static struct model_shape whole = {.n_layers = 1,
                                   .hidden = 5120,
                                   .n_heads = 16,
                                   .n_kv_heads = 16,
                                   .head_dim = 64,
                                   .intermediate = 256,
                                   .vocab = 1024,
                                   .max_positions = 64,
                                   .rms_eps = 1e-6f,
                                   .rope_theta = 1e6f};
static const struct context_limits limits = {
    .max_rows = 512, .max_seqs = 512, .max_blocks = 4, .block_size = 16, .n_blocks = 4};

static bool create(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    if (!slice_shape(&rank->shape, &whole, rank->slice, err)) return false;
    rank->ctx = context_create(rank->ranks->ops, rank->device, &rank->shape, &limits, err);
    return rank->ctx != NULL;
}

static bool record(struct rank *rank, void *argument, struct error *err) {
    const struct backend_ops *ops = rank->ranks->ops;
    struct context *ctx = rank->ctx;
    int32_t n;
    cuda_allow_direct_sums(rank->device, *(const bool *)argument);
    if (ctx->recordings) ops->recordings_destroy(ctx);
    ctx->batch.n_rows = 1;
    if (!ops->all_reduce(ctx, err) || !ops->synchronize(rank->device, err)) return false; // connects
    context_prepare_recording(ctx);
    if (!ops->recordings_create(ctx, &n, err)) return false;
    for (int32_t i = 0; i < n; ++i) {
        if (!ops->record_begin(ctx, i, err)) return false;
        for (int32_t s = 0; s < SUMS; ++s) {
            if (!ops->all_reduce(ctx, err)) return false;
        }
        if (!ops->record_end(ctx, i, err)) return false;
    }
    return true;
}

static bool replay(struct rank *rank, void *argument, struct error *err) {
    const struct backend_ops *ops = rank->ranks->ops;
    struct batch *batch = &rank->ctx->batch;
    bool replayed;
    batch->n_rows = batch->n_decode = batch->n_samples = *(const int32_t *)argument;
    return ops->replay(rank->ctx, &replayed, err) && ops->synchronize(rank->device, err);
}

static bool measure(struct ranks *ranks, bool direct, struct error *err) {
    static int32_t rows[] = {1, 4, 8, 16, 32, 64, 128, 256, 512};
    if (!ranks_run(ranks, record, &direct, err)) return false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        double best = 1e9;
        for (int run = 0; run < RUNS; ++run) {
            int64_t start = engine_now_ns();
            if (!ranks_run(ranks, replay, &rows[i], err)) return false;
            double us = (double)(engine_now_ns() - start) * 1e-3 / SUMS;
            if (run > 0 && us < best) best = us;
        }
        printf("%-6s %4d rows %8.1f KB %7.2f us\n", direct ? "direct" : "nccl", rows[i],
               (double)rows[i] * whole.hidden * 4 / 1024, best);
        fflush(stdout);
    }
    return true;
}

int main(int argc, char **argv) {
    struct ranks ranks = {0};
    struct error err = {0};
    if (argc > 2) whole.hidden = atoi(argv[2]);
    bool ok = ranks_init(&ranks, cuda_backend(true), argc > 1 ? atoi(argv[1]) : 2, &(struct device_options){0}, &err) &&
              ranks_run(&ranks, create, NULL, &err) && measure(&ranks, true, &err) && measure(&ranks, false, &err);
    if (!ok) fprintf(stderr, "%s\n", err.message);
    ranks_finish(&ranks);
    return ok ? 0 : 1;
}
