#include "engine/checkpoint.h"
#include "engine/json_file.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_INDEX_BYTES ((size_t)100 * 1000 * 1000) // as a safetensors header

struct shard {
    char *path;               // owned
    const char *name;         // within path
    struct safetensors *file; // owned
};

struct checkpoint {
    char *index_path;        // owned; NULL without an index
    cJSON *index;            // owned; NULL without one
    const cJSON *weight_map; // tensor name -> file name, in index
    struct shard shards[CHECKPOINT_MAX_SHARDS];
    int32_t n_shards;
};

static char *join_path(const char *folder, const char *name, struct error *err) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) >= 0) return path;
    fail(err, ERR_MEMORY, "%s: no memory", folder);
    return NULL;
}

static bool add_shard(struct checkpoint *checkpoint, const char *folder, const char *name, struct error *err) {
    if (checkpoint->n_shards == CHECKPOINT_MAX_SHARDS) {
        return fail(err, ERR_TOO_LARGE, "%s: names more than %d files", checkpoint->index_path, CHECKPOINT_MAX_SHARDS);
    }
    struct shard *shard = &checkpoint->shards[checkpoint->n_shards++];
    shard->path = join_path(folder, name, err);
    if (!shard->path) return false;
    shard->name = strrchr(shard->path, '/') + 1;
    shard->file = safetensors_open(shard->path, err);
    return shard->file != NULL;
}

static const struct shard *find_shard(const struct checkpoint *checkpoint, const char *name) {
    for (int32_t i = 0; i < checkpoint->n_shards; i++) {
        if (strcmp(checkpoint->shards[i].name, name) == 0) return &checkpoint->shards[i];
    }
    return NULL;
}

static bool open_shards(struct checkpoint *checkpoint, const char *folder, struct error *err) {
    checkpoint->index = json_file_read(checkpoint->index_path, MAX_INDEX_BYTES, err);
    if (!checkpoint->index) return false;
    checkpoint->weight_map = cJSON_GetObjectItemCaseSensitive(checkpoint->index, "weight_map");
    if (!cJSON_IsObject(checkpoint->weight_map)) {
        return fail(err, ERR_INVALID, "%s: must have an object weight_map", checkpoint->index_path);
    }
    const cJSON *entry;
    cJSON_ArrayForEach(entry, checkpoint->weight_map) {
        if (!cJSON_IsString(entry) || !entry->valuestring[0] || strchr(entry->valuestring, '/')) {
            return fail(err, ERR_INVALID, "%s: tensor %s must be mapped to the name of a file in the same folder",
                        checkpoint->index_path, entry->string);
        }
        if (find_shard(checkpoint, entry->valuestring)) continue;
        if (!add_shard(checkpoint, folder, entry->valuestring, err)) return false;
    }
    return true;
}

static bool open_files(struct checkpoint *checkpoint, const char *folder, struct error *err) {
    char *single = join_path(folder, "model.safetensors", err);
    if (!single) return false;
    bool has_single = access(single, F_OK) == 0;
    free(single);
    if (has_single) return add_shard(checkpoint, folder, "model.safetensors", err);

    checkpoint->index_path = join_path(folder, "model.safetensors.index.json", err);
    if (!checkpoint->index_path) return false;
    if (access(checkpoint->index_path, F_OK) != 0) {
        return fail(err, ERR_NOT_FOUND, "%s: has neither model.safetensors nor model.safetensors.index.json", folder);
    }
    return open_shards(checkpoint, folder, err);
}

struct checkpoint *checkpoint_open(const char *folder, struct error *err) {
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint) {
        fail(err, ERR_MEMORY, "%s: no memory", folder);
        return NULL;
    }
    if (!open_files(checkpoint, folder, err)) {
        checkpoint_close(checkpoint);
        return NULL;
    }
    return checkpoint;
}

void checkpoint_close(struct checkpoint *checkpoint) {
    if (!checkpoint) return;
    for (int32_t i = 0; i < checkpoint->n_shards; i++) {
        safetensors_close(checkpoint->shards[i].file);
        free(checkpoint->shards[i].path);
    }
    cJSON_Delete(checkpoint->index);
    free(checkpoint->index_path);
    free(checkpoint);
}

int32_t checkpoint_count_files(const struct checkpoint *checkpoint) {
    return checkpoint->n_shards;
}

const struct safetensors *checkpoint_file(const struct checkpoint *checkpoint, int32_t index) {
    assert(index >= 0 && index < checkpoint->n_shards);
    return checkpoint->shards[index].file;
}

const struct safetensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name, const char **path,
                                         struct error *err) {
    const struct shard *shard = &checkpoint->shards[0];
    if (checkpoint->index) {
        const cJSON *entry = cJSON_GetObjectItemCaseSensitive(checkpoint->weight_map, name);
        if (!entry) {
            fail(err, ERR_NOT_FOUND, "%s: tensor %s is missing", checkpoint->index_path, name);
            return NULL;
        }
        shard = find_shard(checkpoint, entry->valuestring);
    }
    const struct safetensor *tensor = safetensors_find(shard->file, name);
    if (!tensor) fail(err, ERR_NOT_FOUND, "%s: tensor %s is missing", shard->path, name);
    *path = shard->path;
    return tensor;
}
