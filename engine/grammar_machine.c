#include "engine/grammar_machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define N_STATE_SLOTS (MACHINE_MAX_STATES * 2)
#define N_FRAME_SLOTS (MACHINE_MAX_FRAMES * 2)
#define N_VISIT_SLOTS (MACHINE_MAX_VISITS * 2)
#define BOTTOM        0 // the frame below the whole grammar

struct config {
    int32_t state; // of the automaton
    int32_t frame;
};

struct frame {
    int32_t state; // to return to
    int32_t below;
    int32_t depth;
};

struct machine_state {
    int32_t first_config, n_configs;
    struct token_mask *mask; // borrowed from masks, NULL: not made yet
    bool is_accepting;
};

/* Mapped at their full size, 10 to 27 MB: the system gives pages when they are first touched, which most never are. */
struct machine_tables {
    struct machine_state states[MACHINE_MAX_STATES];
    struct frame frames[MACHINE_MAX_FRAMES];
    struct config configs[MACHINE_MAX_CONFIGS];
    int32_t state_slots[N_STATE_SLOTS]; // hash of the configurations -> state, 0: free
    int32_t frame_slots[N_FRAME_SLOTS]; // hash of (state, below) -> frame, 0: free
    struct {
        struct config config;
        uint32_t round; // the visit is of this closure when equal to tables->round
    } visits[N_VISIT_SLOTS];
    uint32_t round;
    int32_t n_visits;
    struct config pending[MACHINE_MAX_VISITS]; // [n_pending] to be visited
    int32_t n_pending;
    struct config found[MACHINE_MAX_SET]; // [n_found] of the state that is being made
    int32_t n_found;
    int32_t n_states, n_frames, n_configs, n_masks;
    size_t mapped_bytes;
    struct token_mask **masks; // [n_masks] all different, owned
    int32_t masks_capacity;
    int32_t steps[]; // [MACHINE_MAX_STATES][n_classes] MACHINE_UNKNOWN until it is needed
};

static uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

static struct machine_tables *tables_create(const struct nfa *nfa, struct error *err) {
    size_t n_steps = (size_t)MACHINE_MAX_STATES * (size_t)nfa->n_classes;
    size_t bytes = sizeof(struct machine_tables) + n_steps * sizeof(int32_t);
    struct machine_tables *tables =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (tables == MAP_FAILED) {
        fail(err, ERR_MEMORY, "No memory for the states of a grammar.");
        return NULL;
    }
    tables->mapped_bytes = bytes;
    tables->n_states = MACHINE_N_FIXED;
    tables->n_frames = 1;
    tables->states[MACHINE_ENDED].is_accepting = true;
    for (int32_t i = 0; i < MACHINE_N_FIXED * nfa->n_classes; i++) tables->steps[i] = MACHINE_DEAD;
    return tables;
}

static void tables_destroy(struct machine_tables *tables) {
    if (!tables) return;
    for (int32_t i = 0; i < tables->n_masks; i++) free(tables->masks[i]);
    free(tables->masks);
    munmap(tables, tables->mapped_bytes);
}

/* --- states --- */

/* The frame (state, below), or -1 when the table is full. */
static int32_t find_frame(struct machine_tables *tables, int32_t state, int32_t below) {
    uint32_t slot = (uint32_t)mix((uint64_t)state, (uint64_t)below) % N_FRAME_SLOTS;
    for (; tables->frame_slots[slot] != 0; slot = (slot + 1) % N_FRAME_SLOTS) {
        const struct frame *frame = &tables->frames[tables->frame_slots[slot]];
        if (frame->state == state && frame->below == below) return tables->frame_slots[slot];
    }
    if (tables->n_frames == MACHINE_MAX_FRAMES) return -1;
    tables->frames[tables->n_frames] = (struct frame){state, below, tables->frames[below].depth + 1};
    tables->frame_slots[slot] = tables->n_frames;
    return tables->n_frames++;
}

/* Notes a configuration to be visited, unless it was already, or could not end within the depth allowed. */
static void visit(struct machine *machine, int32_t state, int32_t frame) {
    struct machine_tables *tables = machine->tables;
    if (frame < 0 || tables->frames[frame].depth + machine->nfa->states[state].need > NFA_MAX_DEPTH) return;
    if (tables->n_visits == MACHINE_MAX_VISITS) return;
    uint32_t slot = (uint32_t)mix((uint64_t)state, (uint64_t)frame) % N_VISIT_SLOTS;
    for (; tables->visits[slot].round == tables->round; slot = (slot + 1) % N_VISIT_SLOTS) {
        const struct config *seen = &tables->visits[slot].config;
        if (seen->state == state && seen->frame == frame) return;
    }
    tables->visits[slot].config = (struct config){state, frame};
    tables->visits[slot].round = tables->round;
    tables->n_visits++;
    machine->work_left--;
    tables->pending[tables->n_pending++] = (struct config){state, frame};
}

static void begin_set(struct machine *machine) {
    struct machine_tables *tables = machine->tables;
    if (++tables->round == 0) { // after 2^32 sets
        memset(tables->visits, 0, sizeof tables->visits);
        tables->round = 1;
    }
    tables->n_visits = tables->n_pending = tables->n_found = 0;
}

/* What the configuration reaches without reading; keeps it if it can read, or is the end of all. */
static void expand(struct machine *machine, struct config config) {
    const struct nfa *nfa = machine->nfa;
    struct machine_tables *tables = machine->tables;
    const struct nfa_state *state = &nfa->states[config.state];
    bool is_kept = state->is_end && config.frame == BOTTOM;
    if (state->is_end && !is_kept) {
        const struct frame *frame = &tables->frames[config.frame];
        visit(machine, frame->state, frame->below);
    }
    for (int32_t i = state->first_edge; i < state[1].first_edge; i++) {
        const struct nfa_edge *edge = &nfa->edges[i];
        if (edge->kind == NFA_BYTES) is_kept = true;
        if (edge->kind == NFA_EPSILON) visit(machine, edge->to, config.frame);
        if (edge->kind != NFA_CALL) continue;
        /* Nothing follows a call into an end: no frame, so that a chain of $ref is no chain of frames. */
        bool is_last = nfa->states[edge->to].is_end;
        int32_t start = nfa->rules[edge->rule].start;
        if (tables->frames[config.frame].depth + (is_last ? 0 : 1) + nfa->states[start].need > NFA_MAX_DEPTH) continue;
        visit(machine, start, is_last ? config.frame : find_frame(tables, edge->to, config.frame));
    }
    if (is_kept && tables->n_found < MACHINE_MAX_SET) tables->found[tables->n_found++] = config;
}

static int compare_configs(const void *a, const void *b) {
    const struct config *left = a, *right = b;
    if (left->state != right->state) return left->state < right->state ? -1 : 1;
    return (left->frame > right->frame) - (left->frame < right->frame);
}

/* The state of what was visited; MACHINE_DEAD when that is nothing, MACHINE_UNKNOWN when there is no room. */
static int32_t end_set(struct machine *machine) {
    struct machine_tables *tables = machine->tables;
    while (tables->n_pending > 0) expand(machine, tables->pending[--tables->n_pending]);
    if (tables->n_found == 0) return MACHINE_DEAD;
    qsort(tables->found, (size_t)tables->n_found, sizeof *tables->found, compare_configs);
    uint64_t hash = 0;
    bool is_accepting = false;
    for (int32_t i = 0; i < tables->n_found; i++) {
        hash = mix(hash, (uint64_t)tables->found[i].state << 32 | (uint32_t)tables->found[i].frame);
        is_accepting = is_accepting || machine->nfa->states[tables->found[i].state].is_end;
    }
    size_t bytes = (size_t)tables->n_found * sizeof *tables->found;
    uint32_t slot = (uint32_t)hash % N_STATE_SLOTS;
    for (; tables->state_slots[slot] != 0; slot = (slot + 1) % N_STATE_SLOTS) {
        const struct machine_state *state = &tables->states[tables->state_slots[slot]];
        if (state->n_configs == tables->n_found &&
            memcmp(tables->configs + state->first_config, tables->found, bytes) == 0)
            return tables->state_slots[slot];
    }
    if (machine->state_budget == 0 || tables->n_states == MACHINE_MAX_STATES ||
        tables->n_configs + tables->n_found > MACHINE_MAX_CONFIGS)
        return MACHINE_UNKNOWN;
    machine->state_budget--;
    memcpy(tables->configs + tables->n_configs, tables->found, bytes);
    tables->states[tables->n_states] = (struct machine_state){
        .first_config = tables->n_configs, .n_configs = tables->n_found, .is_accepting = is_accepting};
    tables->n_configs += tables->n_found;
    tables->state_slots[slot] = tables->n_states;
    return tables->n_states++;
}

static int32_t make_step(struct machine *machine, int32_t from, int32_t class) {
    struct machine_tables *tables = machine->tables;
    const struct nfa *nfa = machine->nfa;
    const struct machine_state *state = &tables->states[from];
    if (machine->work_left <= 0) return MACHINE_DEAD;
    begin_set(machine);
    for (int32_t c = 0; c < state->n_configs; c++) {
        struct config config = tables->configs[state->first_config + c];
        const struct nfa_state *at = &nfa->states[config.state];
        for (int32_t i = at->first_edge; i < at[1].first_edge; i++) {
            const struct nfa_edge *edge = &nfa->edges[i];
            if (edge->kind == NFA_BYTES && edge->low <= class && class <= edge->high)
                visit(machine, edge->to, config.frame);
        }
        machine->work_left--;
    }
    int32_t next = end_set(machine);
    if (next == MACHINE_UNKNOWN) return MACHINE_DEAD;
    tables->steps[from * nfa->n_classes + class] = next;
    return next;
}

static inline int32_t step_class(struct machine *machine, int32_t from, int32_t class) {
    int32_t next = machine->tables->steps[from * machine->nfa->n_classes + class];
    return next != MACHINE_UNKNOWN ? next : make_step(machine, from, class);
}

static void set_budget(struct machine *machine, int32_t work) {
    machine->state_budget = MACHINE_MAX_STATES / 4;
    machine->work_left = work;
}

int32_t machine_step(struct machine *machine, int32_t state, unsigned char byte) {
    return machine_step_bytes(machine, state, (const char *)&byte, 1);
}

int32_t machine_step_bytes(struct machine *machine, int32_t state, const char *bytes, size_t length) {
    set_budget(machine, INT32_MAX);
    for (size_t i = 0; i < length && state != MACHINE_DEAD; i++)
        state = step_class(machine, state, machine->nfa->classes[(unsigned char)bytes[i]]);
    return state;
}

bool machine_is_accepting(const struct machine *machine, int32_t state) {
    return machine->tables->states[state].is_accepting;
}

/* --- masks --- */

/* Sets the tokens that keep the machine alive. */
static void walk(struct machine *machine, const struct token_nodes *nodes, int32_t state, uint32_t *words) {
    const uint8_t *classes = machine->nfa->classes;
    int32_t path[TOKEN_TRIE_MAX_BYTES + 1] = {state};
    for (uint32_t node = 0; node < nodes->n_nodes;) {
        uint32_t depth = nodes->depths[node];
        int32_t next = step_class(machine, path[depth - 1], classes[nodes->bytes[node]]);
        if (next == MACHINE_DEAD) {
            node = nodes->skips[node];
            continue;
        }
        path[depth] = next;
        for (uint32_t i = nodes->first_tokens[node]; i < nodes->first_tokens[node + 1]; i++)
            words[nodes->tokens[i] / 32] |= 1u << (nodes->tokens[i] % 32);
        node++;
    }
}

static void fill_mask(struct machine *machine, int32_t index, uint32_t *words) {
    const struct token_trie *trie = machine->trie;
    const struct machine_state *state = &machine->tables->states[index];
    size_t bytes = (size_t)trie->n_words * sizeof *words;
    /* Single bytes first and without a limit: they alone can reach every end. */
    set_budget(machine, INT32_MAX);
    for (int32_t class = 0; class < machine->nfa->n_classes; class ++) step_class(machine, index, class);
    machine->work_left = MACHINE_MASK_WORK;
    int32_t contents =
        state->n_configs == 1 ? machine->nfa->states[machine->tables->configs[state->first_config].state].contents : 0;
    if (contents > 0) {
        memcpy(words, token_trie_content(trie, contents), bytes);
        walk(machine, &trie->outside, index, words);
    } else {
        memset(words, 0, bytes);
        walk(machine, &trie->all, index, words);
    }
    for (int32_t i = 0; i < trie->n_stop_ids && state->is_accepting; i++)
        words[trie->stop_ids[i] / 32] |= 1u << (trie->stop_ids[i] % 32);
}

/* Takes the mask over: itself, or one that is equal. NULL: no memory. */
static struct token_mask *keep_mask(struct machine_tables *tables, struct token_mask *mask, size_t n_words) {
    mask->hash = 0;
    for (size_t i = 0; i < n_words; i++) mask->hash = mix(mask->hash, mask->words[i]);
    for (int32_t i = 0; i < tables->n_masks; i++) {
        if (tables->masks[i]->hash != mask->hash) continue;
        if (memcmp(tables->masks[i]->words, mask->words, n_words * sizeof *mask->words) != 0) continue;
        free(mask);
        return tables->masks[i];
    }
    if (tables->n_masks == tables->masks_capacity) {
        int32_t capacity = tables->masks_capacity ? tables->masks_capacity * 2 : 16;
        struct token_mask **masks = realloc(tables->masks, (size_t)capacity * sizeof *masks);
        if (!masks) {
            free(mask);
            return NULL;
        }
        tables->masks = masks;
        tables->masks_capacity = capacity;
    }
    return tables->masks[tables->n_masks++] = mask;
}

const struct token_mask *machine_mask(struct machine *machine, int32_t state, struct error *err) {
    struct machine_state *at = &machine->tables->states[state];
    if (at->mask) return at->mask;
    size_t n_words = (size_t)machine->trie->n_words;
    struct token_mask *mask = malloc(sizeof *mask + n_words * sizeof *mask->words);
    if (mask) {
        fill_mask(machine, state, mask->words);
        at->mask = keep_mask(machine->tables, mask, n_words);
    }
    if (!at->mask) fail(err, ERR_MEMORY, "No memory for a mask of %d tokens.", machine->trie->n_vocab);
    return at->mask;
}

/* --- life --- */

static void find_start(struct machine *machine) {
    set_budget(machine, INT32_MAX);
    begin_set(machine);
    visit(machine, machine->nfa->rules[0].start, BOTTOM);
    machine->start = end_set(machine);
}

bool machine_init(struct machine *machine, const struct nfa *nfa, const struct token_trie *trie, struct error *err) {
    *machine = (struct machine){.nfa = nfa, .trie = trie, .mask_limit = MACHINE_MAX_MASKS};
    machine->tables = tables_create(nfa, err);
    if (!machine->tables) return false;
    find_start(machine);
    return true;
}

void machine_finish(struct machine *machine) {
    tables_destroy(machine->tables);
    *machine = (struct machine){0};
}

bool machine_is_full(const struct machine *machine) {
    const struct machine_tables *tables = machine->tables;
    return tables->n_states > MACHINE_MAX_STATES / 2 || tables->n_frames > MACHINE_MAX_FRAMES / 2 ||
           tables->n_configs > MACHINE_MAX_CONFIGS / 4 * 3 || tables->n_masks >= machine->mask_limit;
}

/* The frame of the old tables in the new ones, -1 when there is no room. */
static int32_t move_frame(struct machine_tables *tables, const struct machine_tables *old, int32_t frame) {
    int32_t states[NFA_MAX_DEPTH], depth = 0, moved = BOTTOM;
    for (; frame != BOTTOM; frame = old->frames[frame].below) {
        assert(depth < NFA_MAX_DEPTH);
        states[depth++] = old->frames[frame].state;
    }
    while (depth > 0 && moved >= 0) moved = find_frame(tables, states[--depth], moved);
    return moved;
}

/* Several states may share a mask: who comes first takes it along. */
static void move_mask(struct machine_tables *tables, struct machine_tables *old, struct token_mask *mask) {
    for (int32_t i = 0; i < old->n_masks; i++) {
        if (old->masks[i] != mask) continue;
        old->masks[i] = old->masks[--old->n_masks];
        tables->masks[tables->n_masks++] = mask;
        return;
    }
}

bool machine_compact(struct machine *machine, int32_t **states, int32_t n_states, struct error *err) {
    struct machine_tables *old = machine->tables, *tables = tables_create(machine->nfa, err);
    if (!tables) return false;
    tables->masks = malloc(((size_t)old->n_masks + 1) * sizeof *tables->masks);
    if (!tables->masks) {
        tables_destroy(tables);
        return fail(err, ERR_MEMORY, "No memory for %d masks.", old->n_masks);
    }
    tables->masks_capacity = old->n_masks + 1;
    machine->tables = tables;
    find_start(machine);
    machine->state_budget = INT32_MAX;
    for (int32_t i = 0; i < n_states; i++) {
        if (*states[i] < MACHINE_N_FIXED) continue;
        struct machine_state *from = &old->states[*states[i]];
        begin_set(machine);
        for (int32_t c = 0; c < from->n_configs; c++) {
            struct config config = old->configs[from->first_config + c];
            visit(machine, config.state, move_frame(tables, old, config.frame));
        }
        int32_t moved = end_set(machine);
        *states[i] = moved == MACHINE_UNKNOWN ? MACHINE_DEAD : moved;
        if (from->mask) move_mask(tables, old, from->mask);
        if (*states[i] >= MACHINE_N_FIXED) tables->states[*states[i]].mask = from->mask;
    }
    machine->mask_limit = tables->n_masks * 2 > MACHINE_MAX_MASKS ? tables->n_masks * 2 : MACHINE_MAX_MASKS;
    tables_destroy(old);
    return true;
}

struct machine_counts machine_counts(const struct machine *machine) {
    const struct machine_tables *tables = machine->tables;
    return (struct machine_counts){tables->n_states, tables->n_frames, tables->n_configs, tables->n_masks};
}
