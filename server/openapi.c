#include "server/embedded.h"
#include "server/endpoints.h"
#include "server/http.h"
#include "server/openai.h"

void openapi_get(struct server *server, struct http_request *http) {
    (void)server;
    const struct embedded_file *document = embedded_find("openapi.json");
    struct string_builder body = {0};
    string_builder_append(&body, document->data, document->length);
    openai_respond_json(http, &body);
}
