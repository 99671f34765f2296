#include "server/anthropic.h"

#include "server/generation_state.h"
#include "server/json_text.h"
#include "server/json_writer.h"
#include "server/server.h"

#include <stdlib.h>

/* --- errors --- */

static const char *error_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status < 500 ? "invalid_request_error" : "api_error";
    }
}

void anthropic_write_error(struct string_builder *out, const struct openai_error *error) {
    json_write_format(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", error_type(error->status));
    openai_write_message(out, error->message);
    string_builder_append_text(out, "}");
    if (error->request_id != NULL) {
        string_builder_append_text(out, ",\"request_id\":");
        openai_write_message(out, error->request_id);
    }
    string_builder_append_text(out, "}");
}

/* --- a message --- */

struct state {
    bool is_cut_to_context; // max_tokens is more than it leaves
    int32_t n_blocks;       // that have ended
};

void *anthropic_writer_state(bool is_cut_to_context) {
    struct state *state = calloc(1, sizeof *state);
    if (state != NULL) state->is_cut_to_context = is_cut_to_context;
    return state;
}

static void write_member(struct string_builder *out, const char *name, const struct string_builder *text,
                         size_t length) {
    json_write_format(out, "\"%s\":", name);
    json_write_string(out, text->data, length);
}

static void write_head(const struct generation *generation, struct string_builder *out) {
    json_write_format(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", generation->id);
    json_write_text(out, generation->server->model_name);
    string_builder_append_text(out, ",\"content\":[");
}

/* The stop string that ended the answer, NULL when that was something else. */
static const struct stop_string *stop_of(const struct choice *choice) {
    bool stopped = choice->end == CHOICE_STOPPED && choice->detokenizer.stopped;
    return stopped ? &choice->detokenizer.stops->strings[choice->detokenizer.stop] : NULL;
}

static void write_stop(const struct generation *generation, struct string_builder *out) {
    const struct choice *choice = &generation->choices[0];
    const struct state *state = generation->state;
    const struct stop_string *stop = stop_of(choice);
    const char *reason = choice->end == CHOICE_CALLED ? "tool_use"
                         : stop != NULL               ? "stop_sequence"
                         : choice->end != CHOICE_CUT  ? "end_turn"
                         : state->is_cut_to_context   ? "model_context_window_exceeded"
                                                      : "max_tokens";
    json_write_format(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (stop != NULL)
        json_write_string(out, stop->data, stop->length);
    else
        string_builder_append_text(out, "null");
}

/* Blocks are kept for whoever begins alike, not for who asks: nothing counts as written to the cache. */
static void write_usage(const struct generation *generation, struct string_builder *out) {
    const struct generation_usage usage = generation_usage(generation);
    int64_t n_prompt = generation->choices[0].n_prompt; // known from the start, what is cached only at the end
    json_write_format(out,
                      "\"usage\":{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,"
                      "\"cache_read_input_tokens\":%lld,\"output_tokens\":%lld,"
                      "\"output_tokens_details\":{\"thinking_tokens\":%lld}}",
                      (long long)(n_prompt - usage.n_cached), (long long)usage.n_cached, (long long)usage.n_generated,
                      (long long)usage.n_reasoning);
}

/* What max_tokens has cut inside its arguments is told as a call without any. */
static void write_input(const struct answer_part *part, struct string_builder *out) {
    struct json_text value;
    struct error err;
    bool is_whole = part->text.data != NULL && json_text_check(part->text.data, part->text.length, &value, &err) &&
                    json_text_kind(value) == JSON_OBJECT;
    if (is_whole)
        string_builder_append(out, value.data, value.length);
    else
        string_builder_append_text(out, "{}");
}

/* Whole, or as it begins. */
static void write_block(const struct answer_part *part, bool is_whole, struct string_builder *out) {
    size_t length = is_whole ? part->text.length : 0;
    switch (part->kind) {
    case PART_REASONING:
        string_builder_append_text(out, "{\"type\":\"thinking\",");
        write_member(out, "thinking", &part->text, length);
        string_builder_append_text(out, ",\"signature\":\"\"}");
        break;
    case PART_CONTENT:
        string_builder_append_text(out, "{\"type\":\"text\",");
        write_member(out, "text", &part->text, length);
        string_builder_append_text(out, "}");
        break;
    case PART_CALL:
        json_write_format(out, "{\"type\":\"tool_use\",\"id\":\"toolu_%s\",", part->id);
        write_member(out, "name", &part->name, part->name.length);
        string_builder_append_text(out, ",\"input\":");
        if (is_whole)
            write_input(part, out);
        else
            string_builder_append_text(out, "{}");
        string_builder_append_text(out, "}");
        break;
    }
}

static void write_body(struct generation *generation, struct string_builder *out) {
    const struct answer *answer = &generation->choices[0].answer;
    write_head(generation, out);
    for (int32_t i = 0; i < answer->n_parts; ++i) {
        if (i > 0) string_builder_append_text(out, ",");
        write_block(&answer->parts[i], true, out);
    }
    string_builder_append_text(out, "],");
    write_stop(generation, out);
    string_builder_append_text(out, ",");
    write_usage(generation, out);
    string_builder_append_text(out, "}");
}

/* --- events --- */

/* Up to what the event holds beside its type. */
static void begin_event(struct string_builder *out, const char *type) {
    json_write_format(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void end_event(struct string_builder *out) {
    string_builder_append_text(out, "}\n\n");
}

static void write_begin(struct generation *generation, struct string_builder *out) {
    begin_event(out, "message_start");
    string_builder_append_text(out, ",\"message\":");
    write_head(generation, out);
    string_builder_append_text(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
    write_usage(generation, out);
    string_builder_append_text(out, "}");
    end_event(out);
    begin_event(out, "ping");
    end_event(out);
}

static void write_growth(const struct state *state, const struct answer_delta *delta, struct string_builder *out) {
    static const struct {
        const char *type, *member;
    } forms[] = {[PART_REASONING] = {"thinking_delta", "thinking"},
                 [PART_CONTENT] = {"text_delta", "text"},
                 [PART_CALL] = {"input_json_delta", "partial_json"}};
    begin_event(out, "content_block_delta");
    json_write_format(out, ",\"index\":%d,\"delta\":{\"type\":\"%s\",\"%s\":", (int)state->n_blocks,
                      forms[delta->part->kind].type, forms[delta->part->kind].member);
    json_write_string(out, delta->text, delta->length);
    string_builder_append_text(out, "}");
    end_event(out);
}

static void write_block_end(struct state *state, const struct answer_part *part, struct string_builder *out) {
    if (part->kind == PART_REASONING) {
        begin_event(out, "content_block_delta");
        json_write_format(out, ",\"index\":%d,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"\"}",
                          (int)state->n_blocks);
        end_event(out);
    }
    begin_event(out, "content_block_stop");
    json_write_format(out, ",\"index\":%d", (int)state->n_blocks++);
    end_event(out);
}

static void write_delta(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                        struct string_builder *out) {
    (void)choice;
    struct state *state = generation->state;
    switch (delta->kind) {
    case PART_BEGINS:
        begin_event(out, "content_block_start");
        json_write_format(out, ",\"index\":%d,\"content_block\":", (int)state->n_blocks);
        write_block(delta->part, false, out);
        end_event(out);
        break;
    case PART_GROWS:
        write_growth(state, delta, out);
        break;
    case PART_ENDS:
        write_block_end(state, delta->part, out);
        break;
    }
}

static void write_choice_end(struct generation *generation, struct choice *choice, struct string_builder *out) {
    (void)generation, (void)choice, (void)out; // there is one: write_end has it
}

static void write_end(struct generation *generation, struct string_builder *out) {
    begin_event(out, "message_delta");
    string_builder_append_text(out, ",\"delta\":{");
    write_stop(generation, out);
    string_builder_append_text(out, "},");
    write_usage(generation, out);
    end_event(out);
    begin_event(out, "message_stop");
    end_event(out);
}

static void write_error_event(struct generation *generation, const struct openai_error *error,
                              struct string_builder *out) {
    (void)generation;
    string_builder_append_text(out, "event: error\ndata: ");
    anthropic_write_error(out, error);
    string_builder_append_text(out, "\n\n");
}

const struct generation_writer anthropic_writer = {
    .endpoint = "/v1/messages",
    .id_prefix = "msg_",
    .limit_name = "max_tokens",
    .max_new_tokens = INT32_MAX,
    .logprobs = LOGPROBS_CHAT,
    .write_body = write_body,
    .write_begin = write_begin,
    .write_delta = write_delta,
    .write_choice_end = write_choice_end,
    .write_end = write_end,
    .write_error = write_error_event,
    .finish = free,
};
