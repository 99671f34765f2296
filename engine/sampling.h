/* How one token is chosen from a row of logits; the definition that cpu/sample.c and cuda/sample.cu both compute.
 *
 * First a row's seat and mask change its logits (sampling_adjusted), where it has any. Then:
 * A logit that is not finite: SAMPLED_NOT_FINITE. temperature under SAMPLING_MIN_TEMPERATURE: the largest logit, the
 * lowest id among equals. Otherwise w_i = floor(SAMPLING_WEIGHT_ONE * exp((logit_i - max) / temperature)), max over the
 * whole row; of the tokens with w_i > 0 (no other is ever counted or chosen) keep token i if
 *   top_k: fewer than top_k tokens have a larger logit;
 *   top_p: the weights, kept by top_k, of larger logits sum to less than top_p of all weights kept by top_k;
 *   min_p: w_i >= floor(SAMPLING_WEIGHT_ONE * min_p).
 * Filters apply in that order and keep equals together (-0 equals 0), so that a result never depends on the order of
 * the ids. The token is the argmax over kept i of (logit_i - max) / temperature + gumbel_i, the lowest id among equals;
 * gumbel_i = -log(-log(u_i)), u_i from Philox4x32-10 (Salmon et al., 2011) with key = seed and counter = (i, position):
 * a token depends on its seed, position and logits alone, never on the batch. Integer weights make the sums
 * independent of their order. The functions below use only operations that round the same everywhere: single additions
 * and products, explicit fmaf, and bits; processor and GPU get the same bits. */
#ifndef QUERN_ENGINE_SAMPLING_H
#define QUERN_ENGINE_SAMPLING_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define QUERN_HOST_DEVICE __host__ __device__
#else
#define QUERN_HOST_DEVICE
#endif

struct sampling_params {
    float temperature; // 0 (greedy) to 2
    float top_p;       // (0, 1]; 1: off
    float min_p;       // [0, 1]; 0: off
    int32_t top_k;     // 0: off
    uint64_t seed;
};

#define SAMPLING_WEIGHT_ONE      (1u << 30)
#define SAMPLING_MIN_TEMPERATURE 1e-5f

/* Written in place of a token id when a logit of the row is not finite. */
#define SAMPLED_NOT_FINITE (-1)

/* In place of the logit of a token that may not be chosen: finite, and of no weight beside any other. */
#define SAMPLING_BANNED (-3e38f)

struct token_bias {
    int32_t token;
    float bias;
};

enum { SAMPLING_MAX_BIASES = 1024, SAMPLING_MAX_BANS = 128 };

/* What a request does to the logits of its tokens, beside its mask. Zero changes nothing. */
struct sampling_adjustments {
    float repetition_penalty;        // of tokens in prompt or answer; 0, as 1: off
    float frequency_penalty;         // for each time in the answer
    float presence_penalty;          // once for tokens in the answer
    const struct token_bias *biases; // [n_biases], no token twice
    int32_t n_biases;                // at most SAMPLING_MAX_BIASES
};

/* The same as a running sequence has it on the device, with the tokens that may not end it yet. */
struct sampling_seat {
    float repetition_penalty, frequency_penalty, presence_penalty;
    int32_t has_penalties;
    int32_t banned_until; // position from which a token of bans may be sampled
    int32_t n_bans, n_biases;
    int32_t bans[SAMPLING_MAX_BANS];
    struct token_bias biases[SAMPLING_MAX_BIASES]; // last: what is not used is not copied
};

/* Words of a mask: token i is bit i % 32 of word i / 32; 1: allowed. */
QUERN_HOST_DEVICE static inline int32_t sampling_mask_words(int32_t vocab) {
    return (vocab + 31) / 32;
}

/* What a token's count holds beside how often it is in the answer. */
#define SAMPLING_IN_PROMPT 0x8000u
#define SAMPLING_MAX_COUNT 0x7FFFu // it stays there

#define SAMPLING_MAX_TOP 20

/* How likely a token was, and which were the likeliest in its place: natural logarithms of the softmax of the logits as
 * the model gave them, whatever temperature or filters then made of them. */
struct token_scores {
    float logprob; // of the token
    int32_t rank;  // tokens at least as likely, itself included
    int32_t n_top;
    int32_t tokens[SAMPLING_MAX_TOP]; // [n_top] likeliest first, the lowest id first among equals
    float logprobs[SAMPLING_MAX_TOP]; // [n_top]
};

QUERN_HOST_DEVICE static inline uint32_t sampling_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

QUERN_HOST_DEVICE static inline float sampling_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* An integer that orders as the floats do, -0 as 0. */
QUERN_HOST_DEVICE static inline uint32_t sampling_key(float logit) {
    uint32_t bits = sampling_bits(logit + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

QUERN_HOST_DEVICE static inline int sampling_is_finite(float logit) {
    return (sampling_bits(logit) & 0x7F800000u) != 0x7F800000u;
}

/* exp(x) for x <= 0 within 2 ulp, exactly 1 at 0; below -64 as at -64. */
QUERN_HOST_DEVICE static inline float sampling_exp(float x) {
    x = x > -64.0f ? x : -64.0f;
    float n = fmaf(x, 1.44269504f, 12582912.0f) - 12582912.0f; // 1.5 * 2^23: rounds to the nearest integer
    float r = fmaf(n, -0.693145752f, x);                       // log 2 in two parts
    r = fmaf(n, -1.42860677e-6f, r);
    float q = 0.00139261761f; // (exp(r) - 1 - r) / r^2 at Chebyshev nodes of |r| <= log(2) / 2: 1e-8
    q = fmaf(q, r, 0.00836317307f);
    q = fmaf(q, r, 0.0416665547f);
    q = fmaf(q, r, 0.16666577f);
    q = fmaf(q, r, 0.5f);
    return fmaf(q, r * r, r + 1.0f) * sampling_float((uint32_t)((int32_t)n + 127) << 23);
}

/* log(1 + f) + exponent * log(2) for f in [sqrt(1/2) - 1, sqrt(2) - 1], relative error 2e-7. */
QUERN_HOST_DEVICE static inline float sampling_log1p(float f, float exponent) {
    float p = 0.0904878443f; // (log(1 + f) - f + f^2 / 2) / f^3 at Chebyshev nodes
    p = fmaf(p, f, -0.140308922f);
    p = fmaf(p, f, 0.147038992f);
    p = fmaf(p, f, -0.166027189f);
    p = fmaf(p, f, 0.199842232f);
    p = fmaf(p, f, -0.250007026f);
    p = fmaf(p, f, 0.333334154f);
    p = fmaf(p, f, -0.5f);
    return fmaf(exponent, 0.693147181f, fmaf(p, f * f, f));
}

/* log(x) for normal x > 0. */
QUERN_HOST_DEVICE static inline float sampling_log(float x) {
    uint32_t above = sampling_bits(x) - 0x3F3504F3u; // of sqrt(1/2)
    int32_t exponent = (int32_t)above >> 23;
    return sampling_log1p(sampling_float((above & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f, (float)exponent);
}

/* As vLLM and Transformers: a repetition penalty divides what is above 0 and multiplies the rest; then, as OpenAI,
 * frequency_penalty for each time and presence_penalty once. */
QUERN_HOST_DEVICE static inline float sampling_penalised(float logit, const struct sampling_seat *seat,
                                                         uint32_t count) {
    if (count == 0 || !seat->has_penalties) return logit;
    logit = logit > 0 ? logit / seat->repetition_penalty : logit * seat->repetition_penalty;
    if ((count & SAMPLING_MAX_COUNT) == 0) return logit;
    return fmaf(-seat->frequency_penalty, (float)(count & SAMPLING_MAX_COUNT), logit) - seat->presence_penalty;
}

/* The whole of it: bias, penalties, mask, bans. A mask is asked instead of the bans: what it allows may end the answer.
 * seat may be NULL. A logit that is not finite stays, so that it is told. */
QUERN_HOST_DEVICE static inline float sampling_adjusted(float logit, const struct sampling_seat *seat, float bias,
                                                        uint32_t count, int allowed) {
    if (!sampling_is_finite(logit)) return logit;
    if (!allowed) return SAMPLING_BANNED;
    return seat ? sampling_penalised(logit + bias, seat, count) : logit;
}

/* One 32-bit word of Philox4x32-10: counter {token, position, 0, 0}, key seed. */
QUERN_HOST_DEVICE static inline uint32_t sampling_philox(uint64_t seed, uint32_t token, uint32_t position) {
    uint32_t c0 = token, c1 = position, c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

/* -log(-log(u)) with u = 1 - v, v = (word + 1/2) / 2^32. The winners of a row have u near 1, where a float would hold
 * few values: there log(u) is taken as log1p(-v), which keeps all 32 bits. In [-3.2, 22.9], falling with word. */
QUERN_HOST_DEVICE static inline float sampling_gumbel_of(uint32_t word) {
    float log_u;
    if (word < 0x40000000u) {
        log_u = sampling_log1p(-(((float)(int32_t)word + 0.5f) * 0x1p-32f), 0.0f);
    } else {
        log_u = sampling_log(((float)(int32_t)(~word >> 1) + 0.5f) * 0x1p-31f);
    }
    return -sampling_log(-log_u);
}

QUERN_HOST_DEVICE static inline float sampling_gumbel(uint64_t seed, uint32_t token, uint32_t position) {
    return sampling_gumbel_of(sampling_philox(seed, token, position));
}

/* (logit - max) / temperature, as a product: inverse_temperature = 1.0f / temperature, rounded to nearest. */
QUERN_HOST_DEVICE static inline uint32_t sampling_weight(float logit, float max, float inverse_temperature) {
    return (uint32_t)(int32_t)(sampling_exp((logit - max) * inverse_temperature) * (float)SAMPLING_WEIGHT_ONE);
}

QUERN_HOST_DEVICE static inline float sampling_score(float logit, float max, float inverse_temperature, float gumbel) {
    return fmaf(logit - max, inverse_temperature, gumbel);
}

/* top_p keeps a token when the weights above it sum to less than this; total is what top_k kept. */
QUERN_HOST_DEVICE static inline uint64_t sampling_top_p_limit(float top_p, uint64_t total) {
    uint64_t limit = (uint64_t)((double)top_p * (double)total);
    return limit > 0 ? limit : 1; // the largest logit always stays
}

QUERN_HOST_DEVICE static inline uint32_t sampling_min_weight(float min_p) {
    return (uint32_t)(min_p * (float)SAMPLING_WEIGHT_ONE);
}

#endif
