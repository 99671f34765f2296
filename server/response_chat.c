/* Items of a conversation to the messages of a chat. */
#include "server/response_items.h"

#include "server/chat_messages.h"

#include <stdlib.h>

static bool is_type(struct json_text item, const char *type) {
    struct json_text value;
    return json_text_find(item, "type", &value) && json_text_equals(value, type);
}

static struct json_text member(struct json_text object, const char *key) {
    struct json_text value = {0};
    json_text_find(object, key, &value);
    return value;
}

/* The texts of an array of parts, or of a string, joined as the parts of a chat's message are. */
static void append_texts(struct json_text value, struct string_builder *out) {
    if (json_text_kind(value) == JSON_STRING) {
        json_text_decode(value, out);
        return;
    }
    struct json_cursor cursor = {0};
    struct json_text part;
    for (int32_t i = 0; json_text_next(value, &cursor, &part); ++i) {
        if (i > 0) string_builder_append_text(out, "\n");
        json_text_decode(member(part, "text"), out);
    }
}

/* Behind what text holds already, in its place: of many items each is copied once. */
static bool add_text(struct chat_text *text, struct json_text value, struct error *err) {
    bool is_new = text->data == NULL;
    struct string_builder joined = {
        .data = text->data, .length = text->length, .capacity = is_new ? 0 : text->length + 1};
    *text = (struct chat_text){0};
    append_texts(value, &joined);
    bool ok = string_builder_check(&joined, "a message", err);
    if (ok) text->data = string_builder_take(&joined, &text->length);
    string_builder_finish(&joined);
    return ok && (text->data != NULL || fail(err, ERR_MEMORY, "no memory for a message"));
}

static struct chat_message *add_message(struct chat *chat, enum chat_role role) {
    struct chat_message *message = &chat->messages[chat->n_messages++];
    message->role = role;
    return message;
}

/* What the assistant says goes on in its message, unless that was closed by what such a message has once. */
static struct chat_message *turn_of(struct chat *chat, bool goes_on) {
    struct chat_message *last = chat->n_messages > 0 ? &chat->messages[chat->n_messages - 1] : NULL;
    return last != NULL && last->role == CHAT_ASSISTANT && goes_on ? last : add_message(chat, CHAT_ASSISTANT);
}

/* Its content, or the summary of one that has none. */
static bool add_reasoning(struct chat *chat, struct json_text item, struct error *err) {
    struct json_text text = member(item, "content"), first;
    if (!json_text_at(text, 0, &first)) text = member(item, "summary");
    if (!json_text_at(text, 0, &first)) return true;
    return add_text(&turn_of(chat, false)->reasoning_content, text, err);
}

static bool add_content(struct chat *chat, struct json_text item, struct error *err) {
    const struct chat_message *last = chat->n_messages > 0 ? &chat->messages[chat->n_messages - 1] : NULL;
    bool goes_on = last != NULL && (last->content.data == NULL || last->n_tool_calls > 0);
    return add_text(&turn_of(chat, goes_on)->content, member(item, "content"), err);
}

static bool add_call(struct chat *chat, struct json_text item, struct error *err) {
    struct chat_message *message = turn_of(chat, true);
    size_t bytes = (size_t)(message->n_tool_calls + 1) * sizeof *message->tool_calls;
    struct chat_tool_call *calls = realloc(message->tool_calls, bytes);
    if (calls == NULL) return fail(err, ERR_MEMORY, "no memory for a call");
    message->tool_calls = calls;
    struct chat_tool_call *call = &calls[message->n_tool_calls++];
    *call = (struct chat_tool_call){0};
    return add_text(&call->name, member(item, "name"), err) &&
           chat_arguments_read(member(item, "arguments"), &call->arguments, err);
}

static bool add_item(struct chat *chat, struct json_text item, struct error *err) {
    if (is_type(item, "reasoning")) return add_reasoning(chat, item, err);
    if (is_type(item, "function_call")) return add_call(chat, item, err);
    if (is_type(item, "function_call_output"))
        return add_text(&add_message(chat, CHAT_TOOL)->content, member(item, "output"), err);
    struct json_text role = member(item, "role");
    if (json_text_equals(role, "assistant")) return add_content(chat, item, err);
    bool is_user = json_text_equals(role, "user");
    return add_text(&add_message(chat, is_user ? CHAT_USER : CHAT_SYSTEM)->content, member(item, "content"), err);
}

bool response_items_to_chat(const struct response_items *items, struct json_text instructions, struct chat *chat,
                            struct error *err) {
    chat->add_generation_prompt = true;
    chat->messages = calloc((size_t)items->count + 1, sizeof *chat->messages);
    bool ok = chat->messages != NULL || fail(err, ERR_MEMORY, "no memory for %d messages", (int)items->count);
    if (ok && instructions.data != NULL) ok = add_text(&add_message(chat, CHAT_SYSTEM)->content, instructions, err);
    for (int32_t i = 0; ok && i < items->count; ++i) {
        ok = add_item(chat, (struct json_text){items->items[i]->json, items->items[i]->length}, err);
    }
    if (ok && chat->n_messages == 0)
        ok = fail_param(err, ERR_INVALID, "input", "input is empty, but must hold at least one item");
    if (!ok) chat_finish(chat);
    return ok;
}
