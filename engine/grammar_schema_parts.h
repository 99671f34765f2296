/* What the compiler of schemas is made of; for grammar_schema.c and grammar_members.c. */
#ifndef QUERN_ENGINE_GRAMMAR_SCHEMA_PARTS_H
#define QUERN_ENGINE_GRAMMAR_SCHEMA_PARTS_H

#include "engine/grammar_conjunction.h"
#include "engine/grammar_json.h"
#include "engine/grammar_schema.h"

#define SCHEMA_MAX_BRANCHES   500 // of one anyOf or oneOf
#define SCHEMA_MAX_PROPERTIES 1000

struct schema_compiler {
    struct nfa *nfa;
    const struct cJSON *root;
    struct json_rules rules;
    struct referred {
        struct conjunction all;
        int32_t rule;
    } * referred; // [n_referred] what a $ref led to; compiled in this order, owned
    int32_t n_referred, referred_capacity;
    int32_t n_parts;
    int32_t depth;
};

/* from --a value that fits--> to. Failures stick to the automaton. */
void schema_add(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to);
void schema_add_alone(struct schema_compiler *compiler, const struct cJSON *schema, int32_t from, int32_t to);
void schema_add_array(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to);
void schema_add_object(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to);

/* Compiles what compiler.root's $ref led to, which may lead to more, and frees what compiler owns. */
bool schema_finish(struct schema_compiler *compiler, struct error *err);

/* Hands the failure to the automaton; is false. */
bool schema_fail(struct schema_compiler *compiler, const struct error *err);

#endif
