#include "server/call_guarantee.h"

#include "server/json_text.h"
#include "server/server.h"

static struct json_text function_of(const struct chat_text *tool) {
    struct json_text function = {0};
    json_text_find((struct json_text){tool->data, tool->length}, "function", &function);
    return function;
}

static bool is_strict(struct json_text function) {
    struct json_text strict;
    return json_text_find(function, "strict", &strict) && json_text_kind(strict) == JSON_BOOL && strict.data[0] == 't';
}

/* A function without parameters takes none; one whose calls are not to fit takes any. */
static void write_tool(struct json_text function, bool must_fit, struct string_builder *out) {
    struct json_text name, parameters;
    json_text_find(function, "name", &name);
    bool has_parameters =
        json_text_find(function, "parameters", &parameters) && json_text_kind(parameters) != JSON_NULL;
    string_builder_append_text(out, out->length > 1 ? ",{\"name\":" : "{\"name\":");
    string_builder_append(out, name.data, name.length);
    string_builder_append_text(out, ",\"parameters\":");
    if (!must_fit)
        string_builder_append_text(out, "true");
    else if (!has_parameters)
        string_builder_append_text(out, "{\"additionalProperties\":false}");
    else
        string_builder_append(out, parameters.data, parameters.length);
    string_builder_append_text(out, "}");
}

/* The tools that may be called, as grammar_calls.h reads them. */
static int32_t write_tools(const struct openai_request *request, struct string_builder *out) {
    int32_t n_written = 0;
    string_builder_append_text(out, "[");
    for (int32_t i = 0; i < request->n_tools; ++i) {
        struct json_text function = function_of(&request->tools[i]), name;
        json_text_find(function, "name", &name);
        if (request->named_tool != NULL && !json_text_equals(name, request->named_tool)) continue;
        write_tool(function, request->needs_call || is_strict(function), out);
        ++n_written;
    }
    string_builder_append_text(out, "]");
    return n_written;
}

static bool check_request(const struct openai_request *request, struct error *err) {
    const char *field = request->needs_call ? "tool_choice" : "tools";
    const char *wanted = request->needs_call ? "a tool_choice that asks for a call" : "strict";
    const char *other = request->grammar.field != NULL      ? request->grammar.field
                        : request->allowed_tokens.count > 0 ? "allowed_token_ids"
                                                            : NULL;
    if (other != NULL)
        return fail_param(err, ERR_INVALID, field, "%s is not supported together with %s", wanted, other);
    return true;
}

bool call_guarantee_make(const struct server *server, struct openai_request *request, struct error *err) {
    if (!request->needs_call && (!request->has_strict_tools || request->has_no_tools)) return true;
    if (request->n_tools == 0)
        return fail_param(err, ERR_INVALID, "tool_choice", "tool_choice asks for a call, but tools are not given");
    if (!check_request(request, err)) return false;
    struct string_builder tools = {0};
    int32_t n_tools = write_tools(request, &tools);
    if (n_tools == 0) {
        string_builder_finish(&tools);
        return fail_param(err, ERR_INVALID, "tool_choice", "tool_choice names \"%.64s\", which is none of the tools",
                          request->named_tool);
    }
    if (request->named_tool != NULL) request->one_call = true;
    enum constrained_calls calls = !request->needs_call ? CALLS_ALLOWED
                                   : request->one_call  ? CALLS_ONE
                                                        : CALLS_REQUIRED;
    enum grammar_kind kind = server->family == CHAT_CODER ? GRAMMAR_XML_CALL : GRAMMAR_TOOL_CALL;
    return answer_grammar_ask_calls(&request->grammar, kind, calls, &tools, err);
}
