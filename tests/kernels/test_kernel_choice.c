/* Which kernel computes a row depends on how many rows share the step (1, 16, 17, 64, 512 …) and on the sizes of the
 * model. A row's result must not: alone or in company it has the same bits, unless a library made it. */
#include "tests/kernels/reference.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#define ROW_CONTENT  7
#define ROW_POSITION 37
#define MAX_COMPANY  600

/* What the ops make of one row, copied from the step's outputs. */
struct row_results {
    float *q, *key, *value; // rmsnorm_qkv
    float *output;          // attention_output
    float *mlp;
    float *logits;
};

static float *part(const float *from, size_t first, size_t count) {
    float *copy = malloc(count * sizeof *copy);
    assert_non_null(copy);
    return memcpy(copy, from + first, count * sizeof *copy);
}

/* Row `row` of a [n_rows][columns] activation. */
static float *read_row(const struct rig *rig, const void *data, enum dtype dtype, int32_t row, int32_t columns) {
    float *all = rig_read(rig, data, dtype, (size_t)(row + 1) * (size_t)columns);
    float *values = part(all, (size_t)row * (size_t)columns, (size_t)columns);
    free(all);
    return values;
}

static float *read_cached(const struct rig *rig, int32_t which) {
    float *plane = rig_read_kv(rig, 1, which);
    float *values = part(plane, rig_kv_index(rig, 0, ROW_POSITION, 0), (size_t)rig->shape.head_dim);
    free(plane);
    return values;
}

static void results_finish(struct row_results *results) {
    free(results->q);
    free(results->key);
    free(results->value);
    free(results->output);
    free(results->mlp);
    free(results->logits);
}

/* Runs the ops with the row first, `company` other rows behind it. */
static struct row_results run_in_company(struct rig *rig, int32_t company) {
    const struct backend_ops *ops = rig->target->ops;
    const struct context *ctx = rig->ctx;
    struct error err = {0};
    struct rig_sequence seqs[2] = {
        {.content = ROW_CONTENT, .start = ROW_POSITION, .n_rows = 1, .sample = true},
        {.content = 8, .start = 3, .n_rows = company, .sample = true},
    };
    struct row_results results = {0};
    enum dtype act = ops->activation_dtype;
    rig_prepare(rig, seqs, company > 0 ? 2 : 1, false);
    rig_fill_hidden(rig);
    rig_must(ops->rmsnorm_qkv(ctx, &rig->weights, 1, &err), &err);
    results.q = read_row(rig, ctx->scratch.q, act, 0, shape_q_columns(&rig->shape));
    results.key = read_cached(rig, 0);
    results.value = read_cached(rig, 1);

    rig_fill_attention(rig);
    rig_must(ops->attention_output(ctx, &rig->weights, 1, &err), &err);
    results.output = read_row(rig, ctx->scratch.hidden, DTYPE_F32, 0, rig->shape.hidden);
    rig_fill_hidden(rig);
    rig_must(ops->mlp(ctx, &rig->weights, 1, &err), &err);
    results.mlp = read_row(rig, ctx->scratch.hidden, DTYPE_F32, 0, rig->shape.hidden);
    rig_must(ops->lm_head(ctx, &rig->weights, &err), &err);
    results.logits = read_row(rig, ctx->scratch.logits, DTYPE_F32, 0, rig->shape.vocab);
    return results;
}

static void check_company(const struct target *target) {
    static const int32_t companies[] = {1, 7, 8, 15, 16, 17, 63, 64, 127, 511, 512, MAX_COMPANY};
    struct rig_options options = rig_defaults();
    options.limits.max_rows = 1 + MAX_COMPANY;
    options.limits.max_blocks = 48;
    struct rig *rig = rig_create(target, &options);
    struct row_results alone = run_in_company(rig, 0);
    size_t q_bytes = (size_t)shape_q_columns(&rig->shape) * sizeof(float);
    size_t head_bytes = (size_t)rig->shape.head_dim * sizeof(float);
    size_t hidden_bytes = (size_t)rig->shape.hidden * sizeof(float);
    for (size_t i = 0; i < sizeof companies / sizeof *companies; ++i) {
        struct row_results together = run_in_company(rig, companies[i]);
        assert_memory_equal(alone.q, together.q, q_bytes);
        assert_memory_equal(alone.key, together.key, head_bytes);
        assert_memory_equal(alone.value, together.value, head_bytes);
        assert_memory_equal(alone.output, together.output, hidden_bytes);
        assert_memory_equal(alone.mlp, together.mlp, hidden_bytes);
        assert_memory_equal(alone.logits, together.logits, (size_t)rig->shape.vocab * sizeof(float));
        results_finish(&together);
    }
    results_finish(&alone);
    rig_destroy(rig);
}

static void row_is_the_same_in_company(void **state) {
    on_targets(state, check_company);
}

/* Enough lines of gate and up to fill a GPU with 65 and more rows: one kernel, whose tiles depend on the number of
 * rows. What it activates is looked at, since a library makes the other products of so many rows. */
static void check_company_of_many_outputs(const struct target *target) {
    static const int32_t companies[] = {64, 100, 127, 223, 255};
    struct rig_options options = rig_defaults();
    options.shape.hidden = 384;
    options.shape.intermediate = 5640;
    options.limits.max_rows = 256;
    options.limits.max_blocks = 48;
    struct rig *rig = rig_create(target, &options);
    float *first = NULL;
    for (size_t i = 0; i < sizeof companies / sizeof *companies; ++i) {
        struct row_results results = run_in_company(rig, companies[i]);
        float *activated =
            read_row(rig, rig->ctx->scratch.activated, target->ops->activation_dtype, 0, rig->shape.intermediate);
        if (first) assert_memory_equal(first, activated, (size_t)rig->shape.intermediate * sizeof(float));
        if (first)
            free(activated);
        else
            first = activated;
        results_finish(&results);
    }
    free(first);
    rig_destroy(rig);
}

static void row_is_the_same_with_many_outputs(void **state) {
    on_targets(state, check_company_of_many_outputs);
}

/* The last row of a chunk that begins at start. */
static float *attend_last_row(struct rig *rig, int32_t start, int32_t position) {
    struct error err = {0};
    struct rig_sequence seq = {.content = ROW_CONTENT, .start = start, .n_rows = position + 1 - start};
    rig_prepare(rig, &seq, 1, true);
    rig_fill_q(rig);
    rig_must(rig->target->ops->paged_attention(rig->ctx, 0, &err), &err);
    return read_row(rig, rig->ctx->scratch.attention, rig->target->ops->activation_dtype, seq.n_rows - 1,
                    shape_q_columns(&rig->shape));
}

static void check_chunks(const struct target *target) {
    static const int32_t positions[] = {1, 15, 63, 64, 65, 127, 128, 200};
    struct rig_options options = rig_defaults();
    options.limits.max_rows = 256;
    struct rig *rig = rig_create(target, &options);
    for (size_t i = 0; i < sizeof positions / sizeof *positions; ++i) {
        int32_t position = positions[i];
        float *whole = attend_last_row(rig, 0, position);
        int32_t starts[] = {position - 1, position / 2, position > 64 ? position - 63 : 0};
        for (size_t s = 0; s < sizeof starts / sizeof *starts; ++s) {
            float *chunk = attend_last_row(rig, starts[s], position);
            assert_memory_equal(whole, chunk, (size_t)shape_q_columns(&rig->shape) * sizeof(float));
            free(chunk);
        }
        free(whole);
    }
    rig_destroy(rig);
}

static void attention_is_the_same_in_any_chunk(void **state) {
    on_targets(state, check_chunks);
}

/* Products of 2048 x 2048 and more than 16 rows go to the library. */
static void check_large_products(const struct target *target) {
    struct rig_options options = rig_defaults();
    struct error err = {0};
    options.shape.n_layers = 1;
    options.shape.hidden = 2048;
    options.shape.n_heads = 16;
    options.shape.intermediate = 1056;
    struct rig *rig = rig_create(target, &options);
    struct rig_sequence seq = {.content = ROW_CONTENT, .start = 0, .n_rows = 21};
    size_t count = (size_t)seq.n_rows * (size_t)rig->shape.hidden;
    rig_prepare(rig, &seq, 1, false);

    rig_fill_hidden(rig);
    rig_fill_attention(rig);
    float *hidden = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
    float *attention = rig_read(rig, rig->ctx->scratch.attention, target->ops->activation_dtype, count);
    double *expected = reference_attention_output(rig, 0, hidden, attention);
    rig_must(target->ops->attention_output(rig->ctx, &rig->weights, 0, &err), &err);
    float *got = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
    check_error(target, "attention_output", relative_error(got, expected, count), target->matrix_tolerance);
    free(expected);
    free(got);

    rig_fill_hidden(rig);
    expected = reference_mlp(rig, 0, hidden, NULL);
    rig_must(target->ops->mlp(rig->ctx, &rig->weights, 0, &err), &err);
    got = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
    check_error(target, "mlp", relative_error(got, expected, count), 2 * target->matrix_tolerance);
    free(expected);
    free(got);
    free(hidden);
    free(attention);
    rig_destroy(rig);
}

static void large_products_are_right(void **state) {
    on_targets(state, check_large_products);
}

/* What a product leaves for the norm that follows, up to 64 rows on a GPU with wgmma: each op against its reference on
 * what the one before has left, with no copy between, after which nothing is taken for granted. */
static void check_ops_in_a_row(const struct target *target) {
    static const int32_t n_rows[] = {1, 8, 9, 33, 64};
    struct rig_options options = rig_defaults();
    struct error err = {0};
    options.shape.n_layers = 2;
    options.shape.hidden = 1024;
    options.shape.n_heads = 16;
    options.shape.intermediate = 2048;
    struct rig *rig = rig_create(target, &options);
    for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; ++i) {
        struct rig_sequence seq = {.content = ROW_CONTENT, .start = 0, .n_rows = n_rows[i]};
        size_t rows = (size_t)n_rows[i], count = rows * (size_t)rig->shape.hidden;
        size_t q_count = rows * (size_t)shape_q_columns(&rig->shape);
        rig_prepare(rig, &seq, 1, false);
        rig_fill_hidden(rig);
        rig_fill_attention(rig);
        rig_must(target->ops->attention_output(rig->ctx, &rig->weights, 0, &err), &err);
        float *x = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
        double *expected = reference_mlp(rig, 0, x, NULL);
        rig_must(target->ops->mlp(rig->ctx, &rig->weights, 0, &err), &err);
        free(x);
        x = rig_read(rig, rig->ctx->scratch.hidden, DTYPE_F32, count);
        check_error(target, "mlp in a row", relative_error(x, expected, count), 2 * target->matrix_tolerance);
        struct reference_qkv qkv = reference_rmsnorm_qkv(rig, 1, x);
        rig_must(target->ops->rmsnorm_qkv(rig->ctx, &rig->weights, 1, &err), &err);
        float *q = rig_read(rig, rig->ctx->scratch.q, target->ops->activation_dtype, q_count);
        check_error(target, "q in a row", relative_error(q, qkv.q, q_count), target->matrix_tolerance);
        reference_qkv_finish(&qkv);
        free(expected);
        free(x);
        free(q);
    }
    rig_destroy(rig);
}

static void ops_in_a_row_are_right(void **state) {
    on_targets(state, check_ops_in_a_row);
}

/* Keys are split every 256 tokens, and every 512 where the partial results of max_seqs sequences would take more than
 * 256 MB. */
static void check_long_context(const struct target *target, int32_t max_seqs) {
    static const int32_t lengths[] = {256, 257, 512, 513, 5000, 20480};
    struct rig_options options = rig_defaults();
    struct error err = {0};
    options.shape.n_layers = 1;
    options.shape.n_heads = 8;
    options.shape.n_kv_heads = 1;
    options.limits = (struct context_limits){
        .max_rows = max_seqs, .max_seqs = max_seqs, .max_blocks = 80, .block_size = 256, .n_blocks = 128};
    struct rig *rig = rig_create(target, &options);
    size_t columns = (size_t)shape_q_columns(&rig->shape);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; ++i) {
        struct rig_sequence seqs[2] = {{.content = ROW_CONTENT, .start = 99, .n_rows = 1},
                                       {.content = 8, .start = lengths[i] - 1, .n_rows = 1}};
        rig_prepare(rig, seqs, 2, true);
        rig_fill_q(rig);
        float *q = rig_read(rig, rig->ctx->scratch.q, target->ops->activation_dtype, 2 * columns);
        float *keys = rig_read_kv(rig, 0, 0), *values = rig_read_kv(rig, 0, 1);
        double *expected = reference_attention(rig, q, keys, values);
        rig_must(target->ops->paged_attention(rig->ctx, 0, &err), &err);
        float *got = rig_read(rig, rig->ctx->scratch.attention, target->ops->activation_dtype, 2 * columns);
        check_error(target, "long attention", relative_error(got, expected, 2 * columns), target->attention_tolerance);
        free(q);
        free(keys);
        free(values);
        free(expected);
        free(got);
    }
    rig_destroy(rig);
}

static void check_short_splits(const struct target *target) {
    check_long_context(target, 16);
}
static void check_long_splits(const struct target *target) {
    check_long_context(target, 1024);
}

static void long_context_is_right(void **state) {
    on_targets(state, check_short_splits);
    on_targets(state, check_long_splits);
}

#define LARGE_VOCAB 151936

/* Logits of a large vocabulary: as a model makes them; all within one; of few different values. */
static void fill_logits(float *logits, int32_t kind) {
    for (int32_t i = 0; i < LARGE_VOCAB; ++i) {
        float a = random_value(3, 1, (uint64_t)i), b = random_value(3, 2, (uint64_t)i);
        float c = random_value(3, 3, (uint64_t)i);
        logits[i] = kind == 0 ? 4 * (a + b + c) + (a > 0.9999f ? 12 : 0) : kind == 1 ? a : (float)(int32_t)(3 * a);
    }
}

/* What may be chosen fits a short list, or does not. */
static void check_large_vocab(const struct target *target) {
    static const struct sampling_params params[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1, .seed = 1},
        {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20, .seed = 2},
        {.temperature = 1, .top_p = 0.9f, .seed = 3},
        {.temperature = 2, .top_p = 0.999f, .seed = 4},
        {.temperature = 1, .top_p = 1, .top_k = 50000, .min_p = 0.3f, .seed = 5},
        {.temperature = 0.1f, .top_p = 0.5f, .top_k = 151000, .seed = 6},
    };
    enum { N_PARAMS = sizeof params / sizeof *params };
    struct rig_options options = rig_defaults();
    struct error err = {0};
    options.shape.n_layers = 1;
    options.shape.hidden = 64;
    options.shape.vocab = LARGE_VOCAB;
    struct rig *rig = rig_create(target, &options);
    float *logits = malloc((size_t)LARGE_VOCAB * sizeof *logits);
    assert_non_null(logits);
    struct rig_sequence seqs[N_PARAMS] = {0};
    for (int32_t i = 0; i < N_PARAMS; ++i)
        seqs[i] = (struct rig_sequence){.content = 1, .start = i, .n_rows = 1, .sample = true, .sampling = params[i]};
    rig_prepare(rig, seqs, N_PARAMS, false);
    for (int32_t kind = 0; kind < 3; ++kind) {
        int32_t sampled[N_PARAMS];
        fill_logits(logits, kind);
        for (int32_t i = 0; i < N_PARAMS; ++i)
            rig_write(rig, rig->ctx->scratch.logits + (size_t)i * LARGE_VOCAB, DTYPE_F32, logits, LARGE_VOCAB);
        rig_must(target->ops->sample(rig->ctx, &err), &err);
        rig_must(target->ops->copy_to_host(target->device, sampled, rig->ctx->scratch.sampled, sizeof sampled, &err),
                 &err);
        for (int32_t i = 0; i < N_PARAMS; ++i)
            assert_int_equal(sampled[i], reference_sample(logits, LARGE_VOCAB, &params[i], i + 1, NULL));
    }
    free(logits);
    rig_destroy(rig);
}

static void large_vocabularies_are_sampled(void **state) {
    on_targets(state, check_large_vocab);
}

static void check_refusal(const struct target *target) {
    struct context_limits limits = rig_defaults().limits;
    bool is_cuda = strcmp(target->ops->name, "cuda") == 0;
    const struct {
        const char *named;
        size_t field;
        int32_t value;
        bool cuda_only;
    } cases[] = {
        {"head_dim is 72", offsetof(struct model_shape, head_dim), 72, false},
        {"head_dim is 96", offsetof(struct model_shape, head_dim), 96, true},
        {"hidden_size is 188", offsetof(struct model_shape, hidden), 188, true},
        {"intermediate_size is 356", offsetof(struct model_shape, intermediate), 356, true},
        {"vocab_size is 1001", offsetof(struct model_shape, vocab), 1001, true},
        {"moe_intermediate_size is 36", offsetof(struct model_shape, expert_intermediate), 36, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        if (cases[i].cuda_only && !is_cuda) continue;
        struct model_shape shape = rig_defaults().shape;
        *(int32_t *)(void *)((char *)&shape + cases[i].field) = cases[i].value;
        struct error err = {0};
        assert_null(context_create(target->ops, target->device, &shape, &limits, &err));
        assert_int_equal(err.code, ERR_INVALID);
        if (!strstr(err.message, cases[i].named)) fail_msg("%s: no \"%s\"", err.message, cases[i].named);
    }
}

static void unsupported_shapes_are_refused(void **state) {
    on_targets(state, check_refusal);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("a row is the same alone and in company", row_is_the_same_in_company),
        {"a row is the same with many outputs on cuda", row_is_the_same_with_many_outputs, NULL, NULL, (void *)"cuda"},
        ON_EVERY_BACKEND("attention is the same in any chunk", attention_is_the_same_in_any_chunk),
        ON_EVERY_BACKEND("large products", large_products_are_right),
        {"ops in a row on cuda", ops_in_a_row_are_right, NULL, NULL, (void *)"cuda"},
        ON_EVERY_BACKEND("long contexts", long_context_is_right),
        ON_EVERY_BACKEND("large vocabularies", large_vocabularies_are_sampled),
        ON_EVERY_BACKEND("unsupported shapes are refused", unsupported_shapes_are_refused),
    };
    return cmocka_run_group_tests_name("kernel_choice", tests, NULL, NULL);
}
