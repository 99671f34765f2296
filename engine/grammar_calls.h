/* Tool calls to automata: what stands between <tool_call> and </tool_call> in the published Qwen3 form.
 *
 * A line break, {"name": "f", "arguments": {…}} spelled as the chat template spells it, a line break. The arguments
 * are an object that fits the schema of the tool, as grammar_schema.h says. */
#ifndef QUERN_ENGINE_GRAMMAR_CALLS_H
#define QUERN_ENGINE_GRAMMAR_CALLS_H

#include "engine/grammar_nfa.h"

/* Adds a call of any of the tools to rule 0. text: a JSON array of {"name", "parameters"}; a failure in a schema names
 * the tool. */
bool grammar_add_calls(struct nfa *nfa, const char *text, struct error *err);

#endif
