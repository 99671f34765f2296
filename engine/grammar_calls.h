/* Tool calls to automata: what stands between <tool_call> and </tool_call>.
 *
 * In the published Qwen3 form a line break, {"name": "f", "arguments": {…}} spelled as the chat template spells it, a
 * line break. The arguments are an object that fits the schema of the tool, as grammar_schema.h says.
 *
 * In the XML form of Qwen3-Coder
 *
 *     <function=f>
 *     <parameter=x>
 *     value
 *     </parameter>
 *     </function>
 *
 * with parameters in the order of the schema, those that are required always. A string stands bare: any text up to a
 * line break and </parameter>, and with a pattern, a format or bounds of its length one without line breaks. All other
 * values are JSON. The form does not say what is meant, the type in the schema does: properties without one are texts,
 * and schemas for which it would not be clear (a string or a number, a $ref but to $defs, …) are refused by the
 * parameter's name. */
#ifndef QUERN_ENGINE_GRAMMAR_CALLS_H
#define QUERN_ENGINE_GRAMMAR_CALLS_H

#include "engine/grammar_json.h"
#include "engine/grammar_nfa.h"

struct cJSON;

enum tool_call_form { TOOL_CALL_JSON, TOOL_CALL_XML };

/* Adds a call of any of the tools to rule 0. text: a JSON array of {"name", "parameters"}; a failure in a schema names
 * the tool. */
bool grammar_add_calls(struct nfa *nfa, const char *text, enum tool_call_form form, struct error *err);

/* Of one tool, which has a name and parameters; for grammar_calls.c. */
bool grammar_add_xml_call(struct nfa *nfa, struct json_rules *rules, const struct cJSON *tool, struct error *err);

#endif
