#include "engine/grammar_regex.h"

#include <stdlib.h>
#include <string.h>

void regex_finish(struct regex *regex) {
    for (int32_t i = 0; i < regex->n_sets; i++) char_set_finish(&regex->sets[i]);
    free(regex->sets);
    free(regex->edges);
    free(regex->first_edges);
    *regex = (struct regex){0};
}

/* Adds state to the set and what it reaches without reading. */
static void enter(const struct regex *regex, int32_t state, uint8_t *is_in, int32_t *list, int32_t *count) {
    if (is_in[state]) return;
    int32_t at = *count;
    is_in[state] = 1;
    list[(*count)++] = state;
    for (; at < *count; at++)
        for (int32_t i = regex->first_edges[list[at]]; i < regex->first_edges[list[at] + 1]; i++) {
            const struct regex_edge *edge = &regex->edges[i];
            if (edge->set >= 0 || is_in[edge->to]) continue;
            is_in[edge->to] = 1;
            list[(*count)++] = edge->to;
        }
}

bool regex_fits(const struct regex *regex, const char *text) {
    size_t n_states = (size_t)regex->n_states;
    int32_t *lists = malloc(2 * n_states * sizeof *lists), *now = lists, n_now = 0;
    uint8_t *is_in = calloc(n_states, 1);
    bool fits = false;
    if (lists && is_in) {
        int32_t *next = lists + n_states;
        enter(regex, regex->start, is_in, now, &n_now);
        while (*text && n_now > 0) {
            uint32_t character = char_next(&text);
            int32_t n_next = 0;
            memset(is_in, 0, n_states);
            for (int32_t s = 0; s < n_now; s++)
                for (int32_t i = regex->first_edges[now[s]]; i < regex->first_edges[now[s] + 1]; i++) {
                    const struct regex_edge *edge = &regex->edges[i];
                    if (edge->set >= 0 && char_set_contains(&regex->sets[edge->set], character))
                        enter(regex, edge->to, is_in, next, &n_next);
                }
            int32_t *swap = now;
            now = next;
            next = swap;
            n_now = n_next;
        }
        fits = *text == '\0' && n_now > 0 && is_in[regex->end];
    }
    free(lists);
    free(is_in);
    return fits;
}

/* Layer k of the copies has read k characters; the last one has no limit when there is none. */
void nfa_add_regex(struct nfa *nfa, int32_t from, const struct regex_use *use, int32_t to) {
    const struct regex *regex = use->regex;
    bool is_endless = use->max_chars == REGEX_ENDLESS;
    int64_t n_layers = (is_endless ? use->min_chars : use->max_chars) + 1;
    if (n_layers > NFA_MAX_STATES || n_layers * regex->n_states > NFA_MAX_STATES) {
        nfa_fail(nfa, ERR_INVALID,
                 "A pattern of %d states with a length of %lld needs more than the %d states that a grammar may have.",
                 regex->n_states, (long long)n_layers - 1, NFA_MAX_STATES);
        return;
    }
    int32_t *states = malloc((size_t)n_layers * (size_t)regex->n_states * sizeof *states);
    if (!states) {
        nfa_fail(nfa, ERR_MEMORY, "No memory for a pattern.");
        return;
    }
    for (int64_t i = 0; i < n_layers * regex->n_states; i++) states[i] = nfa_add_state(nfa);
    nfa_add_epsilon(nfa, from, states[regex->start]);
    for (int64_t layer = 0; layer < n_layers && !nfa_has_failed(nfa); layer++) {
        const int32_t *here = states + layer * regex->n_states;
        const int32_t *next = layer + 1 < n_layers ? here + regex->n_states : is_endless ? here : NULL;
        for (int32_t i = 0; i < regex->n_edges; i++) {
            const struct regex_edge *edge = &regex->edges[i];
            if (edge->set < 0) {
                nfa_add_epsilon(nfa, here[edge->from], here[edge->to]);
            } else if (next) {
                nfa_add_chars(nfa, here[edge->from], &regex->sets[edge->set], use->encoding, next[edge->to]);
            }
        }
        if (layer >= use->min_chars) nfa_add_epsilon(nfa, here[regex->end], to);
    }
    free(states);
}
