/* An engine on the hash backend, what its listeners hear, and what they should hear: for tests of the engine. */
#ifndef QUERN_TESTS_UNIT_HASH_ENGINE_H
#define QUERN_TESTS_UNIT_HASH_ENGINE_H

#include "engine/engine.h"
#include "tests/test.h"
#include "tests/unit/hash_backend.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TOKENS 300

/* A constraint that depends on every token before: allowed are those that are their sum, and further 7 on. One token in
 * three leaves the next one free. */
struct sum_constraint {
    struct constraint base;
    int64_t sum;
    int32_t n_accepted;
    int32_t stuck_after; // tokens; 0: never
    bool destroyed;
};

static inline enum constraint_answer sum_fill(struct constraint *base, uint32_t *mask, int32_t vocab) {
    struct sum_constraint *constraint = (struct sum_constraint *)base;
    if (constraint->stuck_after > 0 && constraint->n_accepted == constraint->stuck_after) return CONSTRAINT_STUCK;
    if (constraint->sum % 3 == 2) return CONSTRAINT_FREE;
    memset(mask, 0, (size_t)sampling_mask_words(vocab) * sizeof *mask);
    for (int32_t i = (int32_t)(constraint->sum % 7); i < vocab; i += 7) mask[i / 32] |= 1u << (i % 32);
    return CONSTRAINT_MASKED;
}
static inline void sum_accept(struct constraint *base, int32_t token) {
    struct sum_constraint *constraint = (struct sum_constraint *)base;
    constraint->sum += token;
    constraint->n_accepted++;
}
static inline void sum_destroy(struct constraint *base) {
    ((struct sum_constraint *)base)->destroyed = true;
}

/* What one listener heard. */
struct heard {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int32_t tokens[MAX_TOKENS];
    int32_t n_tokens;
    bool wrong_scores; // not those of the token, or none where n_scores asks for some
    int32_t n_scores;  // asked for
    int32_t n_prompt_scores;
    const int32_t *prompt; // borrowed
    int32_t n_prompt_heard;
    enum engine_pooling pooling;
    float pooled[HASH_HIDDEN];
    int32_t n_pooled; // vectors heard
    bool adjusted;    // its request has a penalty
    bool constrained; // and is constrained
    struct sum_constraint constraint;
    bool finished;
    bool heard_late; // an event after the last
    struct engine_event end;
    const struct heard *other; // borrowed, may be NULL; heard on the same thread
    int32_t n_other;           // its tokens when the first token came
};

static inline void listen(void *user, const struct engine_event *event) {
    struct heard *heard = user;
    pthread_mutex_lock(&heard->lock);
    heard->heard_late = heard->heard_late || heard->finished; // asserted by the test's own thread
    if (event->kind == ENGINE_PROMPT_TOKEN) {
        int32_t position = 1 + heard->n_prompt_heard++;
        struct token_scores scores = hash_prompt_scores(heard->prompt, position, heard->n_prompt_scores);
        heard->wrong_scores |= memcmp(event->scores, &scores, sizeof scores) != 0;
        heard->wrong_scores |= heard->n_tokens > 0 || event->token != heard->prompt[position];
    } else if (event->kind == ENGINE_TOKEN) {
        if (heard->n_tokens == 0 && heard->other) heard->n_other = heard->other->n_tokens;
        heard->tokens[heard->n_tokens++] = event->token;
        struct token_scores scores = hash_scores(event->token, heard->n_scores);
        if (heard->n_scores == 0)
            heard->wrong_scores |= event->scores != NULL;
        else
            heard->wrong_scores |= !event->scores || memcmp(event->scores, &scores, sizeof scores) != 0;
    } else if (event->kind == ENGINE_POOLED) {
        memcpy(heard->pooled, event->pooled, sizeof heard->pooled);
        heard->n_pooled++;
    } else {
        heard->finished = true;
        heard->end = *event;
        pthread_cond_signal(&heard->done);
    }
    pthread_mutex_unlock(&heard->lock);
}

static inline void heard_init(struct heard *heard) {
    *heard = (struct heard){.n_tokens = 0};
    pthread_mutex_init(&heard->lock, NULL);
    pthread_cond_init(&heard->done, NULL);
}

static inline void wait_finished(struct heard *heard) {
    pthread_mutex_lock(&heard->lock);
    while (!heard->finished) pthread_cond_wait(&heard->done, &heard->lock);
    pthread_mutex_unlock(&heard->lock);
}

static inline void wait_tokens(struct heard *heard, int32_t n) {
    for (;;) {
        pthread_mutex_lock(&heard->lock);
        bool enough = heard->n_tokens >= n;
        pthread_mutex_unlock(&heard->lock);
        if (enough) return;
        usleep(200);
    }
}

static inline struct engine_options default_options(void) {
    return (struct engine_options){
        .model_folder = "tests/fixtures/hash-model",
        .dummy_weights = true,
        .block_size = 8,
        .memory_share = 0.9,
        .max_seqs = 16,
        .max_batch_tokens = 48,
        .max_queue = 200,
        .prefix_cache = true,
    };
}

/* Tests run on three devices; *state names one. */
static const struct hash_faults waiting = {0}, looking_ahead = {.asynchronous = true},
                                recorded = {.asynchronous = true, .records = true};

static inline struct engine *start_engine(void **state, struct engine_options options,
                                          const struct hash_faults *faults) {
    struct error err = {0};
    const struct hash_faults *device = *state;
    struct hash_faults both = faults ? *faults : (struct hash_faults){0};
    both.asynchronous = device->asynchronous;
    both.records = device->records;
    options.graphs = device->records;
    options.ops = hash_backend(&both);
    struct engine *engine = engine_create(&options, &err);
    if (!engine) fail_msg("engine_create: %s", err.message);
    return engine;
}

/* KV bytes of n blocks of 8 tokens: 2 (K, V) x 1 layer x 1 head x 2 x 4 bytes a token. */
static inline size_t kv_bytes_of(int32_t n_blocks) {
    return (size_t)n_blocks * 8 * 16;
}

static inline bool submit(struct engine *engine, struct heard *heard, const int32_t *prompt, int32_t n_prompt,
                          int32_t n_new, bool ignore_eos, uint64_t *id, struct error *err) {
    uint64_t unused;
    heard->prompt = prompt;
    heard->constraint.base = (struct constraint){.fill = sum_fill, .accept = sum_accept, .destroy = sum_destroy};
    struct engine_request request = {.prompt = prompt,
                                     .n_prompt = n_prompt,
                                     .max_new_tokens = n_new,
                                     .ignore_eos = ignore_eos,
                                     .n_scores = heard->n_scores,
                                     .n_prompt_scores = heard->n_prompt_scores,
                                     .constraint = heard->constrained ? &heard->constraint.base : NULL,
                                     .adjustments = {.frequency_penalty = heard->adjusted ? (float)n_prompt / 1000 : 0},
                                     .pooling = heard->pooling,
                                     .listener = listen,
                                     .user = heard};
    return engine_submit(engine, &request, id ? id : &unused, err);
}

/* The tokens that the hash model gives this listener after this prompt, computed without an engine. */
static inline int32_t expected_of(const struct heard *heard, const int32_t *prompt, int32_t n_prompt, int32_t n_new,
                                  bool ignore_eos, int32_t *out) {
    int32_t all[MAX_TOKENS * 2], n = n_prompt;
    struct sum_constraint constraint = {.sum = 0};
    memcpy(all, prompt, (size_t)n_prompt * sizeof *prompt);
    while (n < n_prompt + n_new) {
        uint32_t mask[(HASH_VOCAB + 31) / 32] = {0};
        all[n] = heard->adjusted ? hash_adjusted_token(all, n) : hash_next_token(all, n);
        if (heard->constrained && sum_fill(&constraint.base, mask, HASH_VOCAB) == CONSTRAINT_MASKED)
            all[n] = hash_masked_token(all[n], mask);
        sum_accept(&constraint.base, all[n]);
        if (all[n++] == 0 && !ignore_eos) break;
    }
    memcpy(out, all + n_prompt, (size_t)(n - n_prompt) * sizeof *out);
    return n - n_prompt;
}

static inline int32_t expected_tokens(const int32_t *prompt, int32_t n_prompt, int32_t n_new, bool ignore_eos,
                                      int32_t *out) {
    return expected_of(&(struct heard){0}, prompt, n_prompt, n_new, ignore_eos, out);
}

/* A request that is pooled hears its vector, and nothing of tokens. */
static inline void assert_pooled(const struct heard *heard, const int32_t *prompt, int32_t n_prompt) {
    float expected[HASH_HIDDEN];
    hash_pooled(prompt, n_prompt, heard->pooling == POOLING_MEAN ? 0 : n_prompt - 1, expected);
    assert_false(heard->heard_late || heard->wrong_scores);
    assert_int_equal(heard->n_pooled, 1);
    assert_memory_equal(heard->pooled, expected, sizeof expected);
    assert_int_equal(heard->n_tokens, 0);
    assert_int_equal(heard->end.reason, FINISH_STOP);
    assert_int_equal(heard->end.n_prompt, n_prompt);
    assert_int_equal(heard->end.n_generated, 0);
}

static inline void assert_answer(const struct heard *heard, const int32_t *prompt, int32_t n_prompt, int32_t n_new,
                                 bool ignore_eos) {
    int32_t expected[MAX_TOKENS];
    if (heard->pooling) {
        assert_pooled(heard, prompt, n_prompt);
        return;
    }
    int32_t n = expected_of(heard, prompt, n_prompt, n_new, ignore_eos, expected);
    assert_false(heard->heard_late || heard->wrong_scores || heard->n_pooled > 0);
    assert_int_equal(heard->n_tokens, n);
    assert_memory_equal(heard->tokens, expected, (size_t)n * sizeof *expected);
    bool stopped = !ignore_eos && expected[n - 1] == 0;
    assert_int_equal(heard->end.reason, stopped ? FINISH_STOP : FINISH_LENGTH);
    assert_int_equal(heard->end.n_prompt, n_prompt);
    assert_int_equal(heard->end.n_generated, n);
    assert_int_equal(heard->n_prompt_heard, heard->n_prompt_scores > 0 ? n_prompt - 1 : 0);
}

static inline void assert_all_blocks_free(struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.n_used_blocks, 0);
    assert_int_equal(stats.n_running, 0);
    assert_int_equal(stats.n_waiting, 0);
}

/* What a cancelled request heard is the beginning of its answer. */
static inline void assert_beginning(const struct heard *heard, const int32_t *prompt, int32_t n_prompt, int32_t n_new,
                                    bool ignore_eos) {
    int32_t expected[MAX_TOKENS];
    int32_t n = expected_of(heard, prompt, n_prompt, n_new, ignore_eos, expected);
    assert_false(heard->heard_late);
    assert_int_equal(heard->end.reason, FINISH_CANCELLED);
    assert_int_equal(heard->end.n_generated, heard->n_tokens);
    assert_true(heard->n_tokens < n && heard->n_pooled == 0);
    assert_memory_equal(heard->tokens, expected, (size_t)heard->n_tokens * sizeof *expected);
}

/* Requests of mixed lengths, many with a common prefix, some cancelled, against the model's own answer. */
static inline void run_mixed_load(struct engine *engine, int32_t n_requests, uint32_t seed) {
    enum { CANCEL_EVERY = 8, CANCEL_AFTER = 20 }; // the 8th, 16th, … when 20 more have been submitted
    struct heard *heard = calloc((size_t)n_requests, sizeof *heard);
    int32_t(*prompts)[MAX_TOKENS] = calloc((size_t)n_requests, sizeof *prompts);
    int32_t n_prompt[256], n_new[256];
    uint64_t ids[256];
    uint32_t random = seed;
    assert_in_range(n_requests, 1, 256);
    for (int32_t i = 0; i < n_requests; ++i) {
        random = random * 1664525u + 1013904223u;
        int32_t shared = (int32_t)(random >> 8) % 4 * 20; // 0 to 60 tokens in common with others
        n_prompt[i] = shared + 1 + (int32_t)(random >> 16) % 90;
        n_new[i] = 1 + (int32_t)(random >> 24) % 60;
        for (int32_t t = 0; t < n_prompt[i]; ++t) prompts[i][t] = t < shared ? t + 1 : 1 + (t * 7 + i * 13) % 999;
        heard_init(&heard[i]);
        heard[i].n_scores = i % 5 == 0 ? i % 22 : 0;
        heard[i].adjusted = i % 3 == 0;
        heard[i].constrained = i % 4 == 1;
        heard[i].n_prompt_scores = i % 6 == 2 ? 3 : 0;
        if (i % 7 == 3) { // of all kinds of the others
            heard[i].pooling = i % 2 == 0 ? POOLING_LAST : POOLING_MEAN;
            heard[i].n_scores = heard[i].n_prompt_scores = heard[i].adjusted = heard[i].constrained = 0;
        }
        assert_true(submit(engine, &heard[i], prompts[i], n_prompt[i], n_new[i], i % 2 == 0, &ids[i], NULL));
        if (i >= CANCEL_AFTER && (i - CANCEL_AFTER) % CANCEL_EVERY == 0) engine_cancel(engine, ids[i - CANCEL_AFTER]);
    }
    for (int32_t i = 0; i < n_requests; ++i) {
        wait_finished(&heard[i]);
        if (heard[i].end.reason == FINISH_CANCELLED)
            assert_beginning(&heard[i], prompts[i], n_prompt[i], n_new[i], i % 2 == 0);
        else
            assert_answer(&heard[i], prompts[i], n_prompt[i], n_new[i], i % 2 == 0);
    }
    assert_all_blocks_free(engine);
    free(heard);
    free(prompts);
}

#define ON_EVERY_DEVICE(test)                                                                                          \
    {#test, test, NULL, NULL, (void *)&waiting}, {#test " looking ahead", test, NULL, NULL, (void *)&looking_ahead}, { \
#test " recorded", test, NULL, NULL, (void *)&recorded                                                         \
    }

#endif
