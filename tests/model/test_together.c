/* Alone equals together: a sequence's tokens do not depend on who shares its batch, on chunks, on preemption or on the
 * prefix cache. Bit-identical logits on the CPU; on CUDA equal tokens, and the difference of logits is printed. */
#include "tests/test.h"

#include "engine/backend.h"
#include "engine/engine.h"
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
    cJSON *golden = read_json(GOLDEN_FOLDER "/golden.json");
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

static void check_logits(const struct target *target) {
    struct prompts prompts = read_prompts();
    struct context_limits limits = {.max_rows = 1024, .max_seqs = N_REQUESTS, .block_size = 16};
    struct demo *demo = demo_open(target, limits, 1024);
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
    print_message("# %s: 64 requests alone and together, logits differ by at most %g\n", target->label, worst);
    traces_free(together, N_REQUESTS);
    free(together);
    free(alone);
    demo_close(demo);
    free_prompts(&prompts);
}

/* --- the engine ------------------------------------------------------------------------------------------------- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
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
    } else {
        answer->end = *event;
        answer->finished = true;
        pthread_cond_signal(&answer->changed);
    }
    pthread_mutex_unlock(&answer->lock);
}

/* Half greedy, half sampled with a fixed seed. */
static void start(struct engine *engine, struct answer *answer, const struct prompts *prompts, int i) {
    *answer = (struct answer){.n_tokens = 0};
    pthread_mutex_init(&answer->lock, NULL);
    pthread_cond_init(&answer->changed, NULL);
    struct engine_request request = {
        .prompt = prompts->ids[i],
        .n_prompt = prompts->count[i],
        .max_new_tokens = N_NEW,
        .sampling = {.temperature = i % 2 ? 1.0f : 0.0f, .top_p = 0.95f, .top_k = 20, .seed = (uint64_t)i},
        .listener = listen,
        .user = answer,
    };
    uint64_t id;
    struct error err = {0};
    rig_must(engine_submit(engine, &request, &id, &err), &err);
}

static void wait_for(struct answer *answer) {
    pthread_mutex_lock(&answer->lock);
    while (!answer->finished) pthread_cond_wait(&answer->changed, &answer->lock);
    pthread_mutex_unlock(&answer->lock);
    if (answer->end.reason == FINISH_ERROR) fail_msg("a request failed: %s", answer->end.error.message);
}

static struct engine *start_engine(const struct target *target, size_t kv_bytes, bool prefix_cache) {
    struct engine_options options = {
        .ops = target->ops,
        .model_folder = DEMO_FOLDER,
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

static void assert_same(const struct target *target, const char *what, const struct answer *expected,
                        const struct answer *got) {
    for (int i = 0; i < N_REQUESTS; ++i) {
        bool same = expected[i].n_tokens == got[i].n_tokens && expected[i].end.reason == got[i].end.reason &&
                    memcmp(expected[i].tokens, got[i].tokens, (size_t)got[i].n_tokens * sizeof(int32_t)) == 0;
        if (!same) fail_msg("%s: %s: request %d got other tokens than alone", target->label, what, i);
    }
}

static void check_engine(const struct target *target) {
    struct prompts prompts = read_prompts();
    struct answer *alone = calloc(N_REQUESTS, sizeof *alone), *got = calloc(N_REQUESTS, sizeof *got);
    struct engine_stats stats;
    struct engine *engine = start_engine(target, 0, false);
    run_all(engine, &prompts, alone, false);
    run_all(engine, &prompts, got, true);
    assert_same(target, "together", alone, got);
    size_t token_bytes = engine_info(engine)->kv_token_bytes;
    engine_destroy(engine);

    engine = start_engine(target, 1024 * token_bytes, false); // exactly one sequence of full length
    run_all(engine, &prompts, got, true);
    assert_same(target, "preempted", alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.preemptions > 0);
    engine_destroy(engine);

    engine = start_engine(target, 0, true);
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache cold", alone, got);
    engine_stats(engine, &stats);
    uint64_t cold_hits = stats.prefix_hits;
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache warm", alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.prefix_hits > cold_hits);
    engine_destroy(engine);

    engine = start_engine(target, 3000 * token_bytes, true); // too small for all prefixes
    run_all(engine, &prompts, got, true);
    run_all(engine, &prompts, got, true);
    assert_same(target, "prefix cache partly evicted", alone, got);
    engine_stats(engine, &stats);
    assert_true(stats.prefix_hits > 0 && stats.prefix_evictions > 0);
    engine_destroy(engine);
    free(alone);
    free(got);
    free_prompts(&prompts);
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
        ON_EVERY_BACKEND("preemption and prefixes change nothing", preemption_and_prefixes_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
