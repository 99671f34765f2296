/* The NVIDIA backend: bf16 activations and KV, float32 residual stream and sums. */
#ifndef QUERN_CUDA_BACKEND_H
#define QUERN_CUDA_BACKEND_H

#include "engine/backend.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Devices that this build can use; 0 when there is no driver or no GPU. */
int cuda_device_count(void);

/* Small sums over ranks by our own kernel where GPUs reach each other, or all by NCCL: for measurements. Builds with
 * NCCL alone have it. */
void cuda_allow_direct_sums(struct device *device, bool allowed);

/* fused false: separate standard kernels and cuBLAS stand behind rmsnorm_qkv. The table is static. */
const struct backend_ops *cuda_backend(bool fused);

#ifdef __cplusplus
}
#endif
#endif
