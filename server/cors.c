#include "server/cors.h"

#include <string.h>

/* scheme://host or scheme://host:port, without a path, not even "/", and in small letters. */
static bool is_origin(const char *text, size_t length) {
    static const char separator[] = "://";
    if (length == 4 && memcmp(text, "null", 4) == 0) return true;
    size_t scheme = strcspn(text, ":,");
    size_t host = scheme + sizeof separator - 1;
    if (scheme == 0 || host >= length || strncmp(text + scheme, separator, sizeof separator - 1) != 0) return false;
    for (size_t i = 0; i < length; ++i) {
        if (text[i] <= ' ' || text[i] > '~' || text[i] == '*' || (text[i] >= 'A' && text[i] <= 'Z')) return false;
        if (i >= host && strchr("/?#@", text[i]) != NULL) return false;
    }
    return true;
}

bool cors_check(const char *list, struct error *err) {
    if (strcmp(list, "*") == 0) return true;
    while (*list != '\0') {
        size_t length = strcspn(list, ",");
        if (!is_origin(list, length)) {
            return fail_param(err, ERR_INVALID, "cors-origin",
                              "--cors-origin: \"%.*s\" is no origin; * for all, or a list such as "
                              "https://chat.example.org,http://localhost:3000",
                              (int)(length < 200 ? length : 200), list);
        }
        list += length + (list[length] == ',');
    }
    return true;
}

const char *cors_allow(const char *list, const char *origin) {
    if (strcmp(list, "*") == 0) return list;
    if (origin == NULL || *origin == '\0') return NULL;
    while (*list != '\0') {
        size_t length = strcspn(list, ",");
        if (strncmp(list, origin, length) == 0 && origin[length] == '\0') return origin;
        list += length + (list[length] == ',');
    }
    return NULL;
}
