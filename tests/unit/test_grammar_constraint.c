#include "engine/grammar_constraint.h"
#include "tests/unit/grammar_fixture.h"

#include <stdio.h>
#include <time.h>

static int set_up(void **state) {
    *state = grammar_fixture_create(GRAMMAR_DEMO, 6);
    return 0;
}

static int tear_down(void **state) {
    grammar_fixture_destroy(*state);
    return 0;
}

struct place {
    struct grammar_constraint_options options;
    struct constraint *constraint;
    uint32_t mask[4752]; // 152,064 tokens
    int32_t vocab;
};

/* Takes over the reference to the grammar. */
static void begin_with(struct place *place, struct grammar_fixture *fixture, struct grammar *grammar,
                       enum reasoning_place reasoning, enum constrained_calls calls) {
    place->options = (struct grammar_constraint_options){
        .grammar = grammar, .trie = fixture->trie, .reasoning = reasoning, .calls = calls};
    grammar_constraint_find_tokens(&place->options, fixture->tokenizer);
    place->vocab = fixture->trie->n_vocab;
    assert_true(place->options.opens >= 0 && place->options.closes >= 0);
    place->constraint = grammar_constraint_create(&place->options, NULL);
    assert_non_null(place->constraint);
    grammar_release(grammar); // the constraint has its own reference
}

static void begin(struct place *place, struct grammar_fixture *fixture, enum reasoning_place reasoning) {
    begin_with(place, fixture, grammar_of(fixture, GRAMMAR_CHOICE, "[\"yes\",\"no\"]"), reasoning, CALLS_NONE);
}

static const uint32_t *masked(struct place *place) {
    memset(place->mask, 0xAA, sizeof place->mask); // all of it is written
    assert_int_equal(place->constraint->fill(place->constraint, place->mask, place->vocab), CONSTRAINT_MASKED);
    return place->mask;
}

static void take(struct place *place, int32_t token) {
    assert_true(mask_has(masked(place), token));
    place->constraint->accept(place->constraint, token);
}

static int32_t id_of(struct grammar_fixture *fixture, const char *text) {
    struct token_list ids = {0};
    assert_true(tokenizer_encode(fixture->tokenizer, text, strlen(text), &ids, NULL));
    int32_t id = ids.ids[0];
    assert_int_equal(ids.count, 1);
    token_list_finish(&ids);
    return id;
}

static void assert_answer_is_constrained(struct place *place, struct grammar_fixture *fixture) {
    assert_false(mask_has(masked(place), id_of(fixture, "x")));
    assert_false(mask_has(masked(place), fixture->stop));
    take(place, id_of(fixture, "n"));
    take(place, id_of(fixture, "o"));
    take(place, fixture->stop);
    assert_true(mask_has(masked(place), fixture->stop));
}

static void test_without_reasoning_the_grammar_holds_at_once(void **state) {
    struct place place;
    begin(&place, *state, REASONING_NONE);
    assert_false(mask_has(masked(&place), place.options.opens));
    assert_answer_is_constrained(&place, *state);
    place.constraint->destroy(place.constraint);
}

static void assert_reasons_then_answers(struct place *place, struct grammar_fixture *fixture) {
    assert_false(mask_has(masked(place), fixture->stop)); // the answer is still to come
    take(place, id_of(fixture, "x"));
    take(place, id_of(fixture, "{"));
    take(place, place->options.closes);
    if (place->options.line_break >= 0) {
        for (int32_t id = 0; id < place->vocab; id++)
            assert_int_equal(mask_has(masked(place), id), id == place->options.line_break);
        take(place, place->options.line_break);
    }
    assert_answer_is_constrained(place, fixture);
}

static void test_reasoning_is_free(void **state) {
    struct place place;
    begin(&place, *state, REASONING_INSIDE);
    assert_reasons_then_answers(&place, *state);
    place.constraint->destroy(place.constraint);
}

static void test_reasoning_may_be_opened(void **state) {
    struct place place;
    begin(&place, *state, REASONING_MAY);
    assert_false(mask_has(masked(&place), id_of(*state, "x")));
    take(&place, place.options.opens);
    assert_reasons_then_answers(&place, *state);
    place.constraint->destroy(place.constraint);
}

static void test_reasoning_that_may_be_opened_need_not_be(void **state) {
    struct place place;
    begin(&place, *state, REASONING_MAY);
    assert_answer_is_constrained(&place, *state);
    place.constraint->destroy(place.constraint);
}

static void test_a_token_that_was_not_allowed_is_noticed(void **state) {
    struct place place;
    begin(&place, *state, REASONING_NONE);
    place.constraint->accept(place.constraint, id_of(*state, "x"));
    memset(place.mask, 0, sizeof place.mask);
    assert_int_equal(place.constraint->fill(place.constraint, place.mask, place.vocab), CONSTRAINT_STUCK);
    place.constraint->destroy(place.constraint);
}

/* --- calls --- */

#define TOOLS                                                                                                          \
    "[{\"name\":\"add\",\"parameters\":{\"properties\":{\"n\":{\"type\":\"integer\"}},\"required\":[\"n\"]}},"         \
    "{\"name\":\"stop\",\"parameters\":{\"additionalProperties\":false}}]"
#define ADD  "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"n\": 12}}\n</tool_call>"
#define STOP "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>"

static void begin_calls(struct place *place, struct grammar_fixture *fixture, enum reasoning_place reasoning,
                        enum constrained_calls calls) {
    begin_with(place, fixture, grammar_of(fixture, GRAMMAR_TOOL_CALL, TOOLS), reasoning, calls);
    assert_true(place->options.call_opens >= 0 && place->options.call_closes >= 0 && place->options.call_break >= 0);
}

static bool is_free(struct place *place) {
    return place->constraint->fill(place->constraint, place->mask, place->vocab) == CONSTRAINT_FREE;
}

/* As the tokenizer cuts it. */
static void take_text(struct place *place, struct grammar_fixture *fixture, const char *text) {
    struct token_list ids = {0};
    assert_true(tokenizer_encode(fixture->tokenizer, text, strlen(text), &ids, NULL));
    for (size_t i = 0; i < ids.count; i++) {
        assert_true(is_free(place) || mask_has(place->mask, ids.ids[i]));
        place->constraint->accept(place->constraint, ids.ids[i]);
    }
    token_list_finish(&ids);
}

static int32_t n_allowed(struct place *place) {
    int32_t n = 0;
    const uint32_t *mask = masked(place);
    for (int32_t id = 0; id < place->vocab; id++) n += mask_has(mask, id);
    return n;
}

static void assert_only(struct place *place, int32_t token) {
    assert_int_equal(n_allowed(place), 1);
    assert_true(mask_has(place->mask, token));
}

static void test_a_call_is_required_and_others_may_follow(void **state) {
    struct place place;
    begin_calls(&place, *state, REASONING_NONE, CALLS_REQUIRED);
    for (int i = 0; i < 3; i++) {
        assert_only(&place, place.options.call_opens);
        take_text(&place, *state, i == 1 ? STOP : ADD);
        assert_int_equal(n_allowed(&place), 2); // the end, or a line break and a call
        assert_true(mask_has(place.mask, ((struct grammar_fixture *)*state)->stop));
        if (i < 2) take(&place, place.options.call_break);
    }
    take(&place, ((struct grammar_fixture *)*state)->stop);
    assert_only(&place, ((struct grammar_fixture *)*state)->stop);
    place.constraint->destroy(place.constraint);
}

static void test_a_call_is_closed_when_it_is_complete(void **state) {
    struct place place;
    begin_calls(&place, *state, REASONING_NONE, CALLS_ONE);
    take_text(&place, *state, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"n\": 1");
    assert_false(mask_has(masked(&place), place.options.call_closes));
    assert_false(mask_has(place.mask, ((struct grammar_fixture *)*state)->stop));
    assert_false(mask_has(place.mask, id_of(*state, "x")));
    take_text(&place, *state, "}}\n");
    assert_only(&place, place.options.call_closes);
    take(&place, place.options.call_closes);
    assert_only(&place, ((struct grammar_fixture *)*state)->stop);
    place.constraint->destroy(place.constraint);
}

static void test_calls_come_behind_reasoning(void **state) {
    struct place place;
    begin_calls(&place, *state, REASONING_MAY, CALLS_ONE);
    assert_int_equal(n_allowed(&place), 2); // <think> or <tool_call>
    take_text(&place, *state, "<think>\nWhich? <tool_call>\n</think>\n\n" ADD);
    assert_only(&place, ((struct grammar_fixture *)*state)->stop);
    place.constraint->destroy(place.constraint);
    begin_calls(&place, *state, REASONING_MAY, CALLS_ONE);
    take_text(&place, *state, STOP);
    assert_only(&place, ((struct grammar_fixture *)*state)->stop);
    place.constraint->destroy(place.constraint);
}

static void test_calls_that_are_allowed_stand_in_free_text(void **state) {
    struct place place;
    begin_calls(&place, *state, REASONING_MAY, CALLS_ALLOWED);
    assert_true(is_free(&place));
    take_text(&place, *state, "<think>\nWhat <tool_call> is\n</think>\n\nLet me see.\n" ADD "\n" STOP "a ");
    assert_true(is_free(&place));
    take_text(&place, *state, "<tool_call>\n{\"name\": \"");
    assert_false(mask_has(masked(&place), id_of(*state, "x")));
    place.constraint->accept(place.constraint, id_of(*state, "x"));
    assert_int_equal(place.constraint->fill(place.constraint, place.mask, place.vocab), CONSTRAINT_STUCK);
    place.constraint->destroy(place.constraint);
}

static void test_free_text_does_not_spell_the_mark_that_ends_it(void **state) {
    struct place place;
    begin_calls(&place, *state, REASONING_NONE, CALLS_ALLOWED);
    take_text(&place, *state, "a <<tool_cal");
    assert_true(mask_has(masked(&place), id_of(*state, "l")));
    take_text(&place, *state, "l");
    assert_false(mask_has(masked(&place), id_of(*state, ">")));
    for (int32_t id = 0; id < place.vocab; id++) {
        size_t length;
        const char *bytes = token_trie_bytes(place.options.trie, id, &length);
        assert_int_equal(mask_has(place.mask, id), length == 0 || bytes[0] != '>');
    }
    assert_true(mask_has(place.mask, ((struct grammar_fixture *)*state)->stop));
    take_text(&place, *state, "x");
    assert_true(is_free(&place));
    place.constraint->destroy(place.constraint);

    begin(&place, *state, REASONING_INSIDE);
    take_text(&place, *state, "a </think");
    assert_false(mask_has(masked(&place), id_of(*state, ">")));
    assert_false(mask_has(place.mask, ((struct grammar_fixture *)*state)->stop));
    take_text(&place, *state, "x>");
    take(&place, place.options.closes);
    place.constraint->destroy(place.constraint);
}

static void test_calls_as_the_published_tokenizer_cuts_them(void **state) {
    (void)state;
    FILE *file = fopen(GRAMMAR_PUBLISHED, "rb");
    if (!file) skip();
    fclose(file);
    struct grammar_fixture *fixture = grammar_fixture_create(GRAMMAR_PUBLISHED, 151936 - 151669);
    struct place place;
    begin_calls(&place, fixture, REASONING_MAY, CALLS_REQUIRED);
    take_text(&place, fixture, "<think>\nTwo. </thinking>\n</think>\n\n" ADD "\n" STOP);
    take(&place, fixture->stop);
    place.constraint->destroy(place.constraint);
    begin_calls(&place, fixture, REASONING_NONE, CALLS_ALLOWED);
    take_text(&place, fixture, "Both: " ADD "\n" STOP "\nSee <tools>");
    take_text(&place, fixture, "<");
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    (void)masked(&place);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double us = (double)(ended.tv_sec - began.tv_sec) * 1e6 + (double)(ended.tv_nsec - began.tv_nsec) * 1e-3;
    print_message("# the mask behind a '<' in free text: %.0f us\n", us);
    place.constraint->destroy(place.constraint);
    grammar_fixture_destroy(fixture);
}

static void test_what_is_no_call_is_noticed(void **state) {
    static const char *const texts[] = {"a", "<tool_call>x", ADD "x", ADD "\nx", "<tool_call></tool_call>"};
    struct place place;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct token_list ids = {0};
        begin_calls(&place, *state, REASONING_NONE, CALLS_REQUIRED);
        assert_true(tokenizer_encode(place.options.trie->tokenizer, texts[i], strlen(texts[i]), &ids, NULL));
        for (size_t t = 0; t < ids.count; t++) place.constraint->accept(place.constraint, ids.ids[t]);
        assert_int_equal(place.constraint->fill(place.constraint, place.mask, place.vocab), CONSTRAINT_STUCK);
        token_list_finish(&ids);
        place.constraint->destroy(place.constraint);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_reasoning_the_grammar_holds_at_once),
        cmocka_unit_test(test_reasoning_is_free),
        cmocka_unit_test(test_reasoning_may_be_opened),
        cmocka_unit_test(test_reasoning_that_may_be_opened_need_not_be),
        cmocka_unit_test(test_a_token_that_was_not_allowed_is_noticed),
        cmocka_unit_test(test_a_call_is_required_and_others_may_follow),
        cmocka_unit_test(test_a_call_is_closed_when_it_is_complete),
        cmocka_unit_test(test_calls_come_behind_reasoning),
        cmocka_unit_test(test_calls_that_are_allowed_stand_in_free_text),
        cmocka_unit_test(test_free_text_does_not_spell_the_mark_that_ends_it),
        cmocka_unit_test(test_calls_as_the_published_tokenizer_cuts_them),
        cmocka_unit_test(test_what_is_no_call_is_noticed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
