#include "server/openai.h"

#include "engine/log.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/utf8.h"

#include <stdio.h>
#include <string.h>

struct openai_error openai_error_from(const struct error *err) {
    struct openai_error error = {
        .status = 500, .type = "server_error", .code = "internal_error", .param = err->param, .message = err->message};
    switch (err->code) {
    case ERR_INVALID:
        error.status = 400;
        error.type = "invalid_request_error";
        error.code = NULL;
        break;
    case ERR_NOT_FOUND:
        error.status = 404;
        error.type = "invalid_request_error";
        error.code = "model_not_found";
        break;
    case ERR_TOO_LARGE:
        error.status = 413;
        error.type = "invalid_request_error";
        error.code = "request_too_large";
        break;
    case ERR_BUSY:
        error.status = 429;
        error.type = "rate_limit_error";
        error.code = "rate_limit_exceeded";
        error.retry_after = "1";
        break;
    case ERR_UNAVAILABLE:
        error.status = 503;
        error.type = "service_unavailable_error";
        error.code = "service_unavailable";
        error.retry_after = "1";
        break;
    case ERR_NUMERIC:
        error.code = "not_finite";
        break;
    case ERR_DEVICE:
        error.code = "device_error";
        break;
    case ERR_MEMORY:
        error.code = "out_of_memory";
        break;
    case ERR_NONE:
    case ERR_CANCELLED:
    case ERR_IO:
    case ERR_INTERNAL:
        break;
    }
    return error;
}

static void write_text_or_null(struct string_builder *out, const char *text) {
    if (text == NULL || text[0] == '\0') {
        string_builder_append_text(out, "null");
    } else {
        json_write_text(out, text);
    }
}

/* Valid UTF-8 of a text that quotes bytes of a request, or was cut inside a character. */
static struct string_builder scrubbed(const char *text) {
    struct utf8_decoder decoder = {0};
    struct string_builder valid = {0};
    utf8_push(&decoder, text, strlen(text), &valid);
    utf8_flush(&decoder, &valid);
    return valid;
}

void openai_write_message(struct string_builder *out, const char *text) {
    struct string_builder message = scrubbed(text);
    json_write_string(out, message.data, message.length);
    string_builder_finish(&message);
}

void openai_write_error(struct string_builder *out, const struct openai_error *error) {
    string_builder_append_text(out, "{\"error\":{\"message\":");
    openai_write_message(out, error->message);
    string_builder_append_text(out, ",\"type\":");
    json_write_text(out, error->type);
    string_builder_append_text(out, ",\"param\":");
    write_text_or_null(out, error->param);
    string_builder_append_text(out, ",\"code\":");
    write_text_or_null(out, error->code);
    string_builder_append_text(out, "}}");
}

static void log_error(struct log *log, const struct http_request *request, const struct openai_error *error) {
    char line[512];
    snprintf(line, sizeof line, "%s %s", http_method(request), http_path(request));
    struct string_builder what = scrubbed(line), message = scrubbed(error->message);
    const struct log_field fields[] = {
        {.name = "status", .kind = LOG_FIELD_INTEGER, .integer = error->status},
        {.name = "request", .kind = LOG_FIELD_STRING, .string = what.data},
        {.name = "message", .kind = LOG_FIELD_STRING, .string = message.data},
    };
    bool ours = error->status >= 500 && error->status != 503;
    log_event(log, ours ? LOG_WARN : LOG_INFO, "refused", fields, sizeof fields / sizeof *fields);
    string_builder_finish(&what);
    string_builder_finish(&message);
}

void openai_respond_error(struct server *server, struct http_request *request, const struct openai_error *error) {
    log_error(server->log, request, error);
    struct http_response response = {.status = error->status, .content_type = "application/json"};
    int n_headers = 0;
    if (error->retry_after != NULL) {
        response.headers[n_headers++] = (struct http_header){"Retry-After", error->retry_after};
    }
    if (error->allow != NULL) response.headers[n_headers++] = (struct http_header){"Allow", error->allow};
    if (error->challenge != NULL) {
        response.headers[n_headers++] = (struct http_header){"WWW-Authenticate", error->challenge};
    }
    struct openai_error named = *error;
    named.request_id = http_request_id(request);
    struct string_builder body = {0};
    routes_error_writer(http_path(request))(&body, &named);
    http_respond(request, &response, &body);
}

void openai_respond_failure(struct server *server, struct http_request *request, const struct error *err) {
    struct openai_error error = openai_error_from(err);
    openai_respond_error(server, request, &error);
}

void openai_respond_json(struct http_request *request, struct string_builder *body) {
    http_respond(request, &(struct http_response){.status = 200, .content_type = "application/json"}, body);
}
