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

/* Of a tensor that the index names. */
struct place {
    const char *name; // in index
    const struct shard *shard;
};

struct checkpoint {
    char *index_path;     // owned; NULL without an index
    cJSON *index;         // owned; NULL without one
    struct place *places; // [n_places], by name, owned: a mixture of experts has tens of thousands
    size_t n_places;
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

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

static bool open_shards(struct checkpoint *checkpoint, const char *folder, struct error *err) {
    checkpoint->index = json_file_read(checkpoint->index_path, MAX_INDEX_BYTES, err);
    if (!checkpoint->index) return false;
    const cJSON *weight_map = cJSON_GetObjectItemCaseSensitive(checkpoint->index, "weight_map"), *entry;
    if (!cJSON_IsObject(weight_map)) {
        return fail(err, ERR_INVALID, "%s: must have an object weight_map", checkpoint->index_path);
    }
    size_t n_entries = (size_t)cJSON_GetArraySize(weight_map);
    checkpoint->places = calloc(n_entries + 1, sizeof *checkpoint->places);
    if (!checkpoint->places) return fail(err, ERR_MEMORY, "%s: no memory", checkpoint->index_path);
    cJSON_ArrayForEach(entry, weight_map) {
        if (!cJSON_IsString(entry) || !entry->valuestring[0] || strchr(entry->valuestring, '/')) {
            return fail(err, ERR_INVALID, "%s: tensor %s must be mapped to the name of a file in the same folder",
                        checkpoint->index_path, entry->string);
        }
        const struct shard *shard = find_shard(checkpoint, entry->valuestring);
        if (!shard && !add_shard(checkpoint, folder, entry->valuestring, err)) return false;
        if (!shard) shard = &checkpoint->shards[checkpoint->n_shards - 1];
        checkpoint->places[checkpoint->n_places++] = (struct place){entry->string, shard};
    }
    qsort(checkpoint->places, checkpoint->n_places, sizeof *checkpoint->places, by_name);
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
    free(checkpoint->places);
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
        const struct place key = {.name = name},
                           *place = bsearch(&key, checkpoint->places, checkpoint->n_places, sizeof key, by_name);
        if (!place) {
            fail(err, ERR_NOT_FOUND, "%s: tensor %s is missing", checkpoint->index_path, name);
            return NULL;
        }
        shard = place->shard;
    }
    const struct safetensor *tensor = safetensors_find(shard->file, name);
    if (!tensor) fail(err, ERR_NOT_FOUND, "%s: tensor %s is missing", shard->path, name);
    *path = shard->path;
    return tensor;
}
