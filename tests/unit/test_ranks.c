/* An engine of several ranks on the hash backend: the same answers, and an end without a hang when one fails. */
#include "engine/ranks.h"
#include "tests/unit/hash_engine.h"

#include <stdatomic.h>

static struct engine *start_ranks(int32_t n_ranks, const struct hash_faults *faults, struct engine_options options) {
    void *device = (void *)&waiting;
    options.n_ranks = n_ranks;
    return start_engine(&device, options, faults);
}

static void ranks_answer_as_one_does(void **state) {
    (void)state;
    for (int32_t n = 1; n <= 4; n *= 2) {
        struct engine *engine = start_ranks(n, NULL, default_options());
        assert_int_equal(engine_info(engine)->n_ranks, n);
        assert_string_equal(engine_info(engine)->interconnect, n > 1 ? "hashes" : "none");
        run_mixed_load(engine, 60, (uint32_t)n);
        engine_destroy(engine);
    }
}

/* A pool so small that sequences are preempted. */
static void ranks_preempt_together(void **state) {
    (void)state;
    struct engine_options options = default_options();
    options.kv_bytes = kv_bytes_of(40);
    struct engine *engine = start_ranks(2, NULL, options);
    run_mixed_load(engine, 60, 3);
    engine_destroy(engine);
}

static void info_counts_each_rank(void **state) {
    (void)state;
    struct engine *engine = start_ranks(4, NULL, default_options());
    const struct engine_info *info = engine_info(engine);
    size_t weights = 0, kv = 0;
    for (int32_t r = 0; r < 4; ++r) {
        weights += info->ranks[r].weights_bytes;
        kv += info->ranks[r].kv_bytes;
        assert_int_equal(info->ranks[r].kv_bytes, (size_t)info->n_blocks * kv_bytes_of(1));
    }
    assert_int_equal(info->weights_bytes, weights);
    assert_int_equal(info->kv_bytes, kv);
    assert_int_equal(info->kv_token_bytes, 4 * 16); // the one KV head is on each rank
    engine_destroy(engine);
}

static atomic_int n_failed;
static void count_failure(void *user) {
    atomic_fetch_add((atomic_int *)user, 1);
}

static void check_failure(int32_t n_ranks, int32_t fail_rank) {
    struct hash_faults faults = {.fail_rank = fail_rank, .fail_rank_at = 12};
    struct engine_options options = default_options();
    options.failed = count_failure;
    options.user = &n_failed;
    atomic_store(&n_failed, 0);
    struct engine *engine = start_ranks(n_ranks, &faults, options);
    const int32_t prompt[] = {1, 2, 3};
    struct heard heard[3];
    int32_t n_accepted = 0;
    for (int i = 0; i < 3; ++i) {
        heard_init(&heard[i]);
        if (submit(engine, &heard[i], prompt, 3, 100, true, NULL, NULL)) n_accepted++;
    }
    assert_true(n_accepted > 0);
    char who[64];
    snprintf(who, sizeof who, "rank %d: the hash device broke", fail_rank);
    if (fail_rank == HASH_ALL_RANKS) snprintf(who, sizeof who, ": the hash device broke"); // whoever was first
    for (int i = 0; i < n_accepted; ++i) {
        wait_finished(&heard[i]);
        assert_int_equal(heard[i].end.reason, FINISH_ERROR);
        assert_int_equal(heard[i].end.error.code, ERR_DEVICE);
        assert_non_null(strstr(heard[i].end.error.message, who));
    }
    struct error err;
    struct heard late;
    heard_init(&late);
    assert_false(submit(engine, &late, prompt, 3, 1, true, NULL, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(err.message, who));
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_true(stats.failed);
    assert_all_blocks_free(engine);
    engine_destroy(engine);
    assert_int_equal(atomic_load(&n_failed), 1);
}

static void a_rank_that_fails_ends_all(void **state) {
    (void)state;
    check_failure(2, 0);
    check_failure(2, 1);
    check_failure(4, 2);
}

static void ranks_that_fail_at_once_end_all(void **state) {
    (void)state;
    check_failure(2, HASH_ALL_RANKS);
    check_failure(4, HASH_ALL_RANKS);
}

static void a_rank_that_fails_at_the_start_fails_the_start(void **state) {
    (void)state;
    struct hash_faults faults = {.fail_rank = 1, .fail_rank_at = 1}; // in the warm-up
    struct engine_options options = default_options();
    struct error err;
    options.ops = hash_backend(&faults);
    options.n_ranks = 2;
    assert_null(engine_create(&options, &err));
    assert_string_equal(err.message, "rank 1: the hash device broke");
}

static void says_what_cannot_be(void **state) {
    (void)state;
    struct engine_options options = default_options();
    struct error err;
    options.ops = hash_backend(NULL);
    options.n_ranks = 3;
    assert_null(engine_create(&options, &err));
    assert_string_equal(err.param, "tensor-parallel-size");
    assert_non_null(strstr(err.message, "num_attention_heads of 4"));
    options.ops = hash_backend(&looking_ahead); // which has no ranks
    options.n_ranks = 2;
    assert_null(engine_create(&options, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "computes on one device alone"));
}

static bool note_thread(struct rank *rank, void *argument, struct error *err) {
    (void)err;
    ((pthread_t *)argument)[rank->slice.rank] = pthread_self();
    return true;
}

/* One device costs no change of threads; others have one each, always the same. */
static void each_rank_has_its_thread(void **state) {
    (void)state;
    for (int32_t n = 1; n <= 4; n *= 2) {
        struct ranks ranks;
        pthread_t first[4], again[4];
        assert_true(ranks_init(&ranks, hash_backend(NULL), n, &(struct device_options){0}, NULL));
        assert_true(ranks_run(&ranks, note_thread, first, NULL));
        assert_true(ranks_run(&ranks, note_thread, again, NULL));
        for (int32_t r = 0; r < n; ++r) {
            assert_true(pthread_equal(first[r], again[r]));
            for (int32_t other = 0; other < r; ++other) assert_false(pthread_equal(first[r], first[other]));
        }
        assert_true(pthread_equal(first[0], pthread_self()));
        ranks_finish(&ranks);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_answer_as_one_does),
        cmocka_unit_test(ranks_preempt_together),
        cmocka_unit_test(info_counts_each_rank),
        cmocka_unit_test(a_rank_that_fails_ends_all),
        cmocka_unit_test(ranks_that_fail_at_once_end_all),
        cmocka_unit_test(a_rank_that_fails_at_the_start_fails_the_start),
        cmocka_unit_test(says_what_cannot_be),
        cmocka_unit_test(each_rank_has_its_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
