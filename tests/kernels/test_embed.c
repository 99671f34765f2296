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

static void test_embed(void **state) {
    on_targets(state, check_embed);
}

int main(void) {
    const struct CMUnitTest tests[] = {ON_EVERY_BACKEND("embed copies table rows", test_embed)};
    return cmocka_run_group_tests_name("embed", tests, NULL, NULL);
}
