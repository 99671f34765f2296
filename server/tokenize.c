#include "server/endpoints.h"

#include "server/chat_prompt.h"
#include "server/http.h"
#include "server/json_text.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"
#include "server/utf8.h"

#include <stdlib.h>

static struct openai_source source_of(const struct server *server, enum openai_endpoint endpoint, const char *body,
                                      size_t length) {
    const struct model_config *model = &engine_info(server->engine)->model;
    return (struct openai_source){.endpoint = endpoint,
                                  .body = body,
                                  .length = length,
                                  .defaults = model->sampling,
                                  .vocab = model->shape.vocab,
                                  .log = server->log,
                                  .is_strict = server->is_strict};
}

static void write_ids(struct string_builder *out, const struct token_list *ids) {
    string_builder_append_text(out, "[");
    for (size_t i = 0; i < ids->count; ++i) json_write_format(out, i > 0 ? ",%d" : "%d", (int)ids->ids[i]);
    string_builder_append_text(out, "]");
}

/* A chat body's prompt, as a request to generate would make it. */
static bool read_chat(struct server *server, const char *body, size_t length, struct chat_prompt *prompt,
                      struct error *err) {
    const struct openai_source source = source_of(server, OPENAI_CHAT, body, length);
    struct openai_request request = {0};
    bool ok = openai_request_read(&source, &request, err) && server_check_model(server, request.model, err) &&
              chat_prompt_make(server, &source, &request, prompt, err);
    openai_request_finish(&request);
    return ok;
}

void chat_render_post(struct server *server, struct http_request *http) {
    struct error err;
    struct chat_prompt prompt = {0};
    size_t length;
    const char *body = http_body(http, &length, &err);
    if (body != NULL && read_chat(server, body, length, &prompt, &err)) {
        struct string_builder answer = {0};
        string_builder_append_text(&answer, "{\"prompt\":");
        json_write_string(&answer, prompt.text.data, prompt.text.length);
        string_builder_append_text(&answer, ",\"prompt_token_ids\":");
        write_ids(&answer, &prompt.ids);
        string_builder_append_text(&answer, "}");
        openai_respond_json(http, &answer);
    } else {
        openai_respond_failure(server, http, &err);
    }
    chat_prompt_finish(&prompt);
}

/* --- /tokenize: a text, or a chat as vLLM takes it --- */

static bool read_text(struct server *server, const char *body, size_t length, struct token_list *ids,
                      struct error *err) {
    const struct openai_source source = source_of(server, OPENAI_COMPLETIONS, body, length);
    struct openai_request request = {0};
    bool ok = openai_request_read(&source, &request, err) && server_check_model(server, request.model, err);
    if (ok && (request.n_prompts != 1 || request.prompts[0].text.data == NULL)) {
        ok = fail_param(err, ERR_INVALID, "prompt", "prompt must be one string here");
    }
    if (ok) {
        const struct chat_text *text = &request.prompts[0].text;
        ok = tokenizer_encode(server->tokenizer, text->data, text->length, ids, err);
    }
    openai_request_finish(&request);
    return ok;
}

/* The whole body as one object. */
static bool read_object(const char *body, size_t length, struct json_text *object, struct error *err) {
    if (!json_text_check(body, length, object, err)) return false;
    return json_text_kind(*object) == JSON_OBJECT ||
           fail(err, ERR_INVALID, "the request body must be a JSON object, not %s", json_text_kind_name(*object));
}

void tokenize_post(struct server *server, struct http_request *http) {
    struct error err;
    struct chat_prompt prompt = {0};
    struct json_text object, messages;
    size_t length;
    const char *body = http_body(http, &length, &err);
    bool ok = body != NULL && read_object(body, length, &object, &err);
    if (ok && json_text_find(object, "messages", &messages)) {
        ok = read_chat(server, body, length, &prompt, &err);
    } else if (ok) {
        ok = read_text(server, body, length, &prompt.ids, &err);
    }
    if (ok) {
        struct string_builder answer = {0};
        json_write_format(&answer, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", prompt.ids.count,
                          (int)engine_info(server->engine)->max_model_len);
        write_ids(&answer, &prompt.ids);
        string_builder_append_text(&answer, "}");
        openai_respond_json(http, &answer);
    } else {
        openai_respond_failure(server, http, &err);
    }
    chat_prompt_finish(&prompt);
}

/* --- /detokenize --- */

static bool read_id(const struct server *server, struct json_text value, int32_t *id, struct error *err) {
    int32_t size = engine_info(server->engine)->model.shape.vocab;
    bool is_number = json_text_kind(value) == JSON_NUMBER;
    char *end = NULL;
    long long given = is_number ? strtoll(value.data, &end, 10) : -1; // beyond a long long: its largest, so refused
    if (!is_number || end != value.data + value.length || given < 0 || given >= size) {
        return fail_param(err, ERR_INVALID, "tokens", "a token id must be an integer from 0 to %d, not %.*s",
                          (int)size - 1, (int)(value.length < 32 ? value.length : 32), value.data);
    }
    *id = (int32_t)given;
    return true;
}

/* The text of all tokens, control tokens too. */
static bool read_tokens(struct server *server, struct json_text tokens, struct string_builder *text,
                        struct error *err) {
    struct utf8_decoder decoder = {0};
    struct json_cursor cursor = {0};
    struct json_text element;
    while (json_text_next(tokens, &cursor, &element)) {
        int32_t id;
        size_t n_bytes;
        if (!read_id(server, element, &id, err)) return false;
        const char *bytes = tokenizer_bytes(server->tokenizer, id, &n_bytes);
        utf8_push(&decoder, bytes, n_bytes, text);
    }
    utf8_flush(&decoder, text);
    return string_builder_check(text, "The text", err);
}

static bool read_detokenize(struct server *server, const char *body, size_t length, struct string_builder *text,
                            struct error *err) {
    struct json_text object, model, tokens;
    if (!read_object(body, length, &object, err)) return false;
    if (json_text_find(object, "model", &model) && json_text_kind(model) != JSON_NULL) {
        if (json_text_kind(model) != JSON_STRING) {
            return fail_param(err, ERR_INVALID, "model", "model must be a string, not %s", json_text_kind_name(model));
        }
        struct string_builder name = {0};
        json_text_decode(model, &name);
        string_builder_append_text(&name, "");
        bool ok = string_builder_check(&name, "model", err) && server_check_model(server, name.data, err);
        string_builder_finish(&name);
        if (!ok) return false;
    }
    if (!json_text_find(object, "tokens", &tokens) || json_text_kind(tokens) != JSON_ARRAY) {
        return fail_param(err, ERR_INVALID, "tokens", "tokens must be given as an array of token ids");
    }
    return read_tokens(server, tokens, text, err);
}

void detokenize_post(struct server *server, struct http_request *http) {
    struct error err;
    struct string_builder text = {0};
    size_t length;
    const char *body = http_body(http, &length, &err);
    if (body != NULL && read_detokenize(server, body, length, &text, &err)) {
        struct string_builder answer = {0};
        string_builder_append_text(&answer, "{\"prompt\":");
        json_write_string(&answer, text.data, text.length);
        string_builder_append_text(&answer, "}");
        openai_respond_json(http, &answer);
    } else {
        openai_respond_failure(server, http, &err);
    }
    string_builder_finish(&text);
}
