#include "fake_engine.h"
#include "server/bench_run.h"
#include "tests/test.h"

static struct engine *start(const struct fake_script *script) {
    const struct engine_options options = {.max_seqs = 8, .max_queue = 8, .max_model_len = 1000};
    struct engine *engine = engine_create(&options, NULL);
    fake_engine_script(engine, script);
    return engine;
}

static const int32_t token = 7;

static void test_times(void **state) {
    (void)state;
    struct engine *engine =
        start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true, .first_ms = 40, .pace_ms = 10});
    const struct bench_run run = {.n_requests = 4, .n_prompt = 16, .n_new = 12, .seed = 1};
    struct bench_times times;
    struct error err;
    assert_true(bench_measure(engine, &run, &times, &err));
    // Wide bounds above: other programs may run beside this one.
    assert_true(times.first_token_s >= 0.039 && times.first_token_s < 0.4);
    assert_true(times.step_s >= 0.0099 && times.step_s < 0.1);
    assert_true(times.tokens_per_s > 40 && times.tokens_per_s <= 405);
    assert_in_range(times.n_steps, 8, 11);
    assert_true(times.mean_kv_tokens > 16 && times.mean_kv_tokens < 28);
    assert_int_equal(fake_engine_last(engine).n_prompt, 16);
    assert_true(fake_engine_last(engine).ignore_eos);
    engine_destroy(engine);
}

static void test_one_token_has_no_step(void **state) {
    (void)state;
    struct engine *engine = start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    const struct bench_run run = {.n_requests = 1, .n_prompt = 4, .n_new = 1};
    struct bench_times times;
    assert_true(bench_measure(engine, &run, &times, NULL));
    assert_true(times.first_token_s > 0);
    assert_int_equal(times.n_steps, 0);
    engine_destroy(engine);
}

static void test_failures(void **state) {
    (void)state;
    struct fake_script script = {.tokens = &token, .n_tokens = 1, .error = {ERR_NUMERIC, "", "a logit was not finite"}};
    struct engine *engine = start(&script);
    struct bench_run run = {.n_requests = 4, .n_prompt = 4, .n_new = 5};
    struct bench_times times;
    struct error err;
    assert_false(bench_measure(engine, &run, &times, &err));
    assert_int_equal(err.code, ERR_NUMERIC);
    run.n_requests = 40; // more than it takes: those that were taken are waited for
    assert_false(bench_measure(engine, &run, &times, &err));
    assert_int_equal(err.code, ERR_BUSY);
    engine_destroy(engine);
}

/* One after the other: they never all decode together. */
static void test_no_common_phase(void **state) {
    (void)state;
    const struct engine_options options = {.max_seqs = 1, .max_queue = 8, .max_model_len = 1000};
    struct engine *engine = engine_create(&options, NULL);
    fake_engine_script(engine, &(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    const struct bench_run run = {.n_requests = 2, .n_prompt = 4, .n_new = 3};
    struct bench_times times;
    struct error err;
    assert_false(bench_measure(engine, &run, &times, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, "new-tokens");
    engine_destroy(engine);
}

static void test_median(void **state) {
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
    assert_float_equal(bench_median(odd, 3), 2, 0);
    assert_float_equal(bench_median(even, 4), 2.5, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),    cmocka_unit_test(test_one_token_has_no_step),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_no_common_phase),
        cmocka_unit_test(test_median),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
