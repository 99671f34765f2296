/* Items of a conversation as OpenAI's Responses API knows them: messages, reasoning, calls of functions and their
 * output.
 *
 * An item is one JSON object in the form in which clients are told it, with its id; it never changes, and the
 * conversations that it belongs to share it. Made from what a client sent, it is known to be whole: each field that is
 * named here is there and of its type. */
#ifndef QUERN_SERVER_RESPONSE_ITEMS_H
#define QUERN_SERVER_RESPONSE_ITEMS_H

#include "engine/error.h"
#include "server/chat_template.h"
#include "server/json_text.h"
#include "server/string_builder.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct response_store;
struct server;

/* Of a conversation that is read. A reference is short, and what it stands for may be long: bytes are limited too, to
 * more than any context holds. */
enum { RESPONSE_MAX_ITEMS = 4096, RESPONSE_MAX_BYTES = 16 << 20 };

struct response_item {
    _Atomic int32_t n_references;
    const char *id;           // behind the JSON
    struct json_text call_id; // of a function_call, in the JSON; data NULL: it is none
    size_t length;
    char json[]; // [length + 1]
};

/* A conversation; zero-initialise. */
struct response_items {
    struct response_item **items; // [count], owned references
    int32_t count;
    int32_t capacity;
};

/* Takes over what json holds; false: no memory. */
bool response_items_add(struct response_items *items, const char *id, struct string_builder *json, struct error *err);
bool response_items_share(struct response_items *items, struct response_item *item, struct error *err);
/* Appends all of other. */
bool response_items_append(struct response_items *items, const struct response_items *other, struct error *err);
void response_items_finish(struct response_items *items);
size_t response_items_bytes(const struct response_items *items);

/* Appends the `input` of a request, a string or an array of items, to what the conversation holds already. An item is
 * referred to by its id among those, or in the store. ERR_INVALID names the place: "input[2].content[0].type", or says
 * which of the two limits the conversation is over. */
bool response_items_read(struct response_items *items, struct json_text input, struct server *server,
                         struct error *err);

/* The messages of the conversation, behind instructions as the first one if they are given: reasoning, content and
 * calls that follow one another are one message of the assistant. chat is zeroed; on failure it is finished already. */
bool response_items_to_chat(const struct response_items *items, struct json_text instructions, struct chat *chat,
                            struct error *err);

#endif
