#include "server/json_text.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include <utf8proc.h>

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Reads a document from the left and remembers why it stopped. */
struct scanner {
    const char *data;
    size_t length;
    size_t offset;
    const char *fault; // NULL: none
};

static bool refuse(struct scanner *scanner, const char *fault) {
    if (!scanner->fault) scanner->fault = fault;
    return false;
}

/* The byte at offset, NUL at the end: no JSON token holds one. */
static char peek(const struct scanner *scanner) {
    return scanner->offset < scanner->length ? scanner->data[scanner->offset] : '\0';
}

static bool take(struct scanner *scanner, char c) {
    if (peek(scanner) != c) return false;
    scanner->offset++;
    return true;
}

static void skip_space(struct scanner *scanner) {
    while (is_space(peek(scanner))) scanner->offset++;
}

static bool scan_word(struct scanner *scanner, const char *word) {
    for (const char *c = word; *c; c++)
        if (!take(scanner, *c)) return refuse(scanner, "is neither a value nor the end of one");
    return true;
}

static bool scan_digits(struct scanner *scanner) {
    if (!is_digit(peek(scanner))) return refuse(scanner, "should be a digit");
    while (is_digit(peek(scanner))) scanner->offset++;
    return true;
}

static bool scan_number(struct scanner *scanner) {
    take(scanner, '-');
    if (!take(scanner, '0') && !scan_digits(scanner)) return false;
    if (take(scanner, '.') && !scan_digits(scanner)) return false;
    if (!take(scanner, 'e') && !take(scanner, 'E')) return true;
    if (!take(scanner, '+')) take(scanner, '-');
    return scan_digits(scanner);
}

static int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool scan_escape(struct scanner *scanner) {
    char kind = peek(scanner);
    if (kind == '\0' || !strchr("\"\\/bfnrtu", kind)) return refuse(scanner, "is not an escape of JSON");
    scanner->offset++;
    if (kind != 'u') return true;
    for (int i = 0; i < 4; i++, scanner->offset++)
        if (hex_value(peek(scanner)) < 0) return refuse(scanner, "should be one of four hexadecimal digits");
    return true;
}

static bool scan_string(struct scanner *scanner) {
    if (!take(scanner, '"')) return refuse(scanner, "should be a string");
    while (scanner->offset < scanner->length) {
        unsigned char c = (unsigned char)scanner->data[scanner->offset];
        utf8proc_int32_t code_point;
        utf8proc_ssize_t n = 1;
        if (c < 0x20) return refuse(scanner, "is a control character, which JSON writes as an escape");
        if (c >= 0x80)
            n = utf8proc_iterate((const utf8proc_uint8_t *)scanner->data + scanner->offset,
                                 (utf8proc_ssize_t)(scanner->length - scanner->offset), &code_point);
        if (n < 1) return refuse(scanner, "is not valid UTF-8");
        scanner->offset += (size_t)n;
        if (c == '"') return true;
        if (c == '\\' && !scan_escape(scanner)) return false;
    }
    return refuse(scanner, "ends inside a string");
}

static bool scan_value(struct scanner *scanner, int depth);

/* What follows the opening bracket of an array or, with keys, of an object. */
static bool scan_members(struct scanner *scanner, char closing, int depth) {
    if (depth > JSON_TEXT_MAX_DEPTH) return refuse(scanner, "is nested too deeply");
    skip_space(scanner);
    if (take(scanner, closing)) return true;
    for (;;) {
        if (closing == '}') {
            skip_space(scanner);
            if (!scan_string(scanner)) return false;
            skip_space(scanner);
            if (!take(scanner, ':')) return refuse(scanner, "should be a colon");
        }
        skip_space(scanner);
        if (!scan_value(scanner, depth)) return false;
        skip_space(scanner);
        if (take(scanner, closing)) return true;
        if (!take(scanner, ',')) return refuse(scanner, "should be a comma or the end of the list");
    }
}

static bool scan_value(struct scanner *scanner, int depth) {
    switch (peek(scanner)) {
    case '{':
        scanner->offset++;
        return scan_members(scanner, '}', depth + 1);
    case '[':
        scanner->offset++;
        return scan_members(scanner, ']', depth + 1);
    case '"':
        return scan_string(scanner);
    case 't':
        return scan_word(scanner, "true");
    case 'f':
        return scan_word(scanner, "false");
    case 'n':
        return scan_word(scanner, "null");
    default:
        if (peek(scanner) == '-' || is_digit(peek(scanner))) return scan_number(scanner);
        return refuse(scanner, scanner->offset < scanner->length ? "is not the start of a value" : "ends too early");
    }
}

bool json_text_check(const char *data, size_t length, struct json_text *value, struct error *err) {
    struct scanner scanner = {.data = data, .length = length};
    skip_space(&scanner);
    size_t start = scanner.offset;
    bool valid = scan_value(&scanner, 0);
    *value = (struct json_text){data + start, scanner.offset - start};
    if (valid) skip_space(&scanner);
    if (valid && scanner.offset < length) valid = refuse(&scanner, "stands behind the end of the document");
    if (valid) return true;
    return fail(err, ERR_INVALID, "The JSON is malformed: byte %zu %s.", scanner.offset, scanner.fault);
}

enum json_kind json_text_kind(struct json_text value) {
    switch (value.data[0]) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
    case 'f':
        return JSON_BOOL;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

const char *json_text_kind_name(struct json_text value) {
    static const char *const names[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "a boolean", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array", [JSON_OBJECT] = "an object",
    };
    return names[json_text_kind(value)];
}

/* The end of the string that starts at data[0]; the text was checked. */
static size_t string_length(const char *data) {
    size_t length = 1;
    while (data[length] != '"') length += data[length] == '\\' ? 2 : 1;
    return length + 1;
}

/* The length of the value that starts at data[0]. */
static size_t value_length(const char *data, size_t available) {
    size_t length = 0;
    int depth = 0;
    do {
        char c = data[length];
        if (c == '"')
            length += string_length(data + length);
        else
            length++;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        bool is_scalar = depth == 0 && c != '"' && c != '}' && c != ']';
        while (is_scalar && length < available && !is_space(data[length]) && !strchr(",]}", data[length])) length++;
    } while (depth > 0);
    return length;
}

/* Steps over space, a comma or a colon, and the opening bracket; false at the closing one. */
static bool next_part(struct json_text list, size_t *offset, struct json_text *part) {
    if (*offset == 0) *offset = 1;
    while (is_space(list.data[*offset]) || list.data[*offset] == ',' || list.data[*offset] == ':') ++*offset;
    if (*offset >= list.length - 1) return false;
    *part = (struct json_text){list.data + *offset, value_length(list.data + *offset, list.length - *offset)};
    *offset += part->length;
    return true;
}

bool json_text_next(struct json_text array, struct json_cursor *cursor, struct json_text *element) {
    assert(json_text_kind(array) == JSON_ARRAY);
    return next_part(array, &cursor->offset, element);
}

bool json_text_next_member(struct json_text object, struct json_cursor *cursor, struct json_text *key,
                           struct json_text *value) {
    assert(json_text_kind(object) == JSON_OBJECT);
    return next_part(object, &cursor->offset, key) && next_part(object, &cursor->offset, value);
}

bool json_text_at(struct json_text array, size_t index, struct json_text *value) {
    struct json_cursor cursor = {0};
    while (json_text_next(array, &cursor, value))
        if (index-- == 0) return true;
    return false;
}

bool json_text_find(struct json_text object, const char *key, struct json_text *value) {
    assert(json_text_kind(object) == JSON_OBJECT);
    struct json_text name, member;
    bool found = false;
    for (size_t offset = 0; next_part(object, &offset, &name) && next_part(object, &offset, &member);) {
        if (!json_text_equals(name, key)) continue;
        *value = member;
        found = true;
    }
    return found;
}

static uint32_t hex4(const char *digits) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value = value << 4 | (uint32_t)hex_value(digits[i]);
    return value;
}

/* Decodes the escape behind a backslash to UTF-8 in out and returns what it took of the text. */
static size_t decode_escape(const char *escape, char out[4], size_t *n_out) {
    static const char letters[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    *n_out = 1;
    if (*escape != 'u') {
        const char *letter = strchr(letters, *escape);
        out[0] = letter ? meanings[letter - letters] : *escape;
        return 1;
    }
    uint32_t code_point = hex4(escape + 1);
    size_t taken = 5;
    if (code_point >= 0xd800 && code_point < 0xe000) {
        bool is_high = code_point < 0xdc00 && escape[5] == '\\' && escape[6] == 'u';
        uint32_t low = is_high ? hex4(escape + 7) : 0;
        bool is_pair = low >= 0xdc00 && low < 0xe000;
        code_point = is_pair ? 0x10000 + ((code_point - 0xd800) << 10) + (low - 0xdc00) : 0xfffd;
        if (is_pair) taken = 11;
    }
    *n_out = (size_t)utf8proc_encode_char((utf8proc_int32_t)code_point, (utf8proc_uint8_t *)out);
    return taken;
}

/* Gives the decoded string piece by piece; false at its end. A piece lies in the text or in buffer. */
static bool next_piece(struct json_text string, size_t *offset, char buffer[4], struct json_text *piece) {
    if (*offset == 0) *offset = 1;
    size_t start = *offset, end = string.length - 1;
    if (start >= end) return false;
    if (string.data[start] == '\\') {
        size_t n;
        *offset += 1 + decode_escape(string.data + start + 1, buffer, &n);
        *piece = (struct json_text){buffer, n};
        return true;
    }
    while (*offset < end && string.data[*offset] != '\\') ++*offset;
    *piece = (struct json_text){string.data + start, *offset - start};
    return true;
}

void json_text_decode(struct json_text string, struct string_builder *out) {
    assert(json_text_kind(string) == JSON_STRING);
    char buffer[4];
    struct json_text piece;
    for (size_t offset = 0; next_piece(string, &offset, buffer, &piece);)
        string_builder_append(out, piece.data, piece.length);
}

bool json_text_equals(struct json_text string, const char *text) {
    assert(json_text_kind(string) == JSON_STRING);
    char buffer[4];
    struct json_text piece;
    size_t length = strlen(text);
    for (size_t offset = 0; next_piece(string, &offset, buffer, &piece);) {
        if (piece.length > length || memcmp(piece.data, text, piece.length) != 0) return false;
        text += piece.length;
        length -= piece.length;
    }
    return length == 0;
}
