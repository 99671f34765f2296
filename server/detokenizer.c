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

/* --- stop strings --- */

/* Finds the stop string that ends first, at byte `from` or after it, and where it cuts the text; -1: there is none. */
static int32_t find_stop(const struct stop_strings *stops, const struct string_builder *text, size_t from,
                         size_t *cut) {
    for (size_t end = from; end <= text->length; ++end) {
        const struct stop_string *longest = NULL;
        for (int32_t i = 0; i < stops->count; ++i) {
            const struct stop_string *stop = &stops->strings[i];
            if (stop->length > end || (longest != NULL && stop->length <= longest->length)) continue;
            if (memcmp(text->data + end - stop->length, stop->data, stop->length) == 0) longest = stop;
        }
        if (longest != NULL) {
            *cut = stops->included ? end : end - longest->length;
            return (int32_t)(longest - stops->strings);
        }
    }
    return -1;
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
    detokenizer->stop = find_stop(detokenizer->stops, held, old_length + 1, &n_decided);
    detokenizer->stopped = detokenizer->stop >= 0;
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
    utf8_push(&detokenizer->utf8, bytes, n_bytes, direct ? out : &detokenizer->held);
    return !direct && decide(detokenizer, old_length, out);
}

void detokenizer_flush(struct detokenizer *detokenizer, struct string_builder *out) {
    if (detokenizer->stopped) return;
    size_t old_length = detokenizer->held.length;
    utf8_flush(&detokenizer->utf8, &detokenizer->held);
    if (detokenizer->held.length > old_length && decide(detokenizer, old_length, out)) return;
    if (detokenizer->held.length > 0) string_builder_append(out, detokenizer->held.data, detokenizer->held.length);
    detokenizer->held.length = 0;
}
