/* The reference backend: float32 activations and KV, bf16 weights, float32 sums, on the processor.
 *
 * A row's result is the same bits whatever batch it is in, however its prompt is cut, on whatever block ids and with
 * any number of threads, because every sum has one order (cpu/isa.h). That holds within one instruction set; between
 * two of them the last bits differ. With AVX-512 BF16 and AMX, and there alone, the rows of a matrix product are
 * rounded to bf16 once per op (relative error up to 2^-9 each); `cpu_isa` of struct device_options chooses another.
 * Shapes of any size, but for head_dim: a multiple of 16 up to 256. */
#ifndef QUERN_CPU_BACKEND_H
#define QUERN_CPU_BACKEND_H

#include "engine/backend.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* fused false: separate standard loops stand behind rmsnorm_qkv. The table is static. */
const struct backend_ops *cpu_backend(bool fused);

#ifdef __cplusplus
}
#endif
#endif
