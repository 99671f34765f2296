#include "server/anthropic_chat.h"

#include "server/json_place.h"
#include "server/json_writer.h"

#include <string.h>

static void write_raw(struct string_builder *out, struct json_text value) {
    string_builder_append(out, value.data, value.length);
}

/* Absent and null are the same: not given. */
static bool find_given(struct json_text object, const char *key, struct json_text *value) {
    return json_text_find(object, key, value) && json_text_kind(*value) != JSON_NULL;
}

/* A member that has to be there, of one kind. */
static bool find_kind(struct json_text object, const struct json_place *place, const char *key, enum json_kind kind,
                      struct json_text *value, struct error *err) {
    static const char *const names[] = {[JSON_BOOL] = "true or false",
                                        [JSON_STRING] = "a string",
                                        [JSON_ARRAY] = "an array",
                                        [JSON_OBJECT] = "an object"};
    struct json_place dotted = json_place_of(".%s", key);
    if (!find_given(object, key, value)) return json_place_refuse(err, place, dotted.text, "is missing");
    return json_text_kind(*value) == kind || json_place_refuse_kind(err, place, dotted.text, *value, names[kind]);
}

static bool find_type(struct json_text block, const struct json_place *place, struct json_text *type,
                      struct error *err) {
    if (json_text_kind(block) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", block, "an object with a type");
    return find_kind(block, place, "type", JSON_STRING, type, err);
}

static bool refuse_block(struct json_text type, const struct json_place *place, const char *allowed,
                         struct error *err) {
    struct json_place whole = json_place_of("%s.type", place->text);
    return fail_param(err, ERR_INVALID, whole.text,
                      "%s is %.*s: this server reads text, no images, documents or the like; allowed are %s.",
                      whole.text, (int)(type.length < 64 ? type.length : 64), type.data, allowed);
}

/* --- text --- */

static bool write_text(struct json_text block, const struct json_place *place, struct string_builder *out,
                       struct error *err) {
    struct json_text text;
    if (!find_kind(block, place, "text", JSON_STRING, &text, err)) return false;
    string_builder_append_text(out, "{\"type\":\"text\",\"text\":");
    write_raw(out, text);
    string_builder_append_text(out, "}");
    return true;
}

/* A string, or blocks that are all text, as the content of a message. */
static bool write_content(struct json_text content, const struct json_place *place, struct string_builder *out,
                          struct error *err) {
    if (json_text_kind(content) == JSON_STRING) {
        write_raw(out, content);
        return true;
    }
    if (json_text_kind(content) != JSON_ARRAY)
        return json_place_refuse_kind(err, place, "", content, "a string or an array of text blocks");
    struct json_cursor cursor = {0};
    struct json_text block, type;
    string_builder_append_text(out, "[");
    for (int i = 0; json_text_next(content, &cursor, &block); ++i) {
        struct json_place element = json_place_of("%s[%d]", place->text, i);
        if (i > 0) string_builder_append_text(out, ",");
        if (!find_type(block, &element, &type, err)) return false;
        if (!json_text_equals(type, "text")) return refuse_block(type, &element, "text", err);
        if (!write_text(block, &element, out, err)) return false;
    }
    string_builder_append_text(out, "]");
    return true;
}

/* --- a user's turn: texts, and the results of tools as messages of their own --- */

static bool write_result(struct json_text block, const struct json_place *place, struct string_builder *out,
                         struct error *err) {
    struct json_place inside = json_place_of("%s.content", place->text);
    struct json_text id, content, is_error;
    if (!find_kind(block, place, "tool_use_id", JSON_STRING, &id, err)) return false;
    if (find_given(block, "is_error", &is_error) && json_text_kind(is_error) != JSON_BOOL)
        return json_place_refuse_kind(err, place, ".is_error", is_error, "true or false");
    string_builder_append_text(out, "{\"role\":\"tool\",\"content\":");
    if (!find_given(block, "content", &content))
        string_builder_append_text(out, "\"\"");
    else if (!write_content(content, &inside, out, err))
        return false;
    string_builder_append_text(out, "}");
    return true;
}

static bool write_user_blocks(struct json_text blocks, const struct json_place *place, struct string_builder *out,
                              struct error *err) {
    struct json_cursor cursor = {0};
    struct json_text block, type;
    bool in_texts = false;
    int n = 0;
    for (; json_text_next(blocks, &cursor, &block); ++n) {
        struct json_place element = json_place_of("%s.content[%d]", place->text, n);
        if (!find_type(block, &element, &type, err)) return false;
        bool is_text = json_text_equals(type, "text");
        if (in_texts && !is_text) string_builder_append_text(out, "]}");
        if (n > 0) string_builder_append_text(out, ",");
        if (is_text && !in_texts) string_builder_append_text(out, "{\"role\":\"user\",\"content\":[");
        in_texts = is_text;
        if (!is_text && !json_text_equals(type, "tool_result"))
            return refuse_block(type, &element, "text and tool_result", err);
        if (is_text ? !write_text(block, &element, out, err) : !write_result(block, &element, out, err)) return false;
    }
    if (in_texts) string_builder_append_text(out, "]}");
    return n > 0 || json_place_refuse(err, place, ".content", "is empty, but must hold at least one block");
}

/* --- an assistant's turn: reasoning, text, calls --- */

enum assistant_block { BLOCK_THINKING, BLOCK_TEXT, BLOCK_CALL, BLOCK_REDACTED };

static bool kind_of_block(struct json_text block, const struct json_place *place, enum assistant_block *kind,
                          struct error *err) {
    static const char *const names[] = {"thinking", "text", "tool_use", "redacted_thinking"};
    struct json_text type;
    if (!find_type(block, place, &type, err)) return false;
    for (int i = 0; i < 4; ++i) {
        *kind = (enum assistant_block)i;
        if (json_text_equals(type, names[i])) return true;
    }
    return refuse_block(type, place, "text, thinking, redacted_thinking and tool_use", err);
}

static bool write_call(struct json_text block, const struct json_place *place, struct string_builder *out,
                       struct error *err) {
    struct json_text id, name, input;
    if (!find_kind(block, place, "id", JSON_STRING, &id, err) ||
        !find_kind(block, place, "name", JSON_STRING, &name, err) ||
        !find_kind(block, place, "input", JSON_OBJECT, &input, err))
        return false;
    string_builder_append_text(out, "{\"function\":{\"name\":");
    write_raw(out, name);
    string_builder_append_text(out, ",\"arguments\":");
    write_raw(out, input);
    string_builder_append_text(out, "}}");
    return true;
}

/* The blocks of one kind, in order; thinking is joined. Returns how many, or -1. */
static int write_blocks(struct json_text blocks, const struct json_place *place, enum assistant_block wanted,
                        struct string_builder *out, struct error *err) {
    struct json_cursor cursor = {0};
    struct json_text block, thinking;
    int n = 0;
    for (int i = 0; json_text_next(blocks, &cursor, &block); ++i) {
        struct json_place element = json_place_of("%s.content[%d]", place->text, i);
        enum assistant_block kind;
        if (!kind_of_block(block, &element, &kind, err)) return -1;
        if (kind != wanted) continue;
        if (n++ > 0 && kind != BLOCK_THINKING) string_builder_append_text(out, ",");
        if (kind == BLOCK_THINKING) {
            if (!find_kind(block, &element, "thinking", JSON_STRING, &thinking, err)) return -1;
            json_text_decode(thinking, out);
        } else if (kind == BLOCK_TEXT ? !write_text(block, &element, out, err)
                                      : !write_call(block, &element, out, err)) {
            return -1;
        }
    }
    return n;
}

static bool write_thinking(struct json_text blocks, const struct json_place *place, struct string_builder *out,
                           struct error *err) {
    struct string_builder joined = {0};
    int n = write_blocks(blocks, place, BLOCK_THINKING, &joined, err);
    if (n > 0) {
        string_builder_append_text(out, ",\"reasoning_content\":");
        json_write_string(out, joined.data, joined.length);
    }
    if (joined.failure != ERR_NONE) out->failure = joined.failure;
    string_builder_finish(&joined);
    return n >= 0;
}

static bool write_assistant_blocks(struct json_text blocks, const struct json_place *place, struct string_builder *out,
                                   struct error *err) {
    string_builder_append_text(out, "{\"role\":\"assistant\",\"content\":[");
    if (write_blocks(blocks, place, BLOCK_TEXT, out, err) < 0) return false;
    string_builder_append_text(out, "]");
    if (!write_thinking(blocks, place, out, err)) return false;
    string_builder_append_text(out, ",\"tool_calls\":[");
    if (write_blocks(blocks, place, BLOCK_CALL, out, err) < 0) return false;
    string_builder_append_text(out, "]}");
    return true;
}

static bool ends_with_call(struct json_text content) {
    struct json_cursor cursor = {0};
    struct json_text block, type;
    bool is_call = false;
    if (json_text_kind(content) != JSON_ARRAY) return false;
    while (json_text_next(content, &cursor, &block))
        is_call = json_text_find(block, "type", &type) && json_text_equals(type, "tool_use");
    return is_call;
}

/* --- the whole --- */

static bool write_message(struct json_text message, const struct json_place *place, bool *is_assistant,
                          struct string_builder *out, struct error *err) {
    static const char *const roles[] = {"user", "assistant", "system"};
    struct json_text role, content;
    int which = 0;
    if (json_text_kind(message) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", message, "an object with role and content");
    if (!find_kind(message, place, "role", JSON_STRING, &role, err)) return false;
    while (which < 3 && !json_text_equals(role, roles[which])) ++which;
    if (which == 3) return json_place_refuse(err, place, ".role", "must be user, assistant or system");
    *is_assistant = which == 1;
    if (!find_given(message, "content", &content)) return json_place_refuse(err, place, ".content", "is missing");
    bool is_blocks = json_text_kind(content) == JSON_ARRAY;
    if (is_blocks && which == 0) return write_user_blocks(content, place, out, err);
    if (is_blocks && which == 1) return write_assistant_blocks(content, place, out, err);
    struct json_place inside = json_place_of("%s.content", place->text);
    json_write_format(out, "{\"role\":\"%s\",\"content\":", roles[which]);
    if (!write_content(content, &inside, out, err)) return false;
    string_builder_append_text(out, "}");
    return true;
}

static bool write_messages(struct json_text request, struct string_builder *out, bool *is_open, struct error *err) {
    const struct json_place place = {"messages"}, system_place = {"system"};
    struct json_text messages, message, content = {0}, system;
    struct json_cursor cursor = {0};
    int n = 0;
    string_builder_append_text(out, "\"messages\":[");
    if (find_given(request, "system", &system)) {
        string_builder_append_text(out, "{\"role\":\"system\",\"content\":");
        if (!write_content(system, &system_place, out, err)) return false;
        string_builder_append_text(out, "},");
    }
    if (!find_given(request, "messages", &messages)) return json_place_refuse(err, &place, "", "is missing");
    if (json_text_kind(messages) != JSON_ARRAY)
        return json_place_refuse_kind(err, &place, "", messages, "an array of messages");
    for (; json_text_next(messages, &cursor, &message); ++n) {
        struct json_place element = json_place_of("messages[%d]", n);
        if (n > 0) string_builder_append_text(out, ",");
        if (!write_message(message, &element, is_open, out, err)) return false;
        json_text_find(message, "content", &content);
    }
    if (n == 0) return json_place_refuse(err, &place, "", "is empty, but must hold at least one message");
    if (*is_open && ends_with_call(content))
        return json_place_refuse(err, &place, "",
                                 "ends with tool_use, which a message with its tool_result must follow");
    string_builder_append_text(out, "]");
    return true;
}

static bool write_tool(struct json_text tool, const struct json_place *place, struct string_builder *out,
                       struct error *err) {
    struct json_text type, name, description, schema, strict;
    if (json_text_kind(tool) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", tool, "an object with name and input_schema");
    if (find_given(tool, "type", &type) && (json_text_kind(type) != JSON_STRING || !json_text_equals(type, "custom")))
        return json_place_refuse(err, place, ".type", "must be \"custom\": this server has no tools of its own");
    if (!find_kind(tool, place, "name", JSON_STRING, &name, err) ||
        !find_kind(tool, place, "input_schema", JSON_OBJECT, &schema, err))
        return false;
    string_builder_append_text(out, "{\"type\":\"function\",\"function\":{\"name\":");
    write_raw(out, name);
    if (find_given(tool, "description", &description)) {
        if (!find_kind(tool, place, "description", JSON_STRING, &description, err)) return false;
        string_builder_append_text(out, ",\"description\":");
        write_raw(out, description);
    }
    string_builder_append_text(out, ",\"parameters\":");
    write_raw(out, schema);
    if (find_given(tool, "strict", &strict)) {
        if (!find_kind(tool, place, "strict", JSON_BOOL, &strict, err)) return false;
        if (strict.data[0] == 't') string_builder_append_text(out, ",\"strict\":true");
    }
    string_builder_append_text(out, "}}");
    return true;
}

static bool write_tools(struct json_text request, struct string_builder *out, struct error *err) {
    const struct json_place place = {"tools"};
    struct json_cursor cursor = {0};
    struct json_text tools, tool;
    if (!find_given(request, "tools", &tools)) return true;
    if (json_text_kind(tools) != JSON_ARRAY) return json_place_refuse_kind(err, &place, "", tools, "an array of tools");
    string_builder_append_text(out, ",\"tools\":[");
    for (int i = 0; json_text_next(tools, &cursor, &tool); ++i) {
        struct json_place element = json_place_of("tools[%d]", i);
        if (i > 0) string_builder_append_text(out, ",");
        if (!write_tool(tool, &element, out, err)) return false;
    }
    string_builder_append_text(out, "]");
    return true;
}

bool anthropic_write_chat(struct json_text request, struct string_builder *chat, bool *is_open, struct error *err) {
    *is_open = false;
    string_builder_append_text(chat, "{");
    if (!write_messages(request, chat, is_open, err) || !write_tools(request, chat, err)) return false;
    string_builder_append_text(chat, "}");
    return string_builder_check(chat, "the conversation", err);
}
