#include "server/embedding_vector.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void embedding_normalise(float *vector, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; ++i) sum += (double)vector[i] * (double)vector[i];
    double length = sqrt(sum);
    for (int32_t i = 0; i < n && length > 0; ++i) vector[i] = (float)((double)vector[i] / length);
}

void embedding_write_numbers(struct string_builder *out, const float *vector, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        char text[32];
        int length = snprintf(text, sizeof text, "%c%.9g", i > 0 ? ',' : '[', (double)vector[i]);
        string_builder_append(out, text, (size_t)length);
    }
    string_builder_append_text(out, "]");
}

static uint8_t byte_of(const float *vector, size_t index) {
    uint32_t bits;
    memcpy(&bits, &vector[index / 4], sizeof bits);
    return (uint8_t)(bits >> index % 4 * 8);
}

void embedding_write_base64(struct string_builder *out, const float *vector, int32_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n_bytes = 4 * (size_t)n;
    string_builder_append_text(out, "\"");
    for (size_t i = 0; i < n_bytes; i += 3) {
        uint32_t group = 0;
        for (size_t b = i; b < i + 3; ++b) group = group << 8 | (b < n_bytes ? byte_of(vector, b) : 0);
        char text[4];
        for (int d = 0; d < 4; ++d) text[d] = i + (size_t)d > n_bytes ? '=' : digits[group >> (18 - 6 * d) & 63];
        string_builder_append(out, text, sizeof text);
    }
    string_builder_append_text(out, "\"");
}
