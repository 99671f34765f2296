#include "server/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool text_file_read(const char *path, struct string_builder *text, struct error *err) {
    FILE *file = fopen(path, "re");
    if (file == NULL) return fail(err, ERR_IO, "%s: %s", path, strerror(errno));
    char buffer[4096];
    string_builder_append_text(text, "");
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;) string_builder_append(text, buffer, n);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (failed) return fail(err, ERR_IO, "%s: cannot be read", path);
    return string_builder_check(text, path, err);
}
