/* The bandwidth that a kernel of this device can reach: what every bandwidth-bound figure is compared with. */
#include "cuda/device.cuh"

#include "cuda/ops.cuh"

#define COPY_BYTES   ((size_t)1 << 30) // far beyond any cache
#define COPY_REPEATS 10

struct copy_timer {
    void *from, *to;
    cudaEvent_t begin, end;
};

static bool time_copies(struct device *device, struct copy_timer *timer, float *milliseconds, struct error *err) {
    CUDA_TRY(cudaMalloc(&timer->from, COPY_BYTES), err);
    CUDA_TRY(cudaMalloc(&timer->to, COPY_BYTES), err);
    CUDA_TRY(cudaEventCreate(&timer->begin), err);
    CUDA_TRY(cudaEventCreate(&timer->end), err);
    CUDA_TRY(cudaMemsetAsync(timer->from, 0x5a, COPY_BYTES, device->stream), err);
    for (int i = -1; i < COPY_REPEATS; ++i) { // one to warm up
        if (i == 0) CUDA_TRY(cudaEventRecord(timer->begin, device->stream), err);
        CUDA_TRY(cudaMemcpyAsync(timer->to, timer->from, COPY_BYTES, cudaMemcpyDeviceToDevice, device->stream), err);
    }
    CUDA_TRY(cudaEventRecord(timer->end, device->stream), err);
    CUDA_TRY(cudaEventSynchronize(timer->end), err);
    CUDA_TRY(cudaEventElapsedTime(milliseconds, timer->begin, timer->end), err);
    return true;
}

bool cuda_measure_bandwidth(struct device *device, double *bytes_per_second, struct error *err) {
    struct copy_timer timer = {};
    float milliseconds = 0;
    if (!device_use(device, err)) return false;
    bool ok = time_copies(device, &timer, &milliseconds, err);
    if (timer.begin) cudaEventDestroy(timer.begin);
    if (timer.end) cudaEventDestroy(timer.end);
    cudaFree(timer.from);
    cudaFree(timer.to);
    if (ok) *bytes_per_second = 2.0 * COPY_REPEATS * (double)COPY_BYTES / (milliseconds * 1e-3); // read and written
    return ok;
}
