#include "server/answer_grammar.h"

#include "engine/grammar_cache.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

void answer_grammar_finish(struct answer_grammar *grammar) {
    free(grammar->text);
    *grammar = (struct answer_grammar){0};
}

/* Takes over what text holds. */
static bool ask(struct answer_grammar *grammar, const char *field, enum grammar_kind kind, struct string_builder *text,
                struct error *err) {
    if (grammar->field != NULL && strcmp(grammar->field, field) == 0) answer_grammar_finish(grammar); // the last counts
    if (grammar->field != NULL) {
        string_builder_finish(text);
        return fail_param(err, ERR_INVALID, field, "%s asks for a structure that %s asks for already; one is allowed",
                          field, grammar->field);
    }
    grammar->text = string_builder_take(text, &grammar->length);
    string_builder_finish(text);
    if (grammar->text == NULL) return fail(err, ERR_MEMORY, "no memory to read the request");
    grammar->field = field;
    grammar->kind = kind;
    return true;
}

/* A value as its text, a string as its characters. */
static bool ask_with(struct answer_grammar *grammar, const char *field, enum grammar_kind kind, struct json_text value,
                     struct error *err) {
    struct string_builder text = {0};
    if (json_text_kind(value) == JSON_STRING) {
        json_text_decode(value, &text);
    } else {
        string_builder_append(&text, value.data, value.length);
    }
    return ask(grammar, field, kind, &text, err);
}

static bool is_schema(struct json_text value) {
    return json_text_kind(value) == JSON_OBJECT || json_text_kind(value) == JSON_BOOL;
}

/* A member that is there and not null. */
static bool find(struct json_text object, const char *key, struct json_text *value) {
    return json_text_find(object, key, value) && json_text_kind(*value) != JSON_NULL;
}

/* The fields of a format in one of OpenAI's APIs, for messages. */
struct format_names {
    const char *format, *type, *holder, *schema;
};

/* json_schema's members stand in holder, or, where that is NULL, beside the type. */
static bool read_format(struct answer_grammar *grammar, const struct format_names *names, struct json_text value,
                        const char *holder, struct error *err) {
    struct json_text type, format = value, schema;
    if (json_text_kind(value) != JSON_OBJECT || !find(value, "type", &type) || json_text_kind(type) != JSON_STRING)
        return fail_param(err, ERR_INVALID, names->format, "%s must be an object with a type", names->format);
    if (json_text_equals(type, "text")) return true;
    if (json_text_equals(type, "json_object"))
        return ask(grammar, names->format, GRAMMAR_JSON_OBJECT, &(struct string_builder){0}, err);
    if (!json_text_equals(type, "json_schema"))
        return fail_param(err, ERR_INVALID, names->type, "%s must be text, json_object or json_schema", names->type);
    bool has_holder = holder == NULL || (find(value, holder, &format) && json_text_kind(format) == JSON_OBJECT);
    if (!has_holder || !find(format, "schema", &schema) || !is_schema(schema))
        return fail_param(err, ERR_INVALID, names->holder, "%s must be an object with a schema", names->holder);
    return ask_with(grammar, names->schema, GRAMMAR_JSON_SCHEMA, schema, err);
}

bool answer_grammar_read_format(struct answer_grammar *grammar, struct json_text value, struct error *err) {
    static const struct format_names names = {"response_format", "response_format.type", "response_format.json_schema",
                                              "response_format.json_schema.schema"};
    return read_format(grammar, &names, value, "json_schema", err);
}

bool answer_grammar_read_text_format(struct answer_grammar *grammar, struct json_text value, struct error *err) {
    static const struct format_names names = {"text.format", "text.format.type", "text.format", "text.format.schema"};
    return read_format(grammar, &names, value, NULL, err);
}

bool answer_grammar_read_output_format(struct answer_grammar *grammar, struct json_text value, struct error *err) {
    struct json_text type, schema;
    if (json_text_kind(value) != JSON_OBJECT || !find(value, "type", &type) || json_text_kind(type) != JSON_STRING ||
        !json_text_equals(type, "json_schema") || !find(value, "schema", &schema) || !is_schema(schema))
        return fail_param(err, ERR_INVALID, "output_config.format",
                          "output_config.format must be an object with the type json_schema and a schema");
    return ask_with(grammar, "output_config.format.schema", GRAMMAR_JSON_SCHEMA, schema, err);
}

/* The same under both of vLLM's names. */
static const struct form {
    const char *member, *structured, *guided;
    enum grammar_kind kind;
} forms[] = {
    {"json", "structured_outputs.json", "guided_json", GRAMMAR_JSON_SCHEMA},
    {"regex", "structured_outputs.regex", "guided_regex", GRAMMAR_REGEX},
    {"choice", "structured_outputs.choice", "guided_choice", GRAMMAR_CHOICE},
};

static bool read_form(struct answer_grammar *grammar, const struct form *form, const char *field,
                      struct json_text value, struct error *err) {
    enum json_kind kind = json_text_kind(value);
    if (form->kind == GRAMMAR_JSON_SCHEMA && !is_schema(value) && kind != JSON_STRING)
        return fail_param(err, ERR_INVALID, field, "%s must be a JSON schema, as an object or as its text", field);
    if (form->kind == GRAMMAR_REGEX && kind != JSON_STRING)
        return fail_param(err, ERR_INVALID, field, "%s must be a string", field);
    if (form->kind == GRAMMAR_CHOICE && kind != JSON_ARRAY)
        return fail_param(err, ERR_INVALID, field, "%s must be an array of strings", field);
    return ask_with(grammar, field, form->kind, value, err);
}

bool answer_grammar_read_guided(struct answer_grammar *grammar, const char *field, struct json_text value,
                                struct error *err) {
    const struct form *form = forms;
    while (strcmp(form->guided, field) != 0) ++form;
    return read_form(grammar, form, field, value, err);
}

static bool read_member(struct answer_grammar *grammar, struct json_text key, struct json_text value,
                        struct error *err) {
    static const char object[] = "structured_outputs.json_object";
    if (json_text_kind(value) == JSON_NULL) return true;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i) {
        if (json_text_equals(key, forms[i].member))
            return read_form(grammar, &forms[i], forms[i].structured, value, err);
    }
    bool is_object = json_text_equals(key, "json_object");
    if (is_object && json_text_kind(value) == JSON_BOOL) {
        return value.data[0] == 'f' || ask(grammar, object, GRAMMAR_JSON_OBJECT, &(struct string_builder){0}, err);
    }
    return fail_param(err, ERR_INVALID, "structured_outputs",
                      "structured_outputs may have json, regex, choice or json_object (true or false), not %.*s",
                      (int)(key.length < 40 ? key.length : 40), key.data);
}

bool answer_grammar_read_structured(struct answer_grammar *grammar, struct json_text value, struct error *err) {
    struct json_cursor cursor = {0};
    struct json_text key, member;
    if (json_text_kind(value) != JSON_OBJECT)
        return fail_param(err, ERR_INVALID, "structured_outputs", "structured_outputs must be an object");
    while (json_text_next_member(value, &cursor, &key, &member)) {
        if (!read_member(grammar, key, member, err)) return false;
    }
    return true;
}

bool answer_grammar_ask_calls(struct answer_grammar *grammar, enum grammar_kind kind, enum constrained_calls calls,
                              struct string_builder *tools, struct error *err) {
    if (!ask(grammar, "tools", kind, tools, err)) return false;
    grammar->calls = calls;
    return true;
}

struct constraint *answer_grammar_constrain(const struct answer_grammar *grammar, const struct server *server,
                                            enum answer_thinking thinking, struct error *err) {
    static const enum reasoning_place places[] = {
        [ANSWER_NEVER_THINKS] = REASONING_NONE,
        [ANSWER_MAY_THINK] = REASONING_MAY,
        [ANSWER_THINKS] = REASONING_INSIDE,
    };
    struct error why = {.code = ERR_NONE};
    if (server->grammars == NULL) {
        fail_param(err, ERR_INVALID, grammar->field, "%s is not supported with a model that has no end-of-text token",
                   grammar->field);
        return NULL;
    }
    const struct grammar_source source = {grammar->kind, grammar->text, grammar->length};
    struct grammar *compiled = grammar_cache_get(server->grammars, &source, &why);
    if (compiled == NULL) {
        fail_param(err, why.code, grammar->field, "%s: %s", grammar->field, why.message);
        return NULL;
    }
    struct grammar_constraint_options options = {
        .grammar = compiled, .trie = server->trie, .reasoning = places[thinking], .calls = grammar->calls};
    grammar_constraint_find_tokens(&options, server->tokenizer);
    struct constraint *constraint = NULL;
    if (options.calls != CALLS_NONE && (options.call_opens < 0 || options.call_closes < 0))
        fail_param(err, ERR_INVALID, grammar->field,
                   "calls cannot be guaranteed with this model: its vocabulary has no <tool_call> and </tool_call>");
    else
        constraint = grammar_constraint_create(&options, err);
    grammar_release(compiled);
    return constraint;
}
