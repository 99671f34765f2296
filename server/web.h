/* The chat page: / is web/index.html, /web/NAME what it needs. */
#ifndef QUERN_SERVER_WEB_H
#define QUERN_SERVER_WEB_H

#include <stdbool.h>

/* The page has a file of this path. */
bool web_holds(const char *path);

#endif
