#include "server/choices_writer.h"

#include "server/generation_state.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/server.h"

static const struct choices_format *format_of(const struct generation *generation) {
    return generation->writer->format;
}

static void write_head(const struct generation *generation, const char *object, struct string_builder *out) {
    json_write_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", generation->id, object,
                      (long long)generation->created_s);
    json_write_text(out, generation->server->model_name);
    string_builder_append_text(out, ",\"system_fingerprint\":\"quern-" QUERN_VERSION "\",\"choices\":[");
}

static void write_usage(const struct generation *generation, struct string_builder *out) {
    const struct generation_usage usage = generation_usage(generation);
    json_write_format(out,
                      "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                      "\"prompt_tokens_details\":{\"cached_tokens\":%lld}",
                      (long long)usage.n_prompt, (long long)usage.n_generated,
                      (long long)(usage.n_prompt + usage.n_generated), (long long)usage.n_cached);
    if (format_of(generation)->counts_reasoning) {
        json_write_format(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%lld}",
                          (long long)usage.n_reasoning);
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

static void write_end(const struct choice *choice, struct string_builder *out) {
    json_write_format(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", choice_end_word(choice->end));
    choice_write_stop_reason(choice, out);
}

void choices_write_body(struct generation *generation, struct string_builder *out) {
    const struct choices_format *format = format_of(generation);
    const struct openai_request *request = &generation->request;
    write_head(generation, format->body_object, out);
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        json_write_format(out, "%s{\"index\":%d,", i > 0 ? "," : "", (int)i);
        format->write_whole(&choice->answer, out);
        string_builder_append_text(out, ",\"logprobs\":");
        logprobs_write(&choice->logprobs, generation->writer->logprobs, out);
        write_end(choice, out);
        if (request->return_token_ids) {
            if (!format->prompt_ids_at_top) write_array("prompt_token_ids", &choice->prompt_ids, out);
            write_array("token_ids", &choice->ids, out);
        }
        if (request->n_prompt_scores > 0 && !format->prompt_ids_at_top)
            write_array("prompt_logprobs", &choice->prompt_logprobs, out);
        string_builder_append_text(out, "}");
    }
    string_builder_append_text(out, "]");
    if (request->n_prompt_scores > 0 && format->prompt_ids_at_top)
        write_array("prompt_logprobs", &generation->choices[0].prompt_logprobs, out);
    if (request->return_token_ids && format->prompt_ids_at_top)
        write_array("prompt_token_ids", &generation->choices[0].prompt_ids, out);
    string_builder_append_text(out, ",");
    write_usage(generation, out);
    string_builder_append_text(out, "}");
}

/* --- chunks --- */

enum chunk_kind { CHUNK_FIRST, CHUNK_NEXT, CHUNK_LAST };

static void append(struct string_builder *out, const struct string_builder *what) {
    string_builder_append(out, what->data, what->length);
    if (what->failure != ERR_NONE) out->failure = what->failure;
}

static void begin_choice(const struct generation *generation, const struct choice *choice, struct string_builder *out) {
    append(out, &generation->head);
    json_write_format(out, "{\"index\":%d,", (int)choice->index);
}

/* The first chunk of a choice carries nothing of its tokens; with the first that is sent goes the prompt. */
static void end_choice(struct generation *generation, struct choice *choice, enum chunk_kind kind,
                       struct string_builder *out) {
    const struct choices_format *format = format_of(generation);
    const struct openai_request *request = &generation->request;
    bool gives_prompt = request->return_token_ids && !choice->gave_prompt;
    string_builder_append_text(out, ",\"logprobs\":");
    logprobs_write(kind != CHUNK_FIRST ? &choice->logprobs : &(struct logprobs){0}, generation->writer->logprobs, out);
    if (kind == CHUNK_LAST) {
        write_end(choice, out);
    } else {
        string_builder_append_text(out, ",\"finish_reason\":null");
    }
    if (gives_prompt && !format->prompt_ids_at_top) write_array("prompt_token_ids", &choice->prompt_ids, out);
    if (request->return_token_ids && kind != CHUNK_FIRST) {
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

void choices_write_begin(struct generation *generation, struct string_builder *out) {
    const struct choices_format *format = format_of(generation);
    string_builder_append_text(&generation->head, "data: ");
    write_head(generation, format->chunk_object, &generation->head);
    for (int32_t i = 0; i < generation->n_choices && format->chunk_first != NULL; ++i) {
        begin_choice(generation, &generation->choices[i], out);
        string_builder_append_text(out, format->chunk_first);
        end_choice(generation, &generation->choices[i], CHUNK_FIRST, out);
    }
}

void choices_write_delta(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                         struct string_builder *out) {
    size_t before = out->length;
    begin_choice(generation, choice, out);
    if (format_of(generation)->write_piece(delta, out))
        end_choice(generation, choice, CHUNK_NEXT, out);
    else
        out->length = before;
}

void choices_write_choice_end(struct generation *generation, struct choice *choice, struct string_builder *out) {
    begin_choice(generation, choice, out);
    string_builder_append_text(out, format_of(generation)->chunk_last);
    end_choice(generation, choice, CHUNK_LAST, out);
}

void choices_write_end(struct generation *generation, struct string_builder *out) {
    if (generation->request.include_usage) {
        append(out, &generation->head);
        string_builder_append_text(out, "],");
        write_usage(generation, out);
        string_builder_append_text(out, "}\n\n");
    }
    string_builder_append_text(out, "data: [DONE]\n\n");
}

void choices_write_error(struct generation *generation, const struct openai_error *error, struct string_builder *out) {
    (void)generation;
    string_builder_append_text(out, "data: ");
    openai_write_error(out, error);
    string_builder_append_text(out, "\n\n");
}
