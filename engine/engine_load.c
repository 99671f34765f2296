/* The start of an engine: the model's config, devices, a plan of their memory, weights, contexts, warm-up, recordings.
 */
#include "engine/engine_internal.h"

#include "engine/memory_plan.h"
#include "engine/model.h"

#include <stdio.h>

#define GIB (1024.0 * 1024.0 * 1024.0)

/* One line for each rank, before anything is allocated. */
static void log_plans(struct log *log, const struct engine_info *info, const struct memory_plan *plans) {
    for (int32_t r = 0; r < info->n_ranks; ++r) {
        const struct memory_plan *plan = &plans[r];
        char name[32] = "memory";
        if (info->n_ranks > 1) snprintf(name, sizeof name, "memory of rank %d", r);
        log_message(
            log, LOG_INFO,
            "%s: weights %.2f GiB, scratch %.2f GiB, KV %.2f GiB = %d blocks of %d tokens (%lld tokens, %d "
            "sequences of %d), of %.2f GiB allowed",
            name, (double)plan->weights_bytes / GIB, (double)plan->scratch_bytes / GIB, (double)plan->kv_bytes / GIB,
            plan->limits.n_blocks, plan->limits.block_size, (long long)plan->limits.n_blocks * plan->limits.block_size,
            plan->limits.n_blocks / plan->limits.max_blocks, plan->max_model_len, (double)plan->budget_bytes / GIB);
    }
    if (plans[0].max_model_len < info->model.shape.max_positions)
        log_message(log, LOG_WARN, "sequences are limited to %d tokens; the model allows %d", plans[0].max_model_len,
                    info->model.shape.max_positions);
}

/* Names the parts of the start and how long each took: "config 0.00 s, device 0.41 s, …". */
struct timeline {
    int64_t last_ns;
    size_t length;
    char text[256];
};

static void lap(struct timeline *timeline, const char *name) {
    int64_t now = engine_now_ns();
    int n = snprintf(timeline->text + timeline->length, sizeof timeline->text - timeline->length, "%s%s %.2f s",
                     timeline->length ? ", " : "", name, (double)(now - timeline->last_ns) * 1e-9);
    if (n > 0 && timeline->length + (size_t)n < sizeof timeline->text) timeline->length += (size_t)n;
    timeline->last_ns = now;
}

#define WARM_UP_ROWS 4096

/* Runs n_rows tokens in the first blocks, before any request has them; or their first layer alone. */
static bool warm_up_rows(struct rank *rank, struct batch_sequence sequence, int32_t n_rows, bool layer_alone,
                         struct error *err) {
    sequence.n_rows = n_rows;
    sequence.n_blocks = (n_rows - 1) / rank->ctx->limits.block_size + 1;
    return context_prepare(rank->ctx, &sequence, 1, err) &&
           (layer_alone ? model_try_layer : model_forward)(rank->ctx, &rank->weights, err) &&
           rank->ranks->ops->synchronize(rank->device, err);
}

/* Prompts, a decode step and a pooled row: libraries and kernels are loaded and pages touched now and not in somebody's
 * first request. A device that is not the processor chooses its kernels by the number of rows, at most eight for each
 * doubling (backend.h): 48 numbers of rows up to 4,096. */
static bool warm_up(struct rank *rank, void *argument, struct error *err) {
    const struct engine *engine = argument;
    const struct engine_info *info = &engine->info;
    static const int32_t tokens[WARM_UP_ROWS];
    int32_t blocks[WARM_UP_ROWS], limit = engine->options.ops->asynchronous ? WARM_UP_ROWS : info->block_size;
    if (limit > info->max_batch_tokens) limit = info->max_batch_tokens;
    if (limit > info->max_model_len) limit = info->max_model_len;
    if (limit > info->n_blocks * info->block_size) limit = info->n_blocks * info->block_size;
    for (int32_t i = 0; i < WARM_UP_ROWS; ++i) blocks[i] = i;
    const struct batch_sequence sampled = {.tokens = tokens,
                                           .blocks = blocks,
                                           .sample = true,
                                           .sampling = {.temperature = 1.0f, .top_p = 0.9f, .top_k = 20}};
    const struct batch_sequence pooled = {
        .tokens = tokens, .blocks = blocks, .pools = true, .n_pooled_rows = 1, .seat = 1};
    for (int32_t share = 1; share <= (engine->options.ops->asynchronous ? 16 : 1); share *= 4) {
        if (!warm_up_rows(rank, sampled, (limit - 1) / share + 1, false, err)) return false;
    }
    for (int32_t eighth = 8; engine->options.ops->asynchronous && 8 * eighth < limit; eighth *= 2) {
        for (int32_t rows = 9 * eighth; rows <= 16 * eighth && rows < limit + eighth; rows += eighth) {
            if (!warm_up_rows(rank, sampled, rows < limit ? rows : limit, true, err)) return false;
        }
    }
    return warm_up_rows(rank, sampled, 1, false, err) && warm_up_rows(rank, pooled, 1, false, err);
}

/* What all ranks need to know to load their parts. */
struct loading {
    struct engine *engine;                     // borrowed
    struct memory_plan plans[SLICE_MAX_RANKS]; // [n_ranks]
    int32_t n_recordings;                      // of each rank, written by the first
};

static bool plan_rank(struct rank *rank, void *argument, struct error *err) {
    struct loading *loading = argument;
    const struct engine *engine = loading->engine;
    const struct backend_ops *ops = engine->options.ops;
    struct device_memory memory;
    if (!slice_shape(&rank->shape, &engine->info.model.shape, rank->slice, err)) return false;
    /* context_create asks again; here, so that nothing is loaded in vain. */
    if (!ops->prepare_shape(rank->device, &rank->shape, err)) return false;
    return ops->device_memory(rank->device, &memory, err) &&
           memory_plan_make(&loading->plans[rank->slice.rank], &engine->options, &rank->shape, &memory, err);
}

static bool load_weights(struct rank *rank, void *argument, struct error *err) {
    const struct engine *engine = ((const struct loading *)argument)->engine;
    const struct engine_options *options = &engine->options;
    struct weights_source source = {
        .ops = options->ops,
        .device = rank->device,
        .shape = &engine->info.model.shape,
        .slice = rank->slice,
        .folder = options->dummy_weights ? NULL : options->model_folder,
        .seed = options->seed,
        .log = rank->slice.rank == 0 ? options->log : NULL, // the others are as far
    };
    return weights_init(&rank->weights, &source, err);
}

static bool create_context(struct rank *rank, void *argument, struct error *err) {
    const struct loading *loading = argument;
    rank->ctx =
        context_create(rank->ranks->ops, rank->device, &rank->shape, &loading->plans[rank->slice.rank].limits, err);
    return rank->ctx != NULL;
}

static bool record(struct rank *rank, void *argument, struct error *err) {
    struct loading *loading = argument;
    int32_t n_recordings;
    if (!model_record(rank->ctx, &rank->weights, &n_recordings, err)) return false;
    if (rank->slice.rank == 0) loading->n_recordings = n_recordings;
    return true;
}

static bool open_ranks(struct engine *engine, struct error *err) {
    const struct engine_options *options = &engine->options;
    struct engine_info *info = &engine->info;
    struct model_shape part;
    struct device_options device_options = {.n_threads = options->n_threads, .cpu_isa = options->cpu_isa};
    info->n_ranks = options->n_ranks > 1 ? options->n_ranks : 1;
    if (!slice_shape(&part, &info->model.shape, (struct slice){.n_ranks = info->n_ranks}, err)) return false;
    if (!ranks_init(&engine->ranks, options->ops, info->n_ranks, &device_options, err)) return false;
    engine->device = engine->ranks.rank[0].device;
    info->backend = options->ops->name;
    options->ops->device_describe(engine->device, info->device, sizeof info->device);
    snprintf(info->interconnect, sizeof info->interconnect, "none");
    if (info->n_ranks > 1) options->ops->ranks_describe(engine->device, info->interconnect, sizeof info->interconnect);
    log_message(options->log, LOG_INFO, "device: %s", info->device);
    if (info->n_ranks > 1)
        log_message(options->log, LOG_INFO, "ranks: %d such devices, connected by %s", info->n_ranks,
                    info->interconnect);
    return true;
}

static bool plan_memory(struct loading *loading, struct error *err) {
    struct engine *engine = loading->engine;
    const struct backend_ops *ops = engine->options.ops;
    struct engine_info *info = &engine->info;
    const struct model_shape *shapes[SLICE_MAX_RANKS];
    if (!ranks_run(&engine->ranks, plan_rank, loading, err)) return false;
    for (int32_t r = 0; r < info->n_ranks; ++r) shapes[r] = &engine->ranks.rank[r].shape;
    memory_plans_agree(loading->plans, info->n_ranks, ops, shapes);
    log_plans(engine->options.log, info, loading->plans);

    const struct memory_plan *plan = &loading->plans[0];
    info->max_model_len = plan->max_model_len;
    info->max_seqs = plan->limits.max_seqs;
    info->max_batch_tokens = plan->limits.max_rows;
    info->block_size = plan->limits.block_size;
    info->n_blocks = plan->limits.n_blocks;
    for (int32_t r = 0; r < info->n_ranks; ++r) {
        plan = &loading->plans[r];
        info->ranks[r] = (struct engine_rank){plan->weights_bytes, plan->scratch_bytes, plan->kv_bytes};
        info->weights_bytes += plan->weights_bytes;
        info->scratch_bytes += plan->scratch_bytes;
        info->kv_bytes += plan->kv_bytes;
        info->kv_token_bytes +=
            context_kv_block_bytes(ops, shapes[r], plan->limits.block_size) / (size_t)plan->limits.block_size;
    }
    return true;
}

static bool record_steps(struct loading *loading, struct timeline *timeline, struct error *err) {
    struct engine *engine = loading->engine;
    if (!engine->options.graphs) return true;
    struct device_memory before, after;
    const struct backend_ops *ops = engine->options.ops;
    if (!ops->device_memory(engine->device, &before, err) || !ranks_run(&engine->ranks, record, loading, err) ||
        !ops->device_memory(engine->device, &after, err))
        return false;
    if (loading->n_recordings == 0) return true;
    size_t bytes = before.free_bytes > after.free_bytes ? before.free_bytes - after.free_bytes : 0;
    log_message(engine->options.log, LOG_INFO, "graphs: %d sizes of decode steps recorded, %.2f GiB",
                loading->n_recordings, (double)bytes / GIB);
    lap(timeline, "graphs");
    return true;
}

bool engine_load(struct engine *engine, struct error *err) {
    const struct engine_options *options = &engine->options;
    struct timeline timeline = {.last_ns = engine_now_ns()};
    struct loading loading = {.engine = engine};
    if (!(options->config_file ? model_config_load_file(&engine->info.model, options->config_file, err)
                               : model_config_load(&engine->info.model, options->model_folder, err)))
        return false;
    lap(&timeline, "config");
    if (!open_ranks(engine, err)) return false;
    lap(&timeline, "device");
    if (!plan_memory(&loading, err)) return false;
    if (!ranks_run(&engine->ranks, load_weights, &loading, err)) return false;
    lap(&timeline, "weights");
    if (!ranks_run(&engine->ranks, create_context, &loading, err)) return false;
    engine->ctx = engine->ranks.rank[0].ctx;
    lap(&timeline, "memory");
    if (!ranks_run(&engine->ranks, warm_up, engine, err)) return false;
    lap(&timeline, "warm-up");
    if (!record_steps(&loading, &timeline, err)) return false;
    log_message(options->log, LOG_INFO, "started: %s", timeline.text);
    return true;
}
