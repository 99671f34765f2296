#include "server/call_reader.h"

/* The members of the object itself, not of what lies in it. */
static bool is_outermost(const struct call_reader *reader) {
    return reader->scan.depth == 1;
}

static void append(struct string_builder *builder, char c) {
    string_builder_append(builder, &c, 1);
}

/* A key of the object is complete; part holds it with its quotes. */
static enum call_status take_key(struct call_reader *reader) {
    const struct json_text key = {reader->part.data, reader->part.length};
    if (reader->part.failure != ERR_NONE) return CALL_MALFORMED;
    reader->member = json_text_equals(key, "name")        ? CALL_MEMBER_NAME
                     : json_text_equals(key, "arguments") ? CALL_MEMBER_ARGUMENTS
                                                          : CALL_MEMBER_OTHER;
    reader->part.length = 0;
    bool again = (reader->member == CALL_MEMBER_NAME && reader->is_named) ||
                 (reader->member == CALL_MEMBER_ARGUMENTS && reader->has_arguments);
    return again ? CALL_MALFORMED : CALL_MORE;
}

static enum call_status take_name(struct call_reader *reader) {
    if (reader->part.failure != ERR_NONE) return CALL_MALFORMED;
    json_text_decode((struct json_text){reader->part.data, reader->part.length}, &reader->name);
    reader->part.length = 0;
    reader->is_named = true;
    return reader->name.length > 0 ? CALL_MORE : CALL_MALFORMED;
}

/* The first byte of a value of the object. */
static enum call_status begin_value(struct call_reader *reader, char c) {
    if (reader->member == CALL_MEMBER_NAME && c != '"') return CALL_MALFORMED;
    if (reader->member == CALL_MEMBER_ARGUMENTS && c != '{') return CALL_MALFORMED;
    reader->has_arguments |= reader->member == CALL_MEMBER_ARGUMENTS;
    return CALL_MORE;
}

static enum call_status finish(struct call_reader *reader) {
    if (!reader->is_named) return CALL_MALFORMED;
    if (!reader->has_arguments) string_builder_append_text(&reader->arguments, "{}");
    return CALL_DONE;
}

enum call_status call_json_push(struct call_reader *reader, char c) {
    struct json_scan *scan = &reader->scan;
    enum json_scan_state before = scan->state;
    bool was_outermost = is_outermost(reader);
    enum json_scan_status status = json_scan_push(scan, c);
    if (status == JSON_SCAN_FAULT) return CALL_MALFORMED;
    if (status == JSON_SCAN_DONE) return finish(reader);

    bool begins = was_outermost && before == JSON_SCAN_VALUE && scan->state != JSON_SCAN_VALUE;
    if (begins && begin_value(reader, c) == CALL_MALFORMED) return CALL_MALFORMED;
    // All of the arguments but their last brace lies deeper.
    if (reader->member == CALL_MEMBER_ARGUMENTS && (!is_outermost(reader) || !was_outermost)) {
        append(&reader->arguments, c);
        return CALL_MORE;
    }
    if (!was_outermost || !is_outermost(reader)) return CALL_MORE;
    bool is_key = scan->state == JSON_SCAN_COLON && before == JSON_SCAN_STRING;
    bool in_string = scan->state == JSON_SCAN_STRING || scan->state == JSON_SCAN_ESCAPE || scan->state == JSON_SCAN_HEX;
    bool ends_string = before == JSON_SCAN_STRING && !in_string;
    bool is_wanted = scan->is_key || reader->member == CALL_MEMBER_NAME;
    if (is_wanted && (in_string || ends_string)) append(&reader->part, c);
    if (is_key) return take_key(reader);
    return ends_string && reader->member == CALL_MEMBER_NAME ? take_name(reader) : CALL_MORE;
}
