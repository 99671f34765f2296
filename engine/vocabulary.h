/* Token ids and the bytes they stand for, both ways. Filled once, then read by any number of threads. */
#ifndef QUERN_ENGINE_VOCABULARY_H
#define QUERN_ENGINE_VOCABULARY_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vocabulary_entry {
    uint32_t start;  // into bytes
    uint32_t length; // 0: the id stands for nothing
};

struct vocabulary {
    struct vocabulary_entry *entries; // [size], owned
    int32_t size;
    char *bytes; // [n_bytes] all tokens end to end, owned
    size_t n_bytes;
    size_t bytes_capacity;
    int32_t *slots; // [slot_mask + 1] open-addressed hash of findable ids, -1: free, owned
    uint32_t slot_mask;
    uint32_t max_length; // bytes of the longest findable token
};

/* Room for ids in [0, size), of which at most n_findable are added with vocabulary_add. */
bool vocabulary_init(struct vocabulary *vocabulary, int32_t size, int32_t n_findable, struct error *err);
void vocabulary_finish(struct vocabulary *vocabulary);

/* Gives id its bytes; vocabulary_find will not see it. The id must be free and below size, length above 0. */
bool vocabulary_set(struct vocabulary *vocabulary, int32_t id, const char *bytes, size_t length, struct error *err);

/* The same, and vocabulary_find will see it. The bytes must not be findable already. */
bool vocabulary_add(struct vocabulary *vocabulary, int32_t id, const char *bytes, size_t length, struct error *err);

/* The id of exactly these bytes, or -1. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t length);

/* Borrowed; length 0 for an id that stands for nothing or lies outside [0, size). */
const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t id, size_t *length);

#endif
