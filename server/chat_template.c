#include "server/chat_template.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char tools_start[] = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                                  "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_end[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

/* A stretch of a message's text. */
struct span {
    const char *data;
    size_t length;
};

static struct span span_of(struct chat_text text) {
    return (struct span){text.data ? text.data : "", text.length};
}

static void write_span(struct string_builder *out, struct span span) {
    string_builder_append(out, span.data, span.length);
}

static struct span strip_left(struct span span) {
    while (span.length > 0 && span.data[0] == '\n') span = (struct span){span.data + 1, span.length - 1};
    return span;
}

static struct span strip_right(struct span span) {
    while (span.length > 0 && span.data[span.length - 1] == '\n') span.length--;
    return span;
}

static bool starts_with(struct span span, const char *prefix) {
    size_t length = strlen(prefix);
    return span.length >= length && memcmp(span.data, prefix, length) == 0;
}

static bool ends_with(struct span span, const char *suffix) {
    size_t length = strlen(suffix);
    return span.length >= length && memcmp(span.data + span.length - length, suffix, length) == 0;
}

/* What stands before the first mark; all of it when there is none. */
static struct span before_first(struct span span, const char *mark) {
    const char *found = memmem(span.data, span.length, mark, strlen(mark));
    if (found) span.length = (size_t)(found - span.data);
    return span;
}

/* What stands behind the last mark; all of it when there is none. */
static struct span after_last(struct span span, const char *mark) {
    size_t length = strlen(mark);
    for (const char *found; (found = memmem(span.data, span.length, mark, length));) {
        size_t skipped = (size_t)(found - span.data) + length;
        span = (struct span){span.data + skipped, span.length - skipped};
    }
    return span;
}

static void write_system_and_tools(const struct chat *chat, struct string_builder *out) {
    const struct chat_message *first = &chat->messages[0];
    if (chat->n_tools == 0 && first->role != CHAT_SYSTEM) return;
    string_builder_append_text(out, "<|im_start|>system\n");
    if (first->role == CHAT_SYSTEM) {
        write_span(out, span_of(first->content));
        string_builder_append_text(out, chat->n_tools > 0 ? "\n\n" : "<|im_end|>\n");
    }
    if (chat->n_tools == 0) return;
    string_builder_append_text(out, tools_start);
    for (int32_t i = 0; i < chat->n_tools; i++) {
        string_builder_append_text(out, "\n");
        write_span(out, span_of(chat->tools[i]));
    }
    string_builder_append_text(out, tools_end);
}

/* The last user message that is not a tool's answer in disguise; the last message of all when there is none. */
static int32_t last_query(const struct chat *chat) {
    for (int32_t i = chat->n_messages - 1; i >= 0; i--) {
        struct span content = span_of(chat->messages[i].content);
        bool is_answer = starts_with(content, "<tool_response>") && ends_with(content, "</tool_response>");
        if (chat->messages[i].role == CHAT_USER && !is_answer) return i;
    }
    return chat->n_messages - 1;
}

static void write_tool_calls(const struct chat_message *message, bool has_content, struct string_builder *out) {
    for (int32_t i = 0; i < message->n_tool_calls; i++) {
        if (i > 0 || has_content) string_builder_append_text(out, "\n");
        string_builder_append_text(out, "<tool_call>\n{\"name\": \"");
        write_span(out, span_of(message->tool_calls[i].name));
        string_builder_append_text(out, "\", \"arguments\": ");
        write_span(out, span_of(message->tool_calls[i].arguments));
        string_builder_append_text(out, "}\n</tool_call>");
    }
}

/* Reasoning is shown again only in the turn that is still being answered: that of the last query. */
static void write_assistant(const struct chat *chat, int32_t index, bool is_current_turn, struct string_builder *out) {
    const struct chat_message *message = &chat->messages[index];
    struct span content = span_of(message->content), reasoning = {"", 0};
    bool knows_reasoning = chat->family != CHAT_INSTRUCT;
    if (!knows_reasoning) {
        is_current_turn = false;
    } else if (message->reasoning_content.data) {
        reasoning = span_of(message->reasoning_content);
    } else if (memmem(content.data, content.length, "</think>", strlen("</think>"))) {
        reasoning = strip_left(after_last(strip_right(before_first(content, "</think>")), "<think>"));
        content = strip_left(after_last(content, "</think>"));
    }
    string_builder_append_text(out, "<|im_start|>assistant\n");
    bool is_last = index == chat->n_messages - 1;
    if (is_current_turn && (is_last || reasoning.length > 0)) {
        string_builder_append_text(out, "<think>\n");
        write_span(out, strip_left(strip_right(reasoning)));
        string_builder_append_text(out, "\n</think>\n\n");
        write_span(out, strip_left(content));
    } else {
        write_span(out, content);
    }
    write_tool_calls(message, content.length > 0, out);
    string_builder_append_text(out, "<|im_end|>\n");
}

/* Answers of tools that follow one another share one user turn. */
static void write_tool_answer(const struct chat *chat, int32_t index, struct string_builder *out) {
    if (index == 0 || chat->messages[index - 1].role != CHAT_TOOL) string_builder_append_text(out, "<|im_start|>user");
    string_builder_append_text(out, "\n<tool_response>\n");
    write_span(out, span_of(chat->messages[index].content));
    string_builder_append_text(out, "\n</tool_response>");
    if (index == chat->n_messages - 1 || chat->messages[index + 1].role != CHAT_TOOL)
        string_builder_append_text(out, "<|im_end|>\n");
}

static void write_turn(const char *role, struct chat_text content, struct string_builder *out) {
    string_builder_append_text(out, "<|im_start|>");
    string_builder_append_text(out, role);
    string_builder_append_text(out, "\n");
    write_span(out, span_of(content));
    string_builder_append_text(out, "<|im_end|>\n");
}

bool chat_template_render(const struct chat *chat, struct string_builder *out, struct error *err) {
    assert(chat->n_messages > 0);
    if (chat->family == CHAT_CODER) return chat_template_render_coder(chat, out, err);
    int32_t query = last_query(chat);
    write_system_and_tools(chat, out);
    for (int32_t i = 0; i < chat->n_messages; i++) {
        const struct chat_message *message = &chat->messages[i];
        switch (message->role) {
        case CHAT_SYSTEM:
            if (i > 0) write_turn("system", message->content, out);
            break;
        case CHAT_USER:
            write_turn("user", message->content, out);
            break;
        case CHAT_ASSISTANT:
            write_assistant(chat, i, i > query, out);
            break;
        case CHAT_TOOL:
            write_tool_answer(chat, i, out);
            break;
        }
    }
    if (chat->add_generation_prompt) {
        string_builder_append_text(out, "<|im_start|>assistant\n");
        if (chat->family == CHAT_THINKING) string_builder_append_text(out, "<think>\n");
        if (chat->family == CHAT_HYBRID && chat->thinking == CHAT_THINKING_OFF)
            string_builder_append_text(out, "<think>\n\n</think>\n\n");
    }
    return string_builder_check(out, "The prompt", err);
}

void chat_finish(struct chat *chat) {
    for (int32_t i = 0; i < chat->n_messages; i++) {
        struct chat_message *message = &chat->messages[i];
        for (int32_t j = 0; j < message->n_tool_calls; j++) {
            free(message->tool_calls[j].name.data);
            free(message->tool_calls[j].arguments.data);
        }
        free(message->tool_calls);
        free(message->content.data);
        free(message->reasoning_content.data);
    }
    for (int32_t i = 0; i < chat->n_tools; i++) free(chat->tools[i].data);
    free(chat->messages);
    free(chat->tools);
    *chat = (struct chat){0};
}
