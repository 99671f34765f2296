/* What a client sends as input to items in the form in which clients are told them. */
#include "server/response_items.h"

#include "server/json_place.h"
#include "server/json_writer.h"
#include "server/response_store.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

/* One item while it is read: its members so far. */
struct item_reading {
    struct json_text object;
    struct json_place place;
    struct server *server;
    struct string_builder json;
};

/* Absent and null are the same: not given. */
static bool find_given(struct json_text object, const char *key, struct json_text *value) {
    return json_text_find(object, key, value) && json_text_kind(*value) != JSON_NULL;
}

static bool is_word(struct json_text object, const char *key, const char *word) {
    struct json_text value;
    return json_text_find(object, key, &value) && json_text_kind(value) == JSON_STRING && json_text_equals(value, word);
}

/* --- members --- */

static bool find_string(const struct item_reading *reading, const char *key, struct json_text *value,
                        struct error *err) {
    struct json_place member = json_place_of("%s.%s", reading->place.text, key);
    if (!find_given(reading->object, key, value)) return json_place_refuse(err, &member, "", "is missing");
    return json_text_kind(*value) == JSON_STRING || json_place_refuse_kind(err, &member, "", *value, "a string");
}

static bool copy_string(struct item_reading *reading, const char *key, struct error *err) {
    struct json_text value;
    if (!find_string(reading, key, &value, err)) return false;
    json_write_format(&reading->json, ",\"%s\":", key);
    json_text_dump(value, &reading->json);
    return true;
}

/* One of an array of texts: {"type", "text"}. */
static bool copy_part(struct item_reading *reading, struct json_text part, const struct json_place *place,
                      const char *type, struct error *err) {
    static const char *const types[] = {"input_text", "output_text", "text", "reasoning_text", "summary_text"};
    struct json_text text;
    if (json_text_kind(part) != JSON_OBJECT)
        return json_place_refuse_kind(err, place, "", part, "an object with type and text");
    bool is_text = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; ++i) is_text |= is_word(part, "type", types[i]);
    if (!is_text)
        return json_place_refuse(err, place, ".type",
                                 "is none of input_text, output_text and reasoning_text: this server reads text only, "
                                 "no images, audio or files");
    if (!json_text_find(part, "text", &text)) return json_place_refuse(err, place, ".text", "is missing");
    if (json_text_kind(text) != JSON_STRING) return json_place_refuse_kind(err, place, ".text", text, "a string");
    json_write_format(&reading->json, "{\"type\":\"%s\",\"text\":", type);
    json_text_dump(text, &reading->json);
    bool is_output = strcmp(type, "output_text") == 0;
    string_builder_append_text(&reading->json, is_output ? ",\"annotations\":[],\"logprobs\":[]}" : "}");
    return true;
}

/* "key":[…] of texts, each written as type; a string is an array of one. */
static bool copy_texts(struct item_reading *reading, const char *key, const char *type, struct error *err) {
    struct json_place member = json_place_of("%s.%s", reading->place.text, key);
    struct json_text value, part;
    json_write_format(&reading->json, ",\"%s\":[", key);
    if (!find_given(reading->object, key, &value)) return json_place_refuse(err, &member, "", "is missing");
    if (json_text_kind(value) == JSON_STRING) {
        bool is_output = strcmp(type, "output_text") == 0;
        json_write_format(&reading->json, "{\"type\":\"%s\",\"text\":", type);
        json_text_dump(value, &reading->json);
        string_builder_append_text(&reading->json, is_output ? ",\"annotations\":[],\"logprobs\":[]}]" : "}]");
        return true;
    }
    if (json_text_kind(value) != JSON_ARRAY)
        return json_place_refuse_kind(err, &member, "", value, "a string or an array of texts");
    struct json_cursor cursor = {0};
    for (int32_t i = 0; json_text_next(value, &cursor, &part); ++i) {
        struct json_place place = json_place_of("%s[%d]", member.text, (int)i);
        if (i > 0) string_builder_append_text(&reading->json, ",");
        if (!copy_part(reading, part, &place, type, err)) return false;
    }
    string_builder_append_text(&reading->json, "]");
    return true;
}

/* --- kinds of items --- */

static bool copy_message(struct item_reading *reading, struct error *err) {
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; ++i) {
        if (!is_word(reading->object, "role", roles[i])) continue;
        json_write_format(&reading->json, ",\"role\":\"%s\"", roles[i]);
        return copy_texts(reading, "content", i == 1 ? "output_text" : "input_text", err);
    }
    return json_place_refuse(err, &reading->place, ".role", "must be user, assistant, system or developer");
}

static bool copy_reasoning(struct item_reading *reading, struct error *err) {
    struct json_text value;
    bool has_content = find_given(reading->object, "content", &value);
    bool has_summary = find_given(reading->object, "summary", &value);
    if (!has_content && find_given(reading->object, "encrypted_content", &value))
        return json_place_refuse(err, &reading->place, ".encrypted_content",
                                 "is not what this server made: its reasoning is in content");
    if (has_summary && !copy_texts(reading, "summary", "summary_text", err)) return false;
    if (!has_summary) string_builder_append_text(&reading->json, ",\"summary\":[]");
    if (has_content && !copy_texts(reading, "content", "reasoning_text", err)) return false;
    if (!has_content) string_builder_append_text(&reading->json, ",\"content\":[]");
    string_builder_append_text(&reading->json, ",\"encrypted_content\":null");
    return true;
}

static bool copy_call(struct item_reading *reading, struct error *err) {
    return copy_string(reading, "call_id", err) && copy_string(reading, "name", err) &&
           copy_string(reading, "arguments", err);
}

static bool copy_output(struct item_reading *reading, struct error *err) {
    struct json_text value;
    if (!copy_string(reading, "call_id", err)) return false;
    bool is_string = find_given(reading->object, "output", &value) && json_text_kind(value) == JSON_STRING;
    return is_string ? copy_string(reading, "output", err) : copy_texts(reading, "output", "input_text", err);
}

static const struct item_kind {
    const char *type, *id_prefix;
    bool (*copy)(struct item_reading *reading, struct error *err);
} kinds[] = {
    {"message", "msg_", copy_message},
    {"reasoning", "rs_", copy_reasoning},
    {"function_call", "fc_", copy_call},
    {"function_call_output", "fco_", copy_output},
};

/* A message needs no type. */
static const struct item_kind *find_kind(struct json_text object) {
    struct json_text type;
    if (!find_given(object, "type", &type)) return json_text_find(object, "role", &type) ? &kinds[0] : NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        if (is_word(object, "type", kinds[i].type)) return &kinds[i];
    }
    return NULL;
}

/* --- one item --- */

/* The id that the client gave, or a new one. */
static bool choose_id(const struct item_reading *reading, const char *prefix, struct string_builder *id,
                      struct error *err) {
    char fresh[SERVER_ID_SIZE];
    struct json_text given;
    if (!find_given(reading->object, "id", &given)) {
        server_next_id(reading->server, prefix, fresh);
        string_builder_append_text(id, fresh);
        return true;
    }
    if (json_text_kind(given) != JSON_STRING)
        return json_place_refuse_kind(err, &reading->place, ".id", given, "a string");
    json_text_decode(given, id);
    string_builder_append_text(id, ""); // "" too has data
    return (id->data != NULL && strlen(id->data) == id->length) ||
           json_place_refuse(err, &reading->place, ".id", "must not hold U+0000");
}

static bool add_reference(struct response_items *items, const struct item_reading *reading, struct error *err) {
    struct json_text given;
    struct string_builder id = {0};
    if (!find_string(reading, "id", &given, err)) return false;
    json_text_decode(given, &id);
    string_builder_append_text(&id, "");
    bool ok = string_builder_check(&id, "an id", err), found = false;
    for (int32_t i = 0; ok && !found && i < items->count; ++i) {
        found = strcmp(items->items[i]->id, id.data) == 0;
        if (found) ok = response_items_share(items, items->items[i], err);
    }
    if (ok && !found && !response_store_find_item(reading->server->responses, id.data, items)) {
        struct json_place member = json_place_of("%s.id", reading->place.text);
        ok = fail_param(err, ERR_NOT_FOUND, member.text, "Item with id '%.128s' not found.", id.data);
    }
    string_builder_finish(&id);
    return ok;
}

/* An output of a call must have its call before it. */
static bool has_call(const struct response_items *items, struct json_text call_id) {
    for (int32_t i = items->count - 1; i >= 0; --i) {
        const struct json_text *other = &items->items[i]->call_id;
        if (other->data != NULL && other->length == call_id.length &&
            memcmp(other->data, call_id.data, call_id.length) == 0)
            return true;
    }
    return false;
}

static bool check_output(const struct response_items *items, const struct string_builder *json,
                         const struct json_place *place, struct error *err) {
    struct json_text call_id, item = {json->data, json->length};
    if (!is_word(item, "type", "function_call_output") || !json_text_find(item, "call_id", &call_id)) return true;
    return has_call(items, call_id) ||
           json_place_refuse(err, place, ".call_id", "is that of no function_call before it");
}

static bool add_item(struct response_items *items, struct item_reading *reading, struct error *err) {
    if (json_text_kind(reading->object) != JSON_OBJECT)
        return json_place_refuse_kind(err, &reading->place, "", reading->object, "an object");
    const struct item_kind *kind = find_kind(reading->object);
    struct json_text type;
    bool has_type = find_given(reading->object, "type", &type);
    if (is_word(reading->object, "type", "item_reference") || (kind == NULL && !has_type))
        return add_reference(items, reading, err);
    if (kind == NULL)
        return json_place_refuse(err, &reading->place, ".type",
                                 "must be message, reasoning, function_call, function_call_output or item_reference");
    struct string_builder id = {0};
    bool ok = choose_id(reading, kind->id_prefix, &id, err);
    if (ok) {
        string_builder_append_text(&reading->json, "{\"id\":");
        json_write_string(&reading->json, id.data, id.length);
        json_write_format(&reading->json, ",\"type\":\"%s\",\"status\":\"completed\"", kind->type);
        ok = kind->copy(reading, err);
        string_builder_append_text(&reading->json, "}");
        ok = ok && string_builder_check(&reading->json, "an item", err) &&
             check_output(items, &reading->json, &reading->place, err) &&
             response_items_add(items, id.data, &reading->json, err);
    }
    string_builder_finish(&id);
    string_builder_finish(&reading->json);
    return ok;
}

static bool add_text(struct response_items *items, struct json_text text, struct server *server, struct error *err) {
    char id[SERVER_ID_SIZE];
    struct string_builder json = {0};
    server_next_id(server, "msg_", id);
    json_write_format(&json,
                      "{\"id\":\"%s\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"user\","
                      "\"content\":[{\"type\":\"input_text\",\"text\":",
                      id);
    json_text_dump(text, &json);
    string_builder_append_text(&json, "}]}");
    return response_items_add(items, id, &json, err);
}

/* What an earlier response holds already may be over the limit, by its answer. */
static bool check_room(const struct response_items *items, struct error *err) {
    return items->count < RESPONSE_MAX_ITEMS ||
           fail_param(err, ERR_INVALID, "input", "the conversation has more than %d items", (int)RESPONSE_MAX_ITEMS);
}

static bool check_bytes(const struct response_items *items, struct error *err) {
    size_t bytes = response_items_bytes(items);
    return bytes <= RESPONSE_MAX_BYTES ||
           fail_param(err, ERR_INVALID, "input", "the conversation has %zu bytes, over the %d that one may have", bytes,
                      (int)RESPONSE_MAX_BYTES);
}

bool response_items_read(struct response_items *items, struct json_text input, struct server *server,
                         struct error *err) {
    static const struct json_place place = {"input"};
    if (json_text_kind(input) == JSON_STRING)
        return check_room(items, err) && add_text(items, input, server, err) && check_bytes(items, err);
    if (json_text_kind(input) != JSON_ARRAY)
        return json_place_refuse_kind(err, &place, "", input, "a string or an array of items");
    struct json_cursor cursor = {0};
    struct item_reading reading = {.server = server};
    for (int32_t i = 0; json_text_next(input, &cursor, &reading.object); ++i) {
        reading.place = json_place_of("input[%d]", (int)i);
        if (!check_room(items, err) || !add_item(items, &reading, err)) return false;
    }
    return check_bytes(items, err);
}
