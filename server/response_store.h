/* Responses that clients may ask for again, delete, or go on from: in memory, and bounded in number and bytes.
 *
 * The one that was used longest ago leaves for a new one; one that is still being made stays until it has its end. A
 * response holds its whole conversation, so that it can be gone on from when those before it have left. All functions
 * may be called from any thread. */
#ifndef QUERN_SERVER_RESPONSE_STORE_H
#define QUERN_SERVER_RESPONSE_STORE_H

#include "engine/error.h"
#include "server/response_items.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct response_store;

struct response_store *response_store_create(int32_t max_responses, size_t max_bytes, struct error *err);
void response_store_destroy(struct response_store *store); // takes NULL

struct stored_response {
    const char *id;
    struct string_builder *body;  // the object as JSON; taken
    struct response_items *items; // its conversation, output included; taken
    int32_t n_input;              // of the items; the others are output
    bool is_under_way;
};

/* In the place of one with this id, if there is one. ERR_BUSY: all that are stored are under way; ERR_TOO_LARGE: it is
 * over the limit of bytes alone. */
bool response_store_put(struct response_store *store, const struct stored_response *response, struct error *err);

/* Appends the body. ERR_NOT_FOUND where there is none of this id, as all that follow. */
bool response_store_get(struct response_store *store, const char *id, struct string_builder *body, struct error *err);
/* Appends the items that it was made from. */
bool response_store_input(struct response_store *store, const char *id, struct response_items *items,
                          struct error *err);
/* Appends its whole conversation; ERR_INVALID while it is under way. */
bool response_store_conversation(struct response_store *store, const char *id, struct response_items *items,
                                 struct error *err);
bool response_store_delete(struct response_store *store, const char *id, struct error *err);

/* Appends an item that some response has; false: none has it, or no memory. */
bool response_store_find_item(struct response_store *store, const char *item_id, struct response_items *items);

#endif
