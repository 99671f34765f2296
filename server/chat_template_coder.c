#include "server/chat_template.h"
#include "server/json_text.h"

#include <string.h>

static const char unasked_system[] =
    "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.";
static const char tools_start[] = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>";
static const char tools_end[] =
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within "
    "<tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT "
    "after\n"
    "- If there is no function call available, answer the question like normal with your current knowledge and do not "
    "tell the user about function calls\n</IMPORTANT>";

static void write_text(struct string_builder *out, struct chat_text text) {
    if (text.data != NULL) string_builder_append(out, text.data, text.length);
}

/* --- values as Python's str() has them: strings bare, True, None, lists of strings with single quotes --- */

static void write_list(struct json_text list, struct string_builder *out) {
    struct json_text element;
    struct json_cursor cursor = {0};
    string_builder_append_text(out, "[");
    for (bool is_first = true; json_text_next(list, &cursor, &element); is_first = false) {
        if (!is_first) string_builder_append_text(out, ", ");
        bool is_string = json_text_kind(element) == JSON_STRING;
        if (is_string) string_builder_append_text(out, "'");
        if (is_string)
            json_text_decode(element, out);
        else
            json_text_dump(element, out);
        if (is_string) string_builder_append_text(out, "'");
    }
    string_builder_append_text(out, "]");
}

static void write_scalar(struct json_text value, struct string_builder *out) {
    switch (json_text_kind(value)) {
    case JSON_NULL:
        string_builder_append_text(out, "None");
        break;
    case JSON_BOOL:
        string_builder_append_text(out, value.data[0] == 't' ? "True" : "False");
        break;
    case JSON_STRING:
        json_text_decode(value, out);
        break;
    default:
        json_text_dump(value, out); // numbers; containers as tojson has them
        break;
    }
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void write_trimmed(const char *text, size_t length, struct string_builder *out) {
    while (length > 0 && is_space(text[0])) ++text, --length;
    while (length > 0 && is_space(text[length - 1])) --length;
    string_builder_append(out, text, length);
}

static void write_trimmed_scalar(struct json_text value, struct string_builder *out) {
    struct string_builder text = {0};
    write_scalar(value, &text);
    if (text.data != NULL) write_trimmed(text.data, text.length, out);
    if (text.failure != ERR_NONE) out->failure = text.failure;
    string_builder_finish(&text);
}

/* --- tools --- */

static void write_tag(struct string_builder *out, const char *opening, struct json_text name) {
    string_builder_append_text(out, opening);
    json_text_decode(name, out);
    string_builder_append_text(out, ">");
}

/* The members that have no place of their own: names in handled do. */
static void write_other_members(struct json_text object, const char *const *handled, struct string_builder *out) {
    struct json_text key, value;
    struct json_cursor cursor = {0};
    while (json_text_next_member(object, &cursor, &key, &value)) {
        bool is_handled = false;
        for (int i = 0; handled[i] != NULL; ++i) is_handled |= json_text_equals(key, handled[i]);
        if (is_handled) continue;
        write_tag(out, "\n<", key);
        write_scalar(value, out);
        write_tag(out, "</", key);
    }
}

static void write_parameter(struct json_text name, struct json_text schema, struct string_builder *out) {
    static const char *const handled[] = {"name", "type", "description", NULL};
    struct json_text value;
    bool is_object = json_text_kind(schema) == JSON_OBJECT;
    string_builder_append_text(out, "\n<parameter>\n<name>");
    json_text_decode(name, out);
    string_builder_append_text(out, "</name>");
    if (is_object && json_text_find(schema, "type", &value)) {
        string_builder_append_text(out, "\n<type>");
        if (json_text_kind(value) == JSON_ARRAY)
            write_list(value, out);
        else
            write_scalar(value, out);
        string_builder_append_text(out, "</type>");
    }
    if (is_object && json_text_find(schema, "description", &value)) {
        string_builder_append_text(out, "\n<description>");
        write_trimmed_scalar(value, out);
        string_builder_append_text(out, "</description>");
    }
    if (is_object) write_other_members(schema, handled, out);
    string_builder_append_text(out, "\n</parameter>");
}

static void write_parameters(struct json_text parameters, struct string_builder *out) {
    static const char *const handled[] = {"type", "properties", NULL};
    struct json_text properties, name, schema;
    struct json_cursor cursor = {0};
    if (json_text_kind(parameters) != JSON_OBJECT) return;
    if (json_text_find(parameters, "properties", &properties) && json_text_kind(properties) == JSON_OBJECT) {
        while (json_text_next_member(properties, &cursor, &name, &schema)) write_parameter(name, schema, out);
    }
    write_other_members(parameters, handled, out);
}

static void write_tool(struct json_text tool, struct string_builder *out) {
    static const char *const handled[] = {"type", "name", "description", "parameters", NULL};
    struct json_text function = tool, value;
    json_text_find(tool, "function", &function);
    string_builder_append_text(out, "\n<function>\n<name>");
    if (json_text_find(function, "name", &value)) write_scalar(value, out);
    string_builder_append_text(out, "</name>");
    if (json_text_find(function, "description", &value)) {
        string_builder_append_text(out, "\n<description>");
        write_trimmed_scalar(value, out);
        string_builder_append_text(out, "</description>");
    }
    string_builder_append_text(out, "\n<parameters>");
    if (json_text_find(function, "parameters", &value)) write_parameters(value, out);
    string_builder_append_text(out, "\n</parameters>");
    write_other_members(function, handled, out);
    string_builder_append_text(out, "\n</function>");
}

static void write_system_and_tools(const struct chat *chat, struct string_builder *out) {
    const struct chat_message *first = &chat->messages[0];
    if (chat->n_tools == 0 && first->role != CHAT_SYSTEM) return;
    string_builder_append_text(out, "<|im_start|>system\n");
    if (first->role == CHAT_SYSTEM)
        write_text(out, first->content);
    else
        string_builder_append_text(out, unasked_system);
    if (chat->n_tools > 0) {
        string_builder_append_text(out, tools_start);
        for (int32_t i = 0; i < chat->n_tools; ++i) {
            write_tool((struct json_text){chat->tools[i].data, chat->tools[i].length}, out);
        }
        string_builder_append_text(out, tools_end);
    }
    string_builder_append_text(out, "<|im_end|>\n");
}

/* --- messages --- */

static bool write_call(const struct chat_tool_call *call, struct string_builder *out, struct error *err) {
    struct json_text arguments, key, value;
    struct json_cursor cursor = {0};
    struct error fault;
    if (!json_text_check(call->arguments.data, call->arguments.length, &arguments, &fault) ||
        json_text_kind(arguments) != JSON_OBJECT) {
        return fail_param(err, ERR_INVALID, "messages",
                          "The arguments of a call of %.64s must be a JSON object, so that they can be written as this "
                          "model reads them.",
                          call->name.data);
    }
    string_builder_append_text(out, "\n<tool_call>\n<function=");
    write_text(out, call->name);
    string_builder_append_text(out, ">\n");
    while (json_text_next_member(arguments, &cursor, &key, &value)) {
        write_tag(out, "<parameter=", key);
        string_builder_append_text(out, "\n");
        write_scalar(value, out);
        string_builder_append_text(out, "\n</parameter>\n");
    }
    string_builder_append_text(out, "</function>\n</tool_call>");
    return true;
}

static bool is_blank(struct chat_text text) {
    for (size_t i = 0; i < text.length; ++i) {
        if (!is_space(text.data[i])) return false;
    }
    return true;
}

static bool write_calls(const struct chat_message *message, struct string_builder *out, struct error *err) {
    string_builder_append_text(out, "<|im_start|>assistant");
    if (!is_blank(message->content)) {
        string_builder_append_text(out, "\n");
        write_trimmed(message->content.data, message->content.length, out);
        string_builder_append_text(out, "\n");
    }
    for (int32_t i = 0; i < message->n_tool_calls; ++i) {
        if (!write_call(&message->tool_calls[i], out, err)) return false;
    }
    string_builder_append_text(out, "<|im_end|>\n");
    return true;
}

static void write_turn(const char *role, struct chat_text content, struct string_builder *out) {
    string_builder_append_text(out, "<|im_start|>");
    string_builder_append_text(out, role);
    string_builder_append_text(out, "\n");
    write_text(out, content);
    string_builder_append_text(out, "<|im_end|>\n");
}

/* Answers of tools share one user turn; behind nothing, as behind the system's message, the template opens none. */
static void write_tool_answer(const struct chat *chat, int32_t index, struct string_builder *out) {
    int32_t first = chat->messages[0].role == CHAT_SYSTEM ? 1 : 0;
    if (index > first && chat->messages[index - 1].role != CHAT_TOOL) {
        string_builder_append_text(out, "<|im_start|>user\n");
    }
    string_builder_append_text(out, "<tool_response>\n");
    write_text(out, chat->messages[index].content);
    string_builder_append_text(out, "\n</tool_response>\n");
    bool is_last = index == chat->n_messages - 1 || chat->messages[index + 1].role != CHAT_TOOL;
    if (is_last) string_builder_append_text(out, "<|im_end|>\n");
}

bool chat_template_render_coder(const struct chat *chat, struct string_builder *out, struct error *err) {
    write_system_and_tools(chat, out);
    for (int32_t i = 0; i < chat->n_messages; ++i) {
        const struct chat_message *message = &chat->messages[i];
        switch (message->role) {
        case CHAT_SYSTEM:
            if (i > 0) write_turn("system", message->content, out);
            break;
        case CHAT_USER:
            write_turn("user", message->content, out);
            break;
        case CHAT_ASSISTANT:
            if (message->n_tool_calls == 0)
                write_turn("assistant", message->content, out);
            else if (!write_calls(message, out, err))
                return false;
            break;
        case CHAT_TOOL:
            write_tool_answer(chat, i, out);
            break;
        }
    }
    if (chat->add_generation_prompt) string_builder_append_text(out, "<|im_start|>assistant\n");
    return string_builder_check(out, "The prompt", err);
}
