#include "engine/grammar.h"

#include "engine/grammar_calls.h"
#include "engine/grammar_chars.h"
#include "engine/grammar_machine.h"
#include "engine/grammar_regex.h"
#include "engine/grammar_schema.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct grammar {
    atomic_int n_references;
    struct nfa nfa; // constant once sealed
    pthread_mutex_t lock;
    struct machine machine;           // behind lock
    struct grammar_matcher *matchers; // list of all, behind lock
    int32_t n_matchers;
};

/* --- compiling --- */

/* UTF-8 without NUL, cut off at `length`; ERR_INVALID otherwise. */
static char *copy_text(const struct grammar_source *source, struct error *err) {
    if (source->length > GRAMMAR_MAX_BYTES) {
        fail(err, ERR_INVALID, "A grammar may have %zu bytes of text, this one has %zu.", GRAMMAR_MAX_BYTES,
             source->length);
        return NULL;
    }
    if (!chars_are_valid(source->text, source->length)) {
        fail(err, ERR_INVALID, "A grammar must be valid UTF-8 without NUL.");
        return NULL;
    }
    char *text = malloc(source->length + 1);
    if (!text) {
        fail(err, ERR_MEMORY, "No memory for a grammar of %zu bytes.", source->length);
        return NULL;
    }
    if (source->length > 0) memcpy(text, source->text, source->length);
    text[source->length] = '\0';
    return text;
}

static bool add_regex(struct nfa *nfa, const char *text, struct error *err) {
    struct regex regex;
    if (!regex_compile(&regex, text, REGEX_WHOLE, err)) return false;
    struct regex_use use = {.regex = &regex, .encoding = CHARS_UTF8, .min_chars = 0, .max_chars = REGEX_ENDLESS};
    nfa_add_regex(nfa, nfa->rules[0].start, &use, nfa->rules[0].end);
    regex_finish(&regex);
    return true;
}

static bool add_choices(struct nfa *nfa, const char *text, struct error *err) {
    cJSON *choices = grammar_parse_json(text, err);
    if (!choices) return false;
    const cJSON *choice;
    bool fits = cJSON_IsArray(choices) && choices->child;
    cJSON_ArrayForEach(choice, choices) {
        fits = fits && cJSON_IsString(choice) && choice->valuestring[0] != '\0';
        if (fits) nfa_add_string(nfa, nfa->rules[0].start, choice->valuestring, CHARS_UTF8, nfa->rules[0].end);
    }
    cJSON_Delete(choices);
    return fits || fail(err, ERR_INVALID, "A choice needs an array of one or more strings, none of them empty.");
}

static bool add_object(struct nfa *nfa) {
    struct json_rules rules = {0};
    json_add_any_object(nfa, &rules, nfa->rules[0].start, nfa->rules[0].end);
    return true;
}

static bool compile(struct nfa *nfa, const struct grammar_source *source, struct error *err) {
    if (source->kind == GRAMMAR_JSON_OBJECT) return add_object(nfa) && nfa_seal(nfa, err);
    char *text = copy_text(source, err);
    if (!text) return false;
    bool added = false;
    if (source->kind == GRAMMAR_JSON_SCHEMA) added = grammar_add_schema(nfa, text, err);
    if (source->kind == GRAMMAR_REGEX) added = add_regex(nfa, text, err);
    if (source->kind == GRAMMAR_CHOICE) added = add_choices(nfa, text, err);
    if (source->kind == GRAMMAR_TOOL_CALL) added = grammar_add_calls(nfa, text, TOOL_CALL_JSON, err);
    if (source->kind == GRAMMAR_XML_CALL) added = grammar_add_calls(nfa, text, TOOL_CALL_XML, err);
    free(text);
    return added && nfa_seal(nfa, err);
}

struct grammar *grammar_create(const struct token_trie *trie, const struct grammar_source *source, struct error *err) {
    struct grammar *grammar = calloc(1, sizeof *grammar);
    if (!grammar) {
        fail(err, ERR_MEMORY, "No memory for a grammar.");
        return NULL;
    }
    atomic_init(&grammar->n_references, 1);
    pthread_mutex_init(&grammar->lock, NULL);
    nfa_init(&grammar->nfa);
    if (nfa_has_failed(&grammar->nfa)) fail(err, grammar->nfa.error.code, "%s", grammar->nfa.error.message);
    /* The first mask is found here, on the thread that compiles. */
    if (nfa_has_failed(&grammar->nfa) || !compile(&grammar->nfa, source, err) ||
        !machine_init(&grammar->machine, &grammar->nfa, trie, err) ||
        !machine_mask(&grammar->machine, grammar->machine.start, err)) {
        grammar_release(grammar);
        return NULL;
    }
    return grammar;
}

struct grammar *grammar_retain(struct grammar *grammar) {
    atomic_fetch_add_explicit(&grammar->n_references, 1, memory_order_relaxed);
    return grammar;
}

void grammar_release(struct grammar *grammar) {
    if (!grammar || atomic_fetch_sub_explicit(&grammar->n_references, 1, memory_order_acq_rel) > 1) return;
    assert(!grammar->matchers);
    machine_finish(&grammar->machine);
    nfa_finish(&grammar->nfa);
    pthread_mutex_destroy(&grammar->lock);
    free(grammar);
}

struct grammar_counts grammar_counts(struct grammar *grammar) {
    pthread_mutex_lock(&grammar->lock);
    struct machine_counts counts = machine_counts(&grammar->machine);
    pthread_mutex_unlock(&grammar->lock);
    return (struct grammar_counts){grammar->nfa.n_states, counts.n_states, counts.n_frames, counts.n_masks};
}

/* --- matching --- */

/* Behind the lock: makes room when a table is half full. Without memory for it the tables stay as they are, and what no
 * longer has room is not allowed. */
static void make_room(struct grammar *grammar) {
    if (!machine_is_full(&grammar->machine)) return;
    int32_t **states = malloc(((size_t)grammar->n_matchers + 1) * sizeof *states), n_states = 0;
    if (!states) return;
    for (struct grammar_matcher *at = grammar->matchers; at; at = at->next) states[n_states++] = &at->state;
    machine_compact(&grammar->machine, states, n_states, NULL);
    free(states);
}

static void link_matcher(struct grammar_matcher *matcher, struct grammar *grammar, int32_t state) {
    *matcher = (struct grammar_matcher){.grammar = grammar, .next = grammar->matchers, .state = state};
    if (matcher->next) matcher->next->previous = matcher;
    grammar->matchers = matcher;
    grammar->n_matchers++;
}

static void unlink_matcher(struct grammar_matcher *matcher) {
    struct grammar *grammar = matcher->grammar;
    if (matcher->next) matcher->next->previous = matcher->previous;
    if (matcher->previous) {
        matcher->previous->next = matcher->next;
    } else {
        grammar->matchers = matcher->next;
    }
    grammar->n_matchers--;
}

void grammar_matcher_init(struct grammar_matcher *matcher, struct grammar *grammar) {
    grammar_retain(grammar);
    pthread_mutex_lock(&grammar->lock);
    link_matcher(matcher, grammar, grammar->machine.start);
    pthread_mutex_unlock(&grammar->lock);
}

void grammar_matcher_copy(struct grammar_matcher *copy, const struct grammar_matcher *matcher) {
    struct grammar *grammar = grammar_retain(matcher->grammar);
    pthread_mutex_lock(&grammar->lock);
    link_matcher(copy, grammar, matcher->state);
    pthread_mutex_unlock(&grammar->lock);
}

void grammar_matcher_finish(struct grammar_matcher *matcher) {
    struct grammar *grammar = matcher->grammar;
    if (!grammar) return;
    pthread_mutex_lock(&grammar->lock);
    unlink_matcher(matcher);
    pthread_mutex_unlock(&grammar->lock);
    *matcher = (struct grammar_matcher){0};
    grammar_release(grammar);
}

const uint32_t *grammar_matcher_mask(struct grammar_matcher *matcher, struct error *err) {
    struct grammar *grammar = matcher->grammar;
    pthread_mutex_lock(&grammar->lock);
    make_room(grammar);
    const struct token_mask *mask = machine_mask(&grammar->machine, matcher->state, err);
    pthread_mutex_unlock(&grammar->lock);
    return mask ? mask->words : NULL;
}

bool grammar_matcher_accept_bytes(struct grammar_matcher *matcher, const char *bytes, size_t length) {
    struct grammar *grammar = matcher->grammar;
    pthread_mutex_lock(&grammar->lock);
    struct grammar_matcher ahead; // in the list, so that making room keeps both places
    link_matcher(&ahead, grammar, matcher->state);
    while (length > 0 && ahead.state != MACHINE_DEAD) {
        size_t part = length < TOKEN_TRIE_MAX_BYTES ? length : TOKEN_TRIE_MAX_BYTES;
        make_room(grammar);
        ahead.state = machine_step_bytes(&grammar->machine, ahead.state, bytes, part);
        bytes += part;
        length -= part;
    }
    bool is_alive = ahead.state != MACHINE_DEAD;
    if (is_alive) matcher->state = ahead.state;
    unlink_matcher(&ahead);
    pthread_mutex_unlock(&grammar->lock);
    return is_alive;
}

static bool accept_stop(struct grammar_matcher *matcher) {
    struct grammar *grammar = matcher->grammar;
    pthread_mutex_lock(&grammar->lock);
    bool can_end = machine_is_accepting(&grammar->machine, matcher->state);
    if (can_end) matcher->state = MACHINE_ENDED;
    pthread_mutex_unlock(&grammar->lock);
    return can_end;
}

bool grammar_matcher_accept(struct grammar_matcher *matcher, int32_t token) {
    const struct token_trie *trie = matcher->grammar->machine.trie;
    if (token_trie_is_stop(trie, token)) return accept_stop(matcher);
    size_t length;
    const char *bytes = token_trie_bytes(trie, token, &length);
    return length > 0 && grammar_matcher_accept_bytes(matcher, bytes, length);
}

bool grammar_matcher_can_end(const struct grammar_matcher *matcher) {
    struct grammar *grammar = matcher->grammar;
    pthread_mutex_lock(&grammar->lock);
    bool can_end = machine_is_accepting(&grammar->machine, matcher->state);
    pthread_mutex_unlock(&grammar->lock);
    return can_end;
}
