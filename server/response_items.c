#include "server/response_items.h"

#include <stdlib.h>
#include <string.h>

static void release(struct response_item *item) {
    if (atomic_fetch_sub(&item->n_references, 1) == 1) free(item);
}

static bool reserve(struct response_items *items, int32_t count, struct error *err) {
    if (count <= items->capacity) return true;
    int32_t capacity = 2 * items->capacity + 8 > count ? 2 * items->capacity + 8 : count;
    struct response_item **grown = realloc(items->items, (size_t)capacity * sizeof(struct response_item *));
    if (grown == NULL) return fail(err, ERR_MEMORY, "no memory for %d items of a conversation", (int)count);
    items->items = grown;
    items->capacity = capacity;
    return true;
}

bool response_items_share(struct response_items *items, struct response_item *item, struct error *err) {
    if (!reserve(items, items->count + 1, err)) return false;
    atomic_fetch_add(&item->n_references, 1);
    items->items[items->count++] = item;
    return true;
}

bool response_items_append(struct response_items *items, const struct response_items *other, struct error *err) {
    if (!reserve(items, items->count + other->count, err)) return false;
    for (int32_t i = 0; i < other->count; ++i) {
        if (!response_items_share(items, other->items[i], err)) return false;
    }
    return true;
}

static struct json_text call_id_of(struct json_text item) {
    struct json_text type, call_id = {0};
    if (json_text_find(item, "type", &type) && json_text_equals(type, "function_call"))
        json_text_find(item, "call_id", &call_id);
    return call_id;
}

bool response_items_add(struct response_items *items, const char *id, struct string_builder *json, struct error *err) {
    size_t id_bytes = strlen(id) + 1;
    bool is_whole = string_builder_check(json, "an item of a conversation", err);
    struct response_item *item = is_whole ? malloc(sizeof *item + json->length + 1 + id_bytes) : NULL;
    if (is_whole && item == NULL) fail(err, ERR_MEMORY, "no memory for an item of %zu bytes", json->length);
    if (item != NULL) {
        atomic_init(&item->n_references, 1);
        item->length = json->length;
        memcpy(item->json, json->data, json->length + 1);
        memcpy(item->json + item->length + 1, id, id_bytes);
        item->id = item->json + item->length + 1;
        item->call_id = call_id_of((struct json_text){item->json, item->length});
    }
    string_builder_finish(json);
    if (item == NULL) return false;
    bool added = response_items_share(items, item, err);
    release(item);
    return added;
}

void response_items_finish(struct response_items *items) {
    for (int32_t i = 0; i < items->count; ++i) release(items->items[i]);
    free(items->items);
    *items = (struct response_items){0};
}

size_t response_items_bytes(const struct response_items *items) {
    size_t bytes = 0;
    for (int32_t i = 0; i < items->count; ++i) {
        bytes += sizeof(struct response_item) + sizeof(struct response_item *) + items->items[i]->length +
                 strlen(items->items[i]->id) + 2;
    }
    return bytes;
}
