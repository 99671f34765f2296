/* Where in a request a value stands, such as "messages[2].content", and refusals that say so. */
#ifndef QUERN_SERVER_JSON_PLACE_H
#define QUERN_SERVER_JSON_PLACE_H

#include "engine/error.h"
#include "server/json_text.h"

#include <stdbool.h>

struct json_place {
    char text[48];
};

struct json_place json_place_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ERR_INVALID with place and key as param: "place.key message." */
bool json_place_refuse(struct error *err, const struct json_place *place, const char *key, const char *message);
/* "place.key is a number, but must be wanted." */
bool json_place_refuse_kind(struct error *err, const struct json_place *place, const char *key, struct json_text value,
                            const char *wanted);

#endif
