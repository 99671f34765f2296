#include "engine/dummy_weights.h"
#include "engine/bf16.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define LANES  4  // 16-bit values in one 64-bit word
#define BLOCK  64 // words at once: loops of fixed length are vectorised
#define GOLDEN 0x9E3779B97F4A7C15u

static inline uint64_t mix(uint64_t word) {
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9u;
    word = (word ^ word >> 27) * 0x94D049BB133111EBu;
    return word ^ word >> 31;
}

uint64_t dummy_weights_key(uint64_t seed, const char *name) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return mix(seed ^ hash);
}

static bool ends_with(const char *name, const char *end) {
    size_t length = strlen(name), n = strlen(end);
    return length >= n && strcmp(name + length - n, end) == 0;
}

struct dummy_spread dummy_weights_spread(const char *name, int32_t n_dims, int32_t inputs) {
    if (n_dims == 1) return (struct dummy_spread){.center = 1, .scale = DUMMY_NORM_SCALE};
    bool adds_to_residual = ends_with(name, ".o_proj.weight") || ends_with(name, ".down_proj.weight");
    return (struct dummy_spread){.scale = DUMMY_MATRIX_SCALE / (adds_to_residual ? sqrtf((float)inputs) : 1)};
}

/* All LANES * BLOCK elements that begin at word `first`. */
static void fill_block(uint16_t to[LANES * BLOCK], uint64_t first, uint64_t key, struct dummy_spread spread) {
    int16_t x[LANES * BLOCK];
    for (uint64_t i = 0; i < BLOCK; i++) {
        uint64_t bits = mix(key + (first + i + 1) * GOLDEN);
        for (int lane = 0; lane < LANES; lane++) x[LANES * i + (uint64_t)lane] = (int16_t)(bits >> 16 * lane);
    }
    for (int i = 0; i < LANES * BLOCK; i++) {
        float value = spread.center + (float)x[i] * spread.scale;
        uint32_t word;
        memcpy(&word, &value, sizeof word);
        to[i] = (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16); // bf16_from_f32 without the test for NaN
    }
}

void dummy_weights_fill(uint16_t *to, size_t first, size_t count, uint64_t key, struct dummy_spread spread) {
    while (count > 0) {
        size_t skip = first % LANES;
        if (skip == 0 && count >= LANES * BLOCK) {
            fill_block(to, first / LANES, key, spread);
            to += LANES * BLOCK, first += LANES * BLOCK, count -= LANES * BLOCK;
            continue;
        }
        uint16_t block[LANES * BLOCK];
        size_t n = LANES * BLOCK - skip < count ? LANES * BLOCK - skip : count;
        fill_block(block, first / LANES, key, spread);
        memcpy(to, block + skip, n * sizeof *to);
        to += n, first += n, count -= n;
    }
}
