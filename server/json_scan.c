#include "server/json_scan.h"

#include <assert.h>
#include <string.h>

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static enum json_scan_status go(struct json_scan *scan, enum json_scan_state state) {
    scan->state = state;
    return JSON_SCAN_MORE;
}

static bool in_object(const struct json_scan *scan) {
    int level = scan->depth - 1;
    return scan->is_object[level / 8] >> (level % 8) & 1;
}

static enum json_scan_status open_bracket(struct json_scan *scan, bool is_object) {
    if (scan->depth == JSON_TEXT_MAX_DEPTH) return JSON_SCAN_FAULT;
    uint8_t bit = (uint8_t)(1 << scan->depth % 8), *byte = &scan->is_object[scan->depth / 8];
    *byte = is_object ? *byte | bit : *byte & (uint8_t)~bit;
    ++scan->depth;
    return go(scan, is_object ? JSON_SCAN_KEY_OR_END : JSON_SCAN_VALUE_OR_END);
}

static enum json_scan_status close_bracket(struct json_scan *scan, char c) {
    if (c != (in_object(scan) ? '}' : ']')) return JSON_SCAN_FAULT;
    scan->state = JSON_SCAN_AFTER;
    return --scan->depth == 0 ? JSON_SCAN_DONE : JSON_SCAN_MORE;
}

static enum json_scan_status begin_string(struct json_scan *scan, bool is_key) {
    scan->is_key = is_key;
    return go(scan, JSON_SCAN_STRING);
}

static enum json_scan_status begin_word(struct json_scan *scan, const char *rest) {
    scan->word = rest;
    return go(scan, JSON_SCAN_WORD);
}

static enum json_scan_status begin_value(struct json_scan *scan, char c) {
    switch (c) {
    case '{':
    case '[':
        return open_bracket(scan, c == '{');
    case '"':
        return begin_string(scan, false);
    case 't':
        return begin_word(scan, "rue");
    case 'f':
        return begin_word(scan, "alse");
    case 'n':
        return begin_word(scan, "ull");
    case '-':
        return go(scan, JSON_SCAN_MINUS);
    case '0':
        return go(scan, JSON_SCAN_ZERO);
    default:
        return is_digit(c) ? go(scan, JSON_SCAN_INTEGER) : JSON_SCAN_FAULT;
    }
}

/* A byte behind a value, which ends a number too. */
static enum json_scan_status after_value(struct json_scan *scan, char c) {
    if (is_space(c)) return go(scan, JSON_SCAN_AFTER);
    if (c == ',') return go(scan, in_object(scan) ? JSON_SCAN_KEY : JSON_SCAN_VALUE);
    return close_bracket(scan, c);
}

static enum json_scan_status in_string(struct json_scan *scan, char c) {
    if ((unsigned char)c < 0x20) return JSON_SCAN_FAULT;
    if (c == '\\') return go(scan, JSON_SCAN_ESCAPE);
    if (c == '"') return go(scan, scan->is_key ? JSON_SCAN_COLON : JSON_SCAN_AFTER);
    return JSON_SCAN_MORE;
}

static enum json_scan_status in_escape(struct json_scan *scan, char c) {
    if (c == '\0' || strchr("\"\\/bfnrtu", c) == NULL) return JSON_SCAN_FAULT;
    scan->n_hex = 4;
    return go(scan, c == 'u' ? JSON_SCAN_HEX : JSON_SCAN_STRING);
}

static enum json_scan_status in_number(struct json_scan *scan, char c) {
    bool digit = is_digit(c);
    switch (scan->state) {
    case JSON_SCAN_MINUS:
        if (!digit) return JSON_SCAN_FAULT;
        return go(scan, c == '0' ? JSON_SCAN_ZERO : JSON_SCAN_INTEGER);
    case JSON_SCAN_POINT:
        return digit ? go(scan, JSON_SCAN_FRACTION) : JSON_SCAN_FAULT;
    case JSON_SCAN_EXPONENT:
        if (c == '+' || c == '-') return go(scan, JSON_SCAN_EXPONENT_SIGN);
        return digit ? go(scan, JSON_SCAN_EXPONENT_DIGITS) : JSON_SCAN_FAULT;
    case JSON_SCAN_EXPONENT_SIGN:
        return digit ? go(scan, JSON_SCAN_EXPONENT_DIGITS) : JSON_SCAN_FAULT;
    case JSON_SCAN_EXPONENT_DIGITS:
        return digit ? JSON_SCAN_MORE : after_value(scan, c);
    default:
        break;
    }
    if (digit && scan->state != JSON_SCAN_ZERO) return JSON_SCAN_MORE;
    if (c == '.' && scan->state != JSON_SCAN_FRACTION) return go(scan, JSON_SCAN_POINT);
    if (c == 'e' || c == 'E') return go(scan, JSON_SCAN_EXPONENT);
    return after_value(scan, c);
}

enum json_scan_status json_scan_push(struct json_scan *scan, char c) {
    switch (scan->state) {
    case JSON_SCAN_STRING:
        return in_string(scan, c);
    case JSON_SCAN_ESCAPE:
        return in_escape(scan, c);
    case JSON_SCAN_HEX:
        if (!is_hex(c)) return JSON_SCAN_FAULT;
        return --scan->n_hex == 0 ? go(scan, JSON_SCAN_STRING) : JSON_SCAN_MORE;
    case JSON_SCAN_WORD:
        if (c != *scan->word) return JSON_SCAN_FAULT;
        return *++scan->word == '\0' ? go(scan, JSON_SCAN_AFTER) : JSON_SCAN_MORE;
    case JSON_SCAN_START:
    case JSON_SCAN_VALUE:
    case JSON_SCAN_VALUE_OR_END:
    case JSON_SCAN_KEY:
    case JSON_SCAN_KEY_OR_END:
    case JSON_SCAN_COLON:
        break;
    case JSON_SCAN_AFTER:
        return after_value(scan, c);
    default:
        return in_number(scan, c);
    }
    if (is_space(c)) return JSON_SCAN_MORE;
    switch (scan->state) {
    case JSON_SCAN_START:
        return c == '{' ? open_bracket(scan, true) : JSON_SCAN_FAULT;
    case JSON_SCAN_COLON:
        return c == ':' ? go(scan, JSON_SCAN_VALUE) : JSON_SCAN_FAULT;
    case JSON_SCAN_VALUE:
        return begin_value(scan, c);
    case JSON_SCAN_VALUE_OR_END:
        return c == ']' ? close_bracket(scan, c) : begin_value(scan, c);
    default:
        if (c == '}' && scan->state == JSON_SCAN_KEY_OR_END) return close_bracket(scan, c);
        return c == '"' ? begin_string(scan, true) : JSON_SCAN_FAULT;
    }
}
