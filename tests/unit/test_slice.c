#include "engine/slice.h"
#include "tests/test.h"

#include <string.h>

static const struct model_shape qwen3_32b = {.n_layers = 64,
                                             .hidden = 5120,
                                             .n_heads = 64,
                                             .n_kv_heads = 8,
                                             .head_dim = 128,
                                             .intermediate = 25600,
                                             .vocab = 151936};

static struct model_shape slice_of(const struct model_shape *whole, int32_t rank, int32_t n_ranks) {
    struct model_shape part;
    struct error err;
    bool ok = slice_shape(&part, whole, (struct slice){rank, n_ranks}, &err);
    if (!ok) fail_msg("%s", err.message);
    return part;
}

static void one_rank_has_the_whole_model(void **state) {
    (void)state;
    for (int32_t n = 0; n <= 1; ++n) {
        struct model_shape part = slice_of(&qwen3_32b, 0, n);
        assert_memory_equal(&part, &qwen3_32b, sizeof part);
        assert_int_equal(shape_vocab_first(&part), 0);
        assert_int_equal(shape_vocab_part(&part), 151936);
    }
}

static void ranks_share_heads_columns_and_vocabulary(void **state) {
    (void)state;
    for (int32_t rank = 0; rank < 4; ++rank) {
        struct model_shape part = slice_of(&qwen3_32b, rank, 4);
        assert_int_equal(part.n_heads, 16);
        assert_int_equal(part.n_kv_heads, 2);
        assert_int_equal(part.intermediate, 6400);
        assert_int_equal(part.hidden, 5120);
        assert_int_equal(part.vocab, 151936); // what is sampled from
        assert_int_equal(shape_vocab_part(&part), 37984);
        assert_int_equal(shape_vocab_first(&part), rank * 37984);
        assert_int_equal(slice_first_kv_head(&qwen3_32b, part.slice), 2 * rank);
    }
}

static void more_ranks_than_kv_heads_hold_the_same_ones(void **state) {
    (void)state;
    for (int32_t rank = 0; rank < 16; ++rank) {
        struct model_shape part = slice_of(&qwen3_32b, rank, 16);
        assert_int_equal(part.n_heads, 4);
        assert_int_equal(part.n_kv_heads, 1);
        assert_int_equal(slice_first_kv_head(&qwen3_32b, part.slice), rank / 2);
    }
}

/* Parts of multiples of 8 that follow each other, whatever the vocabulary. */
static void any_vocabulary_is_covered_once(void **state) {
    (void)state;
    struct model_shape whole = qwen3_32b;
    for (whole.vocab = 8 * 16 * 8; whole.vocab < 8 * 16 * 8 + 300; ++whole.vocab) {
        for (int32_t n = 2; n <= 16; n *= 2) {
            int32_t next = 0;
            for (int32_t rank = 0; rank < n; ++rank) {
                struct model_shape part = slice_of(&whole, rank, n);
                assert_int_equal(shape_vocab_first(&part), next);
                assert_true(shape_vocab_part(&part) > 0);
                assert_int_equal(next % 8, 0);
                next += shape_vocab_part(&part);
            }
            assert_int_equal(next, whole.vocab);
        }
    }
}

static void assert_refused(struct model_shape whole, int32_t n_ranks, const char *what) {
    struct model_shape part;
    struct error err;
    assert_false(slice_shape(&part, &whole, (struct slice){0, n_ranks}, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, "tensor-parallel-size");
    if (!strstr(err.message, what)) fail_msg("no \"%s\" in: %s", what, err.message);
}

static void names_what_cannot_be_shared(void **state) {
    (void)state;
    struct model_shape whole = qwen3_32b;
    assert_refused(whole, 3, "num_attention_heads of 64");
    assert_refused(whole, 3, "allowed are 1, 2, 4, 8, 16");
    whole.n_heads = 24;
    whole.n_kv_heads = 4;
    assert_refused(whole, 6, "num_key_value_heads of 4");
    whole = qwen3_32b;
    whole.intermediate = 25602;
    assert_refused(whole, 4, "intermediate_size of 25602");
    assert_refused(whole, 4, "allowed are 1, 2");
    whole = qwen3_32b;
    whole.vocab = 8;
    assert_refused(whole, 2, "vocab_size of 8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_has_the_whole_model),
        cmocka_unit_test(ranks_share_heads_columns_and_vocabulary),
        cmocka_unit_test(more_ranks_than_kv_heads_hold_the_same_ones),
        cmocka_unit_test(any_vocabulary_is_covered_once),
        cmocka_unit_test(names_what_cannot_be_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
