/* JSON schemas to automata.
 *
 * Covered: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, enum, const,
 * anyOf, oneOf (when its branches exclude each other), allOf (when it merges), $ref to "#" and "#/…", $defs,
 * definitions, minLength, maxLength, pattern, format (date-time, date, time, uuid, email), minimum, maximum,
 * exclusiveMinimum and exclusiveMaximum of integers. Without effect: title, description, default, examples, $schema,
 * $id, $comment, deprecated, readOnly, writeOnly. Every other keyword is refused by name.
 *
 * What comes out fits the schema, but not all that fits comes out: properties stand in the order of the schema, those
 * that are required but not described after them; no others come unless additionalProperties says so, or the schema
 * describes none at all; an array with prefixItems alone has no more than these; where no type is given, the keywords
 * tell the types. Strings and numbers are written as grammar_json.h says. */
#ifndef QUERN_ENGINE_GRAMMAR_SCHEMA_H
#define QUERN_ENGINE_GRAMMAR_SCHEMA_H

#include "engine/grammar_json.h"
#include "engine/grammar_nfa.h"

struct cJSON;

#define SCHEMA_MAX_NAME  1024  // bytes of a property's name
#define SCHEMA_MAX_DEPTH 64    // schemas within schemas
#define SCHEMA_MAX_PARTS 20000 // schemas compiled, those under anyOf and allOf once for each combination

/* Adds what fits the schema to rule 0. text is valid UTF-8. */
bool grammar_add_schema(struct nfa *nfa, const char *text, struct error *err);

/* from --an object that fits the parsed schema--> to. rules may have been made by parts of the same nfa. */
bool grammar_add_object_schema(struct nfa *nfa, struct json_rules *rules, const struct cJSON *schema, int32_t from,
                               int32_t to, struct error *err);

/* One JSON value of any kind, for cJSON_Delete. Refuses \u0000, which cJSON's strings cannot hold. */
struct cJSON *grammar_parse_json(const char *text, struct error *err);

#endif
