/* Pages of which origins may read answers (https://fetch.spec.whatwg.org/#http-cors-protocol).
 *
 * A list is "" (none), "*" (all) or origins with commas between them, as browsers write them:
 * "https://chat.example.org", "http://localhost:3000", "null". */
#ifndef QUERN_SERVER_CORS_H
#define QUERN_SERVER_CORS_H

#include "engine/error.h"

/* ERR_INVALID names the item that no browser would ever send. */
bool cors_check(const char *list, struct error *err);

/* What Access-Control-Allow-Origin says, "*" or the origin itself; NULL: no such header. origin NULL: none was sent. */
const char *cors_allow(const char *list, const char *origin);

#endif
