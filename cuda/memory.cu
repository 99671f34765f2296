/* The device: its creation, memory and copies. */
#include "cuda/device.cuh"

#include "cuda/experts.cuh"
#include "cuda/launch.cuh"
#include "cuda/ops.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MIN_COMPUTE_MAJOR 8 // bf16 on tensor cores, cp.async

bool device_use(const struct device *device, struct error *err) {
    CUDA_TRY(cudaSetDevice(device->index), err);
    return true;
}

/* Rows are read 16 bytes at a time, heads are laid out at compile time. */
static bool check_shape(const struct model_shape *shape, struct error *err) {
    const struct {
        const char *name;
        int32_t value;
    } widths[] = {{"hidden_size", shape->hidden},
                  {"intermediate_size", shape->intermediate},
                  {"vocab_size", shape->vocab},
                  {"moe_intermediate_size", shape->expert_intermediate}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; ++i) {
        if (widths[i].value % 8 != 0)
            return fail(err, ERR_INVALID, "%s is %d; the CUDA backend takes multiples of 8", widths[i].name,
                        widths[i].value);
    }
    if (shape->head_dim != 64 && shape->head_dim != 128)
        return fail(err, ERR_INVALID, "head_dim is %d; the CUDA backend takes 64 or 128", shape->head_dim);
    return true;
}

/* The frequencies are float32 powers, as transformers computes them. */
bool cuda_prepare_shape_separate(struct device *device, const struct model_shape *shape, struct error *err) {
    if (!check_shape(shape, err) || !device_use(device, err)) return false;
    float frequencies[MAX_HEAD_DIM / 2];
    for (int32_t i = 0; i < shape->head_dim / 2; ++i)
        frequencies[i] = 1.0f / powf(shape->rope_theta, (float)(2 * i) / (float)shape->head_dim);
    size_t bytes = (size_t)(shape->head_dim / 2) * sizeof(float);
    CUDA_TRY(cudaMemcpyAsync(device->rope, frequencies, bytes, cudaMemcpyHostToDevice, device->stream), err);
    CUDA_TRY(cudaStreamSynchronize(device->stream), err);
    return true;
}

bool cuda_prepare_shape_fused(struct device *device, const struct model_shape *shape, struct error *err) {
    if (!cuda_prepare_shape_separate(device, shape, err)) return false;
    size_t shared_bytes = rmsnorm_qkv_shared_bytes(device, shape);
    if (shared_bytes > device->max_dynamic_shared)
        return fail(err, ERR_INVALID,
                    "the fused projection of hidden_size %d needs %zu bytes of shared memory, this GPU has %zu: use "
                    "--fused off",
                    shape->hidden, shared_bytes, device->max_dynamic_shared);
    return true;
}

static bool check_properties(const struct device *device, struct error *err) {
    const cudaDeviceProp *properties = &device->properties;
    if (properties->major < MIN_COMPUTE_MAJOR)
        return fail(err, ERR_DEVICE, "%s has compute capability %d.%d; quern needs %d.0 or later", properties->name,
                    properties->major, properties->minor, MIN_COMPUTE_MAJOR);
    cudaFuncAttributes attributes;
    cudaError_t status = rmsnorm_probe(&attributes);
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return fail(err, ERR_DEVICE,
                    "this build has no code for %s (compute capability %d.%d): configure with "
                    "-Dgpu_arch=%d%d",
                    properties->name, properties->major, properties->minor, properties->major, properties->minor);
    }
    CUDA_TRY(status, err);
    return true;
}

static bool device_init(struct device *device, struct error *err) {
    if (!device_use(device, err)) return false;
    CUDA_TRY(cudaGetDeviceProperties(&device->properties, device->index), err);
    if (!check_properties(device, err)) return false;
    device->max_dynamic_shared = device->properties.sharedMemPerBlockOptin - MAX_STATIC_SHARED;
    CUDA_TRY(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking), err);
    for (cudaEvent_t &event : device->read_ends)
        CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), err);
    CUDA_TRY(cudaStreamCreateWithFlags(&device->beside, cudaStreamNonBlocking), err);
    CUDA_TRY(cudaEventCreateWithFlags(&device->beside_ends, cudaEventDisableTiming), err);
    CUBLAS_TRY(cublasLtCreate(&device->blas), err);
    CUDA_TRY(cudaMalloc(&device->blas_workspace, CUBLAS_WORKSPACE), err);
    CUDA_TRY(cudaMalloc((void **)&device->rope, MAX_HEAD_DIM / 2 * sizeof(float)), err);
    device->plans = (struct gemm_plan *)calloc(GEMM_PLANS, sizeof *device->plans);
    if (!device->plans) return fail(err, ERR_MEMORY, "no memory for %d plans of products", GEMM_PLANS);
    return rmsnorm_qkv_configure(device, err) && rmsnorm_qkv_thin_configure(err) && mlp_thin_configure(err) &&
           gemm_configure(err) && paged_decode_configure(device, err) && paged_prefill_configure(device, err) &&
           gemm_wgmma_configure(device, err) && mlp_wide_configure(device, err) && experts_configure(device, err);
}

extern "C" int cuda_device_count(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError(); // no driver is an answer, not a failure
    return 0;
}

struct device *cuda_device_create(const struct device_options *options, struct error *err) {
    int32_t count = cuda_device_count();
    if (options->index < 0 || options->index >= count) {
        (void)fail(err, ERR_DEVICE, "GPU %d does not exist: this machine has %d", options->index, count);
        return NULL;
    }
    struct device *device = (struct device *)calloc(1, sizeof *device);
    if (!device) {
        (void)fail(err, ERR_MEMORY, "no memory for a device");
        return NULL;
    }
    device->index = options->index;
    if (!device_init(device, err)) {
        cuda_device_destroy(device);
        return NULL;
    }
    return device;
}

/* What fails here cannot be helped. */
void cuda_device_destroy(struct device *device) {
    if (!device) return;
    cudaSetDevice(device->index);
    if (device->stream) cudaStreamSynchronize(device->stream);
    if (device->blas) cublasLtDestroy(device->blas);
    cudaFree(device->blas_workspace);
    cudaFree(device->rope);
    cudaFree(device->decode_arrivals);
    cudaFree(device->prefill_claims);
    cudaFree(device->route_arrivals);
    for (cudaEvent_t event : device->read_ends) {
        if (event) cudaEventDestroy(event);
    }
    if (device->beside_ends) cudaEventDestroy(device->beside_ends);
    if (device->beside) cudaStreamDestroy(device->beside);
    if (device->stream) cudaStreamDestroy(device->stream);
    free(device->plans);
    free(device);
}

void cuda_device_describe(const struct device *device, char *text, size_t size) {
    snprintf(text, size, "%s, %d SMs, %.0f GiB", device->properties.name, device->properties.multiProcessorCount,
             (double)device->properties.totalGlobalMem / (double)((size_t)1 << 30));
}

bool cuda_device_memory(struct device *device, struct device_memory *memory, struct error *err) {
    if (!device_use(device, err)) return false;
    CUDA_TRY(cudaMemGetInfo(&memory->free_bytes, &memory->total_bytes), err);
    return true;
}

void *cuda_alloc(struct device *device, size_t bytes, struct error *err) {
    void *memory = NULL;
    if (!device_use(device, err)) return NULL;
    cudaError_t status = cudaMalloc(&memory, bytes > 0 ? bytes : 1);
    if (status == cudaSuccess) return memory;
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    if (status == cudaErrorMemoryAllocation)
        (void)fail(err, ERR_MEMORY, "no device memory for %.2f GiB: %.2f of %.2f GiB are free", (double)bytes / 0x1p30,
                   (double)free_bytes / 0x1p30, (double)total_bytes / 0x1p30);
    else
        (void)fail(err, ERR_DEVICE, "%s:%d: CUDA: %s", __FILE__, __LINE__, cudaGetErrorString(status));
    return NULL;
}

void cuda_free(struct device *device, void *memory) {
    if (!memory) return;
    cudaSetDevice(device->index);
    cudaFree(memory);
}

void *cuda_alloc_host(struct device *device, size_t bytes, struct error *err) {
    void *memory = NULL;
    if (!device_use(device, err)) return NULL;
    cudaError_t status = cudaMallocHost(&memory, bytes > 0 ? bytes : 1);
    if (status == cudaSuccess) return memory;
    cudaGetLastError();
    (void)fail(err, ERR_MEMORY, "no page-locked memory for %.2f MiB: %s", (double)bytes / 0x1p20,
               cudaGetErrorString(status));
    return NULL;
}

void cuda_free_host(struct device *device, void *memory) {
    if (!memory) return;
    cudaSetDevice(device->index);
    cudaFreeHost(memory);
}

/* Between two recorded steps a copy engine costs the device some 5 us, to wait for it and to be waited for. A kernel
 * that reads or writes the host's page-locked memory itself costs less, as long as there are few bytes. */
#define COPY_THREADS 256
#define SMALL_COPY   ((size_t)64 << 10)

/* 16 bytes a thread. */
__global__ static void __launch_bounds__(COPY_THREADS) copy_kernel(char *to, const char *from, int32_t bytes) {
    int32_t at = ((int32_t)blockIdx.x * COPY_THREADS + (int32_t)threadIdx.x) * 16;
    if (at + 16 <= bytes) {
        *(uint4 *)(to + at) = *(const uint4 *)(from + at);
        return;
    }
    for (; at < bytes; at += 4) *(uint32_t *)(to + at) = *(const uint32_t *)(from + at);
}

static bool is_small_copy(const void *to, const void *from, size_t bytes) {
    return bytes > 0 && bytes <= SMALL_COPY && bytes % 4 == 0 && (uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0;
}

static bool copy_by_kernel(const struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    struct launch launch = {dim3((unsigned)divide_up((int32_t)bytes, COPY_THREADS * 16)), dim3(COPY_THREADS)};
    launch.after_all = true;
    return launch_kernel(device, launch, copy_kernel, err, (char *)to, (const char *)from, (int32_t)bytes);
}

static bool is_page_locked(const void *memory) {
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, memory) == cudaSuccess) return attributes.type == cudaMemoryTypeHost;
    cudaGetLastError();
    return false;
}

bool cuda_copy_to_device(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    if (!device_use(device, err)) return false;
    device->unscaled = {}; // the rows may be others from here on
    if (is_small_copy(to, from, bytes) && is_page_locked(from)) return copy_by_kernel(device, to, from, bytes, err);
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream), err);
    return true;
}

bool cuda_copy_beside(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    if (!device_use(device, err)) return false;
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->beside), err);
    CUDA_TRY(cudaEventRecord(device->beside_ends, device->beside), err);
    CUDA_TRY(cudaStreamWaitEvent(device->stream, device->beside_ends, 0), err);
    return true;
}

bool cuda_copy_to_host(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    if (!device_use(device, err)) return false;
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream), err);
    CUDA_TRY(cudaStreamSynchronize(device->stream), err);
    return true;
}

bool cuda_read_begin(struct device *device, int32_t slot, void *to, const void *from, size_t bytes, struct error *err) {
    if (!device_use(device, err)) return false;
    if (is_small_copy(to, from, bytes)) {
        if (!copy_by_kernel(device, to, from, bytes, err)) return false;
    } else {
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream), err);
    }
    CUDA_TRY(cudaEventRecord(device->read_ends[slot], device->stream), err);
    return true;
}

#ifdef QUERN_NCCL
/* A look at the other ranks costs some microseconds: every millisecond or so. */
static bool wait_with_others(struct device *device, cudaEvent_t event, struct error *err) {
    for (uint32_t looks = 1;; ++looks) {
        cudaError_t status = cudaEventQuery(event);
        if (status == cudaSuccess) return true;
        if (status != cudaErrorNotReady) CUDA_TRY(status, err);
        if (looks % 1024 == 0 && !ranks_check(device, err)) return false;
    }
}
#endif

bool cuda_read_wait(struct device *device, int32_t slot, struct error *err) {
    if (!device_use(device, err)) return false;
#ifdef QUERN_NCCL
    if (device->peers) return wait_with_others(device, device->read_ends[slot], err);
#endif
    CUDA_TRY(cudaEventSynchronize(device->read_ends[slot]), err);
    return true;
}

bool cuda_synchronize(struct device *device, struct error *err) {
    if (!device_use(device, err)) return false;
    CUDA_TRY(cudaStreamSynchronize(device->stream), err);
    return true;
}
