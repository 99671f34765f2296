#include "cpu/gemm.h"
#include "engine/weights.h"

bool cpu_attention_output(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    (void)err;
    const struct layer_weights *layer_weights = &weights->layers[layer];
    void *packed = workspace_of(ctx).packed;
    int32_t n_inputs = shape_q_columns(ctx->shape), n_rows = ctx->batch.n_rows;
    gemm_pack(ctx->device, &(struct gemm_rows){.x = (const float *)ctx->scratch.attention,
                                               .n_inputs = n_inputs,
                                               .n_rows = n_rows,
                                               .packed = packed});
    gemm_run(&(struct gemm){.device = ctx->device,
                            .packed = packed,
                            .weights = layer_weights->attention_output,
                            .n_inputs = n_inputs,
                            .n_outputs = ctx->shape->hidden,
                            .n_rows = n_rows,
                            .out = ctx->scratch.hidden,
                            .add = context_adds(ctx),
                            .then = {layer_weights->router ? layer_weights->router : layer_weights->gate_up,
                                     ctx->shape->hidden,
                                     layer_weights->router ? ctx->shape->n_experts : ctx->shape->intermediate}});
    return true;
}
