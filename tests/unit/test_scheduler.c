#include "tests/test.h"

#include "engine/scheduler.h"

#include <string.h>

#define BLOCK_SIZE 8
#define MAX_LEN    128

static void unheard(void *user, const struct engine_event *event) {
    (void)user, (void)event;
}

struct bench {
    struct block_pool *pool;
    struct scheduler scheduler;
};

static void setup(struct bench *bench, int32_t n_blocks, int32_t max_seqs, int32_t max_rows) {
    bench->pool = block_pool_create(n_blocks, BLOCK_SIZE, 1, NULL);
    struct scheduler_options options = {
        .max_seqs = max_seqs, .max_rows = max_rows, .prefix_cache = true, .pool = bench->pool};
    assert_true(scheduler_init(&bench->scheduler, &options, NULL));
}

static struct sequence *add(struct bench *bench, int32_t n_prompt, int32_t first_token) {
    int32_t prompt[MAX_LEN];
    for (int32_t i = 0; i < n_prompt; ++i) prompt[i] = first_token + i;
    struct engine_request request = {
        .prompt = prompt, .n_prompt = n_prompt, .max_new_tokens = MAX_LEN, .listener = unheard};
    struct sequence *sequence = sequence_create(&request, MAX_LEN, BLOCK_SIZE, NULL);
    assert_non_null(sequence);
    scheduler_add(&bench->scheduler, sequence);
    return sequence;
}

/* Pretends that the planned step ran and every sampled token is 7. */
static void run(struct bench *bench, const struct step *step) {
    for (int32_t i = 0; i < step->n_parts; ++i) {
        struct sequence *sequence = scheduler_part_over(&step->parts[i]);
        if (sequence && step->parts[i].sample) scheduler_know(&bench->scheduler, sequence, 7);
    }
}

static int32_t rows_of(const struct step *step, const struct sequence *sequence) {
    for (int32_t i = 0; i < step->n_parts; ++i) {
        if (step->parts[i].sequence == sequence) return step->parts[i].n_rows;
    }
    return 0;
}

static void end(struct bench *bench, struct sequence **sequences, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        scheduler_remove(&bench->scheduler, sequences[i]);
        sequence_destroy(sequences[i]);
    }
    assert_int_equal(block_pool_n_free(bench->pool), block_pool_n_blocks(bench->pool));
    scheduler_finish(&bench->scheduler);
    block_pool_destroy(bench->pool);
}

static void prompts_are_cut_into_chunks_beside_decode(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 4, 16);
    struct sequence *s[] = {add(&bench, 5, 1), add(&bench, 40, 100), add(&bench, 3, 200)};
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[0]), 5);
    assert_int_equal(rows_of(step, s[1]), 11); // what the budget of 16 leaves
    assert_int_equal(rows_of(step, s[2]), 0);
    run(&bench, step);
    step = scheduler_plan(&bench.scheduler);
    assert_ptr_equal(step->parts[0].sequence, s[0]); // decode first
    assert_int_equal(step->parts[0].n_rows, 1);
    assert_int_equal(rows_of(step, s[1]), 15);
    assert_false(step->parts[1].sample);
    run(&bench, step);
    step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[1]), 14);
    assert_int_equal(rows_of(step, s[2]), 1); // one row of its prompt: among the single rows, not sampled
    run(&bench, step);
    assert_int_equal(s[1]->n_tokens, 41);
    assert_int_equal(s[2]->n_tokens, 3);
    end(&bench, s, 3);
}

static void no_more_than_max_seqs_run(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 2, 16);
    struct sequence *s[] = {add(&bench, 2, 1), add(&bench, 2, 50), add(&bench, 2, 100)};
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(step->n_parts, 2);
    run(&bench, step);
    scheduler_remove(&bench.scheduler, s[0]);
    step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[2]), 2);
    run(&bench, step);
    sequence_destroy(s[0]);
    end(&bench, s + 1, 2);
}

static void the_youngest_gives_way_and_comes_back_first(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 4, 4, 64);
    struct sequence *s[] = {add(&bench, 8, 1), add(&bench, 8, 50), add(&bench, 8, 100), add(&bench, 8, 150)};
    run(&bench, scheduler_plan(&bench.scheduler)); // a block each, full
    assert_int_equal(bench.scheduler.running.count, 4);
    const struct step *step = scheduler_plan(&bench.scheduler); // each needs a second block
    assert_int_equal(step->n_parts, 2);
    assert_int_equal(rows_of(step, s[0]), 1);
    assert_int_equal(rows_of(step, s[1]), 1);
    assert_ptr_equal(bench.scheduler.waiting.first, s[2]); // in order of arrival again
    assert_ptr_equal(bench.scheduler.waiting.last, s[3]);
    assert_int_equal(s[3]->n_preemptions, 1);
    assert_int_equal(s[3]->n_tokens, 9); // the generated token is kept
    assert_int_equal(s[3]->n_computed, 0);
    assert_int_equal(bench.scheduler.counts.preemptions, 2);
    run(&bench, step);
    end(&bench, s, 4);
}

static void a_long_prompt_waits_for_blocks_and_keeps_its_turn(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 8, 4, 64);
    struct sequence *s[] = {add(&bench, 30, 1), add(&bench, 40, 50), add(&bench, 2, 200)};
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(step->n_parts, 1); // 40 tokens need 5 blocks, 4 are free; the short one does not overtake
    run(&bench, step);
    scheduler_remove(&bench.scheduler, s[0]);
    step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[1]), 40);
    assert_int_equal(rows_of(step, s[2]), 2);
    run(&bench, step);
    sequence_destroy(s[0]);
    end(&bench, s + 1, 2);
}

static void a_common_prefix_shares_blocks(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 16, 4, 64);
    struct sequence *s[] = {add(&bench, 20, 1), NULL};
    run(&bench, scheduler_plan(&bench.scheduler));
    s[1] = add(&bench, 30, 1); // its first 20 tokens are those of s[0]
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[1]), 14);
    assert_int_equal(s[1]->n_cached, 16);
    assert_memory_equal(s[0]->blocks, s[1]->blocks, 2 * sizeof(int32_t));
    assert_int_not_equal(s[0]->blocks[2], s[1]->blocks[2]);
    assert_int_equal(block_pool_references(bench.pool, s[0]->blocks[0]), 2);
    run(&bench, step);
    end(&bench, s, 2);
}

/* --- one step ahead --------------------------------------------------------------------------------------------- */

static void a_step_is_planned_on_tokens_that_are_not_known(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 4, 16);
    struct sequence *s[] = {add(&bench, 3, 1), add(&bench, 20, 100), add(&bench, 2, 200)};
    const struct step *first = scheduler_plan(&bench.scheduler); // 3 rows and 13 of 20
    assert_int_equal(first->n_samples, 1);
    assert_int_equal(s[0]->n_tokens, 4);
    assert_int_equal(s[0]->n_known, 3);
    assert_int_equal(s[0]->tokens[3], -1); // sample 0 of first
    const struct step *second = scheduler_plan(&bench.scheduler);
    assert_ptr_not_equal(first, second);
    assert_int_equal(second->parts[0].start, 3);
    assert_int_equal(rows_of(second, s[0]), 1);
    assert_int_equal(rows_of(second, s[1]), 7);
    assert_int_equal(rows_of(second, s[2]), 2);
    assert_int_equal(second->n_samples, 3);
    assert_int_equal(s[0]->tokens[4], -1);
    assert_int_equal(s[1]->tokens[20], -2);
    assert_int_equal(s[2]->tokens[2], -3);
    run(&bench, first);
    assert_int_equal(s[0]->tokens[3], 7);
    assert_int_equal(s[0]->tokens[4], -1); // still under way
    assert_int_equal(s[0]->n_known, 4);
    run(&bench, second);
    assert_int_equal(s[0]->n_known, 5);
    assert_int_equal(s[1]->tokens[20], 7);
    end(&bench, s, 3);
}

static void who_ends_by_length_is_not_planned_again(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 1, 16);
    struct sequence *s[] = {add(&bench, 3, 1), add(&bench, 3, 50)};
    s[0]->max_tokens = 4;
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(scheduler_plan(&bench.scheduler)->n_parts, 0); // nothing to do before its last token is there
    assert_int_equal(bench.scheduler.running.count, 1);
    run(&bench, step);
    assert_int_equal(s[0]->n_known, 4);
    scheduler_remove(&bench.scheduler, s[0]);
    sequence_destroy(s[0]);
    step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[1]), 3);
    run(&bench, step);
    end(&bench, s + 1, 1);
}

static void who_ends_under_way_leaves_a_part_of_nobody(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 8, 4, 16);
    struct sequence *s[] = {add(&bench, 3, 1), add(&bench, 3, 50)};
    const struct step *first = scheduler_plan(&bench.scheduler), *second = scheduler_plan(&bench.scheduler);
    run(&bench, first);
    int32_t block = s[0]->blocks[0];
    scheduler_remove(&bench.scheduler, s[0]);
    sequence_destroy(s[0]);
    assert_null(second->parts[0].sequence);
    assert_ptr_equal(second->parts[1].sequence, s[1]);
    assert_int_equal(block_pool_references(bench.pool, block), 0);
    run(&bench, second);
    assert_int_equal(s[1]->n_known, 5);
    end(&bench, s + 1, 1);
}

static void who_is_preempted_under_way_keeps_its_token(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 4, 4, 64);
    struct sequence *s[] = {add(&bench, 8, 1), add(&bench, 8, 50)};
    const struct step *step = scheduler_plan(&bench.scheduler);
    for (int32_t i = 0; i < 8; ++i) { // until both fill two blocks
        const struct step *next = scheduler_plan(&bench.scheduler);
        run(&bench, step);
        step = next;
    }
    assert_int_equal(s[1]->n_computed, 16);
    assert_int_equal(s[1]->n_known, 16);
    const struct step *next = scheduler_plan(&bench.scheduler); // s[0] needs a third block while step is under way
    assert_int_equal(rows_of(next, s[0]), 1);
    assert_int_equal(rows_of(next, s[1]), 0);
    assert_int_equal(s[1]->n_preemptions, 1);
    assert_int_equal(s[1]->n_blocks, 0);
    assert_int_equal(s[1]->n_known, 16);
    run(&bench, step);
    assert_int_equal(s[1]->n_known, 17); // what it still had in step counts
    assert_int_equal(s[1]->n_tokens, 17);
    assert_int_equal(s[1]->n_published, 0);
    assert_ptr_equal(bench.scheduler.waiting.first, s[1]);
    scheduler_remove(&bench.scheduler, s[1]); // cancelled while it waits: next is not touched
    sequence_destroy(s[1]);
    assert_ptr_equal(next->parts[0].sequence, s[0]);
    run(&bench, next);
    end(&bench, s, 1);
}

static void blocks_are_found_as_soon_as_their_tokens_are_known(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 32, 4, 64);
    struct sequence *s[] = {add(&bench, 15, 1), add(&bench, 20, 1), NULL};
    scheduler_remove(&bench.scheduler, s[1]);
    const struct step *first = scheduler_plan(&bench.scheduler); // the first block is full, the second lacks a token
    scheduler_add(&bench.scheduler, s[1]);
    const struct step *second = scheduler_plan(&bench.scheduler); // first is under way
    assert_int_equal(s[1]->n_cached, 8);
    assert_ptr_equal(second->parts[0].sequence, s[0]); // fills its second block, with a token that is not known
    assert_int_equal(s[0]->n_computed, 16);
    assert_int_equal(s[0]->n_published, 1);
    run(&bench, first);
    assert_int_equal(s[0]->n_published, 2); // known now; second is launched, so that a third step may read it
    int32_t prompt[20];
    for (int32_t i = 0; i < 20; ++i) prompt[i] = i == 15 ? 7 : i + 1;
    struct engine_request request = {.prompt = prompt, .n_prompt = 20, .max_new_tokens = 9, .listener = unheard};
    s[2] = sequence_create(&request, MAX_LEN, BLOCK_SIZE, NULL);
    scheduler_add(&bench.scheduler, s[2]);
    const struct step *third = scheduler_plan(&bench.scheduler);
    assert_int_equal(s[2]->n_cached, 16);
    run(&bench, second);
    run(&bench, third);

    scheduler_distrust(&bench.scheduler, s[0]);
    scheduler_remove(&bench.scheduler, s[2]);
    s[2]->n_computed = s[2]->n_published = 0;
    scheduler_add(&bench.scheduler, s[2]);
    run(&bench, scheduler_plan(&bench.scheduler));
    assert_int_equal(s[2]->n_cached, 0);
    end(&bench, s, 3);
}

static void a_blocked_request_starts_when_others_publish_its_prefix(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 8, 4, 32);
    struct sequence *s[] = {add(&bench, 30, 1), add(&bench, 55, 1)};
    const struct step *first = scheduler_plan(&bench.scheduler);
    assert_int_equal(first->n_parts, 1); // 7 blocks are needed, 4 are free
    assert_int_equal(s[1]->n_needed, 7);
    const struct step *second = scheduler_plan(&bench.scheduler); // 3 of them are the first's
    assert_int_equal(rows_of(second, s[1]), 31);
    run(&bench, first);
    run(&bench, second);
    end(&bench, s, 2);
}

/* Equal prompts: one is computed, the others find all of it but the last block. Who shares less does not wait. */
static void a_prompt_that_is_being_computed_is_waited_for(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 8, 128);
    struct sequence *s[] = {add(&bench, 44, 1), add(&bench, 44, 1), add(&bench, 20, 500), add(&bench, 100, 1),
                            add(&bench, 44, 1)};
    const struct step *step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[0]), 44);
    assert_int_equal(rows_of(step, s[1]), 0);
    assert_int_equal(rows_of(step, s[2]), 20);
    assert_int_equal(rows_of(step, s[3]), 64); // shares 40 of 100, and takes what the budget leaves
    assert_int_equal(rows_of(step, s[4]), 0);
    run(&bench, step);
    step = scheduler_plan(&bench.scheduler);
    assert_int_equal(rows_of(step, s[1]), 4);
    assert_int_equal(rows_of(step, s[4]), 4);
    assert_int_equal(s[1]->n_cached, 40);
    assert_memory_equal(s[1]->blocks, s[0]->blocks, 5 * sizeof *s[0]->blocks);
    assert_memory_equal(s[4]->blocks, s[0]->blocks, 5 * sizeof *s[0]->blocks);
    run(&bench, step);
    end(&bench, s, 5);
}

static void the_lowest_number_waits_least(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 1, 16);
    static const int32_t priorities[] = {0, 5, -1, 5, 0, -1}, order[] = {2, 5, 0, 4, 1, 3};
    struct sequence *s[6];
    int32_t prompt[] = {1, 2, 3};
    for (int32_t i = 0; i < 6; ++i) {
        struct engine_request request = {
            .prompt = prompt, .n_prompt = 3, .max_new_tokens = 4, .priority = priorities[i], .listener = unheard};
        s[i] = sequence_create(&request, MAX_LEN, BLOCK_SIZE, NULL);
        scheduler_add(&bench.scheduler, s[i]);
    }
    for (int32_t i = 0; i < 6; ++i) {
        const struct step *step = scheduler_plan(&bench.scheduler);
        assert_int_equal(step->n_parts, 1);
        assert_ptr_equal(step->parts[0].sequence, s[order[i]]);
        run(&bench, step);
        scheduler_remove(&bench.scheduler, s[order[i]]);
        sequence_destroy(s[order[i]]);
    }
    end(&bench, s, 0);
}

static void a_seat_is_held_while_it_runs(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, 64, 2, 16);
    struct sequence *s[] = {add(&bench, 3, 1), add(&bench, 3, 10), add(&bench, 3, 20)};
    run(&bench, scheduler_plan(&bench.scheduler));
    assert_in_range(s[0]->seat, 1, 2);
    assert_in_range(s[1]->seat, 1, 2);
    assert_int_not_equal(s[0]->seat, s[1]->seat);
    assert_int_equal(s[2]->seat, 0);
    int32_t freed = s[0]->seat;
    scheduler_remove(&bench.scheduler, s[0]);
    assert_int_equal(s[0]->seat, 0);
    run(&bench, scheduler_plan(&bench.scheduler));
    assert_int_equal(s[2]->seat, freed);
    sequence_destroy(s[0]);
    end(&bench, s + 1, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_cut_into_chunks_beside_decode),
        cmocka_unit_test(no_more_than_max_seqs_run),
        cmocka_unit_test(the_youngest_gives_way_and_comes_back_first),
        cmocka_unit_test(a_long_prompt_waits_for_blocks_and_keeps_its_turn),
        cmocka_unit_test(a_common_prefix_shares_blocks),
        cmocka_unit_test(a_step_is_planned_on_tokens_that_are_not_known),
        cmocka_unit_test(who_ends_by_length_is_not_planned_again),
        cmocka_unit_test(who_ends_under_way_leaves_a_part_of_nobody),
        cmocka_unit_test(who_is_preempted_under_way_keeps_its_token),
        cmocka_unit_test(blocks_are_found_as_soon_as_their_tokens_are_known),
        cmocka_unit_test(a_blocked_request_starts_when_others_publish_its_prefix),
        cmocka_unit_test(a_prompt_that_is_being_computed_is_waited_for),
        cmocka_unit_test(the_lowest_number_waits_least),
        cmocka_unit_test(a_seat_is_held_while_it_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
