/* The listening socket and the URL that reaches it. */
#ifndef QUERN_SERVER_HTTP_LISTEN_H
#define QUERN_SERVER_HTTP_LISTEN_H

#include "engine/error.h"

#include <stddef.h>
#include <stdint.h>

/* Returns a listening socket, -1 on failure. port 0: any free one. host: an address or a name, IPv4 or IPv6; url gets
 * an address to connect to, also where host means every address. */
int http_listen(const char *host, int32_t port, char *url, size_t url_size, struct error *err);

#endif
