#include "server/sse_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HTTP_OK = 200 };

static bool begins_with(const char *text, const char *beginning) {
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* Moves bytes to line up to the end of the line; true: it is complete, and stands without its end. */
static bool take_line(struct sse_line *line, const char **bytes, size_t *length) {
    const char *end = memchr(*bytes, '\n', *length);
    size_t n = end != NULL ? (size_t)(end - *bytes) : *length;
    size_t room = sizeof line->text - 1 - line->length;
    size_t kept = n < room ? n : room;
    memcpy(line->text + line->length, *bytes, kept);
    line->length += kept;
    *bytes += end != NULL ? n + 1 : n;
    *length -= end != NULL ? n + 1 : n;
    if (end == NULL) return false;
    if (line->length > 0 && line->text[line->length - 1] == '\r') --line->length;
    line->text[line->length] = '\0';
    return true;
}

static void read_head_line(struct sse_reader *reader) {
    const char *line = reader->wire.text;
    if (reader->status == 0) {
        const char *code = strchr(line, ' ');
        reader->status = code != NULL ? (int)strtol(code, NULL, 10) : -1;
    } else if (strncasecmp(line, "Transfer-Encoding:", 18) == 0) {
        reader->chunked = strcasestr(line + 18, "chunked") != NULL;
    } else if (line[0] == '\0' && reader->status >= HTTP_OK) { // below 200 another head follows
        reader->place = reader->chunked ? SSE_CHUNK_SIZE : SSE_BODY;
    } else if (line[0] == '\0') {
        reader->status = 0;
    }
}

static void keep_failure(struct sse_reader *reader, const char *text, size_t length) {
    size_t kept = strlen(reader->failure), room = sizeof reader->failure - 1 - kept;
    memcpy(reader->failure + kept, text, length < room ? length : room);
}

static void read_data_line(struct sse_reader *reader) {
    const char *line = reader->data.text;
    if (begins_with(line, "data: {\"error\"")) keep_failure(reader, line, reader->data.length);
    if (!begins_with(line, "data: ")) return;
    if (begins_with(line, "data: [DONE]")) {
        reader->done = true;
        return;
    }
    ++reader->n_events;
    const char *usage = strstr(line, "\"completion_tokens\":");
    if (usage != NULL) reader->n_tokens = (int32_t)strtol(usage + strlen("\"completion_tokens\":"), NULL, 10);
}

static void feed_data(struct sse_reader *reader, const char *bytes, size_t length) {
    if (reader->status != HTTP_OK) {
        keep_failure(reader, bytes, length);
        return;
    }
    while (take_line(&reader->data, &bytes, &length)) {
        read_data_line(reader);
        reader->data.length = 0;
    }
}

static void feed_chunk(struct sse_reader *reader, const char **bytes, size_t *length) {
    size_t n = *length < reader->chunk_left ? *length : reader->chunk_left;
    feed_data(reader, *bytes, n);
    *bytes += n;
    *length -= n;
    reader->chunk_left -= n;
    if (reader->chunk_left == 0) reader->place = SSE_CHUNK_END;
}

static void read_wire_line(struct sse_reader *reader) {
    if (reader->place == SSE_HEAD) {
        read_head_line(reader);
    } else if (reader->place == SSE_CHUNK_SIZE) {
        reader->chunk_left = strtoul(reader->wire.text, NULL, 16);
        reader->place = reader->chunk_left > 0 ? SSE_CHUNK : SSE_OVER;
    } else {
        reader->place = SSE_CHUNK_SIZE;
    }
    reader->wire.length = 0;
}

void sse_reader_feed(struct sse_reader *reader, const char *bytes, size_t length) {
    while (length > 0 && reader->place != SSE_OVER) {
        if (reader->place == SSE_BODY) {
            feed_data(reader, bytes, length);
            return;
        }
        if (reader->place == SSE_CHUNK) {
            feed_chunk(reader, &bytes, &length);
        } else if (take_line(&reader->wire, &bytes, &length)) {
            read_wire_line(reader);
        }
    }
}
