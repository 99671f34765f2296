/* Which values fit a conjunction, and which conjunctions have no value in common. */
#include "engine/grammar_conjunction.h"
#include "engine/grammar_regex.h"

#include <cjson/cJSON.h>
#include <string.h>

#define MAX_DEPTH 6
#define MAX_PAIRS 20000 // compared for one pair of branches

/* How far a comparison has gone, so that it ends: what is not decided by then counts as not excluded. */
struct search {
    int32_t depth;
    int32_t n_pairs;
};

static bool is_equal(const cJSON *a, const cJSON *b) {
    return cJSON_Compare(a, b, true);
}

static bool is_among(const cJSON *values, const cJSON *value) {
    const cJSON *item;
    cJSON_ArrayForEach(item, values) if (is_equal(item, value)) return true;
    return false;
}

static bool pattern_fits(const char *pattern, const char *text, bool *fits, struct error *err) {
    struct regex regex;
    if (!regex_compile(&regex, pattern, REGEX_SEARCH, err)) return false;
    *fits = regex_fits(&regex, text);
    regex_finish(&regex);
    return true;
}

static bool string_fits(const cJSON *schema, const char *text, bool *fits, struct error *err) {
    const cJSON *min = cJSON_GetObjectItemCaseSensitive(schema, "minLength");
    const cJSON *max = cJSON_GetObjectItemCaseSensitive(schema, "maxLength");
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(schema, "pattern");
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(schema, "format");
    double length = (double)chars_count(text);
    *fits = !(min && length < min->valuedouble) && !(max && length > max->valuedouble);
    if (*fits && pattern && !pattern_fits(pattern->valuestring, text, fits, err)) return false;
    if (*fits && format && !pattern_fits(format_pattern(format->valuestring), text, fits, err)) return false;
    return true;
}

static bool number_fits(const cJSON *schema, double number) {
    const cJSON *bound;
    if ((bound = cJSON_GetObjectItemCaseSensitive(schema, "minimum")) && number < bound->valuedouble) return false;
    if ((bound = cJSON_GetObjectItemCaseSensitive(schema, "maximum")) && number > bound->valuedouble) return false;
    if ((bound = cJSON_GetObjectItemCaseSensitive(schema, "exclusiveMinimum")) && number <= bound->valuedouble)
        return false;
    bound = cJSON_GetObjectItemCaseSensitive(schema, "exclusiveMaximum");
    return !(bound && number >= bound->valuedouble);
}

/* Whether one of the keywords that look inside an object or array is there. */
static bool looks_inside(const cJSON *schema) {
    static const char *const names[] = {"properties", "required", "additionalProperties", "items", "prefixItems",
                                        "minItems",   "maxItems"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (cJSON_GetObjectItemCaseSensitive(schema, names[i])) return true;
    return false;
}

static bool schema_fits(const cJSON *schema, const cJSON *value, const cJSON *origin, bool *fits, struct error *err) {
    const cJSON *only = cJSON_GetObjectItemCaseSensitive(schema, "const");
    const cJSON *values = cJSON_GetObjectItemCaseSensitive(schema, "enum");
    *fits = !(only && !is_equal(only, value)) && !(values && values != origin && !is_among(values, value));
    if (!*fits) return true;
    if (cJSON_IsString(value)) return string_fits(schema, value->valuestring, fits, err);
    if (cJSON_IsNumber(value)) *fits = number_fits(schema, value->valuedouble);
    if ((cJSON_IsObject(value) || cJSON_IsArray(value)) && looks_inside(schema))
        return fail(
            err, ERR_INVALID,
            "An object or array in const or enum beside keywords such as properties or items is not supported.");
    return true;
}

bool conjunction_fits(const struct conjunction *all, const cJSON *value, const cJSON *origin, bool *fits,
                      struct error *err) {
    *fits = !all->is_never && (conjunction_types(all, false) & json_type_of(value)) != 0;
    for (int32_t i = 0; i < all->n_schemas && *fits; i++)
        if (!schema_fits(all->schemas[i], value, origin, fits, err)) return false;
    return true;
}

/* --- exclusion --- */

static bool misses(const struct conjunction *a, const struct conjunction *b, struct search *search);

/* Both with every group decided in each way; all pairs must miss. */
static bool branches_miss(const struct conjunction *a, const struct conjunction *b, struct search *search) {
    const struct conjunction *open = b->n_groups > 0 ? b : a;
    const cJSON *branch;
    cJSON_ArrayForEach(branch, open->groups[0].branches) {
        struct conjunction decided;
        if (!conjunction_decide(open, branch, &decided, NULL)) return false;
        if (!(open == b ? misses(a, &decided, search) : misses(&decided, b, search))) return false;
    }
    return true;
}

/* Whether none of the values of const or enum of `listed` fits `other`. */
static bool values_miss(const struct conjunction *listed, const struct conjunction *other) {
    const cJSON *only = conjunction_find(listed, "const"), *values = conjunction_find(listed, "enum"), *value;
    bool fits;
    if (only) return conjunction_fits(other, only, NULL, &fits, NULL) && !fits;
    cJSON_ArrayForEach(value, values) if (!conjunction_fits(other, value, NULL, &fits, NULL) || fits) return false;
    return true;
}

static bool is_listing(const struct conjunction *all) {
    return conjunction_find(all, "const") || conjunction_find(all, "enum");
}

/* a always writes a property of which b allows nothing that a may write there. */
static bool property_misses(const struct conjunction *a, const struct conjunction *b, struct search *search) {
    for (int32_t i = 0; i < a->n_schemas; i++) {
        const cJSON *required = cJSON_GetObjectItemCaseSensitive(a->schemas[i], "required"), *name;
        cJSON_ArrayForEach(name, required) {
            struct conjunction of_a, of_b;
            bool is_described;
            if (!conjunction_of_property(a, name->valuestring, &of_a, &is_described, NULL) ||
                !conjunction_of_property(b, name->valuestring, &of_b, &is_described, NULL))
                return false;
            if (misses(&of_a, &of_b, search)) return true;
        }
    }
    return false;
}

/* b asks for a property that a never writes. */
static bool lacks_required(const struct conjunction *a, const struct conjunction *b) {
    for (int32_t i = 0; i < b->n_schemas; i++) {
        const cJSON *required = cJSON_GetObjectItemCaseSensitive(b->schemas[i], "required"), *name;
        cJSON_ArrayForEach(name, required) {
            struct conjunction of_a;
            bool is_described;
            if (!conjunction_of_property(a, name->valuestring, &of_a, &is_described, NULL)) return false;
            bool is_written = is_described || conjunction_is_open(a) || conjunction_requires(a, name->valuestring);
            if (!is_written || of_a.is_never) return true;
        }
    }
    return false;
}

static bool plainly_misses(const struct conjunction *a, const struct conjunction *b, struct search *search) {
    int32_t common = conjunction_types(a, true) & conjunction_types(b, false);
    if (common == 0) return true;
    if (is_listing(a) && values_miss(a, b)) return true;
    if (is_listing(b) && values_miss(b, a)) return true;
    if (common == TYPE_OBJECT && (property_misses(a, b, search) || lacks_required(a, b))) return true;
    if (common != TYPE_INTEGER || (conjunction_types(a, true) & TYPE_NUMBER)) return false;
    int64_t low_a, high_a, low_b, high_b;
    conjunction_range(a, &low_a, &high_a);
    conjunction_range(b, &low_b, &high_b);
    return high_a < low_b || high_b < low_a;
}

/* What a can produce is sure not to fit b. */
static bool misses(const struct conjunction *a, const struct conjunction *b, struct search *search) {
    if (a->is_never || b->is_never) return true;
    if (search->depth == MAX_DEPTH || ++search->n_pairs > MAX_PAIRS) return false;
    search->depth++;
    bool result = plainly_misses(a, b, search) || ((a->n_groups > 0 || b->n_groups > 0) && branches_miss(a, b, search));
    search->depth--;
    return result;
}

bool conjunctions_exclude(const struct conjunction *a, const struct conjunction *b) {
    struct search search = {0};
    return misses(a, b, &search) && misses(b, a, &search);
}
