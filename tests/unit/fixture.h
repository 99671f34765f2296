/* Files that tests read: paths below the source root, and JSON with its values as they are written. */
#ifndef QUERN_TESTS_UNIT_FIXTURE_H
#define QUERN_TESTS_UNIT_FIXTURE_H

#include "server/json_text.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef QUERN_SOURCE_ROOT
#define QUERN_SOURCE_ROOT "." // tests run in the source root
#endif

/* The file's bytes, for the caller to free; NULL when there is no such file. */
static inline char *fixture_read(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    struct string_builder text = {0};
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;) string_builder_append(&text, block, n);
    fclose(file);
    char *data = string_builder_take(&text, length);
    assert_non_null(data);
    return data;
}

/* The same as one checked JSON value; *data is the caller's to free. */
static inline struct json_text fixture_json(const char *path, char **data) {
    struct error err = {0};
    struct json_text value;
    size_t length;
    *data = fixture_read(path, &length);
    if (!*data) print_error("%s is missing\n", path);
    assert_non_null(*data);
    if (!json_text_check(*data, length, &value, &err)) print_error("%s: %s\n", path, err.message);
    assert_int_equal(err.code, ERR_NONE);
    return value;
}

/* A member that must be there. */
static inline struct json_text fixture_member(struct json_text object, const char *key) {
    struct json_text value;
    if (!json_text_find(object, key, &value)) print_error("no member %s\n", key);
    assert_true(json_text_find(object, key, &value));
    return value;
}

/* The characters of a member that is a string, for the caller to free. */
static inline char *fixture_string(struct json_text object, const char *key, size_t *length) {
    struct string_builder text = {0};
    json_text_decode(fixture_member(object, key), &text);
    char *data = string_builder_take(&text, length);
    assert_non_null(data);
    return data;
}

#endif
