/* Masks, matchers and the cache; which answers a grammar takes is in test_grammar_schema.c. */
#include "engine/grammar_cache.h"
#include "engine/grammar_machine.h"
#include "tests/unit/grammar_fixture.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* Times are bounded at four times what is asked of a quiet machine; sanitizers cost another factor of ten. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWNESS 40.0
#else
#define SLOWNESS 4.0
#endif

#define NODE                                                                                                           \
    "{\"$ref\":\"#/$defs/"                                                                                             \
    "node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},"                  \
    "\"children\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/node\"}}},\"required\":[\"name\",\"children\"]}}}"
#define PERSON                                                                                                         \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},\"age\":{\"type\":"          \
    "\"integer\","                                                                                                     \
    "\"minimum\":0,\"maximum\":130},\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"red\",\"green\",\"blue\"]},"   \
    "\"maxItems\":3},\"born\":{\"type\":\"string\",\"format\":\"date\"}},\"required\":[\"name\",\"age\"]}"

static const struct {
    enum grammar_kind kind;
    const char *text;
} samples[] = {
    {GRAMMAR_JSON_OBJECT, ""},
    {GRAMMAR_JSON_SCHEMA, NODE},
    {GRAMMAR_JSON_SCHEMA, PERSON},
    {GRAMMAR_JSON_SCHEMA, "true"},
    {GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":[\"number\",\"null\",\"string\"]},\"minItems\":2}"},
    {GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{},\"ab\":{}},\"additionalProperties\":{\"type\":"
                          "\"integer\"}}"},
    {GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"pattern\":\"q.*\\\"$\",\"minLength\":3}"},
    {GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":2,\"maxLength\":6}"},
    {GRAMMAR_JSON_SCHEMA,
     "{\"anyOf\":[{\"type\":\"string\"},{\"const\":\"x\\\"y\"},{\"type\":\"array\",\"items\":{"
     "\"type\":\"string\",\"format\":\"time\"}},{\"type\":\"array\",\"items\":{\"type\":\"array\"}}]}"},
    {GRAMMAR_REGEX, "(\\w+ ?)+[.!?\\u00e9]"},
    {GRAMMAR_REGEX, ".*"},
    {GRAMMAR_REGEX, "([^a-z]|th(e|is|at)|\\n)*"},
    {GRAMMAR_CHOICE, "[\"yes\",\"no\",\"yes, but\",\"Zürich\"]"},
};
#define N_SAMPLES (sizeof samples / sizeof *samples)

static int set_up(void **state) {
    *state = grammar_fixture_create(GRAMMAR_DEMO, 70);
    return 0;
}

static int tear_down(void **state) {
    grammar_fixture_destroy(*state);
    return 0;
}

/* --- masks --- */

static void assert_mask_is_exact(struct grammar_fixture *fixture, struct grammar_matcher *matcher, const char *text) {
    const uint32_t *mask = grammar_matcher_mask(matcher, NULL);
    assert_non_null(mask);
    for (int32_t id = 0; id < fixture->trie->n_words * 32; id++) {
        struct grammar_matcher copy;
        grammar_matcher_copy(&copy, matcher);
        size_t length;
        bool takes = id < fixture->trie->n_vocab && grammar_matcher_accept(&copy, id);
        grammar_matcher_finish(&copy);
        if (takes != mask_has(mask, id))
            print_error("%s: token %d \"%s\" is %d in the mask\n", text, id,
                        token_trie_bytes(fixture->trie, id, &length), mask_has(mask, id));
        assert_int_equal(takes, mask_has(mask, id));
    }
}

/* Every token against the matcher, at up to 25 places of 2 random answers of each grammar. */
static void test_masks_are_what_the_matcher_takes(void **state) {
    struct grammar_fixture *fixture = *state;
    int n_places = 0;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct grammar *grammar = grammar_of(fixture, samples[i].kind, samples[i].text);
        for (int answer = 0; answer < 2; answer++) {
            struct grammar_matcher matcher;
            grammar_matcher_init(&matcher, grammar);
            for (int place = 0; place < 25; place++, n_places++) {
                assert_mask_is_exact(fixture, &matcher, samples[i].text);
                int32_t token = mask_draw(fixture, grammar_matcher_mask(&matcher, NULL));
                assert_true(token >= 0);
                assert_true(grammar_matcher_accept(&matcher, token));
                if (token == fixture->stop) break;
            }
            grammar_matcher_finish(&matcher);
        }
        grammar_release(grammar);
    }
    print_message("# %d places\n", n_places);
    assert_true(n_places > 300);
}

/* Inside a string, of which the precomputed masks and the tokens outside make one: the plain walk says the same. */
static void test_content_masks_are_what_the_matcher_takes(void **state) {
    struct grammar_fixture *fixture = *state;
    static const char *const places[] = {"\"",    "\"a",    "\"ab\\n", "\"\303\251", "\"\303",
                                         "\"a\\", "\"abcd", "\"abcde", "\"abcdef"};
    for (size_t i = 0; i < 2; i++) {
        struct grammar *grammar = grammar_of(
            fixture, GRAMMAR_JSON_SCHEMA, i == 0 ? "{\"type\":\"string\"}" : "{\"type\":\"string\",\"maxLength\":6}");
        for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
            struct grammar_matcher matcher;
            grammar_matcher_init(&matcher, grammar);
            assert_true(grammar_matcher_accept_bytes(&matcher, places[k], strlen(places[k])));
            assert_mask_is_exact(fixture, &matcher, places[k]);
            grammar_matcher_finish(&matcher);
        }
        grammar_release(grammar);
    }
}

static void test_special_and_added_tokens_are_never_allowed(void **state) {
    struct grammar_fixture *fixture = *state;
    struct grammar *grammar = grammar_of(fixture, GRAMMAR_REGEX, "[^!]*");
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    const uint32_t *mask = grammar_matcher_mask(&matcher, NULL);
    static const char *const added[] = {"<|im_start|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>"};
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        int32_t id = tokenizer_find_added(fixture->tokenizer, added[i]);
        assert_true(id >= 0);
        assert_false(mask_has(mask, id));
        assert_false(grammar_matcher_accept(&matcher, id));
    }
    assert_true(grammar_matcher_accept_bytes(&matcher, "<think>", 7));
    for (int32_t id = tokenizer_size(fixture->tokenizer); id < fixture->trie->n_vocab; id++)
        assert_false(mask_has(mask, id));
    grammar_matcher_finish(&matcher);
    grammar_release(grammar);
}

static void test_a_token_may_close_several_levels(void **state) {
    struct grammar_fixture *fixture = *state;
    struct grammar *grammar = grammar_of(fixture, GRAMMAR_JSON_OBJECT, "");
    struct grammar_matcher matcher, deep;
    grammar_matcher_init(&matcher, grammar);
    assert_true(grammar_matcher_accept_bytes(&matcher, "{\"a\": [{\"b\": \"c", 15));
    grammar_matcher_copy(&deep, &matcher);
    assert_true(grammar_matcher_accept_bytes(&matcher, "\"}]}", 4));
    assert_true(grammar_matcher_can_end(&matcher));
    assert_false(grammar_matcher_accept_bytes(&deep, "\"}}", 3));
    assert_true(grammar_matcher_accept_bytes(&deep, "\"}], ", 5));
    assert_false(grammar_matcher_can_end(&deep));
    grammar_matcher_finish(&matcher);
    grammar_matcher_finish(&deep);
    grammar_release(grammar);
}

static void test_the_end_is_allowed_exactly_at_ends(void **state) {
    struct grammar_fixture *fixture = *state;
    struct grammar *grammar = grammar_of(fixture, GRAMMAR_CHOICE, "[\"yes\",\"yes, but\"]");
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    assert_false(mask_has(grammar_matcher_mask(&matcher, NULL), fixture->stop));
    assert_false(grammar_matcher_accept(&matcher, fixture->stop));
    assert_true(grammar_matcher_accept_bytes(&matcher, "yes", 3));
    assert_true(mask_has(grammar_matcher_mask(&matcher, NULL), fixture->stop));
    assert_true(grammar_matcher_accept_bytes(&matcher, ", but", 5));
    const uint32_t *mask = grammar_matcher_mask(&matcher, NULL); // nothing but the end
    for (int32_t id = 0; id < fixture->trie->n_vocab; id++) assert_int_equal(mask_has(mask, id), id == fixture->stop);
    assert_true(grammar_matcher_accept(&matcher, fixture->stop));
    assert_true(grammar_matcher_can_end(&matcher));
    assert_false(grammar_matcher_accept_bytes(&matcher, ",", 1));
    mask = grammar_matcher_mask(&matcher, NULL); // after the end too
    for (int32_t id = 0; id < fixture->trie->n_vocab; id++) assert_int_equal(mask_has(mask, id), id == fixture->stop);
    grammar_matcher_finish(&matcher);
    grammar_release(grammar);
}

static void test_what_is_refused_leaves_the_place(void **state) {
    struct grammar *grammar = grammar_of(*state, GRAMMAR_REGEX, "abc+");
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    assert_true(grammar_matcher_accept_bytes(&matcher, "ab", 2));
    assert_false(grammar_matcher_accept_bytes(&matcher, "cx", 2));
    assert_true(grammar_matcher_accept_bytes(&matcher, "cc", 2));
    assert_true(grammar_matcher_can_end(&matcher));
    grammar_matcher_finish(&matcher);
    grammar_matcher_finish(&(struct grammar_matcher){0});
    grammar_release(grammar);
    grammar_release(NULL);
}

/* --- limits --- */

/* An answer of 12,000 bytes, each a state of its own, makes the tables full again and again; places stay what they are.
 */
static void test_full_tables_are_compacted(void **state) {
    struct grammar_fixture *fixture = *state;
    struct grammar *grammar = grammar_of(fixture, GRAMMAR_REGEX, "([a-c]{6000}|[a-d]{6001})[0-9]{6000}");
    struct grammar_matcher early, matcher;
    grammar_matcher_init(&matcher, grammar);
    assert_true(grammar_matcher_accept_bytes(&matcher, "abc", 3));
    grammar_matcher_copy(&early, &matcher);
    const uint32_t *before = grammar_matcher_mask(&early, NULL);
    uint32_t *copy = malloc((size_t)fixture->trie->n_words * sizeof *copy);
    memcpy(copy, before, (size_t)fixture->trie->n_words * sizeof *copy);
    for (int i = 3; i < 12000; i++) {
        char byte = i < 6000 ? 'a' : '7';
        assert_true(grammar_matcher_accept_bytes(&matcher, &byte, 1));
        if (i % 10 == 0) assert_non_null(grammar_matcher_mask(&matcher, NULL));
    }
    assert_true(grammar_matcher_can_end(&matcher));
    assert_memory_equal(grammar_matcher_mask(&early, NULL), copy, (size_t)fixture->trie->n_words * sizeof *copy);
    assert_memory_equal(before, copy, (size_t)fixture->trie->n_words * sizeof *copy); // still borrowed
    assert_true(grammar_matcher_accept_bytes(&early, "d", 1));
    assert_true(grammar_counts(grammar).n_states <= MACHINE_MAX_STATES);
    assert_true(grammar_counts(grammar).n_masks <= MACHINE_MAX_MASKS);
    free(copy);
    grammar_matcher_finish(&matcher);
    grammar_matcher_finish(&early);
    grammar_release(grammar);
}

/* Arrays open until only closing is left, and then they can be closed. */
static void test_nesting_ends_before_its_limit(void **state) {
    static const char *const schemas[] = {
        "true", "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}",
        "{\"anyOf\":[{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}},{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}},"
        "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"maxItems\":2}]}", // every level doubles what is possible
    };
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *grammar = grammar_of(*state, GRAMMAR_JSON_SCHEMA, schemas[i]);
        struct grammar_matcher matcher;
        grammar_matcher_init(&matcher, grammar);
        int depth = 0;
        while (depth < 1000 && grammar_matcher_accept_bytes(&matcher, "[", 1)) depth++;
        assert_in_range(depth, 50, NFA_MAX_DEPTH + 1);
        for (; depth > 0; depth--) assert_true(grammar_matcher_accept_bytes(&matcher, "]", 1));
        assert_true(grammar_matcher_can_end(&matcher));
        grammar_matcher_finish(&matcher);
        grammar_release(grammar);
    }
}

/* 2^18 states of a deterministic automaton: a mask may leave tokens out, and is neither empty nor slow. */
static void test_masks_of_explosive_expressions_are_bounded(void **state) {
    struct grammar_fixture *fixture = *state;
    struct grammar *grammar =
        grammar_of(fixture, GRAMMAR_REGEX, "(.|\\n)*[aeiou](.|\\n){18}(a|b)(.|\\n){300}([xyz]|(.|\\n)+q)");
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (int i = 0; i < 30; i++) {
        int32_t token = mask_draw(fixture, grammar_matcher_mask(&matcher, NULL));
        assert_true(token >= 0);
        assert_true(grammar_matcher_accept(&matcher, token));
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
    print_message("# 30 steps in %.3f s\n", seconds);
    assert_true(seconds < 1.0 * SLOWNESS);
    grammar_matcher_finish(&matcher);
    grammar_release(grammar);
}

/* --- sharing --- */

static void *sample_answers(void *argument) {
    struct grammar *grammar = argument;
    for (int answer = 0; answer < 20; answer++) {
        struct grammar_matcher matcher;
        grammar_matcher_init(&matcher, grammar);
        uint32_t step = (uint32_t)answer;
        for (int place = 0; place < 60; place++, step = step * 1664525u + 1013904223u) {
            const uint32_t *mask = grammar_matcher_mask(&matcher, NULL);
            int32_t first = (int32_t)(step >> 8) % 3000, id = first;
            while (!mask_has(mask, id)) {
                id = (id + 1) % 3400;
                if (id == first) break; // nothing but the end
            }
            if (!grammar_matcher_accept(&matcher, id)) break;
        }
        grammar_matcher_finish(&matcher);
    }
    return NULL;
}

static void test_threads_share_a_grammar(void **state) {
    struct grammar *grammar = grammar_of(*state, GRAMMAR_JSON_SCHEMA, NODE);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, sample_answers, grammar), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_true(grammar_counts(grammar).n_masks > 3);
    grammar_release(grammar);
}

static void test_the_cache_keeps_what_was_used_last(void **state) {
    struct grammar_fixture *fixture = *state;
    struct error err = {0};
    struct grammar_cache *cache = grammar_cache_create(fixture->trie, 3, &err);
    assert_non_null(cache);
    static const char *const texts[] = {"a", "b", "c", "a", "d", "a", "b"};
    struct grammar *first = NULL;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct grammar_source source = {GRAMMAR_REGEX, texts[i], 1};
        struct grammar *grammar = grammar_cache_get(cache, &source, &err);
        assert_non_null(grammar);
        assert_true(grammar_takes(grammar, texts[i]));
        if (i == 0) first = grammar_retain(grammar);
        if (texts[i][0] == 'a') assert_ptr_equal(grammar, first);
        grammar_release(grammar);
    }
    struct grammar_cache_counts counts = grammar_cache_counts(cache);
    assert_int_equal(counts.n_grammars, 3);
    assert_int_equal(counts.n_found, 2);
    assert_int_equal(counts.n_compiled, 5);                  // a b c d, and b again
    struct grammar_source choice = {GRAMMAR_CHOICE, "a", 1}; // same text, another kind
    assert_null(grammar_cache_get(cache, &choice, &err));
    assert_int_equal(err.code, ERR_INVALID);
    grammar_cache_destroy(cache);
    assert_true(grammar_takes(first, "a")); // a reference outlives the cache
    grammar_release(first);
    grammar_cache_destroy(NULL);
}

/* --- the published vocabulary --- */

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

#define N_SEQUENCES 64
#define N_STEPS     150

/* 64 answers at once, the same ones twice: masks that are made, and then masks that are there. Promised: 50 us. */
static void test_speed_with_the_published_vocabulary(void **state) {
    (void)state;
    FILE *file = fopen(GRAMMAR_PUBLISHED, "rb");
    if (!file) skip();
    fclose(file);
    double began = now_us();
    struct grammar_fixture *fixture = grammar_fixture_create(GRAMMAR_PUBLISHED, 151936 - 151669);
    print_message("# tokenizer and trie of %u nodes: %.0f ms\n", fixture->trie->all.n_nodes, (now_us() - began) * 1e-3);
    static const struct {
        const char *name, *schema;
    } grammars[] = {{"person", PERSON}, {"tree", NODE}, {"any", "true"}};
    static int32_t tokens[N_SEQUENCES][N_STEPS];
    size_t n_words = (size_t)fixture->trie->n_words;
    uint32_t *copies = calloc(N_SEQUENCES * n_words, sizeof *copies);
    for (size_t g = 0; g < sizeof grammars / sizeof *grammars; g++) {
        began = now_us();
        struct grammar *grammar = grammar_of(fixture, GRAMMAR_JSON_SCHEMA, grammars[g].schema);
        double compile_us = now_us() - began, worst_us = 0, total_us = 0, copy_us = 0, sum_first_us = 0;
        int32_t n_made = 0, n_steps = 0;
        for (int pass = 0; pass < 2; pass++) {
            static struct grammar_matcher matchers[N_SEQUENCES];
            for (int i = 0; i < N_SEQUENCES; i++) grammar_matcher_init(&matchers[i], grammar);
            for (int step = 0; step < N_STEPS; step++) {
                const uint32_t *masks[N_SEQUENCES];
                for (int i = 0; pass == 0 && i < N_SEQUENCES; i++) {
                    int32_t before = grammar_counts(grammar).n_masks;
                    began = now_us();
                    masks[i] = grammar_matcher_mask(&matchers[i], NULL);
                    double us = now_us() - began;
                    if (us > worst_us) worst_us = us;
                    sum_first_us += us;
                    n_made += grammar_counts(grammar).n_masks != before;
                    tokens[i][step] = mask_draw(fixture, masks[i]);
                    assert_true(grammar_matcher_accept(&matchers[i], tokens[i][step]));
                }
                if (pass == 0) continue;
                began = now_us();
                for (int i = 0; i < N_SEQUENCES; i++) masks[i] = grammar_matcher_mask(&matchers[i], NULL);
                total_us += now_us() - began;
                began = now_us();
                for (int i = 0; i < N_SEQUENCES; i++)
                    memcpy(copies + (size_t)i * n_words, masks[i], n_words * sizeof *copies);
                copy_us += now_us() - began;
                began = now_us();
                for (int i = 0; i < N_SEQUENCES; i++) (void)grammar_matcher_accept(&matchers[i], tokens[i][step]);
                total_us += now_us() - began;
                n_steps++;
            }
            for (int i = 0; i < N_SEQUENCES; i++) grammar_matcher_finish(&matchers[i]);
        }
        struct grammar_counts counts = grammar_counts(grammar);
        print_message(
            "# %s: compiled in %.0f us; %d states, %d different masks, at first %.1f us a mask, at most %.0f; "
            "then %.1f us a step of 64, and %.1f to copy the masks\n",
            grammars[g].name, compile_us, counts.n_states, counts.n_masks, sum_first_us / (N_SEQUENCES * N_STEPS),
            worst_us, total_us / n_steps, copy_us / n_steps);
        assert_true(total_us / n_steps < 50.0 * SLOWNESS);
        grammar_release(grammar);
    }
    free(copies);
    grammar_fixture_destroy(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks_are_what_the_matcher_takes),
        cmocka_unit_test(test_content_masks_are_what_the_matcher_takes),
        cmocka_unit_test(test_special_and_added_tokens_are_never_allowed),
        cmocka_unit_test(test_a_token_may_close_several_levels),
        cmocka_unit_test(test_the_end_is_allowed_exactly_at_ends),
        cmocka_unit_test(test_what_is_refused_leaves_the_place),
        cmocka_unit_test(test_full_tables_are_compacted),
        cmocka_unit_test(test_nesting_ends_before_its_limit),
        cmocka_unit_test(test_masks_of_explosive_expressions_are_bounded),
        cmocka_unit_test(test_threads_share_a_grammar),
        cmocka_unit_test(test_the_cache_keeps_what_was_used_last),
        cmocka_unit_test(test_speed_with_the_published_vocabulary),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
