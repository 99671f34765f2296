/* JSON read byte by byte, while it is being generated: is this still the beginning of an object, and is it complete?
 *
 * As strict as json_text_check, but for UTF-8, which the caller has seen to. A struct of 40 bytes, no allocation; at
 * most JSON_TEXT_MAX_DEPTH levels. */
#ifndef QUERN_SERVER_JSON_SCAN_H
#define QUERN_SERVER_JSON_SCAN_H

#include "server/json_text.h"

#include <stdint.h>

enum json_scan_status { JSON_SCAN_MORE, JSON_SCAN_DONE, JSON_SCAN_FAULT };

/* What the next byte belongs to. */
enum json_scan_state {
    JSON_SCAN_START, // the opening brace
    JSON_SCAN_VALUE,
    JSON_SCAN_VALUE_OR_END, // after '['
    JSON_SCAN_KEY,
    JSON_SCAN_KEY_OR_END, // after '{'
    JSON_SCAN_COLON,
    JSON_SCAN_AFTER, // a value: comma or closing bracket
    JSON_SCAN_STRING,
    JSON_SCAN_ESCAPE,
    JSON_SCAN_HEX,
    JSON_SCAN_WORD,
    JSON_SCAN_MINUS,
    JSON_SCAN_ZERO,
    JSON_SCAN_INTEGER,
    JSON_SCAN_POINT,
    JSON_SCAN_FRACTION,
    JSON_SCAN_EXPONENT,
    JSON_SCAN_EXPONENT_SIGN,
    JSON_SCAN_EXPONENT_DIGITS,
};

/* Zero-initialise. */
struct json_scan {
    enum json_scan_state state;
    int depth;                                  // brackets that are open
    bool is_key;                                // of the string at hand
    int n_hex;                                  // hexadecimal digits that are still to come
    const char *word;                           // what is still to come of true, false or null
    uint8_t is_object[JSON_TEXT_MAX_DEPTH / 8]; // one bit for each open bracket
};

/* DONE with the byte that closes the object; nothing may be pushed after that or after a FAULT. */
enum json_scan_status json_scan_push(struct json_scan *scan, char c);

#endif
