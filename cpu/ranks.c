/* Ranks on one processor: threads that look into each other's memory between two meetings.
 *
 * A rank puts its context on the table and meets the others; then all read and write what they share, and meet again
 * before anyone goes on. Sums are made in the order of the ranks, each element by one of them, so that all ranks have
 * the same bits and a run is repeatable. */
#include "cpu/device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SPINS  2000 // some 20 us: about as long as waking a thread takes
#define SUMMED 1024 // elements at once: they stay in L1

struct ranks_table {
    int32_t n_ranks;
    pthread_mutex_t lock;
    pthread_cond_t all_came;
    int32_t n_waiting; // guarded by lock
    _Atomic uint32_t n_meetings;
    _Atomic bool broken;
    const struct context *contexts[]; // [n_ranks], between two meetings
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool fail_broken(struct error *err) {
    return fail(err, ERR_DEVICE, "another rank has failed");
}

static bool meet(struct ranks_table *table, struct error *err) {
    pthread_mutex_lock(&table->lock);
    uint32_t meeting = atomic_load(&table->n_meetings);
    if (++table->n_waiting == table->n_ranks) {
        table->n_waiting = 0;
        atomic_store(&table->n_meetings, meeting + 1);
        pthread_cond_broadcast(&table->all_came);
        pthread_mutex_unlock(&table->lock);
        return !atomic_load(&table->broken) || fail_broken(err);
    }
    pthread_mutex_unlock(&table->lock);
    for (int i = 0; i < SPINS && atomic_load(&table->n_meetings) == meeting; ++i) relax();
    pthread_mutex_lock(&table->lock);
    while (atomic_load(&table->n_meetings) == meeting && !atomic_load(&table->broken))
        pthread_cond_wait(&table->all_came, &table->lock);
    pthread_mutex_unlock(&table->lock);
    return !atomic_load(&table->broken) || fail_broken(err);
}

static bool open_table(const struct context *ctx, struct error *err) {
    struct ranks_table *table = ctx->device->table;
    table->contexts[ctx->shape->slice.rank] = ctx;
    return meet(table, err);
}

bool cpu_share_sampled(const struct context *ctx, struct error *err) {
    if (!open_table(ctx, err)) return false;
    const struct context *first = ctx->device->table->contexts[0];
    if (first != ctx)
        memcpy(ctx->scratch.sampled, first->scratch.sampled, (size_t)ctx->limits.max_seqs * sizeof(int32_t));
    return meet(ctx->device->table, err);
}

/* Each rank sums its share of the elements and gives it to all. */
bool cpu_all_reduce(const struct context *ctx, struct error *err) {
    const struct ranks_table *table = ctx->device->table;
    if (!open_table(ctx, err)) return false;
    size_t count = (size_t)ctx->batch.n_rows * (size_t)ctx->shape->hidden;
    size_t rank = (size_t)ctx->shape->slice.rank, n_ranks = (size_t)table->n_ranks;
    size_t end = count * (rank + 1) / n_ranks;
    float sums[SUMMED];
    for (size_t first = count * rank / n_ranks; first < end; first += SUMMED) {
        size_t n = end - first < SUMMED ? end - first : SUMMED;
        memcpy(sums, table->contexts[0]->scratch.hidden + first, n * sizeof *sums);
        for (size_t r = 1; r < n_ranks; ++r) {
            const float *part = table->contexts[r]->scratch.hidden + first;
            for (size_t i = 0; i < n; ++i) sums[i] += part[i];
        }
        for (size_t r = 0; r < n_ranks; ++r) memcpy(table->contexts[r]->scratch.hidden + first, sums, n * sizeof *sums);
    }
    return meet(ctx->device->table, err);
}

bool cpu_gather_logits(const struct context *ctx, struct error *err) {
    const struct ranks_table *table = ctx->device->table;
    if (!open_table(ctx, err)) return false;
    for (int32_t r = 0; r < table->n_ranks && ctx->shape->slice.rank == 0; ++r) {
        const struct context *from = table->contexts[r];
        size_t part = (size_t)shape_vocab_part(from->shape), vocab = (size_t)ctx->shape->vocab;
        float *to = ctx->scratch.logits + shape_vocab_first(from->shape);
        for (size_t i = 0; i < (size_t)ctx->batch.n_samples; ++i)
            memcpy(to + i * vocab, context_logits_part(from) + i * part, part * sizeof *to);
    }
    return meet(ctx->device->table, err);
}

bool cpu_ranks_join(struct device *const *devices, int32_t n_ranks, struct error *err) {
    struct ranks_table *table = calloc(1, sizeof *table + (size_t)n_ranks * sizeof *table->contexts);
    if (!table) return fail(err, ERR_MEMORY, "no memory for %d ranks", n_ranks);
    table->n_ranks = n_ranks;
    pthread_mutex_init(&table->lock, NULL);
    pthread_cond_init(&table->all_came, NULL);
    for (int32_t r = 0; r < n_ranks; ++r) devices[r]->table = table;
    return true;
}

void cpu_ranks_part(struct device *const *devices, int32_t n_ranks) {
    struct ranks_table *table = devices[0]->table;
    for (int32_t r = 0; r < n_ranks; ++r) devices[r]->table = NULL;
    pthread_cond_destroy(&table->all_came);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

void cpu_ranks_break(struct device *device) {
    struct ranks_table *table = device->table;
    pthread_mutex_lock(&table->lock);
    atomic_store(&table->broken, true);
    pthread_cond_broadcast(&table->all_came);
    pthread_mutex_unlock(&table->lock);
}

void cpu_ranks_describe(const struct device *device, char *text, size_t size) {
    (void)device;
    strncpy(text, "shared memory", size);
}
