/* What the ops share on the host: the device object and the error macros. */
#ifndef QUERN_CUDA_DEVICE_CUH
#define QUERN_CUDA_DEVICE_CUH

#include "engine/backend.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#define CUDA_TRY(call, err)                                                                                            \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess)                                                                                    \
            return fail(err, ERR_DEVICE, "%s:%d: CUDA: %s", __FILE__, __LINE__, cudaGetErrorString(status_));          \
    } while (0)

#define CUBLAS_TRY(call, err)                                                                                          \
    do {                                                                                                               \
        cublasStatus_t status_ = (call);                                                                               \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                                          \
            return fail(err, ERR_DEVICE, "%s:%d: cuBLAS: %s", __FILE__, __LINE__, cublasLtGetStatusString(status_));   \
    } while (0)

enum gemm_output { GEMM_BF16, GEMM_F32, GEMM_ADD_F32 };

/* The algorithm that cuBLASLt chose for one product. */
struct gemm_plan {
    int32_t n_rows, n_columns, depth;
    enum gemm_output output;
    bool known;
    cublasLtMatmulAlgo_t algorithm;
};

#define GEMM_PLANS        1024               // four products a layer and the LM head, eight for each doubling of rows
#define CUBLAS_WORKSPACE  ((size_t)32 << 20) // what NVIDIA advises for compute capability 9.0
#define MAX_HEAD_DIM      128
#define MAX_STATIC_SHARED ((size_t)8 << 10) // of any kernel that also asks for dynamic shared memory

/* Rows that the product before has left in scratch.normed (rmsnorm.cuh). norm NULL: none. */
struct unscaled_rows {
    const uint16_t *norm; // the weight that they are multiplied by
    int32_t n_rows, n_parts;
};

struct device {
    int index;
    cudaDeviceProp properties;
    size_t max_dynamic_shared; // bytes that a block may ask for beside MAX_STATIC_SHARED
    cudaStream_t stream;       // owned: every op and copy
    cudaStream_t beside;       // owned: copies that run beside the ops
    cudaEvent_t beside_ends;   // owned: the newest of these
    cublasLtHandle_t blas;
    void *blas_workspace;    // owned, CUBLAS_WORKSPACE bytes
    struct gemm_plan *plans; // [GEMM_PLANS], owned
    struct unscaled_rows unscaled;
    void *encode_map;          // cuTensorMapEncodeTiled, or NULL: no kernels on wgmma
    cudaEvent_t read_ends[2];  // owned: of the copies of read_begin
    uint32_t *decode_arrivals; // of paged_decode, 0 between launches, owned, device memory
    uint32_t *prefill_claims;  // of paged_prefill, 0 between launches, owned, device memory
    uint32_t *route_arrivals;  // of route_rows, 0 between launches, owned, device memory
    struct peers *peers;       // the other GPUs that compute the same model, see ranks.cuh, owned; NULL: alone
    float *rope;               // [head_dim / 2] theta^(-2i / head_dim) of the prepared shape, owned, device memory
};

/* The current device belongs to the thread: whoever allocates or copies first makes this one current. */
bool device_use(const struct device *device, struct error *err);

/* Sums of squares of rows, of up to SQUARED_ROWS also in parts of SQUARED_COLUMNS: in the
 * workspace, where no other op writes. */
float *row_squares(const struct context *ctx);

#define SQUARED_ROWS    64
#define SQUARED_COLUMNS 64

/* Has any rank failed, as far as the driver knows by now? */
bool ranks_check(const struct device *device, struct error *err);

/* Once per device, before the first launch: shared memory over 48 KB must be asked for. */
bool rmsnorm_qkv_configure(const struct device *device, struct error *err);
bool rmsnorm_qkv_thin_configure(struct error *err);
bool mlp_thin_configure(struct error *err);
bool gemm_configure(struct error *err);
bool paged_decode_configure(struct device *device, struct error *err);
bool paged_prefill_configure(struct device *device, struct error *err);
bool gemm_wgmma_configure(struct device *device, struct error *err);     // after paged_prefill, which finds encode_map
bool mlp_wide_configure(const struct device *device, struct error *err); // likewise

/* Shared memory that the largest block of the fused projection asks for at this shape. */
size_t rmsnorm_qkv_shared_bytes(const struct device *device, const struct model_shape *shape);

/* Attributes of some kernel: an error when this build has no code for the current device. */
cudaError_t rmsnorm_probe(cudaFuncAttributes *attributes);

static inline int32_t divide_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

#endif
