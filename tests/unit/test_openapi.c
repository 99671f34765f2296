/* The document that describes the server names each route of its table, and no other. */
#include "server/embedded.h"
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

static void test_the_version_is_ours(void **state) {
    const cJSON *info = cJSON_GetObjectItemCaseSensitive(*state, "info");
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(info, "version");
    assert_string_equal(cJSON_GetStringValue(version), QUERN_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_route_is_documented),
        cmocka_unit_test(test_each_operation_is_served),
        cmocka_unit_test(test_the_version_is_ours),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
