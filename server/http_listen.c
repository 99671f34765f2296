#include "server/http_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
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

static void write_authority(char *authority, size_t size, const char *host, int32_t port) {
    if (strcmp(host, "0.0.0.0") == 0) host = "127.0.0.1";
    if (strcmp(host, "::") == 0) host = "::1";
    bool bare_v6 = strchr(host, ':') != NULL;
    snprintf(authority, size, bare_v6 ? "[%s]:%d" : "%s:%d", host, (int)port);
}

int http_listen(const char *host, int32_t port, char *authority, size_t size, struct error *err) {
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
    write_authority(authority, size, host, port_of(fd));
    return fd;
}

/* A server that was killed leaves its socket. */
static bool remove_stale(const struct sockaddr_un *address, struct error *err) {
    const char *path = address->sun_path;
    struct stat status;
    if (lstat(path, &status) != 0) return true; // none, or bind will say what is wrong
    if (!S_ISSOCK(status.st_mode)) return fail_param(err, ERR_INVALID, "uds", "%s is there and is no socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return fail_param(err, ERR_IO, "uds", "no socket for %s: %s", path, strerror(errno));
    // Where someone listens it is done, or EAGAIN when many wait already.
    int code = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ? EADDRINUSE : errno;
    close(fd);
    if (code != ECONNREFUSED)
        return fail_param(err, ERR_IO, "uds", "cannot listen on %s: %s", path,
                          strerror(code == EAGAIN ? EADDRINUSE : code));
    if (unlink(path) == 0) return true;
    return fail_param(err, ERR_IO, "uds", "cannot remove the old socket %s: %s", path, strerror(errno));
}

int http_listen_unix(const char *path, struct error *err) {
    enum { MODE = 0660 };
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) {
        fail_param(err, ERR_INVALID, "uds", "%s is longer than %zu bytes", path, sizeof address.sun_path - 1);
        return -1;
    }
    memcpy(address.sun_path, path, length);
    if (!remove_stale(&address, err)) return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // Before bind the mode is what the umask leaves of it, so that at no time others may connect.
    bool bound = fd >= 0 && fchmod(fd, MODE) == 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    if (bound && chmod(path, MODE) == 0 && listen(fd, BACKLOG) == 0) return fd;
    fail_param(err, ERR_IO, "uds", "cannot listen on %s: %s", path, strerror(errno));
    if (bound) unlink(path);
    if (fd >= 0) close(fd);
    return -1;
}
