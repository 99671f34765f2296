#include "server/web.h"

#include "server/embedded.h"
#include "server/endpoints.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/server.h"

#include <stdio.h>
#include <string.h>

/* Nothing from another host, no script or style in the text, and no string that becomes HTML. */
static const char content_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

static const struct {
    const char *ending;
    const char *content_type;
} types[] = {
    {".css", "text/css; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".svg", "image/svg+xml"},
};

static const struct embedded_file *find(const char *path, const char **content_type) {
    static const char folder[] = "/web/";
    *content_type = "text/html; charset=utf-8";
    if (strcmp(path, "/") == 0) return embedded_find("index.html");
    if (strncmp(path, folder, sizeof folder - 1) != 0) return NULL;
    const char *name = path + sizeof folder - 1, *ending = strrchr(name, '.');
    for (size_t i = 0; ending != NULL && i < sizeof types / sizeof *types; ++i) {
        if (strcmp(ending, types[i].ending) != 0) continue;
        *content_type = types[i].content_type;
        return embedded_find(name);
    }
    return NULL;
}

bool web_holds(const char *path) {
    const char *content_type;
    return find(path, &content_type) != NULL;
}

/* If-None-Match is "*" or a list of tags, weak or not. */
static bool is_known(const struct http_request *http, const char *tag) {
    const char *known = http_header(http, "If-None-Match");
    return known != NULL && (strcmp(known, "*") == 0 || strstr(known, tag) != NULL);
}

static void refuse(struct server *server, struct http_request *http) {
    char message[320];
    snprintf(message, sizeof message, "the page has no file %.256s", http_path(http));
    openai_respond_error(server, http,
                         &(struct openai_error){
                             .status = 404, .type = "invalid_request_error", .code = "not_found", .message = message});
}

void page_get(struct server *server, struct http_request *http) {
    const char *content_type;
    const struct embedded_file *file = find(http_path(http), &content_type);
    if (file == NULL) {
        refuse(server, http);
        return;
    }
    char tag[64];
    snprintf(tag, sizeof tag, "\"%s\"", file->version);
    bool known = is_known(http, tag);
    struct string_builder body = {0};
    if (!known) string_builder_append(&body, file->data, file->length);
    // no-cache: kept, but asked for each time, so that page and server are of one version.
    http_respond(http,
                 &(struct http_response){.status = known ? 304 : 200,
                                         .content_type = known ? NULL : content_type,
                                         .headers = {{"ETag", tag},
                                                     {"Cache-Control", "no-cache"},
                                                     {"Content-Security-Policy", content_policy},
                                                     {"X-Content-Type-Options", "nosniff"},
                                                     {"Referrer-Policy", "no-referrer"}}},
                 &body);
}
