#include "tests/test.h"

#include "tests/unit/hash_engine.h"

#include <math.h>

static void answers_one_request(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, prompt, 5, 40, true, NULL, NULL));
    wait_finished(&heard);
    assert_answer(&heard, prompt, 5, 40, true);
    assert_true(heard.end.first_token_ns > 0 && heard.end.total_ns >= heard.end.first_token_ns);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void ends_at_the_end_token_unless_told_not_to(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    int32_t prompt[] = {0, 1, 2}, expected[MAX_TOKENS], n;
    do { // a prompt whose answer ends early by itself
        prompt[0]++;
        n = expected_tokens(prompt, 3, 60, false, expected);
    } while (n > 50);
    struct heard stops, goes_on;
    heard_init(&stops);
    heard_init(&goes_on);
    assert_true(submit(engine, &stops, prompt, 3, 60, false, NULL, NULL));
    assert_true(submit(engine, &goes_on, prompt, 3, 60, true, NULL, NULL));
    wait_finished(&stops);
    wait_finished(&goes_on);
    assert_int_equal(stops.end.reason, FINISH_STOP);
    assert_answer(&stops, prompt, 3, 60, false);
    assert_answer(&goes_on, prompt, 3, 60, true);
    assert_true(goes_on.n_tokens == 60);
    engine_destroy(engine);
}

static void cuts_at_the_model_length(void **state) {
    struct engine_options options = default_options();
    options.max_model_len = 20;
    struct engine *engine = start_engine(state, options, NULL);
    const int32_t prompt[19] = {1};
    struct heard heard[2];
    heard_init(&heard[0]);
    heard_init(&heard[1]);
    assert_true(submit(engine, &heard[0], prompt, 19, 100, true, NULL, NULL));
    assert_true(submit(engine, &heard[1], prompt, 12, 100, true, NULL, NULL));
    wait_finished(&heard[0]);
    wait_finished(&heard[1]);
    assert_int_equal(heard[0].n_tokens, 1);
    assert_answer(&heard[1], prompt, 12, 8, true);
    engine_destroy(engine);
}

static void alone_equals_together(void **state) {
    for (int32_t budget = 16; budget <= 256; budget *= 4) {
        for (int cached = 0; cached < 2; ++cached) {
            struct engine_options options = default_options();
            options.max_batch_tokens = budget;
            options.prefix_cache = cached;
            struct engine *engine = start_engine(state, options, NULL);
            run_mixed_load(engine, 64, 1);
            run_mixed_load(engine, 64, 1); // warm
            struct engine_stats stats;
            engine_stats(engine, &stats);
            assert_int_equal(stats.preemptions, 0);
            assert_int_equal(stats.prefix_hits > 0, cached);
            engine_destroy(engine);
        }
    }
}

static void a_small_pool_preempts_and_changes_nothing(void **state) {
    for (int cached = 0; cached < 2; ++cached) {
        struct engine_options options = default_options();
        options.kv_bytes = kv_bytes_of(32); // exactly one sequence of full length
        options.prefix_cache = cached;
        struct engine *engine = start_engine(state, options, NULL);
        run_mixed_load(engine, 64, 1);
        run_mixed_load(engine, 64, 2);
        struct engine_stats stats;
        engine_stats(engine, &stats);
        assert_true(stats.preemptions > 0);
        engine_destroy(engine);
    }
}

static void finds_a_cached_prefix(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    int32_t prompt[40];
    for (int32_t i = 0; i < 40; ++i) prompt[i] = i + 1;
    const struct {
        int32_t n_prompt, n_cached;
    } rows[] = {{40, 0}, {40, 32}, {33, 32}, {32, 24}, {9, 8}, {8, 0}}; // the last token is always computed
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct heard heard;
        heard_init(&heard);
        assert_true(submit(engine, &heard, prompt, rows[i].n_prompt, 4, true, NULL, NULL));
        wait_finished(&heard);
        assert_answer(&heard, prompt, rows[i].n_prompt, 4, true);
        assert_int_equal(heard.end.n_cached, rows[i].n_cached);
    }
    engine_destroy(engine);
}

/* Some ask for scores, some do not, and they share steps. */
static void scores_come_with_their_tokens(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    const int32_t prompt[] = {5, 6, 7, 8, 9, 10};
    static const int32_t n_scores[] = {0, 1, 21, 0, 6};
    struct heard heard[5];
    for (int32_t i = 0; i < 5; ++i) {
        heard_init(&heard[i]);
        heard[i].n_scores = n_scores[i];
        assert_true(submit(engine, &heard[i], prompt, 2 + i, 30 - 5 * i, true, NULL, NULL));
    }
    for (int32_t i = 0; i < 5; ++i) {
        wait_finished(&heard[i]);
        assert_answer(&heard[i], prompt, 2 + i, 30 - 5 * i, true);
    }
    engine_destroy(engine);
}

/* More of them than are seated in one step without waiting. */
static void counts_stay_right_while_others_come_and_go(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    struct heard heard[30];
    int32_t prompts[30][4];
    for (int32_t i = 0; i < 30; ++i) {
        for (int32_t t = 0; t < 4; ++t) prompts[i][t] = 1 + i + t % 3;
        heard_init(&heard[i]);
        heard[i].adjusted = i % 7 != 3;
        assert_true(submit(engine, &heard[i], prompts[i], 4, 3 + i % 5 * 12, true, NULL, NULL));
    }
    for (int32_t i = 0; i < 30; ++i) {
        wait_finished(&heard[i]);
        assert_answer(&heard[i], prompts[i], 4, 3 + i % 5 * 12, true);
    }
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static bool submit_request(struct engine *engine, struct heard *heard, struct engine_request request,
                           struct error *err) {
    static const int32_t prompt[] = {5, 6, 7};
    uint64_t unused;
    heard_init(heard);
    request.prompt = prompt;
    request.n_prompt = 3;
    request.listener = listen;
    request.user = heard;
    return engine_submit(engine, &request, &unused, err);
}

static void constraints_see_every_token(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    struct heard heard[12];
    int32_t prompts[12][20];
    for (int32_t i = 0; i < 12; ++i) {
        for (int32_t t = 0; t < 20; ++t) prompts[i][t] = 1 + i * 20 + t;
        heard_init(&heard[i]);
        heard[i].constrained = i % 3 > 0;
        heard[i].adjusted = i % 2 > 0;
        heard[i].n_scores = i % 4;
        assert_true(submit(engine, &heard[i], prompts[i], 20 - i, 4 + i % 5 * 12, i % 6 > 0, NULL, NULL));
    }
    for (int32_t i = 0; i < 12; ++i) {
        wait_finished(&heard[i]);
        assert_answer(&heard[i], prompts[i], 20 - i, 4 + i % 5 * 12, i % 6 > 0);
    }
    assert_all_blocks_free(engine);
    for (int32_t i = 0; i < 12; ++i) assert_int_equal(heard[i].constraint.destroyed, heard[i].constrained);
    engine_destroy(engine);
}

/* Its neighbours go on; one that was refused stays its owner's. */
static void a_constraint_that_is_stuck_fails_its_request(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    const int32_t prompt[] = {5, 6, 7};
    struct heard stuck, other, refused;
    heard_init(&stuck);
    heard_init(&other);
    heard_init(&refused);
    stuck.constrained = other.constrained = refused.constrained = true;
    stuck.constraint.stuck_after = 6;
    assert_true(submit(engine, &stuck, prompt, 3, 40, true, NULL, NULL));
    assert_true(submit(engine, &other, prompt, 2, 40, true, NULL, NULL));
    assert_false(submit(engine, &refused, prompt, 0, 40, true, NULL, NULL));
    wait_finished(&stuck);
    wait_finished(&other);
    assert_int_equal(stuck.end.reason, FINISH_ERROR);
    assert_int_equal(stuck.end.error.code, ERR_INTERNAL);
    assert_int_equal(stuck.n_tokens, 6);
    assert_false(stuck.heard_late);
    assert_answer(&other, prompt, 2, 40, true);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
    assert_true(stuck.constraint.destroyed && other.constraint.destroyed && !refused.constraint.destroyed);
}

/* The masks of a step wait for the token before them, and nothing else does. */
static void a_step_is_computed_before_its_masks_are_known(void **state) {
    char events[HASH_MAX_EVENTS] = "";
    struct hash_faults faults = {.events = events};
    struct engine *engine = start_engine(state, default_options(), &faults);
    const int32_t prompt[] = {5, 6, 7};
    struct heard heard;
    heard_init(&heard);
    heard.constrained = true;
    assert_true(submit(engine, &heard, prompt, 3, 3, true, NULL, NULL));
    wait_finished(&heard);
    assert_answer(&heard, prompt, 3, 3, true);
    engine_destroy(engine);
    assert_string_equal(events, *state == &recorded ? "LRWLRWLW" : "LWLWLW");
}

static void ends_at_a_stop_token(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    const int32_t prompt[] = {5, 6, 7};
    int32_t expected[20];
    expected_tokens(prompt, 3, 20, true, expected);
    const int32_t stops[] = {HASH_VOCAB - 1, expected[9]};
    struct heard heard;
    assert_true(submit_request(
        engine, &heard,
        (struct engine_request){.max_new_tokens = 20, .ignore_eos = true, .stop_tokens = stops, .n_stop_tokens = 2},
        NULL));
    wait_finished(&heard);
    assert_int_equal(heard.end.reason, FINISH_STOP);
    assert_int_equal(heard.n_tokens, 10);
    assert_memory_equal(heard.tokens, expected, 10 * sizeof *expected);
    engine_destroy(engine);
}

static void a_time_limit_ends_with_what_there_is(void **state) {
    struct hash_faults faults = {.step_us = 2000};
    struct engine *engine = start_engine(state, default_options(), &faults);
    struct heard limited, other;
    assert_true(
        submit_request(engine, &other, (struct engine_request){.max_new_tokens = 60, .ignore_eos = true}, NULL));
    assert_true(submit_request(
        engine, &limited, (struct engine_request){.max_new_tokens = 200, .ignore_eos = true, .timeout_ms = 50}, NULL));
    wait_finished(&limited);
    wait_finished(&other);
    assert_int_equal(limited.end.reason, FINISH_LENGTH);
    assert_true(limited.n_tokens > 0 && limited.n_tokens <= 30);
    assert_true(limited.end.total_ns >= 50000000);
    assert_int_equal(limited.end.n_generated, limited.n_tokens);
    assert_int_equal(other.n_tokens, 60);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void refuses_adjustments_out_of_range(void **state) {
    static const struct token_bias wrong_token = {HASH_VOCAB, 1}, wrong_bias = {3, 101}, no_number = {3, NAN};
    static const int32_t wrong_stop = -1;
    static const struct {
        struct engine_request request;
        const char *param;
    } rows[] = {
        {{.adjustments = {.presence_penalty = 2.5f}}, "presence_penalty"},
        {{.adjustments = {.frequency_penalty = NAN}}, "frequency_penalty"},
        {{.adjustments = {.repetition_penalty = -1}}, "repetition_penalty"},
        {{.adjustments = {.repetition_penalty = INFINITY}}, "repetition_penalty"},
        {{.adjustments = {.biases = &wrong_token, .n_biases = 1}}, "logit_bias"},
        {{.adjustments = {.biases = &wrong_bias, .n_biases = 1}}, "logit_bias"},
        {{.adjustments = {.biases = &no_number, .n_biases = 1}}, "logit_bias"},
        {{.adjustments = {.n_biases = SAMPLING_MAX_BIASES + 1}}, "logit_bias"},
        {{.stop_tokens = &wrong_stop, .n_stop_tokens = 1}, "stop_token_ids"},
        {{.n_stop_tokens = ENGINE_MAX_STOP_TOKENS + 1}, "stop_token_ids"},
        {{.min_new_tokens = 3}, "min_tokens"},
        {{.min_new_tokens = -1}, "min_tokens"},
        {{.timeout_ms = -1}, "timeout_ms"},
    };
    struct engine *engine = start_engine(state, default_options(), NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct engine_request request = rows[i].request;
        struct heard heard;
        struct error err = {0};
        request.max_new_tokens = 2;
        assert_false(submit_request(engine, &heard, request, &err));
        assert_int_equal(err.code, ERR_INVALID);
        assert_string_equal(err.param, rows[i].param);
    }
    engine_destroy(engine);
}

/* In pieces of at most 16 rows, beside others, and again where everything is in the cache. */
static void every_token_of_a_prompt_is_scored(void **state) {
    struct engine *engine = start_engine(state, default_options(), NULL);
    int32_t prompt[100];
    for (int32_t i = 0; i < 100; ++i) prompt[i] = 1 + i * 7 % 900;
    static const int32_t n_prompt[] = {100, 1, 2, 17, 60, 100, 33};
    for (int round = 0; round < 2; ++round) {
        struct heard heard[7];
        for (int32_t i = 0; i < 7; ++i) {
            heard_init(&heard[i]);
            heard[i].n_prompt_scores = i == 4 ? 0 : 1 + i;
            heard[i].n_scores = i % 3;
            assert_true(submit(engine, &heard[i], prompt, n_prompt[i], 6, true, NULL, NULL));
        }
        for (int32_t i = 0; i < 7; ++i) {
            wait_finished(&heard[i]);
            assert_answer(&heard[i], prompt, n_prompt[i], 6, true);
            assert_true(heard[i].n_prompt_scores == 0 || heard[i].end.n_cached == 0);
        }
    }
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

/* A row in the middle of a scored prompt. */
static void a_prompt_that_is_not_finite_fails(void **state) {
    struct hash_faults faults = {.not_finite_after = 30};
    struct engine *engine = start_engine(state, default_options(), &faults);
    int32_t prompt[40];
    for (int32_t i = 0; i < 40; ++i) prompt[i] = 1 + i;
    struct heard scored, plain;
    heard_init(&scored);
    heard_init(&plain);
    scored.n_prompt_scores = 1;
    assert_true(submit(engine, &scored, prompt, 40, 6, true, NULL, NULL));
    assert_true(submit(engine, &plain, prompt, 40, 6, true, NULL, NULL));
    wait_finished(&scored);
    wait_finished(&plain);
    assert_int_equal(scored.end.error.code, ERR_NUMERIC);
    assert_int_equal(scored.n_tokens, 0);
    assert_true(scored.n_prompt_heard <= 29);
    assert_answer(&plain, prompt, 40, 6, true);
    engine_destroy(engine);
}

static void refuses_bad_requests_with_numbers(void **state) {
    struct engine_options options = default_options();
    options.max_model_len = 20;
    struct engine *engine = start_engine(state, options, NULL);
    int32_t prompt[30] = {0};
    struct heard heard;
    heard_init(&heard);
    struct error err;
    assert_false(submit(engine, &heard, prompt, 0, 1, true, NULL, &err));
    assert_non_null(strstr(err.message, "empty"));
    assert_false(submit(engine, &heard, prompt, 20, 1, true, NULL, &err));
    assert_non_null(strstr(err.message, "20 tokens"));
    assert_non_null(strstr(err.message, "at most 19"));
    assert_false(submit(engine, &heard, prompt, 5, 0, true, NULL, &err));
    prompt[3] = HASH_VOCAB;
    assert_false(submit(engine, &heard, prompt, 5, 1, true, NULL, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "0 to 999"));
    prompt[3] = 0;
    heard.n_scores = 22;
    assert_false(submit(engine, &heard, prompt, 5, 1, true, NULL, &err));
    assert_non_null(strstr(err.message, "allowed are 0 to 21"));
    engine_destroy(engine);
}

static void refuses_sampling_out_of_range(void **state) {
    static const struct {
        struct sampling_params sampling;
        const char *param; // NULL: accepted
    } rows[] = {
        {{.temperature = NAN, .top_p = 1}, "temperature"},
        {{.temperature = -0.5f, .top_p = 1}, "temperature"},
        {{.temperature = INFINITY, .top_p = 1}, "temperature"},
        {{.temperature = 1}, "top_p"},
        {{.temperature = 1, .top_p = NAN}, "top_p"},
        {{.temperature = 1, .top_p = 1.5f}, "top_p"},
        {{.temperature = 1, .top_p = 1, .min_p = 5}, "min_p"},
        {{.temperature = 1, .top_p = 1, .top_k = -1}, "top_k"},
        {{.temperature = 2, .top_p = 1, .min_p = 1, .top_k = INT32_MAX}, NULL},
        {{.temperature = 0}, NULL},
    };
    struct engine *engine = start_engine(state, default_options(), NULL);
    const int32_t prompt[] = {1, 2, 3};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct heard heard;
        heard_init(&heard);
        struct error err = {0};
        uint64_t id;
        struct engine_request request = {.prompt = prompt,
                                         .n_prompt = 3,
                                         .max_new_tokens = 1,
                                         .sampling = rows[i].sampling,
                                         .listener = listen,
                                         .user = &heard};
        bool accepted = engine_submit(engine, &request, &id, &err);
        if (accepted) wait_finished(&heard);
        assert_int_equal(accepted, rows[i].param == NULL);
        assert_string_equal(err.param, rows[i].param ? rows[i].param : "");
    }
    engine_destroy(engine);
}

static void a_request_counts_as_running_in_its_first_step(void **state) {
    struct hash_faults faults = {.step_us = 100000};
    struct engine *engine = start_engine(state, default_options(), &faults);
    const int32_t prompt[] = {1, 2, 3};
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, prompt, 3, 1, true, NULL, NULL));
    struct engine_stats stats = {0};
    while (stats.n_running == 0 && stats.n_steps == 0) {
        usleep(200);
        engine_stats(engine, &stats);
    }
    assert_int_equal(stats.n_running, 1);
    assert_int_equal(stats.n_steps, 0);
    wait_finished(&heard);
    engine_destroy(engine);
}

static void a_full_queue_is_busy_and_cancel_makes_room(void **state) {
    struct engine_options options = default_options();
    options.max_seqs = 1;
    options.max_batch_tokens = 64;
    options.max_queue = 1;
    struct hash_faults faults = {.step_us = 1000};
    struct engine *engine = start_engine(state, options, &faults);
    const int32_t prompt[] = {1, 2, 3};
    struct heard running, queued, refused;
    heard_init(&running);
    heard_init(&queued);
    heard_init(&refused);
    uint64_t running_id, queued_id;
    struct error err;
    assert_true(submit(engine, &running, prompt, 3, 200, true, &running_id, NULL));
    assert_true(submit(engine, &queued, prompt, 3, 200, true, &queued_id, NULL));
    assert_false(submit(engine, &refused, prompt, 3, 200, true, NULL, &err));
    assert_int_equal(err.code, ERR_BUSY);
    wait_tokens(&running, 3);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.n_running, 1);
    assert_int_equal(stats.n_waiting, 1);

    engine_cancel(engine, queued_id);
    wait_finished(&queued);
    assert_int_equal(queued.end.reason, FINISH_CANCELLED);
    assert_int_equal(queued.n_tokens, 0);
    engine_cancel(engine, running_id);
    engine_cancel(engine, running_id);
    wait_finished(&running);
    assert_int_equal(running.end.reason, FINISH_CANCELLED);
    assert_true(running.n_tokens < 200);
    engine_cancel(engine, 12345); // unknown: no effect
    assert_true(engine_drain(engine, 1000));
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void a_device_failure_ends_all_and_refuses_more(void **state) {
    struct hash_faults faults = {.fail_at_step = 5};
    struct engine *engine = start_engine(state, default_options(), &faults);
    const int32_t prompt[] = {1, 2, 3};
    struct heard heard[3];
    uint64_t unused;
    int32_t n_accepted = 0;
    for (int i = 0; i < 3; ++i) {
        heard_init(&heard[i]);
        if (submit(engine, &heard[i], prompt, 3, 100, true, &unused, NULL)) n_accepted++;
    }
    for (int i = 0; i < n_accepted; ++i) {
        wait_finished(&heard[i]);
        assert_int_equal(heard[i].end.reason, FINISH_ERROR);
        assert_non_null(strstr(heard[i].end.error.message, "failed") ?: strstr(heard[i].end.error.message, "broke"));
    }
    struct error err;
    struct heard late;
    heard_init(&late);
    assert_false(submit(engine, &late, prompt, 3, 1, true, NULL, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(err.message, "the hash device broke"));
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_true(stats.failed);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void a_logit_that_is_not_finite_ends_one_request_only(void **state) {
    struct hash_faults faults = {.not_finite_after = 30};
    struct engine *engine = start_engine(state, default_options(), &faults);
    int32_t prompt[40];
    for (int32_t i = 0; i < 40; ++i) prompt[i] = i + 1;
    struct heard bad, good, again;
    heard_init(&bad);
    heard_init(&good);
    heard_init(&again);
    assert_true(submit(engine, &bad, prompt, 20, 50, true, NULL, NULL));
    assert_true(submit(engine, &good, prompt + 1, 35, 50, true, NULL, NULL));
    wait_finished(&bad);
    wait_finished(&good);
    assert_int_equal(bad.end.reason, FINISH_ERROR);
    assert_int_equal(bad.end.error.code, ERR_NUMERIC);
    assert_int_equal(bad.n_tokens, 10);
    assert_answer(&good, prompt + 1, 35, 50, true);
    assert_true(submit(engine, &again, prompt, 20, 5, true, NULL, NULL)); // its blocks are not offered as a prefix
    wait_finished(&again);
    assert_int_equal(again.end.n_cached, 0);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.not_finite, 1);
    assert_false(stats.failed);
    engine_destroy(engine);
}

static void draining_refuses_new_requests_and_waits(void **state) {
    struct hash_faults faults = {.step_us = 2000};
    struct engine *engine = start_engine(state, default_options(), &faults);
    const int32_t prompt[] = {1, 2, 3};
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, prompt, 3, 30, true, NULL, NULL));
    assert_false(engine_drain(engine, 1));
    struct error err;
    assert_false(submit(engine, &heard, prompt, 3, 30, true, NULL, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_true(engine_drain(engine, 10000));
    assert_answer(&heard, prompt, 3, 30, true);
    engine_destroy(engine);
}

static void destroying_ends_what_runs(void **state) {
    struct hash_faults faults = {.step_us = 1000};
    struct engine *engine = start_engine(state, default_options(), &faults);
    const int32_t prompt[] = {1, 2, 3};
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, prompt, 3, 250, true, NULL, NULL));
    engine_destroy(engine);
    assert_true(heard.finished);
    assert_int_equal(heard.end.reason, FINISH_CANCELLED);
}

static void *submit_and_cancel(void *argument) {
    struct engine *engine = argument;
    struct heard heard[20];
    for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 20; ++i) {
            const int32_t prompt[] = {1 + round, 2 + i, 3};
            uint64_t id;
            heard_init(&heard[i]);
            while (!submit(engine, &heard[i], prompt, 3, 1 + i, true, &id, NULL)) usleep(500); // busy
            if (i % 3 == 0) engine_cancel(engine, id);
            struct engine_stats stats;
            engine_stats(engine, &stats);
            assert_true(stats.n_running <= 16);
        }
        for (int i = 0; i < 20; ++i) wait_finished(&heard[i]);
    }
    return NULL;
}

static void many_threads_may_use_one_engine(void **state) {
    struct engine_options options = default_options();
    options.max_queue = 10;
    struct engine *engine = start_engine(state, options, NULL);
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, submit_and_cancel, engine);
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_DEVICE(answers_one_request),
        ON_EVERY_DEVICE(ends_at_the_end_token_unless_told_not_to),
        ON_EVERY_DEVICE(cuts_at_the_model_length),
        ON_EVERY_DEVICE(alone_equals_together),
        ON_EVERY_DEVICE(a_small_pool_preempts_and_changes_nothing),
        ON_EVERY_DEVICE(finds_a_cached_prefix),
        ON_EVERY_DEVICE(scores_come_with_their_tokens),
        ON_EVERY_DEVICE(counts_stay_right_while_others_come_and_go),
        ON_EVERY_DEVICE(constraints_see_every_token),
        ON_EVERY_DEVICE(a_constraint_that_is_stuck_fails_its_request),
        ON_EVERY_DEVICE(a_step_is_computed_before_its_masks_are_known),
        ON_EVERY_DEVICE(ends_at_a_stop_token),
        ON_EVERY_DEVICE(a_time_limit_ends_with_what_there_is),
        ON_EVERY_DEVICE(refuses_adjustments_out_of_range),
        ON_EVERY_DEVICE(every_token_of_a_prompt_is_scored),
        ON_EVERY_DEVICE(a_prompt_that_is_not_finite_fails),
        ON_EVERY_DEVICE(refuses_bad_requests_with_numbers),
        ON_EVERY_DEVICE(refuses_sampling_out_of_range),
        ON_EVERY_DEVICE(a_request_counts_as_running_in_its_first_step),
        ON_EVERY_DEVICE(a_full_queue_is_busy_and_cancel_makes_room),
        ON_EVERY_DEVICE(a_device_failure_ends_all_and_refuses_more),
        ON_EVERY_DEVICE(a_logit_that_is_not_finite_ends_one_request_only),
        ON_EVERY_DEVICE(draining_refuses_new_requests_and_waits),
        ON_EVERY_DEVICE(destroying_ends_what_runs),
        ON_EVERY_DEVICE(many_threads_may_use_one_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
