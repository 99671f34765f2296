#include "engine/memory_plan.h"

#define GIB (1024.0 * 1024.0 * 1024.0)

static int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}
static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static bool check_options(const struct engine_options *options, const struct model_shape *shape, struct error *err) {
    if (options->max_model_len > shape->max_positions)
        return fail_param(err, ERR_INVALID, "max-model-len", "max-model-len %d is over the model's %d positions",
                          options->max_model_len, shape->max_positions);
    if (options->max_batch_tokens && options->max_batch_tokens < options->max_seqs)
        return fail_param(err, ERR_INVALID, "max-batch-tokens",
                          "max-batch-tokens %d is below max-seqs %d: every running sequence needs a row in each step",
                          options->max_batch_tokens, options->max_seqs);
    return true;
}

/* The KV bytes asked for, or what the budget leaves, or the backend's default if that is less. */
static bool choose_kv_bytes(struct memory_plan *plan, const struct engine_options *options, int32_t n_ranks,
                            struct error *err) {
    size_t usual = options->ops->default_kv_bytes / (size_t)n_ranks;
    size_t fixed = plan->weights_bytes + plan->scratch_bytes;
    if (fixed >= plan->budget_bytes)
        return fail(
            err, ERR_MEMORY, "weights (%.2f GiB) and scratch (%.2f GiB) do not fit in %.2f GiB of device memory",
            (double)plan->weights_bytes / GIB, (double)plan->scratch_bytes / GIB, (double)plan->budget_bytes / GIB);
    size_t left = plan->budget_bytes - fixed;
    if (options->kv_bytes > left)
        return fail_param(err, ERR_MEMORY, "kv-bytes",
                          "kv-bytes asks for %.2f GiB, but weights (%.2f GiB) and scratch (%.2f GiB) leave %.2f GiB",
                          (double)options->kv_bytes / GIB, (double)plan->weights_bytes / GIB,
                          (double)plan->scratch_bytes / GIB, (double)left / GIB);
    plan->kv_bytes = options->kv_bytes ? options->kv_bytes : usual ? min_size(usual, left) : left;
    return true;
}

bool memory_plan_make(struct memory_plan *plan, const struct engine_options *options, const struct model_shape *shape,
                      const struct device_memory *memory, struct error *err) {
    if (!check_options(options, shape, err)) return false;
    const struct backend_ops *ops = options->ops;
    int32_t max_rows = options->max_batch_tokens ? options->max_batch_tokens : ops->default_batch_tokens;
    *plan =
        (struct memory_plan){.max_model_len = options->max_model_len ? options->max_model_len : shape->max_positions};
    plan->limits = (struct context_limits){
        .max_rows = max_rows > options->max_seqs ? max_rows : options->max_seqs,
        .max_seqs = options->max_seqs,
        .max_blocks = ceil_div(plan->max_model_len, options->block_size),
        .block_size = options->block_size,
    };
    plan->weights_bytes = weights_bytes(shape);
    plan->scratch_bytes = context_scratch_bytes(ops, shape, &plan->limits);
    plan->budget_bytes = min_size((size_t)((double)memory->total_bytes * options->memory_share), memory->free_bytes);
    if (!choose_kv_bytes(plan, options, shape_is_whole(shape) ? 1 : shape->slice.n_ranks, err)) return false;

    /* No more blocks than all sequences at full length could hold; slots are int32. */
    size_t block_bytes = context_kv_block_bytes(ops, shape, options->block_size);
    size_t n_blocks =
        min_size(plan->kv_bytes / block_bytes, (size_t)options->max_seqs * (size_t)plan->limits.max_blocks);
    n_blocks = min_size(n_blocks, (size_t)(INT32_MAX / options->block_size));
    if ((int32_t)n_blocks < plan->limits.max_blocks) {
        if (options->max_model_len || n_blocks == 0)
            return fail_param(err, ERR_MEMORY, "max-model-len",
                              "%.2f GiB of KV hold %zu blocks of %d tokens, but max-model-len %d needs %d (%.2f GiB)",
                              (double)plan->kv_bytes / GIB, n_blocks, options->block_size, plan->max_model_len,
                              plan->limits.max_blocks, (double)plan->limits.max_blocks * (double)block_bytes / GIB);
        plan->max_model_len = (int32_t)n_blocks * options->block_size;
        plan->limits.max_blocks = (int32_t)n_blocks;
        plan->scratch_bytes = context_scratch_bytes(ops, shape, &plan->limits);
    }
    plan->limits.n_blocks = (int32_t)n_blocks;
    plan->kv_bytes = n_blocks * block_bytes;
    return true;
}

void memory_plans_agree(struct memory_plan *plans, int32_t n_ranks, const struct backend_ops *ops,
                        const struct model_shape *const *shapes) {
    struct memory_plan least = plans[0];
    for (int32_t r = 1; r < n_ranks; ++r) {
        if (plans[r].limits.n_blocks < least.limits.n_blocks) least = plans[r];
    }
    for (int32_t r = 0; r < n_ranks; ++r) {
        plans[r].limits = least.limits;
        plans[r].max_model_len = least.max_model_len;
        plans[r].scratch_bytes = context_scratch_bytes(ops, shapes[r], &least.limits);
        plans[r].kv_bytes =
            (size_t)least.limits.n_blocks * context_kv_block_bytes(ops, shapes[r], least.limits.block_size);
    }
}
