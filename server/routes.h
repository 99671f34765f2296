/* Which function answers which method and path: a browser's preflight and 401 first, 405 before 404, 415 and 503 before
 * the endpoint. */
#ifndef QUERN_SERVER_ROUTES_H
#define QUERN_SERVER_ROUTES_H

struct http_request;

/* The `handle` of http_options; user is the struct server. */
void routes_handle(struct http_request *http, void *user);

#endif
