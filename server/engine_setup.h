/* The engine and the tokenizer as the options ask for them: the same for serve and bench. */
#ifndef QUERN_SERVER_ENGINE_SETUP_H
#define QUERN_SERVER_ENGINE_SETUP_H

#include "config/config.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"

struct backend_ops;

/* --tokenizer's folder, else the model's. */
struct tokenizer *engine_setup_tokenizer(const struct config *config, struct error *err);

/* The engine options that config has; the caller changes what its command wants otherwise. Borrows from config. */
struct engine_options engine_setup_options(const struct config *config, const struct backend_ops *ops, struct log *log);

#endif
