#include "server/generation.h"

#include "engine/engine.h"
#include "server/allowed_tokens.h"
#include "server/detokenizer.h"
#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/server.h"
#include "server/stream.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct choice {
    struct detokenizer detokenizer;
    struct stream_delivery delivery;
    struct string_builder text;   // stream: what is not sent yet; otherwise all of it; parsed: nothing
    struct answer answer;         // parsed
    struct string_builder before; // stream: of every chunk of this choice, up to what it holds
    struct logprobs logprobs;     // stream: what is not sent yet; otherwise all of them
    struct string_builder ids;    // return_token_ids: the same of the tokens' ids, "1,2,3"
    struct string_builder prompt_ids;
    struct string_builder prompt_logprobs; // elements of the array
    int32_t n_prompt;
    int32_t n_prompt_scored;   // tokens of the prompt that were taken, where it is scored: the first has no scores
    int32_t n_generated;       // tokens up to the end or the stop string
    const char *finish_reason; // NULL while it runs
    bool begun;                // its first chunk was written
    bool gave_prompt;          // return_token_ids: a chunk had those of the prompt
    bool ended;                // its last chunk was written
    struct engine_event last;  // valid with finish_reason
};

struct generation {
    struct server *server;                  // borrowed
    const struct generation_format *format; // static
    struct openai_request request;          // owned
    struct stream *stream;                  // owned reference
    bool parses;                            // text goes through the answers of the choices
    enum answer_thinking thinking;          // how they may begin
    char id[SERVER_ID_SIZE];
    struct string_builder head; // of every event, up to the choices
    struct string_builder out;  // stream: bytes not read yet, from n_read on
    size_t n_read;
    bool said_done; // [DONE] or an error was written: out is all that is left
    struct error error;
    int32_t n_unfinished;
    int32_t n_choices;
    struct choice choices[]; // [n_choices]
};

/* --- tokens to text --- */

static bool is_end_token(const struct generation *generation, int32_t token) {
    const struct model_config *model = &engine_info(generation->server->engine)->model;
    const struct token_list *stops = &generation->request.stop_tokens;
    for (size_t i = 0; i < stops->count && !generation->request.stops.included; ++i) {
        if (stops->ids[i] == token) return true;
    }
    if (generation->request.ignore_eos) return false;
    for (int32_t i = 0; i < model->n_eos_ids; ++i) {
        if (model->eos_ids[i] == token) return true;
    }
    return false;
}

static const struct stop_strings no_stops;

/* Stop strings count from the token after the first min_tokens on. */
static void arm_stops(const struct generation *generation, struct choice *choice) {
    bool armed = choice->n_generated >= generation->request.min_new_tokens;
    choice->detokenizer.stops = armed ? &generation->request.stops : &no_stops;
}

static void write_id(struct string_builder *ids, int32_t id) {
    json_write_format(ids, "%s%d", ids->length > 0 ? "," : "", (int)id);
}

/* Where a failure goes: the first one counts, later ones go nowhere. */
static struct error *error_slot(struct generation *generation) {
    return generation->error.code == ERR_NONE ? &generation->error : NULL;
}

/* It has all it wanted, though the model might go on. */
static bool is_complete(const struct choice *choice) {
    return choice->detokenizer.stopped || choice->answer.parser.is_done;
}

/* Token number index of what was delivered; true when it is the last that counts. */
static bool take_token(struct generation *generation, struct choice *choice, size_t index) {
    int32_t token = choice->delivery.tokens[index];
    arm_stops(generation, choice);
    ++choice->n_generated;
    if (generation->request.return_token_ids) write_id(&choice->ids, token);
    if (generation->request.n_scores > 0)
        logprobs_add(&choice->logprobs, generation->format->logprobs, generation->server->tokenizer, token,
                     &choice->delivery.scores[index]);
    if (is_end_token(generation, token)) return false;
    detokenizer_push(&choice->detokenizer, token, &choice->text);
    if (generation->parses) {
        answer_count_token(&choice->answer, token);
        answer_push(&choice->answer, &choice->text);
    }
    return is_complete(choice);
}

static void finish_choice(struct generation *generation, struct choice *choice, const struct engine_event *last) {
    detokenizer_flush(&choice->detokenizer, &choice->text);
    if (generation->parses) {
        answer_push(&choice->answer, &choice->text);
        answer_end(&choice->answer);
    }
    bool stopped = is_complete(choice);
    choice->last = *last;
    --generation->n_unfinished;
    choice->finish_reason = !stopped && last->reason != FINISH_STOP ? "length"
                            : choice->answer.n_calls > 0            ? "tool_calls"
                                                                    : "stop";
    if (generation->request.echo_only) choice->finish_reason = "length"; // what came is not told
    if (stopped) {
        if (last->reason == FINISH_CANCELLED) atomic_fetch_add(&generation->server->n_stopped_by_string, 1);
        return;
    }
    choice->n_generated = generation->request.echo_only ? 0 : last->n_generated;
    struct error *error = error_slot(generation);
    if (last->reason == FINISH_ERROR && error != NULL) *error = last->error;
    if (last->reason == FINISH_CANCELLED) fail(error, ERR_UNAVAILABLE, "the server is stopping");
}

static int32_t prompt_scores(const struct openai_request *request) {
    int32_t of_echo = request->echo ? request->n_scores : 0;
    return of_echo > request->n_prompt_scores ? of_echo : request->n_prompt_scores;
}

/* Where both were asked for, one may want fewer of the likeliest. */
static struct token_scores cut_scores(const struct token_scores *scores, int32_t n_scores) {
    struct token_scores cut = *scores;
    if (cut.n_top > n_scores - 1) cut.n_top = n_scores - 1;
    return cut;
}

/* scores NULL: the first token. */
static void take_prompt_token(struct generation *generation, struct choice *choice, int32_t token,
                              const struct token_scores *scores) {
    const struct openai_request *request = &generation->request;
    const struct tokenizer *tokenizer = generation->server->tokenizer;
    struct token_scores cut;
    ++choice->n_prompt_scored;
    if (request->n_prompt_scores > 0) {
        if (scores != NULL) cut = cut_scores(scores, request->n_prompt_scores);
        logprobs_add_prompt(&choice->prompt_logprobs, tokenizer, token, scores != NULL ? &cut : NULL);
    }
    if (request->echo && request->n_scores > 0) {
        if (scores != NULL) cut = cut_scores(scores, request->n_scores);
        logprobs_add(&choice->logprobs, generation->format->logprobs, tokenizer, token, scores != NULL ? &cut : NULL);
    }
}

static void take_choice(struct generation *generation, int32_t index) {
    struct choice *choice = &generation->choices[index];
    struct stream_delivery *delivery = &choice->delivery;
    stream_take(generation->stream, index, delivery);
    for (size_t i = 0; i < delivery->count && !is_complete(choice); ++i) {
        if (choice->n_prompt_scored > 0 && choice->n_prompt_scored < choice->n_prompt) {
            take_prompt_token(generation, choice, delivery->tokens[i], &delivery->scores[i]);
        } else if (!generation->request.echo_only && take_token(generation, choice, i)) {
            stream_cancel(generation->stream, index, generation->server->engine);
        }
    }
    if (delivery->lost) {
        fail(error_slot(generation), ERR_MEMORY, "memory ran out while tokens waited for the client");
    }
    string_builder_check(&choice->text, "the answer", error_slot(generation));
    if (delivery->finished) finish_choice(generation, choice, &delivery->last);
    if (generation->parses) answer_check(&choice->answer, error_slot(generation));
}

static void take_all(struct generation *generation, struct http_request *http) {
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        if (generation->choices[i].finish_reason == NULL) take_choice(generation, i);
    }
    if (http_closing(http) && generation->n_unfinished > 0) {
        fail(error_slot(generation), ERR_UNAVAILABLE, "the server is stopping");
    }
}

/* --- answers --- */

static void write_head(struct generation *generation, const char *object, struct string_builder *out) {
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
        n_reasoning += choice->answer.n_reasoning_tokens;
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

static void respond_body(struct generation *generation, struct http_request *http) {
    const struct generation_format *format = generation->format;
    struct string_builder body = {0};
    write_head(generation, format->body_object, &body);
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

/* Turns what came into events. */
static void write_events(struct generation *generation) {
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

/* --- the deferred request --- */

static void advance(void *state, struct http_request *http) {
    struct generation *generation = state;
    take_all(generation, http);
    if (generation->error.code != ERR_NONE) {
        openai_respond_failure(generation->server, http, &generation->error);
        return;
    }
    if (!generation->request.stream) {
        if (generation->n_unfinished == 0) respond_body(generation, http);
        return;
    }
    bool begun = generation->n_unfinished < generation->n_choices || http_is_quiet(http);
    for (int32_t i = 0; i < generation->n_choices; ++i) begun |= generation->choices[i].n_generated > 0;
    if (!begun) return;
    http_respond_stream(
        http, &(struct http_response){.status = 200,
                                      .content_type = "text/event-stream; charset=utf-8",
                                      .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
    write_events(generation);
}

static ssize_t read_out(void *state, struct http_request *http, char *buffer, size_t size) {
    struct generation *generation = state;
    struct string_builder *out = &generation->out;
    if (generation->n_read == out->length && !generation->said_done) {
        out->length = generation->n_read = 0;
        take_all(generation, http);
        write_events(generation);
        if (out->length == 0 && http_is_quiet(http)) string_builder_append_text(out, ": keep-alive\n\n");
    }
    size_t n = out->length - generation->n_read;
    if (n == 0) return generation->said_done || out->failure != ERR_NONE ? HTTP_STREAM_END : HTTP_STREAM_WAIT;
    n = n < size ? n : size;
    memcpy(buffer, out->data + generation->n_read, n);
    generation->n_read += n;
    return (ssize_t)n;
}

/* How the request ended, for the log. */
static const char *outcome(const struct generation *generation, bool complete) {
    if (generation->error.code == ERR_UNAVAILABLE) return "stopping";
    if (generation->error.code != ERR_NONE) return "error";
    if (!complete) return "client_gone";
    return generation->choices[generation->n_choices - 1].finish_reason;
}

static void destroy(struct generation *generation, const char *finish) {
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        if (generation->stream != NULL) stream_cancel(generation->stream, i, generation->server->engine);
        detokenizer_finish(&choice->detokenizer);
        answer_finish(&choice->answer);
        string_builder_finish(&choice->text);
        string_builder_finish(&choice->before);
        logprobs_finish(&choice->logprobs);
        string_builder_finish(&choice->ids);
        string_builder_finish(&choice->prompt_ids);
        string_builder_finish(&choice->prompt_logprobs);
        free(choice->delivery.tokens);
        free(choice->delivery.scores);
    }
    if (generation->stream != NULL) stream_detach(generation->stream, finish);
    string_builder_finish(&generation->head);
    string_builder_finish(&generation->out);
    openai_request_finish(&generation->request);
    free(generation);
}

static void finish(void *state, bool complete) {
    destroy(state, outcome(state, complete));
}

static const struct http_deferred deferred = {.advance = advance, .read = read_out, .finish = finish};

/* --- the start --- */

/* Echo: the answer begins with the prompt, as it was given. */
static void begin_with_prompt(struct generation *generation, const struct token_list *prompts) {
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        const struct openai_prompt *given = &generation->request.prompts[i / generation->request.n_choices];
        if (given->text.data != NULL) {
            string_builder_append(&choice->text, given->text.data, given->text.length);
            continue;
        }
        struct detokenizer plain = {.tokenizer = generation->server->tokenizer, .stops = &no_stops};
        const struct token_list *ids = &prompts[i / generation->request.n_choices];
        for (size_t t = 0; t < ids->count; ++t) detokenizer_push(&plain, ids->ids[t], &choice->text);
        detokenizer_flush(&plain, &choice->text);
        detokenizer_finish(&plain);
    }
}

/* What every event and every chunk begins with. */
static void prepare_stream(struct generation *generation) {
    string_builder_append_text(&generation->head, "data: ");
    write_head(generation, generation->format->chunk_object, &generation->head);
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct string_builder *before = &generation->choices[i].before;
        append(before, &generation->head);
        json_write_format(before, "{\"index\":%d,", (int)i);
    }
}

static struct generation *create(struct server *server, struct http_request *http,
                                 const struct generation_options *options, struct error *err) {
    int32_t n_choices = options->n_prompts * options->request->n_choices;
    size_t choices_bytes = (size_t)n_choices * sizeof(struct choice);
    struct generation *generation = calloc(1, sizeof *generation + choices_bytes);
    if (generation == NULL) {
        fail(err, ERR_MEMORY, "no memory for a request with %d choices", (int)n_choices);
        return NULL;
    }
    generation->server = server;
    generation->format = options->format;
    generation->request = *options->request;
    *options->request = (struct openai_request){0};
    generation->n_choices = generation->n_unfinished = n_choices;
    generation->parses = options->answer != NULL;
    generation->thinking = options->answer != NULL ? options->answer->form.thinking : ANSWER_NEVER_THINKS;
    server_next_id(server, options->format->id_prefix, generation->id);
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        choice->detokenizer = (struct detokenizer){.tokenizer = server->tokenizer, .stops = &generation->request.stops};
        if (generation->parses) answer_init(&choice->answer, options->answer, server);
        const struct token_list *prompt = &options->prompts[i / generation->request.n_choices];
        choice->n_prompt = (int32_t)prompt->count;
        for (int32_t t = 0; generation->request.return_token_ids && t < choice->n_prompt; ++t)
            write_id(&choice->prompt_ids, prompt->ids[t]);
        if (prompt_scores(&generation->request) > 0) take_prompt_token(generation, choice, prompt->ids[0], NULL);
    }
    if (generation->request.stream) prepare_stream(generation);
    if (generation->request.echo) begin_with_prompt(generation, options->prompts);
    bool ends_early = options->answer != NULL && options->answer->form.one_call;
    const struct stream_options stream = {
        .request = http,
        .wake_on_token = generation->request.stream || generation->request.stops.count > 0 || ends_early,
        .n_choices = generation->n_choices,
        .id = generation->id,
        .endpoint = options->format->endpoint,
        .log = server->log,
    };
    generation->stream = stream_create(&stream, err);
    if (generation->stream != NULL) return generation;
    destroy(generation, NULL);
    return NULL;
}

static bool submit_all(struct generation *generation, const struct token_list *prompts, struct error *err) {
    struct server *server = generation->server;
    const struct openai_request *given = &generation->request;
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct engine_request request = {
            .prompt = prompts[i / given->n_choices].ids,
            .n_prompt = (int32_t)prompts[i / given->n_choices].count,
            .max_new_tokens = given->echo_only            ? 1 // the engine always makes one
                              : given->max_new_tokens > 0 ? given->max_new_tokens
                                                          : generation->format->max_new_tokens,
            .sampling = given->sampling,
            .ignore_eos = given->ignore_eos,
            .n_scores = given->n_scores,
            .n_prompt_scores = prompt_scores(given),
            .adjustments = given->adjustments,
            .min_new_tokens = given->min_new_tokens,
            .stop_tokens = given->stop_tokens.ids,
            .n_stop_tokens = (int32_t)given->stop_tokens.count,
            .priority = given->priority,
            .timeout_ms = given->timeout_ms,
        };
        // As vLLM: the first choice of a prompt has the given seed, the next ones those that follow.
        request.sampling.seed += (uint64_t)(i % given->n_choices);
        if (!given->has_seed) request.sampling.seed = server_next_seed(server);
        if (given->allowed_tokens.count > 0) {
            request.constraint = allowed_tokens_create(&given->allowed_tokens, err);
            if (request.constraint == NULL) return false;
        }
        if (given->grammar.field != NULL) {
            request.constraint = answer_grammar_constrain(&given->grammar, server, generation->thinking, err);
            if (request.constraint == NULL) return false;
        }
        if (stream_submit(generation->stream, i, server->engine, &request, err)) continue;
        if (request.constraint != NULL) request.constraint->destroy(request.constraint);
        return false;
    }
    return true;
}

/* The limit of the context, with the numbers; answers and returns false when a prompt does not fit. */
static bool check_lengths(struct server *server, struct http_request *http, const struct generation_options *options) {
    int32_t limit = engine_info(server->engine)->max_model_len;
    int32_t wanted = options->request->max_new_tokens;
    for (int32_t i = 0; i < options->n_prompts; ++i) {
        size_t n_prompt = options->prompts[i].count;
        struct error err = {.code = ERR_NONE};
        if (n_prompt == 0) {
            fail_param(&err, ERR_INVALID, "prompt", "the prompt is empty; it must have at least one token");
            openai_respond_failure(server, http, &err);
            return false;
        }
        if (n_prompt >= (size_t)limit) {
            fail(&err, ERR_INVALID,
                 "the prompt has %zu tokens, but the context of this model holds %d, and at least one is needed for "
                 "the answer",
                 n_prompt, (int)limit);
        } else if (n_prompt + (size_t)wanted > (size_t)limit) {
            fail_param(&err, ERR_INVALID, "max_tokens",
                       "%zu prompt tokens and %d new tokens (max_tokens) make %zu, but the context of this model "
                       "holds %d",
                       n_prompt, (int)wanted, n_prompt + (size_t)wanted, (int)limit);
        }
        if (err.code == ERR_NONE) continue;
        struct openai_error error = openai_error_from(&err);
        error.code = "context_length_exceeded";
        openai_respond_error(server, http, &error);
        return false;
    }
    return true;
}

void generation_start(struct server *server, struct http_request *http, const struct generation_options *options) {
    if (!check_lengths(server, http, options)) return;
    struct error err;
    struct generation *generation = create(server, http, options, &err);
    if (generation == NULL) {
        openai_respond_failure(server, http, &err);
        return;
    }
    // Deferred last: until then no one but us can end it.
    if (!submit_all(generation, options->prompts, &err) || !http_defer(http, &deferred, generation, &err)) {
        openai_respond_failure(server, http, &err);
        destroy(generation, NULL);
    }
}
