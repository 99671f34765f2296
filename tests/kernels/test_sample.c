#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define VOCAB 1032
#define ROWS  16

/* Samples rows of logits at once; row i is a sequence at position positions[i] with params[i]. */
static void sample_rows(struct rig *rig, const float *logits, const struct sampling_params *params, int32_t n,
                        int32_t *sampled) {
    struct error err = {0};
    struct rig_sequence seqs[ROWS] = {0};
    for (int32_t i = 0; i < n; ++i)
        seqs[i] = (struct rig_sequence){
            .content = (uint64_t)i, .start = i, .n_rows = 1, .sample = true, .sampling = params[i]};
    rig_prepare_step(rig, seqs, n);
    rig_write(rig, rig->ctx->scratch.logits, DTYPE_F32, logits, (size_t)n * VOCAB);
    rig_must(rig->target->ops->sample(rig->ctx, &err), &err);
    rig_must(rig->target->ops->copy_to_host(rig->target->device, sampled, rig->ctx->scratch.sampled,
                                            (size_t)n * sizeof *sampled, &err),
             &err);
}

static struct rig *make_rig(const struct target *target) {
    struct rig_options options = rig_defaults();
    options.shape.vocab = VOCAB;
    return rig_create(target, &options);
}

enum distribution { FLAT, NORMAL, PEAKED, TIED, FAR, N_DISTRIBUTIONS };

static void fill_row(float *logits, enum distribution distribution, uint64_t seed) {
    for (int32_t i = 0; i < VOCAB; ++i) {
        float a = random_value(seed, 1, (uint64_t)i), b = random_value(seed, 2, (uint64_t)i);
        switch (distribution) {
        case FLAT:
            logits[i] = 0.01f * a;
            break;
        case NORMAL:
            logits[i] = 3 * (a + b + random_value(seed, 3, (uint64_t)i)) - 20;
            break;
        case PEAKED:
            logits[i] = a > 0.99f ? 18 + 3 * b : 8 * b;
            break;
        case TIED: // 9 different values, among them 0 and -0
            logits[i] = b > 0 ? roundf(4 * a) : -roundf(-4 * a);
            break;
        default:
            logits[i] = 1e30f * a;
        }
    }
}

static struct sampling_params params_for(int32_t index) {
    static const float temperatures[] = {0, 0.6f, 1, 2, 0.05f, 1e-6f};
    static const float top_ps[] = {1, 0.95f, 0.5f, 1e-6f, 0.999f};
    static const float min_ps[] = {0, 0.05f, 0.9f, 1};
    static const int32_t top_ks[] = {0, 20, 1, 500, 2000};
    return (struct sampling_params){.temperature = temperatures[index % 6],
                                    .top_p = top_ps[index / 6 % 5],
                                    .min_p = min_ps[index / 30 % 4],
                                    .top_k = top_ks[index / 120 % 5],
                                    .seed = (uint64_t)index * 0x1234567890u};
}

/* Every filter with every temperature on every kind of row: the very token of the definition. */
static void check_definition(const struct target *target) {
    struct rig *rig = make_rig(target);
    float *logits = malloc(sizeof *logits * ROWS * VOCAB);
    assert_non_null(logits);
    for (int32_t index = 0; index < 600; index += ROWS / 2) {
        struct sampling_params params[ROWS];
        int32_t sampled[ROWS];
        for (int32_t i = 0; i < ROWS; ++i) {
            params[i] = params_for(index + i / 2);
            fill_row(logits + i * VOCAB, (enum distribution)((index / 8 + i) % N_DISTRIBUTIONS), (uint64_t)(index + i));
        }
        sample_rows(rig, logits, params, ROWS, sampled);
        for (int32_t i = 0; i < ROWS; ++i) {
            int32_t expected = reference_sample(logits + i * VOCAB, VOCAB, &params[i], i + 1, NULL);
            if (sampled[i] != expected)
                fail_msg("%s: parameters %d, row kind %d: token %d, not %d", target->label, index + i / 2,
                         (index / 8 + i) % N_DISTRIBUTIONS, sampled[i], expected);
        }
    }
    free(logits);
    rig_destroy(rig);
}

static void test_definition(void **state) {
    on_targets(state, check_definition);
}

/* The reference itself, by hand. */
static void test_kept_sets(void **state) {
    (void)state;
    const float logits[] = {logf(0.4f), logf(0.3f), logf(0.1f), logf(0.1f), logf(0.1f)};
    static const struct {
        struct sampling_params params;
        uint8_t kept[5];
    } cases[] = {
        {{.temperature = 1, .top_p = 1}, {1, 1, 1, 1, 1}},
        {{.temperature = 1, .top_p = 1, .top_k = 2}, {1, 1, 0, 0, 0}},
        {{.temperature = 1, .top_p = 1, .top_k = 3}, {1, 1, 1, 1, 1}}, // equals stay together
        {{.temperature = 1, .top_p = 0.39f}, {1, 0, 0, 0, 0}},
        {{.temperature = 1, .top_p = 0.41f}, {1, 1, 0, 0, 0}},
        {{.temperature = 1, .top_p = 0.71f}, {1, 1, 1, 1, 1}},
        {{.temperature = 1, .top_p = 0.58f, .top_k = 2}, {1, 1, 0, 0, 0}}, // of the 0.7 that top_k keeps
        {{.temperature = 1, .top_p = 0.56f, .top_k = 2}, {1, 0, 0, 0, 0}},
        {{.temperature = 1, .top_p = 1, .min_p = 0.7f}, {1, 1, 0, 0, 0}},
        {{.temperature = 0.5f, .top_p = 1, .min_p = 0.7f}, {1, 0, 0, 0, 0}},
        {{.temperature = 0}, {1, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        uint8_t kept[5];
        reference_sample(logits, 5, &cases[i].params, 0, kept);
        assert_memory_equal(kept, cases[i].kept, 5);
    }
}

static void check_greedy_ties(const struct target *target) {
    struct rig *rig = make_rig(target);
    float *logits = calloc(3 * VOCAB, sizeof *logits);
    assert_non_null(logits);
    logits[100] = -0.0f;                           // row 0: all equal
    logits[VOCAB + 700] = logits[VOCAB + 701] = 2; // row 1: two equals
    for (int32_t i = 0; i < VOCAB; ++i) logits[2 * VOCAB + i] = -1e38f;
    logits[3 * VOCAB - 1] = -9e37f; // row 2: the last
    int32_t sampled[3];
    sample_rows(rig, logits, (struct sampling_params[3]){{0}}, 3, sampled);
    assert_int_equal(sampled[0], 0);
    assert_int_equal(sampled[1], 700);
    assert_int_equal(sampled[2], VOCAB - 1);
    free(logits);
    rig_destroy(rig);
}

static void test_greedy_ties(void **state) {
    on_targets(state, check_greedy_ties);
}

/* A row with NaN or an infinity says so; its neighbours do not notice. */
static void check_not_finite(const struct target *target) {
    struct rig *rig = make_rig(target);
    float *logits = calloc(ROWS * VOCAB, sizeof *logits);
    assert_non_null(logits);
    struct sampling_params params[ROWS];
    for (int32_t i = 0; i < ROWS; ++i) {
        params[i] = (struct sampling_params){.temperature = i % 2 ? 1.0f : 0.0f, .top_p = 1};
        logits[i * VOCAB + 5 * i + 3] = 50;
    }
    logits[0 * VOCAB] = NAN;
    logits[3 * VOCAB + VOCAB - 1] = NAN;
    logits[6 * VOCAB + 517] = INFINITY;
    logits[9 * VOCAB + 40] = -INFINITY;
    logits[12 * VOCAB + VOCAB - 2] = -INFINITY;
    int32_t sampled[ROWS];
    sample_rows(rig, logits, params, ROWS, sampled);
    for (int32_t i = 0; i < ROWS; ++i)
        assert_int_equal(sampled[i], i % 3 == 0 && i < 15 ? SAMPLED_NOT_FINITE : 5 * i + 3);
    free(logits);
    rig_destroy(rig);
}

static void test_not_finite(void **state) {
    on_targets(state, check_not_finite);
}

/* 8,000 draws from 8 probabilities: chi-square with 7 degrees of freedom is over 24.3 once in a thousand; the seeds
 * are fixed. */
static void check_distribution(const struct target *target) {
    struct rig *rig = make_rig(target);
    static const double weights[8] = {1, 2, 3, 4, 5, 20, 25, 40};
    float *logits = malloc(sizeof *logits * ROWS * VOCAB);
    assert_non_null(logits);
    for (int32_t i = 0; i < ROWS * VOCAB; ++i)
        logits[i] = i % VOCAB % 129 == 0 && i % VOCAB / 129 < 8 ? 2 * logf((float)weights[i % VOCAB / 129]) : -100;
    int32_t counts[8] = {0}, n_draws = 8000;
    for (int32_t draw = 0; draw < n_draws; draw += ROWS) {
        struct sampling_params params[ROWS];
        int32_t sampled[ROWS];
        for (int32_t i = 0; i < ROWS; ++i)
            params[i] = (struct sampling_params){.temperature = 2, .top_p = 1, .seed = (uint64_t)(draw + i)};
        sample_rows(rig, logits, params, ROWS, sampled);
        for (int32_t i = 0; i < ROWS; ++i) {
            assert_int_equal(sampled[i] % 129, 0);
            counts[sampled[i] / 129]++;
        }
    }
    double chi_square = 0;
    for (int32_t i = 0; i < 8; ++i) {
        double expected = n_draws * weights[i] / 100;
        chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    if (chi_square > 24.3) fail_msg("%s: chi-square of the draws is %.1f", target->label, chi_square);
    free(logits);
    rig_destroy(rig);
}

static void test_distribution(void **state) {
    on_targets(state, check_distribution);
}

/* A token depends on seed, position and logits; not on its neighbours or its row. */
static void check_batch(const struct target *target) {
    struct rig *rig = make_rig(target);
    float *logits = malloc(sizeof *logits * ROWS * VOCAB);
    assert_non_null(logits);
    struct sampling_params params[ROWS];
    for (int32_t i = 0; i < ROWS; ++i) {
        fill_row(logits + i * VOCAB, i % 2 ? NORMAL : FLAT, (uint64_t)i);
        params[i] = (struct sampling_params){.temperature = 1, .top_p = 1, .seed = (uint64_t)i};
    }
    int32_t together[ROWS], alone, n_different = 0;
    sample_rows(rig, logits, params, ROWS, together);
    sample_rows(rig, logits, params, 1, &alone); // position 1 in both
    assert_int_equal(alone, together[0]);
    for (int32_t i = 1; i < ROWS; ++i) {
        sample_rows(rig, logits + i * VOCAB, params + i, 1, &alone); // position 1, not i + 1
        assert_int_equal(alone, reference_sample(logits + i * VOCAB, VOCAB, &params[i], 1, NULL));
        n_different += alone != together[i];
    }
    assert_true(n_different > 0); // another position is another draw
    free(logits);
    rig_destroy(rig);
}

static void test_batch(void **state) {
    on_targets(state, check_batch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_sets),
        ON_EVERY_BACKEND("sampling is as defined", test_definition),
        ON_EVERY_BACKEND("greedy takes the lowest id of equals", test_greedy_ties),
        ON_EVERY_BACKEND("a logit that is not finite", test_not_finite),
        ON_EVERY_BACKEND("draws follow the distribution", test_distribution),
        ON_EVERY_BACKEND("a draw does not depend on the batch", test_batch),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
