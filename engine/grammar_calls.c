#include "engine/grammar_calls.h"

#include "engine/grammar_schema.h"

#include <cjson/cJSON.h>
#include <string.h>

static void add_literal_text(struct nfa *nfa, int32_t *at, const char *text) {
    int32_t next = nfa_add_state(nfa);
    nfa_add_text(nfa, *at, text, strlen(text), next);
    *at = next;
}

/* \n{"name": "f", "arguments": {…}}\n */
static bool add_call(struct nfa *nfa, struct json_rules *rules, const cJSON *tool, struct error *err) {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(tool, "name");
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(tool, "parameters");
    int32_t at = nfa->rules[0].start, after_name = nfa_add_state(nfa), after_arguments = nfa_add_state(nfa);
    add_literal_text(nfa, &at, "\n{\"name\": ");
    json_add_literal(nfa, at, name, after_name);
    add_literal_text(nfa, &after_name, ", \"arguments\": ");
    struct error why = {0};
    if (!grammar_add_object_schema(nfa, rules, parameters, after_name, after_arguments, &why))
        return fail(err, why.code, "The parameters of %.64s: %s", name->valuestring, why.message);
    nfa_add_text(nfa, after_arguments, "}\n", 2, nfa->rules[0].end);
    return true;
}

static bool check_tool(const cJSON *tool, struct error *err) {
    if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(tool, "name")) && cJSON_HasObjectItem(tool, "parameters"))
        return true;
    return fail(err, ERR_INVALID, "A tool needs a name, which is a string, and parameters, which are a schema.");
}

bool grammar_add_calls(struct nfa *nfa, const char *text, enum tool_call_form form, struct error *err) {
    cJSON *tools = grammar_parse_json(text, err);
    if (!tools) return false;
    struct json_rules rules = {0};
    const cJSON *tool;
    bool added = (cJSON_IsArray(tools) && tools->child) || fail(err, ERR_INVALID, "A call needs an array of tools.");
    cJSON_ArrayForEach(tool, tools) {
        added = added && check_tool(tool, err) &&
                (form == TOOL_CALL_XML ? grammar_add_xml_call : add_call)(nfa, &rules, tool, err);
    }
    cJSON_Delete(tools);
    return added;
}
