#include "server/responses_request.h"

#include "server/json_place.h"
#include "server/json_writer.h"
#include "server/response_store.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

/* Absent and null are the same: not given. */
static bool find_given(struct json_text object, const char *key, struct json_text *value) {
    return json_text_find(object, key, value) && json_text_kind(*value) != JSON_NULL;
}

static bool read_flag(struct json_text body, const char *key, bool *flag, struct error *err) {
    struct json_text value;
    if (!find_given(body, key, &value)) return true;
    if (json_text_kind(value) != JSON_BOOL)
        return fail_param(err, ERR_INVALID, key, "%s must be true or false, not %s", key, json_text_kind_name(value));
    *flag = value.data[0] == 't';
    return true;
}

static bool find_string(struct json_text body, const char *key, struct json_text *value, struct error *err) {
    *value = (struct json_text){0};
    struct json_text found;
    if (!find_given(body, key, &found)) return true;
    if (json_text_kind(found) != JSON_STRING)
        return fail_param(err, ERR_INVALID, key, "%s must be a string, not %s", key, json_text_kind_name(found));
    *value = found;
    return true;
}

/* --- metadata --- */

static size_t decoded_length(struct json_text string) {
    struct string_builder text = {0};
    json_text_decode(string, &text);
    size_t length = text.length;
    string_builder_finish(&text);
    return length;
}

static bool check_metadata(struct json_text body, struct error *err) {
    enum { MAX_PAIRS = 16, MAX_KEY = 64, MAX_VALUE = 512 };
    struct json_text metadata, key, value;
    if (!find_given(body, "metadata", &metadata)) return true;
    bool is_fine = json_text_kind(metadata) == JSON_OBJECT;
    struct json_cursor cursor = {0};
    for (int n = 1; is_fine && json_text_next_member(metadata, &cursor, &key, &value); ++n) {
        is_fine = n <= MAX_PAIRS && decoded_length(key) <= MAX_KEY && json_text_kind(value) == JSON_STRING &&
                  decoded_length(value) <= MAX_VALUE;
    }
    return is_fine || fail_param(err, ERR_INVALID, "metadata",
                                 "metadata must be an object of at most %d strings of up to %d bytes, with keys of up "
                                 "to %d bytes",
                                 (int)MAX_PAIRS, (int)MAX_VALUE, (int)MAX_KEY);
}

/* --- tools: as the Responses API has them to as a chat has them --- */

/* All members but type, and those that are null. */
static void write_function(struct json_text tool, struct string_builder *out) {
    struct json_cursor cursor = {0};
    struct json_text key, value;
    string_builder_append_text(out, "{\"type\":\"function\",\"function\":{");
    bool is_first = true;
    while (json_text_next_member(tool, &cursor, &key, &value)) {
        if (json_text_equals(key, "type") || json_text_kind(value) == JSON_NULL) continue;
        if (!is_first) string_builder_append_text(out, ",");
        is_first = false;
        string_builder_append(out, key.data, key.length);
        string_builder_append_text(out, ":");
        string_builder_append(out, value.data, value.length);
    }
    string_builder_append_text(out, "}}");
}

static bool read_tool(struct json_text tool, const struct json_place *place, struct chat *chat, struct error *err) {
    struct json_text type, name, value;
    if (json_text_kind(tool) != JSON_OBJECT) return json_place_refuse_kind(err, place, "", tool, "an object");
    if (!json_text_find(tool, "type", &type) || json_text_kind(type) != JSON_STRING)
        return json_place_refuse(err, place, ".type", "must be given as \"function\"");
    if (!json_text_equals(type, "function")) {
        struct json_place whole = json_place_of("%s.type", place->text);
        return fail_param(err, ERR_INVALID, whole.text, "%s is %.*s, but only \"function\" is served.", whole.text,
                          (int)(type.length < 64 ? type.length : 64), type.data);
    }
    if (!find_given(tool, "name", &name)) return json_place_refuse(err, place, ".name", "is missing");
    if (json_text_kind(name) != JSON_STRING) return json_place_refuse_kind(err, place, ".name", name, "a string");
    if (find_given(tool, "description", &value) && json_text_kind(value) != JSON_STRING)
        return json_place_refuse_kind(err, place, ".description", value, "a string");
    if (find_given(tool, "parameters", &value) && json_text_kind(value) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, ".parameters", value, "an object");
    if (find_given(tool, "strict", &value) && json_text_kind(value) != JSON_BOOL)
        return json_place_refuse_kind(err, place, ".strict", value, "true or false");
    chat->has_strict_tools |= find_given(tool, "strict", &value) && value.data[0] == 't';
    struct string_builder raw = {0}, text = {0};
    write_function(tool, &raw);
    if (raw.failure == ERR_NONE) json_text_dump((struct json_text){raw.data, raw.length}, &text);
    bool ok = string_builder_check(&raw, "a tool", err) && string_builder_check(&text, "a tool", err);
    string_builder_finish(&raw);
    struct chat_text *target = &chat->tools[chat->n_tools++];
    if (ok) target->data = string_builder_take(&text, &target->length);
    string_builder_finish(&text);
    return ok;
}

static bool read_tools(struct json_text body, struct chat *chat, struct error *err) {
    static const struct json_place place = {"tools"};
    struct json_text tools, tool;
    if (!find_given(body, "tools", &tools)) return true;
    if (json_text_kind(tools) != JSON_ARRAY) return json_place_refuse_kind(err, &place, "", tools, "an array of tools");
    size_t count = 0;
    for (struct json_cursor cursor = {0}; json_text_next(tools, &cursor, &tool);) ++count;
    chat->tools = calloc(count + 1, sizeof *chat->tools);
    if (chat->tools == NULL) return fail(err, ERR_MEMORY, "no memory for %zu tools", count);
    for (struct json_cursor cursor = {0}; json_text_next(tools, &cursor, &tool);) {
        struct json_place element = json_place_of("tools[%d]", (int)chat->n_tools);
        if (!read_tool(tool, &element, chat, err)) return false;
    }
    return true;
}

/* --- what the response repeats --- */

/* The value as it was given, or else what stands in its place. */
static void write_given(struct string_builder *out, struct json_text object, const char *key, const char *otherwise) {
    struct json_text value;
    if (find_given(object, key, &value))
        json_text_dump(value, out);
    else
        string_builder_append_text(out, otherwise);
}

/* The same as a further member. */
static void echo(struct string_builder *out, struct json_text object, const char *key, const char *otherwise) {
    json_write_format(out, ",\"%s\":", key);
    write_given(out, object, key, otherwise);
}

static void echo_tools(struct string_builder *out, struct json_text body) {
    struct json_text tools, tool;
    struct json_cursor cursor = {0};
    string_builder_append_text(out, ",\"tools\":[");
    bool has_tools = find_given(body, "tools", &tools);
    for (int i = 0; has_tools && json_text_next(tools, &cursor, &tool); ++i) {
        string_builder_append_text(out, i > 0 ? ",{\"type\":\"function\"" : "{\"type\":\"function\"");
        echo(out, tool, "name", "null");
        echo(out, tool, "description", "null");
        echo(out, tool, "parameters", "null");
        echo(out, tool, "strict", "false");
        string_builder_append_text(out, "}");
    }
    string_builder_append_text(out, "]");
}

static struct json_text object_of(struct json_text body, const char *key) {
    struct json_text value;
    return find_given(body, key, &value) ? value : (struct json_text){"{}", 2};
}

static void write_echo(const struct server *server, struct json_text body, const struct openai_request *openai,
                       struct string_builder *out) {
    struct json_text text = object_of(body, "text"), reasoning = object_of(body, "reasoning");
    string_builder_append_text(out, ",\"model\":");
    json_write_text(out, server->model_name);
    echo(out, body, "background", "false");
    echo(out, body, "instructions", "null");
    echo(out, body, "max_output_tokens", "null");
    echo(out, body, "max_tool_calls", "null");
    echo(out, body, "metadata", "{}");
    echo(out, body, "parallel_tool_calls", "true");
    echo(out, body, "previous_response_id", "null");
    echo(out, body, "prompt_cache_key", "null");
    string_builder_append_text(out, ",\"reasoning\":{\"effort\":");
    write_given(out, reasoning, "effort", "null");
    string_builder_append_text(out, ",\"summary\":null}");
    echo(out, body, "safety_identifier", "null");
    string_builder_append_text(out, ",\"service_tier\":\"default\"");
    echo(out, body, "store", "true");
    json_write_format(out, ",\"temperature\":%.7g", (double)openai->sampling.temperature);
    string_builder_append_text(out, ",\"text\":{\"format\":");
    write_given(out, text, "format", "{\"type\":\"text\"}");
    string_builder_append_text(out, ",\"verbosity\":\"medium\"}");
    echo(out, body, "tool_choice", "\"auto\"");
    echo_tools(out, body);
    echo(out, body, "top_logprobs", "0");
    json_write_format(out, ",\"top_p\":%.7g,\"truncation\":\"disabled\"", (double)openai->sampling.top_p);
    echo(out, body, "user", "null");
}

/* --- the whole --- */

static bool read_previous(struct server *server, struct json_text body, struct responses_request *request,
                          struct error *err) {
    static const char field[] = "previous_response_id";
    struct json_text previous;
    struct error why = {.code = ERR_NONE};
    if (!find_string(body, field, &previous, err)) return false;
    if (previous.data == NULL) return true;
    struct string_builder id = {0};
    json_text_decode(previous, &id);
    string_builder_append_text(&id, "");
    bool ok = string_builder_check(&id, field, &why) &&
              response_store_conversation(server->responses, id.data, &request->items, &why);
    if (!ok && why.code == ERR_NOT_FOUND)
        fail_param(err, why.code, field, "Previous response with id '%.128s' not found.", id.data);
    else if (!ok)
        fail_param(err, why.code, field, "%s", why.message);
    string_builder_finish(&id);
    return ok;
}

static bool read_input(struct server *server, struct json_text body, struct responses_request *request,
                       struct error *err) {
    struct json_text input;
    if (!find_given(body, "input", &input))
        return fail_param(err, ERR_INVALID, "input", "input is missing; it must be a string or an array of items");
    return response_items_read(&request->items, input, server, err);
}

bool responses_request_read(struct server *server, struct json_text body, const struct openai_request *openai,
                            struct responses_request *request, struct chat *chat, struct error *err) {
    struct json_text instructions, ignored;
    request->stores = true;
    bool ok = read_flag(body, "store", &request->stores, err) &&
              read_flag(body, "background", &request->is_background, err) && find_string(body, "user", &ignored, err) &&
              find_string(body, "safety_identifier", &ignored, err) &&
              find_string(body, "prompt_cache_key", &ignored, err) && check_metadata(body, err) &&
              find_string(body, "instructions", &instructions, err);
    if (ok && request->is_background && (openai->stream || !request->stores))
        ok = fail_param(err, ERR_INVALID, "background", "background is not supported together with %s",
                        openai->stream ? "stream" : "store false");
    ok = ok && read_previous(server, body, request, err) && read_input(server, body, request, err) &&
         response_items_to_chat(&request->items, instructions, chat, err);
    if (!ok) return false;
    ok = read_tools(body, chat, err);
    if (ok) write_echo(server, body, openai, &request->echo);
    ok = ok && string_builder_check(&request->echo, "the response", err);
    if (!ok) chat_finish(chat);
    return ok;
}

void responses_request_finish(struct responses_request *request) {
    response_items_finish(&request->items);
    string_builder_finish(&request->echo);
}
