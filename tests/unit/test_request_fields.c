/* The table of fields, docs/api.md, the list in README.md and openapi.json name the same fields, in the same states. */
#include "server/embedded.h"
#include "server/openai_request.h"
#include "server/routes.h"
#include "server/text_file.h"
#include "tests/test.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

enum { N_STATES = 3 };

static bool name_is(const char *name, const char *text, size_t length) {
    return strlen(name) == length && memcmp(name, text, length) == 0;
}

static bool is_in_table(const char *text, size_t length, enum openai_field_state state) {
    struct openai_field field;
    for (size_t i = 0; openai_request_field(i, &field); ++i) {
        if (field.state == state && name_is(field.name, text, length)) return true;
    }
    return false;
}

/* --- what is written --- */

/* Where each state is written of, and what begins behind the last. */
struct document {
    const char *path, *headings[N_STATES];
    bool is_table; // names stand in the first cells of rows, otherwise anywhere
};

static const struct document documents[] = {
    {"docs/api.md", {"## Fields that are served", "## Fields without effect", "## Fields that are refused"}, true},
    {"README.md", {"| served |", "| without effect |", "| refused, unless they ask for nothing |"}, false},
};

/* The part that speaks of a state, to the next heading or the end of the row. */
static struct string_builder read_part(const struct document *document, int state) {
    struct string_builder text = {0}, part = {0};
    assert_true(text_file_read(document->path, &text, NULL));
    const char *begin = strstr(text.data, document->headings[state]);
    if (begin == NULL) fail_msg("%s has no %s", document->path, document->headings[state]);
    begin += strlen(document->headings[state]);
    const char *end = strstr(begin, document->is_table ? "\n## " : "\n");
    string_builder_append(&part, begin, end != NULL ? (size_t)(end - begin) : strlen(begin));
    string_builder_append(&part, "", 1);
    string_builder_finish(&text);
    return part;
}

/* The next `name` from *at on, where names are told; NULL: no more. */
static const char *next_name(const struct document *document, const char **at, size_t *length) {
    while (**at != '\0') {
        if (document->is_table && **at == '\n' && strncmp(*at, "\n| `", 4) != 0) {
            *at += 1 + strcspn(*at + 1, "\n"); // no row
        } else if (document->is_table && strncmp(*at, " | ", 3) == 0) {
            *at += strcspn(*at, "\n"); // the first cell is over
        } else if (*(*at)++ == '`') {
            const char *name = *at;
            *length = strcspn(name, "`");
            *at += *length + 1;
            return name;
        }
    }
    return NULL;
}

static bool is_written(const struct document *document, const char *text, const char *name) {
    size_t length;
    for (const char *given; (given = next_name(document, &text, &length)) != NULL;) {
        if (name_is(name, given, length)) return true;
    }
    return false;
}

static void check_part(const struct document *document, int state) {
    struct string_builder part = read_part(document, state);
    struct openai_field field;
    size_t length, n = 0;
    const char *at = part.data;
    for (const char *name; (name = next_name(document, &at, &length)) != NULL; ++n) {
        if (!is_in_table(name, length, (enum openai_field_state)state))
            fail_msg("%s, %s: %.*s is not so in the table", document->path, document->headings[state], (int)length,
                     name);
    }
    assert_true(n > 10);
    for (size_t i = 0; openai_request_field(i, &field); ++i) {
        if ((int)field.state != state || is_written(document, part.data, field.name)) continue;
        fail_msg("%s, %s has no %s", document->path, document->headings[state], field.name);
    }
    string_builder_finish(&part);
}

static void test_each_field_is_documented_and_no_other(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; ++i) {
        for (int part = 0; part < N_STATES; ++part) check_part(&documents[i], part);
    }
}

static void test_each_route_is_in_the_readme(void **state) {
    (void)state;
    struct string_builder text = {0};
    const char *method, *path;
    char entry[128];
    assert_true(text_file_read("README.md", &text, NULL));
    for (size_t i = 0; routes_entry(i, &method, &path); ++i) {
        snprintf(entry, sizeof entry, "`%s %s", method, path);
        if (strstr(text.data, entry) == NULL) fail_msg("README.md has no %s", entry);
    }
    string_builder_finish(&text);
}

/* --- openapi.json --- */

/* Whether a schema or what it is made of has the property. */
static bool has_property(const cJSON *schema, const char *name) {
    const cJSON *part;
    if (cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(schema, "properties"), name)) return true;
    cJSON_ArrayForEach(part, cJSON_GetObjectItemCaseSensitive(schema, "allOf")) {
        if (has_property(part, name)) return true;
    }
    return false;
}

static void test_each_served_field_is_in_the_description(void **state) {
    (void)state;
    const struct embedded_file *file = embedded_find("openapi.json");
    assert_non_null(file);
    cJSON *document = cJSON_ParseWithLength(file->data, file->length);
    const cJSON *schemas =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(document, "components"), "schemas");
    const cJSON *both = cJSON_GetObjectItemCaseSensitive(schemas, "GenerationRequest");
    const cJSON *chat = cJSON_GetObjectItemCaseSensitive(schemas, "ChatCompletionRequest");
    const cJSON *plain = cJSON_GetObjectItemCaseSensitive(schemas, "CompletionRequest");
    assert_true(both != NULL && chat != NULL && plain != NULL);
    struct openai_field field;
    for (size_t i = 0; openai_request_field(i, &field); ++i) {
        if (field.state != OPENAI_FIELD_SERVED || has_property(both, field.name)) continue;
        bool is_missing = ((field.endpoints & OPENAI_CHAT) != 0 && !has_property(chat, field.name)) ||
                          ((field.endpoints & OPENAI_COMPLETIONS) != 0 && !has_property(plain, field.name));
        if (is_missing) fail_msg("openapi.json has no %s", field.name);
    }
    cJSON_Delete(document);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_field_is_documented_and_no_other),
        cmocka_unit_test(test_each_route_is_in_the_readme),
        cmocka_unit_test(test_each_served_field_is_in_the_description),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
