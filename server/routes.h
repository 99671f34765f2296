/* Which function answers which method and path: a browser's preflight and 401 first, 405 before 404, 415 and 503 before
 * the endpoint; and whose form the errors of a path have, wherever they arise. */
#ifndef QUERN_SERVER_ROUTES_H
#define QUERN_SERVER_ROUTES_H

#include "server/openai.h"

#include <stdbool.h>
#include <stddef.h>

struct http_request;

/* The `handle` of http_options; user is the struct server. */
void routes_handle(struct http_request *http, void *user);

/* Method and path of an entry of the table; a path that ends with '/' stands for every longer one. False: there are no
 * more. */
bool routes_entry(size_t index, const char **method, const char **path);

/* Never NULL. */
error_writer *routes_error_writer(const char *path);

#endif
