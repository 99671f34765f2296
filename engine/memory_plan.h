/* How a device's memory is shared out between weights, scratch and KV blocks, decided before anything is allocated. */
#ifndef QUERN_ENGINE_MEMORY_PLAN_H
#define QUERN_ENGINE_MEMORY_PLAN_H

#include "engine/backend.h"
#include "engine/context.h"
#include "engine/engine.h"
#include "engine/error.h"

struct memory_plan {
    struct context_limits limits;
    int32_t max_model_len;
    size_t weights_bytes;
    size_t scratch_bytes;
    size_t kv_bytes;
    size_t budget_bytes; // what weights, scratch and KV together may take
};

/* Of one rank, whose shape and memory these are. ERR_MEMORY, with the numbers, when the weights or one sequence of
 * max_model_len do not fit; ERR_INVALID when the options contradict each other or the model. */
bool memory_plan_make(struct memory_plan *plan, const struct engine_options *options, const struct model_shape *shape,
                      const struct device_memory *memory, struct error *err);

/* Ranks run the same steps: all get the limits of the one that has the fewest blocks. */
void memory_plans_agree(struct memory_plan *plans, int32_t n_ranks, const struct backend_ops *ops,
                        const struct model_shape *const *shapes);

#endif
