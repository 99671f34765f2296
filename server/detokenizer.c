#include "server/detokenizer.h"

#include <stdlib.h>
#include <string.h>

void stop_strings_finish(struct stop_strings *stops) {
    for (int32_t i = 0; i < stops->count; ++i) free(stops->strings[i].data);
    stops->count = 0;
}

void detokenizer_finish(struct detokenizer *detokenizer) {
    string_builder_finish(&detokenizer->held);
}

/* --- UTF-8 --- */

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

static void append_replacement(struct string_builder *text) {
    string_builder_append(text, "\xEF\xBF\xBD", 3);
}

/* Appends c and what it completes to text. */
static void push_byte(struct detokenizer *detokenizer, char byte, struct string_builder *text) {
    unsigned char c = (unsigned char)byte;
    if (detokenizer->n_partial > 0) {
        unsigned char lead = (unsigned char)detokenizer->partial[0];
        if (continues(lead, detokenizer->n_partial, c)) {
            detokenizer->partial[detokenizer->n_partial++] = byte;
            if (detokenizer->n_partial < sequence_length(lead)) return;
            string_builder_append(text, detokenizer->partial, detokenizer->n_partial);
            detokenizer->n_partial = 0;
            return;
        }
        append_replacement(text);
        detokenizer->n_partial = 0;
    }
    size_t length = sequence_length(c);
    if (length == 1) {
        string_builder_append(text, &byte, 1);
    } else if (length == 0) {
        append_replacement(text);
    } else {
        detokenizer->partial[0] = byte;
        detokenizer->n_partial = 1;
    }
}

/* --- stop strings --- */

/* Finds the stop string that ends first, at or after byte `from` of the end. */
static bool find_stop(const struct stop_strings *stops, const struct string_builder *text, size_t from, size_t *start) {
    for (size_t end = from; end <= text->length; ++end) {
        const struct stop_string *longest = NULL;
        for (int32_t i = 0; i < stops->count; ++i) {
            const struct stop_string *stop = &stops->strings[i];
            if (stop->length > end || (longest != NULL && stop->length <= longest->length)) continue;
            if (memcmp(text->data + end - stop->length, stop->data, stop->length) == 0) longest = stop;
        }
        if (longest != NULL) {
            *start = end - longest->length;
            return true;
        }
    }
    return false;
}

/* Bytes at the end of text that a stop string may begin with. */
static size_t undecided(const struct stop_strings *stops, const struct string_builder *text) {
    size_t most = 0;
    for (int32_t i = 0; i < stops->count; ++i) {
        const struct stop_string *stop = &stops->strings[i];
        size_t length = stop->length - 1 < text->length ? stop->length - 1 : text->length;
        while (length > most && memcmp(text->data + text->length - length, stop->data, length) != 0) --length;
        most = length > most ? length : most;
    }
    return most;
}

/* Moves what is decided from held to out. old_length bytes of held were looked at before. */
static bool decide(struct detokenizer *detokenizer, size_t old_length, struct string_builder *out) {
    struct string_builder *held = &detokenizer->held;
    if (held->failure != ERR_NONE) {
        out->failure = held->failure;
        return false;
    }
    size_t n_decided;
    detokenizer->stopped = find_stop(detokenizer->stops, held, old_length + 1, &n_decided);
    if (!detokenizer->stopped) n_decided = held->length - undecided(detokenizer->stops, held);
    if (n_decided == 0) return detokenizer->stopped;
    string_builder_append(out, held->data, n_decided);
    held->length -= n_decided;
    memmove(held->data, held->data + n_decided, held->length);
    return detokenizer->stopped;
}

bool detokenizer_push(struct detokenizer *detokenizer, int32_t token, struct string_builder *out) {
    if (detokenizer->stopped || tokenizer_is_special(detokenizer->tokenizer, token)) return false;
    size_t n_bytes;
    const char *bytes = tokenizer_bytes(detokenizer->tokenizer, token, &n_bytes);
    bool direct = detokenizer->stops->count == 0;
    size_t old_length = detokenizer->held.length;
    for (size_t i = 0; i < n_bytes; ++i) push_byte(detokenizer, bytes[i], direct ? out : &detokenizer->held);
    return !direct && decide(detokenizer, old_length, out);
}

void detokenizer_flush(struct detokenizer *detokenizer, struct string_builder *out) {
    if (detokenizer->stopped) return;
    size_t old_length = detokenizer->held.length;
    if (detokenizer->n_partial > 0) append_replacement(&detokenizer->held);
    detokenizer->n_partial = 0;
    if (detokenizer->held.length > old_length && decide(detokenizer, old_length, out)) return;
    if (detokenizer->held.length > 0) string_builder_append(out, detokenizer->held.data, detokenizer->held.length);
    detokenizer->held.length = 0;
}
