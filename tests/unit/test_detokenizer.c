#include "engine/tokenizer.h"
#include "server/detokenizer.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The fake tokenizer has one token for each byte, 256 is a special one and 258 is "<think>". */
enum { SPECIAL = 256, THINK = 258 };

static struct stop_strings stops_of(const char *const *texts) {
    struct stop_strings stops = {0};
    for (; texts != NULL && *texts != NULL; ++texts) {
        stops.strings[stops.count++] = (struct stop_string){strdup(*texts), strlen(*texts)};
    }
    return stops;
}

/* What a text of bytes, pushed token by token, becomes. NULL ends stops. */
static char *run(const char *bytes, size_t length, const char *const *texts, bool *stopped) {
    struct tokenizer *tokenizer = tokenizer_load("", NULL);
    struct stop_strings stops = stops_of(texts);
    struct detokenizer detokenizer = {.tokenizer = tokenizer, .stops = &stops};
    struct string_builder out = {0};
    size_t shown;
    *stopped = false;
    for (size_t i = 0; i < length && !*stopped; ++i) {
        *stopped = detokenizer_push(&detokenizer, (unsigned char)bytes[i], &out);
    }
    detokenizer_flush(&detokenizer, &out);
    *stopped = detokenizer.stopped;
    detokenizer_finish(&detokenizer);
    stop_strings_finish(&stops);
    tokenizer_destroy(tokenizer);
    return string_builder_take(&out, &shown);
}

static void expect_bytes(const char *bytes, size_t length, const char *expected) {
    bool stopped;
    char *text = run(bytes, length, NULL, &stopped);
    assert_string_equal(text, expected);
    free(text);
    text = run(bytes, length, (const char *const[]){"no such text", NULL}, &stopped);
    assert_string_equal(text, expected);
    assert_false(stopped);
    free(text);
}

#define EXPECT(bytes, expected) expect_bytes(bytes, sizeof bytes - 1, expected)
#define BAD                     "\xEF\xBF\xBD"

/* As bytes(…).decode(errors="replace") in Python has it. */
static void test_utf8(void **state) {
    (void)state;
    EXPECT("plain", "plain");
    EXPECT("", "");
    EXPECT("\xF0\x9F\x9A\x80", "\xF0\x9F\x9A\x80");
    EXPECT("\xC3\xA9\xE7\x8C\xAB\xEF\xBF\xBF\xF4\x8F\xBF\xBF", "\xC3\xA9\xE7\x8C\xAB\xEF\xBF\xBF\xF4\x8F\xBF\xBF");
    EXPECT("\xF0\x9F\x9A", BAD);      // ends inside
    EXPECT("\xF0\x9F\x9Ax", BAD "x"); // broken off
    EXPECT("\xF0\x9F\xC3\xA9", BAD "\xC3\xA9");
    EXPECT("\x80\xBF", BAD BAD); // continue nothing
    EXPECT("\xC0\xAF", BAD BAD); // overlong
    EXPECT("\xE0\x80\x80", BAD BAD BAD);
    EXPECT("\xED\xA0\x80", BAD BAD BAD);         // surrogate
    EXPECT("\xF4\x90\x80\x80", BAD BAD BAD BAD); // beyond U+10FFFF
    EXPECT("\xF5\xFF"
           "a",
           BAD BAD "a");
}

static void test_characters_come_whole(void **state) {
    (void)state;
    struct tokenizer *tokenizer = tokenizer_load("", NULL);
    struct stop_strings none = {0};
    struct detokenizer detokenizer = {.tokenizer = tokenizer, .stops = &none};
    struct string_builder out = {0};
    const unsigned char rocket[] = {0xF0, 0x9F, 0x9A, 0x80};
    for (int i = 0; i < 3; ++i) {
        detokenizer_push(&detokenizer, rocket[i], &out);
        assert_int_equal(out.length, 0);
    }
    detokenizer_push(&detokenizer, rocket[3], &out);
    assert_int_equal(out.length, 4);
    detokenizer_push(&detokenizer, SPECIAL, &out);
    detokenizer_push(&detokenizer, THINK, &out);
    detokenizer_push(&detokenizer, 100000, &out); // beyond the vocabulary: no bytes
    assert_string_equal(out.data, "\xF0\x9F\x9A\x80<think>");
    string_builder_finish(&out);
    detokenizer_finish(&detokenizer);
    tokenizer_destroy(tokenizer);
}

static void expect_stop(const char *text, const char *const *stops, const char *expected, bool expect_stopped) {
    bool stopped;
    char *got = run(text, strlen(text), stops, &stopped);
    assert_string_equal(got, expected);
    assert_int_equal(stopped, expect_stopped);
    free(got);
}

#define STOPS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_stop_strings(void **state) {
    (void)state;
    expect_stop("one two three", STOPS("two"), "one ", true);
    expect_stop("one two three", STOPS("o"), "", true);
    expect_stop("one two three", STOPS("four"), "one two three", false);
    expect_stop("one two three", STOPS("three!"), "one two three", false); // held to the end, then shown
    expect_stop("one two three", STOPS("three"), "one two ", true);
    expect_stop("aaab", STOPS("aab"), "a", true); // a false start inside the true one
    expect_stop("ababababc", STOPS("ababc"), "abab", true);
    expect_stop("say \xF0\x9F\x9A\x80 now", STOPS("\xF0\x9F\x9A\x80"), "say ", true);
    expect_stop("\xF0\x9F\x9A", STOPS(BAD), "", true); // a character that never was
}

static void test_of_several_the_first_to_end_counts(void **state) {
    (void)state;
    expect_stop("abcdef", STOPS("abcdef", "cd"), "ab", true);
    expect_stop("abcdef", STOPS("cd", "abcd", "d"), "", true); // end together: the longest
    expect_stop("abcdef", STOPS("bcx", "cdx", "ef"), "abcd", true);
}

/* Tokens of several bytes: the match may end in the middle of one. */
static void test_stop_inside_a_token(void **state) {
    (void)state;
    struct tokenizer *tokenizer = tokenizer_load("", NULL);
    struct stop_strings stops = stops_of(STOPS("x<thi"));
    struct detokenizer detokenizer = {.tokenizer = tokenizer, .stops = &stops};
    struct string_builder out = {0};
    assert_false(detokenizer_push(&detokenizer, 'a', &out));
    assert_false(detokenizer_push(&detokenizer, 'x', &out));
    assert_int_equal(out.length, 1); // x waits
    assert_true(detokenizer_push(&detokenizer, THINK, &out));
    assert_string_equal(out.data, "a");
    assert_false(detokenizer_push(&detokenizer, 'b', &out)); // nothing comes after the end
    detokenizer_flush(&detokenizer, &out);
    assert_string_equal(out.data, "a");
    string_builder_finish(&out);
    detokenizer_finish(&detokenizer);
    stop_strings_finish(&stops);
    tokenizer_destroy(tokenizer);
}

/* Random texts over a small alphabet against the definition: cut at the stop that ends first. */
static void test_against_the_definition(void **state) {
    (void)state;
    srand(7);
    int n_stopped = 0;
    for (int round = 0; round < 3000; ++round) {
        char text[40], stops[3][6];
        size_t length = (size_t)(rand() % 39);
        for (size_t i = 0; i < length; ++i) text[i] = (char)('a' + rand() % 2);
        text[length] = '\0';
        for (int s = 0; s < 3; ++s) {
            size_t n = (size_t)(1 + rand() % 5);
            for (size_t i = 0; i < n; ++i) stops[s][i] = (char)('a' + rand() % 2);
            stops[s][n] = '\0';
        }
        char expected[40];
        strcpy(expected, text);
        bool found = false;
        for (size_t end = 1; end <= length && !found; ++end) {
            size_t longest = 0;
            for (int s = 0; s < 3; ++s) {
                size_t n = strlen(stops[s]);
                if (n <= end && n > longest && memcmp(text + end - n, stops[s], n) == 0) longest = n;
            }
            found = longest > 0;
            if (found) expected[end - longest] = '\0';
        }
        n_stopped += found;
        expect_stop(text, STOPS(stops[0], stops[1], stops[2]), expected, found);
    }
    assert_true(n_stopped > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_characters_come_whole),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_of_several_the_first_to_end_counts),
        cmocka_unit_test(test_stop_inside_a_token),
        cmocka_unit_test(test_against_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
