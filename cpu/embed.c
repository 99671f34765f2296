#include "cpu/device.h"
#include "engine/weights.h"

#include <string.h>

bool cpu_embed(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)err;
    size_t hidden = (size_t)ctx->shape->hidden;
    for (int32_t r = 0; r < ctx->batch.n_rows; ++r) {
        int32_t token = ctx->batch.tokens[r];
        if (token < 0) token = ctx->scratch.sampled[-1 - token];
        if (token < 0) token = 0; // of a row whose logits were not finite: its result is dropped
        const uint16_t *from = weights->embedding + (size_t)token * hidden;
        float *to = ctx->scratch.hidden + (size_t)r * hidden;
        for (size_t i = 0; i < hidden; ++i) {
            uint32_t bits = (uint32_t)from[i] << 16;
            memcpy(&to[i], &bits, sizeof bits);
        }
    }
    return true;
}
