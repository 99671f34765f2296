#include "engine/grammar_constraint.h"
#include "tests/unit/grammar_fixture.h"

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
    uint32_t mask[4096];
    int32_t vocab;
};

static void begin(struct place *place, struct grammar_fixture *fixture, enum reasoning_place reasoning) {
    struct grammar *grammar = grammar_of(fixture, GRAMMAR_CHOICE, "[\"yes\",\"no\"]");
    place->options =
        (struct grammar_constraint_options){.grammar = grammar, .trie = fixture->trie, .reasoning = reasoning};
    grammar_constraint_find_tokens(&place->options, fixture->tokenizer);
    place->vocab = fixture->trie->n_vocab;
    assert_true(place->options.opens >= 0 && place->options.closes >= 0);
    place->constraint = grammar_constraint_create(&place->options, NULL);
    assert_non_null(place->constraint);
    grammar_release(grammar); // the constraint has its own reference
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_reasoning_the_grammar_holds_at_once),
        cmocka_unit_test(test_reasoning_is_free),
        cmocka_unit_test(test_reasoning_may_be_opened),
        cmocka_unit_test(test_reasoning_that_may_be_opened_need_not_be),
        cmocka_unit_test(test_a_token_that_was_not_allowed_is_noticed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
