/* The demo models shared by 1, 2 and 4 ranks against what transformers says: ranks are groups of threads, or GPUs, as
 * many as there are. 4 ranks are more than its 2 KV heads. Sums of products are cut in 2 or 4, so that logits differ a
 * bit. */
#include "tests/test.h"

#include "cpu/cpu_backend.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/ranks.h"
#include "tests/model/demo.h"
#ifdef QUERN_CUDA
#include "cuda/cuda_backend.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PROMPT 256
#define MAX_STEPS  25 // of a case: longer ones are golden's
/* Of logits up to 32, between numbers of ranks: activations are rounded to bf16 for products, on a GPU also between. */
#define CPU_TOLERANCE  0.1
#define CUDA_TOLERANCE 0.5
#define MAX_LOGITS     4096

static struct model_config config;
static const struct demo_model *model; // whose this is
static const struct context_limits limits = {
    .max_rows = MAX_PROMPT, .max_seqs = 2, .max_blocks = 20, .block_size = 16, .n_blocks = 40};

static bool load(struct rank *rank, void *argument, struct error *err) {
    (void)argument;
    const struct weights_source source = {.ops = rank->ranks->ops,
                                          .device = rank->device,
                                          .shape = &config.shape,
                                          .slice = rank->slice,
                                          .folder = model->folder};
    if (!slice_shape(&rank->shape, &config.shape, rank->slice, err) || !weights_init(&rank->weights, &source, err))
        return false;
    rank->ctx = context_create(rank->ranks->ops, rank->device, &rank->shape, &limits, err);
    return rank->ctx != NULL;
}

static void open_ranks(struct ranks *ranks, const struct backend_ops *ops, int32_t n) {
    struct error err = {0};
    rig_must(ranks_init(ranks, ops, n, &(struct device_options){.n_threads = 2}, &err), &err);
    rig_must(ranks_run(ranks, load, NULL, &err), &err);
}

static void read_from(const struct rank *rank, void *to, const void *from, size_t bytes) {
    struct error err = {0};
    rig_must(rank->ranks->ops->copy_to_host(rank->device, to, from, bytes, &err), &err);
}

struct step {
    struct batch_sequence seqs[2];
    int32_t n_seqs;
};

static bool run(struct rank *rank, void *argument, struct error *err) {
    const struct step *step = argument;
    return context_prepare(rank->ctx, step->seqs, step->n_seqs, err) && model_forward(rank->ctx, &rank->weights, err);
}

/* Two sequences at once, in different blocks, with the same prompt: greedy tokens, and the logits of the first. */
static int32_t generate(struct ranks *ranks, const int32_t *prompt, int32_t n_prompt, int32_t n_new, int32_t *tokens,
                        float *logits) {
    int32_t blocks[2][20], n_tokens = 0;
    for (int32_t b = 0; b < 20; ++b) blocks[0][b] = 2 * b, blocks[1][b] = 39 - 2 * b;
    const struct rank *first = &ranks->rank[0];
    while (n_tokens < n_new) {
        struct error err = {0};
        struct step step = {.n_seqs = 2};
        const int32_t look_ahead[2] = {-1, -2}; // the others learn the tokens from the first rank
        for (int32_t s = 0; s < 2; ++s)
            step.seqs[s] = (struct batch_sequence){.tokens = n_tokens ? &look_ahead[s] : prompt,
                                                   .start = n_tokens ? n_prompt + n_tokens - 1 : 0,
                                                   .n_rows = n_tokens ? 1 : n_prompt / 2,
                                                   .blocks = blocks[s],
                                                   .n_blocks = 20,
                                                   .sample = n_tokens > 0};
        rig_must(ranks_run(ranks, run, &step, &err), &err);
        if (n_tokens == 0) { // the second half of the prompt
            for (int32_t s = 0; s < 2; ++s) {
                step.seqs[s].tokens = prompt + n_prompt / 2;
                step.seqs[s].start = n_prompt / 2;
                step.seqs[s].n_rows = n_prompt - n_prompt / 2;
                step.seqs[s].sample = true;
            }
            rig_must(ranks_run(ranks, run, &step, &err), &err);
            read_from(first, logits, first->ctx->scratch.logits, (size_t)config.shape.vocab * sizeof *logits);
        }
        int32_t sampled[2];
        read_from(first, sampled, first->ctx->scratch.sampled, sizeof sampled);
        assert_int_equal(sampled[0], sampled[1]);
        tokens[n_tokens++] = sampled[0];
        for (int32_t i = 0; i < config.n_eos_ids; ++i)
            if (tokens[n_tokens - 1] == config.eos_ids[i]) return n_tokens;
    }
    return n_tokens;
}

/* The residual stream of all ranks has the same bits. */
static void assert_ranks_agree(const struct ranks *ranks) {
    size_t bytes = 2 * (size_t)config.shape.hidden * sizeof(float);
    float *first = malloc(bytes), *other = malloc(bytes);
    for (int32_t r = 0; r < ranks->n; ++r) {
        read_from(&ranks->rank[r], r ? other : first, ranks->rank[r].ctx->scratch.hidden, bytes);
        if (r > 0) assert_memory_equal(first, other, bytes);
    }
    free(first);
    free(other);
}

static void check_case(struct ranks *ranks, const cJSON *one, const int32_t *prompt, int32_t n_prompt, float *logits) {
    const cJSON *steps = cJSON_GetObjectItem(one, "steps");
    int32_t n_steps = cJSON_GetArraySize(steps), tokens[MAX_STEPS];
    assert_int_equal(generate(ranks, prompt, n_prompt, n_steps, tokens, logits), n_steps);
    for (int32_t t = 0; t < n_steps; ++t) {
        int32_t expected = cJSON_GetObjectItem(cJSON_GetArrayItem(steps, t), "token")->valueint;
        if (tokens[t] != expected)
            fail_msg("%d ranks: %s token %d is %d, expected %d", ranks->n,
                     cJSON_GetObjectItem(one, "name")->valuestring, t, tokens[t], expected);
    }
    assert_ranks_agree(ranks);
}

static void check_ranks(const struct backend_ops *ops, int n_powers, const struct demo_model *of) {
    cJSON *golden = read_json(of->golden), *one;
    struct ranks ranks[3];
    float logits[3][MAX_LOGITS];
    double worst = 0;
    int32_t n_cases = 0;
    model = of;
    rig_must(model_config_load(&config, model->folder, NULL), &(struct error){0});
    assert_true(config.shape.vocab <= MAX_LOGITS);
    for (int i = 0; i < n_powers; ++i) open_ranks(&ranks[i], ops, 1 << i);
    cJSON_ArrayForEach(one, golden) {
        int32_t n_prompt, *prompt = json_ids(cJSON_GetObjectItem(one, "prompt_ids"), &n_prompt);
        bool is_short = n_prompt <= MAX_PROMPT && cJSON_GetArraySize(cJSON_GetObjectItem(one, "steps")) <= MAX_STEPS;
        n_cases += is_short;
        for (int i = 0; i < n_powers && is_short; ++i) {
            check_case(&ranks[i], one, prompt, n_prompt, logits[i]);
            for (int32_t v = 0; v < config.shape.vocab; ++v)
                worst = fmax(worst, fabs((double)logits[i][v] - (double)logits[0][v]));
        }
        free(prompt);
    }
    print_message("# %s: %s, %d cases with up to %d ranks, first logits differ by at most %g\n", ops->name, model->name,
                  n_cases, 1 << (n_powers - 1), worst);
    assert_true(n_cases >= 10 && worst <= (ops->asynchronous ? CUDA_TOLERANCE : CPU_TOLERANCE) && worst > 0);
    for (int i = 0; i < n_powers; ++i) ranks_finish(&ranks[i]);
    cJSON_Delete(golden);
}

static void check_both(const struct backend_ops *ops, int n_powers) {
    check_ranks(ops, n_powers, &demo_dense);
    check_ranks(ops, n_powers, &demo_experts);
}

static void threads_generate_what_one_rank_does(void **state) {
    (void)state;
    check_both(cpu_backend(true), 3);
}

static void gpus_generate_what_one_does(void **state) {
    (void)state;
#ifdef QUERN_CUDA
    const struct backend_ops *ops = cuda_backend(true);
    if (ops->ranks_join && cuda_device_count() >= 2) {
        check_both(ops, cuda_device_count() >= 4 ? 3 : 2);
        return;
    }
#endif
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_generate_what_one_rank_does),
        cmocka_unit_test(gpus_generate_what_one_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
