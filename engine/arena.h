/* Places arrays one after another in one piece of memory, each at a multiple of 256 bytes: what vector units and GPUs
 * like to read. With a NULL base it only counts. */
#ifndef QUERN_ENGINE_ARENA_H
#define QUERN_ENGINE_ARENA_H

#include <stddef.h>

#define ARENA_ALIGNMENT 256

struct arena {
    char *base;
    size_t used; // bytes
};

static inline void *arena_take(struct arena *arena, size_t count, size_t element_bytes) {
    void *place = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * element_bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    return place;
}

#endif
