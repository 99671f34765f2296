/* The endpoints, one a file. Each answers or defers its request; server is ready where routes.c says so. */
#ifndef QUERN_SERVER_ENDPOINTS_H
#define QUERN_SERVER_ENDPOINTS_H

struct http_request;
struct server;

void chat_completions_post(struct server *server, struct http_request *http); // chat_completions.c
void completions_post(struct server *server, struct http_request *http);      // completions.c
void embeddings_post(struct server *server, struct http_request *http);       // embeddings.c
void messages_post(struct server *server, struct http_request *http);         // messages.c
void messages_count_post(struct server *server, struct http_request *http);
void responses_post(struct server *server, struct http_request *http); // responses.c
void response_get(struct server *server, struct http_request *http);
void response_delete(struct server *server, struct http_request *http);
void response_cancel_post(struct server *server, struct http_request *http);
void response_input_items_get(struct server *server, struct http_request *http);
void chat_render_post(struct server *server, struct http_request *http); // tokenize.c
void tokenize_post(struct server *server, struct http_request *http);
void detokenize_post(struct server *server, struct http_request *http);
void models_get(struct server *server, struct http_request *http); // models.c
void model_get(struct server *server, struct http_request *http);
void health_get(struct server *server, struct http_request *http);  // health.c
void metrics_get(struct server *server, struct http_request *http); // metrics.c
void version_get(struct server *server, struct http_request *http); // server_info.c
void page_get(struct server *server, struct http_request *http);    // web.c
void server_info_get(struct server *server, struct http_request *http);
void openapi_get(struct server *server, struct http_request *http); // openapi.c

#endif
