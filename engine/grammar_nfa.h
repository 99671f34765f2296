/* The automaton that a grammar is compiled to: states, edges that read a byte, and rules that call each other.
 *
 * A rule is a part of the automaton with one start and one end. A call reads what the rule reads and goes on after it:
 * that is how a schema that refers to itself is finite here, and why the one who runs the automaton keeps a stack of
 * states to return to. Rule 0 is the whole grammar. Edges are added as (from, …, to): a part adds edges out of `from`
 * and into `to`, never the reverse, so that parts can be put side by side. No state may be more than NFA_MAX_DEPTH
 * calls away from the end of its rule: nfa_seal cuts off what cannot end within them, so whatever is alive can end.
 *
 * The first failure sticks: later additions have no effect, and nfa_seal reports it. */
#ifndef QUERN_ENGINE_GRAMMAR_NFA_H
#define QUERN_ENGINE_GRAMMAR_NFA_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NFA_MAX_STATES 200000
#define NFA_MAX_EDGES  1000000
#define NFA_MAX_DEPTH  64        // calls within calls: a value of generic JSON nests so deep
#define NFA_ENDLESS    INT32_MAX // of contents

enum nfa_edge_kind { NFA_BYTES, NFA_EPSILON, NFA_CALL };

struct nfa_edge {
    int32_t from;
    int32_t to;
    int32_t rule; // NFA_CALL
    uint8_t kind;
    uint8_t low, high; // NFA_BYTES: of the byte; after nfa_seal of its class
};

struct nfa_state {
    int32_t first_edge; // edges[first_edge] to edges[states[i + 1].first_edge], after nfa_seal
    int32_t contents;   // above 0: inside a JSON string that may take so many characters more, see nfa_set_contents
    uint8_t need;       // calls within calls that the shortest way to the end needs, after nfa_seal
    bool is_end;        // of a rule
};

struct nfa_rule {
    int32_t start, end;
};

struct nfa {
    struct nfa_state *states; // [n_states + 1] owned
    struct nfa_edge *edges;   // [n_edges] owned; by `from` after nfa_seal
    struct nfa_rule *rules;   // [n_rules] owned
    int32_t n_states, states_capacity;
    int32_t n_edges, edges_capacity;
    int32_t n_rules, rules_capacity;
    uint8_t classes[256]; // bytes that no edge tells apart; ascending with the byte
    uint8_t class_bytes[256];
    int32_t n_classes;
    struct error error; // the first failure
};

void nfa_init(struct nfa *nfa); // with rule 0
void nfa_finish(struct nfa *nfa);

int32_t nfa_add_state(struct nfa *nfa);
int32_t nfa_add_rule(struct nfa *nfa);
void nfa_add_byte(struct nfa *nfa, int32_t from, int byte, int32_t to);
void nfa_add_bytes(struct nfa *nfa, int32_t from, int low, int high, int32_t to);
void nfa_add_text(struct nfa *nfa, int32_t from, const char *text, size_t length, int32_t to);
void nfa_add_epsilon(struct nfa *nfa, int32_t from, int32_t to);
void nfa_add_call(struct nfa *nfa, int32_t from, int32_t rule, int32_t to);

/* At state any character but '"', '\' and controls can come as itself, and leads to a state of the same kind, up to
 * n_chars times. Only a promise about edges that are added besides: masks are made faster with it. */
void nfa_set_contents(struct nfa *nfa, int32_t state, int32_t n_chars);

/* Notes a failure, unless there was one. Is false. */
bool nfa_fail(struct nfa *nfa, enum error_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool nfa_has_failed(const struct nfa *nfa);

/* Orders the edges, cuts off what is dead, checks the whole. ERR_INVALID: nothing fits the grammar, or a rule calls
 * itself before it has read anything. */
bool nfa_seal(struct nfa *nfa, struct error *err);

#endif
