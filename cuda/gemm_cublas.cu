/* Products through cuBLASLt. The algorithm for each shape is asked for once and kept; nothing is allocated in a step.
 */
#include "cuda/gemm.cuh"

/* Descriptors on the stack: row-major c = a · weightᵀ is column-major cᵀ = weight · aᵀ, weight transposed. */
struct product {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t weight, a, c;
};

static bool product_init(struct product *product, const struct gemm *gemm, struct error *err) {
    cublasOperation_t transposed = CUBLAS_OP_T;
    cudaDataType_t c_type = gemm->output == GEMM_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    uint64_t columns = (uint64_t)gemm->n_columns, rows = (uint64_t)gemm->n_rows, depth = (uint64_t)gemm->depth;
    CUBLAS_TRY(cublasLtMatmulDescInit(&product->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), err);
    CUBLAS_TRY(cublasLtMatmulDescSetAttribute(&product->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed),
               err);
    CUBLAS_TRY(cublasLtMatrixLayoutInit(&product->weight, CUDA_R_16BF, depth, columns, (int64_t)depth), err);
    CUBLAS_TRY(cublasLtMatrixLayoutInit(&product->a, CUDA_R_16BF, depth, rows, (int64_t)depth), err);
    CUBLAS_TRY(cublasLtMatrixLayoutInit(&product->c, c_type, columns, rows, (int64_t)columns), err);
    return true;
}

static bool choose_algorithm(struct device *device, const struct product *product, struct gemm_plan *plan,
                             struct error *err) {
    cublasLtMatmulPreferenceOpaque_t preference;
    size_t workspace_bytes = CUBLAS_WORKSPACE;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; // where k is split, its parts meet in float32
    CUBLAS_TRY(cublasLtMatmulPreferenceInit(&preference), err);
    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace_bytes, sizeof workspace_bytes),
               err);
    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                    &reductions, sizeof reductions),
               err);
    cublasLtMatmulHeuristicResult_t result;
    int n_results = 0;
    struct product layouts = *product; // the call takes pointers to non-const
    CUBLAS_TRY(cublasLtMatmulAlgoGetHeuristic(device->blas, &layouts.operation, &layouts.weight, &layouts.a, &layouts.c,
                                              &layouts.c, &preference, 1, &result, &n_results),
               err);
    if (n_results == 0)
        return fail(err, ERR_DEVICE, "cuBLASLt has no algorithm for %d x %d x %d", plan->n_rows, plan->n_columns,
                    plan->depth);
    plan->algorithm = result.algo;
    plan->known = true;
    return true;
}

/* Up to the next eighth of a power of two. An algorithm serves all numbers of rows up to that for which it was chosen,
 * so that few have to be asked for, and all can be before the first request. */
static int32_t planned_rows(int32_t n_rows) {
    int32_t eighth = 8;
    while (eighth * 16 < n_rows) eighth *= 2;
    return divide_up(n_rows, eighth) * eighth;
}

static bool plan_is_for(const struct gemm_plan *plan, const struct gemm *gemm) {
    return plan->n_rows == gemm->n_rows && plan->n_columns == gemm->n_columns && plan->depth == gemm->depth &&
           plan->output == gemm->output;
}

/* The plan of this product, or the place for it: behind where it belongs, if others took that. */
static struct gemm_plan *plan_of(struct device *device, const struct gemm *gemm) {
    uint64_t hash = (uint64_t)(uint32_t)gemm->n_rows * 0x9E3779B97F4A7C15u;
    hash = (hash ^ (uint32_t)gemm->n_columns) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ (uint32_t)gemm->depth) * 0x9E3779B97F4A7C15u + (uint64_t)gemm->output;
    struct gemm_plan *plan = NULL;
    for (uint32_t i = 0; i < GEMM_PLANS; ++i) {
        plan = &device->plans[((hash >> 32) + i) % GEMM_PLANS];
        if (plan_is_for(plan, gemm)) return plan;
        if (!plan->known) break;
    }
    *plan = {};
    plan->n_rows = gemm->n_rows;
    plan->n_columns = gemm->n_columns;
    plan->depth = gemm->depth;
    plan->output = gemm->output;
    return plan;
}

bool gemm_cublas(struct device *device, const struct gemm *gemm, struct error *err) {
    struct gemm planned = *gemm;
    planned.n_rows = planned_rows(gemm->n_rows);
    struct gemm_plan *plan = plan_of(device, &planned);
    struct product product;
    if (!plan->known && !(product_init(&product, &planned, err) && choose_algorithm(device, &product, plan, err)))
        return false;

    float alpha = 1, beta = gemm->output == GEMM_ADD_F32 ? 1 : 0;
    if (!product_init(&product, gemm, err)) return false;
    CUBLAS_TRY(cublasLtMatmul(device->blas, &product.operation, &alpha, gemm->weight, &product.weight, gemm->a,
                              &product.a, &beta, gemm->c, &product.c, gemm->c, &product.c, &plan->algorithm,
                              device->blas_workspace, CUBLAS_WORKSPACE, device->stream),
               err);
    return true;
}
