/* A folder of files that a test makes, and that leaves no trace. */
#ifndef QUERN_TESTS_UNIT_TEMPORARY_FOLDER_H
#define QUERN_TESTS_UNIT_TEMPORARY_FOLDER_H

#include "tests/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct temporary_folder {
    char path[64];
    char file[384]; // of the last folder_path
};

static inline struct temporary_folder folder_create(void) {
    struct temporary_folder folder = {.path = "/tmp/quern-test-XXXXXX"};
    assert_non_null(mkdtemp(folder.path));
    return folder;
}

/* The path of a file in it; valid until the next call. */
static inline const char *folder_path(struct temporary_folder *folder, const char *name) {
    snprintf(folder->file, sizeof folder->file, "%s/%s", folder->path, name);
    return folder->file;
}

static inline void folder_write(struct temporary_folder *folder, const char *name, const void *bytes, size_t n_bytes) {
    FILE *file = fopen(folder_path(folder, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

static inline void folder_write_text(struct temporary_folder *folder, const char *name, const char *text) {
    folder_write(folder, name, text, strlen(text));
}

static inline void folder_remove(struct temporary_folder *folder) {
    DIR *listing = opendir(folder->path);
    assert_non_null(listing);
    for (const struct dirent *entry; (entry = readdir(listing));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            unlink(folder_path(folder, entry->d_name));
        }
    }
    closedir(listing);
    assert_int_equal(rmdir(folder->path), 0);
}

#endif
