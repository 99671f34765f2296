/* The shapes of OpenAI's API that all endpoints share: error answers, and the one place that maps failures to status.
 */
#ifndef QUERN_SERVER_OPENAI_H
#define QUERN_SERVER_OPENAI_H

#include "engine/error.h"
#include "server/string_builder.h"

struct http_request;
struct server;

struct openai_error {
    int status;
    const char *type;
    const char *code;        // NULL: null
    const char *param;       // NULL or "": null
    const char *message;     // UTF-8
    const char *retry_after; // seconds; NULL: no such header
    const char *allow;       // methods; NULL: no such header
    const char *challenge;   // of WWW-Authenticate; NULL: no such header
    const char *request_id;  // as X-Request-Id; filled where the error is answered
};

/* How an API writes the body of an error; the table of routes.c says which. */
typedef void error_writer(struct string_builder *out, const struct openai_error *error);

/* The one switch from error_code to HTTP. param and message stay borrowed from err. */
struct openai_error openai_error_from(const struct error *err);

/* {"error": {"message", "type", "param", "code"}} */
error_writer openai_write_error;

/* A JSON string of a text that quotes bytes of a request, or was cut inside a character: as valid UTF-8. */
void openai_write_message(struct string_builder *out, const char *text);

/* Answers as the path's API does, and logs one line. */
void openai_respond_error(struct server *server, struct http_request *request, const struct openai_error *error);
void openai_respond_failure(struct server *server, struct http_request *request, const struct error *err);

/* Answers with status 200 and a JSON body, which is taken. */
void openai_respond_json(struct http_request *request, struct string_builder *body);

#endif
