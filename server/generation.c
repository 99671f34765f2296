#include "server/generation.h"

#include "engine/engine.h"
#include "server/allowed_tokens.h"
#include "server/generation_state.h"
#include "server/openai.h"
#include "server/server.h"
#include "server/thinking_budget.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- the deferred request --- */

/* What a choice has to tell, and its end. */
static void write_choice(struct generation *generation, struct choice *choice) {
    const struct generation_writer *writer = generation->writer;
    struct answer_delta delta;
    while (answer_next(&choice->answer, &delta)) writer->write_delta(generation, choice, &delta, &generation->out);
    if (choice->end == CHOICE_RUNS) return;
    writer->write_choice_end(generation, choice, &generation->out);
    choice->is_told = true;
}

/* Turns what came into events in out. */
static void write_events(struct generation *generation) {
    const struct generation_writer *writer = generation->writer;
    if (generation->error.code != ERR_NONE) {
        const struct openai_error error = openai_error_from(&generation->error);
        writer->write_error(generation, &error, &generation->out);
        generation->is_over = true;
        return;
    }
    if (!generation->is_begun) writer->write_begin(generation, &generation->out);
    generation->is_begun = true;
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        if (!generation->choices[i].is_told) write_choice(generation, &generation->choices[i]);
    }
    if (generation->n_unfinished > 0) return;
    writer->write_end(generation, &generation->out);
    generation->is_over = true;
}

/* The whole answer, once all choices have ended. */
static void respond(struct generation *generation, struct http_request *http) {
    struct string_builder body = {0};
    generation->writer->write_body(generation, &body);
    openai_respond_json(http, &body);
}

static void advance(void *state, struct http_request *http) {
    struct generation *generation = state;
    generation_take_tokens(generation, http_closing(http));
    if (generation->error.code != ERR_NONE) {
        openai_respond_failure(generation->server, http, &generation->error);
        return;
    }
    if (!generation->request.stream) {
        if (generation->n_unfinished == 0) respond(generation, http);
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
    if (generation->n_read == out->length && !generation->is_over) {
        out->length = generation->n_read = 0;
        generation_take_tokens(generation, http_closing(http));
        write_events(generation);
        if (out->length == 0 && http_is_quiet(http)) string_builder_append_text(out, ": keep-alive\n\n");
    }
    size_t n = out->length - generation->n_read;
    if (n == 0) return generation->is_over || out->failure != ERR_NONE ? HTTP_STREAM_END : HTTP_STREAM_WAIT;
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
    return choice_end_word(generation->choices[generation->n_choices - 1].end);
}

static void finish_state(const struct generation_writer *writer, void *state) {
    if (writer->finish != NULL) writer->finish(state);
}

void generation_destroy(struct generation *generation, const char *finish) {
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        if (generation->stream != NULL) stream_cancel(generation->stream, i, generation->server->engine);
        detokenizer_finish(&choice->detokenizer);
        answer_finish(&choice->answer);
        string_builder_finish(&choice->text);
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
    finish_state(generation->writer, generation->state);
    free(generation);
}

static void finish(void *state, bool complete) {
    generation_destroy(state, outcome(state, complete));
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
            answer_push(&choice->answer, &choice->text);
            continue;
        }
        static const struct stop_strings no_stops;
        struct detokenizer plain = {.tokenizer = generation->server->tokenizer, .stops = &no_stops};
        const struct token_list *ids = &prompts[i / generation->request.n_choices];
        for (size_t t = 0; t < ids->count; ++t) detokenizer_push(&plain, ids->ids[t], &choice->text);
        detokenizer_flush(&plain, &choice->text);
        detokenizer_finish(&plain);
        answer_push(&choice->answer, &choice->text);
    }
}

static struct generation *create(struct server *server, const struct generation_waiting *waiting,
                                 const struct generation_options *options, struct error *err) {
    int32_t n_choices = options->n_prompts * options->request->n_choices;
    size_t choices_bytes = (size_t)n_choices * sizeof(struct choice);
    struct generation *generation = calloc(1, sizeof *generation + choices_bytes);
    if (generation == NULL) {
        fail(err, ERR_MEMORY, "no memory for a request with %d choices", (int)n_choices);
        return NULL;
    }
    generation->server = server;
    generation->writer = options->writer;
    generation->created_s = (int64_t)time(NULL);
    generation->request = *options->request;
    *options->request = (struct openai_request){0};
    generation->n_choices = generation->n_unfinished = n_choices;
    generation->thinking = options->answer.form.thinking;
    server_next_id(server, options->writer->id_prefix, generation->id);
    struct answer_options answer = options->answer;
    answer.keeps_text = options->writer->keeps_text;
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        struct choice *choice = &generation->choices[i];
        choice->index = i;
        choice->stop_token = -1;
        choice->detokenizer = (struct detokenizer){.tokenizer = server->tokenizer, .stops = &generation->request.stops};
        answer_init(&choice->answer, &answer, server);
        const struct token_list *prompt = &options->prompts[i / generation->request.n_choices];
        choice->n_prompt = (int32_t)prompt->count;
        for (int32_t t = 0; generation->request.return_token_ids && t < choice->n_prompt; ++t)
            generation_write_id(&choice->prompt_ids, prompt->ids[t]);
        if (generation_prompt_scores(&generation->request) > 0)
            generation_take_prompt_token(generation, choice, prompt->ids[0], NULL);
    }
    if (generation->request.echo) begin_with_prompt(generation, options->prompts);
    bool ends_early = answer.form.one_call;
    const struct stream_options stream = {
        .wake = waiting->wake,
        .user = waiting->user,
        .wake_on_token =
            waiting->on_token || generation->request.stream || generation->request.stops.count > 0 || ends_early,
        .n_choices = generation->n_choices,
        .id = generation->id,
        .endpoint = options->writer->endpoint,
        .log = server->log,
    };
    generation->stream = stream_create(&stream, err);
    if (generation->stream != NULL) {
        generation->state = options->state; // until here it is the caller's
        return generation;
    }
    generation_destroy(generation, NULL);
    return NULL;
}

/* What one choice must keep to; NULL: nothing. */
static bool constrain(const struct generation *generation, struct constraint **constraint, struct error *err) {
    const struct openai_request *given = &generation->request;
    *constraint = NULL;
    if (given->allowed_tokens.count > 0) {
        *constraint = allowed_tokens_create(&given->allowed_tokens, err);
        if (*constraint == NULL) return false;
    }
    if (given->grammar.field != NULL) {
        *constraint = answer_grammar_constrain(&given->grammar, generation->server, generation->thinking, err);
        if (*constraint == NULL) return false;
    }
    if (given->n_thinking == 0 || generation->thinking == ANSWER_NEVER_THINKS) return true;
    const struct thinking_budget_options options = {.n_tokens = given->n_thinking - 1,
                                                    .thinking = generation->thinking,
                                                    .tokenizer = generation->server->tokenizer,
                                                    .inner = *constraint};
    struct constraint *budget = thinking_budget_create(&options, err);
    if (budget == NULL && *constraint != NULL) (*constraint)->destroy(*constraint);
    *constraint = budget;
    return budget != NULL;
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
                                                          : generation->writer->max_new_tokens,
            .sampling = given->sampling,
            .ignore_eos = given->ignore_eos,
            .n_scores = given->n_scores,
            .n_prompt_scores = generation_prompt_scores(given),
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
        if (!constrain(generation, &request.constraint, err)) return false;
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
            const char *name = options->writer->limit_name;
            fail_param(&err, ERR_INVALID, name,
                       "%zu prompt tokens and %d new tokens (%s) make %zu, but the context of this model holds %d",
                       n_prompt, (int)wanted, name, n_prompt + (size_t)wanted, (int)limit);
        }
        if (err.code == ERR_NONE) continue;
        struct openai_error error = openai_error_from(&err);
        error.code = "context_length_exceeded";
        openai_respond_error(server, http, &error);
        return false;
    }
    return true;
}

/* Submitted; NULL: answered with what went wrong. */
static struct generation *begin(struct server *server, struct http_request *http,
                                const struct generation_waiting *waiting, const struct generation_options *options) {
    struct error err;
    struct generation *generation = NULL;
    if (check_lengths(server, http, options)) {
        generation = create(server, waiting, options, &err);
        if (generation == NULL) openai_respond_failure(server, http, &err);
    }
    if (generation == NULL) {
        finish_state(options->writer, options->state);
        return NULL;
    }
    if (submit_all(generation, options->prompts, &err)) return generation;
    openai_respond_failure(server, http, &err);
    generation_destroy(generation, NULL);
    return NULL;
}

void generation_start(struct server *server, struct http_request *http, const struct generation_options *options) {
    const struct generation_waiting waiting = {.wake = http_wake_user, .user = http};
    struct generation *generation = begin(server, http, &waiting, options);
    struct error err;
    // Deferred last: until then no one but us can end it.
    if (generation == NULL || http_defer(http, &deferred, generation, &err)) return;
    openai_respond_failure(server, http, &err);
    generation_destroy(generation, NULL);
}

struct generation *generation_start_alone(struct server *server, struct http_request *http,
                                          const struct generation_waiting *waiting,
                                          const struct generation_options *options) {
    return begin(server, http, waiting, options);
}
