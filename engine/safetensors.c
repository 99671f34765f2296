/* The format: an unsigned 64-bit little-endian length, that many bytes of JSON, then the data. Each JSON member is
 * "name": {"dtype", "shape", "data_offsets": [begin, end)} with offsets from the start of the data, which the tensors
 * fill without gaps; "__metadata__" holds strings. (huggingface/safetensors, README, "Format") */
#include "engine/safetensors.h"
#include "engine/json_file.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_BYTES     8
#define MAX_HEADER_BYTES (100u * 1000 * 1000) // of the format
#define MAX_INTEGER      9007199254740992.0   // 2^53: cJSON keeps numbers as double

struct safetensors {
    char *path;     // owned
    int descriptor; // owned
    void *mapping;  // owned
    size_t mapping_bytes;
    cJSON *header;              // owned; holds the names
    struct safetensor *tensors; // [count], owned, sorted by name
    size_t count;
};

/* What the checks of one file share. */
struct reader {
    const struct safetensors *file;
    const char *path;
    const unsigned char *data; // after the header
    uint64_t data_bytes;
    struct error *err;
};

static uint64_t dtype_bits(const char *name) {
    static const struct {
        const char *name;
        uint64_t bits;
    } dtypes[] = {
        {"BF16", 16},   {"F16", 16},    {"F32", 32}, {"F64", 64}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8},
        {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},   {"BOOL", 8}, {"I8", 8},      {"U8", 8},      {"I16", 16},
        {"U16", 16},    {"I32", 32},    {"U32", 32}, {"I64", 64}, {"U64", 64},    {"C64", 64},
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0) return dtypes[i].bits;
    }
    return 0;
}

static bool read_integer(const cJSON *item, uint64_t *value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= MAX_INTEGER)) return false;
    *value = (uint64_t)item->valuedouble;
    return (double)*value == item->valuedouble;
}

/* Fills all of tensor but data and bytes; *bits is its size by shape and type. */
static bool read_type(const struct reader *reader, const cJSON *entry, struct safetensor *tensor, uint64_t *bits) {
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    if (!cJSON_IsString(dtype) || !cJSON_IsArray(shape)) {
        return fail(reader->err, ERR_INVALID, "%s: tensor %s needs a dtype (string) and a shape (array)", reader->path,
                    tensor->name);
    }
    *bits = dtype_bits(dtype->valuestring);
    if (*bits == 0) {
        return fail(reader->err, ERR_INVALID, "%s: tensor %s has the unknown dtype %.32s", reader->path, tensor->name,
                    dtype->valuestring);
    }
    strcpy(tensor->dtype_name, dtype->valuestring); // a known one, at most 7 characters
    const cJSON *dim;
    cJSON_ArrayForEach(dim, shape) {
        uint64_t size;
        if (tensor->n_dims == SAFETENSORS_MAX_DIMS) {
            return fail(reader->err, ERR_INVALID, "%s: tensor %s has more than %d dimensions", reader->path,
                        tensor->name, SAFETENSORS_MAX_DIMS);
        }
        if (!read_integer(dim, &size)) {
            return fail(reader->err, ERR_INVALID, "%s: tensor %s: dimension %d is not an integer in [0, 2^53]",
                        reader->path, tensor->name, tensor->n_dims);
        }
        if (__builtin_mul_overflow(*bits, size, bits)) {
            return fail(reader->err, ERR_INVALID, "%s: tensor %s: the product of its shape overflows", reader->path,
                        tensor->name);
        }
        tensor->dims[tensor->n_dims++] = (int64_t)size;
    }
    return true;
}

static bool read_tensor(const struct reader *reader, const cJSON *entry, struct safetensor *tensor) {
    *tensor = (struct safetensor){.file = reader->file, .name = entry->string};
    uint64_t bits = 0, begin, end;
    if (!read_type(reader, entry, tensor, &bits)) return false;
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !read_integer(offsets->child, &begin) ||
        !read_integer(offsets->child->next, &end)) {
        return fail(reader->err, ERR_INVALID, "%s: tensor %s needs data_offsets [begin, end]", reader->path,
                    tensor->name);
    }
    if (begin > end || end > reader->data_bytes) {
        return fail(reader->err, ERR_INVALID,
                    "%s: tensor %s lies at [%" PRIu64 ", %" PRIu64 ") of %" PRIu64 " bytes: the file is cut or wrong",
                    reader->path, tensor->name, begin, end, reader->data_bytes);
    }
    if (bits % 8 != 0 || end - begin != bits / 8) {
        return fail(reader->err, ERR_INVALID, "%s: tensor %s has %" PRIu64 " bytes, its shape and type make %" PRIu64,
                    reader->path, tensor->name, end - begin, bits / 8);
    }
    tensor->data = reader->data + begin;
    tensor->bytes = end - begin;
    return true;
}

static int by_place(const void *a, const void *b) {
    const struct safetensor *left = a, *right = b;
    if (left->data != right->data) return (const char *)left->data < (const char *)right->data ? -1 : 1;
    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

/* Each byte of the data belongs to exactly one tensor. */
static bool check_places(const struct reader *reader, struct safetensor *tensors, size_t count) {
    if (count > 0) qsort(tensors, count, sizeof *tensors, by_place);
    const unsigned char *free_from = reader->data;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *begin = tensors[i].data;
        if (begin != free_from) {
            return fail(reader->err, ERR_INVALID,
                        begin < free_from ? "%s: tensor %s overlaps the one before it"
                                          : "%s: there is a gap before tensor %s",
                        reader->path, tensors[i].name);
        }
        free_from = begin + tensors[i].bytes;
    }
    uint64_t used = (uint64_t)(free_from - reader->data);
    if (used != reader->data_bytes) {
        return fail(reader->err, ERR_INVALID, "%s: %" PRIu64 " bytes after the last tensor belong to none",
                    reader->path, reader->data_bytes - used);
    }
    return true;
}

static bool check_names(const struct reader *reader, struct safetensor *tensors, size_t count) {
    if (count > 0) qsort(tensors, count, sizeof *tensors, by_name);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0) {
            return fail(reader->err, ERR_INVALID, "%s: two tensors are named %s", reader->path, tensors[i].name);
        }
    }
    return true;
}

static bool read_tensors(struct safetensors *file, const struct reader *reader) {
    size_t n_members = (size_t)cJSON_GetArraySize(file->header);
    file->tensors = calloc(n_members + 1, sizeof *file->tensors);
    if (!file->tensors) return fail(reader->err, ERR_MEMORY, "%s: no memory for its tensor list", reader->path);
    const cJSON *entry;
    cJSON_ArrayForEach(entry, file->header) {
        if (!cJSON_IsObject(entry)) {
            return fail(reader->err, ERR_INVALID, "%s: header member %s is not an object", reader->path, entry->string);
        }
        if (strcmp(entry->string, "__metadata__") == 0) continue;
        if (!read_tensor(reader, entry, &file->tensors[file->count])) return false;
        file->count++;
    }
    return check_places(reader, file->tensors, file->count) && check_names(reader, file->tensors, file->count);
}

static bool read_header(struct safetensors *file, const char *path, struct error *err) {
    const unsigned char *bytes = file->mapping;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | bytes[i];
    uint64_t available = file->mapping_bytes - LENGTH_BYTES;
    if (length > MAX_HEADER_BYTES || length > available) {
        return fail(err, ERR_INVALID, "%s: a header of %" PRIu64 " bytes; the file has %" PRIu64 ", the limit is %u",
                    path, length, available, MAX_HEADER_BYTES);
    }
    char *text = malloc(length + 1);
    if (!text) return fail(err, ERR_MEMORY, "%s: no memory for a header of %" PRIu64 " bytes", path, length);
    memcpy(text, bytes + LENGTH_BYTES, length);
    text[length] = '\0';
    file->header = json_text_parse(text, length, path, err);
    free(text);
    if (!file->header) return false;
    struct reader reader = {
        .file = file,
        .path = path,
        .data = bytes + LENGTH_BYTES + length,
        .data_bytes = available - length,
        .err = err,
    };
    return read_tensors(file, &reader);
}

static bool map_file(struct safetensors *file, const char *path, struct error *err) {
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // not to wait for the writer of a FIFO
    if (file->descriptor < 0) {
        return fail(err, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
    }
    struct stat status;
    if (fstat(file->descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        return fail(err, ERR_IO, "%s: not a regular file", path);
    }
    if (status.st_size < LENGTH_BYTES) {
        return fail(err, ERR_INVALID, "%s: %lld bytes are too few for a safetensors file", path,
                    (long long)status.st_size);
    }
    file->mapping_bytes = (size_t)status.st_size;
    void *mapping = mmap(NULL, file->mapping_bytes, PROT_READ, MAP_PRIVATE, file->descriptor, 0);
    if (mapping == MAP_FAILED) return fail(err, ERR_IO, "%s: cannot map: %s", path, strerror(errno));
    file->mapping = mapping;
    return true;
}

struct safetensors *safetensors_open(const char *path, struct error *err) {
    struct safetensors *file = calloc(1, sizeof *file);
    if (file) file->descriptor = -1;
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        fail(err, ERR_MEMORY, "%s: no memory", path);
        safetensors_close(file);
        return NULL;
    }
    if (!map_file(file, path, err) || !read_header(file, path, err)) {
        safetensors_close(file);
        return NULL;
    }
    return file;
}

void safetensors_close(struct safetensors *file) {
    if (!file) return;
    if (file->mapping) munmap(file->mapping, file->mapping_bytes);
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    cJSON_Delete(file->header);
    free(file->tensors);
    free(file);
}

size_t safetensors_count(const struct safetensors *file) {
    return file->count;
}

const struct safetensor *safetensors_at(const struct safetensors *file, size_t index) {
    assert(index < file->count);
    return &file->tensors[index];
}

const struct safetensor *safetensors_find(const struct safetensors *file, const char *name) {
    struct safetensor key = {.name = name};
    return file->count > 0 ? bsearch(&key, file->tensors, file->count, sizeof key, by_name) : NULL;
}

bool safetensor_read(const struct safetensor *tensor, size_t first, size_t n_bytes, void *to, struct error *err) {
    const struct safetensors *file = tensor->file;
    assert(first <= tensor->bytes && n_bytes <= tensor->bytes - first);
    size_t start = (size_t)((const char *)tensor->data - (const char *)file->mapping) + first;
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = pread(file->descriptor, (char *)to + done, n_bytes - done, (off_t)(start + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(err, ERR_IO, "%s: cannot read tensor %s: %s", file->path, tensor->name, strerror(errno));
        if (n == 0) {
            return fail(err, ERR_IO, "%s: tensor %s ends at byte %zu of the file: it was cut while it was read",
                        file->path, tensor->name, start + done);
        }
        done += (size_t)n;
    }
    return true;
}
