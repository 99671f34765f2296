/* Schemas that hold together: a schema, what its $ref and allOf lead to, and the keywords of all of them as one. */
#ifndef QUERN_ENGINE_GRAMMAR_CONJUNCTION_H
#define QUERN_ENGINE_GRAMMAR_CONJUNCTION_H

#include "engine/error.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct json_range;

#define CONJUNCTION_MAX_SCHEMAS 32
#define CONJUNCTION_MAX_GROUPS  16

enum json_type {
    TYPE_NULL = 1,
    TYPE_BOOLEAN = 2,
    TYPE_INTEGER = 4,
    TYPE_NUMBER = 8, // with TYPE_INTEGER when all numbers are meant
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ALL = 127,
};

/* An anyOf or oneOf that has not been decided. */
struct schema_group {
    const struct cJSON *branches; // array
    const struct cJSON *holder;
};

/* Zero-initialise. Copied freely: it owns nothing. */
struct conjunction {
    const struct cJSON *root;                             // where $ref starts
    const struct cJSON *schemas[CONJUNCTION_MAX_SCHEMAS]; // [n_schemas] objects that say something, each once
    int32_t n_schemas;
    struct schema_group groups[CONJUNCTION_MAX_GROUPS]; // [n_groups]
    int32_t n_groups;
    const struct cJSON
        *path[CONJUNCTION_MAX_SCHEMAS]; // [n_path] being added, or decided: leading back to them is a loop
    int32_t n_path;
    bool is_never;     // `false` is among them
    bool has_followed; // a $ref was
};

/* Adds a schema and all that it leads to. ERR_INVALID: a keyword or value that is not covered. */
bool conjunction_add(struct conjunction *all, const struct cJSON *schema, struct error *err);

/* all with its first group decided: one of the branches. */
bool conjunction_decide(const struct conjunction *all, const struct cJSON *branch, struct conjunction *decided,
                        struct error *err);

/* What `type` allows, of enum json_type; and without it what the keywords speak of, when is_inferred. */
int32_t conjunction_types(const struct conjunction *all, bool is_inferred);

/* The keyword's value in one of the schemas, the first or the only one; NULL: in none. */
const struct cJSON *conjunction_find(const struct conjunction *all, const char *keyword);
int32_t conjunction_count(const struct conjunction *all, const char *keyword);

/* Over all schemas that have the keyword; otherwise unless_given. Whole numbers from 0. */
int64_t conjunction_largest(const struct conjunction *all, const char *keyword, int64_t unless_given);
int64_t conjunction_smallest(const struct conjunction *all, const char *keyword, int64_t unless_given);
/* Of integers, with minimum, maximum and their exclusive forms. */
void conjunction_range(const struct conjunction *all, int64_t *low, int64_t *high);
struct json_range conjunction_bounds(const struct conjunction *all); // of all numbers

/* What all schemas say of the property, or of other properties with name NULL. *is_described: one of them names it. */
bool conjunction_of_property(const struct conjunction *all, const char *name, struct conjunction *property,
                             bool *is_described, struct error *err);
bool conjunction_requires(const struct conjunction *all, const char *name);
/* Properties that no schema names may come. */
bool conjunction_is_open(const struct conjunction *all);

/* Whether a value fits all but the groups; origin is an enum that it is known to be of, or NULL. ERR_INVALID when that
 * cannot be said. */
bool conjunction_fits(const struct conjunction *all, const struct cJSON *value, const struct cJSON *origin, bool *fits,
                      struct error *err);

/* What the one can produce is sure not to fit the other, in both directions. */
bool conjunctions_exclude(const struct conjunction *a, const struct conjunction *b);

int32_t json_type_of(const struct cJSON *value);
/* The expression of a supported format, NULL: not supported. */
const char *format_pattern(const char *format);

#endif
