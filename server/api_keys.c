#include "server/api_keys.h"

#include "server/text_file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 4 << 20 };

/* Filled up with zeros, so that all keys compare alike, whatever their length. */
struct key {
    unsigned char bytes[API_KEYS_MAX_BYTES + 1];
};

struct key_list {
    struct key *keys; // [API_KEYS_MAX], owned
    int32_t count;
};

struct api_keys {
    char *list; // owned, as file
    char *file;
    pthread_rwlock_t lock; // guards current
    struct key_list current;
};

static void list_finish(struct key_list *list) {
    if (list->keys != NULL) explicit_bzero(list->keys, (size_t)list->count * sizeof *list->keys);
    free(list->keys);
    *list = (struct key_list){0};
}

static bool add(struct key_list *list, const char *text, size_t length, struct error *err) {
    bool is_key = length > 0 && length <= API_KEYS_MAX_BYTES;
    for (size_t i = 0; is_key && i < length; ++i) is_key = text[i] > ' ' && text[i] <= '~' && text[i] != ',';
    if (!is_key) {
        return fail(err, ERR_INVALID, "an API key is 1 to %d printable characters without blanks and commas",
                    API_KEYS_MAX_BYTES);
    }
    if (list->count == API_KEYS_MAX) return fail(err, ERR_INVALID, "there are more than %d API keys", API_KEYS_MAX);
    memcpy(list->keys[list->count++].bytes, text, length);
    return true;
}

static bool add_list(struct key_list *list, const char *text, struct error *err) {
    struct error fault;
    for (int number = 1; *text != '\0'; ++number) {
        size_t length = strcspn(text, ",");
        if (!add(list, text, length, &fault)) {
            return fail_param(err, fault.code, "api-key", "--api-key, key %d: %s", number, fault.message);
        }
        text += length + (text[length] == ',');
    }
    return true;
}

static bool add_lines(struct key_list *list, const char *text, const char *path, struct error *err) {
    struct error fault;
    for (int number = 1; *text != '\0'; ++number) {
        size_t length = strcspn(text, "\n");
        const char *next = text + length + (text[length] == '\n');
        for (; length > 0 && strchr(" \t\r", text[length - 1]) != NULL; --length) continue;
        for (; length > 0 && (*text == ' ' || *text == '\t'); --length) ++text;
        if (length > 0 && *text != '#' && !add(list, text, length, &fault)) {
            return fail_param(err, fault.code, "api-key-file", "%s, line %d: %s", path, number, fault.message);
        }
        text = next;
    }
    return true;
}

static bool add_file(struct key_list *list, const char *path, struct error *err) {
    struct string_builder text = {.max_length = MAX_FILE_BYTES};
    int32_t before = list->count;
    bool ok = text_file_read(path, &text, err);
    if (ok && strlen(text.data) != text.length) {
        ok = fail_param(err, ERR_INVALID, "api-key-file", "%s is no text: it holds a zero byte", path);
    }
    ok = ok && add_lines(list, text.data, path, err);
    if (ok && list->count == before) {
        ok = fail_param(err, ERR_INVALID, "api-key-file", "%s holds no API key", path);
    }
    if (text.data != NULL) explicit_bzero(text.data, text.length);
    string_builder_finish(&text);
    return ok;
}

bool api_keys_reload(struct api_keys *keys, struct error *err) {
    struct key_list list = {.keys = calloc(API_KEYS_MAX, sizeof *list.keys)};
    if (list.keys == NULL) return fail(err, ERR_MEMORY, "no memory for the API keys");
    bool ok = add_list(&list, keys->list, err) && (keys->file[0] == '\0' || add_file(&list, keys->file, err));
    if (ok) {
        pthread_rwlock_wrlock(&keys->lock);
        struct key_list old = keys->current;
        keys->current = list;
        pthread_rwlock_unlock(&keys->lock);
        list = old;
    }
    list_finish(&list);
    return ok;
}

struct api_keys *api_keys_create(const char *list, const char *file, struct error *err) {
    struct api_keys *keys = calloc(1, sizeof *keys);
    if (keys == NULL) {
        fail(err, ERR_MEMORY, "no memory for the API keys");
        return NULL;
    }
    pthread_rwlock_init(&keys->lock, NULL);
    keys->list = strdup(list);
    keys->file = strdup(file);
    bool ok = (keys->list != NULL && keys->file != NULL) || fail(err, ERR_MEMORY, "no memory for the API keys");
    if (ok && api_keys_reload(keys, err)) return keys;
    api_keys_destroy(keys);
    return NULL;
}

void api_keys_destroy(struct api_keys *keys) {
    if (keys == NULL) return;
    list_finish(&keys->current);
    if (keys->list != NULL) explicit_bzero(keys->list, strlen(keys->list));
    free(keys->list);
    free(keys->file);
    pthread_rwlock_destroy(&keys->lock);
    free(keys);
}

bool api_keys_hold(struct api_keys *keys, const char *key) {
    struct key shown = {{0}};
    size_t length = strlen(key);
    if (length == 0 || length > API_KEYS_MAX_BYTES) return false;
    memcpy(shown.bytes, key, length);
    // No branch on what a key holds, and volatile, so that the compiler makes none: the time tells nothing of a key.
    volatile unsigned found = 0;
    pthread_rwlock_rdlock(&keys->lock);
    for (int32_t i = 0; i < keys->current.count; ++i) {
        volatile unsigned difference = 0;
        for (size_t j = 0; j < sizeof shown.bytes; ++j) difference |= shown.bytes[j] ^ keys->current.keys[i].bytes[j];
        found |= (difference - 1) >> 31; // 1 when there is no difference
    }
    pthread_rwlock_unlock(&keys->lock);
    return found != 0;
}

int32_t api_keys_count(struct api_keys *keys) {
    pthread_rwlock_rdlock(&keys->lock);
    int32_t count = keys->current.count;
    pthread_rwlock_unlock(&keys->lock);
    return count;
}
