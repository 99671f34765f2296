/* A constraint that closes reasoning after a number of tokens (thinking_token_budget), around another or none.
 *
 * Up to the budget, and behind the reasoning, whatever the other constraint allows may come. A model that has not
 * closed its reasoning by then is made to write, one token a step, what Qwen documents for stopping early:
 * "Considering the limited time by the user, I have to give the solution based on the thinking directly now." and
 * </think>; these tokens are reasoning too. With a budget of 0 it is </think> alone behind line breaks: the empty block
 * that the chat template itself writes where thinking is off. The other constraint is told every token, so that a
 * grammar begins behind </think> as ever. */
#ifndef QUERN_SERVER_THINKING_BUDGET_H
#define QUERN_SERVER_THINKING_BUDGET_H

#include "engine/constraint.h"
#include "engine/error.h"
#include "server/answer_parser.h"

struct tokenizer;

struct thinking_budget_options {
    int32_t n_tokens; // 0 or more
    enum answer_thinking thinking;
    const struct tokenizer *tokenizer; // borrowed
    struct constraint *inner;          // NULL: none; taken unless this fails
};

/* NULL: no memory, or ERR_INVALID: the vocabulary has no </think>. For one request: engine_submit takes it. */
struct constraint *thinking_budget_create(const struct thinking_budget_options *options, struct error *err);

#endif
