#include "server/openai_field.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct field_excerpt field_excerpt_of(struct json_text value) {
    struct field_excerpt excerpt;
    size_t length = value.length < 48 ? value.length : 48;
    bool cut = length < value.length;
    while (cut && length > 0 && ((unsigned char)value.data[length] & 0xC0) == 0x80) --length;
    snprintf(excerpt.text, sizeof excerpt.text, "%.*s%s", (int)length, value.data, cut ? "…" : "");
    return excerpt;
}

bool field_refuse(const struct field *field, struct json_text value, struct error *err) {
    return fail_param(err, ERR_INVALID, field->name, "%s must be %s, not %s", field->name, field->allowed,
                      field_excerpt_of(value).text);
}

bool field_no_memory(struct error *err) {
    return fail(err, ERR_MEMORY, "no memory to read the request");
}

bool field_integer_of(struct json_text value, int64_t *integer) {
    if (json_text_kind(value) != JSON_NUMBER) return false;
    errno = 0;
    char *end;
    *integer = strtoll(value.data, &end, 10);
    if (end == value.data + value.length) return errno == 0;
    double real = strtod(value.data, NULL);
    if (!(fabs(real) <= 9007199254740992.0) || real != floor(real)) return false;
    *integer = (int64_t)real;
    return true;
}

bool field_integer(const struct field *field, struct json_text value, int32_t *integer, struct error *err) {
    int64_t given;
    if (!field_integer_of(value, &given) || (double)given < field->min || (double)given > field->max) {
        return field_refuse(field, value, err);
    }
    *integer = (int32_t)given;
    return true;
}

bool field_real(const struct field *field, struct json_text value, float *real, struct error *err) {
    if (json_text_kind(value) != JSON_NUMBER) return field_refuse(field, value, err);
    double given = strtod(value.data, NULL);
    if (!(given >= field->min && given <= field->max)) return field_refuse(field, value, err);
    *real = (float)given;
    return true;
}

bool field_flag(const struct field *field, struct json_text value, bool *flag, struct error *err) {
    if (json_text_kind(value) != JSON_BOOL) return field_refuse(field, value, err);
    *flag = value.data[0] == 't';
    return true;
}

bool field_text(struct json_text value, char **data, size_t *length, struct error *err) {
    struct string_builder text = {0};
    json_text_decode(value, &text);
    *data = string_builder_take(&text, length);
    string_builder_finish(&text);
    return *data != NULL || field_no_memory(err);
}
