/* A device in host memory that copies as late as it may: copy_to_device only notes what to do, synchronize and
 * copy_to_host do it. Whoever reuses a staging buffer too early, or forgets to synchronize, reads wrong bytes. It also
 * counts what is allocated, and fails where told. No ops. */
#ifndef QUERN_TESTS_UNIT_FAKE_BACKEND_H
#define QUERN_TESTS_UNIT_FAKE_BACKEND_H

#include "engine/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FAKE_ALIGNMENT   256
#define FAKE_MAX_PENDING 4
#define FAKE_NEVER       (-1)

struct device {
    struct {
        void *to;
        const void *from;
        size_t bytes;
    } pending[FAKE_MAX_PENDING];
    int32_t n_pending;
    int32_t n_allocated; // live blocks of both kinds
    int32_t allocs_left; // alloc and alloc_host that succeed before one fails; FAKE_NEVER
    int32_t copies_left; // the same for copy_to_device
    int32_t n_copies;    // done
    size_t largest_copy; // bytes
};

static inline bool fake_fails(int32_t *left) {
    if (*left == FAKE_NEVER) return false;
    if (*left == 0) return true;
    (*left)--;
    return false;
}

static inline bool fake_synchronize(struct device *device, struct error *err) {
    (void)err;
    for (int32_t i = 0; i < device->n_pending; i++) {
        memcpy(device->pending[i].to, device->pending[i].from, device->pending[i].bytes);
    }
    device->n_pending = 0;
    return true;
}

static inline void *fake_alloc(struct device *device, size_t bytes, struct error *err) {
    void *memory = NULL;
    if (!fake_fails(&device->allocs_left)) {
        memory = aligned_alloc(FAKE_ALIGNMENT, (bytes + FAKE_ALIGNMENT - 1) / FAKE_ALIGNMENT * FAKE_ALIGNMENT);
    }
    if (!memory) {
        fail(err, ERR_MEMORY, "the fake device has no %zu bytes", bytes);
        return NULL;
    }
    memset(memory, 0xa5, bytes);
    device->n_allocated++;
    return memory;
}

static inline void fake_free(struct device *device, void *memory) {
    if (memory) device->n_allocated--;
    free(memory);
}

static inline bool fake_copy_to_device(struct device *device, void *to, const void *from, size_t bytes,
                                       struct error *err) {
    if (fake_fails(&device->copies_left)) return fail(err, ERR_DEVICE, "the fake device cannot copy");
    if (device->n_pending == FAKE_MAX_PENDING) fake_synchronize(device, err);
    device->pending[device->n_pending].to = to;
    device->pending[device->n_pending].from = from;
    device->pending[device->n_pending++].bytes = bytes;
    device->n_copies++;
    if (bytes > device->largest_copy) device->largest_copy = bytes;
    return true;
}

static inline bool fake_copy_to_host(struct device *device, void *to, const void *from, size_t bytes,
                                     struct error *err) {
    fake_synchronize(device, err);
    memcpy(to, from, bytes);
    return true;
}

static inline struct backend_ops fake_backend(void) {
    return (struct backend_ops){
        .name = "fake",
        .activation_dtype = DTYPE_F32,
        .kv_dtype = DTYPE_BF16,
        .alloc = fake_alloc,
        .free = fake_free,
        .alloc_host = fake_alloc,
        .free_host = fake_free,
        .copy_to_device = fake_copy_to_device,
        .copy_to_host = fake_copy_to_host,
        .synchronize = fake_synchronize,
    };
}

static inline struct device fake_device(void) {
    return (struct device){.allocs_left = FAKE_NEVER, .copies_left = FAKE_NEVER};
}

#endif
