/* One safetensors file, mapped read-only: names, types, shapes, and the bytes.
 *
 * Large tensors are read with safetensor_read: a page fault for every few pages of the mapping is several times slower,
 * and a file that is cut while it is read is an error there, but a signal in the mapping. */
#ifndef QUERN_ENGINE_SAFETENSORS_H
#define QUERN_ENGINE_SAFETENSORS_H

#include "engine/error.h"
#include "engine/model_shape.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_MAX_DIMS 8

struct safetensors;

struct safetensor {
    const struct safetensors *file; // that holds it
    const char *name;               // owned by the file
    char dtype_name[8];             // as written: "BF16", "F16", "F32", "I32", …
    int32_t n_dims;
    int64_t dims[SAFETENSORS_MAX_DIMS];
    const void *data; // into the mapping, not necessarily aligned
    size_t bytes;
};

/* Checks the header whole: lengths within the file, offsets in range and not overlapping, bytes equal to shape x type.
 */
struct safetensors *safetensors_open(const char *path, struct error *err);
void safetensors_close(struct safetensors *file);

size_t safetensors_count(const struct safetensors *file);
const struct safetensor *safetensors_at(const struct safetensors *file, size_t index);
/* NULL when the file has no tensor of that name. */
const struct safetensor *safetensors_find(const struct safetensors *file, const char *name);

/* Reads n_bytes of the tensor, from byte `first` of it on. Any number of threads at once. */
bool safetensor_read(const struct safetensor *tensor, size_t first, size_t n_bytes, void *to, struct error *err);

#endif
