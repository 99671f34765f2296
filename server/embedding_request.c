/* The fields of POST /v1/embeddings, as OpenAI and vLLM name them. */
#include "server/openai_field.h"

#include <string.h>

static bool read_word(const struct field *field, struct json_text value, const char *const words[2], bool *second,
                      struct error *err) {
    for (int i = 0; i < 2 && json_text_kind(value) == JSON_STRING; ++i) {
        *second = i == 1;
        if (json_text_equals(value, words[i])) return true;
    }
    return field_refuse(field, value, err);
}

static FIELD_READER(read_encoding_format) {
    static const char *const words[] = {"float", "base64"};
    return read_word(field, value, words, &reading->request->embedding.base64, err);
}

static FIELD_READER(read_pooling) {
    static const char *const words[] = {"last", "mean"};
    bool is_mean = false;
    if (!read_word(field, value, words, &is_mean, err)) return false;
    reading->request->embedding.pooling = is_mean ? POOLING_MEAN : POOLING_LAST;
    return true;
}

static FIELD_READER(read_dimensions) {
    return field_integer(field, value, &reading->request->embedding.n_dimensions, err);
}

static FIELD_READER(read_normalize) {
    bool normalize = true;
    if (!field_flag(field, value, &normalize, err)) return false;
    reading->request->embedding.as_it_is = !normalize;
    return true;
}

static FIELD_READER(read_special_tokens) {
    bool add = true;
    if (!field_flag(field, value, &add, err)) return false;
    reading->request->embedding.no_end = !add;
    return true;
}

static FIELD_READER(read_truncation) {
    int32_t *limit = &reading->request->embedding.truncation;
    return field_integer(field, value, limit, err) && (*limit != 0 || field_refuse(field, value, err));
}

static const struct field fields[] = {
    {"model", OPENAI_EMBEDDINGS, read_model, "a string", 0, 0},
    {"input", OPENAI_EMBEDDINGS, read_prompt, PROMPT_ALLOWED, 0, 0},
    {"encoding_format", OPENAI_EMBEDDINGS, read_encoding_format, "float or base64", 0, 0},
    {"dimensions", OPENAI_EMBEDDINGS, read_dimensions, "an integer from 1 to what the model has", 1, INT32_MAX},
    {"pooling", OPENAI_EMBEDDINGS, read_pooling, "last or mean", 0, 0},
    {"normalize", OPENAI_EMBEDDINGS, read_normalize, "true or false", 0, 0},
    {"use_activation", OPENAI_EMBEDDINGS, read_normalize, "true or false", 0, 0}, // vLLM's later name
    {"truncate_prompt_tokens", OPENAI_EMBEDDINGS, read_truncation,
     "an integer: -1 for what the context holds, or from 1 to that", -1, INT32_MAX},
    {"add_special_tokens", OPENAI_EMBEDDINGS, read_special_tokens, "true or false", 0, 0},
    {"priority", OPENAI_EMBEDDINGS, read_priority, "an integer of 32 bits; the lowest is served first", INT32_MIN,
     INT32_MAX},

    {"user", OPENAI_EMBEDDINGS, read_without_effect, NULL, 0, 0},
    {"request_id", OPENAI_EMBEDDINGS, read_without_effect, NULL, 0, 0},

    {"messages", OPENAI_EMBEDDINGS, read_unserved, "[]", 0, 0},
    {"truncation_side", OPENAI_EMBEDDINGS, read_unserved, "\"left\"", 0, 0},
    {"embed_dtype", OPENAI_EMBEDDINGS, read_unserved, "\"float32\"", 0, 0},
    {"endianness", OPENAI_EMBEDDINGS, read_unserved, "\"little\" or \"native\"", 0, 0},
    {"cache_salt", OPENAI_EMBEDDINGS, read_unserved, NULL, 0, 0},
    {"mm_processor_kwargs", OPENAI_EMBEDDINGS, read_unserved, "{}", 0, 0},
};

const struct field *embeddings_field(size_t index) {
    return index < sizeof fields / sizeof *fields ? &fields[index] : NULL;
}
