/* Log-probabilities, ranks and the likeliest tokens, against plain loops in double precision. */
#include "tests/kernels/harness.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 16

/* (value, token) in order: larger first, then the lower id. */
static bool before(const float *logits, int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void check_row(const struct target *target, const float *logits, int32_t vocab, int32_t token, int32_t n_scores,
                      const struct token_scores *scores) {
    double max = -INFINITY, sum = 0;
    for (int32_t i = 0; i < vocab; ++i) max = fmax(max, logits[i]);
    for (int32_t i = 0; i < vocab; ++i) sum += exp(logits[i] - max);
    int32_t rank = 0;
    for (int32_t i = 0; i < vocab; ++i) rank += logits[i] >= logits[token];
    double expected = logits[token] - max - log(sum);
    if (!(fabs(scores->logprob - expected) <= 2e-6 * (1 + fabs(expected))))
        fail_msg("%s: logprob %.9g, not %.9g", target->label, (double)scores->logprob, expected);
    assert_int_equal(scores->rank, rank);
    assert_int_equal(scores->n_top, n_scores - 1);
    for (int32_t i = 0; i < scores->n_top; ++i) {
        int32_t n_before = 0, top = scores->tokens[i];
        assert_in_range(top, 0, vocab - 1);
        for (int32_t other = 0; other < vocab; ++other) n_before += before(logits, other, top);
        if (n_before != i) fail_msg("%s: token %d is at place %d, not %d", target->label, top, i, n_before);
        expected = logits[top] - max - log(sum);
        assert_true(fabs(scores->logprobs[i] - expected) <= 2e-6 * (1 + fabs(expected)));
    }
}

static float logit_of(int32_t kind, int32_t row, int32_t i) {
    float value = random_value((uint64_t)row, (uint64_t)kind, (uint64_t)i);
    if (kind == 0) return 12 * value - 30;
    if (kind == 1) return roundf(3 * value);                          // many equals
    if (kind == 2) return 0.5f;                                       // all equal
    return 8 * value + (i % 4096 < 4 && i < 4096 * 9 ? 10.0f : 0.0f); // the largest lie with one thread
}

static void check_scores(const struct target *target, int32_t vocab, int32_t n_rows) {
    struct rig_options options = rig_defaults();
    options.shape.vocab = vocab;
    options.shape.n_layers = 1;
    options.shape.hidden = 64;
    struct rig *rig = rig_create(target, &options);
    float *logits = malloc((size_t)n_rows * (size_t)vocab * sizeof *logits);
    assert_non_null(logits);
    static const int32_t n_scores[] = {1, 21, 0, 2, 6, 11, 21};
    for (int32_t kind = 0; kind < 4; ++kind) {
        struct error err = {0};
        struct rig_sequence seqs[ROWS] = {0};
        int32_t sampled[ROWS];
        for (int32_t r = 0; r < n_rows; ++r) {
            seqs[r] = (struct rig_sequence){
                .content = (uint64_t)r, .start = r, .n_rows = 1, .sample = true, .n_scores = n_scores[r % 7]};
            for (int32_t i = 0; i < vocab; ++i) logits[(size_t)r * (size_t)vocab + (size_t)i] = logit_of(kind, r, i);
            sampled[r] = r == 5 ? SAMPLED_NOT_FINITE : (r * 7919 + kind) % vocab;
        }
        rig_prepare_step(rig, seqs, n_rows);
        rig_write(rig, rig->ctx->scratch.logits, DTYPE_F32, logits, (size_t)n_rows * (size_t)vocab);
        rig_must(target->ops->copy_to_device(target->device, rig->ctx->scratch.sampled, sampled,
                                             (size_t)n_rows * sizeof *sampled, &err),
                 &err);
        rig_must(target->ops->score(rig->ctx, &err), &err);
        struct token_scores scores[ROWS], untouched;
        memset(&untouched, 0xFF, sizeof untouched); // as the rig fills memory
        rig_must(target->ops->copy_to_host(target->device, scores, rig->ctx->scratch.scores,
                                           (size_t)n_rows * sizeof *scores, &err),
                 &err);
        for (int32_t r = 0; r < n_rows; ++r) {
            if (seqs[r].n_scores == 0 || sampled[r] < 0)
                assert_memory_equal(&scores[r], &untouched, sizeof untouched);
            else
                check_row(target, logits + (size_t)r * (size_t)vocab, vocab, sampled[r], seqs[r].n_scores, &scores[r]);
        }
    }
    free(logits);
    rig_destroy(rig);
}

static void check_small(const struct target *target) {
    check_scores(target, 1032, ROWS);
}
static void check_tiny(const struct target *target) {
    check_scores(target, 64, ROWS); // fewer vectors than tokens that are wanted
}
static void check_large(const struct target *target) {
    check_scores(target, 151936, 7);
}

static void small_vocabularies(void **state) {
    on_targets(state, check_small);
}
static void tiny_vocabularies(void **state) {
    on_targets(state, check_tiny);
}
static void large_vocabularies(void **state) {
    on_targets(state, check_large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("scores of a small vocabulary", small_vocabularies),
        ON_EVERY_BACKEND("scores of a tiny vocabulary", tiny_vocabularies),
        ON_EVERY_BACKEND("scores of a large vocabulary", large_vocabularies),
    };
    return cmocka_run_group_tests_name("score", tests, NULL, NULL);
}
