#include "engine/grammar_calls.h"

#include "engine/grammar_schema_parts.h"

#include <cjson/cJSON.h>
#include <string.h>

/* What ends a text: its first byte is nowhere else in it. */
static const char text_end[] = "\n</parameter>";

struct xml_compiler {
    struct schema_compiler schema; // of the tool at hand
    int32_t free_text;             // rule: any text and its end; 0: not made yet
};

static void add_literal_text(struct nfa *nfa, int32_t *at, const char *text) {
    int32_t next = nfa_add_state(nfa);
    nfa_add_text(nfa, *at, text, strlen(text), next);
    *at = next;
}

/* --- texts --- */

/* from --any character but these two--> to */
static void add_others(struct nfa *nfa, int32_t from, char a, char b, int32_t to) {
    struct char_set set = {0};
    bool made = char_set_add(&set, 0, 0) && char_set_add(&set, (uint32_t)a, (uint32_t)a) &&
                char_set_add(&set, (uint32_t)b, (uint32_t)b);
    char_set_normalise(&set);
    if (made && char_set_negate(&set))
        nfa_add_chars(nfa, from, &set, CHARS_UTF8, to);
    else
        nfa_fail(nfa, ERR_MEMORY, "No memory for a set of characters.");
    char_set_finish(&set);
}

/* from --any text, up to its end and with it--> to */
static void add_free_text(struct xml_compiler *compiler, int32_t from, int32_t to) {
    struct nfa *nfa = compiler->schema.nfa;
    if (compiler->free_text == 0) {
        enum { LENGTH = sizeof text_end - 1 };
        int32_t places[LENGTH + 1]; // so many bytes of the end have come
        int32_t rule = compiler->free_text = nfa_add_rule(nfa);
        if (nfa_has_failed(nfa)) return;
        places[0] = nfa->rules[rule].start;
        for (int i = 1; i < LENGTH; i++) places[i] = nfa_add_state(nfa);
        places[LENGTH] = nfa->rules[rule].end;
        for (int i = 0; i < LENGTH; i++) {
            nfa_add_byte(nfa, places[i], text_end[i], places[i + 1]);
            if (i > 0) nfa_add_byte(nfa, places[i], text_end[0], places[1]);
            add_others(nfa, places[i], text_end[0], text_end[i], places[0]);
        }
    }
    nfa_add_call(nfa, from, compiler->free_text, to);
}

/* --- strings, which stand bare --- */

static bool is_listed(const struct conjunction *all) {
    return conjunction_find(all, "const") || conjunction_find(all, "enum");
}

/* One that may be any text. */
static bool is_free_string(const struct conjunction *all) {
    static const char *const keywords[] = {"const", "enum", "pattern", "format", "minLength", "maxLength"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (conjunction_find(all, keywords[i])) return false;
    return true;
}

static bool add_listed_string(struct nfa *nfa, const struct conjunction *all, const cJSON *value, const cJSON *origin,
                              int32_t from, int32_t to, struct error *err) {
    bool fits;
    if (!conjunction_fits(all, value, origin, &fits, err)) return false;
    if (!fits) return true;
    if (strstr(value->valuestring, text_end)) return fail(err, ERR_INVALID, "a value must not hold </parameter>");
    if (value->valuestring[0])
        nfa_add_string(nfa, from, value->valuestring, CHARS_UTF8, to);
    else
        nfa_add_epsilon(nfa, from, to);
    return true;
}

static bool add_listed_strings(struct nfa *nfa, const struct conjunction *all, int32_t from, int32_t to,
                               struct error *err) {
    const cJSON *only = conjunction_find(all, "const"), *values = conjunction_find(all, "enum"), *value;
    if (only) return add_listed_string(nfa, all, only, NULL, from, to, err);
    cJSON_ArrayForEach(value, values) if (!add_listed_string(nfa, all, value, values, from, to, err)) return false;
    return true;
}

/* Without line breaks, so that the end is none of it. */
static bool remove_line_breaks(struct regex *regex) {
    for (int32_t i = 0; i < regex->n_sets; i++) {
        struct char_set *set = &regex->sets[i];
        if (!char_set_negate(set) || !char_set_add(set, '\n', '\n')) return false;
        char_set_normalise(set);
        if (!char_set_negate(set)) return false;
    }
    return true;
}

static bool add_bound_string(struct nfa *nfa, const struct conjunction *all, int32_t from, int32_t to,
                             struct error *err) {
    int64_t min = conjunction_largest(all, "minLength", 0), max = conjunction_smallest(all, "maxLength", REGEX_ENDLESS);
    const cJSON *pattern = conjunction_find(all, "pattern"), *format = conjunction_find(all, "format");
    if (max != REGEX_ENDLESS && min > max) return true;
    if (conjunction_count(all, "pattern") + conjunction_count(all, "format") > 1)
        return fail(err, ERR_INVALID, "a string with more than one pattern or format is not supported");
    struct regex regex;
    const char *expression = pattern ? pattern->valuestring : format ? format_pattern(format->valuestring) : "";
    if (!regex_compile(&regex, expression, REGEX_SEARCH, err)) return false;
    if (remove_line_breaks(&regex)) {
        nfa_add_regex(nfa, from, &(struct regex_use){&regex, CHARS_UTF8, min, max}, to);
    } else {
        nfa_fail(nfa, ERR_MEMORY, "No memory for a set of characters.");
    }
    regex_finish(&regex);
    return true;
}

/* --- a parameter's value --- */

/* How the value of a schema is written. */
enum value_form {
    VALUE_UNCLEAR, // who reads the call could not tell what is meant
    VALUE_TEXT,    // any text
    VALUE_STRING,  // a string that must fit, bare
    VALUE_JSON,    // no string
};

/* Without a type, text that spells an array or an object is read as that. */
static bool is_bare_string(const cJSON *value, bool has_type) {
    return cJSON_IsString(value) && (has_type || !strchr("[{", value->valuestring[0]));
}

static bool are_strings(const struct conjunction *all, bool has_type) {
    const cJSON *only = conjunction_find(all, "const"), *value;
    if (only) return is_bare_string(only, has_type);
    cJSON_ArrayForEach(value, conjunction_find(all, "enum")) if (!is_bare_string(value, has_type)) return false;
    return true;
}

/* What a $ref to a definition leads to, as who reads the call follows it; NULL: elsewhere. */
static const cJSON *resolve(const cJSON *root, const cJSON *schema) {
    enum { MAX_STEPS = 2 };
    static const char *const places[] = {"$defs", "definitions"};
    for (int step = 0;; step++) {
        const cJSON *ref = cJSON_GetObjectItemCaseSensitive(schema, "$ref"), *found = NULL;
        if (!ref || cJSON_HasObjectItem(schema, "type")) return schema;
        for (int i = 0; i < 2 && step < MAX_STEPS && !strpbrk(ref->valuestring, "~%"); i++) {
            size_t length = strlen(places[i]);
            if (strncmp(ref->valuestring, "#/", 2) == 0 && strncmp(ref->valuestring + 2, places[i], length) == 0 &&
                ref->valuestring[2 + length] == '/')
                found = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, places[i]),
                                                         ref->valuestring + 3 + length);
        }
        if (!found) return NULL;
        schema = found;
    }
}

/* By what its own text says, for so it is read: a type, or branches that have one each. */
static enum value_form form_of(const cJSON *schema, const struct conjunction *all);

static enum value_form form_of_branches(const cJSON *schema, const struct conjunction *all) {
    enum { MAX_BRANCHES = 16 };
    const cJSON *branches = cJSON_GetObjectItemCaseSensitive(schema, "anyOf"), *branch;
    if (!branches) branches = cJSON_GetObjectItemCaseSensitive(schema, "oneOf");
    int n_json = 0, n_plain = 0, n_text = 0, n = 0;
    cJSON_ArrayForEach(branch, branches) {
        struct conjunction decided;
        const cJSON *meant = resolve(all->root, branch);
        if (!meant || all->n_groups != 1 || ++n > MAX_BRANCHES || !conjunction_decide(all, branch, &decided, NULL) ||
            !cJSON_HasObjectItem(meant, "type") || decided.n_groups > 0 || decided.is_never)
            return VALUE_UNCLEAR;
        enum value_form form = form_of(branch, &decided);
        int32_t types = conjunction_types(&decided, true);
        n_plain += (types & ~(TYPE_NULL | TYPE_BOOLEAN)) == 0 && !is_listed(&decided);
        n_json += form == VALUE_JSON;
        n_text += form == VALUE_TEXT;
    }
    if (n_json == n && n > 0) return VALUE_JSON;
    // null, true and false are read as what they are, and both ways they fit.
    return n_text > 0 && n_text + n_plain == n ? VALUE_TEXT : VALUE_UNCLEAR;
}

static enum value_form form_of(const cJSON *schema, const struct conjunction *all) {
    if (all->n_schemas == 0 && all->n_groups == 0) return VALUE_TEXT;
    schema = resolve(all->root, schema);
    if (!schema) return VALUE_UNCLEAR;
    bool has_type = cJSON_HasObjectItem(schema, "type");
    if (all->n_groups > 0) return has_type ? VALUE_UNCLEAR : form_of_branches(schema, all);
    int32_t types = conjunction_types(all, true);
    if (is_listed(all) && are_strings(all, has_type) && (!has_type || types == TYPE_STRING)) return VALUE_STRING;
    if (!has_type) return VALUE_UNCLEAR;
    if (!(types & TYPE_STRING)) return VALUE_JSON;
    if (types == TYPE_STRING) return is_free_string(all) ? VALUE_TEXT : VALUE_STRING;
    bool is_plain = (types & ~(TYPE_STRING | TYPE_NULL | TYPE_BOOLEAN)) == 0 && is_free_string(all);
    return is_plain ? VALUE_TEXT : VALUE_UNCLEAR;
}

/* from --the value, the line break before its end tag, and that--> to */
static bool add_value(struct xml_compiler *compiler, const cJSON *schema, const struct conjunction *all, int32_t from,
                      int32_t to, struct error *err) {
    struct nfa *nfa = compiler->schema.nfa;
    enum value_form form = form_of(schema, all);
    if (form == VALUE_UNCLEAR)
        return fail(err, ERR_INVALID,
                    "its schema cannot be guaranteed where calls are XML; it may have one type of its own (also with "
                    "null, and of strings with boolean), or anyOf of such");
    if (form == VALUE_TEXT) {
        add_free_text(compiler, from, to);
        return true;
    }
    int32_t after = nfa_add_state(nfa);
    nfa_add_text(nfa, after, text_end, sizeof text_end - 1, to);
    if (form == VALUE_JSON) {
        schema_add(&compiler->schema, all, from, after);
        return true;
    }
    return is_listed(all) ? add_listed_strings(nfa, all, from, after, err)
                          : add_bound_string(nfa, all, from, after, err);
}

/* --- a call --- */

static bool check_name(const char *name, struct error *err) {
    if (name[0] && !strpbrk(name, "\n<>")) return true;
    return fail(err, ERR_INVALID, "a name must not be empty nor hold <, > or a line break where calls are XML");
}

/* Moves *at behind the parameter; one that is not required may be left out. */
static bool add_parameter(struct xml_compiler *compiler, const struct conjunction *all, const cJSON *schema,
                          int32_t *at, struct error *err) {
    struct nfa *nfa = compiler->schema.nfa;
    struct conjunction property;
    struct error why = {0};
    bool is_described, is_required = conjunction_requires(all, schema->string);
    if (!conjunction_of_property(all, schema->string, &property, &is_described, err)) return false;
    if (property.is_never && !is_required) return true;
    if (property.is_never) return fail(err, ERR_INVALID, "Nothing fits %.64s, which is required", schema->string);
    int32_t from = *at, next = nfa_add_state(nfa), value = from, after = nfa_add_state(nfa);
    if (!is_required) nfa_add_epsilon(nfa, from, next);
    add_literal_text(nfa, &value, "<parameter=");
    add_literal_text(nfa, &value, schema->string);
    add_literal_text(nfa, &value, ">\n");
    if (!check_name(schema->string, &why) || !add_value(compiler, schema, &property, value, after, &why))
        return fail(err, why.code, "the parameter %.64s: %s", schema->string, why.message);
    nfa_add_byte(nfa, after, '\n', next);
    *at = next;
    return true;
}

/* Any parameters, each any text. */
static void add_any_parameters(struct xml_compiler *compiler, int32_t *at) {
    struct nfa *nfa = compiler->schema.nfa;
    int32_t start = nfa_add_state(nfa), name = start, in_name = nfa_add_state(nfa), value = nfa_add_state(nfa),
            after = nfa_add_state(nfa);
    nfa_add_epsilon(nfa, *at, start);
    add_literal_text(nfa, &name, "<parameter=");
    nfa_add_bytes(nfa, name, 'a', 'z', in_name);
    nfa_add_bytes(nfa, in_name, 'a', 'z', in_name);
    nfa_add_bytes(nfa, in_name, '0', '9', in_name);
    nfa_add_byte(nfa, in_name, '_', in_name);
    nfa_add_text(nfa, in_name, ">\n", 2, value);
    add_free_text(compiler, value, after);
    nfa_add_byte(nfa, after, '\n', start);
    *at = start;
}

static bool add_parameters(struct xml_compiler *compiler, const cJSON *parameters, int32_t *at, struct error *err) {
    const cJSON *properties = cJSON_GetObjectItemCaseSensitive(parameters, "properties"), *property, *name;
    struct conjunction all = {.root = parameters};
    if (!conjunction_add(&all, parameters, err)) return false;
    if (all.is_never || all.n_groups > 0 || all.has_followed || all.n_schemas > 1 ||
        !(conjunction_types(&all, true) & TYPE_OBJECT))
        return fail(err, ERR_INVALID,
                    "where calls are XML they must be an object of properties, without anyOf, oneOf, allOf or $ref");
    cJSON_ArrayForEach(name, cJSON_GetObjectItemCaseSensitive(parameters, "required")) if (
        !cJSON_GetObjectItemCaseSensitive(
            properties, name->valuestring)) return fail(err, ERR_INVALID,
                                                        "%.64s is required, but properties do not describe it",
                                                        name->valuestring);
    cJSON_ArrayForEach(property, properties) if (!add_parameter(compiler, &all, property, at, err)) return false;
    if (!properties && conjunction_is_open(&all)) add_any_parameters(compiler, at);
    return true;
}

bool grammar_add_xml_call(struct nfa *nfa, struct json_rules *rules, const struct cJSON *tool, struct error *err) {
    const char *name = cJSON_GetObjectItemCaseSensitive(tool, "name")->valuestring;
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(tool, "parameters");
    struct xml_compiler compiler = {.schema = {.nfa = nfa, .root = parameters, .rules = *rules}};
    struct error why = {0};
    int32_t at = nfa->rules[0].start;
    add_literal_text(nfa, &at, "\n<function=");
    add_literal_text(nfa, &at, name);
    add_literal_text(nfa, &at, ">\n");
    bool added = check_name(name, &why) && add_parameters(&compiler, parameters, &at, &why);
    nfa_add_text(nfa, at, "</function>\n", 12, nfa->rules[0].end);
    struct error *late = added ? &why : NULL;
    added = schema_finish(&compiler.schema, late) && added;
    *rules = compiler.schema.rules;
    return added || fail(err, why.code, "The parameters of %.64s: %s", name, why.message);
}
