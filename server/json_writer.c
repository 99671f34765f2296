#include "server/json_writer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void json_write_format(struct string_builder *out, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    assert(length >= 0 && length < (int)sizeof text);
    string_builder_append(out, text, (size_t)length);
}

static size_t escape(unsigned char c, char escaped[8]) {
    switch (c) {
    case '"':
        memcpy(escaped, "\\\"", 2);
        return 2;
    case '\\':
        memcpy(escaped, "\\\\", 2);
        return 2;
    case '\n':
        memcpy(escaped, "\\n", 2);
        return 2;
    case '\r':
        memcpy(escaped, "\\r", 2);
        return 2;
    case '\t':
        memcpy(escaped, "\\t", 2);
        return 2;
    default:
        return (size_t)snprintf(escaped, 8, "\\u%04x", c);
    }
}

void json_write_string(struct string_builder *out, const char *data, size_t length) {
    string_builder_append(out, "\"", 1);
    size_t plain = 0; // start of the run that needs no escape
    for (size_t i = 0; i < length; ++i) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        char escaped[8];
        string_builder_append(out, data + plain, i - plain);
        string_builder_append(out, escaped, escape(c, escaped));
        plain = i + 1;
    }
    string_builder_append(out, data + plain, length - plain);
    string_builder_append(out, "\"", 1);
}

void json_write_text(struct string_builder *out, const char *text) {
    json_write_string(out, text, strlen(text));
}
