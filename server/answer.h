/* The answer of one choice of a chat, as clients are told it: what the parser finds, as a whole or as deltas.
 *
 * message: {"role", "content", "refusal"}, and where there are any "reasoning_content" with its second name
 * "reasoning", and "tool_calls". content is null beside calls without content. Of deltas each holds one of reasoning,
 * content, the beginning of a call ("index", "id", "type", name, arguments "") or more of its arguments: joined in
 * order they are the message. */
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
    struct answer_form form;
    bool drops_reasoning; // it is counted, and told to nobody
};

struct answer_call {
    char id[SERVER_ID_SIZE];
    struct string_builder name;
    struct string_builder arguments; // deltas: what is not written yet
    bool is_begun;                   // deltas: id and name were written
};

struct answer {
    struct server *server; // borrowed; for ids
    bool drops_reasoning;
    struct answer_parser parser;
    struct string_builder reasoning; // deltas: what is not written yet, as content
    struct string_builder content;
    struct answer_call *calls; // [n_calls], owned
    int32_t n_calls;
    int32_t calls_capacity;
    int32_t n_written_calls; // deltas
    enum error_code failure;

    struct reasoning_count reasoning_tokens;
};

/* The answer must stay where it is until answer_finish. */
void answer_init(struct answer *answer, const struct answer_options *options, struct server *server);
void answer_finish(struct answer *answer);

/* Every token of the answer but the one that ends it. */
void answer_count_token(struct answer *answer, int32_t token);

/* Takes all of text and empties it. True: the answer is complete, though the model might go on. */
bool answer_push(struct answer *answer, struct string_builder *text);
void answer_end(struct answer *answer);
bool answer_check(const struct answer *answer, struct error *err);

/* "message":{…} */
void answer_write_message(const struct answer *answer, struct string_builder *out);

/* Appends the next "delta":{…}; false when there is nothing new. */
bool answer_write_delta(struct answer *answer, struct string_builder *out);

#endif
