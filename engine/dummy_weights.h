/* Seeded random weights, so that a published shape can be run without its checkpoint. scripts/dummy_weights.py writes
 * the same ones as a safetensors folder.
 *
 * Element e of a tensor depends on (seed, tensor name, e) alone. With 64-bit arithmetic modulo 2^64:
 *   key(seed, name) = mix(seed ^ fnv1a(name)), fnv1a the 64-bit FNV-1a hash of the name's bytes;
 *   bits(e)         = mix(key + (e / 4 + 1) * 0x9E3779B97F4A7C15): SplitMix64 (Steele, Lea, Flood, 2014), from key;
 *   x(e)            = the 16 bits of bits(e) from bit 16 * (e % 4), as a signed integer in [-32768, 32767];
 *   matrix          = bf16(x * DUMMY_MATRIX_SCALE), one float32 product: uniform, standard deviation 0.02;
 *   norm            = bf16(1 + x * DUMMY_NORM_SCALE), exact in float32: uniform in [0.875, 1.125).
 * bf16 rounds to nearest, ties to even. */
#ifndef QUERN_ENGINE_DUMMY_WEIGHTS_H
#define QUERN_ENGINE_DUMMY_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#define DUMMY_MATRIX_SCALE 0x1.1bc77ap-20f // float32(0.02 * sqrt(3) / 32768)
#define DUMMY_NORM_SCALE   0x1p-18f

enum dummy_kind { DUMMY_MATRIX, DUMMY_NORM };

uint64_t dummy_weights_key(uint64_t seed, const char *name);

/* to[i] = bf16 element first + i of the tensor of that key. */
void dummy_weights_fill(uint16_t *to, size_t first, size_t count, uint64_t key, enum dummy_kind kind);

#endif
