/* /v1/responses: create, and what can be done with those that are stored. */
#include "server/endpoints.h"

#include "server/background.h"
#include "server/call_guarantee.h"
#include "server/chat_answer.h"
#include "server/chat_prompt.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/response_store.h"
#include "server/responses_request.h"
#include "server/responses_writer.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

/* What is unknown here is no model, and OpenAI answers 400 to a previous response that is unknown. */
static void respond_failure(struct server *server, struct http_request *http, const struct error *err) {
    struct openai_error error = openai_error_from(err);
    if (err->code == ERR_NOT_FOUND && strcmp(err->param, "model") != 0) {
        bool is_previous = strcmp(err->param, "previous_response_id") == 0;
        error.status = is_previous ? 400 : 404;
        error.code = is_previous ? "previous_response_not_found" : NULL;
    }
    openai_respond_error(server, http, &error);
}

/* --- create --- */

static bool read(struct server *server, const struct openai_source *source, struct openai_request *openai,
                 struct responses_request *request, struct chat_prompt *prompt, struct error *err) {
    struct chat chat = {0};
    struct json_text body;
    return openai_request_read(source, openai, err) && server_check_model(server, openai->model, err) &&
           json_text_check(source->body, source->length, &body, err) &&
           responses_request_read(server, body, openai, request, &chat, err) &&
           chat_prompt_render(server, &chat, openai, prompt, err) && call_guarantee_make(server, openai, err);
}

void responses_post(struct server *server, struct http_request *http) {
    const struct model_config *model = &engine_info(server->engine)->model;
    struct openai_source source = {.endpoint = OPENAI_RESPONSES,
                                   .defaults = model->sampling,
                                   .vocab = model->shape.vocab,
                                   .log = server->log,
                                   .is_strict = server->is_strict};
    struct openai_request openai = {0};
    struct responses_request request = {0};
    struct chat_prompt prompt = {0};
    struct error err;
    void *state = NULL;
    bool is_background = false;
    source.body = http_body(http, &source.length, &err);
    bool ok = source.body != NULL && read(server, &source, &openai, &request, &prompt, &err);
    if (ok) {
        is_background = request.is_background;
        state = responses_writer_state(&request);
        if (state == NULL) ok = fail(&err, ERR_MEMORY, "no memory for a response");
    }
    if (ok) {
        const struct generation_options options = {.writer = &responses_writer,
                                                   .state = state,
                                                   .request = &openai,
                                                   .prompts = &prompt.ids,
                                                   .n_prompts = 1,
                                                   .answer = chat_answer_options(server, &openai)};
        if (is_background)
            background_start(server->background, http, &options);
        else
            generation_start(server, http, &options);
    } else {
        respond_failure(server, http, &err);
    }
    openai_request_finish(&openai);
    responses_request_finish(&request);
    chat_prompt_finish(&prompt);
}

/* --- one that is stored --- */

/* The segment behind "/v1/responses/"; too long for an id: "". */
struct response_id {
    char text[128];
};

static struct response_id id_of(const struct http_request *http) {
    struct response_id id = {""};
    const char *begin = http_path(http) + strlen("/v1/responses/");
    size_t length = strcspn(begin, "/");
    if (length < sizeof id.text) memcpy(id.text, begin, length);
    return id;
}

void response_get(struct server *server, struct http_request *http) {
    const char *stream = http_query(http, "stream");
    struct string_builder body = {0};
    struct error err;
    bool ok = stream == NULL || strcmp(stream, "false") == 0 ||
              fail_param(&err, ERR_INVALID, "stream", "stream is not supported here; it must be false or left out");
    if (ok && response_store_get(server->responses, id_of(http).text, &body, &err))
        openai_respond_json(http, &body);
    else
        respond_failure(server, http, &err);
}

void response_delete(struct server *server, struct http_request *http) {
    struct response_id id = id_of(http);
    struct error err;
    background_cancel(server->background, id.text);
    if (!response_store_delete(server->responses, id.text, &err)) {
        respond_failure(server, http, &err);
        return;
    }
    struct string_builder body = {0};
    string_builder_append_text(&body, "{\"id\":");
    json_write_text(&body, id.text);
    string_builder_append_text(&body, ",\"object\":\"response\",\"deleted\":true}");
    openai_respond_json(http, &body);
}

/* One that had its end before stays as it is. */
void response_cancel_post(struct server *server, struct http_request *http) {
    struct response_id id = id_of(http);
    struct string_builder body = {0};
    struct json_text background;
    struct error err;
    background_cancel(server->background, id.text);
    bool ok = response_store_get(server->responses, id.text, &body, &err);
    if (ok && body.failure == ERR_NONE &&
        (!json_text_find((struct json_text){body.data, body.length}, "background", &background) ||
         background.data[0] != 't'))
        ok = fail(&err, ERR_INVALID, "Only a response that was made in the background can be cancelled.");
    if (ok) {
        openai_respond_json(http, &body);
    } else {
        string_builder_finish(&body);
        respond_failure(server, http, &err);
    }
}

/* --- the items that it was made from --- */

struct page {
    const char *after; // NULL: from the beginning
    int32_t limit;
    bool is_descending;
};

static bool read_page(const struct http_request *http, struct page *page, struct error *err) {
    const char *limit = http_query(http, "limit"), *order = http_query(http, "order");
    *page = (struct page){.after = http_query(http, "after"), .limit = 20, .is_descending = true};
    char *end = NULL;
    long given = limit != NULL ? strtol(limit, &end, 10) : page->limit;
    if (limit != NULL && (end == limit || *end != '\0' || given < 1 || given > 100))
        return fail_param(err, ERR_INVALID, "limit", "limit must be an integer from 1 to 100, not %.32s", limit);
    page->limit = (int32_t)given;
    if (order == NULL || strcmp(order, "desc") == 0) return true;
    page->is_descending = false;
    return strcmp(order, "asc") == 0 ||
           fail_param(err, ERR_INVALID, "order", "order must be asc or desc, not %.32s", order);
}

static const struct response_item *item_at(const struct response_items *items, const struct page *page, int32_t i) {
    return items->items[page->is_descending ? items->count - 1 - i : i];
}

/* Behind the last item of that id: a conversation may have one twice, and pages must come to an end. */
static int32_t begin_of(const struct response_items *items, const struct page *page) {
    if (page->after == NULL) return 0;
    int32_t begin = items->count;
    for (int32_t i = 0; i < items->count; ++i) {
        if (strcmp(item_at(items, page, i)->id, page->after) == 0) begin = i + 1;
    }
    return begin;
}

static void write_page(const struct response_items *items, const struct page *page, struct string_builder *out) {
    int32_t begin = begin_of(items, page), n_left = items->count - begin;
    int32_t n = n_left < page->limit ? n_left : page->limit;
    string_builder_append_text(out, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = begin; i < begin + n; ++i) {
        const struct response_item *item = item_at(items, page, i);
        if (i > begin) string_builder_append_text(out, ",");
        string_builder_append(out, item->json, item->length);
    }
    string_builder_append_text(out, "],\"first_id\":");
    json_write_text(out, n > 0 ? item_at(items, page, begin)->id : "");
    string_builder_append_text(out, ",\"last_id\":");
    json_write_text(out, n > 0 ? item_at(items, page, begin + n - 1)->id : "");
    json_write_format(out, ",\"has_more\":%s}", n_left > n ? "true" : "false");
}

void response_input_items_get(struct server *server, struct http_request *http) {
    struct response_items items = {0};
    struct page page;
    struct error err;
    if (read_page(http, &page, &err) && response_store_input(server->responses, id_of(http).text, &items, &err)) {
        struct string_builder body = {0};
        write_page(&items, &page, &body);
        openai_respond_json(http, &body);
    } else {
        respond_failure(server, http, &err);
    }
    response_items_finish(&items);
}
