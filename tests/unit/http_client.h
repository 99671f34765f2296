/* A small blocking HTTP client for tests, which shows the bytes as they came. */
#ifndef QUERN_TESTS_HTTP_CLIENT_H
#define QUERN_TESTS_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

struct http_answer {
    int status;
    char *head;    // status line and headers, owned
    char *body;    // chunks joined, owned
    bool complete; // ended as HTTP says, not by a closed connection
};
void http_answer_finish(struct http_answer *answer);

/* Connects to the port of a URL such as http://127.0.0.1:8000. */
int http_connect(const char *url);
void http_send(int fd, const char *text);
/* POST with JSON content type and length. */
void http_send_post(int fd, const char *path, const char *body);
/* One whole answer, or what came until the connection closed or 15 s without a byte. */
struct http_answer http_receive(int fd);
/* Reads until what has come holds text; false when the connection ends before. */
bool http_receive_until(int fd, const char *text);

/* Connect, POST (GET when body is NULL), receive, close. */
struct http_answer http_call(const char *url, const char *path, const char *body);

#endif
