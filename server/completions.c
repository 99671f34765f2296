#include "server/endpoints.h"

#include "server/choices_writer.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/openai_request.h"
#include "server/server.h"

#include <stdlib.h>

/* All is content, so that there is at most one part. */
static void write_whole(const struct answer *answer, struct string_builder *out) {
    static const struct string_builder none;
    const struct string_builder *text = answer->n_parts > 0 ? &answer->parts[0].text : &none;
    string_builder_append_text(out, "\"text\":");
    json_write_string(out, text->data, text->length);
}

static bool write_piece(const struct answer_delta *delta, struct string_builder *out) {
    if (delta->kind != PART_GROWS) return false;
    string_builder_append_text(out, "\"text\":");
    json_write_string(out, delta->text, delta->length);
    return true;
}

static const struct choices_format format = {
    .body_object = "text_completion",
    .chunk_object = "text_completion",
    .write_whole = write_whole,
    .write_piece = write_piece,
    .chunk_last = "\"text\":\"\"",
};

static const struct generation_writer writer = {
    .endpoint = "/v1/completions",
    .id_prefix = "cmpl-",
    .limit_name = "max_tokens",
    .max_new_tokens = 16, // as OpenAI and vLLM
    .logprobs = LOGPROBS_COMPLETIONS,
    .format = &format,
    CHOICES_WRITER,
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
    struct openai_source source = {.endpoint = OPENAI_COMPLETIONS,
                                   .defaults = model->sampling,
                                   .vocab = model->shape.vocab,
                                   .log = server->log,
                                   .is_strict = server->is_strict};
    struct openai_request request = {0};
    struct token_list lists[OPENAI_MAX_PROMPTS] = {0};
    struct error err;
    source.body = http_body(http, &source.length, &err);
    if (source.body != NULL && openai_request_read(&source, &request, &err) &&
        server_check_model(server, request.model, &err) && encode_all(server, &request, lists, &err)) {
        const struct generation_options options = {
            .writer = &writer, .request = &request, .prompts = lists, .n_prompts = request.n_prompts};
        generation_start(server, http, &options);
    } else {
        openai_respond_failure(server, http, &err);
    }
    openai_request_finish(&request);
    for (int32_t i = 0; i < OPENAI_MAX_PROMPTS; ++i) token_list_finish(&lists[i]);
}
