#include "server/endpoints.h"

#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/server.h"

#include <string.h>

static void write_model(const struct server *server, struct string_builder *out) {
    string_builder_append_text(out, "{\"id\":");
    json_write_text(out, server->model_name);
    json_write_format(
        out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"quern\",\"root\":", (long long)server->created_s);
    json_write_text(out, server->model_name);
    json_write_format(out, ",\"parent\":null,\"max_model_len\":%d}", (int)engine_info(server->engine)->max_model_len);
}

void models_get(struct server *server, struct http_request *http) {
    struct string_builder body = {0};
    string_builder_append_text(&body, "{\"object\":\"list\",\"data\":[");
    write_model(server, &body);
    string_builder_append_text(&body, "]}");
    openai_respond_json(http, &body);
}

void model_get(struct server *server, struct http_request *http) {
    struct error err;
    if (!server_check_model(server, http_path(http) + strlen("/v1/models/"), &err)) {
        openai_respond_failure(server, http, &err);
        return;
    }
    struct string_builder body = {0};
    write_model(server, &body);
    openai_respond_json(http, &body);
}
