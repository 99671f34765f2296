/* The simplest constraint: the same tokens are allowed all along (allowed_token_ids). */
#ifndef QUERN_SERVER_ALLOWED_TOKENS_H
#define QUERN_SERVER_ALLOWED_TOKENS_H

#include "engine/constraint.h"
#include "engine/error.h"
#include "engine/tokenizer.h"

/* Of these ids, at least one; NULL: no memory. For one request: engine_submit takes it. */
struct constraint *allowed_tokens_create(const struct token_list *ids, struct error *err);

#endif
