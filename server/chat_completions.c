#include "server/endpoints.h"

#include "server/chat_messages.h"
#include "server/chat_template.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"

#include <string.h>

static const struct generation_format format = {
    .endpoint = "/v1/chat/completions",
    .id_prefix = "chatcmpl-",
    .max_new_tokens = INT32_MAX,
    .body_object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .body_before = "\"message\":{\"role\":\"assistant\",\"content\":",
    .body_after = ",\"refusal\":null}",
    .chunk_before = "\"delta\":{\"content\":",
    .chunk_after = "}",
    .chunk_first = "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
    .chunk_last = "\"delta\":{}",
    .logprobs = LOGPROBS_CHAT,
    .prompt_ids_at_top = true,
};

/* An open turn: the model goes on with its content. */
static void open_final_turn(struct string_builder *prompt) {
    static const char closed[] = "<|im_end|>\n";
    size_t length = sizeof closed - 1;
    if (prompt->length < length || memcmp(prompt->data + prompt->length - length, closed, length) != 0) return;
    prompt->length -= length;
}

/* The body's messages to token ids. */
static bool encode(struct server *server, const struct openai_source *source, const struct openai_request *request,
                   struct token_list *ids, struct error *err) {
    struct chat chat = {0};
    if (!chat_messages_read(source->body, source->length, &chat, err)) return false;
    chat.family = server->family;
    chat.thinking = request->thinking;
    if (request->no_generation_prompt || request->continues_final) chat.add_generation_prompt = false;
    struct string_builder prompt = {0};
    bool ok = chat_template_render(&chat, &prompt, err);
    if (ok && request->continues_final) open_final_turn(&prompt);
    ok = ok && tokenizer_encode(server->tokenizer, prompt.data, prompt.length, ids, err);
    string_builder_finish(&prompt);
    chat_finish(&chat);
    return ok;
}

void chat_completions_post(struct server *server, struct http_request *http) {
    const struct model_config *model = &engine_info(server->engine)->model;
    struct openai_source source = {
        .endpoint = OPENAI_CHAT, .defaults = model->sampling, .vocab = model->shape.vocab, .log = server->log};
    struct openai_request request = {0};
    struct token_list ids = {0};
    struct error err;
    source.body = http_body(http, &source.length, &err);
    if (source.body != NULL && openai_request_read(&source, &request, &err) &&
        server_check_model(server, request.model, &err) && encode(server, &source, &request, &ids, &err)) {
        const struct generation_options options = {
            .format = &format, .request = &request, .prompts = &ids, .n_prompts = 1};
        generation_start(server, http, &options);
    } else {
        openai_respond_failure(server, http, &err);
    }
    openai_request_finish(&request);
    token_list_finish(&ids);
}
