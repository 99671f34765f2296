#include "engine/vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, folded so that its low bits depend on all of it. */
static uint32_t hash_bytes(const char *bytes, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (uint32_t)(hash ^ (hash >> 32));
}

bool vocabulary_init(struct vocabulary *vocabulary, int32_t size, int32_t n_findable, struct error *err) {
    assert(size >= 0 && n_findable >= 0 && n_findable <= size);
    uint32_t n_slots = 16;
    while (n_slots < (uint32_t)n_findable * 2) n_slots *= 2;
    *vocabulary = (struct vocabulary){.size = size, .slot_mask = n_slots - 1};
    vocabulary->entries = calloc((size_t)size + 1, sizeof *vocabulary->entries);
    vocabulary->slots = malloc(n_slots * sizeof *vocabulary->slots);
    if (!vocabulary->entries || !vocabulary->slots) {
        vocabulary_finish(vocabulary);
        return fail(err, ERR_MEMORY, "No memory for a vocabulary of %d tokens.", size);
    }
    memset(vocabulary->slots, -1, n_slots * sizeof *vocabulary->slots);
    return true;
}

void vocabulary_finish(struct vocabulary *vocabulary) {
    free(vocabulary->entries);
    free(vocabulary->bytes);
    free(vocabulary->slots);
    *vocabulary = (struct vocabulary){0};
}

static bool reserve_bytes(struct vocabulary *vocabulary, size_t length, struct error *err) {
    if (length > UINT32_MAX - vocabulary->n_bytes)
        return fail(err, ERR_TOO_LARGE, "The tokens are over 4 GiB of text.");
    if (vocabulary->n_bytes + length <= vocabulary->bytes_capacity) return true;
    size_t capacity = (vocabulary->n_bytes + length) * 2;
    char *bytes = realloc(vocabulary->bytes, capacity);
    if (!bytes) return fail(err, ERR_MEMORY, "No memory for %zu bytes of tokens.", capacity);
    vocabulary->bytes = bytes;
    vocabulary->bytes_capacity = capacity;
    return true;
}

bool vocabulary_set(struct vocabulary *vocabulary, int32_t id, const char *bytes, size_t length, struct error *err) {
    assert(id >= 0 && id < vocabulary->size && length > 0 && vocabulary->entries[id].length == 0);
    if (!reserve_bytes(vocabulary, length, err)) return false;
    memcpy(vocabulary->bytes + vocabulary->n_bytes, bytes, length);
    vocabulary->entries[id] = (struct vocabulary_entry){(uint32_t)vocabulary->n_bytes, (uint32_t)length};
    vocabulary->n_bytes += length;
    return true;
}

/* The slot that holds these bytes, or the free slot where they would go. */
static uint32_t find_slot(const struct vocabulary *vocabulary, const char *bytes, size_t length) {
    uint32_t slot = hash_bytes(bytes, length) & vocabulary->slot_mask;
    for (;; slot = (slot + 1) & vocabulary->slot_mask) {
        int32_t id = vocabulary->slots[slot];
        if (id < 0) return slot;
        const struct vocabulary_entry *entry = &vocabulary->entries[id];
        if (entry->length == length && memcmp(vocabulary->bytes + entry->start, bytes, length) == 0) return slot;
    }
}

bool vocabulary_add(struct vocabulary *vocabulary, int32_t id, const char *bytes, size_t length, struct error *err) {
    uint32_t slot = find_slot(vocabulary, bytes, length);
    assert(vocabulary->slots[slot] < 0);
    if (!vocabulary_set(vocabulary, id, bytes, length, err)) return false;
    vocabulary->slots[slot] = id;
    if (length > vocabulary->max_length) vocabulary->max_length = (uint32_t)length;
    return true;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t length) {
    if (length > vocabulary->max_length) return -1;
    return vocabulary->slots[find_slot(vocabulary, bytes, length)];
}

const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t id, size_t *length) {
    *length = 0;
    if (id < 0 || id >= vocabulary->size || vocabulary->entries[id].length == 0) return "";
    *length = vocabulary->entries[id].length;
    return vocabulary->bytes + vocabulary->entries[id].start;
}
