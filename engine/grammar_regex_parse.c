#include "engine/grammar_regex.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum node_kind { NODE_EMPTY, NODE_SET, NODE_THEN, NODE_OR, NODE_REPEAT };

struct node {
    enum node_kind kind;
    int32_t left, right; // of THEN and OR; left of REPEAT
    int32_t set;         // of SET
    int32_t min, max;    // of REPEAT; max may be REGEX_ENDLESS
};

struct parser {
    struct regex *regex;
    const char *pattern;
    const char *at;
    enum regex_mode mode;
    struct node *nodes; // [n_nodes]
    int32_t n_nodes;
    int32_t sets_capacity, edges_capacity;
    int depth;
    struct error *err;
};

static bool refuse(struct parser *parser, const char *what) {
    return fail(parser->err, ERR_INVALID, "The pattern \"%.120s\" %s at offset %d.", parser->pattern, what,
                (int)(parser->at - parser->pattern));
}

/* --- nodes and sets; -1: failed --- */

static int32_t add_node(struct parser *parser, struct node node) {
    if (parser->n_nodes == REGEX_MAX_NODES) {
        fail(parser->err, ERR_INVALID, "The pattern \"%.120s\" is too long: more than %d parts.", parser->pattern,
             REGEX_MAX_NODES);
        return -1;
    }
    parser->nodes[parser->n_nodes] = node;
    return parser->n_nodes++;
}

/* Takes the set over, normal or not. */
static int32_t add_set(struct parser *parser, struct char_set *set) {
    struct regex *regex = parser->regex;
    if (regex->n_sets == parser->sets_capacity) {
        int32_t capacity = parser->sets_capacity ? parser->sets_capacity * 2 : 16;
        struct char_set *sets = realloc(regex->sets, (size_t)capacity * sizeof *sets);
        if (!sets) {
            char_set_finish(set);
            fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
            return -1;
        }
        regex->sets = sets;
        parser->sets_capacity = capacity;
    }
    char_set_normalise(set);
    regex->sets[regex->n_sets] = *set;
    return regex->n_sets++;
}

static int32_t add_set_node(struct parser *parser, struct char_set *set) {
    int32_t index = add_set(parser, set);
    return index < 0 ? -1 : add_node(parser, (struct node){.kind = NODE_SET, .set = index});
}

/* --- classes --- */

/* to_exclude: the set will be negated. */
static bool add_class(struct char_set *set, char letter, bool to_exclude) {
    static const struct char_range digits[] = {{'0', '9'}};
    static const struct char_range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    /* ECMAScript's; what Python alone calls white space is neither \s nor \S. */
    static const struct char_range spaces[] = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},
                                               {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                               {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
    static const struct char_range more_spaces[] = {{0x1C, 0x1F}, {0x85, 0x85}, {0xFEFF, 0xFEFF}};
    bool is_negated = letter < 'a';
    char kind = (char)(letter | 0x20);
    const struct char_range *ranges = kind == 'd' ? digits : kind == 'w' ? words : spaces;
    size_t n_ranges = kind == 'd'   ? sizeof digits / sizeof *digits
                      : kind == 'w' ? sizeof words / sizeof *words
                                    : sizeof spaces / sizeof *spaces;
    struct char_set class = {0};
    bool added = true;
    for (size_t i = 0; i < n_ranges && added; i++) added = char_set_add(&class, ranges[i].low, ranges[i].high);
    if (kind == 's' && is_negated != to_exclude)
        for (size_t i = 0; i < sizeof more_spaces / sizeof *more_spaces && added; i++)
            added = char_set_add(&class, more_spaces[i].low, more_spaces[i].high);
    if (added && is_negated) {
        char_set_normalise(&class);
        added = char_set_negate(&class);
    }
    added = added && char_set_add_set(set, &class);
    char_set_finish(&class);
    return added;
}

static bool read_hex(struct parser *parser, int n_digits, uint32_t *character) {
    *character = 0;
    for (int i = 0; i < n_digits; i++, parser->at++) {
        char c = *parser->at;
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                             : -1;
        if (digit < 0) return refuse(parser, "has an escape that lacks digits");
        *character = *character << 4 | (uint32_t)digit;
    }
    return true;
}

/* After a backslash: one character, or a class added to set and *is_class. */
static bool read_escape(struct parser *parser, struct char_set *set, bool to_exclude, uint32_t *character,
                        bool *is_class) {
    char c = *parser->at;
    *is_class = c && strchr("dDwWsS", c);
    if (*is_class) {
        parser->at++;
        return add_class(set, c, to_exclude) || fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    }
    static const char controls[] = "n\nr\rt\tf\fv\v";
    for (size_t i = 0; controls[i]; i += 2)
        if (c == controls[i]) {
            parser->at++;
            *character = (uint32_t)controls[i + 1];
            return true;
        }
    if (c == 'x' || c == 'u') {
        parser->at++;
        if (!read_hex(parser, c == 'x' ? 2 : 4, character)) return false;
        if (*character >= 0xD800 && *character <= 0xDFFF) return refuse(parser, "names a surrogate");
        return true;
    }
    if (c == 'b' || c == 'B') return refuse(parser, "has a word boundary, which is not supported,");
    if (c >= '0' && c <= '9') return refuse(parser, "has a backreference, which is not supported,");
    if (c == 'p' || c == 'P' || c == 'k') return refuse(parser, "has \\p or \\k, which is not supported,");
    if (c == '\0') return refuse(parser, "ends in a backslash");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return refuse(parser, "has an escape that is not supported");
    *character = char_next(&parser->at);
    return true;
}

static bool read_class_member(struct parser *parser, struct char_set *set, bool to_exclude, uint32_t *character,
                              bool *is_class) {
    *is_class = false;
    if (*parser->at == '\0') return refuse(parser, "has a [ without ]");
    if (*parser->at == '[' && parser->at[1] == ':') return refuse(parser, "has a [: class, which is not supported,");
    if (*parser->at == '\\') {
        parser->at++;
        if (*parser->at == 'b') {
            parser->at++;
            *character = '\b';
            return true;
        }
        return read_escape(parser, set, to_exclude, character, is_class);
    }
    *character = char_next(&parser->at);
    return true;
}

/* After '['. */
static bool read_class(struct parser *parser, struct char_set *set) {
    bool is_negated = *parser->at == '^', added = true;
    if (is_negated) parser->at++;
    while (*parser->at != ']') {
        uint32_t low, high;
        bool is_class;
        if (!read_class_member(parser, set, is_negated, &low, &is_class)) return false;
        if (is_class) continue;
        high = low;
        if (parser->at[0] == '-' && parser->at[1] != ']' && parser->at[1] != '\0') {
            parser->at++;
            if (!read_class_member(parser, set, is_negated, &high, &is_class)) return false;
            if (is_class) {
                added = added && char_set_add(set, '-', '-');
                high = low;
            }
        }
        if (low > high) return refuse(parser, "has a range that goes down");
        added = added && char_set_add(set, low, high);
        if (!added) return fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    }
    parser->at++;
    char_set_normalise(set);
    if (is_negated && !char_set_negate(set)) return fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    return true;
}

/* --- the grammar of patterns --- */

static int32_t parse_alternatives(struct parser *parser);

static int32_t parse_group(struct parser *parser) {
    if (parser->at[0] == '?') {
        if (parser->at[1] != ':') {
            bool is_around = parser->at[1] == '=' || parser->at[1] == '!' ||
                             (parser->at[1] == '<' && (parser->at[2] == '=' || parser->at[2] == '!'));
            refuse(parser, is_around ? "has lookaround, which is not supported,"
                                     : "has a named group or flags, which are not supported,");
            return -1;
        }
        parser->at += 2;
    }
    if (parser->depth == REGEX_MAX_DEPTH) {
        refuse(parser, "has groups nested too deeply");
        return -1;
    }
    parser->depth++;
    int32_t node = parse_alternatives(parser);
    parser->depth--;
    if (node < 0) return -1;
    if (*parser->at != ')') {
        refuse(parser, "has a ( without )");
        return -1;
    }
    parser->at++;
    return node;
}

static int32_t parse_atom(struct parser *parser) {
    struct char_set set = {0};
    uint32_t character = 0;
    bool is_class = true, parsed = true;
    char c = *parser->at;
    if (c == '(') {
        parser->at++;
        return parse_group(parser);
    }
    if (c == '^' || c == '$') {
        refuse(parser, "has an anchor that is not at its very beginning or end");
        return -1;
    }
    if (c == '*' || c == '+' || c == '?' || c == '{') {
        refuse(parser, "has nothing to repeat");
        return -1;
    }
    if (c == '.') {
        parser->at++;
        parsed = char_set_add(&set, '\n', '\n') && char_set_add(&set, '\r', '\r') &&
                 char_set_add(&set, 0x2028, 0x2029) && char_set_negate(&set);
        if (!parsed) fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    } else if (c == '[') {
        parser->at++;
        parsed = read_class(parser, &set);
    } else if (c == '\\') {
        parser->at++;
        parsed = read_escape(parser, &set, false, &character, &is_class);
    } else {
        is_class = false;
        character = char_next(&parser->at);
    }
    if (parsed && !is_class && !char_set_add(&set, character, character))
        parsed = fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    if (!parsed) {
        char_set_finish(&set);
        return -1;
    }
    return add_set_node(parser, &set);
}

static bool read_count(struct parser *parser, int32_t *count) {
    if (*parser->at < '0' || *parser->at > '9') return refuse(parser, "has a { that is no count");
    *count = 0;
    for (; *parser->at >= '0' && *parser->at <= '9'; parser->at++) {
        *count = *count * 10 + (*parser->at - '0');
        if (*count > REGEX_MAX_STATES) return refuse(parser, "has a count that is too large");
    }
    return true;
}

static bool read_repeat(struct parser *parser, int32_t *min, int32_t *max) {
    char c = *parser->at++;
    *min = c == '+' ? 1 : 0;
    *max = c == '?' ? 1 : REGEX_ENDLESS;
    if (c == '{') {
        if (!read_count(parser, min)) return false;
        *max = *min;
        if (*parser->at == ',') {
            parser->at++;
            *max = REGEX_ENDLESS;
            if (*parser->at != '}' && !read_count(parser, max)) return false;
        }
        if (*parser->at != '}') return refuse(parser, "has a { without }");
        parser->at++;
        if (*max != REGEX_ENDLESS && *max < *min) return refuse(parser, "has a count that goes down");
    }
    if (*parser->at == '+') return refuse(parser, "has a possessive count, which is not supported,");
    if (*parser->at == '?') parser->at++;
    return true;
}

static bool is_repeat(char c) {
    return c == '*' || c == '+' || c == '?' || c == '{';
}

static int32_t parse_sequence(struct parser *parser) {
    int32_t all = -1;
    while (*parser->at && *parser->at != '|' && *parser->at != ')') {
        if (parser->depth == 0 && parser->at[0] == '$' && (parser->at[1] == '\0' || parser->at[1] == '|')) break;
        int32_t atom = parse_atom(parser);
        if (atom < 0) return -1;
        if (is_repeat(*parser->at)) {
            struct node repeat = {.kind = NODE_REPEAT, .left = atom};
            if (!read_repeat(parser, &repeat.min, &repeat.max)) return -1;
            if (is_repeat(*parser->at)) {
                refuse(parser, "repeats a repetition");
                return -1;
            }
            atom = add_node(parser, repeat);
        }
        all = all < 0 ? atom : add_node(parser, (struct node){.kind = NODE_THEN, .left = all, .right = atom});
        if (all < 0 || atom < 0) return -1;
    }
    return all < 0 ? add_node(parser, (struct node){.kind = NODE_EMPTY}) : all;
}

/* Any characters at all, before or after what a search looks for. */
static int32_t add_anything(struct parser *parser) {
    struct char_set set = {0};
    if (!char_set_add(&set, 0, CHARS_LAST)) {
        fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
        return -1;
    }
    int32_t any = add_set_node(parser, &set);
    if (any < 0) return -1;
    return add_node(parser, (struct node){.kind = NODE_REPEAT, .left = any, .min = 0, .max = REGEX_ENDLESS});
}

static int32_t join(struct parser *parser, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return -1;
    return add_node(parser, (struct node){.kind = NODE_THEN, .left = left, .right = right});
}

/* One alternative of the whole, with its anchors. */
static int32_t parse_anchored(struct parser *parser) {
    bool is_search = parser->mode == REGEX_SEARCH, from_start = *parser->at == '^';
    if (from_start) parser->at++;
    int32_t node = parse_sequence(parser);
    if (node < 0) return -1;
    if (is_search && !from_start) node = join(parser, add_anything(parser), node);
    if (*parser->at == '$') {
        parser->at++;
    } else if (is_search) {
        node = join(parser, node, add_anything(parser));
    }
    return node;
}

static int32_t parse_alternatives(struct parser *parser) {
    int32_t all = -1;
    for (;;) {
        int32_t node = parser->depth == 0 ? parse_anchored(parser) : parse_sequence(parser);
        if (node < 0) return -1;
        all = all < 0 ? node : add_node(parser, (struct node){.kind = NODE_OR, .left = all, .right = node});
        if (all < 0 || *parser->at != '|') return all;
        parser->at++;
    }
}

/* --- to an automaton --- */

static int32_t add_state(struct parser *parser) {
    struct regex *regex = parser->regex;
    if (regex->n_states < REGEX_MAX_STATES) return regex->n_states++;
    fail(parser->err, ERR_INVALID, "The pattern \"%.120s\" needs more than the %d states that one may have.",
         parser->pattern, REGEX_MAX_STATES);
    return -1;
}

static bool add_edge(struct parser *parser, int32_t from, int32_t set, int32_t to) {
    struct regex *regex = parser->regex;
    if (regex->n_edges == parser->edges_capacity) {
        int32_t capacity = parser->edges_capacity ? parser->edges_capacity * 2 : 64;
        struct regex_edge *edges = realloc(regex->edges, (size_t)capacity * sizeof *edges);
        if (!edges) return fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
        regex->edges = edges;
        parser->edges_capacity = capacity;
    }
    regex->edges[regex->n_edges++] = (struct regex_edge){from, to, set};
    return true;
}

static bool emit(struct parser *parser, int32_t node, int32_t from, int32_t to);

/* Copies that must come, then copies that may, or one that comes again and again. */
static bool emit_repeat(struct parser *parser, const struct node *node, int32_t from, int32_t to) {
    for (int32_t i = 0; i < node->min; i++) {
        int32_t next = add_state(parser);
        if (next < 0 || !emit(parser, node->left, from, next)) return false;
        from = next;
    }
    if (node->max == REGEX_ENDLESS) {
        int32_t around = add_state(parser), back = add_state(parser);
        return around >= 0 && back >= 0 && add_edge(parser, from, -1, around) &&
               emit(parser, node->left, around, back) && add_edge(parser, back, -1, around) &&
               add_edge(parser, around, -1, to);
    }
    for (int32_t i = node->min; i < node->max; i++) {
        int32_t next = add_state(parser);
        if (next < 0 || !add_edge(parser, from, -1, to) || !emit(parser, node->left, from, next)) return false;
        from = next;
    }
    return add_edge(parser, from, -1, to);
}

static bool emit(struct parser *parser, int32_t index, int32_t from, int32_t to) {
    /* The left side of THEN and OR is a list that may be long: only the right side recurses deeper than groups do. */
    const struct node *node = &parser->nodes[index];
    switch (node->kind) {
    case NODE_EMPTY:
        return add_edge(parser, from, -1, to);
    case NODE_SET:
        return add_edge(parser, from, node->set, to);
    case NODE_REPEAT:
        return emit_repeat(parser, node, from, to);
    case NODE_THEN:
    case NODE_OR:
        break;
    }
    enum node_kind kind = node->kind;
    while (parser->nodes[index].kind == kind) {
        node = &parser->nodes[index];
        int32_t middle = kind == NODE_THEN ? add_state(parser) : from;
        if (middle < 0 || !emit(parser, node->right, middle, to)) return false;
        if (kind == NODE_THEN) to = middle;
        index = node->left;
    }
    return emit(parser, index, from, to);
}

static int compare_edges(const void *a, const void *b) {
    const struct regex_edge *left = a, *right = b;
    return (left->from > right->from) - (left->from < right->from);
}

static bool build(struct parser *parser, int32_t root) {
    struct regex *regex = parser->regex;
    regex->start = add_state(parser);
    regex->end = add_state(parser);
    if (!emit(parser, root, regex->start, regex->end)) return false;
    qsort(regex->edges, (size_t)regex->n_edges, sizeof *regex->edges, compare_edges);
    regex->first_edges = calloc((size_t)regex->n_states + 1, sizeof *regex->first_edges);
    if (!regex->first_edges) return fail(parser->err, ERR_MEMORY, "No memory for a pattern.");
    for (int32_t i = 0; i < regex->n_edges; i++) regex->first_edges[regex->edges[i].from + 1]++;
    for (int32_t i = 0; i < regex->n_states; i++) regex->first_edges[i + 1] += regex->first_edges[i];
    return true;
}

bool regex_compile(struct regex *regex, const char *pattern, enum regex_mode mode, struct error *err) {
    *regex = (struct regex){0};
    struct parser parser = {.regex = regex, .pattern = pattern, .at = pattern, .mode = mode, .err = err};
    parser.nodes = malloc(REGEX_MAX_NODES * sizeof *parser.nodes);
    if (!parser.nodes) return fail(err, ERR_MEMORY, "No memory for a pattern.");
    int32_t root = parse_alternatives(&parser);
    bool compiled = root >= 0 && (*parser.at == '\0' || refuse(&parser, "has a ) without (")) && build(&parser, root);
    free(parser.nodes);
    if (!compiled) regex_finish(regex);
    return compiled;
}
