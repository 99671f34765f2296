#include "engine/slice.h"

#include <assert.h>
#include <stdio.h>

/* "1, 2, 4": the numbers of ranks that a model can be shared by. */
static void list_allowed(const struct model_shape *whole, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int32_t n = 1; n <= SLICE_MAX_RANKS && used < size; ++n) {
        struct model_shape part;
        if (!slice_shape(&part, whole, (struct slice){.n_ranks = n}, NULL)) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", n);
    }
}

static bool refuse(const struct model_shape *whole, int32_t n_ranks, const char *name, int32_t value,
                   struct error *err) {
    if (!err) return false;
    char allowed[64];
    list_allowed(whole, allowed, sizeof allowed);
    return fail_param(err, ERR_INVALID, "tensor-parallel-size",
                      "tensor-parallel-size is %d, but the model's %s of %d cannot be shared evenly by so many ranks; "
                      "allowed are %s",
                      n_ranks, name, value, allowed);
}

bool slice_shape(struct model_shape *part, const struct model_shape *whole, struct slice slice, struct error *err) {
    int32_t n = slice.n_ranks;
    assert(shape_is_whole(whole));
    *part = *whole;
    if (n <= 1) return true;
    assert(n <= SLICE_MAX_RANKS && slice.rank >= 0 && slice.rank < n);
    if (whole->n_heads % n != 0) return refuse(whole, n, "num_attention_heads", whole->n_heads, err);
    if (whole->n_kv_heads % n != 0 && n % whole->n_kv_heads != 0)
        return refuse(whole, n, "num_key_value_heads", whole->n_kv_heads, err);
    if (whole->intermediate % n != 0) return refuse(whole, n, "intermediate_size", whole->intermediate, err);
    if (whole->n_experts > 0 && whole->expert_intermediate % n != 0)
        return refuse(whole, n, "moe_intermediate_size", whole->expert_intermediate, err);
    part->slice = slice;
    part->n_heads = whole->n_heads / n;
    part->n_kv_heads = whole->n_kv_heads > n ? whole->n_kv_heads / n : 1;
    part->intermediate = whole->intermediate / n;
    part->expert_intermediate = whole->expert_intermediate / n;
    if ((whole->vocab + 7) / 8 < n) return refuse(whole, n, "vocab_size", whole->vocab, err);
    return true;
}

int32_t slice_first_kv_head(const struct model_shape *whole, struct slice slice) {
    return slice.n_ranks <= 1 ? 0 : slice.rank * whole->n_kv_heads / slice.n_ranks;
}
