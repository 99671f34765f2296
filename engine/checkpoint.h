/* The safetensors files of one model folder, seen as one: model.safetensors alone, or the shards that
 * model.safetensors.index.json lists. All files are opened and checked at once, so that a missing shard shows early. */
#ifndef QUERN_ENGINE_CHECKPOINT_H
#define QUERN_ENGINE_CHECKPOINT_H

#include "engine/error.h"
#include "engine/safetensors.h"

#define CHECKPOINT_MAX_SHARDS 1024

struct checkpoint;

/* folder is copied. ERR_NOT_FOUND when it holds neither file, or lacks a shard. */
struct checkpoint *checkpoint_open(const char *folder, struct error *err);
void checkpoint_close(struct checkpoint *checkpoint);

int32_t checkpoint_count_files(const struct checkpoint *checkpoint);
const struct safetensors *checkpoint_file(const struct checkpoint *checkpoint, int32_t index);

/* ERR_NOT_FOUND, naming tensor and file, when it is absent. *path: the file that holds it, owned by the checkpoint,
 * for messages about the tensor. */
const struct safetensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name, const char **path,
                                         struct error *err);

#endif
