/* context_prepare on a device that copies as late as it may: what is in the arrays, how much travels, and that the step
 * before keeps its own. */
#include "tests/test.h"

#include "engine/context.h"
#include "tests/unit/fake_backend.h"

#define BLOCK_SIZE 8

static const struct model_shape shape = {
    .n_layers = 1,
    .hidden = 8,
    .n_heads = 1,
    .n_kv_heads = 1,
    .head_dim = 8,
    .intermediate = 8,
    .vocab = 16,
    .max_positions = 1024,
};

static bool prepare_shape(struct device *device, const struct model_shape *of, struct error *err) {
    (void)device, (void)of, (void)err;
    return true;
}
static size_t workspace_bytes(const struct model_shape *of, const struct context_limits *limits) {
    (void)of, (void)limits;
    return 0;
}
static int32_t padded_rows(const struct context *ctx, int32_t n_rows) {
    (void)ctx;
    return (n_rows + 3) / 4 * 4;
}
static void recordings_destroy(struct context *ctx) {
    ctx->recordings = NULL;
}

struct bench {
    struct device device;
    struct backend_ops ops;
    struct context *ctx;
};

static void setup(struct bench *bench, struct context_limits limits) {
    bench->device = fake_device();
    bench->ops = fake_backend();
    bench->ops.prepare_shape = prepare_shape;
    bench->ops.workspace_bytes = workspace_bytes;
    bench->ops.padded_rows = padded_rows;
    bench->ops.recordings_destroy = recordings_destroy;
    limits.block_size = BLOCK_SIZE;
    bench->ctx = context_create(&bench->ops, &bench->device, &shape, &limits, NULL);
    assert_non_null(bench->ctx);
}

static void teardown(struct bench *bench) {
    context_destroy(bench->ctx);
    assert_int_equal(bench->device.n_allocated, 0);
}

static void prepare(struct bench *bench, const struct batch_sequence *seqs, int32_t n_seqs) {
    bench->device.n_copies = 0;
    bench->device.largest_copy = 0;
    assert_true(context_prepare(bench->ctx, seqs, n_seqs, NULL));
}

static void record(struct bench *bench) {
    static int recorded; // an address that nobody looks at
    bench->ctx->recordings = (struct recordings *)&recorded;
}

static void a_decode_step_is_one_small_copy(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, (struct context_limits){.max_rows = 4096, .max_seqs = 256, .max_blocks = 64, .n_blocks = 256});
    int32_t blocks[64], tokens[300] = {0};
    for (int32_t i = 0; i < 64; ++i) blocks[i] = 100 + i;
    struct batch_sequence seq = {
        .tokens = tokens, .n_rows = 300, .blocks = blocks, .n_blocks = 38, .table = 1, .sample = true};
    prepare(&bench, &seq, 1);
    assert_true(bench.device.n_copies <= 2);
    fake_synchronize(&bench.device, NULL);
    const struct batch *batch = &bench.ctx->batch;
    assert_memory_equal(batch->block_tables, blocks, 38 * sizeof *blocks);
    const int32_t *tables = batch->block_tables;
    struct batch decode = {0};
    for (int32_t i = 0; i < 5; ++i) {
        seq.start = 300 + i;
        seq.n_rows = 1;
        seq.n_blocks = 39; // one more: its table changes in the first of these steps
        prepare(&bench, &seq, 1);
        assert_int_equal(bench.device.n_copies, 1);
        assert_true(bench.device.largest_copy < (i == 0 ? 25u : 7u) << 10);
        fake_synchronize(&bench.device, NULL);
        if (i == 0) decode = *batch;
        assert_ptr_equal(batch->tokens, decode.tokens); // recorded steps read it there
        assert_ptr_equal(batch->samples, decode.samples);
        assert_int_equal(batch->positions[0], 300 + i);
        assert_int_equal(batch->kv_slots[0], blocks[(300 + i) / BLOCK_SIZE] * BLOCK_SIZE + (300 + i) % BLOCK_SIZE);
        assert_int_equal(batch->kv_lens[0], 301 + i);
        assert_ptr_equal(batch->block_tables, tables);
        assert_memory_equal(batch->block_tables, blocks, 39 * sizeof *blocks);
        assert_int_equal(batch->samples[0].position, 301 + i);
    }
    teardown(&bench);
}

static void pads_a_decode_step_to_its_recording(void **state) {
    (void)state;
    struct bench bench;
    setup(&bench, (struct context_limits){.max_rows = 64, .max_seqs = 8, .max_blocks = 4, .n_blocks = 8});
    const int32_t blocks[] = {5, 6}, tokens[] = {3, -2, 9, 9, 9, 9};
    struct batch_sequence seqs[5];
    for (int32_t i = 0; i < 5; ++i)
        seqs[i] = (struct batch_sequence){
            .tokens = tokens + i, .start = 9, .n_rows = 1, .blocks = blocks, .n_blocks = 2, .sample = true};
    const struct batch *batch = &bench.ctx->batch;
    prepare(&bench, seqs, 5);
    assert_int_equal(batch->n_rows, 5); // there are no recordings
    record(&bench);
    prepare(&bench, seqs, 5);
    fake_synchronize(&bench.device, NULL);
    assert_int_equal(batch->n_rows, 8);
    assert_int_equal(batch->n_seqs, 8);
    assert_int_equal(batch->n_decode, 8);
    assert_int_equal(batch->n_samples, 8);
    assert_int_equal(batch->max_kv_len, 10);
    assert_int_equal(batch->max_query_len, 1);
    assert_int_equal(batch->tokens[1], -2); // sample 1 of the step before
    for (int32_t i = 0; i < 8; ++i) {
        bool real = i < 5;
        assert_int_equal(batch->positions[i], real ? 9 : 0);
        assert_int_equal(batch->kv_slots[i], real ? 6 * BLOCK_SIZE + 1 : -1);
        assert_int_equal(batch->kv_lens[i], real ? 10 : 0);
        assert_int_equal(batch->row_seqs[i], i);
        assert_int_equal(batch->query_starts[i + 1], i + 1);
        assert_int_equal(batch->samples[i].row, i);
        assert_true(batch->samples[i].params.temperature == 0);
        if (!real) assert_int_equal(batch->tokens[i], 0);
    }
    seqs[2].sample = false; // a prompt's row in the middle: no decode step
    prepare(&bench, seqs, 5);
    assert_int_equal(batch->n_rows, 5);
    seqs[2].sample = true;
    seqs[4].start = 8;
    seqs[4].n_rows = 2;
    prepare(&bench, seqs, 5);
    assert_int_equal(batch->n_rows, 6);
    teardown(&bench);
}

/* Sequences come, grow, move to other rows and leave, while the copies of each step are made when the next one is
 * prepared already. */
static void the_step_before_keeps_its_arrays(void **state) {
    (void)state;
    enum { MAX_SEQS = 12, MAX_BLOCKS = 300, N_STEPS = 400 }; // tables of 1200 bytes: near and far ones
    struct bench bench;
    setup(&bench,
          (struct context_limits){.max_rows = 64, .max_seqs = MAX_SEQS, .max_blocks = MAX_BLOCKS, .n_blocks = 512});
    struct row {
        uint64_t table;
        int32_t n_blocks, n_rows, token;
        int32_t blocks[MAX_BLOCKS];
    };
    struct row *now = calloc(MAX_SEQS, sizeof *now), *before = calloc(MAX_SEQS, sizeof *before);
    int32_t n_now = 0, n_before = 0, tokens[8];
    struct batch batch_before = {0};
    uint64_t n_tables = 0;
    uint32_t random = 1;
    for (int32_t step = 0; step < N_STEPS; ++step) {
        for (int32_t s = 0; s < n_now; ++s) {
            random = random * 1664525u + 1013904223u;
            if ((random >> 8) % 16 == 0) { // leaves: the others move up
                memmove(now + s, now + s + 1, (size_t)(n_now - s - 1) * sizeof *now);
                n_now--;
            } else if ((random >> 16) % 3 == 0 && now[s].n_blocks < MAX_BLOCKS) {
                now[s].blocks[now[s].n_blocks++] = (int32_t)(random >> 20) % 512;
            }
        }
        while (n_now < MAX_SEQS && (n_now == 0 || (random >> 12) % 3 == 0)) { // comes
            random = random * 1664525u + 1013904223u;
            now[n_now].table = ++n_tables;
            now[n_now].n_blocks = 1 + (int32_t)(random >> 8) % (MAX_BLOCKS - 1);
            for (int32_t b = 0; b < now[n_now].n_blocks; ++b)
                now[n_now].blocks[b] = (int32_t)(random >> 7) % 500 + b % 7;
            n_now++;
        }
        struct batch_sequence seqs[MAX_SEQS];
        for (int32_t s = 0; s < n_now; ++s) {
            now[s].n_rows = s == n_now - 1 && random & 1 << 9 ? 8 : 1; // steps of more and of fewer rows than MAX_SEQS
            now[s].token = step * 16 + s;
            if (s == n_now - 1)
                for (int32_t i = 0; i < 8; ++i) tokens[i] = now[s].token;
            seqs[s] = (struct batch_sequence){.tokens = s == n_now - 1 ? tokens : &now[s].token,
                                              .start = now[s].n_blocks * BLOCK_SIZE - now[s].n_rows,
                                              .n_rows = now[s].n_rows,
                                              .blocks = now[s].blocks,
                                              .n_blocks = now[s].n_blocks,
                                              .table = step % 50 == 49 ? 0 : now[s].table,
                                              .sample = true};
        }
        int32_t n_pending = bench.device.n_pending;
        prepare(&bench, seqs, n_now);
        /* Now the device does what it had to do before. */
        int32_t n_new = bench.device.n_pending - n_pending;
        assert_true(n_new >= 1 && n_new <= 2);
        bench.device.n_pending = n_pending;
        fake_synchronize(&bench.device, NULL);
        memmove(bench.device.pending, bench.device.pending + n_pending, (size_t)n_new * sizeof *bench.device.pending);
        bench.device.n_pending = n_new;
        for (int32_t s = 0, row = 0; s < n_before; row += before[s++].n_rows) {
            assert_int_equal(batch_before.tokens[row], before[s].token);
            assert_int_equal(batch_before.kv_lens[s], before[s].n_blocks * BLOCK_SIZE);
            assert_int_equal(batch_before.samples[s].row, row + before[s].n_rows - 1);
            assert_memory_equal(batch_before.block_tables + s * MAX_BLOCKS, before[s].blocks,
                                (size_t)before[s].n_blocks * sizeof(int32_t));
        }
        memcpy(before, now, (size_t)n_now * sizeof *now);
        n_before = n_now;
        batch_before = bench.ctx->batch;
    }
    free(now);
    free(before);
    teardown(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decode_step_is_one_small_copy),
        cmocka_unit_test(pads_a_decode_step_to_its_recording),
        cmocka_unit_test(the_step_before_keeps_its_arrays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
