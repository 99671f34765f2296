#include "server/routes.h"

#include "server/anthropic.h"
#include "server/api_keys.h"
#include "server/endpoints.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/server.h"
#include "server/web.h"

#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct route {
    const char *method; // GET answers HEAD too
    const char *path;   // a final '/', but of "/", stands for every longer path, {…} for one segment
    void (*handle)(struct server *server, struct http_request *http);
    bool needs_engine;
    error_writer *write_error; // NULL: as OpenAI
} routes[] = {
    {"POST", "/v1/chat/completions", chat_completions_post, true, NULL},
    {"POST", "/v1/chat/completions/render", chat_render_post, true, NULL},
    {"POST", "/v1/completions", completions_post, true, NULL},
    {"POST", "/v1/embeddings", embeddings_post, true, NULL},
    {"POST", "/v1/messages", messages_post, true, anthropic_write_error},
    {"POST", "/v1/messages/count_tokens", messages_count_post, true, anthropic_write_error},
    {"POST", "/v1/responses", responses_post, true, NULL},
    {"GET", "/v1/responses/{response_id}", response_get, true, NULL},
    {"DELETE", "/v1/responses/{response_id}", response_delete, true, NULL},
    {"POST", "/v1/responses/{response_id}/cancel", response_cancel_post, true, NULL},
    {"GET", "/v1/responses/{response_id}/input_items", response_input_items_get, true, NULL},
    {"POST", "/tokenize", tokenize_post, true, NULL},
    {"POST", "/detokenize", detokenize_post, true, NULL},
    {"GET", "/v1/models", models_get, true, NULL},
    {"GET", "/v1/models/", model_get, true, NULL},
    {"GET", "/health", health_get, false, NULL},
    {"GET", "/metrics", metrics_get, true, NULL},
    {"GET", "/version", version_get, false, NULL},
    {"GET", "/server_info", server_info_get, true, NULL},
    {"GET", "/openapi.json", openapi_get, false, NULL},
    {"GET", "/", page_get, false, NULL}, // with --page, as /web/
    {"GET", "/web/", page_get, false, NULL},
};

bool routes_entry(size_t index, const char **method, const char **path) {
    if (index >= sizeof routes / sizeof *routes) return false;
    *method = routes[index].method;
    *path = routes[index].path;
    return true;
}

static bool path_matches(const struct route *route, const char *path) {
    const char *pattern = route->path;
    for (; *pattern != '\0' && *path != '\0'; ++pattern, ++path) {
        if (*pattern == '{') {
            size_t length = strcspn(path, "/");
            if (length == 0) return false;
            path += length - 1;
            pattern = strchr(pattern, '}');
        } else if (*pattern != *path) {
            return false;
        }
    }
    bool goes_on = pattern - route->path > 1 && pattern[-1] == '/';
    return *pattern == '\0' && (*path != '\0') == goes_on;
}

error_writer *routes_error_writer(const char *path) {
    for (size_t i = 0; i < sizeof routes / sizeof *routes; ++i) {
        if (path_matches(&routes[i], path) && routes[i].write_error != NULL) return routes[i].write_error;
    }
    return openai_write_error;
}

static bool method_matches(const struct route *route, const char *method) {
    return strcmp(route->method, method) == 0 || (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* "application/json", with or without parameters. */
static bool is_json(const char *content_type) {
    static const char json[] = "application/json";
    if (strncasecmp(content_type, json, sizeof json - 1) != 0) return false;
    char next = content_type[sizeof json - 1];
    return next == '\0' || next == ';' || isspace((unsigned char)next);
}

/* The page is there where it was asked for. */
static bool is_served(const struct server *server, const struct route *route) {
    return route->handle != page_get || server->page;
}

/* The methods that a path has, "GET, HEAD, DELETE"; "": none. */
struct methods {
    char text[64];
};

static struct methods methods_of(const struct server *server, const char *path) {
    struct methods methods = {""};
    size_t length = 0;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; ++i) {
        if (!is_served(server, &routes[i]) || !path_matches(&routes[i], path)) continue;
        const char *method = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method;
        length += (size_t)snprintf(methods.text + length, sizeof methods.text - length, "%s%s", length > 0 ? ", " : "",
                                   method);
        assert(length < sizeof methods.text);
    }
    return methods;
}

static void refuse(struct server *server, struct http_request *http) {
    char message[512];
    struct openai_error error = {.type = "invalid_request_error", .message = message};
    const struct methods methods = methods_of(server, http_path(http));
    if (methods.text[0] != '\0') {
        error.status = 405;
        error.code = "method_not_allowed";
        error.allow = methods.text;
        snprintf(message, sizeof message, "%.64s is not allowed here; %s is", http_method(http), error.allow);
    } else {
        error.status = 404;
        error.code = "not_found";
        snprintf(message, sizeof message, "there is no %.64s %.256s here", http_method(http), http_path(http));
    }
    openai_respond_error(server, http, &error);
}

static void refuse_type(struct server *server, struct http_request *http, const char *content_type) {
    char message[512];
    snprintf(message, sizeof message, "Content-Type must be application/json, not %.256s", content_type);
    openai_respond_error(
        server, http,
        &(struct openai_error){
            .status = 415, .type = "invalid_request_error", .code = "unsupported_media_type", .message = message});
}

/* Bearer is OpenAI's way, x-api-key Anthropic's. */
static const char *shown_key(const struct http_request *http) {
    static const char scheme[] = "Bearer ";
    const char *authorization = http_header(http, "Authorization");
    if (authorization == NULL) return http_header(http, "x-api-key");
    if (strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) return NULL;
    return authorization + sizeof scheme - 1;
}

/* What watches the server has no key, and the page asks for it. */
static bool is_open(const struct server *server, const char *path) {
    static const char *const open[] = {"/health", "/metrics"};
    for (size_t i = 0; i < sizeof open / sizeof *open; ++i) {
        if (strcmp(open[i], path) == 0) return true;
    }
    return server->page && web_holds(path);
}

static bool check_key(struct server *server, struct http_request *http) {
    if (server->api_keys == NULL || is_open(server, http_path(http))) return true;
    const char *key = shown_key(http);
    if (key != NULL && api_keys_hold(server->api_keys, key)) return true;
    openai_respond_error(
        server, http,
        &(struct openai_error){.status = 401,
                               .type = "invalid_request_error",
                               .code = "invalid_api_key",
                               .challenge = "Bearer",
                               .message = key != NULL
                                              ? "the API key is not one of this server's"
                                              : "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"});
    return false;
}

/* What a browser asks before the request itself, and without its key: may a page send it? */
static bool answer_preflight(struct http_request *http) {
    if (strcmp(http_method(http), "OPTIONS") != 0 || http_header(http, "Access-Control-Request-Method") == NULL ||
        !http_origin_allowed(http))
        return false;
    const char *headers = http_header(http, "Access-Control-Request-Headers");
    struct string_builder empty = {0};
    http_respond(http,
                 &(struct http_response){
                     .status = 204,
                     .headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE"},
                                 {"Access-Control-Max-Age", "600"},
                                 {headers != NULL ? "Access-Control-Allow-Headers" : NULL, headers}},
                 },
                 &empty);
    return true;
}

void routes_handle(struct http_request *http, void *user) {
    struct server *server = user;
    if (answer_preflight(http) || !check_key(server, http)) return;
    const struct route *route = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes && route == NULL; ++i) {
        if (is_served(server, &routes[i]) && path_matches(&routes[i], http_path(http)) &&
            method_matches(&routes[i], http_method(http)))
            route = &routes[i];
    }
    if (route == NULL) {
        refuse(server, http);
        return;
    }
    const char *content_type = http_header(http, "Content-Type");
    if (strcmp(route->method, "POST") == 0 && content_type != NULL && !is_json(content_type)) {
        refuse_type(server, http, content_type);
        return;
    }
    struct error err;
    if (route->needs_engine && !server_check_ready(server, &err)) {
        openai_respond_failure(server, http, &err);
        return;
    }
    route->handle(server, http);
}
