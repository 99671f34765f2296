#include "server/chat_answer.h"

#include "server/json_writer.h"
#include "server/server.h"

#include <stdint.h>

/* How the answer may begin. A message that is continued is behind its reasoning already. */
static enum answer_thinking thinking_of(const struct server *server, const struct openai_request *request) {
    if (request->continues_final) return ANSWER_NEVER_THINKS;
    if (server->family == CHAT_THINKING) return request->no_generation_prompt ? ANSWER_MAY_THINK : ANSWER_THINKS;
    bool may = server->family == CHAT_HYBRID && request->thinking != CHAT_THINKING_OFF;
    return may ? ANSWER_MAY_THINK : ANSWER_NEVER_THINKS;
}

struct answer_options chat_answer_options(const struct server *server, const struct openai_request *request) {
    return (struct answer_options){.drops_reasoning = request->drops_reasoning,
                                   .form = {.thinking = thinking_of(server, request),
                                            .has_calls = request->n_tools > 0 && !request->has_no_tools,
                                            .call_form = server->family == CHAT_CODER ? CALL_FORM_XML : CALL_FORM_JSON,
                                            .tools = request->tools,
                                            .n_tools = request->n_tools,
                                            .is_eager = request->grammar.calls != CALLS_NONE,
                                            .one_call = request->one_call}};
}

static void write_member(struct string_builder *out, const char *name, const char *text, size_t length) {
    json_write_format(out, "\"%s\":", name);
    json_write_string(out, text, length);
}

static bool has_kind(const struct answer *answer, enum answer_part_kind kind) {
    for (int32_t i = 0; i < answer->n_parts; ++i) {
        if (answer->parts[i].kind == kind) return true;
    }
    return false;
}

/* All parts of a kind as one text. */
static void write_joined(struct string_builder *out, const char *name, const struct answer *answer,
                         enum answer_part_kind kind) {
    struct string_builder joined = {0};
    for (int32_t i = 0; i < answer->n_parts; ++i) {
        const struct answer_part *part = &answer->parts[i];
        if (part->kind == kind) string_builder_append(&joined, part->text.data, part->text.length);
    }
    write_member(out, name, joined.data, joined.length);
    if (joined.failure != ERR_NONE) out->failure = joined.failure;
    string_builder_finish(&joined);
}

static void write_call(struct string_builder *out, const struct answer_part *call, size_t n_arguments) {
    json_write_format(out, "\"id\":\"call_%s\",\"type\":\"function\",\"function\":{", call->id);
    write_member(out, "name", call->name.data, call->name.length);
    string_builder_append_text(out, ",");
    write_member(out, "arguments", call->text.data, n_arguments);
    string_builder_append_text(out, "}");
}

void chat_write_message(const struct answer *answer, struct string_builder *out) {
    string_builder_append_text(out, "\"message\":{\"role\":\"assistant\",");
    if (answer->n_calls > 0 && !has_kind(answer, PART_CONTENT))
        string_builder_append_text(out, "\"content\":null");
    else
        write_joined(out, "content", answer, PART_CONTENT);
    string_builder_append_text(out, ",\"refusal\":null");
    if (has_kind(answer, PART_REASONING)) {
        string_builder_append_text(out, ",");
        write_joined(out, "reasoning_content", answer, PART_REASONING);
        string_builder_append_text(out, ",");
        write_joined(out, "reasoning", answer, PART_REASONING);
    }
    for (int32_t i = 0; i < answer->n_parts; ++i) {
        const struct answer_part *part = &answer->parts[i];
        if (part->kind != PART_CALL) continue;
        string_builder_append_text(out, part->call_index == 0 ? ",\"tool_calls\":[{" : ",{");
        write_call(out, part, part->text.length);
        string_builder_append_text(out, "}");
    }
    string_builder_append_text(out, answer->n_calls > 0 ? "]}" : "}");
}

static void write_growth(const struct answer_delta *delta, struct string_builder *out) {
    string_builder_append_text(out, "\"delta\":{");
    switch (delta->part->kind) {
    case PART_REASONING:
        write_member(out, "reasoning_content", delta->text, delta->length);
        string_builder_append_text(out, ",");
        write_member(out, "reasoning", delta->text, delta->length);
        string_builder_append_text(out, "}");
        break;
    case PART_CONTENT:
        write_member(out, "content", delta->text, delta->length);
        string_builder_append_text(out, "}");
        break;
    case PART_CALL:
        json_write_format(out, "\"tool_calls\":[{\"index\":%d,\"function\":{", (int)delta->part->call_index);
        write_member(out, "arguments", delta->text, delta->length);
        string_builder_append_text(out, "}}]}");
        break;
    }
}

bool chat_write_delta(const struct answer_delta *delta, struct string_builder *out) {
    if (delta->kind == PART_GROWS) {
        write_growth(delta, out);
        return true;
    }
    if (delta->kind == PART_ENDS || delta->part->kind != PART_CALL) return false;
    json_write_format(out, "\"delta\":{\"tool_calls\":[{\"index\":%d,", (int)delta->part->call_index);
    write_call(out, delta->part, 0);
    string_builder_append_text(out, "}]}");
    return true;
}
