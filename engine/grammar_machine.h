/* Runs a sealed automaton against bytes and tokens, and remembers what it found.
 *
 * A state of the machine is a set of configurations: a state of the automaton and the stack of states to return to.
 * States, stacks, steps and token masks are made when they are first needed and then kept, so that in the long run a
 * step is a look into a table and a mask is there already. All tables are of fixed size: when one is half full,
 * machine_compact keeps only what the given states need. A step or a mask may not take for ever either: past
 * MACHINE_MASK_WORK a mask leaves out tokens of more than one byte, past MACHINE_MAX_SET a state drops configurations.
 * Both forbid what would have been allowed, never the reverse, and never all. Not thread-safe: grammar.h locks. */
#ifndef QUERN_ENGINE_GRAMMAR_MACHINE_H
#define QUERN_ENGINE_GRAMMAR_MACHINE_H

#include "engine/grammar_nfa.h"
#include "engine/token_trie.h"

#include <stdbool.h>
#include <stdint.h>

#define MACHINE_MAX_STATES  16384
#define MACHINE_MAX_FRAMES  65536
#define MACHINE_MAX_CONFIGS 1048576 // of all states together
#define MACHINE_MAX_SET     1024    // configurations of one state
#define MACHINE_MAX_VISITS  8192    // configurations on the way to one state
#define MACHINE_MAX_MASKS   256     // different ones: 4.9 MB with 151,936 tokens
#define MACHINE_MASK_WORK   200000  // visits for one mask: under 20 ms; a plain walk over 151,643 tokens takes 2.6

/* States that every machine has. */
enum { MACHINE_UNKNOWN, MACHINE_DEAD, MACHINE_ENDED, MACHINE_N_FIXED };

struct token_mask {
    uint64_t hash;
    uint32_t words[]; // [n_words]
};

struct machine_tables;

struct machine {
    const struct nfa *nfa;         // borrowed, sealed
    const struct token_trie *trie; // borrowed
    struct machine_tables *tables; // owned
    int32_t start;
    int32_t state_budget; // states that may still be made
    int32_t work_left;    // visits
    int32_t mask_limit;   // MACHINE_MAX_MASKS, or twice what the last machine_compact had to keep
};

bool machine_init(struct machine *machine, const struct nfa *nfa, const struct token_trie *trie, struct error *err);
void machine_finish(struct machine *machine);

/* Another state, MACHINE_DEAD when the byte does not fit. */
int32_t machine_step(struct machine *machine, int32_t state, unsigned char byte);
int32_t machine_step_bytes(struct machine *machine, int32_t state, const char *bytes, size_t length);
bool machine_is_accepting(const struct machine *machine, int32_t state);

/* Valid until machine_compact. NULL: no memory. */
const struct token_mask *machine_mask(struct machine *machine, int32_t state, struct error *err);

/* A table is half full: time for machine_compact. Between two calls of machine_is_full one mask can be made or
 * TOKEN_TRIE_MAX_BYTES steps done. */
bool machine_is_full(const struct machine *machine);
/* Forgets all but these states, which get new numbers, and their masks. */
bool machine_compact(struct machine *machine, int32_t **states, int32_t n_states, struct error *err);

struct machine_counts {
    int32_t n_states, n_frames, n_configs, n_masks;
};
struct machine_counts machine_counts(const struct machine *machine);

#endif
