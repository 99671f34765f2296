/* The field prompt of plain completions and input of embeddings: texts and ids. */
#include "server/openai_field.h"

#include <stdlib.h>

static struct openai_prompt *add_prompt(const struct field *field, struct reading *reading, struct error *err) {
    struct openai_request *request = reading->request;
    bool is_embeddings = reading->source->endpoint == OPENAI_EMBEDDINGS;
    int32_t limit = is_embeddings ? OPENAI_MAX_INPUTS : OPENAI_MAX_PROMPTS;
    if (request->prompts == NULL) request->prompts = calloc((size_t)limit, sizeof *request->prompts);
    if (request->prompts == NULL) {
        field_no_memory(err);
        return NULL;
    }
    if (request->n_prompts == limit) {
        fail_param(err, ERR_INVALID, field->name, "%s has more than the %d entries that one request may have",
                   field->name, (int)limit);
        return NULL;
    }
    return &request->prompts[request->n_prompts++];
}

static bool add_text(const struct field *field, struct json_text value, struct reading *reading, struct error *err) {
    if (json_text_kind(value) != JSON_STRING) return field_refuse(field, value, err);
    struct openai_prompt *prompt = add_prompt(field, reading, err);
    return prompt != NULL && field_text(value, &prompt->text.data, &prompt->text.length, err);
}

static bool add_ids(const struct field *field, struct json_text value, struct reading *reading, struct error *err) {
    if (json_text_kind(value) != JSON_ARRAY) return field_refuse(field, value, err);
    struct openai_prompt *prompt = add_prompt(field, reading, err);
    if (prompt == NULL) return false;
    struct json_cursor cursor = {0};
    struct json_text element;
    while (json_text_next(value, &cursor, &element)) {
        int64_t id;
        if (json_text_kind(element) != JSON_NUMBER) return field_refuse(field, element, err);
        if (!field_integer_of(element, &id) || id < 0 || id >= reading->source->vocab) {
            return fail_param(err, ERR_INVALID, field->name, "a token id in %s must be an integer from 0 to %d, not %s",
                              field->name, (int)reading->source->vocab - 1, field_excerpt_of(element).text);
        }
        if (!token_list_append(&prompt->ids, &(int32_t){(int32_t)id}, 1, err)) return false;
    }
    return true;
}

void openai_prompts_clear(struct openai_request *request) {
    for (int32_t i = 0; i < request->n_prompts; ++i) {
        free(request->prompts[i].text.data);
        token_list_finish(&request->prompts[i].ids);
    }
    free(request->prompts);
    request->prompts = NULL;
    request->n_prompts = 0;
}

FIELD_READER(read_prompt) {
    openai_prompts_clear(reading->request); // of a repeated key the last counts
    reading->has_prompt = true;
    if (json_text_kind(value) == JSON_STRING) return add_text(field, value, reading, err);
    struct json_cursor cursor = {0};
    struct json_text element;
    if (json_text_kind(value) != JSON_ARRAY || !json_text_next(value, &cursor, &element)) {
        return field_refuse(field, value, err);
    }
    enum json_kind first = json_text_kind(element);
    if (first == JSON_NUMBER) return add_ids(field, value, reading, err);
    do {
        bool added =
            first == JSON_ARRAY ? add_ids(field, element, reading, err) : add_text(field, element, reading, err);
        if (!added) return false;
    } while (json_text_next(value, &cursor, &element));
    return true;
}
