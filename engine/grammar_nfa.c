#include "engine/grammar_nfa.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEAD 255 // as need: no way to the end
_Static_assert(NFA_MAX_DEPTH < DEAD, "a need must fit a byte");

bool nfa_fail(struct nfa *nfa, enum error_code code, const char *format, ...) {
    if (nfa_has_failed(nfa)) return false;
    char message[sizeof nfa->error.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return fail(&nfa->error, code, "%s", message);
}

bool nfa_has_failed(const struct nfa *nfa) {
    return nfa->error.code != ERR_NONE;
}

/* Room for one more of *items; false: none. */
static bool reserve(struct nfa *nfa, void **items, int32_t count, int32_t *capacity, size_t size) {
    if (count < *capacity) return true;
    int32_t larger = *capacity ? *capacity * 2 : 256;
    void *moved = realloc(*items, (size_t)larger * size);
    if (!moved) return nfa_fail(nfa, ERR_MEMORY, "No memory for a grammar of %d states.", nfa->n_states);
    *items = moved;
    *capacity = larger;
    return true;
}

int32_t nfa_add_state(struct nfa *nfa) {
    if (nfa_has_failed(nfa)) return 0;
    if (nfa->n_states == NFA_MAX_STATES) {
        nfa_fail(
            nfa, ERR_INVALID,
            "The grammar needs more than the %d states that one may have: use smaller lengths, counts or fewer values.",
            NFA_MAX_STATES);
        return 0;
    }
    if (!reserve(nfa, (void **)&nfa->states, nfa->n_states + 1, &nfa->states_capacity, sizeof *nfa->states)) return 0;
    nfa->states[nfa->n_states] = (struct nfa_state){0};
    return nfa->n_states++;
}

int32_t nfa_add_rule(struct nfa *nfa) {
    int32_t start = nfa_add_state(nfa), end = nfa_add_state(nfa);
    if (nfa_has_failed(nfa)) return 0;
    if (!reserve(nfa, (void **)&nfa->rules, nfa->n_rules, &nfa->rules_capacity, sizeof *nfa->rules)) return 0;
    nfa->states[end].is_end = true;
    nfa->rules[nfa->n_rules] = (struct nfa_rule){start, end};
    return nfa->n_rules++;
}

static void add_edge(struct nfa *nfa, struct nfa_edge edge) {
    if (nfa_has_failed(nfa)) return;
    assert(edge.from >= 0 && edge.from < nfa->n_states && edge.to >= 0 && edge.to < nfa->n_states);
    assert(!nfa->states[edge.from].is_end);
    if (nfa->n_edges == NFA_MAX_EDGES) {
        nfa_fail(nfa, ERR_INVALID, "The grammar needs more than the %d transitions that one may have.", NFA_MAX_EDGES);
        return;
    }
    if (!reserve(nfa, (void **)&nfa->edges, nfa->n_edges, &nfa->edges_capacity, sizeof *nfa->edges)) return;
    nfa->edges[nfa->n_edges++] = edge;
}

void nfa_add_bytes(struct nfa *nfa, int32_t from, int low, int high, int32_t to) {
    assert(0 <= low && low <= high && high <= 255);
    add_edge(nfa,
             (struct nfa_edge){.from = from, .to = to, .kind = NFA_BYTES, .low = (uint8_t)low, .high = (uint8_t)high});
}

void nfa_add_byte(struct nfa *nfa, int32_t from, int byte, int32_t to) {
    nfa_add_bytes(nfa, from, byte, byte, to);
}

void nfa_add_epsilon(struct nfa *nfa, int32_t from, int32_t to) {
    add_edge(nfa, (struct nfa_edge){.from = from, .to = to, .kind = NFA_EPSILON});
}

void nfa_add_call(struct nfa *nfa, int32_t from, int32_t rule, int32_t to) {
    add_edge(nfa, (struct nfa_edge){.from = from, .to = to, .rule = rule, .kind = NFA_CALL});
}

void nfa_add_text(struct nfa *nfa, int32_t from, const char *text, size_t length, int32_t to) {
    if (length == 0) nfa_add_epsilon(nfa, from, to);
    for (size_t i = 0; i < length && !nfa_has_failed(nfa); i++) {
        int32_t next = i + 1 < length ? nfa_add_state(nfa) : to;
        nfa_add_byte(nfa, from, (unsigned char)text[i], next);
        from = next;
    }
}

void nfa_set_contents(struct nfa *nfa, int32_t state, int32_t n_chars) {
    if (!nfa_has_failed(nfa)) nfa->states[state].contents = n_chars;
}

void nfa_init(struct nfa *nfa) {
    *nfa = (struct nfa){0};
    nfa_add_rule(nfa);
}

void nfa_finish(struct nfa *nfa) {
    free(nfa->states);
    free(nfa->edges);
    free(nfa->rules);
    *nfa = (struct nfa){0};
}

/* --- sealing --- */

/* A stable counting sort by `from`. */
static bool order_edges(struct nfa *nfa) {
    struct nfa_edge *ordered = malloc(((size_t)nfa->n_edges + 1) * sizeof *ordered);
    if (!ordered) return nfa_fail(nfa, ERR_MEMORY, "No memory for a grammar of %d transitions.", nfa->n_edges);
    struct nfa_state *states = nfa->states; // has room for one more
    states[nfa->n_states] = (struct nfa_state){0};
    for (int32_t i = 0; i <= nfa->n_states; i++) states[i].first_edge = 0;
    for (int32_t i = 0; i < nfa->n_edges; i++) states[nfa->edges[i].from + 1].first_edge++;
    for (int32_t i = 0; i < nfa->n_states; i++) states[i + 1].first_edge += states[i].first_edge;
    for (int32_t i = 0; i < nfa->n_edges; i++) ordered[states[nfa->edges[i].from].first_edge++] = nfa->edges[i];
    for (int32_t i = nfa->n_states; i > 0; i--) states[i].first_edge = states[i - 1].first_edge;
    states[0].first_edge = 0;
    free(nfa->edges);
    nfa->edges = ordered;
    nfa->edges_capacity = nfa->n_edges + 1;
    return true;
}

/* The edges that enter each state, and the calls of each rule, as lists through the edges. */
struct back_edges {
    int32_t *into;      // [n_states] first edge, -1: none
    int32_t *next;      // [n_edges]
    int32_t *callers;   // [n_states] of the rule that starts at the state: its first call
    int32_t *next_call; // [n_edges]
    int32_t *queue;     // [n_states] states whose need has fallen
};

static void link_back(const struct nfa *nfa, struct back_edges *back) {
    memset(back->into, -1, (size_t)nfa->n_states * sizeof *back->into);
    memset(back->callers, -1, (size_t)nfa->n_states * sizeof *back->callers);
    for (int32_t i = 0; i < nfa->n_edges; i++) {
        const struct nfa_edge *edge = &nfa->edges[i];
        back->next[i] = back->into[edge->to];
        back->into[edge->to] = i;
        if (edge->kind != NFA_CALL) continue;
        int32_t start = nfa->rules[edge->rule].start;
        back->next_call[i] = back->callers[start];
        back->callers[start] = i;
    }
}

static int need_over(const struct nfa *nfa, const struct nfa_edge *edge) {
    int need = nfa->states[edge->to].need;
    if (edge->kind != NFA_CALL) return need;
    int inside = nfa->states[nfa->rules[edge->rule].start].need + 1;
    return need > inside ? need : inside;
}

/* The least solution of: 0 at an end; else the smallest over its edges of what the target needs, and for a call also
 * one more than the rule's start needs. Needs are found in rising order, so that each state is queued once. */
static void find_needs(struct nfa *nfa, struct back_edges *back) {
    for (int32_t i = 0; i < nfa->n_states; i++) nfa->states[i].need = DEAD;
    for (int level = 0; level <= NFA_MAX_DEPTH; level++) {
        int32_t n_queued = 0;
        if (level == 0)
            for (int32_t i = 0; i < nfa->n_states; i++)
                if (nfa->states[i].is_end) {
                    nfa->states[i].need = 0;
                    back->queue[n_queued++] = i;
                }
        if (level > 0)
            for (int32_t i = 0; i < nfa->n_edges; i++) {
                struct nfa_state *from = &nfa->states[nfa->edges[i].from];
                if (nfa->edges[i].kind != NFA_CALL || from->need != DEAD || need_over(nfa, &nfa->edges[i]) != level)
                    continue;
                from->need = (uint8_t)level;
                back->queue[n_queued++] = nfa->edges[i].from;
            }
        if (n_queued == 0) break;
        while (n_queued > 0) {
            int32_t state = back->queue[--n_queued];
            for (int list = 0; list < 2; list++) {
                const int32_t *next = list == 0 ? back->next : back->next_call;
                int32_t i = list == 0 ? back->into[state] : back->callers[state];
                for (; i >= 0; i = next[i]) {
                    struct nfa_state *from = &nfa->states[nfa->edges[i].from];
                    if (from->need != DEAD || need_over(nfa, &nfa->edges[i]) > level) continue;
                    from->need = (uint8_t)level;
                    back->queue[n_queued++] = nfa->edges[i].from;
                }
            }
        }
    }
}

static bool find_dead(struct nfa *nfa) {
    size_t n_states = (size_t)nfa->n_states + 1, n_edges = (size_t)nfa->n_edges + 1;
    int32_t *block = malloc((3 * n_states + 2 * n_edges) * sizeof *block);
    if (!block) return nfa_fail(nfa, ERR_MEMORY, "No memory for a grammar of %d states.", nfa->n_states);
    struct back_edges back = {block, block + 3 * n_states, block + n_states, block + 3 * n_states + n_edges,
                              block + 2 * n_states};
    link_back(nfa, &back);
    find_needs(nfa, &back);
    free(block);
    int32_t n_kept = 0;
    for (int32_t i = 0; i < nfa->n_edges; i++)
        if (need_over(nfa, &nfa->edges[i]) <= NFA_MAX_DEPTH) nfa->edges[n_kept++] = nfa->edges[i];
    nfa->n_edges = n_kept;
    return true;
}

/* Bytes that all edges treat alike are one class; edges then name classes. */
static void find_classes(struct nfa *nfa) {
    bool begins[257] = {true};
    for (int32_t i = 0; i < nfa->n_edges; i++) {
        if (nfa->edges[i].kind != NFA_BYTES) continue;
        begins[nfa->edges[i].low] = true;
        begins[nfa->edges[i].high + 1] = true;
    }
    nfa->n_classes = 0;
    for (int byte = 0; byte < 256; byte++) {
        if (begins[byte]) nfa->class_bytes[nfa->n_classes++] = (uint8_t)byte;
        nfa->classes[byte] = (uint8_t)(nfa->n_classes - 1);
    }
    for (int32_t i = 0; i < nfa->n_edges; i++) {
        struct nfa_edge *edge = &nfa->edges[i];
        if (edge->kind != NFA_BYTES) continue;
        edge->low = nfa->classes[edge->low];
        edge->high = nfa->classes[edge->high];
    }
}

/* Depth first over what a rule calls before it reads a byte: `marks` of states seen within the present rule, `colours`
 * of rules: 0 new, 1 under way, 2 done. Rules read at least one byte, so what follows a call is not looked at. */
struct loop_search {
    const struct nfa *nfa;
    int32_t *marks;   // [n_states] the rule + 1 that was here last
    uint8_t *colours; // [n_rules]
    int32_t *stack;   // [n_states] for states within rules, shared: a rule uses what lies above the caller's
    int32_t depth;
};

static bool rule_loops(struct loop_search *search, int32_t rule, int32_t n_below) {
    const struct nfa *nfa = search->nfa;
    if (search->colours[rule] != 0) return search->colours[rule] == 1;
    if (++search->depth > 10 * NFA_MAX_DEPTH) return true;
    search->colours[rule] = 1;
    int32_t n_stack = n_below;
    search->stack[n_stack++] = nfa->rules[rule].start;
    search->marks[nfa->rules[rule].start] = rule + 1;
    while (n_stack > n_below) {
        int32_t state = search->stack[--n_stack];
        for (int32_t i = nfa->states[state].first_edge; i < nfa->states[state + 1].first_edge; i++) {
            const struct nfa_edge *edge = &nfa->edges[i];
            if (edge->kind == NFA_CALL && rule_loops(search, edge->rule, n_stack)) return true;
            if (edge->kind != NFA_EPSILON || search->marks[edge->to] == rule + 1) continue;
            search->marks[edge->to] = rule + 1;
            search->stack[n_stack++] = edge->to;
        }
    }
    search->colours[rule] = 2;
    search->depth--;
    return false;
}

static bool refuse_loops(struct nfa *nfa) {
    struct loop_search search = {.nfa = nfa};
    search.marks = calloc((size_t)nfa->n_states, sizeof *search.marks);
    search.stack = malloc((size_t)nfa->n_states * sizeof *search.stack);
    search.colours = calloc((size_t)nfa->n_rules, 1);
    bool loops = false, has_memory = search.marks && search.stack && search.colours;
    for (int32_t rule = 0; has_memory && rule < nfa->n_rules && !loops; rule++) {
        search.depth = 0;
        loops = rule_loops(&search, rule, 0);
    }
    free(search.marks);
    free(search.stack);
    free(search.colours);
    if (!has_memory) return nfa_fail(nfa, ERR_MEMORY, "No memory for a grammar of %d states.", nfa->n_states);
    if (loops) return nfa_fail(nfa, ERR_INVALID, "A $ref leads back to itself with no value between.");
    return true;
}

bool nfa_seal(struct nfa *nfa, struct error *err) {
    if (!nfa_has_failed(nfa) && order_edges(nfa) && find_dead(nfa) && order_edges(nfa) && refuse_loops(nfa)) {
        find_classes(nfa);
        if (nfa->states[nfa->rules[0].start].need > NFA_MAX_DEPTH)
            nfa_fail(nfa, ERR_INVALID, "Nothing fits the schema, or nothing of fewer than %d levels does.",
                     NFA_MAX_DEPTH);
    }
    return !nfa_has_failed(nfa) || fail(err, nfa->error.code, "%s", nfa->error.message);
}
