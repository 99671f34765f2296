#include "server/openai_request.h"

#include "server/openai_field.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

/* --- fields --- */

FIELD_READER(read_model) {
    if (json_text_kind(value) != JSON_STRING) return field_refuse(field, value, err);
    size_t length;
    free(reading->request->model);
    return field_text(value, &reading->request->model, &length, err);
}

/* 0 asks for the prompt alone, where it is echoed. */
static FIELD_READER(read_max_tokens) {
    int64_t given;
    reading->request->echo_only = field_integer_of(value, &given) && given == 0;
    if (reading->request->echo_only && reading->source->endpoint == OPENAI_COMPLETIONS) return true;
    return field_integer(field, value, &reading->max_tokens, err);
}

FIELD_READER(read_max_completion_tokens) {
    return field_integer(field, value, &reading->max_completion_tokens, err);
}

static bool add_stop(const struct field *field, struct json_text value, struct stop_strings *stops, struct error *err) {
    if (json_text_kind(value) != JSON_STRING) return field_refuse(field, value, err);
    struct stop_string *stop = &stops->strings[stops->count];
    if (!field_text(value, &stop->data, &stop->length, err)) return false;
    ++stops->count;
    return (stop->length > 0 && stop->length <= STOP_MAX_BYTES) || field_refuse(field, value, err);
}

static FIELD_READER(read_include_stop) {
    return field_flag(field, value, &reading->request->stops.included, err);
}

static FIELD_READER(read_return_token_ids) {
    return field_flag(field, value, &reading->request->return_token_ids, err);
}

FIELD_READER(read_priority) {
    return field_integer(field, value, &reading->request->priority, err);
}

FIELD_READER(read_timeout) {
    return field_integer(field, value, &reading->request->timeout_ms, err);
}

static FIELD_READER(read_generation_prompt) {
    bool add = true;
    if (!field_flag(field, value, &add, err)) return false;
    reading->request->no_generation_prompt = !add;
    reading->has_generation_prompt = add;
    return true;
}

static FIELD_READER(read_continue_final) {
    return field_flag(field, value, &reading->request->continues_final, err);
}

FIELD_READER(read_stop) {
    struct stop_strings *stops = &reading->request->stops;
    stop_strings_finish(stops); // of a repeated key the last counts
    if (json_text_kind(value) != JSON_ARRAY) return add_stop(field, value, stops, err);
    struct json_cursor cursor = {0};
    struct json_text element;
    while (json_text_next(value, &cursor, &element)) {
        if (stops->count == STOP_MAX_STRINGS) return field_refuse(field, value, err);
        if (!add_stop(field, element, stops, err)) return false;
    }
    return true;
}

FIELD_READER(read_stream) {
    return field_flag(field, value, &reading->request->stream, err);
}

static FIELD_READER(read_stream_options) {
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    reading->has_stream_options = true;
    static const struct {
        struct field field;
        const char *key;
    } flags[] = {
        {{.name = "stream_options.include_usage", .allowed = "true or false"}, "include_usage"},
        {{.name = "stream_options.continuous_usage_stats", .allowed = "true or false"}, "continuous_usage_stats"}};
    bool *targets[] = {&reading->request->include_usage, &reading->request->continuous_usage};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; ++i) {
        struct json_text flag;
        if (!json_text_find(value, flags[i].key, &flag) || json_text_kind(flag) == JSON_NULL) continue;
        if (!field_flag(&flags[i].field, flag, targets[i], err)) return false;
    }
    static const char *const known[] = {"include_usage", "continuous_usage_stats", NULL};
    field_pass_over_members(reading, "stream_options.", value, known);
    return true;
}

FIELD_READER(read_ignore_eos) {
    return field_flag(field, value, &reading->request->ignore_eos, err);
}

static FIELD_READER(read_n) {
    return field_integer(field, value, &reading->request->n_choices, err);
}

/* Several fields say whether to think; they must agree. */
static bool set_thinking(const struct field *field, bool on, struct reading *reading, struct error *err) {
    enum chat_thinking *thinking = &reading->request->thinking, wanted = on ? CHAT_THINKING_ON : CHAT_THINKING_OFF;
    if (*thinking != CHAT_THINKING_DEFAULT && *thinking != wanted) {
        return fail_param(err, ERR_INVALID, field->name, "%s turns thinking %s, and another field turns it %s",
                          field->name, on ? "on" : "off", on ? "off" : "on");
    }
    *thinking = wanted;
    return true;
}

FIELD_READER(read_thinking) {
    bool on = false;
    return field_flag(field, value, &on, err) && set_thinking(field, on, reading, err);
}

FIELD_READER(read_template_arguments) {
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    const struct field thinking = {.name = "chat_template_kwargs.enable_thinking", .allowed = "true or false"};
    static const char *const known[] = {"enable_thinking", NULL};
    struct json_text enable;
    field_pass_over_members(reading, "chat_template_kwargs.", value, known);
    if (!json_text_find(value, "enable_thinking", &enable) || json_text_kind(enable) == JSON_NULL) return true;
    return read_thinking(&thinking, enable, reading, err);
}

FIELD_READER(read_reasoning_effort) {
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (json_text_kind(value) != JSON_STRING) return field_refuse(field, value, err);
    for (size_t i = 0; i < sizeof efforts / sizeof *efforts; ++i) {
        if (json_text_equals(value, efforts[i])) return set_thinking(field, i > 0, reading, err);
    }
    return field_refuse(field, value, err);
}

FIELD_READER(read_thinking_budget) {
    if (!field_integer(field, value, &reading->request->n_thinking, err)) return false;
    ++reading->request->n_thinking;
    return true;
}

static FIELD_READER(read_include_reasoning) {
    bool include = true;
    if (!field_flag(field, value, &include, err)) return false;
    reading->request->drops_reasoning = !include;
    return true;
}

FIELD_READER(read_parallel_calls) {
    bool parallel = true;
    if (!field_flag(field, value, &parallel, err)) return false;
    reading->request->one_call = !parallel;
    return true;
}

FIELD_READER(read_tool_choice) {
    struct openai_request *request = reading->request;
    bool is_word = json_text_kind(value) == JSON_STRING;
    request->has_no_tools = is_word && json_text_equals(value, "none");
    request->needs_call = !is_word || json_text_equals(value, "required");
    free(request->named_tool); // of a repeated key the last counts
    request->named_tool = NULL;
    if (request->has_no_tools || (is_word && request->needs_call) || (is_word && json_text_equals(value, "auto")))
        return true;
    struct json_text type, function = value, name;
    bool is_flat = reading->source->endpoint == OPENAI_RESPONSES; // the name stands beside the type
    bool is_function =
        json_text_kind(value) == JSON_OBJECT && json_text_find(value, "type", &type) &&
        json_text_kind(type) == JSON_STRING && json_text_equals(type, "function") &&
        (is_flat || (json_text_find(value, "function", &function) && json_text_kind(function) == JSON_OBJECT)) &&
        json_text_find(function, "name", &name) && json_text_kind(name) == JSON_STRING;
    size_t length;
    return is_function ? field_text(name, &request->named_tool, &length, err) : field_refuse(field, value, err);
}

static FIELD_READER(read_echo) {
    return field_flag(field, value, &reading->request->echo, err);
}

static FIELD_READER(read_response_format) {
    (void)field;
    return answer_grammar_read_format(&reading->request->grammar, value, err);
}

static FIELD_READER(read_structured_outputs) {
    (void)field;
    return answer_grammar_read_structured(&reading->request->grammar, value, err);
}

static FIELD_READER(read_guided) {
    return answer_grammar_read_guided(&reading->request->grammar, field->name, value, err);
}

/* By chat_messages, anthropic_chat or responses_request. */
FIELD_READER(read_elsewhere) {
    (void)field, (void)value, (void)reading, (void)err;
    return true;
}

/* --- the table --- */

#define BOTH (OPENAI_CHAT | OPENAI_COMPLETIONS)

#define TOOL_CHOICE_ALLOWED                                                                                            \
    "\"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": one of the tools}}"

/* All that OpenAI and vLLM define: first what is served, then what has no effect, then what is refused; of the last two
 * allowed has the values that ask for nothing. */
static const struct field fields[] = {
    {"model", BOTH, read_model, "a string", 0, 0},
    {"messages", OPENAI_CHAT, read_elsewhere, NULL, 0, 0},
    {"tools", OPENAI_CHAT, read_elsewhere, NULL, 0, 0},
    {"prompt", OPENAI_COMPLETIONS, read_prompt, PROMPT_ALLOWED, 0, 0},
    {"echo", OPENAI_COMPLETIONS, read_echo, "true or false", 0, 0},
    {"max_tokens", BOTH, read_max_tokens, "an integer from 1 to 2147483647", 1, INT32_MAX},
    {"max_completion_tokens", BOTH, read_max_completion_tokens, "an integer from 1 to 2147483647", 1, INT32_MAX},
    {"temperature", BOTH, read_temperature, "a number from 0 to 2", 0, 2},
    {"top_p", BOTH, read_top_p, "a number above 0 and at most 1", DBL_TRUE_MIN, 1},
    {"min_p", BOTH, read_min_p, "a number from 0 to 1", 0, 1},
    {"top_k", BOTH, read_top_k, "an integer: -1 or 0 for no limit, or from 1 to 2147483647", -1, INT32_MAX},
    {"presence_penalty", BOTH, read_presence_penalty, "a number from -2 to 2", -2, 2},
    {"frequency_penalty", BOTH, read_frequency_penalty, "a number from -2 to 2", -2, 2},
    {"repetition_penalty", BOTH, read_repetition_penalty, "a number from 0.01 to 100", 0.01, 100},
    {"logit_bias", BOTH, read_logit_bias, "an object of at most 1024 token ids, each with a number from -100 to 100",
     -100, 100},
    {"min_tokens", BOTH, read_min_tokens, "an integer from 0 to max_tokens", 0, INT32_MAX},
    {"stop_token_ids", BOTH, read_stop_token_ids, "an array of at most 64 token ids of the model", 0, 64},
    {"allowed_token_ids", BOTH, read_allowed_token_ids, "an array of token ids of the model, and not empty", 1,
     INT32_MAX},
    {"include_stop_str_in_output", BOTH, read_include_stop, "true or false", 0, 0},
    {"return_token_ids", BOTH, read_return_token_ids, "true or false", 0, 0},
    {"priority", BOTH, read_priority, "an integer of 32 bits; the lowest is served first", INT32_MIN, INT32_MAX},
    {"timeout_ms", BOTH, read_timeout, "an integer from 1 to 2147483647", 1, INT32_MAX},
    {"add_generation_prompt", OPENAI_CHAT, read_generation_prompt, "true or false", 0, 0},
    {"continue_final_message", OPENAI_CHAT, read_continue_final, "true or false", 0, 0},
    {"seed", BOTH, read_seed, "an integer of 64 bits", 0, 0},
    {"stop", BOTH, read_stop, "a string or an array of at most 16 strings, each of 1 to 1024 bytes", 0, 0},
    {"stream", BOTH, read_stream, "true or false", 0, 0},
    {"stream_options", BOTH, read_stream_options, "an object with include_usage and continuous_usage_stats", 0, 0},
    {"ignore_eos", BOTH, read_ignore_eos, "true or false", 0, 0},
    {"n", BOTH, read_n, "an integer from 1 to 128", 1, OPENAI_MAX_PROMPTS},
    {"logprobs", OPENAI_CHAT, read_logprobs, "true or false", 0, 0},
    {"top_logprobs", OPENAI_CHAT, read_top_logprobs, "an integer from 0 to 20", 0, SAMPLING_MAX_TOP},
    {"logprobs", OPENAI_COMPLETIONS, read_number_of_logprobs, "an integer from 0 to 20", 0, SAMPLING_MAX_TOP},
    {"prompt_logprobs", BOTH, read_prompt_logprobs, "an integer from 0 to 20", 0, SAMPLING_MAX_TOP},
    {"chat_template_kwargs", OPENAI_CHAT, read_template_arguments, "an object with enable_thinking", 0, 0},
    {"enable_thinking", OPENAI_CHAT, read_thinking, "true or false", 0, 0},
    {"reasoning_effort", OPENAI_CHAT, read_reasoning_effort, "none, minimal, low, medium, high, xhigh or max", 0, 0},
    {"thinking_token_budget", OPENAI_CHAT, read_thinking_budget, "an integer: -1 for no limit, or from 0 to 2147483646",
     -1, INT32_MAX - 1},
    {"include_reasoning", OPENAI_CHAT, read_include_reasoning, "true or false", 0, 0},
    {"parallel_tool_calls", OPENAI_CHAT, read_parallel_calls, "true or false", 0, 0},
    {"tool_choice", OPENAI_CHAT, read_tool_choice, TOOL_CHOICE_ALLOWED, 0, 0},
    {"response_format", BOTH, read_response_format, NULL, 0, 0},
    {"structured_outputs", BOTH, read_structured_outputs, NULL, 0, 0},
    {"guided_json", BOTH, read_guided, NULL, 0, 0},
    {"guided_regex", BOTH, read_guided, NULL, 0, 0},
    {"guided_choice", BOTH, read_guided, NULL, 0, 0},
    {"user", BOTH, read_without_effect, NULL, 0, 0},
    {"metadata", OPENAI_CHAT, read_without_effect, "{}", 0, 0},
    {"store", OPENAI_CHAT, read_without_effect, "false", 0, 0},
    {"service_tier", OPENAI_CHAT, read_without_effect, "\"auto\" or \"default\"", 0, 0},
    {"safety_identifier", OPENAI_CHAT, read_without_effect, NULL, 0, 0},
    {"prediction", OPENAI_CHAT, read_without_effect, NULL, 0, 0},
    {"verbosity", OPENAI_CHAT, read_without_effect, "\"medium\"", 0, 0},
    {"prompt_cache_key", OPENAI_CHAT, read_without_effect, NULL, 0, 0},
    {"prompt_cache_options", OPENAI_CHAT, read_without_effect, "{}", 0, 0},
    {"prompt_cache_retention", OPENAI_CHAT, read_without_effect, NULL, 0, 0},
    {"request_id", BOTH, read_without_effect, NULL, 0, 0},
    {"session_id", BOTH, read_without_effect, NULL, 0, 0},
    {"add_special_tokens", BOTH, read_without_effect, NULL, 0, 0},
    {"spaces_between_special_tokens", BOTH, read_without_effect, "true", 0, 0},
    {"truncation_side", BOTH, read_without_effect, NULL, 0, 0},
    {"stream_interval", BOTH, read_without_effect, "1", 0, 0},
    {"mm_processor_kwargs", OPENAI_CHAT, read_without_effect, "{}", 0, 0},
    {"media_io_kwargs", OPENAI_CHAT, read_without_effect, "{}", 0, 0},
    {"return_mm_kwargs", BOTH, read_without_effect, "true", 0, 0},
    {"guided_decoding_backend", BOTH, read_without_effect, "\"auto\"", 0, 0},

    {"audio", OPENAI_CHAT, read_unserved, NULL, 0, 0},
    {"modalities", OPENAI_CHAT, read_unserved, "[\"text\"]", 0, 0},
    {"moderation", OPENAI_CHAT, read_unserved, NULL, 0, 0},
    {"web_search_options", OPENAI_CHAT, read_unserved, NULL, 0, 0},
    {"functions", OPENAI_CHAT, read_unserved, "[]", 0, 0},
    {"function_call", OPENAI_CHAT, read_unserved, "\"auto\" or \"none\"", 0, 0},
    {"tool_choice", OPENAI_COMPLETIONS, read_unserved, "\"auto\" or \"none\"", 0, 0},
    {"best_of", BOTH, read_unserved, "1", 0, 0},
    {"suffix", BOTH, read_unserved, "\"\"", 0, 0},
    {"echo", OPENAI_CHAT, read_unserved, "false", 0, 0},
    {"thinking_token_budget", OPENAI_COMPLETIONS, read_unserved, "-1", 0, 0},
    {"use_beam_search", BOTH, read_unserved, "false", 0, 0},
    {"length_penalty", BOTH, read_unserved, "1 or 1.0", 0, 0},
    {"watermarking", BOTH, read_unserved, "false", 0, 0},
    {"skip_special_tokens", BOTH, read_unserved, "true", 0, 0},
    {"truncate_prompt_tokens", BOTH, read_unserved, NULL, 0, 0},
    {"bad_words", BOTH, read_unserved, "[]", 0, 0},
    {"logprob_token_ids", BOTH, read_unserved, NULL, 0, 0},
    {"repetition_detection", BOTH, read_unserved, NULL, 0, 0},
    {"documents", OPENAI_CHAT, read_unserved, "[]", 0, 0},
    {"chat_template", OPENAI_CHAT, read_unserved, NULL, 0, 0},
    {"prompt_embeds", OPENAI_COMPLETIONS, read_unserved, NULL, 0, 0},
    {"guided_grammar", BOTH, read_unserved, NULL, 0, 0},
    {"guided_whitespace_pattern", BOTH, read_unserved, NULL, 0, 0},
    {"logits_processors", BOTH, read_unserved, "[]", 0, 0},
    {"cache_salt", BOTH, read_unserved, NULL, 0, 0},
    {"kv_transfer_params", BOTH, read_unserved, "{}", 0, 0},
    {"ec_transfer_params", BOTH, read_unserved, "{}", 0, 0},
    {"vllm_xargs", BOTH, read_unserved, "{}", 0, 0},
    {"return_tokens_as_token_ids", BOTH, read_unserved, "false", 0, 0},
    {"return_token_offsets", BOTH, read_unserved, "false", 0, 0},
    {"return_token_strs", BOTH, read_unserved, "false", 0, 0},
    {"return_prompt_text", OPENAI_CHAT, read_unserved, "false", 0, 0},
    {"routed_experts_prompt_start", BOTH, read_unserved, "0", 0, 0},
};

static const struct field *field_at(size_t index, enum openai_endpoint endpoint) {
    if (endpoint == OPENAI_RESPONSES) return responses_field(index);
    if (endpoint == OPENAI_EMBEDDINGS) return embeddings_field(index);
    if (endpoint == OPENAI_MESSAGES) return anthropic_field(index);
    return index < sizeof fields / sizeof *fields ? &fields[index] : NULL;
}

static const struct field *find_field(struct json_text key, enum openai_endpoint endpoint) {
    const struct field *field;
    for (size_t i = 0; (field = field_at(i, endpoint)) != NULL; ++i) {
        if ((field->endpoints & (int)endpoint) != 0 && json_text_equals(key, field->name)) break;
    }
    return field;
}

static bool read_field(struct json_text key, struct json_text value, struct reading *reading, struct error *err) {
    const struct field *field = find_field(key, reading->source->endpoint);
    // null means not given, but for what must be given.
    if (json_text_kind(value) == JSON_NULL && (field == NULL || field->read != read_prompt)) return true;
    if (field != NULL) return field->read(field, value, reading, err);
    field_pass_over_unknown(reading, "", key);
    return true;
}

bool openai_request_field(size_t index, struct openai_field *out) {
    if (index >= sizeof fields / sizeof *fields) return false;
    const struct field *field = &fields[index];
    *out = (struct openai_field){.name = field->name, .endpoints = field->endpoints, .allowed = field->allowed};
    if (field->read == read_without_effect) out->state = OPENAI_FIELD_WITHOUT_EFFECT;
    if (field->read == read_unserved) out->state = OPENAI_FIELD_REFUSED;
    return true;
}

bool openai_request_read(const struct openai_source *source, struct openai_request *request, struct error *err) {
    *request = (struct openai_request){.sampling = source->defaults, .n_choices = 1};
    struct reading reading = {.request = request, .source = source};
    struct json_text body, key, value;
    if (!json_text_check(source->body, source->length, &body, err)) return false;
    if (json_text_kind(body) != JSON_OBJECT) {
        return fail(err, ERR_INVALID, "the request body must be a JSON object, not %s", json_text_kind_name(body));
    }
    struct json_cursor cursor = {0};
    while (json_text_next_member(body, &cursor, &key, &value)) {
        if (!read_field(key, value, &reading, err)) return false;
    }
    if (!field_check_passed_over(&reading, err)) return false;
    bool needs_prompt = source->endpoint == OPENAI_COMPLETIONS || source->endpoint == OPENAI_EMBEDDINGS;
    if (needs_prompt && !reading.has_prompt) {
        const char *name = source->endpoint == OPENAI_EMBEDDINGS ? "input" : "prompt";
        return fail_param(err, ERR_INVALID, name, "%s is missing; it must be " PROMPT_ALLOWED, name);
    }
    if (source->endpoint != OPENAI_EMBEDDINGS && request->n_prompts > OPENAI_MAX_PROMPTS / request->n_choices) {
        return fail_param(err, ERR_INVALID, "n", "%d prompts with n %d make more than the %d choices of one request",
                          (int)request->n_prompts, (int)request->n_choices, (int)OPENAI_MAX_PROMPTS);
    }
    if (reading.has_stream_options && !request->stream) {
        return fail_param(err, ERR_INVALID, "stream_options", "stream_options is allowed only with stream true");
    }
    if (request->continuous_usage && !request->include_usage) {
        return fail_param(err, ERR_INVALID, "stream_options.continuous_usage_stats",
                          "continuous_usage_stats is allowed only with include_usage true");
    }
    if (request->continues_final && reading.has_generation_prompt) {
        return fail_param(err, ERR_INVALID, "continue_final_message",
                          "continue_final_message is not allowed together with add_generation_prompt true");
    }
    if (reading.top_logprobs > 0 && !reading.logprobs) {
        return fail_param(err, ERR_INVALID, "top_logprobs", "top_logprobs is allowed only with %s",
                          source->endpoint == OPENAI_RESPONSES ? "message.output_text.logprobs in include"
                                                               : "logprobs true");
    }
    if (request->grammar.field != NULL && request->allowed_tokens.count > 0) {
        return fail_param(err, ERR_INVALID, "allowed_token_ids", "allowed_token_ids is not supported together with %s",
                          request->grammar.field);
    }
    if (request->n_thinking > 0 && request->allowed_tokens.count > 0) {
        return fail_param(err, ERR_INVALID, "thinking_token_budget",
                          "thinking_token_budget is not supported together with allowed_token_ids");
    }
    if (request->stream && request->n_prompt_scores > 0) {
        return fail_param(err, ERR_INVALID, "prompt_logprobs", "prompt_logprobs is not allowed with stream true");
    }
    if (request->echo_only && !request->echo) {
        return fail_param(err, ERR_INVALID, "max_tokens",
                          "max_tokens must be an integer from 1 to 2147483647, or 0 with echo true");
    }
    if (reading.logprobs) request->n_scores = 1 + reading.top_logprobs;
    request->max_new_tokens = reading.max_completion_tokens > 0 ? reading.max_completion_tokens : reading.max_tokens;
    if (request->max_new_tokens > 0 && request->min_new_tokens > request->max_new_tokens) {
        return fail_param(err, ERR_INVALID, "min_tokens", "min_tokens is %d; allowed are 0 to the %d of max_tokens",
                          (int)request->min_new_tokens, (int)request->max_new_tokens);
    }
    return true;
}

void openai_request_finish(struct openai_request *request) {
    free(request->model);
    request->model = NULL;
    free(request->named_tool);
    request->named_tool = NULL;
    stop_strings_finish(&request->stops);
    token_list_finish(&request->stop_tokens);
    token_list_finish(&request->allowed_tokens);
    answer_grammar_finish(&request->grammar);
    free((void *)(uintptr_t)request->adjustments.biases);
    request->adjustments = (struct sampling_adjustments){0};
    for (int32_t i = 0; i < request->n_tools; ++i) free(request->tools[i].data);
    free(request->tools);
    request->tools = NULL;
    request->n_tools = 0;
    openai_prompts_clear(request);
}
