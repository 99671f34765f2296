#include "server/engine_setup.h"

#include <limits.h>
#include <stdio.h>

struct tokenizer *engine_setup_tokenizer(const struct config *config, struct error *err) {
    const char *folder = config->tokenizer[0] != '\0' ? config->tokenizer : config->model;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    return tokenizer_load(path, err);
}

struct engine_options engine_setup_options(const struct config *config, const struct backend_ops *ops,
                                           struct log *log) {
    return (struct engine_options){
        .ops = ops,
        .model_folder = config->model,
        .dummy_weights = config->load_format == CONFIG_LOAD_DUMMY,
        .seed = (uint64_t)config->seed,
        .n_ranks = config->tensor_parallel_size,
        .n_threads = config->threads,
        .block_size = config->block_size,
        .kv_bytes = config->kv_bytes,
        .memory_share = config->gpu_memory_share,
        .max_seqs = config->max_seqs,
        .max_batch_tokens = config->max_batch_tokens,
        .max_model_len = config->max_model_len,
        .max_queue = config->max_queue,
        .prefix_cache = config->prefix_cache,
        .graphs = config->graphs,
        .log = log,
    };
}
