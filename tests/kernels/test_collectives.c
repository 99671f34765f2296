/* What ranks do together, with 2, 3 and 4 of them: sums with the same bits on each, all logits, the tokens of the step
 * before. On GPUs with as many as there are, in one step and, where the sum is large, through NCCL. */
#include "tests/test.h"

#include "cpu/cpu_backend.h"
#include "engine/ranks.h"
#include "tests/kernels/harness.h"
#ifdef QUERN_CUDA
#include "cuda/cuda_backend.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct context_limits limits = {
    .max_rows = 2100, .max_seqs = 5, .max_blocks = 4, .block_size = 16, .n_blocks = 20};
static const struct model_shape whole = {.n_layers = 1,
                                         .hidden = 1024,
                                         .n_heads = 12,
                                         .n_kv_heads = 12,
                                         .head_dim = 64,
                                         .intermediate = 96,
                                         .vocab = 1000,
                                         .max_positions = 64,
                                         .rms_eps = 1e-6f,
                                         .rope_theta = 1e6f};

static bool create(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    if (!slice_shape(&rank->shape, &whole, rank->slice, err)) return false;
    rank->ctx = context_create(rank->ranks->ops, rank->device, &rank->shape, &limits, err);
    return rank->ctx != NULL;
}

static void to_device(const struct rank *rank, void *to, const void *from, size_t bytes) {
    struct error err = {0};
    const struct backend_ops *ops = rank->ranks->ops;
    rig_must(ops->copy_to_device(rank->device, to, from, bytes, &err) && ops->synchronize(rank->device, &err), &err);
}
static void from_device(const struct rank *rank, void *to, const void *from, size_t bytes) {
    struct error err = {0};
    rig_must(rank->ranks->ops->copy_to_host(rank->device, to, from, bytes, &err), &err);
}

static bool reduce(struct rank *rank, void *argument, struct error *err) {
    rank->ctx->batch.n_rows = *(const int32_t *)argument;
    return rank->ranks->ops->all_reduce(rank->ctx, err);
}
static bool share(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    return rank->ranks->ops->share_sampled(rank->ctx, err);
}
static bool gather(struct rank *rank, void *argument, struct error *err) {
    rank->ctx->batch.n_samples = *(const int32_t *)argument;
    return rank->ranks->ops->gather_logits(rank->ctx, err);
}

/* One sum after another, of sizes that change, as those of a step do. */
static void check_sums(struct ranks *ranks, const int32_t *rows, int32_t n_sums) {
    size_t most = (size_t)limits.max_rows * (size_t)whole.hidden;
    float *values = malloc(most * sizeof *values), *sums = malloc(most * sizeof *sums);
    for (int32_t s = 0; s < n_sums; ++s) {
        size_t count = (size_t)rows[s] * (size_t)whole.hidden;
        struct error err = {0};
        memset(sums, 0, count * sizeof *sums);
        for (int32_t r = 0; r < ranks->n; ++r) {
            for (size_t i = 0; i < count; ++i) {
                values[i] = random_value((uint64_t)s, (uint64_t)r, i);
                sums[i] += values[i]; // in the order of the ranks
            }
            to_device(&ranks->rank[r], ranks->rank[r].ctx->scratch.hidden, values, count * sizeof *values);
        }
        rig_must(ranks_run(ranks, reduce, (void *)&rows[s], &err), &err);
        bool exact = true;
        double worst = 0;
        float *first = malloc(count * sizeof *first);
        for (int32_t r = 0; r < ranks->n; ++r) {
            from_device(&ranks->rank[r], r ? values : first, ranks->rank[r].ctx->scratch.hidden,
                        count * sizeof *values);
            if (r > 0) assert_memory_equal(first, values, count * sizeof *values);
        }
        for (size_t i = 0; i < count; ++i) {
            exact = exact && first[i] == sums[i];
            worst = fmax(worst, fabs((double)first[i] - (double)sums[i]));
        }
        if (worst > 1e-6 || (!exact && !ranks->ops->asynchronous))
            fail_msg("%d ranks, sum %d of %d rows is off by %g", ranks->n, s, rows[s], worst);
        free(first);
    }
    free(values);
    free(sums);
}

static void check_logits(struct ranks *ranks) {
    const int32_t n_samples = 3;
    size_t vocab = (size_t)whole.vocab;
    float *expected = malloc((size_t)n_samples * vocab * sizeof *expected);
    float *part = malloc((size_t)n_samples * vocab * sizeof *part);
    struct error err = {0};
    for (size_t i = 0; i < (size_t)n_samples * vocab; ++i) expected[i] = random_value(7, 0, i);
    for (int32_t r = 0; r < ranks->n; ++r) {
        const struct rank *rank = &ranks->rank[r];
        size_t columns = (size_t)shape_vocab_part(&rank->shape), first = (size_t)shape_vocab_first(&rank->shape);
        for (size_t i = 0; i < (size_t)n_samples; ++i)
            memcpy(part + i * columns, expected + i * vocab + first, columns * sizeof *part);
        to_device(rank, context_logits_part(rank->ctx), part, (size_t)n_samples * columns * sizeof *part);
    }
    rig_must(ranks_run(ranks, gather, (void *)&n_samples, &err), &err);
    from_device(&ranks->rank[0], part, ranks->rank[0].ctx->scratch.logits, (size_t)n_samples * vocab * sizeof *part);
    assert_memory_equal(part, expected, (size_t)n_samples * vocab * sizeof *part);
    free(expected);
    free(part);
}

static void check_tokens(struct ranks *ranks) {
    for (int32_t round = 0; round < 3; ++round) {
        int32_t tokens[5] = {round, SAMPLED_NOT_FINITE, 7, 999, 3 * round}, got[5], others[5] = {0};
        struct error err = {0};
        for (int32_t r = 0; r < ranks->n; ++r)
            to_device(&ranks->rank[r], ranks->rank[r].ctx->scratch.sampled, r ? others : tokens, sizeof tokens);
        rig_must(ranks_run(ranks, share, NULL, &err), &err);
        for (int32_t r = 0; r < ranks->n; ++r) {
            from_device(&ranks->rank[r], got, ranks->rank[r].ctx->scratch.sampled, sizeof got);
            assert_memory_equal(got, tokens, sizeof tokens);
        }
    }
}

static void check_ranks(const struct backend_ops *ops, int32_t n) {
    struct ranks ranks;
    struct error err = {0};
    const int32_t rows[] = {1, 5, 1, 64, 3, 2100, 1, 512, 2, 2100, 5, 5};
    rig_must(ranks_init(&ranks, ops, n, &(struct device_options){.n_threads = n}, &err), &err);
    rig_must(ranks_run(&ranks, create, NULL, &err), &err);
    check_sums(&ranks, rows, sizeof rows / sizeof *rows);
    check_logits(&ranks);
    check_tokens(&ranks);
    check_sums(&ranks, rows, 5);
    ranks_finish(&ranks);
}

static void together_on_cpu(void **state) {
    (void)state;
    for (int32_t n = 2; n <= 4; ++n) check_ranks(cpu_backend(true), n);
}

static void together_on_cuda(void **state) {
    (void)state;
#ifdef QUERN_CUDA
    const struct backend_ops *ops = cuda_backend(true);
    int32_t n_devices = cuda_device_count();
    for (int32_t n = 2; n <= 4 && n <= n_devices && ops->ranks_join; ++n) check_ranks(ops, n);
    if (n_devices >= 2 && ops->ranks_join) return;
#endif
    skip();
}

static bool wait_in_vain(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    rank->ctx->batch.n_rows = 1;
    if (rank->slice.rank == rank->slice.n_ranks - 1) return fail(err, ERR_DEVICE, "it broke");
    return rank->ranks->ops->all_reduce(rank->ctx, err);
}

/* Nobody waits for ever for a rank that does not come. */
static void a_rank_that_stays_away_is_told_on_cpu(void **state) {
    (void)state;
    for (int32_t n = 2; n <= 4; ++n) {
        struct ranks ranks;
        struct error err = {0};
        rig_must(ranks_init(&ranks, cpu_backend(true), n, &(struct device_options){.n_threads = n}, &err), &err);
        rig_must(ranks_run(&ranks, create, NULL, &err), &err);
        assert_false(ranks_run(&ranks, wait_in_vain, NULL, &err));
        assert_int_equal(err.code, ERR_DEVICE);
        assert_non_null(strstr(err.message, "it broke"));
        assert_false(ranks_run(&ranks, reduce, (void *)&(const int32_t){1}, &err));
        ranks_finish(&ranks);
    }
}

/* A GPU's wait is over when the host has given the ranks up. */
static void a_rank_that_stays_away_is_told_on_cuda(void **state) {
    (void)state;
#ifdef QUERN_CUDA
    const struct backend_ops *ops = cuda_backend(true);
    if (ops->ranks_join && cuda_device_count() >= 2) {
        struct ranks ranks;
        struct error err = {0};
        const int32_t rows = 4;
        rig_must(ranks_init(&ranks, ops, 2, &(struct device_options){0}, &err), &err);
        rig_must(ranks_run(&ranks, create, NULL, &err), &err);
        rig_must(ranks_run(&ranks, reduce, (void *)&rows, &err), &err);
        assert_false(ranks_run(&ranks, wait_in_vain, NULL, &err));
        assert_non_null(strstr(err.message, "it broke"));
        assert_true(ops->synchronize(ranks.rank[0].device, &err));
        ranks_finish(&ranks);
        return;
    }
#endif
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together_on_cpu),
        cmocka_unit_test(together_on_cuda),
        cmocka_unit_test(a_rank_that_stays_away_is_told_on_cpu),
        cmocka_unit_test(a_rank_that_stays_away_is_told_on_cuda),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
