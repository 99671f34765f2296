/* Writes the logits of a published shape with dummy weights, for scripts/compare_transformers.py:
 *
 *     dump_logits BACKEND SHAPE_FILE TOKENS_FILE N_PROMPT OUT_FILE
 *
 * BACKEND is cpu or cuda; TOKENS_FILE holds int32 ids. The first N_PROMPT are one prompt, the rest follow one a step.
 * OUT_FILE gets float32 [targets][1 + n_tokens - N_PROMPT][vocab], first fused, then separate; their names go to
 * standard output. Dummy weights are those of seed 0. */
#include "tests/test.h"

#include "engine/backend.h"
#include "engine/model.h"
#include "tests/model/demo.h"

#include <stdio.h>
#include <stdlib.h>

static void step(struct demo *demo, const int32_t *tokens, int32_t start, int32_t n_rows, FILE *out) {
    struct error err = {0};
    struct batch_sequence seq = {.tokens = tokens + start, .start = start, .n_rows = n_rows, .sample = true};
    demo_prepare(demo, &seq, 1, &(int32_t){0});
    rig_must(model_forward(demo->ctx, &demo->weights, &err), &err);
    size_t vocab = (size_t)demo->config.shape.vocab;
    float *logits = demo_read(demo, demo->ctx->scratch.logits, DTYPE_F32, vocab);
    if (fwrite(logits, sizeof *logits, vocab, out) != vocab) fail_msg("the output cannot be written");
    free(logits);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: %s cpu|cuda SHAPE_FILE TOKENS_FILE N_PROMPT OUT_FILE\n", argv[0]);
        return 2;
    }
    int32_t tokens[16384], n_prompt = atoi(argv[4]);
    FILE *in = fopen(argv[3], "rb"), *out = fopen(argv[5], "wb");
    if (!in || !out) {
        fprintf(stderr, "%s cannot be read, or %s not written\n", argv[3], argv[5]);
        return 2;
    }
    int32_t n_tokens = (int32_t)fread(tokens, sizeof *tokens, sizeof tokens / sizeof *tokens, in);
    fclose(in);
    struct target targets[MAX_TARGETS];
    int32_t n_targets = targets_open(argv[1], targets);
    for (int32_t t = n_targets > 2 ? n_targets - 2 : 0; t < n_targets; ++t) { // the processor's best instruction set
        struct context_limits limits = {.max_rows = 2048, .max_seqs = 1, .block_size = 16};
        struct demo *demo = demo_open_shape(&targets[t], argv[2], limits, n_tokens);
        step(demo, tokens, 0, n_prompt, out);
        for (int32_t i = n_prompt; i < n_tokens; ++i) step(demo, tokens, i, 1, out);
        printf("%s\n", targets[t].label);
        demo_close(demo);
    }
    targets_close(targets, n_targets);
    return fclose(out) == 0 && n_targets > 0 ? 0 : 1;
}
