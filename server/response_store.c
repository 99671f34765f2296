#include "server/response_store.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char *id; // owned, as body
    char *body;
    size_t body_length;
    struct response_items items;
    int32_t n_input;
    bool is_under_way;
    size_t bytes;
    struct entry *newer, *older;
};

struct response_store {
    pthread_mutex_t lock; // guards all below
    struct entry *newest, *oldest;
    int32_t n_responses;
    size_t bytes;
    int32_t max_responses;
    size_t max_bytes;
};

struct response_store *response_store_create(int32_t max_responses, size_t max_bytes, struct error *err) {
    struct response_store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        fail(err, ERR_MEMORY, "no memory for the store of responses");
        return NULL;
    }
    pthread_mutex_init(&store->lock, NULL);
    store->max_responses = max_responses;
    store->max_bytes = max_bytes;
    return store;
}

/* --- entries, with the lock held --- */

static void unlink_entry(struct response_store *store, struct entry *entry) {
    *(entry->newer != NULL ? &entry->newer->older : &store->newest) = entry->older;
    *(entry->older != NULL ? &entry->older->newer : &store->oldest) = entry->newer;
    store->bytes -= entry->bytes;
    --store->n_responses;
}

static void link_newest(struct response_store *store, struct entry *entry) {
    entry->newer = NULL;
    entry->older = store->newest;
    *(store->newest != NULL ? &store->newest->newer : &store->oldest) = entry;
    store->newest = entry;
    store->bytes += entry->bytes;
    ++store->n_responses;
}

static void free_entry(struct entry *entry) {
    if (entry == NULL) return;
    response_items_finish(&entry->items);
    free(entry->body);
    free(entry->id);
    free(entry);
}

static struct entry *find(const struct response_store *store, const char *id) {
    struct entry *entry = store->newest;
    while (entry != NULL && strcmp(entry->id, id) != 0) entry = entry->older;
    return entry;
}

static struct entry *oldest_to_leave(const struct response_store *store) {
    struct entry *entry = store->oldest;
    while (entry != NULL && entry->is_under_way) entry = entry->newer;
    return entry;
}

static bool make_room(struct response_store *store, size_t bytes, struct error *err) {
    if (bytes > store->max_bytes)
        return fail(err, ERR_TOO_LARGE,
                    "the response takes %zu bytes with its conversation, but at most %zu are stored "
                    "(--response-store-bytes)",
                    bytes, store->max_bytes);
    while (store->n_responses >= store->max_responses || store->bytes > store->max_bytes - bytes) {
        struct entry *entry = oldest_to_leave(store);
        if (entry == NULL)
            return fail(err, ERR_BUSY, "all %d responses that are stored are still being made",
                        (int)store->n_responses);
        unlink_entry(store, entry);
        free_entry(entry);
    }
    return true;
}

/* The entry that was asked for, which is the newest from now on. */
static struct entry *use(struct response_store *store, const char *id, struct error *err) {
    struct entry *entry = find(store, id);
    if (entry == NULL) {
        fail(err, ERR_NOT_FOUND, "Response with id '%.128s' not found.", id);
        return NULL;
    }
    unlink_entry(store, entry);
    link_newest(store, entry);
    return entry;
}

/* --- the store --- */

void response_store_destroy(struct response_store *store) {
    if (store == NULL) return;
    for (struct entry *entry = store->newest, *older; entry != NULL; entry = older) {
        older = entry->older;
        free_entry(entry);
    }
    pthread_mutex_destroy(&store->lock);
    free(store);
}

static struct entry *make_entry(const struct stored_response *response, struct error *err) {
    struct entry *entry = calloc(1, sizeof *entry);
    if (entry != NULL) {
        entry->id = strdup(response->id);
        entry->body = string_builder_take(response->body, &entry->body_length);
        entry->items = *response->items;
        *response->items = (struct response_items){0};
        entry->n_input = response->n_input;
        entry->is_under_way = response->is_under_way;
        entry->bytes = sizeof *entry + strlen(response->id) + entry->body_length + response_items_bytes(&entry->items);
        if (entry->id != NULL && entry->body != NULL) return entry;
    }
    string_builder_finish(response->body);
    response_items_finish(response->items);
    free_entry(entry);
    fail(err, ERR_MEMORY, "no memory to store a response");
    return NULL;
}

bool response_store_put(struct response_store *store, const struct stored_response *response, struct error *err) {
    struct entry *entry = make_entry(response, err);
    if (entry == NULL) return false;
    pthread_mutex_lock(&store->lock);
    struct entry *before = find(store, response->id);
    if (before != NULL) {
        unlink_entry(store, before);
        free_entry(before);
    }
    bool has_room = make_room(store, entry->bytes, err);
    if (has_room) link_newest(store, entry);
    pthread_mutex_unlock(&store->lock);
    if (!has_room) free_entry(entry);
    return has_room;
}

bool response_store_get(struct response_store *store, const char *id, struct string_builder *body, struct error *err) {
    pthread_mutex_lock(&store->lock);
    const struct entry *entry = use(store, id, err);
    if (entry != NULL) string_builder_append(body, entry->body, entry->body_length);
    pthread_mutex_unlock(&store->lock);
    return entry != NULL;
}

bool response_store_input(struct response_store *store, const char *id, struct response_items *items,
                          struct error *err) {
    pthread_mutex_lock(&store->lock);
    const struct entry *entry = use(store, id, err);
    bool ok = entry != NULL;
    for (int32_t i = 0; ok && i < entry->n_input; ++i) ok = response_items_share(items, entry->items.items[i], err);
    pthread_mutex_unlock(&store->lock);
    return ok;
}

bool response_store_conversation(struct response_store *store, const char *id, struct response_items *items,
                                 struct error *err) {
    pthread_mutex_lock(&store->lock);
    const struct entry *entry = use(store, id, err);
    bool ok = entry != NULL;
    if (ok && entry->is_under_way)
        ok = fail(err, ERR_INVALID, "Response with id '%.128s' is still being made; wait for its end.", id);
    ok = ok && response_items_append(items, &entry->items, err);
    pthread_mutex_unlock(&store->lock);
    return ok;
}

bool response_store_delete(struct response_store *store, const char *id, struct error *err) {
    pthread_mutex_lock(&store->lock);
    struct entry *entry = use(store, id, err);
    if (entry != NULL) unlink_entry(store, entry);
    pthread_mutex_unlock(&store->lock);
    free_entry(entry);
    return entry != NULL;
}

bool response_store_find_item(struct response_store *store, const char *item_id, struct response_items *items) {
    struct response_item *found = NULL;
    pthread_mutex_lock(&store->lock);
    for (const struct entry *entry = store->newest; entry != NULL && found == NULL; entry = entry->older) {
        for (int32_t i = 0; i < entry->items.count && found == NULL; ++i) {
            if (strcmp(entry->items.items[i]->id, item_id) == 0) found = entry->items.items[i];
        }
    }
    bool shared = found != NULL && response_items_share(items, found, NULL);
    pthread_mutex_unlock(&store->lock);
    return shared;
}
