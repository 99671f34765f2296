#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdlib.h>

static void check_embed(const struct target *target) {
    struct rig_options options = rig_defaults();
    struct rig *rig = rig_create(target, &options);
    rig_prepare(rig, (struct rig_sequence[]){{.content = 1, .start = 20, .n_rows = 1}, {.content = 2, .n_rows = 33}}, 2,
                false);
    struct error err = {0};
    rig_must(target->ops->embed(rig->ctx, &rig->weights, &err), &err);
    size_t count = (size_t)rig->ctx->host.n_rows * (size_t)rig->shape.hidden;
    float *hidden = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
    double *expected = reference_embed(rig);
    for (size_t i = 0; i < count; ++i)
        if (hidden[i] != (float)expected[i])
            fail_msg("%s: element %zu is %g, not %g", target->label, i, hidden[i], expected[i]);
    free(expected);
    free(hidden);
    rig_destroy(rig);
}

/* Every other row's token is what the step before has sampled; the last of those was not finite. */
static void check_sampled_tokens(const struct target *target) {
    struct rig_options options = rig_defaults();
    struct rig *rig = rig_create(target, &options);
    struct rig_sequence seqs[7];
    for (int32_t s = 0; s < 7; ++s)
        seqs[s] = (struct rig_sequence){.content = (uint64_t)s + 1, .start = s, .n_rows = 1};
    rig_prepare(rig, seqs, 7, false);
    int32_t tokens[7], sampled[4];
    for (int32_t r = 0; r < 7; ++r) {
        int32_t i = 3 - r / 2; // in another order
        tokens[r] = r % 2 ? rig->ctx->host.tokens[r] : -1 - i;
        if (r % 2 == 0) sampled[i] = r < 6 ? rig->ctx->host.tokens[r] : SAMPLED_NOT_FINITE;
    }
    struct error err = {0};
    const struct backend_ops *ops = target->ops;
    rig_must(ops->copy_to_device(target->device, rig->ctx->batch.tokens, tokens, sizeof tokens, &err), &err);
    rig_must(ops->copy_to_device(target->device, rig->ctx->scratch.sampled, sampled, sizeof sampled, &err), &err);
    rig_must(ops->synchronize(target->device, &err), &err);
    rig_must(ops->embed(rig->ctx, &rig->weights, &err), &err);
    size_t hidden = (size_t)rig->shape.hidden;
    float *rows = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, 7 * hidden);
    double *expected = reference_embed(rig);
    for (size_t i = 0; i < 6 * hidden; ++i)
        if (rows[i] != (float)expected[i])
            fail_msg("%s: element %zu is %g, not %g", target->label, i, rows[i], expected[i]);
    for (size_t i = 6 * hidden; i < 7 * hidden; ++i) assert_true(rows[i] >= -1 && rows[i] <= 1); // of some token
    free(expected);
    free(rows);
    rig_destroy(rig);
}

static void test_embed(void **state) {
    on_targets(state, check_embed);
}
static void test_sampled_tokens(void **state) {
    on_targets(state, check_sampled_tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {ON_EVERY_BACKEND("embed copies table rows", test_embed),
                                       ON_EVERY_BACKEND("embed takes what was sampled", test_sampled_tokens)};
    return cmocka_run_group_tests_name("embed", tests, NULL, NULL);
}
