/* Seeded random weights, so that a published shape can be run without its checkpoint. scripts/dummy_weights.py writes
 * the same ones as a safetensors folder.
 *
 * Element e of a tensor depends on (seed, tensor name, e) alone. With 64-bit arithmetic modulo 2^64:
 *   key(seed, name) = mix(seed ^ fnv1a(name)), fnv1a the 64-bit FNV-1a hash of the name's bytes;
 *   bits(e)         = mix(key + (e / 4 + 1) * 0x9E3779B97F4A7C15): SplitMix64 (Steele, Lea, Flood, 2014), from key;
 *   x(e)            = the 16 bits of bits(e) from bit 16 * (e % 4), as a signed integer in [-32768, 32767];
 *   element         = bf16(center + x * scale), in float32, to nearest, ties to even:
 *     norm weights             1 + x * DUMMY_NORM_SCALE: uniform in [0.875, 1.125);
 *     o_proj and down_proj     x * (DUMMY_MATRIX_SCALE / sqrt(inputs)): uniform, standard deviation 0.02 /
 * sqrt(inputs); all other matrices       x * DUMMY_MATRIX_SCALE: uniform, standard deviation 0.02. So a layer adds to
 * the residual stream about as much as the embedding put there. With 0.02 everywhere the first layers of a large shape
 * would drown it, and each layer would multiply the rounding errors of those before: then no comparison of logits means
 * anything (transformers in bf16 is 60 % from itself in float32 at the 8B shape). */
#ifndef QUERN_ENGINE_DUMMY_WEIGHTS_H
#define QUERN_ENGINE_DUMMY_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#define DUMMY_MATRIX_SCALE 0x1.1bc77ap-20f // float32(0.02 * sqrt(3) / 32768)
#define DUMMY_NORM_SCALE   0x1p-18f

struct dummy_spread {
    float center, scale;
};

/* Of a published tensor; inputs is its last dimension. */
struct dummy_spread dummy_weights_spread(const char *name, int32_t n_dims, int32_t inputs);

uint64_t dummy_weights_key(uint64_t seed, const char *name);

/* to[i] = bf16 element first + i of the tensor of that key. */
void dummy_weights_fill(uint16_t *to, size_t first, size_t count, uint64_t key, struct dummy_spread spread);

#endif
