#include "engine/json_file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct cJSON *json_text_parse(const char *text, size_t length, const char *path, struct error *err) {
    const char *end = NULL;
    // The NUL goes along: cJSON 1.7.15 reads past a text that is cut after a comma.
    cJSON *root = cJSON_ParseWithLengthOpts(text, length + 1, &end, true);
    if (!root) {
        int line = 1;
        for (const char *at = text; at < end && at < text + length; at++) line += *at == '\n';
        fail(err, ERR_INVALID, "%s: line %d is not valid JSON", path, line);
        return NULL;
    }
    if (!cJSON_IsObject(root)) {
        fail(err, ERR_INVALID, "%s: must hold a JSON object", path);
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

static bool read_all(int descriptor, char *text, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t got = read(descriptor, text + done, length - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return false;
        if (got == 0) {
            errno = EIO; // the file shrank since fstat
            return false;
        }
        done += (size_t)got;
    }
    return true;
}

struct cJSON *json_file_read(const char *path, size_t max_bytes, struct error *err) {
    cJSON *root = NULL;
    char *text = NULL;
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // not to wait for the writer of a FIFO
    if (descriptor < 0) {
        fail(err, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        fail(err, ERR_IO, "%s: not a regular file", path);
        goto done;
    }
    size_t length = (size_t)status.st_size;
    if (length > max_bytes) {
        fail(err, ERR_TOO_LARGE, "%s: has %zu bytes, the limit is %zu", path, length, max_bytes);
        goto done;
    }
    text = malloc(length + 1);
    if (!text) {
        fail(err, ERR_MEMORY, "%s: no memory for %zu bytes", path, length);
        goto done;
    }
    if (!read_all(descriptor, text, length)) {
        fail(err, ERR_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    text[length] = '\0';
    root = json_text_parse(text, length, path, err);
done:
    free(text);
    close(descriptor);
    return root;
}
