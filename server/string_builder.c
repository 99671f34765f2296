#include "server/string_builder.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct string_builder *builder, size_t length) {
    if (builder->failure != ERR_NONE) return false;
    size_t limit = builder->max_length > 0 ? builder->max_length : SIZE_MAX / 4;
    if (length > limit - builder->length) {
        builder->failure = ERR_TOO_LARGE;
        return false;
    }
    size_t needed = builder->length + length + 1;
    if (needed <= builder->capacity) return true;
    size_t capacity = needed * 2;
    char *data = realloc(builder->data, capacity);
    if (!data) {
        builder->failure = ERR_MEMORY;
        return false;
    }
    builder->data = data;
    builder->capacity = capacity;
    return true;
}

void string_builder_append(struct string_builder *builder, const char *data, size_t length) {
    if (!reserve(builder, length)) return;
    if (length > 0) memcpy(builder->data + builder->length, data, length);
    builder->length += length;
    builder->data[builder->length] = '\0';
}

void string_builder_append_text(struct string_builder *builder, const char *text) {
    string_builder_append(builder, text, strlen(text));
}

bool string_builder_check(const struct string_builder *builder, const char *what, struct error *err) {
    if (builder->failure == ERR_TOO_LARGE)
        return fail(err, ERR_TOO_LARGE, "%s is over %zu bytes.", what, builder->max_length);
    if (builder->failure == ERR_MEMORY)
        return fail(err, ERR_MEMORY, "No memory for %s after %zu bytes.", what, builder->length);
    return true;
}

char *string_builder_take(struct string_builder *builder, size_t *length) {
    reserve(builder, 0);
    char *data = NULL;
    if (builder->failure == ERR_NONE) {
        data = builder->data;
        data[builder->length] = '\0';
        *length = builder->length;
        builder->data = NULL;
    }
    string_builder_finish(builder);
    return data;
}

void string_builder_finish(struct string_builder *builder) {
    free(builder->data);
    *builder = (struct string_builder){.max_length = builder->max_length};
}
