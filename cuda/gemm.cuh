/* c[r] = a[r] · weightᵀ: bf16 operands, float32 sums. Which kernel runs depends on the shape alone. */
#ifndef QUERN_CUDA_GEMM_CUH
#define QUERN_CUDA_GEMM_CUH

#include "cuda/device.cuh"

struct gemm {
    const uint16_t *a;      // [n_rows][depth]
    const uint16_t *weight; // [n_columns][depth]
    void *c;                // [n_rows][n_columns] of what output says
    int32_t n_rows, n_columns, depth;
    enum gemm_output output;
};

/* Under 4 MB of weights a product lasts microseconds whichever kernel makes it: then one whose sums are gemm_thin's. */
static inline bool gemm_is_small(const struct gemm *gemm) {
    return (int64_t)gemm->n_columns * gemm->depth < (int64_t)1 << 21;
}

/* ERR_INVALID when depth or n_columns is not a multiple of 8. */
bool gemm_run(struct device *device, const struct gemm *gemm, struct error *err);

/* x += the product, or = where the rank does not add, where c is x. next_norm is the weight of the norm that follows,
 * or NULL: where it costs nothing, rows of the sums are left for it (rmsnorm_rows_unscaled). */
bool gemm_add(const struct context *ctx, const struct gemm *gemm, const uint16_t *next_norm, struct error *err);

/* The three behind gemm_run; tests call them alone. */
bool gemm_thin(struct device *device, const struct gemm *gemm, struct error *err); // n_rows <= GEMM_THIN_ROWS
bool gemm_tiled(struct device *device, const struct gemm *gemm, struct error *err);
bool gemm_cublas(struct device *device, const struct gemm *gemm, struct error *err);

#define GEMM_THIN_ROWS 16 // THIN_ROWS of thin.cuh

#endif
