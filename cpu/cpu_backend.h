/* The reference backend: float32 activations and KV, bf16 weights, on the processor. A row's result never depends on
 * the batch it is in, nor on the number of threads. */
#ifndef QUERN_CPU_BACKEND_H
#define QUERN_CPU_BACKEND_H

#include "engine/backend.h"

#include <stdbool.h>

/* fused false: separate standard loops stand behind rmsnorm_qkv. The table is static. */
const struct backend_ops *cpu_backend(bool fused);

#endif
