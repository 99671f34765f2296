/* The answer as one body or as events. */
#include "server/generation_internal.h"

#include "server/json_writer.h"
#include "server/openai.h"
#include "server/server.h"

#include <time.h>

static void generation_write_head(struct generation *generation, const char *object, struct string_builder *out) {
    json_write_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", generation->id, object,
                      (long long)time(NULL));
    json_write_text(out, generation->server->model_name);
    string_builder_append_text(out, ",\"system_fingerprint\":\"quern-" QUERN_VERSION "\",\"choices\":[");
}

static void write_usage(const struct generation *generation, struct string_builder *out) {
    int64_t n_prompt = 0, n_cached = 0, n_generated = 0, n_reasoning = 0;
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        const struct choice *choice = &generation->choices[i];
        bool first = i % generation->request.n_choices == 0; // choices of one prompt share it
        n_reasoning += choice->answer.reasoning_tokens.n_tokens;
        n_prompt += first ? choice->last.n_prompt : 0;
        n_cached += first ? choice->last.n_cached : 0;
        n_generated += choice->n_generated;
    }
    json_write_format(out,
                      "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                      "\"prompt_tokens_details\":{\"cached_tokens\":%lld}",
                      (long long)n_prompt, (long long)n_generated, (long long)(n_prompt + n_generated),
                      (long long)n_cached);
    if (generation->parses) {
        json_write_format(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%lld}", (long long)n_reasoning);
    }
    string_builder_append_text(out, "}");
}

/* ,"name":[…] */
static void write_array(const char *name, const struct string_builder *elements, struct string_builder *out) {
    json_write_format(out, ",\"%s\":[", name);
    string_builder_append(out, elements->data, elements->length);
    string_builder_append_text(out, "]");
    if (elements->failure != ERR_NONE) out->failure = elements->failure;
}

void generation_respond(struct generation *generation, struct http_request *http) {
    const struct generation_format *format = generation->format;
    struct string_builder body = {0};
    generation_write_head(generation, format->body_object, &body);
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        json_write_format(&body, "%s{\"index\":%d,", i > 0 ? "," : "", (int)i);
        if (generation->parses) {
            answer_write_message(&choice->answer, &body);
        } else {
            string_builder_append_text(&body, format->body_before);
            json_write_string(&body, choice->text.data, choice->text.length);
            string_builder_append_text(&body, format->body_after);
        }
        string_builder_append_text(&body, ",\"logprobs\":");
        logprobs_write(&choice->logprobs, format->logprobs, &body);
        json_write_format(&body, ",\"finish_reason\":\"%s\"", choice->finish_reason);
        if (generation->request.return_token_ids) {
            if (!format->prompt_ids_at_top) write_array("prompt_token_ids", &choice->prompt_ids, &body);
            write_array("token_ids", &choice->ids, &body);
        }
        if (generation->request.n_prompt_scores > 0 && !format->prompt_ids_at_top)
            write_array("prompt_logprobs", &choice->prompt_logprobs, &body);
        string_builder_append_text(&body, "}");
    }
    string_builder_append_text(&body, "]");
    if (generation->request.n_prompt_scores > 0 && format->prompt_ids_at_top)
        write_array("prompt_logprobs", &generation->choices[0].prompt_logprobs, &body);
    if (generation->request.return_token_ids && format->prompt_ids_at_top)
        write_array("prompt_token_ids", &generation->choices[0].prompt_ids, &body);
    string_builder_append_text(&body, ",");
    write_usage(generation, &body);
    string_builder_append_text(&body, "}");
    openai_respond_json(http, &body);
}

static void append(struct string_builder *out, const struct string_builder *what) {
    string_builder_append(out, what->data, what->length);
    if (what->failure != ERR_NONE) out->failure = what->failure;
}

/* The chunk before the first token carries nothing of the tokens; with the first of all goes the prompt. */
static void end_chunk(struct generation *generation, struct choice *choice, const char *finish_reason) {
    const struct generation_format *format = generation->format;
    const struct openai_request *request = &generation->request;
    struct string_builder *out = &generation->out;
    bool gives_prompt = request->return_token_ids && !choice->gave_prompt;
    string_builder_append_text(out, ",\"logprobs\":");
    logprobs_write(choice->begun ? &choice->logprobs : &(struct logprobs){0}, format->logprobs, out);
    if (finish_reason == NULL) {
        string_builder_append_text(out, ",\"finish_reason\":null");
    } else {
        json_write_format(out, ",\"finish_reason\":\"%s\"", finish_reason);
    }
    if (gives_prompt && !format->prompt_ids_at_top) write_array("prompt_token_ids", &choice->prompt_ids, out);
    if (request->return_token_ids && choice->begun) {
        write_array("token_ids", &choice->ids, out);
        choice->ids.length = 0;
    }
    string_builder_append_text(out, "}]");
    if (gives_prompt && format->prompt_ids_at_top) write_array("prompt_token_ids", &choice->prompt_ids, out);
    choice->gave_prompt = true;
    if (request->continuous_usage) {
        json_write_format(out, ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}",
                          (int)choice->n_prompt, (int)choice->n_generated,
                          (int)(choice->n_prompt + choice->n_generated));
    } else if (request->include_usage) {
        string_builder_append_text(out, ",\"usage\":null");
    }
    string_builder_append_text(out, "}\n\n");
}

/* A chunk of one choice that holds `content` as it stands. */
static void write_chunk(struct generation *generation, int32_t index, const char *content, const char *finish_reason) {
    append(&generation->out, &generation->choices[index].before);
    string_builder_append_text(&generation->out, content);
    end_chunk(generation, &generation->choices[index], finish_reason);
}

/* One chunk for each delta that a parsed choice has. */
static void write_deltas(struct generation *generation, int32_t index) {
    struct string_builder delta = {0};
    for (; answer_write_delta(&generation->choices[index].answer, &delta); delta.length = 0) {
        if (delta.failure == ERR_NONE) write_chunk(generation, index, delta.data, NULL);
    }
    if (delta.failure != ERR_NONE) generation->out.failure = delta.failure;
    string_builder_finish(&delta);
}

static void write_choice(struct generation *generation, int32_t index) {
    const struct generation_format *format = generation->format;
    struct choice *choice = &generation->choices[index];
    if (!choice->begun && format->chunk_first != NULL) write_chunk(generation, index, format->chunk_first, NULL);
    choice->begun = true;
    if (generation->parses) write_deltas(generation, index);
    if (choice->text.length > 0) {
        append(&generation->out, &choice->before);
        string_builder_append_text(&generation->out, format->chunk_before);
        json_write_string(&generation->out, choice->text.data, choice->text.length);
        string_builder_append_text(&generation->out, format->chunk_after);
        end_chunk(generation, choice, NULL);
        choice->text.length = 0;
    }
    if (choice->finish_reason == NULL) return;
    write_chunk(generation, index, format->chunk_last, choice->finish_reason);
    choice->ended = true;
}

static void write_error_event(struct generation *generation) {
    struct openai_error error = openai_error_from(&generation->error);
    string_builder_append_text(&generation->out, "data: ");
    openai_write_error(&generation->out, &error);
    string_builder_append_text(&generation->out, "\n\n");
    generation->said_done = true;
}

void generation_write_events(struct generation *generation) {
    if (generation->error.code != ERR_NONE) {
        write_error_event(generation);
        return;
    }
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        if (!generation->choices[i].ended) write_choice(generation, i);
    }
    if (generation->n_unfinished > 0) return;
    if (generation->request.include_usage) {
        append(&generation->out, &generation->head);
        string_builder_append_text(&generation->out, "],");
        write_usage(generation, &generation->out);
        string_builder_append_text(&generation->out, "}\n\n");
    }
    string_builder_append_text(&generation->out, "data: [DONE]\n\n");
    generation->said_done = true;
}

void generation_prepare_stream(struct generation *generation) {
    string_builder_append_text(&generation->head, "data: ");
    generation_write_head(generation, generation->format->chunk_object, &generation->head);
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct string_builder *before = &generation->choices[i].before;
        append(before, &generation->head);
        json_write_format(before, "{\"index\":%d,", (int)i);
    }
}
