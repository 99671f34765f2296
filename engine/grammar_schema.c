#include "engine/grammar_schema.h"

#include "engine/grammar_schema_parts.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has_failed(const struct schema_compiler *compiler) {
    return nfa_has_failed(compiler->nfa);
}

bool schema_fail(struct schema_compiler *compiler, const struct error *err) {
    return nfa_fail(compiler->nfa, err->code, "%s", err->message);
}

/* --- values without parts --- */

static void add_listed(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    const cJSON *only = conjunction_find(all, "const"), *values = conjunction_find(all, "enum"), *value;
    struct error err = {0};
    bool fits;
    if (only) {
        if (!conjunction_fits(all, only, NULL, &fits, &err)) {
            schema_fail(compiler, &err);
        } else if (fits) {
            json_add_literal(compiler->nfa, from, only, to);
        }
        return;
    }
    cJSON_ArrayForEach(value, values) {
        if (!conjunction_fits(all, value, values, &fits, &err)) {
            schema_fail(compiler, &err);
        } else if (fits) {
            json_add_literal(compiler->nfa, from, value, to);
        }
        if (has_failed(compiler)) return;
    }
}

static void add_string(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    struct error err = {0};
    struct regex regex;
    int64_t min = conjunction_largest(all, "minLength", 0), max = conjunction_smallest(all, "maxLength", REGEX_ENDLESS);
    const cJSON *pattern = conjunction_find(all, "pattern"), *format = conjunction_find(all, "format");
    if (max != REGEX_ENDLESS && min > max) return;
    if (conjunction_count(all, "pattern") + conjunction_count(all, "format") > 1) {
        nfa_fail(compiler->nfa, ERR_INVALID, "A string with more than one pattern or format is not supported.");
        return;
    }
    if (pattern || format) {
        const char *expression = pattern ? pattern->valuestring : format_pattern(format->valuestring);
        if (!regex_compile(&regex, expression, REGEX_SEARCH, &err)) {
            schema_fail(compiler, &err);
            return;
        }
        struct regex_use use = {&regex, CHARS_JSON, min, max};
        json_add_pattern_string(compiler->nfa, from, &use, to);
        regex_finish(&regex);
    } else if (min > 0 || max != REGEX_ENDLESS) {
        json_add_bounded_string(compiler->nfa, from, min, max, to);
    } else {
        json_add_string(compiler->nfa, &compiler->rules, from, to);
    }
}

static void add_number(struct schema_compiler *compiler, const struct conjunction *all, int32_t types, int32_t from,
                       int32_t to) {
    if (types & TYPE_NUMBER) {
        struct json_range range = conjunction_bounds(all);
        if (isinf(range.low) && isinf(range.high)) {
            json_add_number(compiler->nfa, from, to);
        } else {
            json_add_bounded_number(compiler->nfa, from, range, to);
        }
        return;
    }
    int64_t low, high;
    conjunction_range(all, &low, &high);
    json_add_integer(compiler->nfa, from, low, high, to);
}

/* --- any schema --- */

static void add_plain(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    struct nfa *nfa = compiler->nfa;
    if (all->n_schemas == 0) {
        json_add_any(nfa, &compiler->rules, from, to);
        return;
    }
    if (conjunction_find(all, "const") || conjunction_find(all, "enum")) {
        add_listed(compiler, all, from, to);
        return;
    }
    int32_t types = conjunction_types(all, true);
    if (types & TYPE_NULL) nfa_add_text(nfa, from, "null", 4, to);
    if (types & TYPE_BOOLEAN) {
        nfa_add_text(nfa, from, "true", 4, to);
        nfa_add_text(nfa, from, "false", 5, to);
    }
    if (types & TYPE_INTEGER) add_number(compiler, all, types, from, to);
    if (types & TYPE_STRING) add_string(compiler, all, from, to);
    if (types & TYPE_ARRAY) schema_add_array(compiler, all, from, to);
    if (types & TYPE_OBJECT) schema_add_object(compiler, all, from, to);
}

/* Refuses a oneOf unless no value can fit two of its branches. */
static bool check_exclusive(const struct conjunction *branches, int32_t n_branches, struct error *err) {
    for (int32_t i = 0; i < n_branches; i++)
        for (int32_t j = i + 1; j < n_branches; j++)
            if (!conjunctions_exclude(&branches[i], &branches[j]))
                return fail(
                    err, ERR_INVALID,
                    "oneOf is supported when its branches exclude each other: these might not, number %d and %d. "
                    "Use anyOf, or a required property with another const in each.",
                    i + 1, j + 1);
    return true;
}

static void add_group(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    const cJSON *list = all->groups[0].branches, *branch;
    struct error err = {0};
    int32_t n_branches = 0, n_listed = cJSON_GetArraySize(list);
    if (n_listed > SCHEMA_MAX_BRANCHES) {
        nfa_fail(compiler->nfa, ERR_INVALID, "%s has %d schemas, the limit is %d.", list->string, n_listed,
                 SCHEMA_MAX_BRANCHES);
        return;
    }
    struct conjunction *branches = malloc((size_t)n_listed * sizeof *branches);
    bool decided = branches || fail(&err, ERR_MEMORY, "No memory for %d schemas.", n_listed);
    cJSON_ArrayForEach(branch, list) {
        decided = decided && conjunction_decide(all, branch, &branches[n_branches], &err);
        if (!decided) break;
        n_branches++;
    }
    bool is_exclusive = strcmp(list->string, "oneOf") == 0;
    if (decided && is_exclusive) decided = check_exclusive(branches, n_branches, &err);
    if (!decided) schema_fail(compiler, &err);
    for (int32_t i = 0; i < n_branches && !has_failed(compiler); i++) schema_add(compiler, &branches[i], from, to);
    free(branches);
}

/* The rule of what holds together behind a $ref: one for all places that lead there. -1: failed. */
static int32_t find_rule(struct schema_compiler *compiler, const struct conjunction *all) {
    for (int32_t i = 0; i < compiler->n_referred; i++) {
        const struct conjunction *other = &compiler->referred[i].all;
        if (other->n_schemas == all->n_schemas && other->n_groups == all->n_groups &&
            memcmp(other->schemas, all->schemas, (size_t)all->n_schemas * sizeof *all->schemas) == 0 &&
            memcmp(other->groups, all->groups, (size_t)all->n_groups * sizeof *all->groups) == 0)
            return compiler->referred[i].rule;
    }
    if (compiler->n_referred == compiler->referred_capacity) {
        int32_t capacity = compiler->referred_capacity ? compiler->referred_capacity * 2 : 16;
        struct referred *referred = realloc(compiler->referred, (size_t)capacity * sizeof *referred);
        if (!referred) {
            nfa_fail(compiler->nfa, ERR_MEMORY, "No memory for %d schemas.", capacity);
            return -1;
        }
        compiler->referred = referred;
        compiler->referred_capacity = capacity;
    }
    struct referred *referred = &compiler->referred[compiler->n_referred];
    referred->all = *all;
    referred->all.has_followed = false;
    referred->rule = nfa_add_rule(compiler->nfa);
    if (has_failed(compiler)) return -1;
    compiler->n_referred++;
    return referred->rule;
}

void schema_add(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    if (all->is_never || has_failed(compiler)) return;
    if (++compiler->n_parts > SCHEMA_MAX_PARTS) {
        nfa_fail(compiler->nfa, ERR_INVALID, "The schema has more than the %d parts that one may have.",
                 SCHEMA_MAX_PARTS);
        return;
    }
    if (compiler->depth == SCHEMA_MAX_DEPTH) {
        nfa_fail(compiler->nfa, ERR_INVALID, "The schema has more than %d levels.", SCHEMA_MAX_DEPTH);
        return;
    }
    compiler->depth++;
    if (all->has_followed) {
        int32_t rule = find_rule(compiler, all);
        if (rule >= 0) nfa_add_call(compiler->nfa, from, rule, to);
    } else if (all->n_groups > 0) {
        add_group(compiler, all, from, to);
    } else {
        add_plain(compiler, all, from, to);
    }
    compiler->depth--;
}

void schema_add_alone(struct schema_compiler *compiler, const cJSON *schema, int32_t from, int32_t to) {
    struct conjunction all = {.root = compiler->root};
    struct error err = {0};
    if (conjunction_add(&all, schema, &err)) {
        schema_add(compiler, &all, from, to);
    } else {
        schema_fail(compiler, &err);
    }
}

/* --- the whole --- */

cJSON *grammar_parse_json(const char *text, struct error *err) {
    for (const char *at = strchr(text, '\\'); at; at = strchr(at + (at[1] ? 2 : 1), '\\'))
        if (strncmp(at, "\\u0000", 6) == 0) {
            fail(err, ERR_INVALID, "\\u0000 is not supported in a schema.");
            return NULL;
        }
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, strlen(text) + 1, &end, true);
    if (!root) fail(err, ERR_INVALID, "The schema is not valid JSON at offset %d.", (int)(end ? end - text : 0));
    return root;
}

bool schema_finish(struct schema_compiler *compiler, struct error *err) {
    struct nfa *nfa = compiler->nfa;
    for (int32_t i = 0; i < compiler->n_referred && !nfa_has_failed(nfa); i++) {
        struct conjunction all = compiler->referred[i].all; // the list may move
        struct nfa_rule rule = nfa->rules[compiler->referred[i].rule];
        schema_add(compiler, &all, rule.start, rule.end);
    }
    free(compiler->referred);
    return !nfa_has_failed(nfa) || fail(err, nfa->error.code, "%s", nfa->error.message);
}

bool grammar_add_schema(struct nfa *nfa, const char *text, struct error *err) {
    cJSON *root = grammar_parse_json(text, err);
    if (!root) return false;
    struct schema_compiler compiler = {.nfa = nfa, .root = root};
    schema_add_alone(&compiler, root, nfa->rules[0].start, nfa->rules[0].end);
    bool added = schema_finish(&compiler, err);
    cJSON_Delete(root);
    return added;
}

bool grammar_add_object_schema(struct nfa *nfa, struct json_rules *rules, const cJSON *schema, int32_t from, int32_t to,
                               struct error *err) {
    cJSON *object = cJSON_Parse("{\"type\":\"object\"}");
    if (!object) return fail(err, ERR_MEMORY, "No memory for a schema.");
    struct schema_compiler compiler = {.nfa = nfa, .root = schema, .rules = *rules};
    struct conjunction all = {.root = schema};
    struct error why = {0};
    if (conjunction_add(&all, schema, &why) && conjunction_add(&all, object, &why)) {
        schema_add(&compiler, &all, from, to);
    } else {
        schema_fail(&compiler, &why);
    }
    bool added = schema_finish(&compiler, err);
    *rules = compiler.rules;
    cJSON_Delete(object);
    return added;
}
