/* The answer of one choice as its parts, in order: reasoning, content and tool calls, whole or as they grow.
 *
 * What an endpoint makes of them is its own affair (generation.h). Deltas of a part come in order, and parts one after
 * the other: a part ends before the next begins. */
#ifndef QUERN_SERVER_ANSWER_H
#define QUERN_SERVER_ANSWER_H

#include "engine/error.h"
#include "server/answer_parser.h"
#include "server/reasoning_count.h"
#include "server/server.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stdint.h>

struct answer_options {
    struct answer_form form; // zeroed: all is content
    bool drops_reasoning;    // it is counted, and no part
    bool keeps_text;         // text that was told stays in its part
};

enum answer_part_kind { PART_REASONING, PART_CONTENT, PART_CALL };

struct answer_part {
    enum answer_part_kind kind;
    char id[SERVER_ID_SIZE];    // 24 hexadecimal digits; an endpoint puts its prefix before them
    struct string_builder name; // of a call
    int32_t call_index;         // of a call, among the calls
    struct string_builder text; // of a call: the JSON of its arguments; told in pieces: what is not told yet, or all
    size_t n_told;              // bytes of text
    bool is_begun;              // this was told, as the next
    bool is_ended;
};

enum answer_delta_kind { PART_BEGINS, PART_GROWS, PART_ENDS };

struct answer_delta {
    enum answer_delta_kind kind;
    const struct answer_part *part; // valid until the next call, as text
    const char *text;               // [length] of a part that grows
    size_t length;
};

struct answer {
    struct server *server; // borrowed; for ids
    bool drops_reasoning;
    bool keeps_text;
    bool is_over; // answer_end was called
    struct answer_parser parser;
    struct answer_part *parts; // [n_parts], owned
    int32_t n_parts;
    int32_t parts_capacity;
    int32_t n_calls;
    int32_t n_told; // parts that have ended and were told
    enum error_code failure;

    struct reasoning_count reasoning_tokens;
    bool counts_call;        // the tokens that come are those of a call
    bool counts_line_breaks; // those that the form has behind reasoning
};

/* The answer must stay where it is until answer_finish. */
void answer_init(struct answer *answer, const struct answer_options *options, struct server *server);
void answer_finish(struct answer *answer);

/* Every token of the answer but the one that ends it. */
void answer_count_token(struct answer *answer, int32_t token);
/* Whether the next token, not counted yet, is one of content: by ids, as reasoning_count.h has it. */
bool answer_is_content(const struct answer *answer, int32_t token);

/* Takes all of text and empties it. True: the answer is complete, though the model might go on. */
bool answer_push(struct answer *answer, struct string_builder *text);
void answer_end(struct answer *answer);
bool answer_check(const struct answer *answer, struct error *err);

/* The next thing to tell; false when there is nothing new. */
bool answer_next(struct answer *answer, struct answer_delta *delta);

#endif
