/* A JSON file that must hold one object: config.json, generation_config.json, model.safetensors.index.json. */
#ifndef QUERN_ENGINE_JSON_FILE_H
#define QUERN_ENGINE_JSON_FILE_H

#include "engine/error.h"

#include <stddef.h>

struct cJSON;

/* The caller releases the result with cJSON_Delete. ERR_NOT_FOUND when there is no such file; ERR_TOO_LARGE over
 * max_bytes; ERR_INVALID, naming the line, when it is not JSON. */
struct cJSON *json_file_read(const char *path, size_t max_bytes, struct error *err);

/* text, which holds length bytes and then a NUL, as one object; path is for the message alone. */
struct cJSON *json_text_parse(const char *text, size_t length, const char *path, struct error *err);

#endif
