/* The fields that say how tokens are drawn, and which scores are wanted. */
#include "server/openai_field.h"

#include <errno.h>
#include <float.h>
#include <stdlib.h>

FIELD_READER(read_temperature) {
    float *temperature = &reading->request->sampling.temperature;
    if (!field_real(field, value, temperature, err)) return false;
    if (*temperature < 1e-5f) *temperature = 0; // greedy; logit / temperature would leave the range of a float
    return true;
}

FIELD_READER(read_top_p) {
    float *top_p = &reading->request->sampling.top_p;
    if (!field_real(field, value, top_p, err)) return false;
    if (*top_p < FLT_MIN) *top_p = FLT_MIN; // what is above 0 in the request may be 0 as a float
    return true;
}

FIELD_READER(read_min_p) {
    return field_real(field, value, &reading->request->sampling.min_p, err);
}

FIELD_READER(read_top_k) {
    int32_t *top_k = &reading->request->sampling.top_k;
    if (!field_integer(field, value, top_k, err)) return false;
    if (*top_k < 0) *top_k = 0;
    return true;
}

FIELD_READER(read_seed) {
    if (json_text_kind(value) != JSON_NUMBER) return field_refuse(field, value, err);
    errno = 0;
    char *end;
    uint64_t seed =
        value.data[0] == '-' ? (uint64_t)strtoll(value.data, &end, 10) : (uint64_t)strtoull(value.data, &end, 10);
    if (errno != 0 || end != value.data + value.length) return field_refuse(field, value, err);
    reading->request->sampling.seed = seed;
    reading->request->has_seed = true;
    return true;
}

static bool read_penalty(const struct field *field, struct json_text value, float *penalty, struct error *err) {
    return field_real(field, value, penalty, err);
}

FIELD_READER(read_presence_penalty) {
    return read_penalty(field, value, &reading->request->adjustments.presence_penalty, err);
}

FIELD_READER(read_frequency_penalty) {
    return read_penalty(field, value, &reading->request->adjustments.frequency_penalty, err);
}

FIELD_READER(read_repetition_penalty) {
    return read_penalty(field, value, &reading->request->adjustments.repetition_penalty, err);
}

/* The id that a key of logit_bias names; -1: none. */
static int32_t id_of_key(struct json_text key, int32_t vocab) {
    struct string_builder text = {0};
    json_text_decode(key, &text);
    char *end = NULL;
    errno = 0;
    long id = text.length > 0 && text.data[0] >= '0' && text.data[0] <= '9' ? strtol(text.data, &end, 10) : -1;
    bool whole = end != NULL && end == text.data + text.length && errno == 0 && id < vocab;
    string_builder_finish(&text);
    return whole ? (int32_t)id : -1;
}

FIELD_READER(read_logit_bias) {
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    struct openai_request *request = reading->request;
    struct token_bias *biases = calloc(SAMPLING_MAX_BIASES, sizeof *biases);
    if (biases == NULL) return field_no_memory(err);
    free((void *)(uintptr_t)request->adjustments.biases);
    request->adjustments.biases = biases;
    request->adjustments.n_biases = 0;
    struct json_cursor cursor = {0};
    struct json_text key, given;
    while (json_text_next_member(value, &cursor, &key, &given)) {
        struct token_bias bias = {.token = id_of_key(key, reading->source->vocab)};
        if (bias.token < 0) {
            return fail_param(err, ERR_INVALID, field->name,
                              "a key of logit_bias must be a token id from 0 to %d, not %s",
                              (int)reading->source->vocab - 1, field_excerpt_of(key).text);
        }
        if (!field_real(field, given, &bias.bias, err)) return false;
        int32_t place = 0; // of a repeated key the last counts
        while (place < request->adjustments.n_biases && biases[place].token != bias.token) ++place;
        if (place == SAMPLING_MAX_BIASES) return field_refuse(field, value, err);
        biases[place] = bias;
        if (place == request->adjustments.n_biases) ++request->adjustments.n_biases;
    }
    return true;
}

FIELD_READER(read_min_tokens) {
    return field_integer(field, value, &reading->request->min_new_tokens, err);
}

/* At least field->min ids, at most field->max. */
static bool read_ids(const struct field *field, struct json_text value, const struct reading *reading,
                     struct token_list *ids, struct error *err) {
    if (json_text_kind(value) != JSON_ARRAY) return field_refuse(field, value, err);
    ids->count = 0; // of a repeated key the last counts
    struct json_cursor cursor = {0};
    struct json_text element;
    while (json_text_next(value, &cursor, &element)) {
        int64_t id;
        if (!field_integer_of(element, &id) || id < 0 || id >= reading->source->vocab ||
            (double)ids->count >= field->max)
            return field_refuse(field, value, err);
        if (!token_list_append(ids, &(int32_t){(int32_t)id}, 1, err)) return false;
    }
    return (double)ids->count >= field->min || field_refuse(field, value, err);
}

FIELD_READER(read_stop_token_ids) {
    return read_ids(field, value, reading, &reading->request->stop_tokens, err);
}

FIELD_READER(read_allowed_token_ids) {
    return read_ids(field, value, reading, &reading->request->allowed_tokens, err);
}

FIELD_READER(read_logprobs) {
    return field_flag(field, value, &reading->logprobs, err);
}

FIELD_READER(read_top_logprobs) {
    return field_integer(field, value, &reading->top_logprobs, err);
}

static bool read_count(const struct field *field, struct json_text value, int32_t *n_scores, struct error *err) {
    if (!field_integer(field, value, n_scores, err)) return false;
    ++*n_scores; // and the token itself
    return true;
}

FIELD_READER(read_number_of_logprobs) {
    return read_count(field, value, &reading->request->n_scores, err);
}

FIELD_READER(read_prompt_logprobs) {
    return read_count(field, value, &reading->request->n_prompt_scores, err);
}
