#include "server/utf8.h"

#include <stdbool.h>

static bool in_range(unsigned char c, unsigned char first, unsigned char last) {
    return c >= first && c <= last;
}

/* Bytes of the character that c begins, 0 when it begins none (RFC 3629). */
static size_t sequence_length(unsigned char c) {
    if (c < 0x80) return 1;
    if (in_range(c, 0xC2, 0xDF)) return 2;
    if (in_range(c, 0xE0, 0xEF)) return 3;
    if (in_range(c, 0xF0, 0xF4)) return 4;
    return 0;
}

/* Second bytes that would be overlong, a surrogate or beyond U+10FFFF are excluded by their first byte. */
static bool continues(unsigned char lead, size_t index, unsigned char c) {
    if (index == 1) {
        if (lead == 0xE0) return in_range(c, 0xA0, 0xBF);
        if (lead == 0xED) return in_range(c, 0x80, 0x9F);
        if (lead == 0xF0) return in_range(c, 0x90, 0xBF);
        if (lead == 0xF4) return in_range(c, 0x80, 0x8F);
    }
    return in_range(c, 0x80, 0xBF);
}

static void append_replacement(struct string_builder *out) {
    string_builder_append(out, "\xEF\xBF\xBD", 3);
}

static void begin(struct utf8_decoder *decoder, char byte, struct string_builder *out) {
    size_t length = sequence_length((unsigned char)byte);
    if (length == 1) {
        string_builder_append(out, &byte, 1);
    } else if (length == 0) {
        append_replacement(out);
    } else {
        decoder->partial[0] = byte;
        decoder->n_partial = 1;
    }
}

static void push_byte(struct utf8_decoder *decoder, char byte, struct string_builder *out) {
    if (decoder->n_partial == 0) {
        begin(decoder, byte, out);
        return;
    }
    unsigned char lead = (unsigned char)decoder->partial[0];
    if (!continues(lead, decoder->n_partial, (unsigned char)byte)) {
        utf8_flush(decoder, out);
        begin(decoder, byte, out);
        return;
    }
    decoder->partial[decoder->n_partial++] = byte;
    if (decoder->n_partial < sequence_length(lead)) return;
    string_builder_append(out, decoder->partial, decoder->n_partial);
    decoder->n_partial = 0;
}

void utf8_push(struct utf8_decoder *decoder, const char *data, size_t length, struct string_builder *out) {
    for (size_t i = 0; i < length; ++i) push_byte(decoder, data[i], out);
}

void utf8_flush(struct utf8_decoder *decoder, struct string_builder *out) {
    if (decoder->n_partial > 0) append_replacement(out);
    decoder->n_partial = 0;
}
