/* The bandwidth that a kernel of this device can reach: what every bandwidth-bound figure is compared with. */
#include "cuda/device.cuh"

#include "cuda/ops.cuh"

#define COPY_BYTES   ((size_t)1 << 30) // far beyond any cache; less where less is free
#define COPY_REPEATS 10

struct copy_timer {
    void *from, *to; // [bytes]
    size_t bytes;
    cudaEvent_t begin, end;
};

static bool time_copies(struct device *device, struct copy_timer *timer, float *milliseconds, struct error *err) {
    struct device_memory memory;
    if (!cuda_device_memory(device, &memory, err)) return false;
    timer->bytes = memory.free_bytes / 4 < COPY_BYTES ? memory.free_bytes / 4 / 256 * 256 : COPY_BYTES;
    timer->from = cuda_alloc(device, timer->bytes, err);
    if (!timer->from) return false;
    timer->to = cuda_alloc(device, timer->bytes, err);
    if (!timer->to) return false;
    CUDA_TRY(cudaEventCreate(&timer->begin), err);
    CUDA_TRY(cudaEventCreate(&timer->end), err);
    CUDA_TRY(cudaMemsetAsync(timer->from, 0x5a, timer->bytes, device->stream), err);
    for (int i = -1; i < COPY_REPEATS; ++i) { // one to warm up
        if (i == 0) CUDA_TRY(cudaEventRecord(timer->begin, device->stream), err);
        CUDA_TRY(cudaMemcpyAsync(timer->to, timer->from, timer->bytes, cudaMemcpyDeviceToDevice, device->stream), err);
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
    cuda_free(device, timer.from);
    cuda_free(device, timer.to);
    if (ok) *bytes_per_second = 2.0 * COPY_REPEATS * (double)timer.bytes / (milliseconds * 1e-3); // read and written
    return ok;
}
