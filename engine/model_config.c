#include "engine/model_config.h"
#include "engine/json_file.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES ((size_t)1 << 20)

/* Upper limits: far above any published model, low enough that no product of two dimensions overflows int32_t where
 * the shape's functions multiply, nor size_t in bytes. */
#define MAX_HIDDEN              65536
#define MAX_HEADS               1024
#define MAX_HEAD_DIM            1024
#define MAX_INTERMEDIATE        (1 << 20)
#define MAX_EXPERT_INTERMEDIATE (1 << 16)
#define MAX_VOCAB               (1 << 24)
#define MAX_POSITIONS           (1 << 24)

#define DEFAULT_HEAD_DIM 128 // of transformers' Qwen3Config, which does not derive it from hidden_size

/* A file being read. The first failure is kept and later reads return their lower limit, so that a caller reads all
 * members in a row and looks at `ok` once. */
struct reader {
    cJSON *root; // owned
    const char *path;
    struct error *err;
    bool ok;
};

#define REFUSE(reader, ...)                                                                                            \
    do {                                                                                                               \
        if ((reader)->ok) (reader)->ok = fail((reader)->err, ERR_INVALID, __VA_ARGS__);                                \
    } while (0)

/* NULL when absent; a null is as good as absent in these files. */
static const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

/* Item as JSON, cut to what fits a message. */
struct excerpt {
    char text[64];
};
static struct excerpt excerpt(const cJSON *item) {
    struct excerpt result = {"nothing"};
    char *text = item ? cJSON_PrintUnformatted(item) : NULL;
    if (text) snprintf(result.text, sizeof result.text, strlen(text) < sizeof result.text ? "%s" : "%.59s…", text);
    cJSON_free(text);
    return result;
}

static bool is_integer(const cJSON *item, int32_t min, int32_t max) {
    return cJSON_IsNumber(item) && item->valuedouble >= min && item->valuedouble <= max &&
           item->valuedouble == floor(item->valuedouble);
}

static int32_t read_integer(struct reader *reader, const char *name, int32_t min, int32_t max) {
    const cJSON *item = member(reader->root, name);
    if (is_integer(item, min, max)) return (int32_t)item->valuedouble;
    REFUSE(reader, "%s: %s must be an integer from %d to %d, found %s", reader->path, name, min, max,
           excerpt(item).text);
    return min;
}

static int32_t read_integer_or(struct reader *reader, const char *name, int32_t min, int32_t max, int32_t absent) {
    return member(reader->root, name) ? read_integer(reader, name, min, max) : absent;
}

/* Limits belong to the range. */
static float read_number(struct reader *reader, const cJSON *object, const char *name, double min, double max) {
    const cJSON *item = member(object, name);
    if (cJSON_IsNumber(item) && item->valuedouble >= min && item->valuedouble <= max) return (float)item->valuedouble;
    REFUSE(reader, "%s: %s must be a number from %g to %g, found %s", reader->path, name, min, max, excerpt(item).text);
    return (float)min;
}

static float read_number_or(struct reader *reader, const char *name, double min, double max, float absent) {
    return member(reader->root, name) ? read_number(reader, reader->root, name, min, max) : absent;
}

static bool read_bool_or(struct reader *reader, const char *name, bool absent) {
    const cJSON *item = member(reader->root, name);
    if (item && !cJSON_IsBool(item)) {
        REFUSE(reader, "%s: %s must be true or false, found %s", reader->path, name, excerpt(item).text);
    }
    return item ? cJSON_IsTrue(item) : absent;
}

static bool is_string(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

/* Whether it is the mixture of experts. */
static bool read_architecture(struct reader *reader) {
    const cJSON *names = member(reader->root, "architectures");
    const cJSON *name;
    cJSON_ArrayForEach(name, names) {
        if (is_string(name, "Qwen3ForCausalLM") || is_string(name, "Qwen3Model")) return false;
        if (is_string(name, "Qwen3MoeForCausalLM")) return true;
    }
    REFUSE(reader, "%s: architectures must contain Qwen3ForCausalLM or Qwen3MoeForCausalLM, found %s", reader->path,
           excerpt(names).text);
    return false;
}

/* rope_scaling, or the newer rope_parameters: the kind must be the plain one. */
static void check_rope_kind(struct reader *reader, const char *name) {
    const cJSON *rope = member(reader->root, name);
    if (!rope) return;
    const cJSON *kind = member(rope, "rope_type");
    if (!kind) kind = member(rope, "type"); // before transformers 4.43
    if (!cJSON_IsObject(rope) || !is_string(kind, "default")) {
        REFUSE(reader, "%s: %s of another type than default is not supported, found %s", reader->path, name,
               excerpt(rope).text);
    }
    const cJSON *partial = member(rope, "partial_rotary_factor");
    if (partial && !(cJSON_IsNumber(partial) && partial->valuedouble == 1)) {
        REFUSE(reader, "%s: partial_rotary_factor must be 1, found %s", reader->path, excerpt(partial).text);
    }
}

static float read_rope_theta(struct reader *reader) {
    check_rope_kind(reader, "rope_scaling");
    check_rope_kind(reader, "rope_parameters");
    const cJSON *parameters = member(reader->root, "rope_parameters");
    const cJSON *from = member(parameters, "rope_theta") ? parameters : reader->root;
    return read_number(reader, from, "rope_theta", 1, 1e12);
}

/* What the forward pass does not compute. */
static void check_features(struct reader *reader) {
    const cJSON *activation = member(reader->root, "hidden_act");
    if (activation && !is_string(activation, "silu")) {
        REFUSE(reader, "%s: hidden_act must be \"silu\", found %s", reader->path, excerpt(activation).text);
    }
    if (read_bool_or(reader, "attention_bias", false)) {
        REFUSE(reader, "%s: attention_bias is not supported", reader->path);
    }
    if (read_bool_or(reader, "use_sliding_window", false)) {
        REFUSE(reader, "%s: use_sliding_window is not supported", reader->path);
    }
    const cJSON *quantization = member(reader->root, "quantization_config");
    if (quantization) {
        const cJSON *method = member(quantization, "quant_method");
        REFUSE(reader, "%s: quantization_config is not supported, found the method %s", reader->path,
               excerpt(method).text);
    }
    const cJSON *types = member(reader->root, "layer_types");
    if (types && !cJSON_IsArray(types)) {
        REFUSE(reader, "%s: layer_types must be an array, found %s", reader->path, excerpt(types).text);
    }
    const cJSON *type;
    cJSON_ArrayForEach(type, types) {
        if (!is_string(type, "full_attention")) {
            REFUSE(reader, "%s: layer_types may only hold \"full_attention\", found %s", reader->path,
                   excerpt(type).text);
        }
    }
}

static struct model_shape read_shape(struct reader *reader) {
    struct model_shape shape = {
        .n_layers = read_integer(reader, "num_hidden_layers", 1, MODEL_MAX_LAYERS),
        .hidden = read_integer(reader, "hidden_size", 1, MAX_HIDDEN),
        .n_heads = read_integer(reader, "num_attention_heads", 1, MAX_HEADS),
        .n_kv_heads = read_integer(reader, "num_key_value_heads", 1, MAX_HEADS),
        .head_dim = read_integer_or(reader, "head_dim", 2, MAX_HEAD_DIM, DEFAULT_HEAD_DIM),
        .intermediate = read_integer(reader, "intermediate_size", 1, MAX_INTERMEDIATE),
        .vocab = read_integer(reader, "vocab_size", 1, MAX_VOCAB),
        .max_positions = read_integer(reader, "max_position_embeddings", 1, MAX_POSITIONS),
        .rms_eps = read_number(reader, reader->root, "rms_norm_eps", 1e-12, 0.1),
        .rope_theta = read_rope_theta(reader),
        .tied_embeddings = read_bool_or(reader, "tie_word_embeddings", false),
    };
    if (shape.n_heads % shape.n_kv_heads != 0) {
        REFUSE(reader, "%s: num_attention_heads %d must be a multiple of num_key_value_heads %d", reader->path,
               shape.n_heads, shape.n_kv_heads);
    }
    if (shape.head_dim % 2 != 0) {
        REFUSE(reader, "%s: head_dim must be even for RoPE, found %d", reader->path, shape.head_dim);
    }
    return shape;
}

static void make_dense(struct model_shape *shape, int32_t layer) {
    shape->dense_layers[layer / 32] |= 1u << layer % 32;
}

/* Layers without experts: all but every decoder_sparse_step-th, and those that mlp_only_layers lists. */
static void read_dense_layers(struct reader *reader, struct model_shape *shape) {
    int32_t step = read_integer_or(reader, "decoder_sparse_step", 1, MODEL_MAX_LAYERS, 1);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        if ((layer + 1) % step != 0) make_dense(shape, layer);
    }
    const cJSON *list = member(reader->root, "mlp_only_layers"), *item;
    if (list && !cJSON_IsArray(list)) {
        REFUSE(reader, "%s: mlp_only_layers must be an array, found %s", reader->path, excerpt(list).text);
    }
    cJSON_ArrayForEach(item, list) {
        if (is_integer(item, 0, shape->n_layers - 1)) {
            make_dense(shape, (int32_t)item->valuedouble);
        } else {
            REFUSE(reader, "%s: mlp_only_layers may only hold layers from 0 to %d, found %s", reader->path,
                   shape->n_layers - 1, excerpt(item).text);
        }
    }
}

static void read_experts(struct reader *reader, struct model_shape *shape) {
    shape->n_experts = read_integer(reader, "num_experts", 1, MODEL_MAX_EXPERTS);
    int32_t most = shape->n_experts < MODEL_MAX_ACTIVE_EXPERTS ? shape->n_experts : MODEL_MAX_ACTIVE_EXPERTS;
    shape->n_active_experts = read_integer(reader, "num_experts_per_tok", 1, most);
    shape->expert_intermediate = read_integer(reader, "moe_intermediate_size", 1, MAX_EXPERT_INTERMEDIATE);
    shape->normalised_experts = read_bool_or(reader, "norm_topk_prob", false);
    read_dense_layers(reader, shape);
}

/* An id, an array of ids, or absent: then the ids stay as they are. */
static void read_eos(struct reader *reader, struct model_config *config) {
    const cJSON *item = member(reader->root, "eos_token_id");
    if (!item) return;
    bool is_array = cJSON_IsArray(item);
    int32_t n_ids = 0;
    for (const cJSON *id = is_array ? item->child : item; id; id = is_array ? id->next : NULL) {
        if (n_ids == MODEL_MAX_EOS || !is_integer(id, 0, config->shape.vocab - 1)) {
            REFUSE(reader, "%s: eos_token_id must be at most %d ids below the vocabulary of %d, found %s", reader->path,
                   MODEL_MAX_EOS, config->shape.vocab, excerpt(item).text);
            return;
        }
        config->eos_ids[n_ids++] = (int32_t)id->valuedouble;
    }
    config->n_eos_ids = n_ids;
}

static struct reader open_reader(const char *path, struct error *err) {
    struct reader reader = {.root = json_file_read(path, MAX_FILE_BYTES, err), .path = path, .err = err};
    reader.ok = reader.root != NULL;
    return reader;
}

bool model_config_load_file(struct model_config *config, const char *path, struct error *err) {
    *config = (struct model_config){.sampling = {.temperature = 1, .top_p = 1}}; // the defaults of the OpenAI API
    struct reader reader = open_reader(path, err);
    if (!reader.ok) return false;
    bool has_experts = read_architecture(&reader);
    check_features(&reader);
    config->shape = read_shape(&reader);
    if (has_experts) read_experts(&reader, &config->shape);
    if (reader.ok) read_eos(&reader, config);
    cJSON_Delete(reader.root);
    return reader.ok;
}

static bool read_generation(struct model_config *config, const char *path, struct error *err) {
    struct reader reader = open_reader(path, err);
    if (!reader.ok) return false;
    config->sampling.temperature = read_number_or(&reader, "temperature", 0, 2, config->sampling.temperature);
    config->sampling.top_p = read_number_or(&reader, "top_p", 1e-6, 1, config->sampling.top_p);
    config->sampling.min_p = read_number_or(&reader, "min_p", 0, 1, config->sampling.min_p);
    config->sampling.top_k = read_integer_or(&reader, "top_k", 0, INT32_MAX, config->sampling.top_k);
    if (!read_bool_or(&reader, "do_sample", true)) config->sampling.temperature = 0;
    read_eos(&reader, config);
    cJSON_Delete(reader.root);
    return reader.ok;
}

bool model_config_load(struct model_config *config, const char *folder, struct error *err) {
    char *path = NULL;
    if (asprintf(&path, "%s/config.json", folder) < 0) return fail(err, ERR_MEMORY, "%s: no memory", folder);
    bool ok = model_config_load_file(config, path, err);
    free(path);
    if (!ok) return false;
    if (asprintf(&path, "%s/generation_config.json", folder) < 0) return fail(err, ERR_MEMORY, "%s: no memory", folder);
    struct error generation_err = {0};
    ok = read_generation(config, path, &generation_err);
    free(path);
    if (ok || generation_err.code == ERR_NOT_FOUND) return true;
    return fail(err, generation_err.code, "%s", generation_err.message);
}
