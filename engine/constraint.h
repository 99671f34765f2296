/* What a request's answer must keep to, told one token at a time: the engine's side of a grammar.
 *
 * Whoever makes a constraint embeds this struct in its own. All calls come from the engine's thread: `fill` before each
 * token is sampled, `accept` with every token that was, in order, end tokens too, `destroy` once, before the request's
 * last event. A preempted sequence keeps its constraint as it is. fill runs while the device computes the logits that
 * its mask is for: a quick one costs no time. What may end the answer has its bit set like any other token;
 * min_new_tokens bans nothing that a mask allows. */
#ifndef QUERN_ENGINE_CONSTRAINT_H
#define QUERN_ENGINE_CONSTRAINT_H

#include <stdbool.h>
#include <stdint.h>

enum constraint_answer {
    CONSTRAINT_FREE,   // any token may follow that min_new_tokens does not ban; the mask was not written
    CONSTRAINT_MASKED, // those whose bits were set, at least one
    CONSTRAINT_STUCK,  // none may: the request fails
};

struct constraint {
    /* Writes all of mask, [sampling_mask_words(vocab)], when masked: token i at bit i % 32 of word i / 32; 1: allowed.
     */
    enum constraint_answer (*fill)(struct constraint *constraint, uint32_t *mask, int32_t vocab);
    void (*accept)(struct constraint *constraint, int32_t token);
    void (*destroy)(struct constraint *constraint);
};

#endif
