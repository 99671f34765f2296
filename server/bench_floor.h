/* What no device can undercut, counted from the shape: bytes of a decode step, operations of a prompt.
 *
 * decode   bytes / bandwidth. Each step reads every bf16 matrix and norm once (of an embedding table that is not the LM
 *          head only a few rows: not counted) and the K and V of each token that each sequence sees. Of n experts, k
 *          for a row, those that at least one of b rows is sent to: n * (1 - (1 - k / n)^b), if rows choose at random.
 * mixed    the same over a whole run: K and V of all decode steps, and the weights as often as the longest answer has
 *          tokens, with as many rows as a step then has on average. Prompts are not counted: their products could run
 *          while decode steps wait for memory.
 * prefill  operations / product speed. For each token two for each weight of the layers that it meets, and 4 * head_dim
 *          for each
 * query head and visible token (Q·K and P·V, causal); the LM head for the last token alone. */
#ifndef QUERN_SERVER_BENCH_FLOOR_H
#define QUERN_SERVER_BENCH_FLOOR_H

#include "engine/model_shape.h"

#include <stdint.h>

/* Bytes that a decode step of so many rows reads. */
double bench_floor_weight_bytes(const struct model_shape *shape, double n_rows);

/* Multiplications and additions. */
double bench_floor_prompt_operations(const struct model_shape *shape, int32_t n_prompt);

#endif
