/* POST /v1/embeddings: each input is one request to the engine, which pools its states; the answer comes when all have
 * theirs. Of many inputs some are with the engine at a time, so that its queue stays open to others. */
#include "server/endpoints.h"

#include "engine/engine.h"
#include "server/embedding_vector.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"
#include "server/stream.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SUBMITTED = 128 }; // of one request, that are with the engine

struct embeddings {
    struct server *server;         // borrowed
    struct openai_request request; // owned
    struct token_list *inputs;     // [request.n_prompts], owned, each until it is submitted
    struct stream *stream;         // owned reference
    char id[SERVER_ID_SIZE];
    struct error error; // the first failure
    int32_t n_unfinished;
    int32_t n_submitted;                 // from the first on
    struct stream_delivery deliveries[]; // [request.n_prompts]
};

/* --- the answer --- */

static void write_embedding(struct embeddings *embeddings, int32_t index, struct string_builder *body) {
    const struct openai_embedding *how = &embeddings->request.embedding;
    float *vector = embeddings->deliveries[index].pooled;
    int32_t n = engine_info(embeddings->server->engine)->model.shape.hidden;
    if (how->n_dimensions > 0) n = how->n_dimensions;
    if (!how->as_it_is) embedding_normalise(vector, n);
    json_write_format(body, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", index > 0 ? "," : "",
                      (int)index);
    (how->base64 ? embedding_write_base64 : embedding_write_numbers)(body, vector, n);
    string_builder_append_text(body, "}");
}

static void respond(struct embeddings *embeddings, struct http_request *http) {
    struct string_builder body = {0};
    int64_t n_tokens = 0;
    json_write_format(&body, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"model\":", embeddings->id,
                      (long long)time(NULL));
    json_write_text(&body, embeddings->server->model_name);
    string_builder_append_text(&body, ",\"data\":[");
    for (int32_t i = 0; i < embeddings->request.n_prompts; ++i) {
        n_tokens += embeddings->deliveries[i].last.n_prompt;
        write_embedding(embeddings, i, &body);
    }
    json_write_format(&body, "],\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", (long long)n_tokens,
                      (long long)n_tokens);
    openai_respond_json(http, &body);
}

/* --- what comes --- */

static void take(struct embeddings *embeddings, int32_t index) {
    struct stream_delivery *delivery = &embeddings->deliveries[index];
    struct error *error = embeddings->error.code == ERR_NONE ? &embeddings->error : NULL;
    if (delivery->finished) return;
    stream_take(embeddings->stream, index, delivery);
    if (!delivery->finished) return;
    --embeddings->n_unfinished;
    if (delivery->last.reason == FINISH_ERROR && error != NULL) *error = delivery->last.error;
    if (delivery->last.reason == FINISH_CANCELLED) fail(error, ERR_UNAVAILABLE, "the server is stopping");
}

static void destroy(struct embeddings *embeddings, const char *finish) {
    for (int32_t i = 0; i < embeddings->request.n_prompts; ++i) {
        if (embeddings->stream != NULL) stream_cancel(embeddings->stream, i, embeddings->server->engine);
        free(embeddings->deliveries[i].pooled);
        if (embeddings->inputs != NULL) token_list_finish(&embeddings->inputs[i]);
    }
    free(embeddings->inputs);
    if (embeddings->stream != NULL) stream_detach(embeddings->stream, finish);
    openai_request_finish(&embeddings->request);
    free(embeddings);
}

static void finish(void *state, bool complete) {
    const struct embeddings *embeddings = state;
    const char *how = embeddings->error.code == ERR_UNAVAILABLE ? "stopping"
                      : embeddings->error.code != ERR_NONE      ? "error"
                      : complete                                ? "stop"
                                                                : "client_gone";
    destroy(state, how);
}

/* --- the inputs --- */

/* Of a prompt that is too long its end is kept, as vLLM does, where the request says so. */
static bool cut(struct server *server, const struct openai_embedding *how, int32_t index, struct token_list *ids,
                struct error *err) {
    size_t context = (size_t)engine_info(server->engine)->max_model_len;
    size_t limit = how->truncation > 0 ? (size_t)how->truncation : context;
    if (how->truncation != 0 && ids->count > limit) {
        memmove(ids->ids, ids->ids + (ids->count - limit), limit * sizeof *ids->ids);
        ids->count = limit;
    }
    if (ids->count == 0) {
        return fail_param(err, ERR_INVALID, "input", "input %d is empty; it must have at least one token", (int)index);
    }
    if (ids->count <= context) return true;
    return fail_param(err, ERR_INVALID, "input",
                      "input %d has %zu tokens, but the context of this model holds %zu; truncate_prompt_tokens keeps "
                      "the last ones",
                      (int)index, ids->count, context);
}

static bool check(const struct server *server, const struct openai_request *request, struct error *err) {
    const struct engine_info *info = engine_info(server->engine);
    const struct openai_embedding *how = &request->embedding;
    if (how->n_dimensions > info->model.shape.hidden) {
        return fail_param(err, ERR_INVALID, "dimensions", "dimensions is %d; allowed are 1 to %d",
                          (int)how->n_dimensions, (int)info->model.shape.hidden);
    }
    if (how->truncation > info->max_model_len) {
        return fail_param(err, ERR_INVALID, "truncate_prompt_tokens",
                          "truncate_prompt_tokens is %d; allowed are -1 (what the context holds) and 1 to %d",
                          (int)how->truncation, (int)info->max_model_len);
    }
    return server_check_model(server, request->model, err);
}

/* A text, and the token that an embedding model wants behind it; ids stay what they are. */
static bool encode(const struct embeddings *embeddings, const struct openai_prompt *prompt, struct token_list *ids,
                   struct error *err) {
    const struct tokenizer *tokenizer = embeddings->server->tokenizer;
    if (prompt->text.data == NULL) return token_list_append(ids, prompt->ids.ids, prompt->ids.count, err);
    if (!tokenizer_encode(tokenizer, prompt->text.data, prompt->text.length, ids, err)) return false;
    int32_t end = tokenizer_end_id(tokenizer);
    return end < 0 || embeddings->request.embedding.no_end || token_list_append(ids, &end, 1, err);
}

/* All are read before the first is computed. */
static bool read_inputs(struct embeddings *embeddings, struct error *err) {
    const struct openai_request *request = &embeddings->request;
    embeddings->inputs = calloc((size_t)request->n_prompts, sizeof *embeddings->inputs);
    if (embeddings->inputs == NULL) return fail(err, ERR_MEMORY, "no memory for %d inputs", (int)request->n_prompts);
    for (int32_t i = 0; i < request->n_prompts; ++i) {
        struct token_list *ids = &embeddings->inputs[i];
        if (!encode(embeddings, &request->prompts[i], ids, err) ||
            !cut(embeddings->server, &request->embedding, i, ids, err))
            return false;
    }
    return true;
}

static bool submit(struct embeddings *embeddings, int32_t index, struct error *err) {
    struct server *server = embeddings->server;
    const struct openai_request *request = &embeddings->request;
    struct token_list *ids = &embeddings->inputs[index];
    enum engine_pooling pooling = request->embedding.pooling;
    struct engine_request of_engine = {.prompt = ids->ids,
                                       .n_prompt = (int32_t)ids->count,
                                       .priority = request->priority,
                                       .pooling = pooling != POOLING_NONE ? pooling : server->pooling};
    if (!stream_submit(embeddings->stream, index, server->engine, &of_engine, err)) return false;
    token_list_finish(ids);
    return true;
}

/* As many as may be with the engine. Where its queue is full, the others come as those that it has finish; it has to
 * have one. */
static bool submit_more(struct embeddings *embeddings, struct error *err) {
    int32_t n_finished = embeddings->request.n_prompts - embeddings->n_unfinished;
    while (embeddings->n_submitted < embeddings->request.n_prompts &&
           embeddings->n_submitted - n_finished < MAX_SUBMITTED) {
        struct error why;
        if (!submit(embeddings, embeddings->n_submitted, &why)) {
            if (why.code == ERR_BUSY && embeddings->n_submitted > n_finished) return true;
            *err = why;
            return false;
        }
        ++embeddings->n_submitted;
    }
    return true;
}

/* --- the deferred request --- */

static void advance(void *state, struct http_request *http) {
    struct embeddings *embeddings = state;
    for (int32_t i = 0; i < embeddings->n_submitted; ++i) take(embeddings, i);
    if (http_closing(http) && embeddings->n_unfinished > 0 && embeddings->error.code == ERR_NONE)
        fail(&embeddings->error, ERR_UNAVAILABLE, "the server is stopping");
    if (embeddings->error.code == ERR_NONE) submit_more(embeddings, &embeddings->error);
    if (embeddings->error.code != ERR_NONE) {
        openai_respond_failure(embeddings->server, http, &embeddings->error);
    } else if (embeddings->n_unfinished == 0) {
        respond(embeddings, http);
    }
}

static const struct http_deferred deferred = {.advance = advance, .finish = finish};

/* Deferred last: until then no one but us can end it. */
static bool start(struct embeddings *embeddings, struct http_request *http, struct error *err) {
    const struct stream_options options = {.wake = http_wake_user,
                                           .user = http,
                                           .wake_on_token = embeddings->request.n_prompts > 1,
                                           .n_choices = embeddings->request.n_prompts,
                                           .id = embeddings->id,
                                           .endpoint = "/v1/embeddings",
                                           .log = embeddings->server->log};
    embeddings->stream = stream_create(&options, err);
    return embeddings->stream != NULL && read_inputs(embeddings, err) && submit_more(embeddings, err) &&
           http_defer(http, &deferred, embeddings, err);
}

void embeddings_post(struct server *server, struct http_request *http) {
    struct openai_source source = {.endpoint = OPENAI_EMBEDDINGS,
                                   .vocab = engine_info(server->engine)->model.shape.vocab,
                                   .log = server->log,
                                   .is_strict = server->is_strict};
    struct openai_request request = {0};
    struct embeddings *embeddings = NULL;
    struct error err;
    source.body = http_body(http, &source.length, &err);
    if (source.body != NULL && openai_request_read(&source, &request, &err) && check(server, &request, &err)) {
        size_t deliveries_bytes = (size_t)request.n_prompts * sizeof(struct stream_delivery);
        embeddings = calloc(1, sizeof *embeddings + deliveries_bytes);
        if (embeddings == NULL) fail(&err, ERR_MEMORY, "no memory for %d embeddings", (int)request.n_prompts);
    }
    if (embeddings == NULL) {
        openai_respond_failure(server, http, &err);
        openai_request_finish(&request);
        return;
    }
    embeddings->server = server;
    embeddings->request = request;
    embeddings->n_unfinished = request.n_prompts;
    server_next_id(server, "embd-", embeddings->id);
    if (start(embeddings, http, &err)) return;
    openai_respond_failure(server, http, &err);
    destroy(embeddings, NULL);
}
