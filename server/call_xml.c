#include "server/call_reader.h"

#include <string.h>

/* --- what the schema of a tool says of a parameter --- */

enum {
    TYPE_STRING = 1 << JSON_STRING,
    TYPE_NULL = 1 << JSON_NULL,
    MAX_DEPTH = 8,     // anyOf and $ref within such
    MAX_SCHEMAS = 256, // that are looked at for one value: with $ref a short schema can hold 100^4
};

static unsigned type_named(struct json_text name) {
    static const struct {
        const char *name;
        unsigned kinds;
    } types[] = {{"string", TYPE_STRING},     {"integer", 1 << JSON_NUMBER}, {"number", 1 << JSON_NUMBER},
                 {"boolean", 1 << JSON_BOOL}, {"null", TYPE_NULL},           {"object", 1 << JSON_OBJECT},
                 {"array", 1 << JSON_ARRAY}};
    if (json_text_kind(name) != JSON_STRING) return 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; ++i) {
        if (json_text_equals(name, types[i].name)) return types[i].kinds;
    }
    return 0;
}

/* Of "#/$defs/name", or with definitions, what it leads to. */
static bool follow(struct json_text root, struct json_text ref, struct json_text *target) {
    static const char *const places[] = {"$defs", "definitions"};
    struct string_builder text = {0};
    bool found = false;
    if (json_text_kind(ref) == JSON_STRING) json_text_decode(ref, &text);
    string_builder_append(&text, "", 1);
    for (int i = 0; i < 2 && text.data != NULL && !found; ++i) {
        size_t length = strlen(places[i]);
        struct json_text place;
        found = strncmp(text.data, "#/", 2) == 0 && strncmp(text.data + 2, places[i], length) == 0 &&
                text.data[2 + length] == '/' && json_text_find(root, places[i], &place) &&
                json_text_kind(place) == JSON_OBJECT && json_text_find(place, text.data + 3 + length, target);
    }
    string_builder_finish(&text);
    return found;
}

/* A set of enum json_kind, one bit each; 0: the schema, of those in root, does not say. */
static unsigned kinds_of(struct json_text root, struct json_text schema, int depth, int *n_left) {
    struct json_text value, element;
    unsigned kinds = 0;
    if (json_text_kind(schema) != JSON_OBJECT || depth == MAX_DEPTH || *n_left == 0) return 0;
    --*n_left;
    if (json_text_find(schema, "type", &value)) {
        struct json_cursor cursor = {0};
        if (json_text_kind(value) != JSON_ARRAY) return type_named(value);
        while (json_text_next(value, &cursor, &element)) kinds |= type_named(element);
        return kinds;
    }
    if (json_text_find(schema, "$ref", &value))
        return follow(root, value, &element) ? kinds_of(root, element, depth + 1, n_left) : 0;
    static const char *const alternatives[] = {"anyOf", "oneOf"};
    for (int i = 0; i < 2; ++i) {
        struct json_cursor cursor = {0};
        if (!json_text_find(schema, alternatives[i], &value) || json_text_kind(value) != JSON_ARRAY) continue;
        while (json_text_next(value, &cursor, &element)) kinds |= kinds_of(root, element, depth + 1, n_left);
    }
    return kinds;
}

/* Object in object; false when there is no such member or it is none. */
static bool find_object(struct json_text object, const char *key, struct json_text *member) {
    return json_text_find(object, key, member) && json_text_kind(*member) == JSON_OBJECT;
}

static unsigned kinds_of_parameter(const struct call_reader *reader) {
    for (int32_t i = 0; i < reader->n_tools; ++i) {
        struct json_text tool = {reader->tools[i].data, reader->tools[i].length}, function, name, parameters,
                         properties, schema;
        if (!find_object(tool, "function", &function) || !json_text_find(function, "name", &name)) continue;
        if (json_text_kind(name) != JSON_STRING || !json_text_equals(name, reader->name.data)) continue;
        if (!find_object(function, "parameters", &parameters) || !find_object(parameters, "properties", &properties) ||
            !json_text_find(properties, reader->key.data, &schema))
            return 0;
        int n_left = MAX_SCHEMAS;
        return kinds_of(parameters, schema, 0, &n_left);
    }
    return 0;
}

/* --- values --- */

static void write_string(struct string_builder *out, const char *text, size_t length) {
    string_builder_append_text(out, "\"");
    for (size_t i = 0; i < length; ++i) {
        static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt", digits[] = "0123456789abcdef";
        char c = text[i];
        const char *found = c != '\0' ? strchr(escaped, c) : NULL;
        if (found != NULL) {
            string_builder_append(out, (char[]){'\\', letters[found - escaped]}, 2);
        } else if ((unsigned char)c < 0x20) {
            string_builder_append(out, (char[]){'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]}, 6);
        } else {
            string_builder_append(out, &c, 1);
        }
    }
    string_builder_append_text(out, "\"");
}

/* As the template writes these words, and Python. */
static const char *json_word(const char *text, size_t length) {
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (int i = 0; i < 3; ++i) {
        if (strlen(words[i][0]) == length && memcmp(words[i][0], text, length) == 0) return words[i][1];
    }
    return NULL;
}

static void write_value(struct call_reader *reader, const char *text, size_t length) {
    unsigned kinds = kinds_of_parameter(reader);
    // Of what the schema does not describe, only brackets say that it is no string.
    if (kinds == 0) kinds = TYPE_STRING | 1 << JSON_OBJECT | 1 << JSON_ARRAY;
    const char *word = json_word(text, length);
    const char *json = word != NULL ? word : text;
    struct json_text value;
    struct error err;
    bool is_json = json_text_check(json, word != NULL ? strlen(word) : length, &value, &err);
    bool keeps_string = kinds & TYPE_STRING && is_json && json_text_kind(value) == JSON_STRING;
    if (is_json && !keeps_string && kinds & 1u << json_text_kind(value)) {
        string_builder_append(&reader->arguments, value.data, value.length);
    } else {
        write_string(&reader->arguments, text, length);
    }
}

/* --- the form --- */

static enum call_status go(struct call_reader *reader, enum call_xml_state state) {
    reader->state = state;
    return CALL_MORE;
}

static enum call_status take_name(struct call_reader *reader) {
    if (reader->name.length == 0) return CALL_MALFORMED;
    reader->is_named = true;
    string_builder_append_text(&reader->arguments, "{");
    return go(reader, CALL_XML_BETWEEN);
}

static enum call_status take_key(struct call_reader *reader) {
    if (reader->key.length == 0 || reader->key.failure != ERR_NONE) return CALL_MALFORMED;
    string_builder_append_text(&reader->arguments, reader->n_parameters++ > 0 ? ", " : "");
    write_string(&reader->arguments, reader->key.data, reader->key.length);
    string_builder_append_text(&reader->arguments, ": ");
    return go(reader, CALL_XML_TEXT);
}

static enum call_status take_text(struct call_reader *reader) {
    const char *text = reader->part.data != NULL ? reader->part.data : "";
    size_t length = reader->part.length;
    if (reader->part.failure != ERR_NONE) return CALL_MALFORMED;
    if (length > 0 && text[0] == '\n') ++text, --length;
    if (!reader->is_exact && length > 0 && text[length - 1] == '\n') --length;
    write_value(reader, text, length);
    reader->part.length = reader->key.length = 0;
    return go(reader, CALL_XML_BETWEEN);
}

/* A name up to its '>'. */
static enum call_status in_name(struct string_builder *name, char c) {
    if (c == '\n' || c == '<' || c == '\0') return CALL_MALFORMED;
    string_builder_append(name, &c, 1);
    return CALL_MORE;
}

/* White space and tags, nothing else; *mark is the tag that is complete. */
static enum call_status between(struct call_reader *reader, char c, const char *const *marks, int *mark) {
    *mark = MARK_NONE;
    if (reader->mark.length == 0 && (c == '\n' || c == ' ' || c == '\t' || c == '\r')) return CALL_MORE;
    *mark = mark_matcher_push(&reader->mark, c, marks);
    return *mark == MARK_NONE ? CALL_MALFORMED : CALL_MORE;
}

static enum call_status in_text(struct call_reader *reader, char c) {
    static const char *const tag[] = {"</parameter>", NULL}, *const line_and_tag[] = {"\n</parameter>", NULL};
    int mark = mark_matcher_push(&reader->mark, c, reader->is_exact ? line_and_tag : tag);
    if (mark == MARK_PARTIAL) return CALL_MORE;
    if (mark == 0) return take_text(reader);
    string_builder_append(&reader->part, reader->mark.bytes, reader->mark.length);
    bool held = reader->mark.length > 0;
    reader->mark.length = 0;
    if (held) return in_text(reader, c); // it may begin another
    string_builder_append(&reader->part, &c, 1);
    return CALL_MORE;
}

enum call_status call_xml_push(struct call_reader *reader, char c) {
    static const char *const opening[] = {"<function=", NULL};
    static const char *const inner[] = {"</function>", "<parameter=", NULL};
    int mark;
    enum call_status status;
    switch (reader->state) {
    case CALL_XML_BEFORE:
        status = between(reader, c, opening, &mark);
        return mark == 0 ? go(reader, CALL_XML_NAME) : status;
    case CALL_XML_NAME:
        return c == '>' ? take_name(reader) : in_name(&reader->name, c);
    case CALL_XML_BETWEEN:
        status = between(reader, c, inner, &mark);
        if (mark == 0) string_builder_append_text(&reader->arguments, "}");
        return mark == 0 ? CALL_DONE : mark == 1 ? go(reader, CALL_XML_KEY) : status;
    case CALL_XML_KEY:
        return c == '>' ? take_key(reader) : in_name(&reader->key, c);
    case CALL_XML_TEXT:
        break;
    }
    return in_text(reader, c);
}
