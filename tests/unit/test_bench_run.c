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
    const struct bench_run run = {.n_requests = 4, .prompt = {16, 16}, .output = {12, 12}, .seed = 1};
    struct bench_times times;
    struct error err;
    assert_true(bench_measure(engine, &run, &times, &err));
    // Wide bounds above: other programs may run beside this one.
    assert_true(times.first_token_s >= 0.039 && times.first_token_s < 0.4);
    assert_true(times.total_s >= 0.149 && times.total_s > times.first_token_s && times.total_s < 1.5);
    assert_true(times.step_s >= 0.0099 && times.step_s < 0.1);
    assert_true(times.tokens_per_s > 40 && times.tokens_per_s <= 405);
    assert_in_range(times.n_steps, 8, 11);
    // Four requests that see 17 to 27 tokens.
    assert_true(times.step_kv_tokens > 4 * 16 && times.step_kv_tokens < 4 * 28);
    assert_int_equal(fake_engine_last(engine).n_prompt, 16);
    assert_true(fake_engine_last(engine).ignore_eos);
    engine_destroy(engine);
}

static void test_what_a_run_counts(void **state) {
    (void)state;
    struct engine *engine = start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    const struct bench_run run = {.n_requests = 3, .prompt = {16, 16}, .output = {5, 5}};
    struct bench_times times;
    assert_true(bench_measure(engine, &run, &times, NULL));
    assert_int_equal(times.n_tokens, 15);
    assert_int_equal(times.n_longest, 5);
    assert_int_equal(times.kv_tokens, 3 * (17 + 18 + 19 + 20)); // the first token comes of the prompt's step
    engine_destroy(engine);
}

static void test_random_lengths(void **state) {
    (void)state;
    struct engine *engine = start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    struct bench_run run = {.n_requests = 8, .prompt = {3, 40}, .output = {2, 30}, .seed = 7};
    struct bench_times times, again, other;
    assert_true(bench_measure(engine, &run, &times, NULL));
    assert_in_range(times.n_tokens, 8 * 2 + 1, 8 * 30 - 1);
    assert_in_range(times.n_longest, times.n_tokens / 8, 30);
    assert_in_range(times.kv_tokens, 1, 8 * 30 * (40 + 30));
    assert_in_range(fake_engine_last(engine).n_prompt, 3, 40);
    assert_true(bench_measure(engine, &run, &again, NULL));
    assert_int_equal(again.n_tokens, times.n_tokens);
    assert_int_equal(again.kv_tokens, times.kv_tokens);
    run.seed = 8;
    assert_true(bench_measure(engine, &run, &other, NULL));
    assert_int_not_equal(other.kv_tokens, times.kv_tokens);
    engine_destroy(engine);
}

static void test_sampling_is_passed_on(void **state) {
    (void)state;
    struct engine *engine = start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    const struct bench_run run = {.n_requests = 1,
                                  .prompt = {4, 4},
                                  .output = {1, 1},
                                  .sampling = {.temperature = 0.75f, .top_p = 0.5f, .top_k = 20}};
    struct bench_times times;
    assert_true(bench_measure(engine, &run, &times, NULL));
    struct sampling_params sampling = fake_engine_last(engine).sampling;
    assert_float_equal(sampling.temperature, 0.75, 0);
    assert_float_equal(sampling.top_p, 0.5, 0);
    assert_int_equal(sampling.top_k, 20);
    engine_destroy(engine);
}

static void test_one_token_has_no_step(void **state) {
    (void)state;
    struct engine *engine = start(&(struct fake_script){.tokens = &token, .n_tokens = 1, .endless = true});
    const struct bench_run run = {.n_requests = 1, .prompt = {4, 4}, .output = {1, 1}};
    struct bench_times times;
    assert_true(bench_measure(engine, &run, &times, NULL));
    assert_true(times.first_token_s > 0);
    assert_int_equal(times.n_steps, 0);
    assert_int_equal(times.kv_tokens, 0);
    engine_destroy(engine);
}

static void test_failures(void **state) {
    (void)state;
    struct fake_script script = {.tokens = &token, .n_tokens = 1, .error = {ERR_NUMERIC, "", "a logit was not finite"}};
    struct engine *engine = start(&script);
    struct bench_run run = {.n_requests = 4, .prompt = {4, 4}, .output = {5, 5}};
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
    const struct bench_run run = {.n_requests = 2, .prompt = {4, 4}, .output = {3, 3}};
    struct bench_times times;
    assert_true(bench_measure(engine, &run, &times, NULL));
    assert_int_equal(times.n_steps, 0);
    assert_int_equal(times.n_tokens, 6);
    engine_destroy(engine);
}

static void test_draws(void **state) {
    (void)state;
    uint64_t random = 1;
    bool seen[4] = {false};
    for (int i = 0; i < 200; ++i) seen[bench_draw((struct bench_range){5, 8}, &random) - 5] = true;
    assert_true(seen[0] && seen[1] && seen[2] && seen[3]);
    assert_int_equal(bench_draw((struct bench_range){9, 9}, &random), 9);
    int32_t tokens[100];
    bench_draw_tokens(tokens, 100, 7, &random);
    for (int i = 0; i < 100; ++i) assert_in_range(tokens[i], 0, 6);
}

static void test_median(void **state) {
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
    assert_float_equal(bench_median(odd, 3), 2, 0);
    assert_float_equal(bench_median(even, 4), 2.5, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_what_a_run_counts),
        cmocka_unit_test(test_random_lengths),
        cmocka_unit_test(test_sampling_is_passed_on),
        cmocka_unit_test(test_one_token_has_no_step),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_no_common_phase),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_median),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
