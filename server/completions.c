#include "server/endpoints.h"

#include "server/generation.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"

#include <stdlib.h>

static const struct generation_format format = {
    .endpoint = "/v1/completions",
    .id_prefix = "cmpl-",
    .max_new_tokens = 16, // as OpenAI and vLLM
    .body_object = "text_completion",
    .chunk_object = "text_completion",
    .body_before = "\"text\":",
    .body_after = "",
    .chunk_before = "\"text\":",
    .chunk_after = "",
    .chunk_first = NULL,
    .chunk_last = "\"text\":\"\"",
    .logprobs = LOGPROBS_COMPLETIONS,
};

static bool encode(struct server *server, const struct openai_prompt *prompt, struct token_list *ids,
                   struct error *err) {
    if (prompt->text.data == NULL) return token_list_append(ids, prompt->ids.ids, prompt->ids.count, err);
    return tokenizer_encode(server->tokenizer, prompt->text.data, prompt->text.length, ids, err);
}

static bool encode_all(struct server *server, const struct openai_request *request, struct token_list *lists,
                       struct error *err) {
    for (int32_t i = 0; i < request->n_prompts; ++i) {
        if (!encode(server, &request->prompts[i], &lists[i], err)) return false;
    }
    return true;
}

void completions_post(struct server *server, struct http_request *http) {
    const struct model_config *model = &engine_info(server->engine)->model;
    struct openai_source source = {
        .endpoint = OPENAI_COMPLETIONS, .defaults = model->sampling, .vocab = model->shape.vocab, .log = server->log};
    struct openai_request request = {0};
    struct token_list lists[OPENAI_MAX_PROMPTS] = {0};
    struct error err;
    source.body = http_body(http, &source.length, &err);
    if (source.body != NULL && openai_request_read(&source, &request, &err) &&
        server_check_model(server, request.model, &err) && encode_all(server, &request, lists, &err)) {
        const struct generation_options options = {
            .format = &format, .request = &request, .prompts = lists, .n_prompts = request.n_prompts};
        generation_start(server, http, &options);
    } else {
        openai_respond_failure(server, http, &err);
    }
    openai_request_finish(&request);
    for (int32_t i = 0; i < OPENAI_MAX_PROMPTS; ++i) token_list_finish(&lists[i]);
}
