/* A small sum over all ranks in one step: each GPU writes its part to all others, waits for theirs, and adds them up in
 * the order of the ranks, so that all have the same bits.
 *
 * A block has a piece of the sum and its own flags: it never waits for another block of its GPU. Pieces alternate
 * between two places: who writes turn n + 2 has seen the flag of turn n + 1, which the other set when turn n was read.
 * No multicast, no atomics: stores over NVLink or PCIe, a fence, a flag. */
#include "cuda/launch.cuh"
#include "cuda/ranks.cuh"

#define THREADS    (DIRECT_CHUNK / 4)
#define TIMEOUT_NS 60000000000ull // a rank that has not come by then will not: the device fails

struct direct_params {
    float *x; // [count]
    int32_t count, rank, n_ranks;
    struct direct_inbox inboxes[MAX_RANKS];
    uint32_t *turns;
    volatile int *broken;
};

__device__ static inline void set_flag(uint32_t *flag, uint32_t turn) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(turn) : "memory");
}

__device__ static inline uint32_t read_flag(const uint32_t *flag) {
    uint32_t turn;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(turn) : "l"(flag) : "memory");
    return turn;
}

__device__ static inline uint64_t now_ns() {
    uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

/* The other GPU may be a turn ahead of this look: it only needs our flag to go on. Returns too when the host has given
 * the ranks up: nobody reads the result then. */
__device__ static void wait_for_flag(const uint32_t *flag, uint32_t turn, const volatile int *broken) {
    uint64_t start = 0;
    for (uint32_t spins = 1; (int32_t)(read_flag(flag) - turn) < 0; ++spins) {
        if (spins % 4096 != 0) continue;
        if (*broken) return;
        uint64_t now = now_ns();
        if (start == 0) start = now;
        if (now - start > TIMEOUT_NS) __trap();
    }
}

/* Grid (pieces of DIRECT_CHUNK). A block writes 4 * DIRECT_CHUNK bytes to each other GPU and gets as many from it. */
__global__ static void __launch_bounds__(THREADS) all_reduce_direct_kernel(const __grid_constant__ direct_params p) {
    let_next_begin();
    wait_for_previous();
    uint32_t turn = p.turns[blockIdx.x] + 1;
    size_t place = (turn & 1) * (size_t)p.n_ranks * DIRECT_SENT;
    int32_t i = ((int32_t)blockIdx.x * THREADS + (int32_t)threadIdx.x) * 4;
    bool exists = i < p.count;
    float4 own = exists ? *(const float4 *)(p.x + i) : make_float4(0, 0, 0, 0);
    for (int32_t step = 1; step < p.n_ranks && exists; ++step) { // not all to the same one at once
        int32_t to = (p.rank + step) % p.n_ranks;
        *(float4 *)(p.inboxes[to].data + place + (size_t)p.rank * DIRECT_SENT + i) = own;
    }
    __threadfence_system();
    __syncthreads();
    int32_t other = (int32_t)threadIdx.x;
    if (other < p.n_ranks && other != p.rank) {
        set_flag(p.inboxes[other].flags + p.rank * DIRECT_BLOCKS + blockIdx.x, turn);
        wait_for_flag(p.inboxes[p.rank].flags + other * DIRECT_BLOCKS + blockIdx.x, turn, p.broken);
    }
    __syncthreads();
    const float *parts = p.inboxes[p.rank].data + place + i;
    float4 sum = own;
    for (int32_t r = 0; r < p.n_ranks && exists; ++r) {
        float4 part = r == p.rank ? own : __ldcg((const float4 *)(parts + (size_t)r * DIRECT_SENT));
        sum = r == 0 ? part : make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    if (exists) *(float4 *)(p.x + i) = sum;
    if (threadIdx.x == 0) p.turns[blockIdx.x] = turn;
}

bool all_reduce_direct(const struct device *device, float *x, int32_t count, struct error *err) {
    const struct peers *peers = device->peers;
    struct direct_params params = {};
    params.x = x;
    params.count = count;
    params.rank = peers->rank;
    params.n_ranks = peers->n_ranks;
    for (int32_t r = 0; r < peers->n_ranks; ++r) params.inboxes[r] = peers->inboxes[r];
    params.turns = peers->turns;
    params.broken = peers->broken;
    struct launch launch = {dim3((unsigned)divide_up(count, DIRECT_CHUNK)), dim3(THREADS)};
    return launch_kernel(device, launch, all_reduce_direct_kernel, err, params);
}
