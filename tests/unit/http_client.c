#include "http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct bytes {
    char *data; // NUL-terminated
    size_t length;
};

static bool receive_more(int fd, struct bytes *bytes) {
    char buffer[65536];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) return false;
    bytes->data = realloc(bytes->data, bytes->length + (size_t)n + 1);
    memcpy(bytes->data + bytes->length, buffer, (size_t)n);
    bytes->length += (size_t)n;
    bytes->data[bytes->length] = '\0';
    return true;
}

int http_connect(const char *url) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 15}, sizeof(struct timeval));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void http_send(int fd, const char *text) {
    size_t length = strlen(text);
    while (length > 0) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
        if (n <= 0) return;
        text += n;
        length -= (size_t)n;
    }
}

void http_send_post(int fd, const char *path, const char *body) {
    char head[512];
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", path,
             strlen(body));
    http_send(fd, head);
    http_send(fd, body);
}

/* Joins chunks that lie whole in [text, end); true when the last one is there. */
static bool join_chunks(const char *text, const char *end, char *joined) {
    for (*joined = '\0';;) {
        char *data;
        unsigned long size = strtoul(text, &data, 16);
        if (data == text || strncmp(data, "\r\n", 2) != 0) return false;
        data += 2;
        if (size == 0) return strncmp(data, "\r\n", 2) == 0;
        if ((size_t)(end - data) < size + 2) return false;
        memcpy(joined, data, size);
        joined += size;
        *joined = '\0';
        text = data + size + 2;
    }
}

/* Splits what came so far; true when the answer is complete. */
static bool parse(const struct bytes *bytes, struct http_answer *answer) {
    const char *end = bytes->length > 0 ? strstr(bytes->data, "\r\n\r\n") : NULL;
    http_answer_finish(answer);
    if (end == NULL) return false;
    answer->head = strndup(bytes->data, (size_t)(end - bytes->data) + 2);
    answer->status = atoi(answer->head + strlen("HTTP/1.1 "));
    const char *body = end + 4;
    if (strcasestr(answer->head, "\r\nTransfer-Encoding: chunked") != NULL) {
        const char *all = bytes->data + bytes->length;
        answer->body = malloc((size_t)(all - body) + 1);
        return answer->complete = join_chunks(body, all, answer->body);
    }
    const char *length = strcasestr(answer->head, "\r\nContent-Length: ");
    answer->body = strdup(body);
    return answer->complete = length != NULL && strlen(body) >= strtoul(length + 18, NULL, 10);
}

struct http_answer http_receive(int fd) {
    struct bytes bytes = {0};
    struct http_answer answer = {0};
    // Every answer here ends with an empty line, a closing brace or a line feed: the rest is not worth a look.
    while (receive_more(fd, &bytes) &&
           (strchr("\n}", bytes.data[bytes.length - 1]) == NULL || !parse(&bytes, &answer))) {
        continue;
    }
    if (answer.head == NULL) parse(&bytes, &answer);
    free(bytes.data);
    return answer;
}

bool http_receive_until(int fd, const char *text) {
    struct bytes bytes = {0};
    bool found = false;
    while (!found && receive_more(fd, &bytes)) found = strstr(bytes.data, text) != NULL;
    free(bytes.data);
    return found;
}

void http_answer_finish(struct http_answer *answer) {
    free(answer->head);
    free(answer->body);
    *answer = (struct http_answer){0};
}

struct http_answer http_call(const char *url, const char *path, const char *body) {
    int fd = http_connect(url);
    char get[512];
    snprintf(get, sizeof get, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path);
    if (body != NULL)
        http_send_post(fd, path, body);
    else
        http_send(fd, get);
    struct http_answer answer = http_receive(fd);
    close(fd);
    return answer;
}
