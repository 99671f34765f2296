/* Reasoning that is closed after so many tokens, around another constraint and alone. */
#include "server/thinking_budget.h"

#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "tests/test.h"

#include <string.h>

#define CLOSING                                                                                                        \
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly "        \
    "now.\n</think>"

enum { MAX_WORDS = 256, TOKEN = 40, OTHER = 41 };

static struct tokenizer *tokenizer;

static int set_up(void **state) {
    (void)state;
    tokenizer = tokenizer_load("models/demo/tokenizer.json", NULL);
    assert_non_null(tokenizer);
    assert_true(sampling_mask_words(tokenizer_size(tokenizer)) <= MAX_WORDS);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_destroy(tokenizer);
    return 0;
}

/* Allows OTHER alone, and counts what it is told. */
struct inner {
    struct constraint base;
    int32_t n_accepted, n_destroyed;
};

static enum constraint_answer fill_inner(struct constraint *constraint, uint32_t *mask, int32_t vocab) {
    (void)constraint;
    memset(mask, 0, (size_t)sampling_mask_words(vocab) * sizeof *mask);
    mask[OTHER / 32] |= 1u << (OTHER % 32);
    return CONSTRAINT_MASKED;
}

static void accept_inner(struct constraint *constraint, int32_t token) {
    (void)token;
    ++((struct inner *)constraint)->n_accepted;
}

static void destroy_inner(struct constraint *constraint) {
    ++((struct inner *)constraint)->n_destroyed;
}

static struct constraint *begin(int32_t n_tokens, enum answer_thinking thinking, struct inner *inner) {
    if (inner != NULL) *inner = (struct inner){{fill_inner, accept_inner, destroy_inner}, 0, 0};
    const struct thinking_budget_options options = {n_tokens, thinking, tokenizer, inner != NULL ? &inner->base : NULL};
    struct constraint *constraint = thinking_budget_create(&options, NULL);
    assert_non_null(constraint);
    return constraint;
}

/* The only token that may come; -1: any may. */
static int32_t only_token(struct constraint *constraint) {
    uint32_t mask[MAX_WORDS];
    int32_t vocab = tokenizer_size(tokenizer), only = -1;
    memset(mask, 0xAA, sizeof mask); // all of it is written
    if (constraint->fill(constraint, mask, vocab) == CONSTRAINT_FREE) return -1;
    for (int32_t id = 0; id < vocab; ++id) {
        if ((mask[id / 32] >> (id % 32) & 1) == 0) continue;
        assert_int_equal(only, -1);
        only = id;
    }
    assert_true(only >= 0);
    return only;
}

static void expect_closing(struct constraint *constraint, const char *text) {
    struct token_list ids = {0};
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), &ids, NULL));
    assert_int_equal(ids.ids[ids.count - 1], tokenizer_find_added(tokenizer, "</think>"));
    for (size_t i = 0; i < ids.count; ++i) {
        assert_int_equal(only_token(constraint), ids.ids[i]);
        constraint->accept(constraint, ids.ids[i]);
    }
    token_list_finish(&ids);
}

static void accept_free(struct constraint *constraint, int32_t token) {
    assert_int_equal(only_token(constraint), -1);
    constraint->accept(constraint, token);
}

static void test_reasoning_is_closed(void **state) {
    (void)state;
    struct constraint *constraint = begin(3, ANSWER_THINKS, NULL);
    for (int i = 0; i < 3; ++i) accept_free(constraint, TOKEN);
    expect_closing(constraint, CLOSING);
    for (int i = 0; i < 9; ++i) accept_free(constraint, TOKEN);
    constraint->destroy(constraint);
}

static void test_what_the_model_closes_itself_stays(void **state) {
    (void)state;
    struct constraint *constraint = begin(3, ANSWER_MAY_THINK, NULL);
    accept_free(constraint, tokenizer_find_added(tokenizer, "<think>"));
    accept_free(constraint, TOKEN);
    accept_free(constraint, TOKEN);
    accept_free(constraint, tokenizer_find_added(tokenizer, "</think>"));
    for (int i = 0; i < 9; ++i) accept_free(constraint, TOKEN);
    accept_free(constraint, tokenizer_find_added(tokenizer, "<think>")); // in the answer it is text
    for (int i = 0; i < 9; ++i) accept_free(constraint, TOKEN);
    constraint->destroy(constraint);
}

static void test_an_answer_without_reasoning_is_free(void **state) {
    (void)state;
    struct constraint *constraint = begin(0, ANSWER_MAY_THINK, NULL);
    for (int i = 0; i < 9; ++i) accept_free(constraint, TOKEN);
    constraint->destroy(constraint);
}

static void test_a_budget_of_0_leaves_the_empty_block(void **state) {
    (void)state;
    struct constraint *constraint = begin(0, ANSWER_MAY_THINK, NULL);
    accept_free(constraint, tokenizer_find_added(tokenizer, "<think>"));
    expect_closing(constraint, "\n\n</think>");
    accept_free(constraint, TOKEN);
    constraint->destroy(constraint);
    constraint = begin(0, ANSWER_THINKS, NULL); // the prompt ends with a line break
    expect_closing(constraint, "\n</think>");
    accept_free(constraint, TOKEN);
    constraint->destroy(constraint);
}

static void test_another_constraint_goes_along(void **state) {
    (void)state;
    struct inner inner;
    struct constraint *constraint = begin(1, ANSWER_THINKS, &inner);
    assert_int_equal(only_token(constraint), OTHER);
    constraint->accept(constraint, OTHER);
    assert_int_equal(inner.n_accepted, 1);
    expect_closing(constraint, CLOSING);
    assert_true(inner.n_accepted > 10); // it is told what is forced
    assert_int_equal(only_token(constraint), OTHER);
    constraint->destroy(constraint);
    assert_int_equal(inner.n_destroyed, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasoning_is_closed),
        cmocka_unit_test(test_what_the_model_closes_itself_stays),
        cmocka_unit_test(test_an_answer_without_reasoning_is_free),
        cmocka_unit_test(test_a_budget_of_0_leaves_the_empty_block),
        cmocka_unit_test(test_another_constraint_goes_along),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
