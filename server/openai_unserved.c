/* Fields that have no effect, and those that would have one and are not served. */
#include "server/openai_field.h"

#include <stdio.h>
#include <string.h>

/* Whether value is one of those in field->allowed. */
static bool asks_for_nothing(const struct field *field, struct json_text value) {
    struct string_builder dump = {0};
    json_text_dump(value, &dump);
    string_builder_append_text(&dump, ""); // a NUL behind it
    bool found = false;
    for (const char *one = field->allowed; one != NULL && dump.data != NULL && !found;) {
        const char *next = strstr(one, " or ");
        size_t length = next != NULL ? (size_t)(next - one) : strlen(one);
        found = length == dump.length && memcmp(one, dump.data, length) == 0;
        one = next != NULL ? next + strlen(" or ") : NULL;
    }
    string_builder_finish(&dump);
    return found;
}

static void note(struct reading *reading, const char *prefix, const char *name, size_t length) {
    char *out = reading->passed_over + reading->n_passed_over;
    size_t room = sizeof reading->passed_over - reading->n_passed_over;
    int n = snprintf(out, room, "%s%s%.*s", reading->n_passed_over > 0 ? ", " : "", prefix, (int)length, name);
    if (n < 0 || (size_t)n >= room)
        *out = '\0'; // no room: those before it are told
    else
        reading->n_passed_over += (size_t)n;
}

void field_pass_over_unknown(struct reading *reading, const char *prefix, struct json_text key) {
    struct field_excerpt name = field_excerpt_of(key); // with its quotes
    log_message(reading->source->log, LOG_DEBUG, "the request field %s%s is not known and was ignored", prefix,
                name.text);
    size_t length = strlen(name.text) - 1;
    if (name.text[length] == '"') --length;
    if (reading->source->is_strict) note(reading, prefix, name.text + 1, length);
}

void field_pass_over_members(struct reading *reading, const char *prefix, struct json_text object,
                             const char *const *known) {
    struct json_cursor cursor = {0};
    struct json_text key, value;
    while (json_text_next_member(object, &cursor, &key, &value)) {
        bool is_known = json_text_kind(value) == JSON_NULL;
        for (const char *const *name = known; *name != NULL; ++name) is_known |= json_text_equals(key, *name);
        if (!is_known) field_pass_over_unknown(reading, prefix, key);
    }
}

FIELD_READER(read_without_effect) {
    (void)err;
    bool is_noted = reading->source->is_strict && !asks_for_nothing(field, value);
    if (is_noted) note(reading, "", field->name, strlen(field->name));
    return true;
}

bool field_check_passed_over(const struct reading *reading, struct error *err) {
    char first[sizeof err->param];
    if (reading->n_passed_over == 0) return true;
    snprintf(first, sizeof first, "%.*s", (int)strcspn(reading->passed_over, ","), reading->passed_over);
    return fail_param(err, ERR_INVALID, first, "not known or without effect, which --strict does not allow: %s",
                      reading->passed_over);
}

FIELD_READER(read_unserved) {
    (void)reading;
    if (asks_for_nothing(field, value)) return true;
    if (field->allowed == NULL)
        return fail_param(err, ERR_INVALID, field->name, "%s is not supported; it must be left out", field->name);
    return fail_param(err, ERR_INVALID, field->name, "%s is not supported beyond %s, not %s", field->name,
                      field->allowed, field_excerpt_of(value).text);
}
