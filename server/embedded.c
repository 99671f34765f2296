#include "server/embedded.h"

#include <string.h>

const struct embedded_file *embedded_find(const char *name) {
    for (size_t i = 0; i < n_embedded_files; ++i) {
        if (strcmp(embedded_files[i].name, name) == 0) return &embedded_files[i];
    }
    return NULL;
}
