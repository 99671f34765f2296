#include "server/chat_messages.h"

#include "server/json_place.h"
#include "server/json_text.h"

#include <stdlib.h>

/* Absent and null are the same: not given. */
static bool find_given(struct json_text object, const char *key, struct json_text *value) {
    return json_text_find(object, key, value) && json_text_kind(*value) != JSON_NULL;
}

static bool take_text(struct string_builder *builder, struct chat_text *text, struct error *err) {
    if (!string_builder_check(builder, "The text of a message", err)) {
        string_builder_finish(builder);
        return false;
    }
    text->data = string_builder_take(builder, &text->length);
    return text->data || fail(err, ERR_MEMORY, "No memory for the text of a message.");
}

static bool read_string(struct json_text string, struct chat_text *text, struct error *err) {
    struct string_builder builder = {0};
    json_text_decode(string, &builder);
    return take_text(&builder, text, err);
}

static bool dump_json(struct json_text value, struct chat_text *text, struct error *err) {
    struct string_builder builder = {0};
    json_text_dump(value, &builder);
    return take_text(&builder, text, err);
}

/* Makes room for the elements of an array, at least one; count 0 and *items NULL for an empty one. */
static bool allocate_items(struct json_text array, size_t item_size, void **items, struct error *err) {
    struct json_cursor cursor = {0};
    struct json_text element;
    size_t count = 0;
    while (json_text_next(array, &cursor, &element)) count++;
    if (count > INT32_MAX) return fail(err, ERR_TOO_LARGE, "An array has %zu elements, over %d.", count, INT32_MAX);
    *items = calloc(count + 1, item_size);
    return *items || fail(err, ERR_MEMORY, "No memory for %zu elements of an array.", count);
}

static bool read_part(struct json_text part, const struct json_place *place, struct string_builder *builder,
                      struct error *err) {
    struct json_text type, text;
    if (json_text_kind(part) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", part, "an object with type and text");
    if (!json_text_find(part, "type", &type) || json_text_kind(type) != JSON_STRING)
        return json_place_refuse(err, place, ".type", "must be given as \"text\"");
    if (!json_text_equals(type, "text"))
        return json_place_refuse(err, place, ".type",
                                 "is not \"text\": this server reads text only, no images, audio or files");
    if (!json_text_find(part, "text", &text)) return json_place_refuse(err, place, ".text", "is missing");
    if (json_text_kind(text) != JSON_STRING) return json_place_refuse_kind(err, place, ".text", text, "a string");
    json_text_decode(text, builder);
    return true;
}

static bool read_parts(struct json_text parts, const struct json_place *message, struct chat_text *content,
                       struct error *err) {
    struct string_builder builder = {0};
    struct json_cursor cursor = {0};
    struct json_text part;
    for (int32_t i = 0; json_text_next(parts, &cursor, &part); i++) {
        struct json_place place = json_place_of("%s.content[%d]", message->text, i);
        if (i > 0) string_builder_append_text(&builder, "\n");
        if (!read_part(part, &place, &builder, err)) {
            string_builder_finish(&builder);
            return false;
        }
    }
    return take_text(&builder, content, err);
}

static bool read_role(struct json_text object, const struct json_place *place, enum chat_role *role,
                      struct error *err) {
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM},
                 {"developer", CHAT_SYSTEM},
                 {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT},
                 {"tool", CHAT_TOOL}};
    struct json_text value;
    if (!json_text_find(object, "role", &value)) return json_place_refuse(err, place, ".role", "is missing");
    if (json_text_kind(value) != JSON_STRING) return json_place_refuse_kind(err, place, ".role", value, "a string");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (!json_text_equals(value, roles[i].name)) continue;
        *role = roles[i].role;
        return true;
    }
    return json_place_refuse(err, place, ".role", "must be system, developer, user, assistant or tool");
}

static bool read_content(struct json_text object, const struct json_place *place, struct chat_message *message,
                         struct error *err) {
    struct json_text value;
    if (!find_given(object, "content", &value)) {
        if (message->role == CHAT_ASSISTANT) return true;
        return json_place_refuse(err, place, ".content", "must be a string or an array of text parts");
    }
    if (json_text_kind(value) == JSON_STRING) return read_string(value, &message->content, err);
    if (json_text_kind(value) == JSON_ARRAY) return read_parts(value, place, &message->content, err);
    return json_place_refuse_kind(err, place, ".content", value, "a string or an array of text parts");
}

/* Clients send the arguments of a call as a string of JSON; the templates write the object it spells. An empty one is
 * what some send for a function without parameters. A string that spells no object is kept: some model made it. */
bool chat_arguments_read(struct json_text string, struct chat_text *arguments, struct error *err) {
    struct chat_text text = {0};
    struct json_text value;
    struct error fault;
    if (!read_string(string, &text, err)) return false;
    bool is_json =
        json_text_check(text.length > 0 ? text.data : "{}", text.length > 0 ? text.length : 2, &value, &fault);
    if (!is_json || json_text_kind(value) != JSON_OBJECT) {
        *arguments = text;
        return true;
    }
    bool dumped = dump_json(value, arguments, err);
    free(text.data);
    return dumped;
}

static bool read_tool_call(struct json_text object, const struct json_place *place, struct chat_tool_call *call,
                           struct error *err) {
    struct json_text function, name, arguments;
    if (json_text_kind(object) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", object, "an object with a function");
    if (!json_text_find(object, "function", &function)) return json_place_refuse(err, place, ".function", "is missing");
    if (json_text_kind(function) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, ".function", function, "an object");
    if (!json_text_find(function, "name", &name)) return json_place_refuse(err, place, ".function.name", "is missing");
    if (json_text_kind(name) != JSON_STRING)
        return json_place_refuse_kind(err, place, ".function.name", name, "a string");
    if (!json_text_find(function, "arguments", &arguments))
        return json_place_refuse(err, place, ".function.arguments", "is missing");
    if (!read_string(name, &call->name, err)) return false;
    if (json_text_kind(arguments) == JSON_STRING) return chat_arguments_read(arguments, &call->arguments, err);
    if (json_text_kind(arguments) == JSON_OBJECT) return dump_json(arguments, &call->arguments, err);
    return json_place_refuse_kind(err, place, ".function.arguments", arguments, "a string of JSON or an object");
}

static bool read_tool_calls(struct json_text object, const struct json_place *message_place,
                            struct chat_message *message, struct error *err) {
    struct json_text calls, call;
    struct json_cursor cursor = {0};
    void *items;
    if (!find_given(object, "tool_calls", &calls)) return true;
    if (json_text_kind(calls) != JSON_ARRAY)
        return json_place_refuse_kind(err, message_place, ".tool_calls", calls, "an array");
    if (!allocate_items(calls, sizeof *message->tool_calls, &items, err)) return false;
    message->tool_calls = items;
    while (json_text_next(calls, &cursor, &call)) {
        struct json_place place = json_place_of("%s.tool_calls[%d]", message_place->text, message->n_tool_calls);
        if (!read_tool_call(call, &place, &message->tool_calls[message->n_tool_calls++], err)) return false;
    }
    return true;
}

static bool read_message(struct json_text object, const struct json_place *place, struct chat_message *message,
                         struct error *err) {
    struct json_text reasoning;
    static const char *const reasoning_keys[] = {"reasoning_content", "reasoning"};
    if (json_text_kind(object) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", object, "an object with role and content");
    if (!read_role(object, place, &message->role, err) || !read_content(object, place, message, err)) return false;
    if (message->role != CHAT_ASSISTANT) return true;
    for (int i = 0; i < 2 && message->reasoning_content.data == NULL; i++) {
        if (!find_given(object, reasoning_keys[i], &reasoning)) continue;
        if (json_text_kind(reasoning) != JSON_STRING) {
            struct json_place key = json_place_of(".%s", reasoning_keys[i]);
            return json_place_refuse_kind(err, place, key.text, reasoning, "a string");
        }
        if (!read_string(reasoning, &message->reasoning_content, err)) return false;
    }
    return read_tool_calls(object, place, message, err);
}

static bool read_messages(struct json_text request, struct chat *chat, struct error *err) {
    const struct json_place place = {"messages"};
    struct json_text messages, message;
    struct json_cursor cursor = {0};
    void *items;
    if (!json_text_find(request, "messages", &messages)) return json_place_refuse(err, &place, "", "is missing");
    if (json_text_kind(messages) != JSON_ARRAY)
        return json_place_refuse_kind(err, &place, "", messages, "an array of messages");
    if (!allocate_items(messages, sizeof *chat->messages, &items, err)) return false;
    chat->messages = items;
    while (json_text_next(messages, &cursor, &message)) {
        struct json_place element = json_place_of("messages[%d]", chat->n_messages);
        if (!read_message(message, &element, &chat->messages[chat->n_messages++], err)) return false;
    }
    return chat->n_messages > 0 || json_place_refuse(err, &place, "", "is empty, but must hold at least one message");
}

static bool check_function(struct json_text function, const struct json_place *tool, struct error *err) {
    static const struct {
        const char *key, *place, *wanted;
        enum json_kind kind;
    } members[] = {
        {"description", ".function.description", "a string", JSON_STRING},
        {"parameters", ".function.parameters", "a JSON schema that is an object", JSON_OBJECT},
        {"strict", ".function.strict", "true or false", JSON_BOOL},
    };
    struct json_text value;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (find_given(function, members[i].key, &value) && json_text_kind(value) != members[i].kind)
            return json_place_refuse_kind(err, tool, members[i].place, value, members[i].wanted);
    }
    return true;
}

static bool read_tool(struct json_text tool, const struct json_place *place, struct chat_text *text, bool *is_strict,
                      struct error *err) {
    struct json_text type, function, name, strict;
    if (json_text_kind(tool) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", tool, "an object with a function");
    if (json_text_find(tool, "type", &type) &&
        (json_text_kind(type) != JSON_STRING || !json_text_equals(type, "function")))
        return json_place_refuse(err, place, ".type", "must be \"function\"");
    if (!json_text_find(tool, "function", &function)) return json_place_refuse(err, place, ".function", "is missing");
    if (json_text_kind(function) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, ".function", function, "an object");
    if (!json_text_find(function, "name", &name)) return json_place_refuse(err, place, ".function.name", "is missing");
    if (json_text_kind(name) != JSON_STRING)
        return json_place_refuse_kind(err, place, ".function.name", name, "a string");
    if (!check_function(function, place, err)) return false;
    if (find_given(function, "strict", &strict)) *is_strict |= strict.data[0] == 't';
    return dump_json(tool, text, err);
}

static bool read_tools(struct json_text request, struct chat *chat, struct error *err) {
    const struct json_place place = {"tools"};
    struct json_text tools, tool;
    struct json_cursor cursor = {0};
    void *items;
    if (!find_given(request, "tools", &tools)) return true;
    if (json_text_kind(tools) != JSON_ARRAY) return json_place_refuse_kind(err, &place, "", tools, "an array of tools");
    if (!allocate_items(tools, sizeof *chat->tools, &items, err)) return false;
    chat->tools = items;
    while (json_text_next(tools, &cursor, &tool)) {
        struct json_place element = json_place_of("tools[%d]", chat->n_tools);
        if (!read_tool(tool, &element, &chat->tools[chat->n_tools++], &chat->has_strict_tools, err)) return false;
    }
    return true;
}

bool chat_messages_read(const char *body, size_t length, struct chat *chat, struct error *err) {
    struct json_text request;
    if (!json_text_check(body, length, &request, err)) return false;
    if (json_text_kind(request) != JSON_OBJECT)
        return fail(err, ERR_INVALID, "The request is %s, but must be an object.", json_text_kind_name(request));
    chat->add_generation_prompt = true;
    if (read_messages(request, chat, err) && read_tools(request, chat, err)) return true;
    chat_finish(chat);
    return false;
}
