/* What the body of POST /v1/responses says beyond a chat: the conversation, the functions, and what to do with the
 * response. The fields that both have are read by openai_request. */
#ifndef QUERN_SERVER_RESPONSES_REQUEST_H
#define QUERN_SERVER_RESPONSES_REQUEST_H

#include "engine/error.h"
#include "server/chat_template.h"
#include "server/json_text.h"
#include "server/openai_request.h"
#include "server/response_items.h"
#include "server/string_builder.h"

#include <stdbool.h>

struct server;

struct responses_request {
    struct response_items items; // the conversation, from its beginning to what is new
    struct string_builder echo;  // what the response repeats of the request: ,"instructions":…,…
    bool stores;
    bool is_background;
};

/* body was read by openai_request_read already. Fills request, which responses_request_finish frees whether this
 * succeeds or not, and a zeroed chat with messages and tools; on failure the chat is finished already. ERR_NOT_FOUND
 * with param previous_response_id or that of an item. */
bool responses_request_read(struct server *server, struct json_text body, const struct openai_request *openai,
                            struct responses_request *request, struct chat *chat, struct error *err);
void responses_request_finish(struct responses_request *request);

#endif
