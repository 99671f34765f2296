/* Alone equals together: a sequence's tokens do not depend on who shares its batch, on chunks, on preemption, on the
 * prefix cache, on the engine planning a step ahead, or on recorded steps. Bit-identical logits on the CPU; on CUDA
 * equal tokens unless two scores are nearly equal (NEAR_SCORES), and the difference of logits is printed. */
#include "tests/test.h"

#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/sampling.h"
#include "tests/model/demo.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define N_REQUESTS 64
#define N_NEW      32

/* 64 prompts of 4 to about 880 tokens: the golden prompts, whole and cut. */
struct prompts {
    int32_t *ids[N_REQUESTS];
    int32_t count[N_REQUESTS];
};

static struct prompts read_prompts(void) {
    struct prompts prompts;
    cJSON *golden = read_json(demo_dense.golden);
    int n_cases = cJSON_GetArraySize(golden);
    for (int i = 0; i < N_REQUESTS; ++i) {
        const cJSON *one = cJSON_GetArrayItem(golden, i % n_cases);
        prompts.ids[i] = json_ids(cJSON_GetObjectItem(one, "prompt_ids"), &prompts.count[i]);
        int32_t cut = prompts.count[i] - i / n_cases * (prompts.count[i] / 4);
        prompts.count[i] = cut < 4 ? 4 : cut;
    }
    cJSON_Delete(golden);
    return prompts;
}

static void free_prompts(struct prompts *prompts) {
    for (int i = 0; i < N_REQUESTS; ++i) free(prompts->ids[i]);
}

/* --- logits ----------------------------------------------------------------------------------------------------- */

static void fill_traces(struct trace *traces, const struct prompts *prompts) {
    for (int i = 0; i < N_REQUESTS; ++i)
        traces[i] = (struct trace){.prompt = prompts->ids[i], .n_prompt = prompts->count[i], .n_new = N_NEW};
}

static void check_logits_of(const struct target *target, const struct demo_model *model) {
    struct prompts prompts = read_prompts();
    struct context_limits limits = {.max_rows = 1024, .max_seqs = N_REQUESTS, .block_size = 16};
    struct demo *demo = demo_open(target, model, limits, 1024);
    size_t vocab = (size_t)demo->config.shape.vocab;
    bool exact = target->ops->kv_dtype == DTYPE_F32; // the CPU backend
    struct trace *together = calloc(N_REQUESTS, sizeof *together), *alone = calloc(N_REQUESTS, sizeof *alone);
    fill_traces(together, &prompts);
    fill_traces(alone, &prompts);
    demo_generate(demo, together, N_REQUESTS, 100);
    double worst = 0;
    for (int i = 0; i < N_REQUESTS; ++i) {
        demo_generate(demo, &alone[i], 1, 960);
        assert_int_equal(alone[i].n_tokens, together[i].n_tokens);
        for (int32_t t = 0; t < alone[i].n_tokens; ++t) {
            const float *a = alone[i].logits + (size_t)t * vocab, *b = together[i].logits + (size_t)t * vocab;
            for (size_t v = 0; v < vocab; ++v) worst = fmax(worst, fabs((double)a[v] - (double)b[v]));
            if (alone[i].tokens[t] != together[i].tokens[t])
                fail_msg("%s: request %d token %d: %d alone, %d together, logits differ by up to %g", target->label, i,
                         t, alone[i].tokens[t], together[i].tokens[t], worst);
        }
        if (exact) assert_memory_equal(alone[i].logits, together[i].logits, (size_t)alone[i].n_tokens * vocab * 4);
        traces_free(&alone[i], 1);
    }
    print_message("# %s, %s: 64 requests alone and together, logits differ by at most %g\n", target->label, model->name,
                  worst);
    traces_free(together, N_REQUESTS);
    free(together);
    free(alone);
    demo_close(demo);
    free_prompts(&prompts);
}

static void check_logits(const struct target *target) {
    check_logits_of(target, &demo_dense);
}

/* The MLP is the same with both forms of rmsnorm_qkv. */
static void check_logits_with_experts(const struct target *target) {
    if (target->fused) check_logits_of(target, &demo_experts);
}

/* --- the engine ------------------------------------------------------------------------------------------------- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t id;
    int32_t tokens[N_NEW];
    int32_t n_tokens;
    bool finished;
    struct engine_event end;
};

static void listen(void *user, const struct engine_event *event) {
    struct answer *answer = user;
    pthread_mutex_lock(&answer->lock);
    if (event->kind == ENGINE_TOKEN) {
        answer->tokens[answer->n_tokens++] = event->token;
        pthread_cond_signal(&answer->changed);
    } else {
        answer->end = *event;
        answer->finished = true;
        pthread_cond_signal(&answer->changed);
    }
    pthread_mutex_unlock(&answer->lock);
}

static bool is_sampled(int i) {
    return i % 2 == 1;
}

/* Half greedy, half sampled with a fixed seed. */
static void start_with(struct engine *engine, struct answer *answer, const struct prompts *prompts, int i,
                       float temperature) {
    *answer = (struct answer){.n_tokens = 0};
    pthread_mutex_init(&answer->lock, NULL);
    pthread_cond_init(&answer->changed, NULL);
    struct engine_request request = {
        .prompt = prompts->ids[i],
        .n_prompt = prompts->count[i],
        .max_new_tokens = N_NEW,
        .sampling = {.temperature = temperature, .top_p = 0.95f, .top_k = 20, .seed = (uint64_t)i},
        .listener = listen,
        .user = answer,
    };
    struct error err = {0};
    rig_must(engine_submit(engine, &request, &answer->id, &err), &err);
}

static void start(struct engine *engine, struct answer *answer, const struct prompts *prompts, int i) {
    start_with(engine, answer, prompts, i, is_sampled(i) ? 1.0f : 0.0f);
}

static void wait_for(struct answer *answer) {
    pthread_mutex_lock(&answer->lock);
    while (!answer->finished) pthread_cond_wait(&answer->changed, &answer->lock);
    pthread_mutex_unlock(&answer->lock);
    if (answer->end.reason == FINISH_ERROR) fail_msg("a request failed: %s", answer->end.error.message);
}

static void wait_for_tokens(struct answer *answer, int32_t n_tokens) {
    pthread_mutex_lock(&answer->lock);
    while (!answer->finished && answer->n_tokens < n_tokens) pthread_cond_wait(&answer->changed, &answer->lock);
    pthread_mutex_unlock(&answer->lock);
}

/* With ops other than the target's to run the same device in another way; NULL: its own. */
static struct engine_options options_of(const struct target *target, size_t kv_bytes, bool prefix_cache,
                                        const struct backend_ops *ops) {
    return (struct engine_options){
        .ops = ops ? ops : target->ops,
        .graphs = ops == NULL,
        .model_folder = demo_dense.folder,
        .n_threads = 2,
        .cpu_isa = target->cpu_isa,
        .block_size = 16,
        .kv_bytes = kv_bytes,
        .memory_share = 0.5,
        .max_seqs = N_REQUESTS,
        .max_batch_tokens = 256,
        .max_model_len = 1024,
        .max_queue = N_REQUESTS,
        .prefix_cache = prefix_cache,
    };
}

static struct engine *start_engine(const struct target *target, size_t kv_bytes, bool prefix_cache,
                                   const struct backend_ops *ops) {
    struct engine_options options = options_of(target, kv_bytes, prefix_cache, ops);
    struct error err = {0};
    struct engine *engine = engine_create(&options, &err);
    rig_must(engine != NULL, &err);
    return engine;
}

static void run_all(struct engine *engine, const struct prompts *prompts, struct answer *answers, bool at_once) {
    for (int i = 0; i < N_REQUESTS; ++i) {
        start(engine, &answers[i], prompts, i);
        if (!at_once) wait_for(&answers[i]);
    }
    for (int i = 0; i < N_REQUESTS; ++i) wait_for(&answers[i]);
}

/* On CUDA the logits of a row may differ by up to 0.06 with its company, 0.08 in the separate form: where the two best
 * scores, or of a greedy request the logits, are nearer than twice that another token may be chosen. On the CPU never.
 */
#define NEAR_SCORES 0.12

static bool equal_answers(const struct answer *a, const struct answer *b) {
    return a->n_tokens == b->n_tokens && a->end.reason == b->end.reason &&
           memcmp(a->tokens, b->tokens, (size_t)a->n_tokens * sizeof(int32_t)) == 0;
}

/* How far apart the scores (engine/sampling.h) of the first two tokens that differ are, from the logits after what is
 * common to both; infinity when no token differs. */
static double gap_of_draws(const struct target *target, const struct prompts *prompts, int i, bool sampled,
                           const struct answer *a, const struct answer *b) {
    int32_t common = 0, n_prompt = prompts->count[i];
    while (common < a->n_tokens && common < b->n_tokens && a->tokens[common] == b->tokens[common]) common++;
    if (common == a->n_tokens || common == b->n_tokens) return INFINITY;
    int32_t *ids = calloc((size_t)(n_prompt + common), sizeof *ids);
    memcpy(ids, prompts->ids[i], (size_t)n_prompt * sizeof *ids);
    memcpy(ids + n_prompt, a->tokens, (size_t)common * sizeof *ids);
    struct trace trace = {.prompt = ids, .n_prompt = n_prompt + common, .n_new = 1};
    struct demo *demo = demo_open(target, &demo_dense,
                                  (struct context_limits){.max_rows = 1024, .max_seqs = 1, .block_size = 16}, 1024);
    demo_generate(demo, &trace, 1, 1024);
    double score[2];
    for (int k = 0; k < 2; ++k) {
        int32_t token = (k == 0 ? a : b)->tokens[common];
        score[k] = trace.logits[token];
        if (sampled) score[k] += sampling_gumbel((uint64_t)i, (uint32_t)token, (uint32_t)trace.n_prompt);
    }
    demo_close(demo);
    traces_free(&trace, 1);
    free(ids);
    return fabs(score[0] - score[1]);
}

static void assert_same_or_near(const struct target *target, const char *what, const struct prompts *prompts, int i,
                                bool sampled, const struct answer *alone, const struct answer *got) {
    if (equal_answers(alone, got)) return;
    bool exact = target->ops->kv_dtype == DTYPE_F32; // the CPU backend
    if (exact) fail_msg("%s: %s: request %d got other tokens than alone", target->label, what, i);
    double gap = gap_of_draws(target, prompts, i, sampled, alone, got);
    print_message("# %s: %s: request %d goes on otherwise where scores are %g apart\n", target->label, what, i, gap);
    if (!(gap <= NEAR_SCORES)) fail_msg("%s: %s: request %d got other tokens than alone", target->label, what, i);
}

static void assert_same_answer(const struct target *target, const char *what, const struct prompts *prompts, int i,
                               const struct answer *alone, const struct answer *got) {
    assert_same_or_near(target, what, prompts, i, is_sampled(i), alone, got);
}

static void assert_same(const struct target *target, const char *what, const struct prompts *prompts,
                        const struct answer *alone, const struct answer *got) {
    for (int i = 0; i < N_REQUESTS; ++i) assert_same_answer(target, what, prompts, i, &alone[i], &got[i]);
}

/* All at once, every eighth cancelled on its way: the others must not notice. */
static void run_with_cancels(const struct target *target, struct engine *engine, const struct prompts *prompts,
                             struct answer *answers, const struct answer *alone) {
    for (int i = 0; i < N_REQUESTS; ++i) start(engine, &answers[i], prompts, i);
    for (int i = 0; i < N_REQUESTS; i += 8) {
        wait_for_tokens(&answers[i], i / 8);
        engine_cancel(engine, answers[i].id);
    }
    for (int i = 0; i < N_REQUESTS; ++i) {
        wait_for(&answers[i]);
        struct answer expected = alone[i];
        if (answers[i].end.reason == FINISH_CANCELLED) { // what came until then
            expected.end.reason = FINISH_CANCELLED;
            if (answers[i].n_tokens < expected.n_tokens) expected.n_tokens = answers[i].n_tokens;
        }
        assert_same_answer(target, "with cancellations", prompts, i, &expected, &answers[i]);
    }
}

/* The same device with the engine ahead of it where it was not, and step by step without recordings where it was. */
static void check_other_way(const struct target *target, const struct prompts *prompts, const struct answer *alone,
                            size_t token_bytes) {
    struct backend_ops ops = *target->ops;
    ops.asynchronous = !ops.asynchronous;
    struct answer *got = calloc(N_REQUESTS, sizeof *got);
    struct engine *engine = start_engine(target, 1024 * token_bytes, true, &ops);
    run_all(engine, prompts, got, true);
    assert_same(target, ops.asynchronous ? "a step ahead" : "step by step", prompts, alone, got);
    run_with_cancels(target, engine, prompts, got, alone);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_true(stats.preemptions > 0 && stats.prefix_hits > 0);
    assert_true(stats.finished[FINISH_CANCELLED] > 0 && stats.finished[FINISH_STOP] > 0);
    engine_destroy(engine);
    free(got);
}

static void check_engine(const struct target *target) {
    struct prompts prompts = read_prompts();
    struct answer *alone = calloc(N_REQUESTS, sizeof *alone), *got = calloc(N_REQUESTS, sizeof *got);
    struct engine_stats stats;
    struct engine *engine = start_engine(target, 0, false, NULL);
    run_all(engine, &prompts, alone, false);
    run_all(engine, &prompts, got, true);
    assert_same(target, "together", &prompts, alone, got);
    size_t token_bytes = engine_info(engine)->kv_token_bytes;
    engine_destroy(engine);

    engine = start_engine(target, 1024 * token_bytes, false, NULL); // exactly one sequence of full length
    run_all(engine, &prompts, got, true);
    assert_same(target, "preempted", &prompts, alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.preemptions > 0);
    engine_destroy(engine);

    engine = start_engine(target, 0, true, NULL);
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache cold", &prompts, alone, got);
    engine_stats(engine, &stats);
    uint64_t cold_hits = stats.prefix_hits;
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache warm", &prompts, alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.prefix_hits > cold_hits);
    engine_destroy(engine);

    engine = start_engine(target, 3000 * token_bytes, true, NULL); // too small for all prefixes
    run_all(engine, &prompts, got, true);
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache partly evicted", &prompts, alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.prefix_hits > 0 && stats.prefix_evictions > 0);
    engine_destroy(engine);

    check_other_way(target, &prompts, alone, token_bytes);
    free(alone);
    free(got);
    free_prompts(&prompts);
}

/* --- batch sizes ------------------------------------------------------------------------------------------------ */

#define MAX_BATCH 256

/* Greedy requests in batches whose sizes meet every kernel and recording, and fall between them. */
static void check_sizes(const struct target *target, const struct demo_model *model, bool graphs) {
    static const int sizes[] = {1, 2, 7, 8, 16, 33, 64, 200, MAX_BATCH};
    bool on_processor = target->cpu_isa != NULL; // the larger ones take a minute there and meet nothing new
    struct prompts prompts = read_prompts();
    struct engine_options options = options_of(target, 0, false, NULL);
    options.graphs = graphs;
    options.model_folder = model->folder;
    options.max_seqs = options.max_queue = options.max_batch_tokens = MAX_BATCH;
    struct error err = {0};
    struct engine *engine = engine_create(&options, &err);
    rig_must(engine != NULL, &err);
    struct answer *alone = calloc(N_REQUESTS, sizeof *alone), *got = calloc(MAX_BATCH, sizeof *got);
    for (int i = 0; i < N_REQUESTS; ++i) {
        start_with(engine, &alone[i], &prompts, i, 0);
        wait_for(&alone[i]);
    }
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes && !(on_processor && sizes[s] > 33); ++s) {
        char what[64];
        snprintf(what, sizeof what, "%d at once, graphs %s", sizes[s], graphs ? "on" : "off");
        for (int i = 0; i < sizes[s]; ++i) start_with(engine, &got[i], &prompts, i % N_REQUESTS, 0);
        for (int i = 0; i < sizes[s]; ++i) {
            wait_for(&got[i]);
            assert_same_or_near(target, what, &prompts, i % N_REQUESTS, false, &alone[i % N_REQUESTS], &got[i]);
        }
    }
    engine_destroy(engine);
    free(alone);
    free(got);
    free_prompts(&prompts);
}

/* Only a GPU records; on a processor one form of rmsnorm_qkv is enough. */
static void check_batch_sizes(const struct target *target) {
    if (!target->cpu_isa || target->fused) check_sizes(target, &demo_dense, true);
    if (!target->cpu_isa) check_sizes(target, &demo_dense, false);
}
static void check_batch_sizes_with_experts(const struct target *target) {
    if (target->fused) check_sizes(target, &demo_experts, true);
}

static void batch_sizes_change_nothing(void **state) {
    on_targets(state, check_batch_sizes);
}

static void batch_sizes_with_experts_change_nothing(void **state) {
    on_targets(state, check_batch_sizes_with_experts);
}

static void alone_equals_together_with_experts(void **state) {
    on_targets(state, check_logits_with_experts);
}
static void alone_equals_together(void **state) {
    on_targets(state, check_logits);
}
static void preemption_and_prefixes_change_nothing(void **state) {
    on_targets(state, check_engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("alone equals together", alone_equals_together),
        ON_EVERY_BACKEND("alone equals together with experts", alone_equals_together_with_experts),
        ON_EVERY_BACKEND("preemption and prefixes change nothing", preemption_and_prefixes_change_nothing),
        ON_EVERY_BACKEND("batch sizes change nothing", batch_sizes_change_nothing),
        {"batch sizes with experts change nothing on cuda", batch_sizes_with_experts_change_nothing, NULL, NULL,
         (void *)"cuda"},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
