/* POST /v1/messages and /v1/messages/count_tokens: chats in Anthropic's form. */
#include "server/endpoints.h"

#include "server/anthropic.h"
#include "server/anthropic_chat.h"
#include "server/call_guarantee.h"
#include "server/chat_answer.h"
#include "server/chat_prompt.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"

/* The prompt is made of the conversation as the chats of /v1/chat/completions are. */
static bool make_prompt(struct server *server, struct openai_source *source, struct openai_request *request,
                        struct chat_prompt *prompt, struct error *err) {
    struct string_builder chat = {0};
    struct json_text body;
    bool ok = json_text_check(source->body, source->length, &body, err) &&
              anthropic_write_chat(body, &chat, &request->continues_final, err);
    source->body = chat.data;
    source->length = chat.length;
    ok = ok && chat_prompt_make(server, source, request, prompt, err);
    string_builder_finish(&chat);
    return ok;
}

static bool read_request(struct server *server, struct http_request *http, struct openai_request *request,
                         struct chat_prompt *prompt, struct error *err) {
    const struct model_config *model = &engine_info(server->engine)->model;
    struct openai_source source = {.endpoint = OPENAI_MESSAGES,
                                   .defaults = model->sampling,
                                   .vocab = model->shape.vocab,
                                   .log = server->log,
                                   .is_strict = server->is_strict};
    source.body = http_body(http, &source.length, err);
    if (source.body == NULL || !openai_request_read(&source, request, err) ||
        !server_check_model(server, request->model, err))
        return false;
    bool is_asked = request->thinking != CHAT_THINKING_DEFAULT;
    if (!is_asked && server->family == CHAT_HYBRID) request->thinking = CHAT_THINKING_OFF;
    return make_prompt(server, &source, request, prompt, err);
}

static bool check_limits(const struct openai_request *request, struct error *err) {
    if (request->max_new_tokens == 0)
        return fail_param(err, ERR_INVALID, "max_tokens",
                          "max_tokens is missing; it must be an integer from 1 to 2147483647");
    if (request->n_thinking <= request->max_new_tokens) return true;
    return fail_param(err, ERR_INVALID, "thinking.budget_tokens",
                      "thinking.budget_tokens is %d; it must be below the %d of max_tokens",
                      (int)request->n_thinking - 1, (int)request->max_new_tokens);
}

/* As the API has it, an answer that could be longer than the context is not refused but ends there. */
static bool cut_to_context(const struct server *server, struct openai_request *request, size_t n_prompt) {
    size_t context = (size_t)engine_info(server->engine)->max_model_len;
    bool is_cut = n_prompt < context && n_prompt + (size_t)request->max_new_tokens > context;
    if (is_cut) request->max_new_tokens = (int32_t)(context - n_prompt);
    return is_cut;
}

void messages_post(struct server *server, struct http_request *http) {
    struct openai_request request = {0};
    struct chat_prompt prompt = {0};
    struct error err;
    void *state = NULL;
    bool ok = read_request(server, http, &request, &prompt, &err) && check_limits(&request, &err) &&
              call_guarantee_make(server, &request, &err);
    if (ok) {
        state = anthropic_writer_state(cut_to_context(server, &request, prompt.ids.count));
        ok = state != NULL || fail(&err, ERR_MEMORY, "no memory for a message");
    }
    if (ok) {
        const struct generation_options options = {.writer = &anthropic_writer,
                                                   .state = state,
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

void messages_count_post(struct server *server, struct http_request *http) {
    struct openai_request request = {0};
    struct chat_prompt prompt = {0};
    struct error err;
    if (read_request(server, http, &request, &prompt, &err)) {
        struct string_builder body = {0};
        json_write_format(&body, "{\"input_tokens\":%zu}", prompt.ids.count);
        openai_respond_json(http, &body);
    } else {
        openai_respond_failure(server, http, &err);
    }
    openai_request_finish(&request);
    chat_prompt_finish(&prompt);
}
