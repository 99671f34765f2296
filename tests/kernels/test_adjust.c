/* Bias, penalties, bans and masks against the formulas of vLLM in double precision, and the tokens that then are
 * sampled and counted. */
#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 12

/* What each row of a step has; by its number. */
struct plan {
    struct sampling_seat seats[ROWS];
    uint16_t *counts; // [ROWS][vocab] by seat
    uint32_t *masks;  // [ROWS][words] by mask
    struct rig_sequence seqs[ROWS];
};

static struct sampling_seat seat_of(int32_t row, int32_t vocab) {
    static const float repetitions[] = {1.3f, 1, 0.7f, 1, 2};
    static const float frequencies[] = {0.4f, -0.5f, 0, 2}, presences[] = {0, 1.5f, -2};
    struct sampling_seat seat = {.repetition_penalty = repetitions[row % 5],
                                 .frequency_penalty = frequencies[row % 4],
                                 .presence_penalty = presences[row % 3],
                                 .has_penalties = row % 4 != 3,
                                 .banned_until = row + (row % 2 ? 2 : 1)}; // the row's position is row + 1
    seat.n_bans = row % 6;
    for (int32_t i = 0; i < seat.n_bans; ++i) seat.bans[i] = (row * 31 + i * 97) % vocab;
    seat.n_biases = row == 4 ? SAMPLING_MAX_BIASES : row % 3 ? 0 : 20;
    for (int32_t i = 0; i < seat.n_biases; ++i)
        seat.biases[i] = (struct token_bias){(int32_t)(((int64_t)i * vocab) / seat.n_biases), (float)(i % 9 - 4)};
    return seat;
}

/* Rows with a seat, a mask, both, and none. */
static void make_plan(struct plan *plan, int32_t vocab) {
    int32_t words = sampling_mask_words(vocab), n_masks = 0;
    plan->counts = calloc((size_t)ROWS * (size_t)vocab, sizeof *plan->counts);
    plan->masks = calloc((size_t)ROWS * (size_t)words, sizeof *plan->masks);
    assert_true(plan->counts && plan->masks);
    for (int32_t r = 0; r < ROWS; ++r) {
        static const float temperatures[] = {0, 1, 0.6f};
        plan->seats[r] = seat_of(r, vocab);
        for (int32_t i = 0; i < vocab; ++i) {
            float a = random_value(7, (uint64_t)r, (uint64_t)i);
            uint16_t *count = &plan->counts[(size_t)r * (size_t)vocab + (size_t)i];
            if (a > 0.5f) *count = (uint16_t)(1 + (int32_t)((a - 0.5f) * 8)) | (a > 0.8f ? SAMPLING_IN_PROMPT : 0);
            if (a < -0.9f) *count = SAMPLING_IN_PROMPT;
            if (a < -0.99f) *count = SAMPLING_MAX_COUNT;
        }
        plan->seqs[r] = (struct rig_sequence){
            .content = (uint64_t)r,
            .start = r,
            .n_rows = 1,
            .sample = true,
            .sampling = {.temperature = temperatures[r % 3], .top_p = r % 2 ? 1 : 0.9f, .seed = (uint64_t)r},
            .seat = r % 4 == 2 ? 0 : ROWS - r, // seat and row are not the same
            .mask = r % 4 < 2 ? 0 : ++n_masks};
        if (r % 4 < 2) continue;
        uint32_t *mask = plan->masks + (size_t)(n_masks - 1) * (size_t)words;
        for (int32_t i = r; i < vocab; i += 1 + r * r) mask[i / 32] |= 1u << (i % 32);
    }
    plan->seqs[5].seat = 0;
}

static double expected_logit(const struct plan *plan, int32_t row, int32_t vocab, int32_t token, double logit) {
    const struct rig_sequence *seq = &plan->seqs[row];
    if (seq->mask > 0) {
        const uint32_t *mask = plan->masks + (size_t)(seq->mask - 1) * (size_t)sampling_mask_words(vocab);
        if (!(mask[token / 32] >> (token % 32) & 1)) return (double)SAMPLING_BANNED;
    }
    if (seq->seat == 0) return logit;
    const struct sampling_seat *seat = &plan->seats[seq->seat - 1];
    for (int32_t i = 0; i < seat->n_bans && seq->mask == 0 && row + 1 < seat->banned_until; ++i)
        if (seat->bans[i] == token) return (double)SAMPLING_BANNED;
    for (int32_t i = 0; i < seat->n_biases; ++i)
        if (seat->biases[i].token == token) logit += (double)seat->biases[i].bias;
    uint32_t count = plan->counts[(size_t)(seq->seat - 1) * (size_t)vocab + (size_t)token];
    if (!seat->has_penalties || count == 0) return logit;
    logit = logit > 0 ? logit / (double)seat->repetition_penalty : logit * (double)seat->repetition_penalty;
    uint32_t n = count & SAMPLING_MAX_COUNT;
    return logit - (double)seat->frequency_penalty * n - (n > 0 ? (double)seat->presence_penalty : 0);
}

static void upload(const struct rig *rig, void *to, const void *from, size_t bytes) {
    struct error err = {0};
    const struct backend_ops *ops = rig->target->ops;
    rig_must(ops->copy_to_device(rig->target->device, to, from, bytes, &err), &err);
    rig_must(ops->synchronize(rig->target->device, &err), &err);
}

static void check_adjusted(const struct target *target, const struct plan *plan, int32_t vocab, const float *logits,
                           const float *adjusted, const int32_t *sampled) {
    for (int32_t r = 0; r < ROWS; ++r) {
        const struct rig_sequence *seq = &plan->seqs[r];
        const float *row = logits + (size_t)r * (size_t)vocab;
        if (seq->seat > 0 || seq->mask > 0) {
            row = adjusted + (size_t)r * (size_t)vocab;
            for (int32_t i = 0; i < vocab; ++i) {
                double expected =
                    expected_logit(plan, r, vocab, i, (double)logits[(size_t)r * (size_t)vocab + (size_t)i]);
                if (!(fabs(row[i] - expected) <= 2e-6 * (1 + fabs(expected))))
                    fail_msg("%s: row %d, token %d: %.9g, not %.9g", target->label, r, i, (double)row[i], expected);
            }
        }
        assert_int_equal(sampled[r], reference_sample(row, vocab, &seq->sampling, r + 1, NULL));
    }
}

static void check_vocab(const struct target *target, int32_t vocab) {
    struct rig_options options = rig_defaults();
    struct error err = {0};
    options.shape.vocab = vocab;
    options.shape.n_layers = 1;
    options.shape.hidden = 64;
    struct rig *rig = rig_create(target, &options);
    struct plan plan = {0};
    size_t n = (size_t)ROWS * (size_t)vocab;
    float *logits = malloc(n * sizeof *logits);
    assert_non_null(logits);
    for (size_t i = 0; i < n; ++i) logits[i] = 10 * random_value(3, 1, i) * random_value(3, 2, i);
    make_plan(&plan, vocab);
    upload(rig, rig->ctx->sampling.seats, plan.seats, sizeof plan.seats);
    upload(rig, rig->ctx->sampling.counts, plan.counts, n * sizeof *plan.counts);
    upload(rig, rig->ctx->sampling.masks, plan.masks,
           (size_t)ROWS * (size_t)sampling_mask_words(vocab) * sizeof *plan.masks);
    rig_prepare_step(rig, plan.seqs, ROWS);
    rig_write(rig, rig->ctx->scratch.logits, DTYPE_F32, logits, n);
    rig_must(target->ops->adjust(rig->ctx, &err) && target->ops->sample(rig->ctx, &err) &&
                 target->ops->count(rig->ctx, &err),
             &err);
    int32_t sampled[ROWS];
    rig_must(target->ops->copy_to_host(target->device, sampled, rig->ctx->scratch.sampled, sizeof sampled, &err), &err);
    float *adjusted = rig_read(rig, rig->ctx->scratch.adjusted, DTYPE_F32, n);
    check_adjusted(target, &plan, vocab, logits, adjusted, sampled);

    /* Each sampled token counts once more, in seats with penalties alone, up to the most that a count holds. */
    uint16_t *counts = malloc(n * sizeof *counts);
    assert_non_null(counts);
    rig_must(target->ops->copy_to_host(target->device, counts, rig->ctx->sampling.counts, n * sizeof *counts, &err),
             &err);
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t seat = plan.seqs[r].seat - 1;
        if (seat < 0 || !plan.seats[seat].has_penalties) continue;
        uint16_t *count = &plan.counts[(size_t)seat * (size_t)vocab + (size_t)sampled[r]];
        if ((*count & SAMPLING_MAX_COUNT) < SAMPLING_MAX_COUNT) ++*count;
    }
    assert_memory_equal(counts, plan.counts, n * sizeof *counts);
    free(counts);
    free(adjusted);
    free(logits);
    free(plan.counts);
    free(plan.masks);
    rig_destroy(rig);
}

static void check_small(const struct target *target) {
    check_vocab(target, 1032);
}
static void check_large(const struct target *target) {
    check_vocab(target, 151936);
}

/* What is not finite is told: neither a mask nor a ban hides it. */
static void check_not_finite(const struct target *target) {
    struct rig_options options = rig_defaults();
    struct error err = {0};
    struct rig *rig = rig_create(target, &options);
    int32_t vocab = options.shape.vocab, words = sampling_mask_words(vocab), sampled[2];
    struct sampling_seat seat = {.repetition_penalty = 1, .n_bans = 1, .bans = {4}, .banned_until = 100};
    uint32_t *mask = calloc((size_t)words, sizeof *mask);
    float *logits = calloc(2 * (size_t)vocab, sizeof *logits);
    assert_true(mask && logits);
    mask[0] = 1 << 9;
    logits[4] = NAN;
    logits[vocab + 4] = INFINITY;
    upload(rig, rig->ctx->sampling.seats, &seat, sizeof seat);
    upload(rig, rig->ctx->sampling.masks, mask, (size_t)words * sizeof *mask);
    const struct rig_sequence seqs[2] = {{.n_rows = 1, .sample = true, .mask = 1},
                                         {.content = 1, .n_rows = 1, .sample = true, .seat = 1}};
    rig_prepare_step(rig, seqs, 2);
    for (int32_t round = 0; round < 2; ++round) {
        rig_write(rig, rig->ctx->scratch.logits, DTYPE_F32, logits, 2 * (size_t)vocab);
        rig_must(target->ops->adjust(rig->ctx, &err) && target->ops->sample(rig->ctx, &err), &err);
        rig_must(target->ops->copy_to_host(target->device, sampled, rig->ctx->scratch.sampled, sizeof sampled, &err),
                 &err);
        assert_int_equal(sampled[0], round == 0 ? SAMPLED_NOT_FINITE : 9);
        assert_int_equal(sampled[1], round == 0 ? SAMPLED_NOT_FINITE : 0);
        logits[4] = logits[vocab + 4] = 50; // masked, and banned
    }
    free(mask);
    free(logits);
    rig_destroy(rig);
}

static void small_vocabularies(void **state) {
    on_targets(state, check_small);
}
static void large_vocabularies(void **state) {
    on_targets(state, check_large);
}
static void not_finite(void **state) {
    on_targets(state, check_not_finite);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("rows of a small vocabulary are adjusted", small_vocabularies),
        ON_EVERY_BACKEND("rows of a large vocabulary are adjusted", large_vocabularies),
        ON_EVERY_BACKEND("what is not finite is told", not_finite),
    };
    return cmocka_run_group_tests_name("adjust", tests, NULL, NULL);
}
