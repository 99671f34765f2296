/* Where the microseconds of one decode step go:
 *
 *     step_profile SHAPE_FILE BATCH CONTEXT [on|off]
 *
 * Replays the recorded step of BATCH sequences of CONTEXT tokens, then the step with one op left out at a time: the
 * difference is what the op costs in its place, gaps included. Dummy weights; fused unless `off`. */
#include "tests/test.h"

#include "engine/backend.h"
#include "engine/model.h"
#include "tests/model/demo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EMBED, QKV, ATTENTION, OUTPUT, MLP, HEAD, SAMPLE, N_OPS };
#define ALL ((1 << N_OPS) - 1)

static const char *const op_names[] = {"embed", "rmsnorm_qkv", "paged_attention", "attention_output",
                                       "mlp",   "lm_head",     "sample"};

static void call_ops(struct demo *demo, int which) {
    const struct context *ctx = demo->ctx;
    const struct backend_ops *ops = ctx->ops;
    const struct weights *weights = &demo->weights;
    struct error err = {0};
    bool ok = !(which & 1 << EMBED) || ops->embed(ctx, weights, &err);
    for (int32_t layer = 0; layer < ctx->shape->n_layers && ok; ++layer) {
        ok = (!(which & 1 << QKV) || ops->rmsnorm_qkv(ctx, weights, layer, &err)) &&
             (!(which & 1 << ATTENTION) || ops->paged_attention(ctx, layer, &err)) &&
             (!(which & 1 << OUTPUT) || ops->attention_output(ctx, weights, layer, &err)) &&
             (!(which & 1 << MLP) || ops->mlp(ctx, weights, layer, &err));
    }
    ok = ok && (!(which & 1 << HEAD) || ops->lm_head(ctx, weights, &err)) &&
         (!(which & 1 << SAMPLE) || ops->sample(ctx, &err));
    rig_must(ok, &err);
}

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static double time_replays(struct demo *demo, int n_replays) {
    const struct backend_ops *ops = demo->ctx->ops;
    struct error err = {0};
    double began = 0;
    for (int i = -3; i < n_replays; ++i) {
        if (i == 0) {
            rig_must(ops->synchronize(demo->ctx->device, &err), &err);
            began = now_us();
        }
        bool replayed;
        rig_must(ops->replay(demo->ctx, &replayed, &err), &err);
        assert_true(replayed);
    }
    rig_must(ops->synchronize(demo->ctx->device, &err), &err);
    return (now_us() - began) / n_replays;
}

static double time_recorded(struct demo *demo, int32_t batch, int which, int n_replays) {
    struct error err = {0};
    int32_t n_recordings, index = 0;
    const struct backend_ops *ops = demo->ctx->ops;
    rig_must(ops->recordings_create(demo->ctx, &n_recordings, &err), &err);
    index = n_recordings - 1; // max_seqs is batch
    struct batch kept = demo->ctx->batch;
    context_prepare_recording(demo->ctx);
    rig_must(ops->record_begin(demo->ctx, index, &err), &err);
    call_ops(demo, which);
    rig_must(ops->record_end(demo->ctx, index, &err), &err);
    demo->ctx->batch = kept;
    assert_int_equal(kept.n_rows, batch);
    double us = time_replays(demo, n_replays);
    ops->recordings_destroy(demo->ctx);
    return us;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s SHAPE_FILE BATCH CONTEXT [on|off]\n", argv[0]);
        return 2;
    }
    int32_t batch = atoi(argv[2]), context = atoi(argv[3]), max_rows = 4096;
    struct error err = {0};
    struct target targets[MAX_TARGETS];
    int32_t n_targets = targets_open("cuda", targets), which = argc > 4 && strcmp(argv[4], "off") == 0 ? 1 : 0;
    if (n_targets == 0) return 1;
    struct context_limits limits = {.max_rows = max_rows, .max_seqs = batch, .block_size = 16};
    struct demo *demo = demo_open_shape(&targets[which], argv[1], limits, context + 16);
    /* Sequence s begins at token s: rows of a mixture of experts go to different ones. */
    int32_t vocab = demo->config.shape.vocab, *tokens = malloc((size_t)(context + batch) * sizeof *tokens);
    for (int32_t i = 0; i < context + batch; ++i) tokens[i] = (int32_t)((int64_t)i * 7919 % vocab);
    double prefill_began = now_us();
    for (int32_t s = 0; s < batch; ++s) {
        for (int32_t start = 0; start < context - 1; start += max_rows) {
            int32_t n = context - 1 - start < max_rows ? context - 1 - start : max_rows;
            struct batch_sequence seq = {.tokens = tokens + s + start, .start = start, .n_rows = n};
            demo_prepare(demo, &seq, 1, &s);
            call_ops(demo, ALL & ~(1 << HEAD) & ~(1 << SAMPLE));
            rig_must(demo->ctx->ops->synchronize(demo->ctx->device, &err),
                     &err); // the next one fills the host's arrays
        }
    }
    double prefill_us = now_us() - prefill_began;
    struct batch_sequence *seqs = calloc((size_t)batch, sizeof *seqs);
    int32_t *places = calloc((size_t)batch, sizeof *places);
    for (int32_t s = 0; s < batch; ++s) {
        seqs[s] = (struct batch_sequence){
            .tokens = tokens + s + context - 1, .start = context - 1, .n_rows = 1, .sample = true};
        places[s] = s;
    }
    demo_prepare(demo, seqs, batch, places);
    rig_must(demo->ctx->ops->synchronize(demo->ctx->device, &err), &err);
    call_ops(demo, ALL);
    float *direct = demo_read(demo, demo->ctx->scratch.logits, DTYPE_F32, (size_t)vocab * (size_t)batch);
    int n_replays = batch <= 8 ? 100 : 30;
    double whole = time_recorded(demo, batch, ALL, n_replays);
    float *replayed = demo_read(demo, demo->ctx->scratch.logits, DTYPE_F32, (size_t)vocab * (size_t)batch);
    size_t different = 0;
    for (size_t i = 0; i < (size_t)vocab * (size_t)batch; ++i) different += !(direct[i] == replayed[i]);
    printf(
        "%s %s batch %d context %d: step %.1f us, prefill %.1f ms; %zu logits differ from the ops called one by one\n",
        argv[1], targets[which].label, batch, context, whole, prefill_us / 1e3, different);
    for (int op = 0; op < N_OPS; ++op) {
        double without = time_recorded(demo, batch, ALL & ~(1 << op), n_replays);
        double alone = time_recorded(demo, batch, 1 << op, n_replays);
        int32_t calls = op >= QKV && op <= MLP ? demo->config.shape.n_layers : 1;
        printf("  %-16s %8.1f us of the step, %6.2f a call, %6.2f a call alone\n", op_names[op], whole - without,
               (whole - without) / calls, alone / calls);
    }
    free(direct);
    free(replayed);
    free(seqs);
    free(places);
    free(tokens);
    demo_close(demo);
    targets_close(targets, n_targets);
    return 0;
}
