/* The engine one step ahead of an asynchronous device: what may happen to a request while its next step is under way.
 */
#include "tests/unit/hash_engine.h"

static const int32_t prompt[] = {5, 6, 7, 8, 9};
#define N_PROMPT 5

/* A prompt whose answer, without ignore_eos, ends at its n-th token. */
static void find_prompt(int32_t n, int32_t *tokens) {
    int32_t expected[MAX_TOKENS];
    for (tokens[0] = 1, tokens[1] = 2;; ++tokens[0]) {
        if (expected_tokens(tokens, 2, n + 1, false, expected) == n && expected[n - 1] == 0) return;
        assert_true(tokens[0] < HASH_VOCAB - 1);
    }
}

static int32_t count_events(const char *events, char event) {
    int32_t n = 0;
    while (*events) n += *events++ == event;
    return n;
}

static void the_next_step_is_launched_before_the_last_is_awaited(void **state) {
    char events[HASH_MAX_EVENTS] = "";
    struct hash_faults faults = {.events = events};
    struct engine *engine = start_engine(state, default_options(), &faults);
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, prompt, N_PROMPT, 3, true, NULL, NULL));
    wait_finished(&heard);
    assert_answer(&heard, prompt, N_PROMPT, 3, true);
    engine_destroy(engine);
    /* No step after the third: it is known to be the last. */
    assert_string_equal(events, *state == &waiting ? "LWLWLW" : *state == &recorded ? "LRLWRLWW" : "LLWLWW");
}

static void a_step_beyond_the_end_token_is_dropped(void **state) {
    char events[HASH_MAX_EVENTS] = "";
    struct hash_faults faults = {.events = events};
    struct engine *engine = start_engine(state, default_options(), &faults);
    int32_t ends[2];
    find_prompt(2, ends);
    struct heard heard;
    heard_init(&heard);
    assert_true(submit(engine, &heard, ends, 2, 50, false, NULL, NULL));
    wait_finished(&heard);
    assert_answer(&heard, ends, 2, 50, false);
    assert_int_equal(heard.end.reason, FINISH_STOP);
    assert_int_equal(heard.n_tokens, 2);
    assert_all_blocks_free(engine);
    struct heard next; // on the blocks that the dropped step wrote to
    heard_init(&next);
    assert_true(submit(engine, &next, prompt, N_PROMPT, 1, true, NULL, NULL));
    wait_finished(&next);
    assert_answer(&next, prompt, N_PROMPT, 1, true);
    engine_destroy(engine);
    /* The third step was under way when the second gave the end; it is awaited before the next request's or after that
     * was launched. */
    const char *begin = *state == &waiting ? "LWLW" : *state == &recorded ? "LRLWRLW" : "LLWLW";
    assert_memory_equal(events, begin, strlen(begin));
    assert_int_equal(count_events(events, 'L'), *state == &waiting ? 3 : 4);
    assert_int_equal(count_events(events, 'W'), *state == &waiting ? 3 : 4);
}

static void a_request_cancelled_under_way_hears_no_more(void **state) {
    struct hash_faults faults = {.step_us = 2000};
    struct engine_options options = default_options();
    options.kv_bytes = kv_bytes_of(32);
    struct engine *engine = start_engine(state, options, &faults);
    for (int32_t round = 0; round < 5; ++round) {
        struct heard cancelled, stays;
        uint64_t id;
        heard_init(&cancelled);
        heard_init(&stays);
        assert_true(submit(engine, &cancelled, prompt, N_PROMPT, 200, true, &id, NULL));
        assert_true(submit(engine, &stays, prompt + 1, N_PROMPT - 1, 20, true, NULL, NULL));
        wait_tokens(&cancelled, 3 + round);
        engine_cancel(engine, id);
        wait_finished(&cancelled);
        wait_finished(&stays);
        assert_beginning(&cancelled, prompt, N_PROMPT, 200, true);
        assert_true(cancelled.n_tokens < 20);
        assert_answer(&stays, prompt + 1, N_PROMPT - 1, 20, true);
        assert_all_blocks_free(engine);
    }
    engine_destroy(engine);
}

static void many_ends_cancels_and_preemptions_change_nothing(void **state) {
    for (int32_t n_blocks = 32; n_blocks <= 64; n_blocks += 16) {
        struct engine_options options = default_options();
        options.kv_bytes = kv_bytes_of(n_blocks);
        options.max_batch_tokens = n_blocks;
        struct engine *engine = start_engine(state, options, NULL);
        for (uint32_t seed = 1; seed <= 6; ++seed) run_mixed_load(engine, 128, seed);
        struct engine_stats stats;
        engine_stats(engine, &stats);
        assert_true(stats.preemptions > 0 && stats.prefix_hits > 0);
        assert_true(stats.finished[FINISH_STOP] > 0 && stats.finished[FINISH_LENGTH] > 0);
        assert_true(stats.finished[FINISH_CANCELLED] > 0);
        assert_int_equal(stats.finished[FINISH_ERROR], 0);
        engine_destroy(engine);
    }
}

/* A token that is not finite while the next step, on that token, is under way. */
static void a_token_that_is_not_finite_ends_its_request_only(void **state) {
    struct hash_faults faults = {.not_finite_after = 20};
    struct engine *engine = start_engine(state, default_options(), &faults);
    struct heard bad, good;
    int32_t long_prompt[30];
    for (int32_t i = 0; i < 30; ++i) long_prompt[i] = i + 1;
    heard_init(&bad);
    heard_init(&good);
    assert_true(submit(engine, &bad, prompt, N_PROMPT, 200, true, NULL, NULL));
    assert_true(submit(engine, &good, long_prompt, 30, 100, true, NULL, NULL));
    wait_finished(&bad);
    wait_finished(&good);
    assert_int_equal(bad.end.reason, FINISH_ERROR);
    assert_int_equal(bad.end.error.code, ERR_NUMERIC);
    assert_non_null(strstr(bad.end.error.message, "after 20 tokens"));
    assert_int_equal(bad.n_tokens, 20 - N_PROMPT);
    assert_false(bad.heard_late);
    assert_answer(&good, long_prompt, 30, 100, true);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void check_failure(void **state, const struct hash_faults *faults) {
    struct engine_options options = default_options();
    options.max_seqs = 2;
    struct engine *engine = start_engine(state, options, faults);
    struct heard heard[4]; // two run and two wait
    int32_t n_accepted = 0;
    for (int32_t i = 0; i < 4; ++i) {
        heard_init(&heard[i]);
        n_accepted += submit(engine, &heard[i], prompt, N_PROMPT, 100, true, NULL, NULL);
    }
    for (int32_t i = 0; i < n_accepted; ++i) {
        wait_finished(&heard[i]);
        assert_false(heard[i].heard_late);
        assert_int_equal(heard[i].end.reason, FINISH_ERROR);
        assert_int_equal(heard[i].end.error.code, ERR_DEVICE);
        assert_string_equal(heard[i].end.error.message, "the hash device broke");
        assert_true(heard[i].n_tokens < 10);
    }
    struct error err;
    assert_false(submit(engine, &heard[0], prompt, N_PROMPT, 1, true, NULL, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
}

static void a_step_that_fails_ends_the_one_under_way(void **state) {
    int32_t first = *state == &waiting ? 3 : 5; // two or four are the warm-up's
    for (int32_t step = first; step < first + 5; ++step) {
        check_failure(state, &(struct hash_faults){.fail_at_step = step});
        if (*state != &recorded) check_failure(state, &(struct hash_faults){.fail_at_launch = step});
    }
}

static void destroying_does_not_wait_for_what_is_under_way(void **state) {
    struct hash_faults faults = {.step_us = 500};
    for (int32_t round = 0; round < 5; ++round) {
        struct engine *engine = start_engine(state, default_options(), &faults);
        struct heard heard[3];
        for (int32_t i = 0; i < 3; ++i) {
            heard_init(&heard[i]);
            assert_true(submit(engine, &heard[i], prompt, N_PROMPT, 200, true, NULL, NULL));
        }
        wait_tokens(&heard[0], 2 * round);
        engine_destroy(engine);
        for (int32_t i = 0; i < 3; ++i) assert_beginning(&heard[i], prompt, N_PROMPT, 200, true);
    }
}

/* A running request gets a token in each step: they count the steps between a submit and its first token. */
static void a_new_request_waits_for_no_more_than_the_step_under_way(void **state) {
    struct hash_faults faults = {.step_us = 3000};
    struct engine *engine = start_engine(state, default_options(), &faults);
    struct heard running, comes;
    heard_init(&running);
    assert_true(submit(engine, &running, prompt, N_PROMPT, 250, true, NULL, NULL));
    wait_tokens(&running, 2);
    int32_t n_tries = 0, most = *state == &waiting ? 2 : 3; // one under way; one launched behind it; its own
    int32_t n_before, n_after;
    do { // the clock of this thread may stand still between the two
        assert_true(++n_tries < 50);
        heard_init(&comes);
        comes.other = &running;
        pthread_mutex_lock(&running.lock);
        n_before = running.n_tokens;
        pthread_mutex_unlock(&running.lock);
        assert_true(submit(engine, &comes, prompt, 3, 1, true, NULL, NULL));
        pthread_mutex_lock(&running.lock);
        n_after = running.n_tokens;
        pthread_mutex_unlock(&running.lock);
        wait_finished(&comes);
    } while (n_before != n_after);
    assert_in_range(comes.n_other - n_before, 1, most);
    engine_destroy(engine);
}

static void what_cannot_be_recorded_fails_at_the_start(void **state) {
    (void)state;
    struct engine_options options = default_options();
    options.ops = hash_backend(&(struct hash_faults){.records = true, .fail_recording = true});
    options.graphs = true;
    struct error err = {0};
    assert_null(engine_create(&options, &err));
    assert_string_equal(err.message, "the hash device cannot record");
    options.ops = hash_backend(&(struct hash_faults){.records = true, .fail_recording = true});
    options.graphs = false; // nothing is recorded
    struct engine *engine = engine_create(&options, &err);
    assert_non_null(engine);
    engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_DEVICE(the_next_step_is_launched_before_the_last_is_awaited),
        ON_EVERY_DEVICE(a_step_beyond_the_end_token_is_dropped),
        ON_EVERY_DEVICE(a_request_cancelled_under_way_hears_no_more),
        ON_EVERY_DEVICE(many_ends_cancels_and_preemptions_change_nothing),
        ON_EVERY_DEVICE(a_token_that_is_not_finite_ends_its_request_only),
        ON_EVERY_DEVICE(a_step_that_fails_ends_the_one_under_way),
        ON_EVERY_DEVICE(destroying_does_not_wait_for_what_is_under_way),
        ON_EVERY_DEVICE(a_new_request_waits_for_no_more_than_the_step_under_way),
        cmocka_unit_test(what_cannot_be_recorded_fails_at_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
