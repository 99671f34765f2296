/* Reads one HTTP/1.1 answer that is a stream of server-sent events, in whatever pieces it comes.
 *
 * Zero-initialise, then feed bytes. Understands chunked and plain bodies; of each event only its data line, of which it
 * counts tokens as the usage at the end says. */
#ifndef QUERN_SERVER_SSE_READER_H
#define QUERN_SERVER_SSE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SSE_MAX_LINE = 4096 };

/* The beginning of a line; what is beyond SSE_MAX_LINE - 1 bytes is dropped. */
struct sse_line {
    char text[SSE_MAX_LINE];
    size_t length;
};

enum sse_place { SSE_HEAD, SSE_BODY, SSE_CHUNK_SIZE, SSE_CHUNK, SSE_CHUNK_END, SSE_OVER };

struct sse_reader {
    enum sse_place place;
    bool chunked;
    size_t chunk_left;
    struct sse_line wire; // of the head and of chunk sizes
    struct sse_line data; // of the body
    int status;           // of HTTP; 0 until it came
    int64_t n_events;     // with data, [DONE] not counted
    int32_t n_tokens;     // completion_tokens of the usage
    bool done;            // [DONE] came
    char failure[512];    // of an event with an error, or of a body with another status than 200; else empty
};

void sse_reader_feed(struct sse_reader *reader, const char *bytes, size_t length);

#endif
