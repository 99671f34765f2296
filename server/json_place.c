#include "server/json_place.h"

#include <stdarg.h>
#include <stdio.h>

struct json_place json_place_of(const char *format, ...) {
    struct json_place place;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(place.text, sizeof place.text, format, arguments);
    va_end(arguments);
    return place;
}

bool json_place_refuse(struct error *err, const struct json_place *place, const char *key, const char *message) {
    struct json_place whole = json_place_of("%s%s", place->text, key);
    return fail_param(err, ERR_INVALID, whole.text, "%s %s.", whole.text, message);
}

bool json_place_refuse_kind(struct error *err, const struct json_place *place, const char *key, struct json_text value,
                            const char *wanted) {
    struct json_place whole = json_place_of("%s%s", place->text, key);
    return fail_param(err, ERR_INVALID, whole.text, "%s is %s, but must be %s.", whole.text, json_text_kind_name(value),
                      wanted);
}
