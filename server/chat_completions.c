#include "server/endpoints.h"

#include "server/call_guarantee.h"
#include "server/chat_answer.h"
#include "server/chat_prompt.h"
#include "server/choices_writer.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"

static const struct choices_format format = {
    .body_object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .write_whole = chat_write_message,
    .write_piece = chat_write_delta,
    .chunk_first = "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
    .chunk_last = "\"delta\":{}",
    .counts_reasoning = true,
    .prompt_ids_at_top = true,
};

static const struct generation_writer writer = {
    .endpoint = "/v1/chat/completions",
    .id_prefix = "chatcmpl-",
    .limit_name = "max_tokens",
    .max_new_tokens = INT32_MAX,
    .logprobs = LOGPROBS_CHAT,
    .format = &format,
    CHOICES_WRITER,
};

void chat_completions_post(struct server *server, struct http_request *http) {
    const struct model_config *model = &engine_info(server->engine)->model;
    struct openai_source source = {.endpoint = OPENAI_CHAT,
                                   .defaults = model->sampling,
                                   .vocab = model->shape.vocab,
                                   .log = server->log,
                                   .is_strict = server->is_strict};
    struct openai_request request = {0};
    struct chat_prompt prompt = {0};
    struct error err;
    source.body = http_body(http, &source.length, &err);
    if (source.body != NULL && openai_request_read(&source, &request, &err) &&
        server_check_model(server, request.model, &err) && chat_prompt_make(server, &source, &request, &prompt, &err) &&
        call_guarantee_make(server, &request, &err)) {
        const struct generation_options options = {.writer = &writer,
                                                   .request = &request,
                                                   .prompts = &prompt.ids,
                                                   .n_prompts = 1,
                                                   .answer = chat_answer_options(server, &request)};
        generation_start(server, http, &options);
    } else {
        openai_respond_failure(server, http, &err);
    }
    openai_request_finish(&request);
    chat_prompt_finish(&prompt);
}
