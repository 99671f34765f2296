/* Files that are part of the program: those that server/meson.build lists for scripts/embed.py. */
#ifndef QUERN_SERVER_EMBEDDED_H
#define QUERN_SERVER_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
    const char *name; // without folders
    const char *data; // [length], NUL-terminated
    size_t length;
    const char *version; // another one when the data is
};

extern const struct embedded_file embedded_files[]; // [n_embedded_files]
extern const size_t n_embedded_files;

/* NULL: there is none of that name. */
const struct embedded_file *embedded_find(const char *name);

#endif
