/* json_text_dump: a JSON value in the words of Python's json.dumps. */
#include "server/json_text.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One member of an object, as places in the output, so that equal keys are found when the object ends. */
struct member {
    size_t key; // where `"key": value` starts; the key is in its one canonical form
    size_t key_length;
    size_t value;
    size_t value_length;
    bool is_replaced; // another of the same key stands before it and has taken its value
};

/* What json_text_dump works with. Objects inside objects stack their members on top. */
struct dump {
    struct json_text text;
    size_t offset; // into text
    struct string_builder *out;
    struct string_builder scratch; // the string or number at hand
    struct member *members;        // [capacity], owned
    size_t n_members;
    size_t capacity;
};

static void dump_value(struct dump *dump);

/* The byte of the text behind what is not part of a value. */
static char next_byte(struct dump *dump) {
    while (dump->offset < dump->text.length && strchr(" \t\n\r,:", dump->text.data[dump->offset])) dump->offset++;
    return dump->text.data[dump->offset];
}

static void dump_string(struct dump *dump) {
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *source = dump->text.data + dump->offset;
    size_t length = 1;
    while (source[length] != '"') length += source[length] == '\\' ? 2 : 1;
    dump->offset += length + 1;
    struct string_builder *text = &dump->scratch;
    text->length = 0;
    json_text_decode((struct json_text){source, length + 1}, text);
    string_builder_append_text(dump->out, "\"");
    for (size_t start = 0, i = 0; i <= text->length; i++) {
        unsigned char c = i < text->length ? (unsigned char)text->data[i] : 0;
        bool is_end = i == text->length;
        if (!is_end && c >= 0x20 && c != '"' && c != '\\') continue;
        if (i > start) string_builder_append(dump->out, text->data + start, i - start);
        start = i + 1;
        if (is_end) break;
        char escape[8];
        const char *found = c ? strchr(escaped, c) : NULL;
        int n = found ? snprintf(escape, sizeof escape, "\\%c", letters[found - escaped])
                      : snprintf(escape, sizeof escape, "\\u%04x", c);
        string_builder_append(dump->out, escape, (size_t)n);
    }
    string_builder_append_text(dump->out, "\"");
}

/* A positive number as digits · 10^scale. */
struct decimal {
    uint64_t digits;
    int scale;
};

static bool reads_back(struct decimal decimal, double number) {
    char text[48];
    snprintf(text, sizeof text, "%llue%d", (unsigned long long)decimal.digits, decimal.scale);
    return strtod(text, NULL) == number;
}

/* The fewest digits that read back as the number. A power of two may need the decimal above the nearest one, because
 * the doubles below it lie closer than those above. */
static struct decimal shortest_decimal(double number) {
    struct decimal decimal = {0, 0};
    int precision = number < DBL_MIN ? 1 : DBL_DIG; // DBL_DIG digits with zeros cut are the shortest if they suffice
    for (; precision <= DBL_DECIMAL_DIG; precision++) {
        char text[48];
        snprintf(text, sizeof text, "%.*e", precision - 1, number);
        char *exponent = strchr(text, 'e');
        decimal = (struct decimal){(uint64_t)(text[0] - '0'), atoi(exponent + 1) - (precision - 1)};
        for (const char *c = text + 2; c < exponent; c++) decimal.digits = decimal.digits * 10 + (uint64_t)(*c - '0');
        if (reads_back(decimal, number)) break;
        decimal.digits++;
        if (reads_back(decimal, number)) break;
    }
    while (decimal.digits % 10 == 0) {
        decimal.digits /= 10;
        decimal.scale++;
    }
    return decimal;
}

/* Python's repr: plain from 0.0001 to below 10^16, otherwise with an exponent of at least two digits. */
static void dump_float(struct string_builder *out, double number) {
    if (signbit(number)) string_builder_append_text(out, "-");
    number = fabs(number);
    if (isinf(number)) {
        string_builder_append_text(out, "Infinity");
        return;
    }
    if (number == 0) {
        string_builder_append_text(out, "0.0");
        return;
    }
    struct decimal decimal = shortest_decimal(number);
    char digits[24], text[48];
    int n_digits = snprintf(digits, sizeof digits, "%llu", (unsigned long long)decimal.digits);
    int point = n_digits + decimal.scale; // digits before the decimal point
    if (point <= -4 || point > 16)
        snprintf(text, sizeof text, "%c%s%se%c%02d", digits[0], n_digits > 1 ? "." : "", digits + 1,
                 point > 0 ? '+' : '-', abs(point - 1));
    else if (point <= 0)
        snprintf(text, sizeof text, "0.%.*s%s", -point, "0000", digits);
    else if (point >= n_digits)
        snprintf(text, sizeof text, "%s%.*s.0", digits, point - n_digits, "0000000000000000");
    else
        snprintf(text, sizeof text, "%.*s.%s", point, digits, digits + point);
    string_builder_append_text(out, text);
}

static void dump_number(struct dump *dump) {
    const char *source = dump->text.data + dump->offset;
    size_t length = 0, available = dump->text.length - dump->offset;
    bool is_integer = true;
    for (; length < available && strchr("+-.0123456789eE", source[length]); length++)
        if (strchr(".eE", source[length])) is_integer = false;
    dump->offset += length;
    if (is_integer && length == 2 && memcmp(source, "-0", 2) == 0) {
        string_builder_append_text(dump->out, "0");
    } else if (is_integer) {
        string_builder_append(dump->out, source, length);
    } else {
        dump->scratch.length = 0;
        string_builder_append(&dump->scratch, source, length); // strtod wants its NUL
        if (dump->scratch.failure == ERR_NONE) dump_float(dump->out, strtod(dump->scratch.data, NULL));
    }
}

static void dump_word(struct dump *dump) {
    const char *source = dump->text.data + dump->offset;
    size_t length = *source == 'f' ? 5 : 4;
    string_builder_append(dump->out, source, length);
    dump->offset += length;
}

static void dump_array(struct dump *dump) {
    dump->offset++;
    string_builder_append_text(dump->out, "[");
    for (bool is_first = true; next_byte(dump) != ']'; is_first = false) {
        if (!is_first) string_builder_append_text(dump->out, ", ");
        dump_value(dump);
    }
    dump->offset++;
    string_builder_append_text(dump->out, "]");
}

static void push_member(struct dump *dump, struct member member) {
    if (dump->n_members == dump->capacity) {
        size_t capacity = dump->capacity * 2 + 16;
        struct member *members = realloc(dump->members, capacity * sizeof *members);
        if (!members) {
            dump->out->failure = ERR_MEMORY;
            return;
        }
        dump->members = members;
        dump->capacity = capacity;
    }
    dump->members[dump->n_members++] = member;
}

/* By key, and by place among equal keys. */
static int compare_members(const void *a, const void *b, void *data) {
    const struct member *left = *(struct member *const *)a, *right = *(struct member *const *)b;
    const char *text = data;
    size_t shorter = left->key_length < right->key_length ? left->key_length : right->key_length;
    int order = memcmp(text + left->key, text + right->key, shorter);
    if (order == 0) order = (left->key_length > right->key_length) - (left->key_length < right->key_length);
    return order != 0 ? order : (left->key > right->key) - (left->key < right->key);
}

/* Gives the first member of each key the value of the last; *n_replaced counts the others. */
static bool resolve_equal_keys(const char *text, struct member *members, size_t count, size_t *n_replaced) {
    *n_replaced = 0;
    struct member **sorted = malloc((count + 1) * sizeof *sorted);
    if (!sorted) return false;
    for (size_t i = 0; i < count; i++) sorted[i] = &members[i];
    qsort_r(sorted, count, sizeof *sorted, compare_members, (void *)text);
    for (size_t i = 1, first = 0; i < count; i++) {
        struct member *kept = sorted[first], *member = sorted[i];
        if (kept->key_length != member->key_length ||
            memcmp(text + kept->key, text + member->key, kept->key_length) != 0) {
            first = i;
            continue;
        }
        kept->value = member->value;
        kept->value_length = member->value_length;
        member->is_replaced = true;
        ++*n_replaced;
    }
    free(sorted);
    return true;
}

/* Writes the object that starts at `start` of the output again, without the members that were replaced. */
static void rewrite_object(struct string_builder *out, size_t start, const struct member *members, size_t count) {
    size_t length = out->length - start;
    char *old = malloc(length);
    if (!old) {
        out->failure = ERR_MEMORY;
        return;
    }
    memcpy(old, out->data + start, length);
    out->length = start;
    for (size_t i = 0; i < count; i++) {
        if (members[i].is_replaced) continue;
        string_builder_append_text(out, i == 0 ? "{" : ", ");
        string_builder_append(out, old + (members[i].key - start), members[i].key_length);
        string_builder_append_text(out, ": ");
        string_builder_append(out, old + (members[i].value - start), members[i].value_length);
    }
    free(old);
}

static void dump_object(struct dump *dump) {
    struct string_builder *out = dump->out;
    size_t start = out->length, n_outside = dump->n_members, n_replaced;
    dump->offset++;
    string_builder_append_text(out, "{");
    for (bool is_first = true; next_byte(dump) != '}'; is_first = false) {
        if (!is_first) string_builder_append_text(out, ", ");
        struct member member = {.key = out->length};
        dump_string(dump);
        member.key_length = out->length - member.key;
        string_builder_append_text(out, ": ");
        next_byte(dump);
        member.value = out->length;
        dump_value(dump);
        member.value_length = out->length - member.value;
        push_member(dump, member);
    }
    dump->offset++;
    if (out->failure == ERR_NONE) { // otherwise the places are not what they say
        struct member *members = dump->members + n_outside;
        size_t count = dump->n_members - n_outside;
        if (!resolve_equal_keys(out->data, members, count, &n_replaced))
            out->failure = ERR_MEMORY;
        else if (n_replaced > 0)
            rewrite_object(out, start, members, count);
    }
    dump->n_members = n_outside;
    string_builder_append_text(out, "}");
}

static void dump_value(struct dump *dump) {
    switch (next_byte(dump)) {
    case '{':
        dump_object(dump);
        break;
    case '[':
        dump_array(dump);
        break;
    case '"':
        dump_string(dump);
        break;
    case 't':
    case 'f':
    case 'n':
        dump_word(dump);
        break;
    default:
        dump_number(dump);
        break;
    }
}

void json_text_dump(struct json_text value, struct string_builder *out) {
    struct dump dump = {.text = value, .out = out};
    dump_value(&dump);
    if (dump.scratch.failure != ERR_NONE && out->failure == ERR_NONE) out->failure = dump.scratch.failure;
    string_builder_finish(&dump.scratch);
    free(dump.members);
}
