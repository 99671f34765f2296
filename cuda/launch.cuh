/* Launches in which a kernel may begin before the one ahead of it has ended (programmatic dependent launch, compute
 * capability 9.0; elsewhere they follow each other as usual).
 *
 * Every kernel of a step calls wait_for_previous in all its threads before it reads what an earlier kernel wrote or
 * writes anything at all: then all kernels before it have ended. Only what no kernel of the step writes may be read
 * earlier: the weights, the batch arrays, keys and values of earlier steps (a step's first kernel begins when all
 * before it has ended: after_all). let_next_begin, once a block has its own loads under way, allows the next kernel
 * onto SMs with room. */
#ifndef QUERN_CUDA_LAUNCH_CUH
#define QUERN_CUDA_LAUNCH_CUH

#include "cuda/device.cuh"

__device__ static inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ static inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct launch {
    dim3 grid, block;
    size_t shared_bytes = 0; // dynamic
    int32_t cluster = 1;     // blocks of a cluster, along x
    bool after_all = false;  // begins when all ahead of it has ended
};

/* More than 48 KB of static and dynamic shared memory must be asked for, once and before the first launch. */
template <class... Parameters>
static inline bool allow_shared(void (*kernel)(Parameters...), size_t bytes, struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), err);
    return true;
}

template <class... Parameters, class... Arguments>
static inline bool launch_kernel(const struct device *device, const struct launch &launch,
                                 void (*kernel)(Parameters...), struct error *err, Arguments &&...arguments) {
    cudaLaunchAttribute attributes[2] = {};
    unsigned n = 0;
    if (device->properties.major >= 9 && !launch.after_all) {
        attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (launch.cluster > 1) {
        attributes[n].id = cudaLaunchAttributeClusterDimension;
        attributes[n].val.clusterDim.x = (unsigned)launch.cluster;
        attributes[n].val.clusterDim.y = attributes[n].val.clusterDim.z = 1;
        n++;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = launch.grid;
    config.blockDim = launch.block;
    config.dynamicSmemBytes = launch.shared_bytes;
    config.stream = device->stream;
    config.attrs = attributes;
    config.numAttrs = n;
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), err);
    return true;
}

#endif
