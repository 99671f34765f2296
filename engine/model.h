/* The Qwen3 forward pass as a list of op calls. It knows no device and does not know whether an op is fused. */
#ifndef QUERN_ENGINE_MODEL_H
#define QUERN_ENGINE_MODEL_H

#include "engine/context.h"
#include "engine/error.h"
#include "engine/weights.h"

/* Records decode steps, all that the backend wants, so that model_forward replays them. Once, before the first step of
 * a request. *n_recordings is 0 where the backend records nothing. */
bool model_record(struct context *ctx, const struct weights *weights, int32_t *n_recordings, struct error *err);

/* Runs the prepared step: afterwards scratch.sampled holds one token for each of batch.samples, on the device. */
bool model_forward(const struct context *ctx, const struct weights *weights, struct error *err);

#endif
