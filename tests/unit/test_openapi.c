/* The document that describes the server names each route of its table and each field of a request, and no others. */
#include "server/embedded.h"
#include "server/openai_field.h"
#include "server/openai_request.h"
#include "server/routes.h"
#include "tests/test.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static int set_up(void **state) {
    const struct embedded_file *file = embedded_find("openapi.json");
    assert_non_null(file);
    assert_int_equal(file->data[file->length], '\0');
    *state = cJSON_ParseWithLength(file->data, file->length);
    assert_non_null(*state);
    return 0;
}

static int tear_down(void **state) {
    cJSON_Delete(*state);
    return 0;
}

/* As the table writes it; "/v1/models/{model}" may be "/v1/models/" there, for longer paths too. */
static bool is_path(const char *documented, const char *path) {
    size_t length = strcspn(documented, "{");
    return strcmp(documented, path) == 0 || (strlen(path) == length && strncmp(documented, path, length) == 0);
}

static bool is_method(const char *documented, const char *method) {
    size_t i = 0;
    while (documented[i] != '\0' && toupper((unsigned char)documented[i]) == method[i]) ++i;
    return documented[i] == method[i];
}

static bool is_documented(const cJSON *document, const char *method, const char *path) {
    const cJSON *item, *operation;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(document, "paths")) {
        if (!is_path(item->string, path)) continue;
        cJSON_ArrayForEach(operation, item) {
            if (is_method(operation->string, method)) return true;
        }
    }
    return false;
}

static bool is_served(const char *documented_method, const char *documented_path) {
    const char *method, *path;
    for (size_t i = 0; routes_entry(i, &method, &path); ++i) {
        if (is_path(documented_path, path) && is_method(documented_method, method)) return true;
    }
    return false;
}

static void test_each_route_is_documented(void **state) {
    const char *method, *path;
    size_t n = 0;
    for (; routes_entry(n, &method, &path); ++n) {
        if (!is_documented(*state, method, path)) fail_msg("%s %s is not in openapi.json", method, path);
    }
    assert_true(n > 10);
}

static void test_each_operation_is_served(void **state) {
    const cJSON *item, *operation;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(*state, "paths")) {
        cJSON_ArrayForEach(operation, item) {
            const char *name = operation->string;
            if (strcmp(name, "parameters") == 0 || strcmp(name, "options") == 0) continue;
            const char *method = strcmp(name, "head") == 0 ? "get" : name; // GET answers HEAD too
            if (!is_served(method, item->string)) fail_msg("%s %s is not served", name, item->string);
        }
    }
}

static const cJSON *schema_of(const cJSON *document, const char *name) {
    const cJSON *components = cJSON_GetObjectItemCaseSensitive(document, "components");
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(components, "schemas"), name);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), n = strlen(end);
    return length >= n && strcmp(text + length - n, end) == 0;
}

/* Which fields the schemas NoEffect, NotServed and those named so for one endpoint hold, their names say. */
static enum openai_field_state state_of(const char *schema) {
    return ends_with(schema, "NoEffect")    ? OPENAI_FIELD_WITHOUT_EFFECT
           : ends_with(schema, "NotServed") ? OPENAI_FIELD_REFUSED
                                            : OPENAI_FIELD_SERVED;
}

/* A schema of the document, and the table of the fields that its endpoint reads. */
struct request {
    const char *schema;
    enum openai_endpoint endpoint;
    bool (*field_at)(size_t index, struct openai_field *field);
};

/* What openai_request_field tells of its table, of an entry of another one. */
static bool tell(const struct field *field, struct openai_field *out) {
    if (field == NULL) return false;
    *out = (struct openai_field){.name = field->name, .endpoints = field->endpoints};
    if (field->read == read_without_effect) out->state = OPENAI_FIELD_WITHOUT_EFFECT;
    if (field->read == read_unserved) out->state = OPENAI_FIELD_REFUSED;
    return true;
}

static bool embeddings_field_at(size_t index, struct openai_field *out) {
    return tell(embeddings_field(index), out);
}

static bool responses_field_at(size_t index, struct openai_field *out) {
    return tell(responses_field(index), out);
}

static const struct request requests[] = {{"ChatCompletionRequest", OPENAI_CHAT, openai_request_field},
                                          {"CompletionRequest", OPENAI_COMPLETIONS, openai_request_field},
                                          {"EmbeddingsRequest", OPENAI_EMBEDDINGS, embeddings_field_at},
                                          {"ResponseRequest", OPENAI_RESPONSES, responses_field_at}};

static bool is_field(const struct request *request, const char *name, enum openai_field_state state) {
    struct openai_field field;
    for (size_t i = 0; request->field_at(i, &field); ++i) {
        if (strcmp(field.name, name) == 0 && (field.endpoints & (int)request->endpoint) != 0)
            return field.state == state;
    }
    return false;
}

/* Each property of the parts of a request is a field of the table, in its state; returns whether one is `name`. */
static bool look_for(const cJSON *document, const struct request *request, const char *name) {
    const cJSON *part, *property;
    bool found = false;
    cJSON_ArrayForEach(part, cJSON_GetObjectItemCaseSensitive(schema_of(document, request->schema), "allOf")) {
        const char *reference = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(part, "$ref"));
        const char *schema = reference != NULL ? strrchr(reference, '/') + 1 : request->schema;
        const cJSON *object = reference != NULL ? schema_of(document, schema) : part;
        cJSON_ArrayForEach(property, cJSON_GetObjectItemCaseSensitive(object, "properties")) {
            if (!is_field(request, property->string, state_of(schema)))
                fail_msg("%s in %s is no such field", property->string, schema);
            found |= strcmp(property->string, name) == 0;
        }
    }
    return found;
}

static void test_each_field_is_documented(void **state) {
    struct openai_field field;
    for (const struct request *request = requests; request < requests + sizeof requests / sizeof *requests; ++request) {
        for (size_t i = 0; request->field_at(i, &field); ++i) {
            if ((field.endpoints & (int)request->endpoint) != 0 && !look_for(*state, request, field.name))
                fail_msg("%s is not in %s", field.name, request->schema);
        }
    }
}

static void test_the_version_is_ours(void **state) {
    const cJSON *info = cJSON_GetObjectItemCaseSensitive(*state, "info");
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(info, "version");
    assert_string_equal(cJSON_GetStringValue(version), QUERN_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_route_is_documented),
        cmocka_unit_test(test_each_operation_is_served),
        cmocka_unit_test(test_each_field_is_documented),
        cmocka_unit_test(test_the_version_is_ours),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
