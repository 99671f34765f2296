#include "cpu/cpu_backend.h"

#include "cpu/device.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ALIGNMENT       256
#define HUGE_PAGE       ((size_t)2 << 20)
#define BANDWIDTH_BYTES ((size_t)512 << 20) // far beyond any L3
#define BANDWIDTH_CHUNK ((size_t)1 << 20)
#define BANDWIDTH_RUNS  3

#define DEFAULT_BATCH_TOKENS 512               // a step of 0.6B stays near a second on two cores
#define DEFAULT_KV_BYTES     ((size_t)4 << 30) // of the memory that other programs want too

static void device_destroy(struct device *device) {
    if (!device) return;
    threads_destroy(device->threads);
    free(device);
}

static struct device *device_create(const struct device_options *options, struct error *err) {
    struct device *device = calloc(1, sizeof *device);
    if (!device) {
        fail(err, ERR_MEMORY, "no memory for a device");
        return NULL;
    }
    device->n_ranks = options->n_ranks > 1 ? options->n_ranks : 1;
    device->isa = isa_find(options->cpu_isa, err);
    if (device->isa) device->threads = threads_create(threads_share(options->n_threads, device->n_ranks), err);
    if (!device->threads) {
        device_destroy(device);
        return NULL;
    }
    return device;
}

static void device_describe(const struct device *device, char *text, size_t size) {
    int32_t n_threads = threads_count(device->threads);
    double gib = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (double)(1 << 30);
    snprintf(text, size, "CPU, %d thread%s, %s, %.0f GiB", n_threads, n_threads == 1 ? "" : "s", device->isa->name,
             gib);
}

/* What the system could give without swapping; what is merely unused where it does not say so. */
static size_t available_bytes(void) {
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    if (file) {
        char line[256];
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
        fclose(file);
    }
    if (kib > 0) return (size_t)kib * 1024;
    return (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

/* What a container's limit leaves, where there is one. Cached file pages are given back when memory runs short. */
static size_t group_free_bytes(void) {
    unsigned long long limit = 0, used = 0, cached = 0;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "r");
    if (!file) return SIZE_MAX;
    bool limited = fscanf(file, "%llu", &limit) == 1;
    fclose(file);
    file = limited ? fopen("/sys/fs/cgroup/memory.current", "r") : NULL;
    if (!file) return SIZE_MAX;
    bool known = fscanf(file, "%llu", &used) == 1;
    fclose(file);
    if (!known) return SIZE_MAX;
    file = fopen("/sys/fs/cgroup/memory.stat", "r");
    if (file) {
        char line[256];
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "inactive_file %llu", &cached) == 1) break;
        fclose(file);
    }
    used = used > cached ? used - cached : 0;
    return used < limit ? (size_t)(limit - used) : 0;
}

/* Ranks share one memory: each may count on its part. */
static bool device_memory(struct device *device, struct device_memory *memory, struct error *err) {
    (void)err;
    size_t limit = group_free_bytes();
    memory->total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    memory->free_bytes = available_bytes();
    if (memory->free_bytes > limit) memory->free_bytes = limit;
    memory->total_bytes /= (size_t)device->n_ranks;
    memory->free_bytes /= (size_t)device->n_ranks;
    return true;
}

/* Large memory begins at a huge page and asks for them: a step walks through gigabytes. */
static void *allocate(struct device *device, size_t bytes, struct error *err) {
    (void)device;
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *memory = rounded >= bytes ? aligned_alloc(alignment, rounded ? rounded : alignment) : NULL;
    if (!memory) {
        fail(err, ERR_MEMORY, "no memory for %zu bytes", bytes);
        return NULL;
    }
    if (alignment == HUGE_PAGE) madvise(memory, rounded, MADV_HUGEPAGE); // a wish: failing costs only speed
    return memory;
}

static void release(struct device *device, void *memory) {
    (void)device;
    free(memory);
}

static bool copy(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    (void)device;
    (void)err;
    memcpy(to, from, bytes);
    return true;
}

static bool synchronize(struct device *device, struct error *err) {
    (void)device;
    (void)err;
    return true; // every op has ended when it returns
}

static bool read_begin(struct device *device, int32_t slot, void *to, const void *from, size_t bytes,
                       struct error *err) {
    (void)slot;
    return copy(device, to, from, bytes, err);
}

static bool read_wait(struct device *device, int32_t slot, struct error *err) {
    (void)slot;
    return synchronize(device, err);
}

struct bandwidth_job {
    const struct isa *isa;
    char *memory;
    _Atomic uint32_t sum; // kept, so that nobody can leave the reads out
};

static void touch_chunk(void *argument, int32_t chunk) {
    struct bandwidth_job *job = argument;
    memset(job->memory + (size_t)chunk * BANDWIDTH_CHUNK, chunk, BANDWIDTH_CHUNK);
}

static void read_chunk(void *argument, int32_t chunk) {
    struct bandwidth_job *job = argument;
    atomic_fetch_xor(&job->sum, job->isa->read(job->memory + (size_t)chunk * BANDWIDTH_CHUNK, BANDWIDTH_CHUNK));
}

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static bool measure_bandwidth(struct device *device, double *bytes_per_second, struct error *err) {
    struct bandwidth_job job = {.isa = device->isa, .memory = allocate(device, BANDWIDTH_BYTES, err)};
    if (!job.memory) return false;
    int32_t n_chunks = (int32_t)(BANDWIDTH_BYTES / BANDWIDTH_CHUNK);
    threads_run(device->threads, touch_chunk, &job, n_chunks);
    double rates[BANDWIDTH_RUNS];
    for (int run = 0; run < BANDWIDTH_RUNS; ++run) {
        double start = seconds();
        threads_run(device->threads, read_chunk, &job, n_chunks);
        rates[run] = (double)BANDWIDTH_BYTES / (seconds() - start);
    }
    release(device, job.memory);
    qsort(rates, BANDWIDTH_RUNS, sizeof *rates, compare);
    *bytes_per_second = rates[BANDWIDTH_RUNS / 2]; // as a step's time is a median
    return true;
}

static size_t workspace_bytes(const struct model_shape *shape, const struct context_limits *limits) {
    return workspace_at(NULL, shape, limits).bytes;
}

#define OPS(rmsnorm_qkv_)                                                                                              \
    {                                                                                                                  \
        .name = "cpu", .activation_dtype = DTYPE_F32, .kv_dtype = DTYPE_F32,                                           \
        .default_batch_tokens = DEFAULT_BATCH_TOKENS, .default_kv_bytes = DEFAULT_KV_BYTES, .host_writable = true,     \
        .device_create = device_create, .device_destroy = device_destroy, .device_describe = device_describe,          \
        .device_memory = device_memory, .alloc = allocate, .free = release, .alloc_host = allocate,                    \
        .free_host = release, .copy_to_device = copy, .copy_beside = copy, .copy_to_host = copy,                       \
        .synchronize = synchronize, .read_begin = read_begin, .read_wait = read_wait,                                  \
        .measure_bandwidth = measure_bandwidth, .prepare_shape = cpu_prepare_shape, .ranks_join = cpu_ranks_join,      \
        .ranks_part = cpu_ranks_part, .ranks_break = cpu_ranks_break, .ranks_describe = cpu_ranks_describe,            \
        .share_sampled = cpu_share_sampled, .all_reduce = cpu_all_reduce, .gather_logits = cpu_gather_logits,          \
        .workspace_bytes = workspace_bytes, .embed = cpu_embed, .rmsnorm_qkv = rmsnorm_qkv_,                           \
        .paged_attention = cpu_paged_attention, .attention_output = cpu_attention_output, .mlp = cpu_mlp,              \
        .pool = cpu_pool, .lm_head = cpu_lm_head, .adjust = cpu_adjust, .sample = cpu_sample, .count = cpu_count,      \
        .score = cpu_score,                                                                                            \
    }

const struct backend_ops *cpu_backend(bool fused) {
    static const struct backend_ops with_fused = OPS(cpu_rmsnorm_qkv_fused);
    static const struct backend_ops with_separate = OPS(cpu_rmsnorm_qkv_separate);
    return fused ? &with_fused : &with_separate;
}
