#include "server/thinking_budget.h"

#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "server/reasoning_count.h"

#include <stdlib.h>
#include <string.h>

struct thinking_budget {
    struct constraint base; // first: this is what the engine knows
    struct thinking_budget_options options;
    struct reasoning_count count;
    struct token_list closing; // owned
    size_t n_closed;           // of those, that have come
};

static bool is_closing(const struct thinking_budget *budget) {
    return budget->count.phase == ANSWER_IN_REASONING && budget->count.n_tokens >= budget->options.n_tokens;
}

static enum constraint_answer fill(struct constraint *constraint, uint32_t *mask, int32_t vocab) {
    const struct thinking_budget *budget = (const struct thinking_budget *)constraint;
    struct constraint *inner = budget->options.inner;
    if (!is_closing(budget)) return inner != NULL ? inner->fill(inner, mask, vocab) : CONSTRAINT_FREE;
    int32_t token = budget->closing.ids[budget->n_closed];
    memset(mask, 0, (size_t)sampling_mask_words(vocab) * sizeof *mask);
    mask[token / 32] |= 1u << (token % 32);
    return CONSTRAINT_MASKED;
}

static void accept(struct constraint *constraint, int32_t token) {
    struct thinking_budget *budget = (struct thinking_budget *)constraint;
    struct constraint *inner = budget->options.inner;
    if (is_closing(budget)) ++budget->n_closed; // the last of them ends the reasoning
    reasoning_count_take(&budget->count, budget->options.tokenizer, token);
    if (inner != NULL) inner->accept(inner, token);
}

static void destroy(struct constraint *constraint) {
    struct thinking_budget *budget = (struct thinking_budget *)constraint;
    if (budget->options.inner != NULL) budget->options.inner->destroy(budget->options.inner);
    token_list_finish(&budget->closing);
    free(budget);
}

/* A prompt that opened the reasoning has the first line break already. */
static const char *closing_text(const struct thinking_budget_options *options) {
    if (options->n_tokens == 0) return options->thinking == ANSWER_THINKS ? "\n</think>" : "\n\n</think>";
    return "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly "
           "now.\n</think>";
}

struct constraint *thinking_budget_create(const struct thinking_budget_options *options, struct error *err) {
    if (tokenizer_find_added(options->tokenizer, "</think>") < 0) {
        fail_param(err, ERR_INVALID, "thinking_token_budget",
                   "thinking_token_budget is not supported with this model: its vocabulary has no </think>");
        return NULL;
    }
    struct thinking_budget *budget = calloc(1, sizeof *budget);
    if (budget == NULL) {
        fail(err, ERR_MEMORY, "no memory for a thinking budget");
        return NULL;
    }
    budget->base = (struct constraint){.fill = fill, .accept = accept, .destroy = destroy};
    budget->options = *options;
    budget->count = reasoning_count_begin(options->thinking);
    const char *text = closing_text(options);
    if (tokenizer_encode(options->tokenizer, text, strlen(text), &budget->closing, err)) return &budget->base;
    token_list_finish(&budget->closing);
    free(budget);
    return NULL;
}
