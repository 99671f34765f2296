/* Generated text to what it is made of: reasoning, content, tool calls.
 *
 * Reasoning is what stands between <think> and </think> at the beginning of an answer. A tool call stands between
 * <tool_call> and </tool_call>, behind the reasoning (call_reader.h has its two forms; the XML form may leave out
 * <tool_call>, and in both the closing tag may be missing). Line breaks around reasoning, and between content and
 * calls, belong to the form and are dropped: the chat template writes them again.
 *
 * Events do not depend on how the text was cut into pushes, but for where texts are cut. Nothing that may begin a mark
 * is passed on before that is decided: at most 12 bytes wait, and line breaks. A call waits until it is complete unless
 * is_eager, for what looks like a call until its last byte may still be none, and what was told as a call cannot become
 * content again. A malformed call, one over ANSWER_MAX_CALL_BYTES and one that the answer breaks off become content,
 * byte for byte. is_eager is for calls that decoding constrains to their form: then the name is told when it is known
 * and arguments as they come, in the XML form parameter by parameter, where <tool_call> must be there and each text
 * ends with a line break. */
#ifndef QUERN_SERVER_ANSWER_PARSER_H
#define QUERN_SERVER_ANSWER_PARSER_H

#include "engine/error.h"
#include "server/call_reader.h"
#include "server/mark_matcher.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ANSWER_MAX_CALL_BYTES = 1 << 20 };

enum answer_thinking {
    ANSWER_NEVER_THINKS, // <think> is content
    ANSWER_MAY_THINK,
    ANSWER_THINKS, // the prompt has opened <think>
};

/* What to look for; the same for all choices of a request. */
struct answer_form {
    enum answer_thinking thinking;
    bool has_calls; // otherwise <tool_call> is content
    enum call_form call_form;
    const struct chat_text *tools; // [n_tools] JSON of each tool, borrowed
    int32_t n_tools;
    bool is_eager;
    bool one_call; // nothing follows the first call
};

enum answer_event_kind {
    ANSWER_REASONING,
    ANSWER_CONTENT,
    ANSWER_CALL,      // text is the name; what follows belongs to this call
    ANSWER_ARGUMENTS, // the next bytes of the JSON object
};

struct answer_event {
    enum answer_event_kind kind;
    const char *text; // [length] valid during the call, not empty
    size_t length;
};

typedef void answer_listener(void *user, const struct answer_event *event);

enum answer_phase { ANSWER_AT_START, ANSWER_IN_REASONING, ANSWER_IN_CONTENT, ANSWER_IN_CALL };

struct answer_parser {
    struct answer_form form;
    answer_listener *listener;
    void *user;
    enum answer_phase phase;
    bool is_done; // one_call: what is pushed from here on is passed over

    struct mark_matcher mark;
    size_t n_line_breaks;       // waiting
    bool drops_line_breaks;     // nothing but line breaks came since reasoning or a call
    bool may_close;             // a call was the last that came: </tool_call> may follow
    struct string_builder text; // for the next event of this push
    struct string_builder held; // the call at hand, from its mark on
    bool is_told;               // the call at hand has had its event
    struct call_reader call;
    enum error_code failure;
};

void answer_parser_init(struct answer_parser *parser, const struct answer_form *form, answer_listener *listener,
                        void *user);
void answer_parser_finish(struct answer_parser *parser);

/* text is UTF-8 in whole characters. A failed allocation is remembered in failure, and texts are missing from then on.
 */
void answer_parser_push(struct answer_parser *parser, const char *text, size_t length);

/* The answer is over: what waits is decided. */
void answer_parser_end(struct answer_parser *parser);

#endif
