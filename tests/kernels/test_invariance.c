/* Bit-identical on the CPU: the logits of a sequence's last token do not depend on the other sequences, on how its
 * prompt was cut, on block ids or block size, on the number of threads, or on the form of rmsnorm_qkv. */
#include "engine/model.h"
#include "tests/kernels/harness.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
#define LENGTH 20 // everything is some fifty times slower
#else
#define LENGTH 70 // of the sequence: two tiles of attention, five blocks
#endif

static struct rig_options options_with(int32_t block_size, uint64_t pool_seed) {
    struct rig_options options = rig_defaults();
    options.shape.hidden = 1088; // two pieces of a sum
    options.shape.intermediate = 96;
    options.shape.vocab = 264;
    options.k_norm_max = 96.5f;
    options.pool_seed = pool_seed;
    options.limits = (struct context_limits){.max_rows = 256,
                                             .max_seqs = 16,
                                             .max_blocks = 96 / block_size,
                                             .block_size = block_size,
                                             .n_blocks = 12 * (96 / block_size)};
    return options;
}

/* Runs the sequence in the given chunks, each step among n_others other sequences; returns its last logits. */
static float *last_logits(struct rig *rig, const int32_t *chunks, int32_t n_others) {
    struct error err = {0};
    float *logits = NULL;
    for (int32_t start = 0, step = 0; start < LENGTH; ++step) {
        int32_t n_rows = chunks[step] < LENGTH - start ? chunks[step] : LENGTH - start;
        if (chunks[step] == 0) n_rows = LENGTH - start;
        struct rig_sequence seqs[16] = {0};
        int32_t n_seqs = 0, index;
        for (int32_t i = 0; i < n_others; ++i) // single rows before, chunks after
            if (i % 2 == 0)
                seqs[n_seqs++] = (struct rig_sequence){.content = 50 + (uint64_t)i, .n_rows = 1, .place = 2 + i};
        if (n_others > 0 && n_rows > 1)
            seqs[n_seqs++] = (struct rig_sequence){.content = 70, .n_rows = 9, .sample = true, .place = 11};
        index = n_seqs++;
        seqs[index] = (struct rig_sequence){
            .content = 1, .start = start, .n_rows = n_rows, .sample = start + n_rows == LENGTH, .place = 1};
        for (int32_t i = 0; i < n_others; ++i)
            if (i % 2 == 1)
                seqs[n_seqs++] = (struct rig_sequence){
                    .content = 50 + (uint64_t)i, .n_rows = 2 + i, .sample = i % 4 == 1, .place = 2 + i};
        rig_prepare_step(rig, seqs, n_seqs);
        rig_must(model_forward(rig->ctx, &rig->weights, &err), &err);
        start += n_rows;
        if (start < LENGTH) continue;
        int32_t row = 0;
        for (int32_t i = 0; i < index; ++i) row += seqs[i].sample;
        logits = rig_read(rig, rig->ctx->scratch.logits + (size_t)row * (size_t)rig->shape.vocab, DTYPE_F32,
                          (size_t)rig->shape.vocab);
    }
    return logits;
}

static const int32_t whole[] = {0};
static const int32_t ones[LENGTH + 1] = {[0 ... LENGTH - 1] = 1};
static const int32_t odd_chunks[] = {7, 1, 16, 1, 33, 5, 0};

struct way {
    const char *name;
    const int32_t *chunks;
    int32_t n_others;
    int32_t block_size;
    uint64_t pool_seed;
    int32_t n_threads;
    bool separate;
};

static const struct way ways[] = {
    {"in one chunk", whole, 0, 16, 1, 1, false},
    {"again", whole, 0, 16, 1, 1, false},
    {"with two threads", whole, 0, 16, 1, 2, false},
    {"with five threads", odd_chunks, 3, 16, 1, 5, false},
    {"in odd chunks", odd_chunks, 0, 16, 1, 2, false},
    {"token by token", ones, 0, 16, 1, 2, false},
    {"among others", whole, 8, 16, 1, 2, false},
    {"in odd chunks among others", odd_chunks, 8, 16, 1, 2, false},
    {"token by token among others", ones, 3, 16, 1, 1, false},
    {"in other blocks", odd_chunks, 2, 16, 99, 2, false},
    {"in blocks of 8", odd_chunks, 0, 8, 1, 2, false},
    {"in blocks of 32", whole, 4, 32, 5, 2, false},
    {"separate", odd_chunks, 5, 16, 1, 2, true},
};

static void check_isa(const char *isa) {
    float *expected = NULL;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; ++i) {
        const struct way *way = &ways[i];
        struct target target;
        target_open_cpu(&target, !way->separate, isa, way->n_threads);
        struct rig_options options = options_with(way->block_size, way->pool_seed);
        struct rig *rig = rig_create(&target, &options);
        float *logits = last_logits(rig, way->chunks, way->n_others);
        assert_non_null(logits);
        for (int32_t t = 0; t < rig->shape.vocab; ++t) {
            uint32_t bits, expected_bits;
            memcpy(&bits, &logits[t], sizeof bits);
            memcpy(&expected_bits, expected ? &expected[t] : &logits[t], sizeof expected_bits);
            assert_true((bits & 0x7F800000) != 0x7F800000); // the NaN of unwritten memory was never read
            if (bits != expected_bits)
                fail_msg("%s, %s: logit %d is %.9g, in one chunk %.9g", isa, way->name, t, logits[t], expected[t]);
        }
        if (expected) {
            free(logits);
        } else {
            expected = logits;
        }
        rig_destroy(rig);
        targets_close(&target, 1);
    }
    free(expected);
}

static void test_isa(void **state) {
    struct target targets[MAX_TARGETS];
    int32_t n_targets = targets_open("cpu", targets);
    targets_close(targets, n_targets);
    for (int32_t t = 0; t < n_targets; ++t) {
        char label[48];
        snprintf(label, sizeof label, "cpu %s", (const char *)*state);
        if (strcmp(targets[t].label, label) != 0) continue;
        check_isa(*state);
        return;
    }
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"bit-identical, plain", test_isa, NULL, NULL, (void *)"plain"},
        {"bit-identical, avx2", test_isa, NULL, NULL, (void *)"avx2"},
        {"bit-identical, avx512", test_isa, NULL, NULL, (void *)"avx512"},
        {"bit-identical, avx512bf16", test_isa, NULL, NULL, (void *)"avx512bf16"},
        {"bit-identical, amx", test_isa, NULL, NULL, (void *)"amx"},
    };
    return cmocka_run_group_tests_name("invariance", tests, NULL, NULL);
}
