/* The tokens of each choice to parts of its answer, up to where it ends. */
#include "server/generation_state.h"

#include "engine/engine.h"
#include "server/json_writer.h"
#include "server/server.h"

/* The end of text as the model has it, which has no stop_reason. */
static bool is_eos(const struct generation *generation, int32_t token) {
    const struct model_config *model = &engine_info(generation->server->engine)->model;
    for (int32_t i = 0; i < model->n_eos_ids && !generation->request.ignore_eos; ++i) {
        if (model->eos_ids[i] == token) return true;
    }
    return false;
}

static bool is_stop_token(const struct generation *generation, int32_t token) {
    const struct token_list *stops = &generation->request.stop_tokens;
    for (size_t i = 0; i < stops->count; ++i) {
        if (stops->ids[i] == token) return true;
    }
    return false;
}

static const struct stop_strings no_stops;

/* Stop strings count from the token after the first min_tokens on. */
static void arm_stops(const struct generation *generation, struct choice *choice) {
    bool armed = choice->n_generated >= generation->request.min_new_tokens;
    choice->detokenizer.stops = armed ? &generation->request.stops : &no_stops;
}

void generation_write_id(struct string_builder *ids, int32_t id) {
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

static bool is_scored(const struct generation *generation, const struct choice *choice, int32_t token) {
    if (generation->request.n_scores == 0) return false;
    return !generation->writer->scores_content || answer_is_content(&choice->answer, token);
}

/* Token number index of what was delivered; true when it is the last that counts. */
static bool take_token(struct generation *generation, struct choice *choice, size_t index) {
    int32_t token = choice->delivery.tokens[index];
    arm_stops(generation, choice);
    ++choice->n_generated;
    if (generation->request.return_token_ids) generation_write_id(&choice->ids, token);
    if (is_scored(generation, choice, token))
        logprobs_add(&choice->logprobs, generation->writer->logprobs, generation->server->tokenizer, token,
                     &choice->delivery.scores[index]);
    bool is_end = is_eos(generation, token), is_stop = !is_end && is_stop_token(generation, token);
    choice->stop_token = is_stop ? token : -1;
    if (is_end || (is_stop && !generation->request.stops.included)) return false;
    detokenizer_push(&choice->detokenizer, token, &choice->text);
    answer_count_token(&choice->answer, token);
    answer_push(&choice->answer, &choice->text);
    return is_complete(choice);
}

void choice_write_stop_reason(const struct choice *choice, struct string_builder *out) {
    const struct detokenizer *detokenizer = &choice->detokenizer;
    if (detokenizer->stopped) {
        const struct stop_string *stop = &detokenizer->stops->strings[detokenizer->stop];
        json_write_string(out, stop->data, stop->length);
        return;
    }
    if (choice->last.reason == FINISH_STOP && choice->stop_token >= 0)
        json_write_format(out, "%d", (int)choice->stop_token);
    else
        string_builder_append_text(out, "null");
}

static void finish_choice(struct generation *generation, struct choice *choice, const struct engine_event *last) {
    detokenizer_flush(&choice->detokenizer, &choice->text);
    answer_push(&choice->answer, &choice->text);
    answer_end(&choice->answer);
    bool stopped = is_complete(choice);
    choice->last = *last;
    --generation->n_unfinished;
    choice->end = !stopped && last->reason != FINISH_STOP ? CHOICE_CUT
                  : choice->answer.n_calls > 0            ? CHOICE_CALLED
                                                          : CHOICE_STOPPED;
    if (generation->request.echo_only) choice->end = CHOICE_CUT; // what came is not told
    if (stopped) {
        if (last->reason == FINISH_CANCELLED) atomic_fetch_add(&generation->server->n_stopped_by_string, 1);
        return;
    }
    choice->n_generated = generation->request.echo_only ? 0 : last->n_generated;
    struct error *error = error_slot(generation);
    if (last->reason == FINISH_ERROR && error != NULL) *error = last->error;
    if (last->reason == FINISH_CANCELLED) fail(error, ERR_UNAVAILABLE, "the server is stopping");
}

int32_t generation_prompt_scores(const struct openai_request *request) {
    int32_t of_echo = request->echo ? request->n_scores : 0;
    return of_echo > request->n_prompt_scores ? of_echo : request->n_prompt_scores;
}

/* Where both were asked for, one may want fewer of the likeliest. */
static struct token_scores cut_scores(const struct token_scores *scores, int32_t n_scores) {
    struct token_scores cut = *scores;
    if (cut.n_top > n_scores - 1) cut.n_top = n_scores - 1;
    return cut;
}

void generation_take_prompt_token(struct generation *generation, struct choice *choice, int32_t token,
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
        logprobs_add(&choice->logprobs, generation->writer->logprobs, tokenizer, token, scores != NULL ? &cut : NULL);
    }
}

static void take_choice(struct generation *generation, int32_t index) {
    struct choice *choice = &generation->choices[index];
    struct stream_delivery *delivery = &choice->delivery;
    stream_take(generation->stream, index, delivery);
    for (size_t i = 0; i < delivery->count && !is_complete(choice); ++i) {
        if (choice->n_prompt_scored > 0 && choice->n_prompt_scored < choice->n_prompt) {
            generation_take_prompt_token(generation, choice, delivery->tokens[i], &delivery->scores[i]);
        } else if (!generation->request.echo_only && take_token(generation, choice, i)) {
            stream_cancel(generation->stream, index, generation->server->engine);
        }
    }
    if (delivery->lost) {
        fail(error_slot(generation), ERR_MEMORY, "memory ran out while tokens waited for the client");
    }
    if (delivery->finished) finish_choice(generation, choice, &delivery->last);
    answer_check(&choice->answer, error_slot(generation));
}

void generation_take_tokens(struct generation *generation, bool is_closing) {
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        if (generation->choices[i].end == CHOICE_RUNS) take_choice(generation, i);
    }
    if (is_closing && generation->n_unfinished > 0) {
        fail(error_slot(generation), ERR_UNAVAILABLE, "the server is stopping");
    }
}

struct generation_usage generation_usage(const struct generation *generation) {
    struct generation_usage usage = {0};
    for (int32_t i = 0; i < generation->n_choices; ++i) {
        const struct choice *choice = &generation->choices[i];
        bool first = i % generation->request.n_choices == 0;
        usage.n_prompt += first ? choice->last.n_prompt : 0;
        usage.n_cached += first ? choice->last.n_cached : 0;
        usage.n_generated += choice->n_generated;
        usage.n_reasoning += choice->answer.reasoning_tokens.n_tokens;
    }
    return usage;
}

const char *choice_end_word(enum choice_end end) {
    static const char *const words[] = {
        [CHOICE_RUNS] = NULL, [CHOICE_STOPPED] = "stop", [CHOICE_CUT] = "length", [CHOICE_CALLED] = "tool_calls"};
    return words[end];
}
