/* Structured output: what a request asks its answer to fit, in OpenAI's form (response_format) and in vLLM's
 * (structured_outputs, guided_json, guided_regex, guided_choice), or tool calls, and the constraint that makes it so.
 *
 * A grammar is compiled on the thread that reads the request, and kept for the next with the same text. What cannot be
 * compiled is ERR_INVALID with the field as param. */
#ifndef QUERN_SERVER_ANSWER_GRAMMAR_H
#define QUERN_SERVER_ANSWER_GRAMMAR_H

#include "engine/error.h"
#include "engine/grammar.h"
#include "engine/grammar_constraint.h"
#include "server/answer_parser.h"
#include "server/json_text.h"

#include <stdbool.h>
#include <stddef.h>

struct constraint;
struct server;

/* Zero-initialise, then answer_grammar_finish. */
struct answer_grammar {
    const char *field; // that asked for it, static; NULL: none did
    enum grammar_kind kind;
    enum constrained_calls calls;
    char *text; // [length] owned
    size_t length;
};

/* The value of response_format, of text.format, or of structured_outputs. A request may ask once: ERR_INVALID when it
 * did before. */
bool answer_grammar_read_format(struct answer_grammar *grammar, struct json_text value, struct error *err);
bool answer_grammar_read_text_format(struct answer_grammar *grammar, struct json_text value, struct error *err);
bool answer_grammar_read_structured(struct answer_grammar *grammar, struct json_text value, struct error *err);
/* The value of Anthropic's output_config.format. */
bool answer_grammar_read_output_format(struct answer_grammar *grammar, struct json_text value, struct error *err);
/* field is a guided_ field, static. */
bool answer_grammar_read_guided(struct answer_grammar *grammar, const char *field, struct json_text value,
                                struct error *err);
/* Calls of tools, listed as grammar_calls.h has it; takes over what the list holds. Nothing was asked before. kind says
 * in which form. */
bool answer_grammar_ask_calls(struct answer_grammar *grammar, enum grammar_kind kind, enum constrained_calls calls,
                              struct string_builder *tools, struct error *err);
void answer_grammar_finish(struct answer_grammar *grammar);

/* For one choice; engine_submit takes it. */
struct constraint *answer_grammar_constrain(const struct answer_grammar *grammar, const struct server *server,
                                            enum answer_thinking thinking, struct error *err);

#endif
