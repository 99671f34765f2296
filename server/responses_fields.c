/* The fields of POST /v1/responses: those that say how the answer is made are read here and in openai_request.c, the
 * others in responses_request.c. */
#include "server/openai_field.h"

#include <float.h>

static FIELD_READER(read_include) {
    struct json_cursor cursor = {0};
    struct json_text element;
    if (json_text_kind(value) != JSON_ARRAY) return field_refuse(field, value, err);
    reading->logprobs = false; // of a repeated key the last counts
    while (json_text_next(value, &cursor, &element)) {
        bool is_word = json_text_kind(element) == JSON_STRING;
        bool is_logprobs = is_word && json_text_equals(element, "message.output_text.logprobs");
        // Reasoning is not encrypted here: its items have it as it is.
        bool is_known = is_logprobs || (is_word && json_text_equals(element, "reasoning.encrypted_content"));
        if (!is_known) return field_refuse(field, element, err);
        reading->logprobs |= is_logprobs;
    }
    return true;
}

static FIELD_READER(read_reasoning) {
    static const struct field effort = {.name = "reasoning.effort",
                                        .allowed = "none, minimal, low, medium, high, xhigh or max"};
    static const char *const known[] = {"effort", "summary", "generate_summary", NULL};
    struct json_text given;
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    field_pass_over_members(reading, "reasoning.", value, known);
    bool has_effort = json_text_find(value, "effort", &given) && json_text_kind(given) != JSON_NULL;
    return !has_effort || read_reasoning_effort(&effort, given, reading, err);
}

static FIELD_READER(read_text) {
    static const struct field verbosity = {.name = "text.verbosity", .allowed = "\"medium\""};
    static const char *const known[] = {"format", "verbosity", NULL};
    struct json_text given;
    if (json_text_kind(value) != JSON_OBJECT) return field_refuse(field, value, err);
    field_pass_over_members(reading, "text.", value, known);
    if (json_text_find(value, "verbosity", &given) && json_text_kind(given) != JSON_NULL &&
        !read_unserved(&verbosity, given, reading, err))
        return false;
    bool has_format = json_text_find(value, "format", &given) && json_text_kind(given) != JSON_NULL;
    return !has_format || answer_grammar_read_text_format(&reading->request->grammar, given, err);
}

static const struct field fields[] = {
    {"model", OPENAI_RESPONSES, read_model, "a string", 0, 0},
    {"input", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"instructions", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"previous_response_id", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"store", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"background", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"metadata", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"tools", OPENAI_RESPONSES, read_elsewhere, NULL, 0, 0},
    {"tool_choice", OPENAI_RESPONSES, read_tool_choice,
     "\"auto\", \"none\", \"required\" or {\"type\": \"function\", \"name\": one of the tools}", 0, 0},
    {"parallel_tool_calls", OPENAI_RESPONSES, read_parallel_calls, "true or false", 0, 0},
    {"text", OPENAI_RESPONSES, read_text, "an object with format", 0, 0},
    {"reasoning", OPENAI_RESPONSES, read_reasoning, "an object with effort", 0, 0},
    {"stream", OPENAI_RESPONSES, read_stream, "true or false", 0, 0},
    {"max_output_tokens", OPENAI_RESPONSES, read_max_completion_tokens, "an integer from 1 to 2147483647", 1,
     INT32_MAX},
    {"include", OPENAI_RESPONSES, read_include,
     "an array of \"message.output_text.logprobs\" and \"reasoning.encrypted_content\"", 0, 0},
    {"top_logprobs", OPENAI_RESPONSES, read_top_logprobs, "an integer from 0 to 20", 0, SAMPLING_MAX_TOP},
    {"temperature", OPENAI_RESPONSES, read_temperature, "a number from 0 to 2", 0, 2},
    {"top_p", OPENAI_RESPONSES, read_top_p, "a number above 0 and at most 1", DBL_TRUE_MIN, 1},

    // quern's own, as chats have them
    {"min_p", OPENAI_RESPONSES, read_min_p, "a number from 0 to 1", 0, 1},
    {"top_k", OPENAI_RESPONSES, read_top_k, "an integer: -1 or 0 for no limit, or from 1 to 2147483647", -1, INT32_MAX},
    {"seed", OPENAI_RESPONSES, read_seed, "an integer of 64 bits", 0, 0},
    {"presence_penalty", OPENAI_RESPONSES, read_presence_penalty, "a number from -2 to 2", -2, 2},
    {"frequency_penalty", OPENAI_RESPONSES, read_frequency_penalty, "a number from -2 to 2", -2, 2},
    {"repetition_penalty", OPENAI_RESPONSES, read_repetition_penalty, "a number from 0.01 to 100", 0.01, 100},
    {"ignore_eos", OPENAI_RESPONSES, read_ignore_eos, "true or false", 0, 0},
    {"priority", OPENAI_RESPONSES, read_priority, "an integer of 32 bits; the lowest is served first", INT32_MIN,
     INT32_MAX},
    {"timeout_ms", OPENAI_RESPONSES, read_timeout, "an integer from 1 to 2147483647", 1, INT32_MAX},
    {"enable_thinking", OPENAI_RESPONSES, read_thinking, "true or false", 0, 0},
    {"chat_template_kwargs", OPENAI_RESPONSES, read_template_arguments, "an object with enable_thinking", 0, 0},
    {"thinking_token_budget", OPENAI_RESPONSES, read_thinking_budget,
     "an integer: -1 for no limit, or from 0 to 2147483646", -1, INT32_MAX - 1},

    {"user", OPENAI_RESPONSES, read_without_effect, NULL, 0, 0},
    {"safety_identifier", OPENAI_RESPONSES, read_without_effect, NULL, 0, 0},
    {"prompt_cache_key", OPENAI_RESPONSES, read_without_effect, NULL, 0, 0},
    {"prompt_cache_options", OPENAI_RESPONSES, read_without_effect, "{}", 0, 0},
    {"prompt_cache_retention", OPENAI_RESPONSES, read_without_effect, NULL, 0, 0},
    {"service_tier", OPENAI_RESPONSES, read_without_effect, "\"auto\" or \"default\"", 0, 0},

    {"truncation", OPENAI_RESPONSES, read_unserved, "\"disabled\"", 0, 0},
    {"stream_options", OPENAI_RESPONSES, read_unserved, "{} or {\"include_obfuscation\": false}", 0, 0},
    {"max_tool_calls", OPENAI_RESPONSES, read_unserved, NULL, 0, 0},
    {"conversation", OPENAI_RESPONSES, read_unserved, NULL, 0, 0},
    {"prompt", OPENAI_RESPONSES, read_unserved, NULL, 0, 0},
    {"context_management", OPENAI_RESPONSES, read_unserved, "[]", 0, 0},
    {"moderation", OPENAI_RESPONSES, read_unserved, NULL, 0, 0},
};

const struct field *responses_field(size_t index) {
    return index < sizeof fields / sizeof *fields ? &fields[index] : NULL;
}
