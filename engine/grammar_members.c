/* Arrays and objects of schemas. */
#include "engine/grammar_schema_parts.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* --- arrays --- */

struct array {
    const cJSON *prefix;     // next schema of prefixItems, NULL: none left
    struct conjunction rest; // of items behind the prefix
    int32_t rest_rule;       // when there are several copies of rest; -1: none
    int64_t min, max;        // items; max REGEX_ENDLESS: no limit
    int64_t n_prefix;
};

static bool read_array(const struct conjunction *all, struct array *array, struct error *err) {
    const cJSON *prefix = conjunction_find(all, "prefixItems"), *items = conjunction_find(all, "items");
    int32_t n_holders = 0; // schemas that speak of items
    for (int32_t i = 0; i < all->n_schemas; i++)
        n_holders += cJSON_GetObjectItemCaseSensitive(all->schemas[i], "prefixItems") != NULL ||
                     cJSON_GetObjectItemCaseSensitive(all->schemas[i], "items") != NULL;
    if (prefix && n_holders > 1)
        return fail(err, ERR_INVALID, "prefixItems does not merge with items or prefixItems of another schema.");
    *array = (struct array){.prefix = prefix ? prefix->child : NULL,
                            .rest = {.root = all->root},
                            .rest_rule = -1,
                            .n_prefix = prefix ? cJSON_GetArraySize(prefix) : 0,
                            .min = conjunction_largest(all, "minItems", 0),
                            .max = conjunction_smallest(all, "maxItems", REGEX_ENDLESS)};
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *schema = cJSON_GetObjectItemCaseSensitive(all->schemas[i], "items");
        if (schema && !conjunction_add(&array->rest, schema, err)) return false;
    }
    bool is_closed = array->rest.is_never || (prefix && !items && array->min <= array->n_prefix);
    if (is_closed && (array->max == REGEX_ENDLESS || array->max > array->n_prefix)) array->max = array->n_prefix;
    return true;
}

static void add_item(struct schema_compiler *compiler, struct array *array, int32_t from, int32_t to) {
    if (array->prefix) {
        schema_add_alone(compiler, array->prefix, from, to);
        array->prefix = array->prefix->next;
    } else if (array->rest_rule >= 0) {
        nfa_add_call(compiler->nfa, from, array->rest_rule, to);
    } else {
        schema_add(compiler, &array->rest, from, to);
    }
}

void schema_add_array(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    struct nfa *nfa = compiler->nfa;
    struct array array;
    struct error err = {0};
    if (!read_array(all, &array, &err)) {
        schema_fail(compiler, &err);
        return;
    }
    bool is_endless = array.max == REGEX_ENDLESS;
    int64_t n_counted = !is_endless ? array.max : array.min > array.n_prefix ? array.min : array.n_prefix;
    if (n_counted > NFA_MAX_STATES) {
        nfa_fail(nfa, ERR_INVALID, "An array of %lld items is more than a grammar can count.", (long long)n_counted);
        return;
    }
    if (!is_endless && array.min > array.max) return;
    if (n_counted + is_endless - array.n_prefix > 1) {
        array.rest_rule = nfa_add_rule(nfa);
        if (nfa_has_failed(nfa)) return;
        struct nfa_rule rule = nfa->rules[array.rest_rule];
        schema_add(compiler, &array.rest, rule.start, rule.end);
    }
    int32_t at = nfa_add_state(nfa); // n items are read
    nfa_add_byte(nfa, from, '[', at);
    for (int64_t n = 0; n <= n_counted && !nfa_has_failed(nfa); n++) {
        if (n >= array.min) nfa_add_byte(nfa, at, ']', to);
        bool is_last = n == n_counted;
        if (is_last && !is_endless) break;
        int32_t item = nfa_add_state(nfa), after = nfa_add_state(nfa);
        if (n == 0) {
            nfa_add_epsilon(nfa, at, item);
        } else {
            json_add_comma(nfa, at, item);
        }
        add_item(compiler, &array, item, after);
        if (is_last) {
            json_add_comma(nfa, after, item);
            nfa_add_byte(nfa, after, ']', to);
        }
        at = after;
    }
}

/* --- objects --- */

struct names {
    const char **all; // [count] in the order of the object, owned
    int32_t count;
    int32_t capacity;
};

static bool add_name(struct names *names, const char *name, struct error *err) {
    for (int32_t i = 0; i < names->count; i++)
        if (strcmp(names->all[i], name) == 0) return true;
    if (names->count == SCHEMA_MAX_PROPERTIES)
        return fail(err, ERR_INVALID, "An object has more than the %d properties that one may have.",
                    SCHEMA_MAX_PROPERTIES);
    if (strlen(name) > SCHEMA_MAX_NAME)
        return fail(err, ERR_INVALID, "A property's name has %zu bytes, the limit is %d.", strlen(name),
                    SCHEMA_MAX_NAME);
    if (names->count == names->capacity) {
        int32_t capacity = names->capacity ? names->capacity * 2 : 16;
        const char **all = realloc(names->all, (size_t)capacity * sizeof *all);
        if (!all) return fail(err, ERR_MEMORY, "No memory for %d names.", capacity);
        names->all = all;
        names->capacity = capacity;
    }
    names->all[names->count++] = name;
    return true;
}

/* Described properties in the order of the schemas, then those that are only required. */
static bool collect_names(const struct conjunction *all, struct names *names, struct error *err) {
    const cJSON *item;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *properties = cJSON_GetObjectItemCaseSensitive(all->schemas[i], "properties");
        int32_t before = names->count, n_properties = 0;
        cJSON_ArrayForEach(item, properties) {
            n_properties++;
            if (!add_name(names, item->string, err)) return false;
        }
        if (i == 0 && names->count - before != n_properties)
            return fail(err, ERR_INVALID, "An object of properties has a name twice.");
    }
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *required = cJSON_GetObjectItemCaseSensitive(all->schemas[i], "required");
        cJSON_ArrayForEach(item, required) if (!add_name(names, item->valuestring, err)) return false;
    }
    return true;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The places before the next member: in an object that is empty as yet, and in one that is not. -1: there is none. */
struct member_places {
    int32_t first;
    int32_t more;
};

/* A state that is reached from both, with a comma from the latter. */
static int32_t add_entry(struct nfa *nfa, struct member_places places) {
    int32_t key = nfa_add_state(nfa);
    if (places.first >= 0) nfa_add_epsilon(nfa, places.first, key);
    if (places.more >= 0) json_add_comma(nfa, places.more, key);
    return key;
}

static bool add_member(struct schema_compiler *compiler, const struct conjunction *all, const char *name,
                       struct member_places *places, struct error *err) {
    struct nfa *nfa = compiler->nfa;
    struct conjunction property;
    bool is_described, is_required = conjunction_requires(all, name);
    if (!conjunction_of_property(all, name, &property, &is_described, err)) return false;
    if (property.is_never && !is_required) return true;
    int32_t key = add_entry(nfa, *places), value = nfa_add_state(nfa), after = nfa_add_state(nfa);
    json_add_key(nfa, key, name, value);
    schema_add(compiler, &property, value, after);
    if (is_required) {
        places->first = -1;
    } else if (places->more >= 0) {
        nfa_add_epsilon(nfa, places->more, after);
    }
    places->more = after;
    return !nfa_has_failed(nfa) || fail(err, nfa->error.code, "%s", nfa->error.message);
}

/* Any number of members with other names. */
static bool add_others(struct schema_compiler *compiler, const struct conjunction *all, struct names *names,
                       struct member_places *places, struct error *err) {
    struct nfa *nfa = compiler->nfa;
    struct conjunction others;
    bool is_described;
    if (!conjunction_of_property(all, NULL, &others, &is_described, err)) return false;
    if (others.is_never) return true;
    if (names->count > 0) qsort(names->all, (size_t)names->count, sizeof *names->all, compare_names);
    int32_t key = add_entry(nfa, *places), value = nfa_add_state(nfa), after = nfa_add_state(nfa);
    json_add_other_key(nfa, key, names->all, names->count, value);
    schema_add(compiler, &others, value, after);
    json_add_comma(nfa, after, key);
    if (places->more >= 0) nfa_add_epsilon(nfa, places->more, after);
    places->more = after;
    return true;
}

void schema_add_object(struct schema_compiler *compiler, const struct conjunction *all, int32_t from, int32_t to) {
    struct nfa *nfa = compiler->nfa;
    struct names names = {0};
    struct error err = {0};
    struct member_places places = {nfa_add_state(nfa), -1};
    nfa_add_byte(nfa, from, '{', places.first);
    bool added = collect_names(all, &names, &err);
    for (int32_t i = 0; i < names.count && added; i++) added = add_member(compiler, all, names.all[i], &places, &err);
    if (added && conjunction_is_open(all)) added = add_others(compiler, all, &names, &places, &err);
    if (!added) schema_fail(compiler, &err);
    if (places.first >= 0) nfa_add_byte(nfa, places.first, '}', to);
    if (places.more >= 0) nfa_add_byte(nfa, places.more, '}', to);
    free(names.all);
}
