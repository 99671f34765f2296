/* The listening socket and where it is reached, or the path of a Unix socket. */
#ifndef QUERN_SERVER_HTTP_LISTEN_H
#define QUERN_SERVER_HTTP_LISTEN_H

#include "engine/error.h"

#include <stddef.h>
#include <stdint.h>

/* Returns a listening socket, -1 on failure. port 0: any free one. host: an address or a name, IPv4 or IPv6; authority
 * gets the address and port to connect to as a URL has them, also where host means every address. */
int http_listen(const char *host, int32_t port, char *authority, size_t size, struct error *err);

/* Returns a listening Unix socket at path, for its user and group (0660), -1 on failure. A socket that nobody listens
 * on any more is replaced, all else that stands there is an error. The path is the caller's to remove. */
int http_listen_unix(const char *path, struct error *err);

#endif
