/* Writes random answers that a grammar lets through, for tests/unit/test_grammar_answers.py: grammar_sample TOKENIZER
 *
 * Reads requests "KIND N_ANSWERS SEED LENGTH\n" and LENGTH bytes of text, KIND as in enum grammar_kind. Answers
 * "refused CODE MICROSECONDS LENGTH\n" and a message, or "served MICROSECONDS\n" and then each answer as
 * "answer IS_FINISHED N_TOKENS LENGTH\n" and its bytes. Every token is drawn evenly from the mask; after
 * PATIENCE tokens ends are preferred. A mask that is empty, or a token of it that is refused, ends the program. */
#include "engine/grammar.h"
#include "engine/token_trie.h"
#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE   60
#define MAX_TOKENS 3000
#define MAX_TEXT   ((size_t)1 << 20)

struct sampler {
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    int32_t closers[4]; // tokens that bring an answer nearer to its end
    uint64_t random;
    char *answer; // [MAX_TOKENS * TOKEN_TRIE_MAX_BYTES]
};

static uint32_t draw(struct sampler *sampler, uint32_t below) {
    sampler->random = sampler->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((sampler->random >> 33) % below);
}

static bool is_allowed(const uint32_t *mask, int32_t id) {
    return id >= 0 && (mask[id / 32] >> (id % 32) & 1);
}

static int32_t draw_token(struct sampler *sampler, const uint32_t *mask, int32_t n_taken) {
    int32_t n_allowed = 0, n_words = sampler->trie->n_words;
    if (n_taken > PATIENCE) {
        for (int32_t i = 0; i < sampler->trie->n_stop_ids; i++)
            if (is_allowed(mask, sampler->trie->stop_ids[i])) return sampler->trie->stop_ids[i];
        int32_t closer = sampler->closers[draw(sampler, 4)];
        if (is_allowed(mask, closer)) return closer;
    }
    for (int32_t i = 0; i < n_words; i++) n_allowed += __builtin_popcount(mask[i]);
    if (n_allowed == 0) return -1;
    int32_t left = (int32_t)draw(sampler, (uint32_t)n_allowed), word = 0;
    while (left >= __builtin_popcount(mask[word])) left -= __builtin_popcount(mask[word++]);
    uint32_t bits = mask[word];
    while (left-- > 0) bits &= bits - 1;
    return word * 32 + __builtin_ctz(bits);
}

static void write_answer(struct sampler *sampler, struct grammar *grammar) {
    struct grammar_matcher matcher;
    size_t length = 0;
    int32_t n_taken = 0;
    bool is_finished = false;
    grammar_matcher_init(&matcher, grammar);
    for (; n_taken < MAX_TOKENS && !is_finished; n_taken++) {
        const uint32_t *mask = grammar_matcher_mask(&matcher, NULL);
        int32_t token = mask ? draw_token(sampler, mask, n_taken) : -1;
        if (token < 0 || !grammar_matcher_accept(&matcher, token)) {
            fprintf(stderr, "token %d after \"%.*s\"\n", token, (int)length, sampler->answer);
            exit(3);
        }
        is_finished = token_trie_is_stop(sampler->trie, token);
        size_t n_bytes;
        const char *bytes = token_trie_bytes(sampler->trie, token, &n_bytes);
        memcpy(sampler->answer + length, bytes, n_bytes);
        length += n_bytes;
    }
    grammar_matcher_finish(&matcher);
    printf("answer %d %d %zu\n", is_finished, n_taken, length);
    fwrite(sampler->answer, 1, length, stdout);
}

static long long cpu_microseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (long long)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void serve(struct sampler *sampler, const struct grammar_source *source, int n_answers) {
    struct error err = {0};
    long long began = cpu_microseconds();
    struct grammar *grammar = grammar_create(sampler->trie, source, &err);
    long long microseconds = cpu_microseconds() - began;
    if (!grammar) {
        printf("refused %d %lld %zu\n%s", (int)err.code, microseconds, strlen(err.message), err.message);
    } else {
        printf("served %lld\n", microseconds);
        for (int i = 0; i < n_answers; i++) write_answer(sampler, grammar);
    }
    grammar_release(grammar);
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct error err = {0};
    struct sampler sampler = {.tokenizer = argc == 2 ? tokenizer_load(argv[1], &err) : NULL};
    sampler.answer = malloc((size_t)MAX_TOKENS * TOKEN_TRIE_MAX_BYTES);
    char *text = malloc(MAX_TEXT);
    if (sampler.tokenizer) {
        int32_t stop = tokenizer_find_added(sampler.tokenizer, "<|im_end|>");
        struct token_trie_options options = {sampler.tokenizer, tokenizer_size(sampler.tokenizer), &stop, 1};
        sampler.trie = token_trie_create(&options, &err);
        static const char *const closers[] = {"\"", "}", "]", "0"};
        for (int i = 0; i < 4; i++) {
            struct token_list ids = {0};
            if (!tokenizer_encode(sampler.tokenizer, closers[i], 1, &ids, &err)) return 2;
            sampler.closers[i] = ids.ids[0];
            token_list_finish(&ids);
        }
    }
    int kind, n_answers;
    unsigned long long seed;
    size_t length;
    while (sampler.trie && text && sampler.answer && scanf("%d %d %llu %zu", &kind, &n_answers, &seed, &length) == 4 &&
           length < MAX_TEXT) {
        getchar();
        if (fread(text, 1, length, stdin) != length) break;
        sampler.random = seed * 0x9E3779B97F4A7C15u + 1;
        struct grammar_source source = {(enum grammar_kind)kind, text, length};
        serve(&sampler, &source, n_answers);
    }
    bool worked = sampler.trie != NULL;
    if (!worked) fprintf(stderr, "%s\n", err.message);
    free(text);
    free(sampler.answer);
    token_trie_destroy(sampler.trie);
    tokenizer_destroy(sampler.tokenizer);
    return worked ? 0 : 2;
}
