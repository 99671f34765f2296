/* The Qwen3 forward pass as a list of op calls. It knows no device and does not know whether an op is fused. */
#ifndef QUERN_ENGINE_MODEL_H
#define QUERN_ENGINE_MODEL_H

#include "engine/context.h"
#include "engine/error.h"
#include "engine/weights.h"

/* Records decode steps, all that the backend wants, so that model_forward replays them. Once, before the first step of
 * a request. *n_recordings is 0 where the backend records nothing. */
bool model_record(struct context *ctx, const struct weights *weights, int32_t *n_recordings, struct error *err);

/* Runs the prepared step, of several ranks each on its own thread: afterwards scratch.logits holds a row for each of
 * batch.samples and, unless some of them are adjusted, scratch.sampled a token, and scratch.pooled what batch.pools
 * have as results, on the first rank's device. */
bool model_forward(const struct context *ctx, const struct weights *weights, struct error *err);

/* Runs the first layer of the prepared step alone: what a device readies for a number of rows is ready then. */
bool model_try_layer(const struct context *ctx, const struct weights *weights, struct error *err);

/* What is left to do then, by the first rank alone: tokens of a step with adjusted rows, and scores. Masks must be on
 * the device by now. (A recorded step has sampled all rows already, the adjusted ones in vain.) */
bool model_sample(const struct context *ctx, struct error *err);

#endif
