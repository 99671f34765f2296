#include "server/logprobs.h"

#include "server/json_writer.h"
#include "server/utf8.h"

#include <string.h>

#define LEAST_LOGPROB (-9999.0) // as vLLM

static struct string_builder text_of(const struct tokenizer *tokenizer, int32_t token) {
    struct utf8_decoder decoder = {0};
    struct string_builder text = {0};
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    utf8_push(&decoder, bytes, length, &text);
    utf8_flush(&decoder, &text);
    return text;
}

static void write_number(struct string_builder *out, double logprob) {
    if (!(logprob > LEAST_LOGPROB)) logprob = LEAST_LOGPROB; // NaN too
    json_write_format(out, "%.8g", logprob + 0.0);           // -0 as 0
}

static void separate(struct string_builder *out) {
    if (out->length > 0) string_builder_append_text(out, ",");
}

/* --- chat --- */

/* "token":…,"logprob":…,"bytes":[…] */
static void write_token(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token, double logprob) {
    struct string_builder text = text_of(tokenizer, token);
    string_builder_append_text(out, "\"token\":");
    json_write_string(out, text.data, text.length);
    string_builder_finish(&text);
    string_builder_append_text(out, ",\"logprob\":");
    write_number(out, logprob);
    string_builder_append_text(out, ",\"bytes\":[");
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    for (size_t i = 0; i < length; ++i) json_write_format(out, "%s%d", i > 0 ? "," : "", (unsigned char)bytes[i]);
    string_builder_append_text(out, "]");
}

static void add_to_chat(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token,
                        const struct token_scores *scores) {
    separate(out);
    string_builder_append_text(out, "{");
    write_token(out, tokenizer, token, scores->logprob);
    string_builder_append_text(out, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < scores->n_top; ++i) {
        string_builder_append_text(out, i > 0 ? ",{" : "{");
        write_token(out, tokenizer, scores->tokens[i], scores->logprobs[i]);
        string_builder_append_text(out, "}");
    }
    string_builder_append_text(out, "]}");
}

/* --- completions --- */

static int64_t count_characters(const struct string_builder *text) {
    int64_t n = 0;
    for (size_t i = 0; i < text->length; ++i) n += ((unsigned char)text->data[i] & 0xC0) != 0x80;
    return n;
}

static bool same_text(const struct string_builder *a, const struct string_builder *b) {
    return a->length == b->length && (a->length == 0 || memcmp(a->data, b->data, a->length) == 0);
}

/* {"text":logprob,…} of the likeliest and the token itself, so that it has up to one more than was asked for. Tokens
 * that are parts of characters look alike: of one text the likeliest is shown. */
static void write_top(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token,
                      const struct token_scores *scores) {
    struct string_builder texts[SAMPLING_MAX_TOP + 1];
    string_builder_append_text(out, "{");
    for (int32_t i = 0; i <= scores->n_top; ++i) {
        bool known = false, is_top = i < scores->n_top;
        texts[i] = text_of(tokenizer, is_top ? scores->tokens[i] : token);
        for (int32_t j = 0; j < i; ++j) known |= same_text(&texts[i], &texts[j]);
        if (known) continue;
        if (i > 0) string_builder_append_text(out, ",");
        json_write_string(out, texts[i].data, texts[i].length);
        string_builder_append_text(out, ":");
        write_number(out, is_top ? scores->logprobs[i] : scores->logprob);
    }
    for (int32_t i = 0; i <= scores->n_top; ++i) string_builder_finish(&texts[i]);
    string_builder_append_text(out, "}");
}

static void add_to_arrays(struct logprobs *logprobs, const struct tokenizer *tokenizer, int32_t token,
                          const struct token_scores *scores) {
    struct string_builder text = text_of(tokenizer, token);
    separate(&logprobs->tokens);
    separate(&logprobs->token_logprobs);
    separate(&logprobs->top_logprobs);
    separate(&logprobs->offset);
    json_write_string(&logprobs->tokens, text.data, text.length);
    json_write_format(&logprobs->offset, "%lld", (long long)logprobs->n_characters);
    if (scores != NULL) {
        write_number(&logprobs->token_logprobs, scores->logprob);
        write_top(&logprobs->top_logprobs, tokenizer, token, scores);
    } else {
        string_builder_append_text(&logprobs->token_logprobs, "null");
        string_builder_append_text(&logprobs->top_logprobs, "null");
    }
    logprobs->n_characters += count_characters(&text);
    string_builder_finish(&text);
}

/* --- prompts --- */

static void write_ranked(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token, double logprob,
                         int32_t rank) {
    struct string_builder text = text_of(tokenizer, token);
    json_write_format(out, "\"%d\":{\"logprob\":", (int)token);
    write_number(out, logprob);
    json_write_format(out, ",\"rank\":%d,\"decoded_token\":", (int)rank);
    json_write_string(out, text.data, text.length);
    string_builder_append_text(out, "}");
    string_builder_finish(&text);
}

void logprobs_add_prompt(struct string_builder *out, const struct tokenizer *tokenizer, int32_t token,
                         const struct token_scores *scores) {
    separate(out);
    if (scores == NULL) {
        string_builder_append_text(out, "null");
        return;
    }
    string_builder_append_text(out, "{");
    write_ranked(out, tokenizer, token, scores->logprob, scores->rank);
    for (int32_t i = 0; i < scores->n_top; ++i) {
        if (scores->tokens[i] == token) continue;
        string_builder_append_text(out, ",");
        write_ranked(out, tokenizer, scores->tokens[i], scores->logprobs[i], i + 1);
    }
    string_builder_append_text(out, "}");
}

/* --- both --- */

void logprobs_add(struct logprobs *logprobs, enum logprobs_form form, const struct tokenizer *tokenizer, int32_t token,
                  const struct token_scores *scores) {
    if (form == LOGPROBS_COMPLETIONS)
        add_to_arrays(logprobs, tokenizer, token, scores);
    else if (scores != NULL)
        add_to_chat(&logprobs->content, tokenizer, token, scores);
}

static void move(struct string_builder *out, const char *name, struct string_builder *elements) {
    string_builder_append_text(out, name);
    string_builder_append(out, elements->data, elements->length);
    string_builder_append_text(out, "]");
    if (elements->failure != ERR_NONE) out->failure = elements->failure;
    elements->length = 0;
}

void logprobs_write(struct logprobs *logprobs, enum logprobs_form form, struct string_builder *out) {
    if (logprobs->content.length == 0 && logprobs->tokens.length == 0) {
        string_builder_append_text(out, "null");
    } else if (form == LOGPROBS_CHAT) {
        move(out, "{\"content\":[", &logprobs->content);
        string_builder_append_text(out, ",\"refusal\":null}");
    } else {
        move(out, "{\"text_offset\":[", &logprobs->offset);
        move(out, ",\"token_logprobs\":[", &logprobs->token_logprobs);
        move(out, ",\"tokens\":[", &logprobs->tokens);
        move(out, ",\"top_logprobs\":[", &logprobs->top_logprobs);
        string_builder_append_text(out, "}");
    }
}

void logprobs_finish(struct logprobs *logprobs) {
    string_builder_finish(&logprobs->content);
    string_builder_finish(&logprobs->tokens);
    string_builder_finish(&logprobs->token_logprobs);
    string_builder_finish(&logprobs->top_logprobs);
    string_builder_finish(&logprobs->offset);
}
