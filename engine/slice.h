/* How several ranks share one model: by heads, intermediate columns and vocabulary.
 *
 * A rank has n_heads / N query heads with the rows of qkv and the columns of attention_output that belong to them, the
 * KV heads that these look at, intermediate / N columns of gate and up (of each expert as well) with their columns of
 * down, and a part of the LM head's rows. Where there are more ranks than KV heads, N / n_kv_heads ranks hold the same
 * KV head. The embedding table and the norms are whole on each rank: a row of it costs less to read than to send. */
#ifndef QUERN_ENGINE_SLICE_H
#define QUERN_ENGINE_SLICE_H

#include "engine/error.h"
#include "engine/model_shape.h"

#define SLICE_MAX_RANKS 16

/* What one rank computes. ERR_INVALID names the number that so many ranks cannot share. */
bool slice_shape(struct model_shape *part, const struct model_shape *whole, struct slice slice, struct error *err);

/* Of the whole model's KV heads, the first that a rank holds. */
int32_t slice_first_kv_head(const struct model_shape *whole, struct slice slice);

#endif
