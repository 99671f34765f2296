#include "server/answer.h"

#include "server/json_writer.h"

#include <stdlib.h>
#include <string.h>

/* --- what the parser finds --- */

static struct answer_call *add_call(struct answer *answer) {
    if (answer->n_calls == answer->calls_capacity) {
        int32_t capacity = 2 * answer->calls_capacity + 4;
        struct answer_call *calls = realloc(answer->calls, (size_t)capacity * sizeof *calls);
        if (calls == NULL) {
            answer->failure = ERR_MEMORY;
            return NULL;
        }
        answer->calls = calls;
        answer->calls_capacity = capacity;
    }
    struct answer_call *call = &answer->calls[answer->n_calls++];
    *call = (struct answer_call){.is_begun = false};
    server_next_id(answer->server, "call_", call->id);
    return call;
}

static void append(struct answer *answer, struct string_builder *builder, const struct answer_event *event) {
    string_builder_append(builder, event->text, event->length);
    if (builder->failure != ERR_NONE) answer->failure = builder->failure;
}

static void take_event(void *user, const struct answer_event *event) {
    struct answer *answer = user;
    struct answer_call *call;
    if (answer->failure != ERR_NONE) return;
    switch (event->kind) {
    case ANSWER_REASONING:
        if (!answer->drops_reasoning) append(answer, &answer->reasoning, event);
        break;
    case ANSWER_CONTENT:
        append(answer, &answer->content, event);
        break;
    case ANSWER_CALL:
        call = add_call(answer);
        if (call != NULL) append(answer, &call->name, event);
        break;
    case ANSWER_ARGUMENTS:
        append(answer, &answer->calls[answer->n_calls - 1].arguments, event);
        break;
    }
}

void answer_init(struct answer *answer, const struct answer_options *options, struct server *server) {
    *answer = (struct answer){.server = server,
                              .drops_reasoning = options->drops_reasoning,
                              .reasoning_tokens = reasoning_count_begin(options->form.thinking)};
    answer_parser_init(&answer->parser, &options->form, take_event, answer);
}

void answer_finish(struct answer *answer) {
    for (int32_t i = 0; i < answer->n_calls; ++i) {
        string_builder_finish(&answer->calls[i].name);
        string_builder_finish(&answer->calls[i].arguments);
    }
    free(answer->calls);
    string_builder_finish(&answer->reasoning);
    string_builder_finish(&answer->content);
    answer_parser_finish(&answer->parser);
}

void answer_count_token(struct answer *answer, int32_t token) {
    reasoning_count_take(&answer->reasoning_tokens, answer->server->tokenizer, token);
}

bool answer_push(struct answer *answer, struct string_builder *text) {
    if (text->failure != ERR_NONE) answer->failure = text->failure;
    answer_parser_push(&answer->parser, text->data, text->length);
    text->length = 0;
    return answer->parser.is_done;
}

void answer_end(struct answer *answer) {
    answer_parser_end(&answer->parser);
}

bool answer_check(const struct answer *answer, struct error *err) {
    bool failed = answer->failure != ERR_NONE || answer->parser.failure != ERR_NONE;
    return !failed || fail(err, ERR_MEMORY, "no memory for the answer");
}

/* --- JSON --- */

static void write_member(struct string_builder *out, const char *name, const struct string_builder *text) {
    json_write_format(out, "\"%s\":", name);
    json_write_string(out, text->data, text->length);
}

static void write_reasoning(struct string_builder *out, const struct string_builder *reasoning) {
    write_member(out, "reasoning_content", reasoning);
    string_builder_append_text(out, ",");
    write_member(out, "reasoning", reasoning);
}

static void write_call(struct string_builder *out, const struct answer_call *call, bool with_arguments) {
    static const struct string_builder none = {0};
    json_write_format(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{", call->id);
    write_member(out, "name", &call->name);
    string_builder_append_text(out, ",");
    write_member(out, "arguments", with_arguments ? &call->arguments : &none);
    string_builder_append_text(out, "}");
}

void answer_write_message(const struct answer *answer, struct string_builder *out) {
    string_builder_append_text(out, "\"message\":{\"role\":\"assistant\",");
    if (answer->content.length == 0 && answer->n_calls > 0)
        string_builder_append_text(out, "\"content\":null");
    else
        write_member(out, "content", &answer->content);
    string_builder_append_text(out, ",\"refusal\":null");
    if (answer->reasoning.length > 0) {
        string_builder_append_text(out, ",");
        write_reasoning(out, &answer->reasoning);
    }
    for (int32_t i = 0; i < answer->n_calls; ++i) {
        string_builder_append_text(out, i == 0 ? ",\"tool_calls\":[{" : ",{");
        write_call(out, &answer->calls[i], true);
        string_builder_append_text(out, "}");
    }
    string_builder_append_text(out, answer->n_calls > 0 ? "]}" : "}");
}

/* The next call that has something new; those before it are complete. */
static struct answer_call *next_call(struct answer *answer) {
    for (; answer->n_written_calls < answer->n_calls; ++answer->n_written_calls) {
        struct answer_call *call = &answer->calls[answer->n_written_calls];
        if (!call->is_begun || call->arguments.length > 0) return call;
        if (answer->n_written_calls == answer->n_calls - 1) return NULL; // it may go on
    }
    return NULL;
}

static void write_call_delta(const struct answer *answer, struct answer_call *call, struct string_builder *out) {
    json_write_format(out, "\"delta\":{\"tool_calls\":[{\"index\":%d,", (int)answer->n_written_calls);
    if (!call->is_begun) {
        write_call(out, call, false);
        call->is_begun = true;
    } else {
        string_builder_append_text(out, "\"function\":{");
        write_member(out, "arguments", &call->arguments);
        string_builder_append_text(out, "}");
        call->arguments.length = 0;
    }
    string_builder_append_text(out, "}]}");
}

bool answer_write_delta(struct answer *answer, struct string_builder *out) {
    struct answer_call *call = NULL;
    if (answer->reasoning.length > 0) {
        string_builder_append_text(out, "\"delta\":{");
        write_reasoning(out, &answer->reasoning);
        string_builder_append_text(out, "}");
        answer->reasoning.length = 0;
    } else if (answer->content.length > 0) {
        string_builder_append_text(out, "\"delta\":{");
        write_member(out, "content", &answer->content);
        string_builder_append_text(out, "}");
        answer->content.length = 0;
    } else if ((call = next_call(answer)) != NULL) {
        write_call_delta(answer, call, out);
    } else {
        return false;
    }
    return true;
}
