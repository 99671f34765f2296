/* The log: one line per event to one stream, as text for people or JSON for machines. Safe from any thread.
 * Passed as `struct log *` to whoever may log; NULL is allowed and logs nothing. */
#ifndef QUERN_ENGINE_LOG_H
#define QUERN_ENGINE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

struct log;

/* stream is borrowed (usually stderr). Returns NULL when memory runs out. */
struct log *log_create(FILE *stream, enum log_level level, enum log_format format);
void log_destroy(struct log *log);
bool log_enabled(const struct log *log, enum log_level level);

/* A sentence. Text: "2026-11-22 20:14:03.123 info  message". JSON: {"time", "level", "message"}. */
void log_message(struct log *log, enum log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* An event with named values. Text: "… info  event name=value name=value". JSON: {"time", "level", "event", name:
 * value}. */
struct log_field {
    const char *name; // carries its unit: "queue_ms"
    enum { LOG_FIELD_INTEGER, LOG_FIELD_NUMBER, LOG_FIELD_STRING } kind;
    int64_t integer;
    double number;
    const char *string; // UTF-8, borrowed for the call
};
void log_event(struct log *log, enum log_level level, const char *event, const struct log_field *fields,
               size_t n_fields);

/* A line that replaces itself while it is repeated on a terminal (weights loading); plain lines, at most one a second,
 * elsewhere. done ends the line. */
void log_progress(struct log *log, bool done, const char *format, ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
