#include "server/allowed_tokens.h"

#include "engine/sampling.h"

#include <stdlib.h>
#include <string.h>

struct allowed_tokens {
    struct constraint base; // first: this is what the engine knows
    size_t n_ids;
    int32_t ids[]; // [n_ids]
};

static enum constraint_answer fill(struct constraint *constraint, uint32_t *mask, int32_t vocab) {
    const struct allowed_tokens *allowed = (const struct allowed_tokens *)constraint;
    memset(mask, 0, (size_t)sampling_mask_words(vocab) * sizeof *mask); // ids were checked where the request was read
    for (size_t i = 0; i < allowed->n_ids; ++i) mask[allowed->ids[i] / 32] |= 1u << (allowed->ids[i] % 32);
    return CONSTRAINT_MASKED;
}

static void accept(struct constraint *constraint, int32_t token) {
    (void)constraint, (void)token;
}

static void destroy(struct constraint *constraint) {
    free(constraint);
}

struct constraint *allowed_tokens_create(const struct token_list *ids, struct error *err) {
    struct allowed_tokens *allowed = malloc(sizeof *allowed + ids->count * sizeof *ids->ids);
    if (allowed == NULL) {
        fail(err, ERR_MEMORY, "no memory for %zu allowed tokens", ids->count);
        return NULL;
    }
    allowed->base = (struct constraint){.fill = fill, .accept = accept, .destroy = destroy};
    allowed->n_ids = ids->count;
    memcpy(allowed->ids, ids->ids, ids->count * sizeof *ids->ids);
    return &allowed->base;
}
