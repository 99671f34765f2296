#include "server/answer_parser.h"

#include <string.h>

void answer_parser_init(struct answer_parser *parser, const struct answer_form *form, answer_listener *listener,
                        void *user) {
    *parser = (struct answer_parser){.form = *form, .listener = listener, .user = user};
    parser->held.max_length = ANSWER_MAX_CALL_BYTES;
    parser->call.form = form->call_form;
    parser->call.is_exact = form->is_eager;
    parser->call.tools = form->tools;
    parser->call.n_tools = form->n_tools;
    if (form->thinking == ANSWER_NEVER_THINKS) parser->phase = ANSWER_IN_CONTENT;
}

void answer_parser_finish(struct answer_parser *parser) {
    string_builder_finish(&parser->text);
    string_builder_finish(&parser->held);
    call_reader_finish(&parser->call);
}

/* --- events --- */

static void tell(struct answer_parser *parser, enum answer_event_kind kind, const struct string_builder *text) {
    if (text->failure != ERR_NONE) parser->failure = text->failure;
    if (text->failure == ERR_NONE && text->length > 0) {
        parser->listener(parser->user, &(struct answer_event){kind, text->data, text->length});
    }
}

/* What was collected of the text at hand. */
static void tell_text(struct answer_parser *parser) {
    tell(parser, parser->phase == ANSWER_IN_REASONING ? ANSWER_REASONING : ANSWER_CONTENT, &parser->text);
    parser->text.length = 0;
}

static void tell_name(struct answer_parser *parser) {
    parser->is_told = true;
    parser->n_line_breaks = 0;
    tell(parser, ANSWER_CALL, &parser->call.name);
}

/* Those that have come since the last time. */
static void tell_arguments(struct answer_parser *parser) {
    tell(parser, ANSWER_ARGUMENTS, &parser->call.arguments);
    parser->call.arguments.length = 0;
}

/* --- text --- */

static void write_line_breaks(struct answer_parser *parser) {
    for (; parser->n_line_breaks > 0; --parser->n_line_breaks) string_builder_append(&parser->text, "\n", 1);
}

/* Text that is no mark. */
static void write_text(struct answer_parser *parser, const char *text, size_t length) {
    for (size_t i = 0; i < length; ++i) {
        bool waits = parser->phase == ANSWER_IN_REASONING || parser->form.has_calls || parser->drops_line_breaks;
        if (text[i] == '\n' && waits) {
            parser->n_line_breaks += !parser->drops_line_breaks;
            continue;
        }
        write_line_breaks(parser);
        parser->drops_line_breaks = parser->may_close = false;
        size_t run = 1;
        while (i + run < length && text[i + run] != '\n') ++run;
        string_builder_append(&parser->text, text + i, run);
        i += run - 1;
    }
}

/* Reasoning begins, or content behind something else. */
static void begin_text(struct answer_parser *parser, enum answer_phase phase) {
    tell_text(parser);
    parser->phase = phase;
    parser->n_line_breaks = 0;
    parser->drops_line_breaks = true;
}

/* --- calls --- */

static void begin_call(struct answer_parser *parser, const char *mark, bool is_function_open) {
    tell_text(parser);
    parser->phase = ANSWER_IN_CALL;
    parser->is_told = false;
    parser->held.length = 0;
    string_builder_append_text(&parser->held, mark);
    call_reader_start(&parser->call, is_function_open);
}

/* What looked like a call is content, unless it was told already. */
static void give_up_call(struct answer_parser *parser) {
    if (parser->is_told) tell_arguments(parser);
    parser->phase = ANSWER_IN_CONTENT;
    if (!parser->is_told) write_text(parser, parser->held.data, parser->held.length);
    parser->held.length = 0;
}

static void push_text(struct answer_parser *parser, char c);

static void finish_call(struct answer_parser *parser) {
    if (!parser->is_told) tell_name(parser);
    tell_arguments(parser);
    begin_text(parser, ANSWER_IN_CONTENT);
    parser->may_close = true;
    parser->is_done = parser->form.one_call;
}

static void push_call(struct answer_parser *parser, char c) {
    enum call_status status = call_reader_push(&parser->call, c);
    struct string_builder *held = &parser->held;
    if (!parser->is_told && status != CALL_MALFORMED) string_builder_append(held, &c, 1);
    bool is_too_long = held->failure == ERR_TOO_LARGE;
    if (is_too_long) held->failure = ERR_NONE;
    if (held->failure != ERR_NONE) parser->failure = held->failure;
    if (call_reader_failure(&parser->call) != ERR_NONE) parser->failure = call_reader_failure(&parser->call);

    if (status == CALL_MALFORMED || is_too_long) {
        give_up_call(parser);
        push_text(parser, c);
    } else if (status == CALL_DONE) {
        finish_call(parser);
    } else if (parser->form.is_eager && parser->call.is_named && !parser->is_told) {
        tell_name(parser);
    }
}

/* --- marks --- */

enum { MARK_THINK, MARK_THINK_END, MARK_CALL, MARK_FUNCTION, MARK_CALL_END };

static const char *const marks[] = {"<think>", "</think>", "<tool_call>", "<function=", "</tool_call>"};

/* Those that mean something where the parser is now, and at the end NULL. */
static void list_marks(const struct answer_parser *parser, const char *list[4]) {
    int n = 0;
    if (parser->phase == ANSWER_AT_START) list[n++] = marks[MARK_THINK];
    if (parser->phase == ANSWER_IN_REASONING) list[n++] = marks[MARK_THINK_END];
    if (parser->phase == ANSWER_IN_CONTENT && parser->form.has_calls) {
        list[n++] = marks[MARK_CALL];
        if (parser->form.call_form == CALL_FORM_XML && !parser->form.is_eager) list[n++] = marks[MARK_FUNCTION];
        if (parser->may_close) list[n++] = marks[MARK_CALL_END];
    }
    list[n] = NULL;
}

static void take_mark(struct answer_parser *parser, const char *mark) {
    if (mark == marks[MARK_THINK]) {
        begin_text(parser, ANSWER_IN_REASONING);
    } else if (mark == marks[MARK_THINK_END]) {
        begin_text(parser, ANSWER_IN_CONTENT);
    } else if (mark == marks[MARK_CALL_END]) {
        parser->may_close = false;
    } else {
        begin_call(parser, mark, mark == marks[MARK_FUNCTION]);
    }
}

/* The first bytes that are neither line breaks nor <think>: which text do they begin? */
static void leave_start(struct answer_parser *parser) {
    if (parser->form.thinking == ANSWER_THINKS)
        begin_text(parser, ANSWER_IN_REASONING);
    else
        parser->phase = ANSWER_IN_CONTENT;
}

/* The marks that were looked for are not these bytes; others may be. */
static void push_again(struct answer_parser *parser, char c) {
    char bytes[MARK_MAX_BYTES];
    size_t length = parser->mark.length;
    memcpy(bytes, parser->mark.bytes, length);
    parser->mark.length = 0;
    for (size_t i = 0; i < length; ++i) push_text(parser, bytes[i]);
    push_text(parser, c);
}

/* One byte outside of calls. */
static void push_text(struct answer_parser *parser, char c) {
    const char *list[4];
    list_marks(parser, list);
    if (parser->phase == ANSWER_AT_START && parser->mark.length == 0 && c == '\n') {
        ++parser->n_line_breaks;
        return;
    }
    int mark = mark_matcher_push(&parser->mark, c, list);
    if (mark >= 0) {
        take_mark(parser, list[mark]);
    } else if (mark == MARK_NONE && parser->phase == ANSWER_AT_START) {
        leave_start(parser);
        push_again(parser, c);
    } else if (mark == MARK_NONE) {
        bool held = parser->mark.length > 0;
        write_text(parser, parser->mark.bytes, parser->mark.length);
        parser->mark.length = 0;
        if (held)
            push_text(parser, c); // it may begin another
        else
            write_text(parser, &c, 1);
    }
}

/* How many bytes from here on are text for certain. */
static size_t plain_run(const struct answer_parser *parser, const char *text, size_t length) {
    bool in_text = parser->phase == ANSWER_IN_REASONING || parser->phase == ANSWER_IN_CONTENT;
    if (!in_text || parser->mark.length > 0) return 0;
    const char *found = memchr(text, '<', length);
    return found != NULL ? (size_t)(found - text) : length;
}

void answer_parser_push(struct answer_parser *parser, const char *text, size_t length) {
    for (size_t i = 0; i < length && !parser->is_done;) {
        size_t run = plain_run(parser, text + i, length - i);
        if (run > 0) {
            write_text(parser, text + i, run);
            i += run;
        } else if (parser->phase == ANSWER_IN_CALL) {
            push_call(parser, text[i++]);
        } else {
            push_text(parser, text[i++]);
        }
    }
    if (parser->phase != ANSWER_IN_CALL)
        tell_text(parser);
    else if (parser->is_told)
        tell_arguments(parser);
}

void answer_parser_end(struct answer_parser *parser) {
    if (parser->is_done) return;
    if (parser->phase == ANSWER_AT_START) leave_start(parser);
    if (parser->phase == ANSWER_IN_CALL) give_up_call(parser);
    write_text(parser, parser->mark.bytes, parser->mark.length);
    parser->mark.length = 0;
    if (parser->phase == ANSWER_IN_CONTENT) write_line_breaks(parser);
    tell_text(parser);
}
