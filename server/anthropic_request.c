/* The fields of POST /v1/messages and /v1/messages/count_tokens, as Anthropic names them. */
#include "server/openai_field.h"

#include <float.h>
#include <stdlib.h>

static bool find_word(struct json_text object, const char *key, struct json_text *word) {
    return json_text_find(object, key, word) && json_text_kind(*word) == JSON_STRING;
}

/* Reasoning is off unless it is asked for, as with Anthropic; messages.c knows whether the model can do without. */
static FIELD_READER(read_thinking_config) {
    static const struct field budget = {.name = "thinking.budget_tokens",
                                        .allowed = "an integer from 1 to 2147483646, and below max_tokens",
                                        .min = 1,
                                        .max = INT32_MAX - 1};
    static const struct field display = {.name = "thinking.display", .allowed = "summarized or omitted"};
    static const char *const known[] = {"type", "budget_tokens", "display", NULL};
    struct openai_request *request = reading->request;
    struct json_text type, given;
    if (json_text_kind(value) != JSON_OBJECT || !find_word(value, "type", &type))
        return field_refuse(field, value, err);
    bool is_enabled = json_text_equals(type, "enabled"), is_off = json_text_equals(type, "disabled");
    if (!is_enabled && !is_off && !json_text_equals(type, "adaptive")) return field_refuse(field, value, err);
    field_pass_over_members(reading, "thinking.", value, known);
    request->thinking = is_off ? CHAT_THINKING_OFF : CHAT_THINKING_ON;
    if (is_enabled) {
        if (!json_text_find(value, "budget_tokens", &given))
            return fail_param(err, ERR_INVALID, budget.name, "%s is missing; it must be %s", budget.name,
                              budget.allowed);
        if (!field_integer(&budget, given, &request->n_thinking, err)) return false;
        ++request->n_thinking;
    }
    if (!json_text_find(value, "display", &given) || json_text_kind(given) == JSON_NULL) return true;
    bool is_word = json_text_kind(given) == JSON_STRING;
    request->drops_reasoning = is_word && json_text_equals(given, "omitted");
    return request->drops_reasoning || (is_word && json_text_equals(given, "summarized")) ||
           field_refuse(&display, given, err);
}

static FIELD_READER(read_choice_of_tools) {
    static const struct field parallel = {.name = "tool_choice.disable_parallel_tool_use", .allowed = "true or false"};
    static const char *const known[] = {"type", "name", "disable_parallel_tool_use", NULL};
    struct openai_request *request = reading->request;
    struct json_text type, given;
    if (json_text_kind(value) != JSON_OBJECT || !find_word(value, "type", &type))
        return field_refuse(field, value, err);
    field_pass_over_members(reading, "tool_choice.", value, known);
    bool is_named = json_text_equals(type, "tool");
    request->has_no_tools = json_text_equals(type, "none");
    request->needs_call = is_named || json_text_equals(type, "any");
    free(request->named_tool); // of a repeated key the last counts
    request->named_tool = NULL;
    if (!request->has_no_tools && !request->needs_call && !json_text_equals(type, "auto"))
        return field_refuse(field, value, err);
    size_t length;
    if (is_named && (!find_word(value, "name", &given) || !field_text(given, &request->named_tool, &length, err)))
        return field_refuse(field, value, err);
    if (!json_text_find(value, "disable_parallel_tool_use", &given) || json_text_kind(given) == JSON_NULL) return true;
    return field_flag(&parallel, given, &request->one_call, err);
}

static FIELD_READER(read_output_config) {
    static const struct field effort = {.name = "output_config.effort", .allowed = "low, medium, high, xhigh or max"};
    static const char *const efforts[] = {"low", "medium", "high", "xhigh", "max"};
    static const char *const known[] = {"effort", "format", NULL};
    struct json_text given;
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    field_pass_over_members(reading, "output_config.", value, known);
    if (json_text_find(value, "effort", &given) && json_text_kind(given) != JSON_NULL) {
        bool is_known = false;
        for (int i = 0; i < 5 && json_text_kind(given) == JSON_STRING; ++i)
            is_known |= json_text_equals(given, efforts[i]);
        if (!is_known) return field_refuse(&effort, given, err);
    }
    if (!json_text_find(value, "format", &given) || json_text_kind(given) == JSON_NULL) return true;
    return answer_grammar_read_output_format(&reading->request->grammar, given, err);
}

#define THINKING_ALLOWED                                                                                               \
    "{\"type\": \"enabled\", \"budget_tokens\": n}, {\"type\": \"adaptive\"} or {\"type\": \"disabled\"}"
#define CHOICE_ALLOWED "an object with the type auto, any, none or, with the name of one of the tools, tool"

static const struct field fields[] = {
    {"model", OPENAI_MESSAGES, read_model, "a string", 0, 0},
    {"messages", OPENAI_MESSAGES, read_elsewhere, NULL, 0, 0},
    {"system", OPENAI_MESSAGES, read_elsewhere, NULL, 0, 0},
    {"tools", OPENAI_MESSAGES, read_elsewhere, NULL, 0, 0},
    {"max_tokens", OPENAI_MESSAGES, read_max_completion_tokens, "an integer from 1 to 2147483647", 1, INT32_MAX},
    {"stop_sequences", OPENAI_MESSAGES, read_stop, "an array of at most 16 strings, each of 1 to 1024 bytes", 0, 0},
    {"stream", OPENAI_MESSAGES, read_stream, "true or false", 0, 0},
    {"temperature", OPENAI_MESSAGES, read_temperature, "a number from 0 to 2", 0, 2},
    {"top_p", OPENAI_MESSAGES, read_top_p, "a number above 0 and at most 1", FLT_MIN, 1},
    {"top_k", OPENAI_MESSAGES, read_top_k, "an integer: 0 for no limit, or from 1 to 2147483647", 0, INT32_MAX},
    {"thinking", OPENAI_MESSAGES, read_thinking_config, THINKING_ALLOWED, 0, 0},
    {"tool_choice", OPENAI_MESSAGES, read_choice_of_tools, CHOICE_ALLOWED, 0, 0},
    {"output_config", OPENAI_MESSAGES, read_output_config, "an object with format", 0, 0},

    {"metadata", OPENAI_MESSAGES, read_without_effect, "{}", 0, 0},
    {"cache_control", OPENAI_MESSAGES, read_without_effect, NULL, 0, 0},
    {"service_tier", OPENAI_MESSAGES, read_without_effect, "\"auto\" or \"standard_only\"", 0, 0},
    {"speed", OPENAI_MESSAGES, read_without_effect, "\"standard\"", 0, 0},
    {"inference_geo", OPENAI_MESSAGES, read_without_effect, NULL, 0, 0},
    {"user_profile_id", OPENAI_MESSAGES, read_without_effect, NULL, 0, 0},
    {"workspace_id", OPENAI_MESSAGES, read_without_effect, NULL, 0, 0},
    {"diagnostics", OPENAI_MESSAGES, read_without_effect, NULL, 0, 0},

    {"container", OPENAI_MESSAGES, read_unserved, NULL, 0, 0},
    {"mcp_servers", OPENAI_MESSAGES, read_unserved, "[]", 0, 0},
    {"context_management", OPENAI_MESSAGES, read_unserved, "{} or {\"edits\": []}", 0, 0},
};

const struct field *anthropic_field(size_t index) {
    return index < sizeof fields / sizeof *fields ? &fields[index] : NULL;
}
