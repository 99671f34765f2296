#include "engine/grammar_conjunction.h"

#include "engine/grammar_json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- keywords --- */

enum shape { IGNORED, LEADS, TYPES, STRING, COUNT, NUMBER, SCHEMA, SCHEMAS, MAP, NAMES, VALUES, VALUE };

/* In the order of what a message lists. LEADS and IGNORED say nothing about a value themselves. */
static const struct keyword {
    const char *name;
    enum shape shape;
    int32_t types; // that it speaks of
} keywords[] = {
    {"type", TYPES, 0},
    {"properties", MAP, TYPE_OBJECT},
    {"required", NAMES, TYPE_OBJECT},
    {"additionalProperties", SCHEMA, TYPE_OBJECT},
    {"items", SCHEMA, TYPE_ARRAY},
    {"prefixItems", SCHEMAS, TYPE_ARRAY},
    {"minItems", COUNT, TYPE_ARRAY},
    {"maxItems", COUNT, TYPE_ARRAY},
    {"enum", VALUES, 0},
    {"const", VALUE, 0},
    {"anyOf", LEADS, 0},
    {"oneOf", LEADS, 0},
    {"allOf", LEADS, 0},
    {"$ref", LEADS, 0},
    {"$defs", IGNORED, 0},
    {"definitions", IGNORED, 0},
    {"minLength", COUNT, TYPE_STRING},
    {"maxLength", COUNT, TYPE_STRING},
    {"pattern", STRING, TYPE_STRING},
    {"format", STRING, TYPE_STRING},
    {"minimum", NUMBER, TYPE_INTEGER | TYPE_NUMBER},
    {"maximum", NUMBER, TYPE_INTEGER | TYPE_NUMBER},
    {"exclusiveMinimum", NUMBER, TYPE_INTEGER | TYPE_NUMBER},
    {"exclusiveMaximum", NUMBER, TYPE_INTEGER | TYPE_NUMBER},
    {"title", IGNORED, 0},
    {"description", IGNORED, 0},
    {"default", IGNORED, 0},
    {"examples", IGNORED, 0},
    {"$schema", IGNORED, 0},
    {"$id", IGNORED, 0},
    {"$comment", IGNORED, 0},
    {"deprecated", IGNORED, 0},
    {"readOnly", IGNORED, 0},
    {"writeOnly", IGNORED, 0},
};
#define N_KEYWORDS (sizeof keywords / sizeof *keywords)

static const struct {
    const char *name;
    int32_t type;
} type_names[] = {
    {"null", TYPE_NULL},   {"boolean", TYPE_BOOLEAN}, {"string", TYPE_STRING}, {"number", TYPE_NUMBER | TYPE_INTEGER},
    {"array", TYPE_ARRAY}, {"integer", TYPE_INTEGER}, {"object", TYPE_OBJECT},
};

static int32_t type_of_name(const cJSON *name) {
    for (size_t i = 0; cJSON_IsString(name) && i < sizeof type_names / sizeof *type_names; i++)
        if (strcmp(name->valuestring, type_names[i].name) == 0) return type_names[i].type;
    return 0;
}

/* Of a type keyword: a name or a list of names; 0 when it is neither. */
static int32_t types_of(const cJSON *type) {
    if (!cJSON_IsArray(type)) return type_of_name(type);
    int32_t types = 0;
    const cJSON *name;
    cJSON_ArrayForEach(name, type) {
        if (type_of_name(name) == 0) return 0;
        types |= type_of_name(name);
    }
    return types;
}

int32_t json_type_of(const cJSON *value) {
    if (cJSON_IsNull(value)) return TYPE_NULL;
    if (cJSON_IsBool(value)) return TYPE_BOOLEAN;
    if (cJSON_IsNumber(value)) return value->valuedouble == floor(value->valuedouble) ? TYPE_INTEGER : TYPE_NUMBER;
    if (cJSON_IsString(value)) return TYPE_STRING;
    return cJSON_IsArray(value) ? TYPE_ARRAY : TYPE_OBJECT;
}

const char *format_pattern(const char *format) {
#define DATE                                                                                                           \
    "([1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"   \
    "|([1-9]\\d(0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
#define TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define HEX  "[0-9A-Fa-f]"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,31}"
    static const char *const patterns[][2] = {
        {"date-time", "^" DATE "T" TIME "$"},
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"uuid", "^" HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}$"},
        {"email", "^" ATOM "(\\." ATOM ")?@([A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){1,4}[A-Za-z]{2,16}$"},
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (strcmp(format, patterns[i][0]) == 0) return patterns[i][1];
    return NULL;
}

static bool is_schema(const cJSON *value) {
    return cJSON_IsObject(value) || cJSON_IsBool(value);
}

static bool check_shape(const cJSON *value, enum shape shape, struct error *err) {
    const char *name = value->string;
    const cJSON *item;
    switch (shape) {
    case IGNORED:
    case VALUE:
        return true;
    case TYPES:
        return types_of(value) != 0 ||
               fail(err, ERR_INVALID,
                    "type must be null, boolean, integer, number, string, array or object, or an "
                    "array of some of these.");
    case STRING:
        if (!cJSON_IsString(value)) return fail(err, ERR_INVALID, "%s must be a string.", name);
        if (strcmp(name, "format") == 0 && !format_pattern(value->valuestring))
            return fail(err, ERR_INVALID,
                        "The format \"%.60s\" is not supported; date-time, date, time, uuid and email are.",
                        value->valuestring);
        return true;
    case COUNT:
        return (cJSON_IsNumber(value) && value->valuedouble >= 0 && value->valuedouble == floor(value->valuedouble)) ||
               fail(err, ERR_INVALID, "%s must be a whole number, not negative.", name);
    case NUMBER:
        return cJSON_IsNumber(value) || fail(err, ERR_INVALID, "%s must be a number.", name);
    case SCHEMA:
        return is_schema(value) || fail(err, ERR_INVALID, "%s must be a schema: an object, true or false.", name);
    case MAP:
        return cJSON_IsObject(value) || fail(err, ERR_INVALID, "%s must be an object of schemas.", name);
    case VALUES:
        return (cJSON_IsArray(value) && value->child) ||
               fail(err, ERR_INVALID, "%s must be an array of one or more values.", name);
    case LEADS:
        if (strcmp(name, "$ref") == 0) return cJSON_IsString(value) || fail(err, ERR_INVALID, "$ref must be a string.");
        /* fall through */
    case SCHEMAS:
        if (!cJSON_IsArray(value) || !value->child)
            return fail(err, ERR_INVALID, "%s must be an array of one or more schemas.", name);
        return true;
    case NAMES:
        if (!cJSON_IsArray(value)) return fail(err, ERR_INVALID, "%s must be an array of strings.", name);
        cJSON_ArrayForEach(item, value) if (!cJSON_IsString(item)) return fail(err, ERR_INVALID,
                                                                               "%s must be an array of strings.", name);
        return true;
    }
    return false;
}

static const struct keyword *find_keyword(const char *name) {
    for (size_t i = 0; i < N_KEYWORDS; i++)
        if (strcmp(name, keywords[i].name) == 0) return &keywords[i];
    return NULL;
}

static bool refuse_keyword(const char *name, struct error *err) {
    char known[400] = "";
    size_t length = 0;
    for (size_t i = 0; i < N_KEYWORDS && strcmp(keywords[i].name, "title") != 0; i++)
        length += (size_t)snprintf(known + length, sizeof known - length, "%s%s", i > 0 ? ", " : "", keywords[i].name);
    return fail(err, ERR_INVALID, "The schema keyword \"%.60s\" is not supported; these are: %s.", name, known);
}

/* Checks a schema's own keywords; *says: one of them limits values by itself. */
static bool check_keywords(const cJSON *schema, bool *says, struct error *err) {
    const cJSON *member;
    bool seen[N_KEYWORDS] = {false};
    *says = false;
    cJSON_ArrayForEach(member, schema) {
        const struct keyword *keyword = find_keyword(member->string);
        if (!keyword) return refuse_keyword(member->string, err);
        if (seen[keyword - keywords]) return fail(err, ERR_INVALID, "A schema has %s twice.", member->string);
        seen[keyword - keywords] = true;
        if (!check_shape(member, keyword->shape, err)) return false;
        if (keyword->shape != IGNORED && keyword->shape != LEADS) *says = true;
    }
    return true;
}

/* --- $ref --- */

/* One part of a pointer, %XX and ~0 ~1 decoded, until the next '/'. */
static bool next_part(const char **at, char *part, size_t size) {
    size_t length = 0;
    for (; **at && **at != '/'; (*at)++) {
        char c = **at;
        if (c == '%') {
            char digits[3] = {(*at)[1], (*at)[1] ? (*at)[2] : '\0', '\0'};
            char *end;
            c = (char)strtol(digits, &end, 16);
            if (end != digits + 2 || c == '\0') return false;
            *at += 2;
        }
        if (c == '~') {
            (*at)++;
            if (**at != '0' && **at != '1') return false;
            c = **at == '0' ? '~' : '/';
        }
        if (length + 1 == size) return false;
        part[length++] = c;
    }
    part[length] = '\0';
    if (**at) (*at)++;
    return true;
}

static const cJSON *follow(const cJSON *root, const char *ref, struct error *err) {
    const cJSON *target = root;
    char part[256];
    if (ref[0] != '#' || (ref[1] && ref[1] != '/')) {
        fail(err, ERR_INVALID,
             "The $ref \"%.60s\" is not supported: only those within the schema are, as \"#/$defs/name\".", ref);
        return NULL;
    }
    const char *at = ref + (ref[1] ? 2 : 1);
    bool is_over = ref[1] == '\0';
    while (!is_over && target) {
        bool parsed = next_part(&at, part, sizeof part);
        is_over = *at == '\0' && at[-1] != '/';
        if (!parsed) {
            target = NULL;
        } else if (cJSON_IsArray(target)) {
            char *end;
            long index = strtol(part, &end, 10);
            target = part[0] >= '0' && part[0] <= '9' && *end == '\0' && index < 100000
                         ? cJSON_GetArrayItem(target, (int)index)
                         : NULL;
        } else {
            target = cJSON_IsObject(target) ? cJSON_GetObjectItemCaseSensitive(target, part) : NULL;
        }
    }
    if (!target || !is_schema(target)) {
        fail(err, ERR_INVALID, "The $ref \"%.60s\" leads to no schema.", ref);
        return NULL;
    }
    return target;
}

/* --- adding --- */

static bool is_listed(const cJSON *const *list, int32_t count, const cJSON *schema) {
    for (int32_t i = 0; i < count; i++)
        if (list[i] == schema) return true;
    return false;
}

static bool too_many(struct error *err) {
    return fail(err, ERR_INVALID, "More than %d schemas or %d of anyOf and oneOf hold together by allOf and $ref.",
                CONJUNCTION_MAX_SCHEMAS, CONJUNCTION_MAX_GROUPS);
}

static bool add_group(struct conjunction *all, const cJSON *holder, const char *keyword, struct error *err) {
    const cJSON *branches = cJSON_GetObjectItemCaseSensitive(holder, keyword);
    if (!branches) return true;
    for (int32_t i = 0; i < all->n_groups; i++)
        if (all->groups[i].branches == branches) return true;
    if (all->n_groups == CONJUNCTION_MAX_GROUPS) return too_many(err);
    all->groups[all->n_groups++] = (struct schema_group){branches, holder};
    return true;
}

static bool add_led_to(struct conjunction *all, const cJSON *schema, struct error *err) {
    const cJSON *ref = cJSON_GetObjectItemCaseSensitive(schema, "$ref");
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(schema, "allOf"), *part;
    if (ref) {
        const cJSON *target = follow(all->root, ref->valuestring, err);
        all->has_followed = true;
        if (!target || !conjunction_add(all, target, err)) return false;
    }
    cJSON_ArrayForEach(part, parts) if (!conjunction_add(all, part, err)) return false;
    return add_group(all, schema, "anyOf", err) && add_group(all, schema, "oneOf", err);
}

bool conjunction_add(struct conjunction *all, const cJSON *schema, struct error *err) {
    if (cJSON_IsBool(schema)) {
        all->is_never = all->is_never || cJSON_IsFalse(schema);
        return true;
    }
    if (!cJSON_IsObject(schema)) return fail(err, ERR_INVALID, "A schema must be an object, true or false.");
    if (is_listed(all->path, all->n_path, schema))
        return fail(err, ERR_INVALID, "A $ref leads back to itself with no value between.");
    if (is_listed(all->schemas, all->n_schemas, schema)) return true;
    bool says;
    if (!check_keywords(schema, &says, err)) return false;
    if (all->n_path == CONJUNCTION_MAX_SCHEMAS || all->n_schemas == CONJUNCTION_MAX_SCHEMAS) return too_many(err);
    if (says) all->schemas[all->n_schemas++] = schema;
    all->path[all->n_path++] = schema;
    bool added = add_led_to(all, schema, err);
    all->n_path--;
    return added;
}

bool conjunction_decide(const struct conjunction *all, const cJSON *branch, struct conjunction *decided,
                        struct error *err) {
    *decided = *all;
    decided->n_groups--;
    memmove(decided->groups, decided->groups + 1, (size_t)decided->n_groups * sizeof *decided->groups);
    if (decided->n_path == CONJUNCTION_MAX_SCHEMAS) return too_many(err);
    decided->path[decided->n_path++] = all->groups[0].holder;
    return conjunction_add(decided, branch, err);
}

/* --- asking --- */

static const cJSON *get(const struct conjunction *all, int32_t i, const char *keyword) {
    return cJSON_GetObjectItemCaseSensitive(all->schemas[i], keyword);
}

int32_t conjunction_types(const struct conjunction *all, bool is_inferred) {
    int32_t types = TYPE_ALL, spoken_of = 0;
    bool is_given = false;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *member;
        cJSON_ArrayForEach(member, all->schemas[i]) {
            const struct keyword *keyword = find_keyword(member->string);
            spoken_of |= keyword->types;
            if (keyword->shape != TYPES) continue;
            types &= types_of(member);
            is_given = true;
        }
    }
    return is_inferred && !is_given && spoken_of ? spoken_of : types;
}

const cJSON *conjunction_find(const struct conjunction *all, const char *keyword) {
    for (int32_t i = 0; i < all->n_schemas; i++)
        if (get(all, i, keyword)) return get(all, i, keyword);
    return NULL;
}

int32_t conjunction_count(const struct conjunction *all, const char *keyword) {
    int32_t count = 0;
    for (int32_t i = 0; i < all->n_schemas; i++) count += get(all, i, keyword) != NULL;
    return count;
}

static int64_t whole(double value) {
    return value > JSON_MAX_INTEGER ? JSON_MAX_INTEGER : value < -JSON_MAX_INTEGER ? -JSON_MAX_INTEGER : (int64_t)value;
}

int64_t conjunction_largest(const struct conjunction *all, const char *keyword, int64_t unless_given) {
    int64_t largest = unless_given;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *value = get(all, i, keyword);
        if (value && whole(value->valuedouble) > largest) largest = whole(value->valuedouble);
    }
    return largest;
}

int64_t conjunction_smallest(const struct conjunction *all, const char *keyword, int64_t unless_given) {
    int64_t smallest = INT64_MAX;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *value = get(all, i, keyword);
        if (value && whole(value->valuedouble) < smallest) smallest = whole(value->valuedouble);
    }
    return smallest == INT64_MAX ? unless_given : smallest;
}

/* A bound past 2^53 may have been rounded outwards: one double further in is safe. */
static double inwards(double bound, double direction) {
    return fabs(bound) > JSON_EXACT ? nextafter(bound, direction) : bound;
}

void conjunction_range(const struct conjunction *all, int64_t *low, int64_t *high) {
    *low = -JSON_MAX_INTEGER;
    *high = JSON_MAX_INTEGER;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *bound;
        int64_t at_least = *low, at_most = *high;
        if ((bound = get(all, i, "minimum"))) at_least = whole(ceil(inwards(bound->valuedouble, INFINITY)));
        if (at_least > *low) *low = at_least;
        if ((bound = get(all, i, "exclusiveMinimum")))
            at_least = whole(floor(inwards(bound->valuedouble, INFINITY))) + 1;
        if (at_least > *low) *low = at_least;
        if ((bound = get(all, i, "maximum"))) at_most = whole(floor(inwards(bound->valuedouble, -INFINITY)));
        if (at_most < *high) *high = at_most;
        if ((bound = get(all, i, "exclusiveMaximum")))
            at_most = whole(ceil(inwards(bound->valuedouble, -INFINITY))) - 1;
        if (at_most < *high) *high = at_most;
    }
}

struct json_range conjunction_bounds(const struct conjunction *all) {
    struct json_range range = {-INFINITY, INFINITY, false, false};
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *bound;
        if ((bound = get(all, i, "minimum")) && bound->valuedouble > range.low)
            range.low = bound->valuedouble, range.excludes_low = false;
        if ((bound = get(all, i, "exclusiveMinimum")) && bound->valuedouble >= range.low)
            range.low = bound->valuedouble, range.excludes_low = true;
        if ((bound = get(all, i, "maximum")) && bound->valuedouble < range.high)
            range.high = bound->valuedouble, range.excludes_high = false;
        if ((bound = get(all, i, "exclusiveMaximum")) && bound->valuedouble <= range.high)
            range.high = bound->valuedouble, range.excludes_high = true;
    }
    return range;
}

bool conjunction_of_property(const struct conjunction *all, const char *name, struct conjunction *property,
                             bool *is_described, struct error *err) {
    *property = (struct conjunction){.root = all->root};
    *is_described = false;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *properties = get(all, i, "properties"), *others = get(all, i, "additionalProperties");
        const cJSON *schema = name && properties ? cJSON_GetObjectItemCaseSensitive(properties, name) : NULL;
        if (schema) *is_described = true;
        if (!schema) schema = others;
        if (schema && !conjunction_add(property, schema, err)) return false;
    }
    return true;
}

bool conjunction_requires(const struct conjunction *all, const char *name) {
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *required = get(all, i, "required"), *item;
        cJSON_ArrayForEach(item, required) if (strcmp(item->valuestring, name) == 0) return true;
    }
    return false;
}

bool conjunction_is_open(const struct conjunction *all) {
    bool is_said = false;
    for (int32_t i = 0; i < all->n_schemas; i++) {
        const cJSON *others = get(all, i, "additionalProperties");
        if (cJSON_IsFalse(others)) return false;
        if (others) is_said = true;
    }
    return is_said || !conjunction_find(all, "properties");
}
