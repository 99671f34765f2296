/* Products of up to 64 rows on wgmma, for compute capability 9.0: weights are read once, at the speed of memory, while
 * tensor cores multiply; what the product is for is done in its end, so nothing between is written.
 *
 * Order of sums: k in 1, 2, 4 or 8 segments, each from its begin to its end in steps of 16 by one accumulator, then the
 * segments in order. The segments depend on the weight's shape alone, so that a row's result does not depend on how
 * many rows share the step. Rows (gemm.a) are read after the kernels ahead have ended, the first weights before
 * (launch.cuh). depth and n_columns are multiples of 8. */
#ifndef QUERN_CUDA_GEMM_WGMMA_CUH
#define QUERN_CUDA_GEMM_WGMMA_CUH

#include "cuda/gemm.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/rmsnorm.cuh"

/* Whether the device has wgmma, and the product is faster with it than otherwise: 4 MB of weights, up to
 * GEMM_WGMMA_ROWS rows; the products below take no more. */
bool gemm_wgmma_pays(const struct device *device, const struct gemm *gemm);

#define GEMM_WGMMA_ROWS 64

/* As gemm_run. */
bool gemm_wgmma(struct device *device, const struct gemm *gemm, struct error *err);

/* c[r] = bf16(silu(gate) * up), both multiplied by the row's scale, [n_rows][n_columns / 2]; the weight holds the lines
 * of gate, then those of up, which are rounded to bf16 before they are multiplied. n_columns is a multiple of 16. */
bool gate_up_wgmma(struct device *device, const struct gemm *gemm, const struct row_scales *scales, struct error *err);

/* QK-norm, RoPE and append of each head (qkv_heads.cuh); c is not written. */
bool qkv_wgmma(struct device *device, const struct gemm *gemm, const struct qkv_heads *heads, int32_t head_dim,
               const struct row_scales *scales, struct error *err);

/* c += the product; and of the sums what rmsnorm_rows_unscaled gives, squares in parts of SQUARED_COLUMNS. */
struct next_rows {
    const uint16_t *norm; // [n_columns]
    uint16_t *normed;     // [n_rows][n_columns]
    float *squares;       // [n_rows][n_columns / SQUARED_COLUMNS]
};
bool add_wgmma(struct device *device, const struct gemm *gemm, const struct next_rows *next, struct error *err);

#endif
