#include "engine/log.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLEAR_LINE "\r\033[K"

struct log {
    FILE *stream; // borrowed
    enum log_level level;
    enum log_format format;
    bool terminal;

    pthread_mutex_t lock;           // of whole lines on the stream and of what follows
    bool progress_open;             // a progress line stands unfinished on the terminal
    bool progress_running;          // between the first log_progress and its done
    struct timespec progress_shown; // CLOCK_MONOTONIC, when a plain progress line was last due
};

struct log *log_create(FILE *stream, enum log_level level, enum log_format format) {
    struct log *log = calloc(1, sizeof *log);
    if (!log) return NULL;
    log->stream = stream;
    log->level = level;
    log->format = format;
    log->terminal = isatty(fileno(stream)) == 1;
    pthread_mutex_init(&log->lock, NULL);
    return log;
}

void log_destroy(struct log *log) {
    if (!log) return;
    if (log->progress_open) fputc('\n', log->stream);
    fflush(log->stream);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

bool log_enabled(const struct log *log, enum log_level level) {
    return log && level >= log->level;
}

/* One event is one line: control characters are escaped, in quotes also what would end them. */
static void write_escaped(FILE *line, const char *text, bool quoted) {
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (quoted && (*at == '"' || *at == '\\'))
            fprintf(line, "\\%c", *at);
        else if (*at == '\n')
            fputs("\\n", line);
        else if (*at < 0x20 || *at == 0x7f)
            fprintf(line, "\\u%04x", *at);
        else
            fputc(*at, line);
    }
}

static void write_quoted(FILE *line, const char *text) {
    fputc('"', line);
    write_escaped(line, text, true);
    fputc('"', line);
}

static void write_head(FILE *line, enum log_level level, enum log_format format) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    struct timespec now;
    struct tm utc;
    char date[32], clock[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(date, sizeof date, "%Y-%m-%d", &utc);
    strftime(clock, sizeof clock, "%H:%M:%S", &utc);
    int milliseconds = (int)(now.tv_nsec / 1000000);
    if (format == LOG_JSON) {
        fprintf(line, "{\"time\": \"%sT%s.%03dZ\", \"level\": \"%s\"", date, clock, milliseconds, names[level]);
    } else {
        fprintf(line, "%s %s.%03d %-5s ", date, clock, milliseconds, names[level]);
    }
}

/* The line goes out in one write, so that lines of other processes on the same stream do not land inside it. */
static void emit(struct log *log, const char *line, size_t length) {
    if (log->progress_open) fputs(CLEAR_LINE, log->stream);
    log->progress_open = false;
    fwrite(line, 1, length, log->stream);
    fflush(log->stream);
}

static void emit_message(struct log *log, enum log_level level, const char *message) {
    char *text = NULL;
    size_t length = 0;
    FILE *line = open_memstream(&text, &length);
    if (!line) return;
    write_head(line, level, log->format);
    if (log->format == LOG_JSON) {
        fputs(", \"message\": ", line);
        write_quoted(line, message);
        fputc('}', line);
    } else {
        write_escaped(line, message, false);
    }
    fputc('\n', line);
    if (fclose(line) == 0) emit(log, text, length);
    free(text);
}

void log_message(struct log *log, enum log_level level, const char *format, ...) {
    if (!log_enabled(log, level)) return;
    char *message;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&message, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    pthread_mutex_lock(&log->lock);
    emit_message(log, level, message);
    pthread_mutex_unlock(&log->lock);
    free(message);
}

static bool is_one_word(const char *text) {
    if (!*text) return false;
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at <= ' ' || *at == '"' || *at == '\\' || *at == '=' || *at == 0x7f) return false;
    }
    return true;
}

static void write_value(FILE *line, const struct log_field *field, enum log_format format) {
    switch (field->kind) {
    case LOG_FIELD_INTEGER:
        fprintf(line, "%" PRId64, field->integer);
        break;
    case LOG_FIELD_NUMBER:
        if (isfinite(field->number))
            fprintf(line, "%.6g", field->number);
        else
            fputs("null", line); // JSON has no infinity
        break;
    case LOG_FIELD_STRING: {
        const char *string = field->string ? field->string : "";
        if (format == LOG_TEXT && is_one_word(string))
            fputs(string, line);
        else
            write_quoted(line, string);
        break;
    }
    }
}

void log_event(struct log *log, enum log_level level, const char *event, const struct log_field *fields,
               size_t n_fields) {
    if (!log_enabled(log, level)) return;
    char *text = NULL;
    size_t length = 0;
    FILE *line = open_memstream(&text, &length);
    if (!line) return;
    bool json = log->format == LOG_JSON;
    write_head(line, level, log->format);
    if (json) fputs(", \"event\": ", line);
    if (json)
        write_quoted(line, event);
    else
        write_escaped(line, event, false);
    for (size_t i = 0; i < n_fields; i++) {
        fprintf(line, json ? ", \"%s\": " : " %s=", fields[i].name);
        write_value(line, &fields[i], log->format);
    }
    fputs(json ? "}\n" : "\n", line);
    if (fclose(line) == 0) {
        pthread_mutex_lock(&log->lock);
        emit(log, text, length);
        pthread_mutex_unlock(&log->lock);
    }
    free(text);
}

/* Elsewhere than on a terminal a line is due each second; work done within the first second shows its end alone. */
static bool plain_progress_due(struct log *log, bool done) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!log->progress_running) log->progress_shown = now;
    double elapsed_s =
        (double)(now.tv_sec - log->progress_shown.tv_sec) + 1e-9 * (double)(now.tv_nsec - log->progress_shown.tv_nsec);
    if (elapsed_s < 1.0 && !done) return false;
    log->progress_shown = now;
    return true;
}

void log_progress(struct log *log, bool done, const char *format, ...) {
    if (!log_enabled(log, LOG_INFO)) return;
    char *message;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&message, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    pthread_mutex_lock(&log->lock);
    if (log->terminal && log->format == LOG_TEXT && !done) {
        fputs(CLEAR_LINE, log->stream);
        write_head(log->stream, LOG_INFO, LOG_TEXT);
        write_escaped(log->stream, message, false);
        fflush(log->stream);
        log->progress_open = true;
    } else if (plain_progress_due(log, done)) {
        emit_message(log, LOG_INFO, message);
    }
    log->progress_running = !done;
    pthread_mutex_unlock(&log->lock);
    free(message);
}
