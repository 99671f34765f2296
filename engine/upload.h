/* Fills device memory from what is slower than it: several threads make pieces, the caller's thread copies them.
 *
 * Pieces lie in page-locked memory, two for each thread, so that all threads and the copies go on at once; a piece is
 * used again when a synchronize has followed its copy. Where the host can write device memory (ops->host_writable) the
 * threads write straight into it. Only the caller's thread calls the backend. */
#ifndef QUERN_ENGINE_UPLOAD_H
#define QUERN_ENGINE_UPLOAD_H

#include "engine/error.h"

#include <stddef.h>
#include <stdint.h>

struct backend_ops;
struct device;

#define UPLOAD_PIECE_BYTES ((size_t)4 << 20) // a copy of 80 us over 50 GB/s, and twice a usual L2

/* Bytes [first, first + n_bytes) of a target, to be written to memory. */
struct upload_piece {
    size_t target;
    size_t first; // multiple of UPLOAD_PIECE_BYTES
    size_t n_bytes;
    void *memory;
};

struct upload_target {
    void *to; // device memory
    size_t n_bytes;
};

struct upload {
    const struct backend_ops *ops; // borrowed, as all here
    struct device *device;
    const struct upload_target *targets; // [n_targets]
    size_t n_targets;
    bool (*make)(void *user, const struct upload_piece *piece, struct error *err); // on several threads at once
    void (*copied)(void *user, size_t n_bytes);                                    // on the caller's thread
    void *user;
};

/* Returns when all is on the device, or with the first failure. */
bool upload_run(const struct upload *upload, struct error *err);

#endif
