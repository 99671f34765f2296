/* One safetensors file, mapped read-only: names, types, shapes, and where the bytes are. */
#ifndef QUERN_ENGINE_SAFETENSORS_H
#define QUERN_ENGINE_SAFETENSORS_H

#include "engine/error.h"
#include "engine/model_shape.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_MAX_DIMS 8

struct safetensor {
    const char *name;   // owned by the file
    char dtype_name[8]; // as written: "BF16", "F16", "F32", "I32", …
    int32_t n_dims;
    int64_t dims[SAFETENSORS_MAX_DIMS];
    const void *data; // into the mapping, not necessarily aligned
    size_t bytes;
};

struct safetensors;

/* Checks the header whole: lengths within the file, offsets in range and not overlapping, bytes equal to shape x type.
 */
struct safetensors *safetensors_open(const char *path, struct error *err);
void safetensors_close(struct safetensors *file);

size_t safetensors_count(const struct safetensors *file);
const struct safetensor *safetensors_at(const struct safetensors *file, size_t index);
/* NULL when the file has no tensor of that name. */
const struct safetensor *safetensors_find(const struct safetensors *file, const char *name);

#endif
