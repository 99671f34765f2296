/* Requests whose states are pooled, on the hash backend. */
#include "tests/unit/hash_engine.h"

#define LONGEST 256 // the model's max_model_len

static int32_t prompt[LONGEST + 1];

static void fill_prompt(int32_t n) {
    for (int32_t i = 0; i < n; ++i) prompt[i] = 1 + (i * 7) % 999;
}

static struct engine_stats stats_of(struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    return stats;
}

/* One row, a row less and more than a block and a step, and as long as the context. */
static void prompts_of_every_length(void **state) {
    static const int32_t lengths[] = {1, 2, 7, 8, 9, 47, 48, 49, 97, LONGEST};
    enum { N_LENGTHS = sizeof lengths / sizeof *lengths };
    struct engine *engine = start_engine(state, default_options(), NULL);
    struct heard heard[2 * N_LENGTHS];
    fill_prompt(LONGEST);
    for (int32_t i = 0; i < 2 * N_LENGTHS; ++i) {
        heard_init(&heard[i]);
        heard[i].pooling = i % 2 == 0 ? POOLING_LAST : POOLING_MEAN;
        assert_true(submit(engine, &heard[i], prompt, lengths[i / 2], 0, false, NULL, NULL));
    }
    uint64_t n_prompt = 0;
    for (int32_t i = 0; i < 2 * N_LENGTHS; ++i) {
        wait_finished(&heard[i]);
        assert_pooled(&heard[i], prompt, lengths[i / 2]);
        n_prompt += (uint64_t)lengths[i / 2];
    }
    assert_int_equal(stats_of(engine).prompt_tokens, n_prompt);
    assert_int_equal(stats_of(engine).generation_tokens, 0);
    assert_int_equal(stats_of(engine).finished[FINISH_STOP], 2 * N_LENGTHS);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

/* The last state needs its own row alone; a mean needs all, and both leave their blocks to others. */
static void what_the_cache_gives(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    static const struct {
        enum engine_pooling pooling;
        int32_t n_cached;
    } steps[] = {{POOLING_MEAN, 0}, {POOLING_LAST, 96}, {POOLING_MEAN, 0}, {POOLING_NONE, 96}, {POOLING_LAST, 96}};
    fill_prompt(100);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; ++i) {
        struct heard heard;
        heard_init(&heard);
        heard.pooling = steps[i].pooling;
        assert_true(submit(engine, &heard, prompt, 100, 5, true, NULL, NULL));
        wait_finished(&heard);
        assert_answer(&heard, prompt, 100, 5, true);
        assert_int_equal(heard.end.n_cached, steps[i].n_cached);
    }
    engine_destroy(engine);
}

/* Among requests that generate, with blocks so few that they are preempted. */
static void preempted_and_together(void **state) {
    struct engine_options options = default_options();
    options.kv_bytes = kv_bytes_of(40);
    options.max_seqs = 12;
    struct engine *engine = start_engine(state, options, NULL);
    run_mixed_load(engine, 120, 5);
    assert_true(stats_of(engine).preemptions > 0);
    engine_destroy(engine);
}

/* A state that is not finite fails its request, and nobody finds what was computed for it. */
static void a_state_that_is_not_finite(void **state) {
    struct engine *engine = start_engine(state, default_options(), &(struct hash_faults){.not_finite_after = 20});
    fill_prompt(30);
    static const struct {
        enum engine_pooling pooling;
        int32_t n_prompt;
        bool fails;
    } steps[] = {
        {POOLING_MEAN, 30, true}, {POOLING_LAST, 30, false}, {POOLING_MEAN, 19, false}, {POOLING_LAST, 20, true}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; ++i) {
        struct heard heard;
        heard_init(&heard);
        heard.pooling = steps[i].pooling;
        assert_true(submit(engine, &heard, prompt, steps[i].n_prompt, 0, false, NULL, NULL));
        wait_finished(&heard);
        if (!steps[i].fails) assert_pooled(&heard, prompt, steps[i].n_prompt);
        if (i == 1) assert_int_equal(heard.end.n_cached, 0);
        if (!steps[i].fails) continue;
        assert_int_equal(heard.n_pooled, 0);
        assert_int_equal(heard.end.reason, FINISH_ERROR);
        assert_int_equal(heard.end.error.code, ERR_NUMERIC);
        assert_non_null(strstr(heard.end.error.message, "state"));
    }
    engine_destroy(engine);
}

static void refuses_prompts_that_do_not_fit(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    struct heard heard;
    struct error err;
    heard_init(&heard);
    heard.pooling = POOLING_LAST;
    fill_prompt(LONGEST + 1);
    assert_false(submit(engine, &heard, prompt, LONGEST + 1, 0, false, NULL, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "257 tokens; at most 256"));
    assert_false(submit(engine, &heard, prompt, 0, 0, false, NULL, &err));
    prompt[3] = HASH_VOCAB;
    assert_false(submit(engine, &heard, prompt, 8, 0, false, NULL, &err));
    engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_DEVICE(prompts_of_every_length),         ON_EVERY_DEVICE(what_the_cache_gives),
        ON_EVERY_DEVICE(preempted_and_together),          ON_EVERY_DEVICE(a_state_that_is_not_finite),
        ON_EVERY_DEVICE(refuses_prompts_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
