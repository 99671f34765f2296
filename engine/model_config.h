/* What a model folder says of itself: config.json (the shape) and generation_config.json (defaults for requests). */
#ifndef QUERN_ENGINE_MODEL_CONFIG_H
#define QUERN_ENGINE_MODEL_CONFIG_H

#include "engine/error.h"
#include "engine/model_shape.h"
#include "engine/sampling.h"

#define MODEL_MAX_EOS 8

struct model_config {
    struct model_shape shape;
    int32_t eos_ids[MODEL_MAX_EOS]; // generation_config.json's, else config.json's
    int32_t n_eos_ids;
    struct sampling_params
        sampling; // defaults of generation_config.json; do_sample false: temperature 0; seed unset (0)
};

/* Reads folder/config.json and, when present, folder/generation_config.json. What the engine cannot compute (another
 * architecture than Qwen3's dense one and its mixture of experts, attention bias, RoPE scaling, a sliding window,
 * another activation) is refused by name. */
bool model_config_load(struct model_config *config, const char *folder, struct error *err);

/* The same from one config.json file (config/shapes). */
bool model_config_load_file(struct model_config *config, const char *path, struct error *err);

#endif
