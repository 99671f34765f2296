#include "server/responses_writer.h"

#include "server/generation_state.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/response_store.h"
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct state {
    struct response_items items; // the conversation; output is added as it is completed
    int32_t n_input;
    struct string_builder echo; // what the object repeats of the request
    bool stores;
    bool is_background;
    struct string_builder output;   // items that are complete, as JSON
    struct string_builder logprobs; // of the content at hand
    int32_t n_output;
    int64_t n_events;
};

void *responses_writer_state(struct responses_request *request) {
    struct state *state = calloc(1, sizeof *state);
    if (state == NULL) return NULL;
    state->items = request->items;
    state->n_input = request->items.count;
    state->echo = request->echo;
    state->stores = request->stores;
    state->is_background = request->is_background;
    *request = (struct responses_request){0};
    return state;
}

static void finish(void *user) {
    struct state *state = user;
    if (state == NULL) return;
    response_items_finish(&state->items);
    string_builder_finish(&state->echo);
    string_builder_finish(&state->output);
    string_builder_finish(&state->logprobs);
    free(state);
}

static void append(struct string_builder *out, const struct string_builder *what) {
    string_builder_append(out, what->data, what->length);
    if (what->failure != ERR_NONE) out->failure = what->failure;
}

/* --- the object --- */

static void write_usage(const struct generation *generation, struct string_builder *out) {
    const struct generation_usage usage = generation_usage(generation);
    json_write_format(
        out,
        "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":0},"
        "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},"
        "\"total_tokens\":%lld}",
        (long long)usage.n_prompt, (long long)usage.n_cached, (long long)usage.n_generated,
        (long long)usage.n_reasoning, (long long)(usage.n_prompt + usage.n_generated));
}

static const char *status_of(enum choice_end end) {
    return end == CHOICE_RUNS ? "in_progress" : end == CHOICE_CUT ? "incomplete" : "completed";
}

static void write_object(struct generation *generation, const char *status, const struct openai_error *error,
                         struct string_builder *out) {
    const struct state *state = generation->state;
    enum choice_end end = generation->choices[0].end;
    bool is_over = error == NULL && end != CHOICE_RUNS;
    json_write_format(out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\"",
                      generation->id, (long long)generation->created_s, status);
    if (is_over && end != CHOICE_CUT)
        json_write_format(out, ",\"completed_at\":%lld", (long long)time(NULL));
    else
        string_builder_append_text(out, ",\"completed_at\":null");
    string_builder_append_text(out, ",\"error\":");
    if (error != NULL) {
        string_builder_append_text(out, "{\"code\":\"server_error\",\"message\":");
        json_write_text(out, error->message);
        string_builder_append_text(out, "}");
    } else {
        string_builder_append_text(out, "null");
    }
    string_builder_append_text(out, is_over && end == CHOICE_CUT
                                        ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                                        : ",\"incomplete_details\":null");
    string_builder_append_text(out, ",\"output\":[");
    append(out, &state->output);
    string_builder_append_text(out, "],\"usage\":");
    if (is_over)
        write_usage(generation, out);
    else
        string_builder_append_text(out, "null");
    append(out, &state->echo);
    string_builder_append_text(out, "}");
}

/* --- items --- */

static const char *const prefixes[] = {[PART_REASONING] = "rs_", [PART_CONTENT] = "msg_", [PART_CALL] = "fc_"};

static void write_text(const struct state *state, const struct answer_part *part, bool is_whole,
                       struct string_builder *out) {
    bool is_content = part->kind == PART_CONTENT;
    string_builder_append_text(out, is_content ? "{\"type\":\"output_text\",\"text\":"
                                               : "{\"type\":\"reasoning_text\",\"text\":");
    json_write_string(out, part->text.data, is_whole ? part->text.length : 0);
    if (is_content) {
        string_builder_append_text(out, ",\"annotations\":[],\"logprobs\":[");
        if (is_whole) append(out, &state->logprobs);
        string_builder_append_text(out, "]");
    }
    string_builder_append_text(out, "}");
}

enum item_status { ITEM_IN_PROGRESS, ITEM_COMPLETED, ITEM_INCOMPLETE };

/* One in progress holds nothing yet. */
static void write_item(const struct state *state, const struct answer_part *part, enum item_status status,
                       struct string_builder *out) {
    static const char *const names[] = {"in_progress", "completed", "incomplete"};
    static const char *const types[] = {
        [PART_REASONING] = "reasoning", [PART_CONTENT] = "message", [PART_CALL] = "function_call"};
    bool is_whole = status != ITEM_IN_PROGRESS;
    json_write_format(out, "{\"id\":\"%s%s\",\"type\":\"%s\",\"status\":\"%s\"", prefixes[part->kind], part->id,
                      types[part->kind], names[status]);
    if (part->kind == PART_CALL) {
        json_write_format(out, ",\"call_id\":\"call_%s\",\"name\":", part->id);
        json_write_string(out, part->name.data, part->name.length);
        string_builder_append_text(out, ",\"arguments\":");
        json_write_string(out, part->text.data, is_whole ? part->text.length : 0);
        string_builder_append_text(out, "}");
        return;
    }
    string_builder_append_text(out, part->kind == PART_CONTENT ? ",\"role\":\"assistant\"" : ",\"summary\":[]");
    string_builder_append_text(out, ",\"content\":[");
    if (is_whole) write_text(state, part, true, out);
    string_builder_append_text(out, part->kind == PART_CONTENT ? "]}" : "],\"encrypted_content\":null}");
}

/* Only the last part can be cut. */
static enum item_status status_of_item(const struct choice *choice, const struct answer_part *part) {
    const struct answer *answer = &choice->answer;
    bool is_last = part == &answer->parts[answer->n_parts - 1];
    return is_last && choice->end == CHOICE_CUT ? ITEM_INCOMPLETE : ITEM_COMPLETED;
}

/* Into the output and the conversation; a copy for an event. */
static void complete_item(struct state *state, const struct choice *choice, const struct answer_part *part,
                          struct string_builder *out) {
    char id[SERVER_ID_SIZE + 8];
    struct string_builder json = {0};
    struct error err;
    snprintf(id, sizeof id, "%s%s", prefixes[part->kind], part->id);
    write_item(state, part, status_of_item(choice, part), &json);
    if (state->n_output++ > 0) string_builder_append_text(&state->output, ",");
    append(&state->output, &json);
    append(out, &json);
    if (!response_items_add(&state->items, id, &json, &err)) out->failure = err.code;
    if (part->kind == PART_CONTENT) state->logprobs.length = 0;
}

/* A message without text, where the answer is nothing but reasoning. */
static bool needs_message(const struct choice *choice) {
    bool needs = choice->end == CHOICE_STOPPED;
    for (int32_t i = 0; i < choice->answer.n_parts; ++i) needs &= choice->answer.parts[i].kind == PART_REASONING;
    return needs;
}

static struct answer_part empty_message(struct generation *generation) {
    struct answer_part part = {.kind = PART_CONTENT};
    server_next_id(generation->server, "", part.id);
    return part;
}

/* --- the store --- */

/* With the first n_items of the conversation. body is taken. */
static bool put(struct generation *generation, struct string_builder *body, int32_t n_items, bool is_under_way,
                struct error *err) {
    const struct state *state = generation->state;
    struct response_items shared = {0};
    const struct stored_response response = {
        .id = generation->id, .body = body, .items = &shared, .n_input = state->n_input, .is_under_way = is_under_way};
    bool ok = string_builder_check(body, "a response", err);
    for (int32_t i = 0; ok && i < n_items; ++i) ok = response_items_share(&shared, state->items.items[i], err);
    if (ok) return response_store_put(generation->server->responses, &response, err);
    string_builder_finish(body);
    response_items_finish(&shared);
    return false;
}

bool responses_writer_store(struct generation *generation, const char *status, const struct openai_error *error,
                            struct error *err) {
    const struct state *state = generation->state;
    struct string_builder body = {0};
    write_object(generation, status, error, &body);
    bool is_under_way = strcmp(status, "queued") == 0 || strcmp(status, "in_progress") == 0;
    return put(generation, &body, state->n_input, is_under_way, err);
}

/* Whoever waits for a response is to learn why there is none. */
static bool store_failure(struct generation *generation, const struct error *why, struct error *err) {
    struct state *state = generation->state;
    const struct openai_error error = openai_error_from(why);
    state->output.length = 0;
    return responses_writer_store(generation, "failed", &error, err);
}

/* At its end. */
static void store(struct generation *generation, const struct string_builder *body) {
    const struct state *state = generation->state;
    struct string_builder copy = {0};
    struct error why, err;
    if (!state->stores) return;
    append(&copy, body);
    if (put(generation, &copy, state->items.count, false, &why)) return;
    log_message(generation->server->log, LOG_WARN, "%s is not stored: %s", generation->id, why.message);
    if (state->is_background && !store_failure(generation, &why, &err))
        log_message(generation->server->log, LOG_WARN, "%s is lost: %s", generation->id, err.message);
}

/* --- one body --- */

static void take_logprobs(struct state *state, struct choice *choice, struct string_builder *out) {
    if (out != NULL) append(out, &choice->logprobs.content);
    if (state->logprobs.length > 0 && choice->logprobs.content.length > 0)
        string_builder_append_text(&state->logprobs, ",");
    append(&state->logprobs, &choice->logprobs.content);
    choice->logprobs.content.length = 0;
}

static void write_body(struct generation *generation, struct string_builder *out) {
    struct state *state = generation->state;
    struct choice *choice = &generation->choices[0];
    struct string_builder ignored = {0};
    take_logprobs(state, choice, NULL); // of several messages the first has all
    for (int32_t i = 0; i < choice->answer.n_parts; ++i)
        complete_item(state, choice, &choice->answer.parts[i], &ignored);
    if (needs_message(choice)) {
        struct answer_part message = empty_message(generation);
        complete_item(state, choice, &message, &ignored);
    }
    write_object(generation, status_of(choice->end), NULL, out);
    if (ignored.failure != ERR_NONE) out->failure = ignored.failure;
    string_builder_finish(&ignored);
    store(generation, out);
}

/* --- events --- */

static void begin_event(struct generation *generation, const char *type, struct string_builder *out) {
    struct state *state = generation->state;
    json_write_format(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%lld", type, type,
                      (long long)state->n_events++);
}

static void end_event(struct string_builder *out) {
    string_builder_append_text(out, "}\n\n");
}

/* Of the item at hand. */
static void begin_item_event(struct generation *generation, const char *type, const struct answer_part *part,
                             struct string_builder *out) {
    const struct state *state = generation->state;
    begin_event(generation, type, out);
    json_write_format(out, ",\"item_id\":\"%s%s\",\"output_index\":%d", prefixes[part->kind], part->id,
                      (int)state->n_output);
    if (part->kind != PART_CALL) string_builder_append_text(out, ",\"content_index\":0");
}

static void write_object_event(struct generation *generation, const char *type, const char *status,
                               struct string_builder *out) {
    begin_event(generation, type, out);
    string_builder_append_text(out, ",\"response\":");
    write_object(generation, status, NULL, out);
    end_event(out);
}

static void write_begin(struct generation *generation, struct string_builder *out) {
    write_object_event(generation, "response.created", "in_progress", out);
    write_object_event(generation, "response.in_progress", "in_progress", out);
}

static void begin_part(struct generation *generation, const struct answer_part *part, struct string_builder *out) {
    const struct state *state = generation->state;
    begin_event(generation, "response.output_item.added", out);
    json_write_format(out, ",\"output_index\":%d,\"item\":", (int)state->n_output);
    write_item(state, part, ITEM_IN_PROGRESS, out);
    end_event(out);
    if (part->kind == PART_CALL) return;
    begin_item_event(generation, "response.content_part.added", part, out);
    string_builder_append_text(out, ",\"part\":");
    write_text(state, part, false, out);
    end_event(out);
}

static void grow_part(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                      struct string_builder *out) {
    static const char *const types[] = {[PART_REASONING] = "response.reasoning_text.delta",
                                        [PART_CONTENT] = "response.output_text.delta",
                                        [PART_CALL] = "response.function_call_arguments.delta"};
    begin_item_event(generation, types[delta->part->kind], delta->part, out);
    string_builder_append_text(out, ",\"delta\":");
    json_write_string(out, delta->text, delta->length);
    if (delta->part->kind == PART_CONTENT) {
        string_builder_append_text(out, ",\"logprobs\":[");
        take_logprobs(generation->state, choice, out);
        string_builder_append_text(out, "]");
    }
    end_event(out);
}

static void end_text(struct generation *generation, struct choice *choice, const struct answer_part *part,
                     struct string_builder *out) {
    struct state *state = generation->state;
    bool is_content = part->kind == PART_CONTENT;
    begin_item_event(generation, is_content ? "response.output_text.done" : "response.reasoning_text.done", part, out);
    string_builder_append_text(out, ",\"text\":");
    json_write_string(out, part->text.data, part->text.length);
    if (is_content) {
        take_logprobs(state, choice, NULL);
        string_builder_append_text(out, ",\"logprobs\":[");
        append(out, &state->logprobs);
        string_builder_append_text(out, "]");
    }
    end_event(out);
    begin_item_event(generation, "response.content_part.done", part, out);
    string_builder_append_text(out, ",\"part\":");
    write_text(state, part, true, out);
    end_event(out);
}

static void end_call(struct generation *generation, const struct answer_part *part, struct string_builder *out) {
    begin_item_event(generation, "response.function_call_arguments.done", part, out);
    string_builder_append_text(out, ",\"name\":");
    json_write_string(out, part->name.data, part->name.length);
    string_builder_append_text(out, ",\"arguments\":");
    json_write_string(out, part->text.data, part->text.length);
    end_event(out);
}

static void end_part(struct generation *generation, struct choice *choice, const struct answer_part *part,
                     struct string_builder *out) {
    struct state *state = generation->state;
    if (part->kind == PART_CALL)
        end_call(generation, part, out);
    else
        end_text(generation, choice, part, out);
    begin_event(generation, "response.output_item.done", out);
    json_write_format(out, ",\"output_index\":%d,\"item\":", (int)state->n_output);
    complete_item(state, choice, part, out);
    end_event(out);
}

static void write_delta(struct generation *generation, struct choice *choice, const struct answer_delta *delta,
                        struct string_builder *out) {
    switch (delta->kind) {
    case PART_BEGINS:
        begin_part(generation, delta->part, out);
        break;
    case PART_GROWS:
        grow_part(generation, choice, delta, out);
        break;
    case PART_ENDS:
        end_part(generation, choice, delta->part, out);
        break;
    }
}

static void write_choice_end(struct generation *generation, struct choice *choice, struct string_builder *out) {
    if (!needs_message(choice)) return;
    struct answer_part message = empty_message(generation);
    begin_part(generation, &message, out);
    end_part(generation, choice, &message, out);
}

static void write_end(struct generation *generation, struct string_builder *out) {
    const char *status = status_of(generation->choices[0].end);
    struct string_builder body = {0};
    write_object(generation, status, NULL, &body);
    begin_event(generation, generation->choices[0].end == CHOICE_CUT ? "response.incomplete" : "response.completed",
                out);
    string_builder_append_text(out, ",\"response\":");
    append(out, &body);
    end_event(out);
    store(generation, &body);
    string_builder_finish(&body);
}

static void write_error(struct generation *generation, const struct openai_error *error, struct string_builder *out) {
    begin_event(generation, "error", out);
    json_write_format(
        out, ",\"code\":\"%s\",\"param\":null,\"message\":", error->code != NULL ? error->code : "server_error");
    json_write_text(out, error->message);
    end_event(out);
    begin_event(generation, "response.failed", out);
    string_builder_append_text(out, ",\"response\":");
    write_object(generation, "failed", error, out);
    end_event(out);
}

const struct generation_writer responses_writer = {
    .endpoint = "/v1/responses",
    .id_prefix = "resp_",
    .limit_name = "max_output_tokens",
    .max_new_tokens = INT32_MAX,
    .logprobs = LOGPROBS_CHAT,
    .scores_content = true,
    .keeps_text = true,
    .write_body = write_body,
    .write_begin = write_begin,
    .write_delta = write_delta,
    .write_choice_end = write_choice_end,
    .write_end = write_end,
    .write_error = write_error,
    .finish = finish,
};
