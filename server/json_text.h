/* JSON as text: what a parsed tree forgets (was it 1 or 1.0, which bytes were written) is read here from the source.
 *
 * A struct json_text is a borrowed slice of a document that json_text_check accepted: exactly one value, without
 * surrounding space. Strictly RFC 8259 (no NaN, no comments, no raw control characters), at most JSON_TEXT_MAX_DEPTH
 * levels deep. Functions take O(length of the slice). */
#ifndef QUERN_SERVER_JSON_TEXT_H
#define QUERN_SERVER_JSON_TEXT_H

#include "engine/error.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stddef.h>

#define JSON_TEXT_MAX_DEPTH 128

struct json_text {
    const char *data; // borrowed
    size_t length;
};

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Checks the whole document, UTF-8 included, and gives its value. ERR_INVALID names the byte offset of the fault. */
bool json_text_check(const char *data, size_t length, struct json_text *value, struct error *err);

enum json_kind json_text_kind(struct json_text value);

/* "null", "a boolean", "a number", … for messages. */
const char *json_text_kind_name(struct json_text value);

/* The member's value; of several with one key the last, as most parsers do. False when there is none. */
bool json_text_find(struct json_text object, const char *key, struct json_text *value);

/* The element at index, counted from 0. False past the end. */
bool json_text_at(struct json_text array, size_t index, struct json_text *value);

/* Steps through an array in O(its length): start with a zeroed cursor; false after the last element. */
struct json_cursor {
    size_t offset; // into the text; 0 before the first element
};
bool json_text_next(struct json_text array, struct json_cursor *cursor, struct json_text *element);

/* The same through the members of an object, in their order. */
bool json_text_next_member(struct json_text object, struct json_cursor *cursor, struct json_text *key,
                           struct json_text *value);

/* Appends the characters of a JSON string, escapes decoded. A lone surrogate becomes U+FFFD. */
void json_text_decode(struct json_text string, struct string_builder *out);

/* Whether a JSON string says exactly this text. */
bool json_text_equals(struct json_text string, const char *text);

/* Appends the value as Python's json.dumps(json.loads(value), ensure_ascii=False) writes it: ", " and ": ", integers
 * stay integers, floats are the shortest digits that read back the same, of equal keys the first place and the last
 * value. A lone surrogate becomes U+FFFD, which UTF-8 can carry. */
void json_text_dump(struct json_text value, struct string_builder *out);

#endif
