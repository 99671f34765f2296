#include "server/http_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024 }; // cut by net.core.somaxconn

static int listen_at(const struct addrinfo *address) {
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0) return -1;
    // Without it a restart has to wait for the connections of the last run to leave TIME_WAIT, a minute.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

static int32_t port_of(int fd) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t size = sizeof address;
    if (getsockname(fd, &address.any, &size) != 0) return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static void write_url(char *url, size_t size, const char *host, int32_t port) {
    if (strcmp(host, "0.0.0.0") == 0) host = "127.0.0.1";
    if (strcmp(host, "::") == 0) host = "::1";
    bool bare_v6 = strchr(host, ':') != NULL;
    snprintf(url, size, bare_v6 ? "http://[%s]:%d" : "http://%s:%d", host, (int)port);
}

int http_listen(const char *host, int32_t port, char *url, size_t url_size, struct error *err) {
    char service[16];
    snprintf(service, sizeof service, "%d", (int)port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *addresses = NULL;
    int code = getaddrinfo(host, service, &hints, &addresses);
    if (code != 0) {
        fail_param(err, ERR_INVALID, "host", "cannot listen on host %s: %s", host, gai_strerror(code));
        return -1;
    }
    int fd = -1;
    for (const struct addrinfo *address = addresses; address != NULL && fd < 0; address = address->ai_next) {
        fd = listen_at(address);
    }
    code = errno;
    freeaddrinfo(addresses);
    if (fd < 0) {
        fail_param(err, ERR_IO, code == EADDRNOTAVAIL ? "host" : "port", "cannot listen on %s port %d: %s", host,
                   (int)port, strerror(code));
        return -1;
    }
    write_url(url, url_size, host, port_of(fd));
    return fd;
}
