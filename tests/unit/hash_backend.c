#include "tests/unit/hash_backend.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PENDING      64
#define N_RUNGS          3
#define MAX_SEEN         4096
#define HASH_MAX_SAMPLES 256

/* Something to do later. */
struct command {
    enum { COPY, EMBED, POOL, ADJUST, SAMPLE, COUNT, SCORE } kind;
    void *to;
    const void *from;
    size_t bytes;
    struct context ctx; // of all but COPY, as it was when they were called
};

struct device {
    struct hash_faults faults;
    int32_t n_steps, n_launches, n_events;
    struct command pending[MAX_PENDING];   // command n of all at n % MAX_PENDING
    uint64_t n_commands, n_done, reads[2]; // reads: commands up to the last read of each slot
    bool recording;
    struct error error;
    int32_t rank, n_heads_run;             // calls of lm_head
    struct meeting *meeting;               // of several ranks
    int32_t next_tokens[HASH_MAX_SAMPLES]; // what this rank would sample
};

/* Where ranks wait for each other. */
struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all_came;
    int32_t n_ranks, n_waiting, n_meetings;
    bool broken;
    struct device *const *devices;
    const int32_t *sampled; // of the first rank
};

struct recordings {
    struct command embed[N_RUNGS], sample[N_RUNGS];
};

static struct hash_faults next_faults;

int32_t hash_next_token(const int32_t *tokens, int32_t n_tokens) {
    uint64_t hash = 1469598103934665603u;
    for (int32_t i = 0; i < n_tokens; ++i) hash = (hash ^ (uint32_t)tokens[i]) * 1099511628211u;
    hash ^= hash >> 29;
    return hash >> 32 & 31 ? (int32_t)(hash % HASH_VOCAB) : 0;
}

int32_t hash_adjusted_token(const int32_t *tokens, int32_t n_tokens) {
    return hash_next_token(tokens, n_tokens) ^ 1;
}

int32_t hash_masked_token(int32_t token, const uint32_t *mask) {
    for (int32_t i = 0; i < HASH_VOCAB; ++i, token = (token + 1) % HASH_VOCAB) {
        if (mask[token / 32] >> (token % 32) & 1) return token;
    }
    return 0;
}

struct token_scores hash_scores(int32_t token, int32_t n_scores) {
    struct token_scores scores = {.logprob = -0.25f * (float)token, .rank = 1 + token, .n_top = n_scores - 1};
    for (int32_t i = 0; i < scores.n_top; ++i) {
        scores.tokens[i] = (token + i) % HASH_VOCAB;
        scores.logprobs[i] = (float)-i;
    }
    return scores;
}

struct token_scores hash_prompt_scores(const int32_t *prompt, int32_t position, int32_t n_scores) {
    return hash_scores((prompt[position] + hash_next_token(prompt, position)) % HASH_VOCAB, n_scores);
}

/* Small integers: their sums are exact. */
static float state_of(const int32_t *seen, int32_t n_seen, int32_t column) {
    return (float)(hash_next_token(seen, n_seen) + column);
}

void hash_pooled(const int32_t *prompt, int32_t n_prompt, int32_t first, float pooled[HASH_HIDDEN]) {
    for (int32_t c = 0; c < HASH_HIDDEN; ++c) {
        float sum = 0;
        for (int32_t i = first; i < n_prompt; ++i) sum += state_of(prompt, i + 1, c);
        pooled[c] = sum / (float)(n_prompt - first);
    }
}

static struct device *device_create(const struct device_options *options, struct error *err) {
    (void)err;
    struct device *device = calloc(1, sizeof *device);
    assert(device);
    device->faults = next_faults;
    device->rank = options->index;
    return device;
}
static void device_destroy(struct device *device) {
    /* What is left could read memory that is freed. */
    assert(!device || (device->n_done == device->n_commands && !device->recording));
    free(device);
}
static void device_describe(const struct device *device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "hash model");
}
static bool device_memory(struct device *device, struct device_memory *memory, struct error *err) {
    (void)device, (void)err;
    *memory = (struct device_memory){.free_bytes = 64u << 20, .total_bytes = 64u << 20};
    return true;
}
static void *alloc(struct device *device, size_t bytes, struct error *err) {
    (void)device, (void)err;
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    memset(memory, 0xee, bytes);
    return memory;
}
static void release(struct device *device, void *memory) {
    (void)device;
    free(memory);
}
static int32_t *slot(const struct context *ctx, int32_t kv_slot) {
    return (int32_t *)kv_keys(ctx, 0) + (size_t)kv_slot * (size_t)ctx->shape->head_dim;
}

static void run_embed(const struct context *ctx) {
    for (int32_t row = 0; row < ctx->batch.n_rows; ++row) {
        int32_t token = ctx->batch.tokens[row];
        if (token < 0) token = ctx->scratch.sampled[-1 - token];
        if (ctx->batch.kv_slots[row] >= 0) *slot(ctx, ctx->batch.kv_slots[row]) = token;
    }
}

/* A count of every token that the row sees, and of no other. */
static void check_counts(const struct context *ctx, int32_t seat, const int32_t *seen, int32_t n_seen) {
    const struct sampling_seat *of = &ctx->sampling.seats[seat - 1];
    int32_t n_prompt = (int32_t)(of->frequency_penalty * 1000 + 0.5f);
    uint16_t expected[HASH_VOCAB] = {0};
    for (int32_t i = 0; i < n_seen; ++i) {
        if (i < n_prompt)
            expected[seen[i]] |= SAMPLING_IN_PROMPT;
        else
            expected[seen[i]]++;
    }
    assert(of->has_penalties && n_prompt > 0);
    assert(memcmp(ctx->sampling.counts + (size_t)(seat - 1) * HASH_VOCAB, expected, sizeof expected) == 0);
}

static void run_adjust(const struct context *ctx) {
    for (int32_t i = 0; i < ctx->batch.n_samples; ++i) {
        float *adjusted = ctx->scratch.adjusted + (size_t)i * HASH_VOCAB;
        adjusted[0] =
            ctx->batch.samples[i].seat > 0 || ctx->batch.samples[i].mask > 0 ? 1 : 0; // run_sample takes it back
    }
}

static void run_count(const struct context *ctx) {
    for (int32_t i = 0; i < ctx->batch.n_samples; ++i) {
        int32_t seat = ctx->batch.samples[i].seat, token = ctx->scratch.sampled[i];
        if (seat > 0 && token >= 0) ctx->sampling.counts[(size_t)(seat - 1) * HASH_VOCAB + (size_t)token]++;
    }
}

/* The tokens that a row sees, read back through its sequence's block table. */
static void read_seen(const struct context *ctx, int32_t seq, int32_t n_seen, int32_t *seen) {
    const int32_t *table = ctx->batch.block_tables + (size_t)seq * (size_t)ctx->limits.max_blocks;
    int32_t block_size = ctx->limits.block_size;
    assert(n_seen <= MAX_SEEN);
    for (int32_t p = 0; p < n_seen; ++p) seen[p] = *slot(ctx, table[p / block_size] * block_size + p % block_size);
}

static void run_pool(const struct context *ctx) {
    int32_t seen[MAX_SEEN];
    for (int32_t i = 0; i < ctx->batch.n_pools; ++i) {
        const struct pool_rows *pool = &ctx->batch.pools[i];
        float *sum = ctx->pool_sums + (size_t)pool->sum * HASH_HIDDEN;
        for (int32_t c = 0; c < HASH_HIDDEN && pool->n_before == 0; ++c) sum[c] = 0;
        for (int32_t row = pool->first; row < pool->first + pool->n_rows; ++row) {
            int32_t n_seen = ctx->batch.positions[row] + 1;
            assert(ctx->batch.row_seqs[row] == ctx->batch.row_seqs[pool->first]);
            read_seen(ctx, ctx->batch.row_seqs[row], n_seen, seen);
            bool finite = n_seen != ctx->device->faults.not_finite_after;
            for (int32_t c = 0; c < HASH_HIDDEN; ++c) sum[c] += finite ? state_of(seen, n_seen, c) : NAN;
        }
        for (int32_t c = 0; c < HASH_HIDDEN && pool->result > 0; ++c)
            ctx->scratch.pooled[(pool->result - 1) * HASH_HIDDEN + c] = sum[c] / (float)(pool->n_before + pool->n_rows);
    }
}

/* The tokens that sample i sees; 0 for padding. */
static int32_t read_sample(const struct context *ctx, int32_t i, int32_t *seen) {
    const struct batch *batch = &ctx->batch;
    int32_t row = batch->samples[i].row, seq = batch->row_seqs[row], n_seen = batch->kv_lens[seq];
    bool in_prompt = batch->samples[i].target > 0;
    assert(in_prompt || batch->query_starts[seq + 1] == row + 1);
    if (in_prompt) n_seen = batch->positions[row] + 1;
    if (n_seen == 0) {
        assert(batch->kv_slots[row] == -1 && batch->positions[row] == 0 && batch->tokens[row] == 0);
        return 0;
    }
    assert(n_seen == batch->positions[row] + 1);
    assert(in_prompt || batch->samples[i].position == n_seen);
    read_seen(ctx, seq, n_seen, seen);
    return n_seen;
}

static bool run_sample(const struct context *ctx, struct error *err) {
    const struct batch *batch = &ctx->batch;
    const struct hash_faults *faults = &ctx->device->faults;
    if (faults->step_us) usleep((useconds_t)faults->step_us);
    if (++ctx->device->n_steps == faults->fail_at_step) return fail(err, ERR_DEVICE, "the hash device broke");
    int32_t seen[MAX_SEEN];
    for (int32_t i = 0; i < batch->n_samples; ++i) {
        int32_t n_seen = read_sample(ctx, i, seen);
        ctx->scratch.sampled[i] = 1;
        if (n_seen == 0) continue;
        ctx->scratch.sampled[i] =
            n_seen == faults->not_finite_after ? SAMPLED_NOT_FINITE : hash_next_token(seen, n_seen);
        int32_t seat = batch->samples[i].seat, mask = batch->samples[i].mask;
        if (batch->n_adjusted == 0 || (seat == 0 && mask == 0) || ctx->scratch.sampled[i] < 0) continue;
        float *adjusted = ctx->scratch.adjusted + (size_t)i * HASH_VOCAB;
        assert(adjusted[0] == 1);
        adjusted[0] = 0;
        if (seat > 0) {
            check_counts(ctx, seat, seen, n_seen);
            ctx->scratch.sampled[i] = hash_adjusted_token(seen, n_seen);
        }
        const uint32_t *masks = ctx->sampling.masks;
        if (mask > 0)
            ctx->scratch.sampled[i] = hash_masked_token(
                ctx->scratch.sampled[i], masks + (size_t)(mask - 1) * (size_t)sampling_mask_words(HASH_VOCAB));
    }
    return true;
}

static void run_score(const struct context *ctx) {
    for (int32_t i = 0; i < ctx->batch.n_samples; ++i) {
        const struct sample_row *sample = &ctx->batch.samples[i];
        int32_t token = ctx->scratch.sampled[i];
        if (sample->target > 0) token = (sample->target - 1 + token) % HASH_VOCAB; // of all that the row sees
        if (sample->n_scores > 0) ctx->scratch.scores[i] = hash_scores(token, sample->n_scores);
    }
}

/* A broken device does nothing any more. */
static bool run_until(struct device *device, uint64_t end, struct error *err) {
    for (; device->n_done < end; ++device->n_done) {
        const struct command *command = &device->pending[device->n_done % MAX_PENDING];
        if (device->error.code != ERR_NONE) continue;
        if (command->kind == COPY)
            memcpy(command->to, command->from, command->bytes);
        else if (command->kind == EMBED)
            run_embed(&command->ctx);
        else if (command->kind == POOL)
            run_pool(&command->ctx);
        else if (command->kind == ADJUST)
            run_adjust(&command->ctx);
        else if (command->kind == COUNT)
            run_count(&command->ctx);
        else if (command->kind == SCORE)
            run_score(&command->ctx);
        else
            run_sample(&command->ctx, &device->error);
    }
    if (device->error.code == ERR_NONE) return true;
    return fail(err, device->error.code, "%s", device->error.message);
}

static bool call(struct device *device, const struct command *command, struct error *err) {
    if (device->n_commands - device->n_done == MAX_PENDING && !run_until(device, device->n_done + 1, err)) return false;
    device->pending[device->n_commands++ % MAX_PENDING] = *command;
    return device->faults.asynchronous || run_until(device, device->n_commands, err);
}

static bool copy_to_device(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    return call(device, &(struct command){.kind = COPY, .to = to, .from = from, .bytes = bytes}, err);
}
static bool synchronize(struct device *device, struct error *err) {
    return run_until(device, device->n_commands, err);
}
static bool copy_to_host(struct device *device, void *to, const void *from, size_t bytes, struct error *err) {
    return copy_to_device(device, to, from, bytes, err) && synchronize(device, err);
}

static void note(struct device *device, char event) {
    if (!device->faults.events || device->n_events == HASH_MAX_EVENTS - 1) return;
    device->faults.events[device->n_events++] = event;
    device->faults.events[device->n_events] = 0;
}

static bool read_begin(struct device *device, int32_t read_slot, void *to, const void *from, size_t bytes,
                       struct error *err) {
    note(device, 'L');
    memset(to, 0xee, bytes);
    bool ok = copy_to_device(device, to, from, bytes, err);
    device->reads[read_slot] = device->n_commands;
    return ok;
}
static bool read_wait(struct device *device, int32_t read_slot, struct error *err) {
    note(device, 'W');
    return run_until(device, device->reads[read_slot], err);
}

static bool measure_bandwidth(struct device *device, double *bytes_per_second, struct error *err) {
    (void)device, (void)err;
    *bytes_per_second = 1e9;
    return true;
}
static bool prepare_shape(struct device *device, const struct model_shape *shape, struct error *err) {
    (void)device, (void)shape, (void)err;
    return true;
}
static size_t workspace_bytes(const struct model_shape *shape, const struct context_limits *limits) {
    (void)shape, (void)limits;
    return 256;
}

static bool layer_op(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    (void)ctx, (void)weights, (void)layer, (void)err;
    return true;
}
static bool paged_attention(const struct context *ctx, int32_t layer, struct error *err) {
    (void)ctx, (void)layer, (void)err;
    return true;
}
static bool lm_head(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)weights;
    struct device *device = ctx->device;
    const struct hash_faults *faults = &device->faults;
    bool fails = faults->fail_rank == HASH_ALL_RANKS || device->rank == faults->fail_rank;
    return !fails || ++device->n_heads_run != faults->fail_rank_at || fail(err, ERR_DEVICE, "the hash device broke");
}

static bool meet(struct meeting *meeting, struct error *err) {
    pthread_mutex_lock(&meeting->lock);
    int32_t now = meeting->n_meetings;
    if (++meeting->n_waiting == meeting->n_ranks) {
        meeting->n_waiting = 0;
        meeting->n_meetings++;
        pthread_cond_broadcast(&meeting->all_came);
    }
    while (meeting->n_meetings == now && !meeting->broken) pthread_cond_wait(&meeting->all_came, &meeting->lock);
    bool ok = !meeting->broken;
    pthread_mutex_unlock(&meeting->lock);
    return ok || fail(err, ERR_DEVICE, "another rank has failed");
}

static bool share_sampled(const struct context *ctx, struct error *err) {
    struct meeting *meeting = ctx->device->meeting;
    if (ctx->device->rank == 0) meeting->sampled = ctx->scratch.sampled;
    if (!meet(meeting, err)) return false;
    if (ctx->device->rank > 0)
        memcpy(ctx->scratch.sampled, meeting->sampled, (size_t)ctx->limits.max_seqs * sizeof(int32_t));
    return meet(meeting, err);
}

static bool all_reduce(const struct context *ctx, struct error *err) {
    return meet(ctx->device->meeting, err);
}

/* All ranks have prepared the same step: each would sample the same tokens. */
static bool gather_logits(const struct context *ctx, struct error *err) {
    struct device *device = ctx->device;
    struct meeting *meeting = device->meeting;
    assert(ctx->batch.n_samples <= HASH_MAX_SAMPLES);
    for (int32_t i = 0; i < ctx->batch.n_samples; ++i) {
        int32_t seen[MAX_SEEN], n_seen = read_sample(ctx, i, seen);
        device->next_tokens[i] = hash_next_token(seen, n_seen);
    }
    if (!meet(meeting, err)) return false;
    for (int32_t r = 1; r < meeting->n_ranks && device->rank == 0; ++r)
        assert(memcmp(meeting->devices[r]->next_tokens, device->next_tokens,
                      (size_t)ctx->batch.n_samples * sizeof(int32_t)) == 0);
    return meet(meeting, err);
}

static bool ranks_join(struct device *const *devices, int32_t n_ranks, struct error *err) {
    (void)err;
    struct meeting *meeting = calloc(1, sizeof *meeting);
    struct device **all = calloc((size_t)n_ranks, sizeof *all);
    assert(meeting && all);
    pthread_mutex_init(&meeting->lock, NULL);
    pthread_cond_init(&meeting->all_came, NULL);
    meeting->n_ranks = n_ranks;
    meeting->devices = memcpy(all, devices, (size_t)n_ranks * sizeof *all);
    for (int32_t r = 0; r < n_ranks; ++r) devices[r]->meeting = meeting;
    return true;
}
static void ranks_part(struct device *const *devices, int32_t n_ranks) {
    (void)n_ranks;
    struct meeting *meeting = devices[0]->meeting;
    pthread_cond_destroy(&meeting->all_came);
    pthread_mutex_destroy(&meeting->lock);
    free((void *)meeting->devices);
    free(meeting);
}
static void ranks_break(struct device *device) {
    pthread_mutex_lock(&device->meeting->lock);
    assert(!device->meeting->broken); // once
    device->meeting->broken = true;
    pthread_cond_broadcast(&device->meeting->all_came);
    pthread_mutex_unlock(&device->meeting->lock);
}
static void ranks_describe(const struct device *device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "hashes");
}

static const int32_t rungs[N_RUNGS] = {4, 8, 16};

/* The recording of this many rows, N_RUNGS when there is none. */
static int32_t rung_of(int32_t n_rows) {
    int32_t index = 0;
    while (index < N_RUNGS && rungs[index] != n_rows) index++;
    return index;
}

static bool embed(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)weights;
    struct command command = {.kind = EMBED, .ctx = *ctx};
    if (!ctx->device->recording) return call(ctx->device, &command, err);
    ctx->recordings->embed[rung_of(ctx->batch.n_rows)] = command;
    return true;
}
static bool sample(const struct context *ctx, struct error *err) {
    struct command command = {.kind = SAMPLE, .ctx = *ctx};
    if (ctx->device->recording) {
        ctx->recordings->sample[rung_of(ctx->batch.n_rows)] = command;
        return !ctx->device->faults.fail_recording || fail(err, ERR_DEVICE, "the hash device cannot record");
    }
    if (++ctx->device->n_launches == ctx->device->faults.fail_at_launch)
        return fail(err, ERR_DEVICE, "the hash device broke");
    return call(ctx->device, &command, err);
}

static bool pool(const struct context *ctx, const struct weights *weights, struct error *err) {
    (void)weights;
    assert(!ctx->device->recording && ctx->batch.n_pools > 0);
    return call(ctx->device, &(struct command){.kind = POOL, .ctx = *ctx}, err);
}
static bool adjust(const struct context *ctx, struct error *err) {
    assert(!ctx->device->recording && ctx->batch.n_adjusted > 0);
    return call(ctx->device, &(struct command){.kind = ADJUST, .ctx = *ctx}, err);
}
static bool count(const struct context *ctx, struct error *err) {
    return call(ctx->device, &(struct command){.kind = COUNT, .ctx = *ctx}, err);
}
static bool score(const struct context *ctx, struct error *err) {
    assert(!ctx->device->recording && ctx->batch.n_scored > 0);
    return call(ctx->device, &(struct command){.kind = SCORE, .ctx = *ctx}, err);
}

static bool recordings_create(struct context *ctx, int32_t *n_recordings, struct error *err) {
    (void)err;
    ctx->recordings = calloc(1, sizeof *ctx->recordings);
    assert(ctx->recordings);
    *n_recordings = N_RUNGS;
    return true;
}
static void recordings_destroy(struct context *ctx) {
    free(ctx->recordings);
}
static bool record_begin(struct context *ctx, int32_t index, struct error *err) {
    (void)err;
    ctx->device->recording = true;
    ctx->batch.n_rows = ctx->batch.n_seqs = ctx->batch.n_decode = ctx->batch.n_samples = rungs[index];
    return true;
}
static bool record_end(struct context *ctx, int32_t index, struct error *err) {
    (void)err;
    assert(ctx->recordings->embed[index].ctx.batch.n_rows == rungs[index]);
    ctx->device->recording = false;
    return true;
}
static int32_t padded_rows(const struct context *ctx, int32_t n_rows) {
    for (int32_t i = 0; i < N_RUNGS; ++i) {
        if (rungs[i] >= n_rows && rungs[i] <= ctx->limits.max_seqs) return rungs[i];
    }
    return n_rows;
}

/* From what was recorded: addresses and counts of the context as it is now play no part. */
static bool replay(const struct context *ctx, bool *replayed, struct error *err) {
    const struct batch *batch = &ctx->batch;
    int32_t index = rung_of(batch->n_rows);
    *replayed = index < N_RUNGS && batch->n_decode == batch->n_rows && batch->n_samples == batch->n_rows;
    if (!*replayed) return true;
    note(ctx->device, 'R');
    return call(ctx->device, &ctx->recordings->embed[index], err) &&
           call(ctx->device, &ctx->recordings->sample[index], err);
}

#define HASH_OPS                                                                                                       \
    .name = "hash", .activation_dtype = DTYPE_F32, .kv_dtype = DTYPE_F32, .default_batch_tokens = 64,                  \
    .device_create = device_create, .device_destroy = device_destroy, .device_describe = device_describe,              \
    .device_memory = device_memory, .alloc = alloc, .free = release, .alloc_host = alloc, .free_host = release,        \
    .copy_to_device = copy_to_device, .copy_beside = copy_to_device, .copy_to_host = copy_to_host,                     \
    .synchronize = synchronize, .read_begin = read_begin, .read_wait = read_wait,                                      \
    .measure_bandwidth = measure_bandwidth, .prepare_shape = prepare_shape, .workspace_bytes = workspace_bytes,        \
    .embed = embed, .rmsnorm_qkv = layer_op, .paged_attention = paged_attention, .attention_output = layer_op,         \
    .mlp = layer_op, .pool = pool, .lm_head = lm_head, .adjust = adjust, .sample = sample, .count = count,             \
    .score = score

#define HASH_RANKS                                                                                                     \
    .ranks_join = ranks_join, .ranks_part = ranks_part, .ranks_break = ranks_break, .ranks_describe = ranks_describe,  \
    .share_sampled = share_sampled, .all_reduce = all_reduce, .gather_logits = gather_logits

#define HASH_RECORDINGS                                                                                                \
    .recordings_create = recordings_create, .recordings_destroy = recordings_destroy, .record_begin = record_begin,    \
    .record_end = record_end, .padded_rows = padded_rows, .replay = replay

const struct backend_ops *hash_backend(const struct hash_faults *faults) {
    static const struct backend_ops tables[2][2] = {
        {{HASH_OPS, HASH_RANKS}, {HASH_OPS, HASH_RECORDINGS}},
        {{HASH_OPS, .asynchronous = true}, {HASH_OPS, .asynchronous = true, HASH_RECORDINGS}},
    };
    next_faults = faults ? *faults : (struct hash_faults){0};
    return &tables[next_faults.asynchronous][next_faults.records];
}
