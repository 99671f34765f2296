/* The parts of a model that ranks load, against the whole. */
#include "engine/model_config.h"
#include "engine/slice.h"
#include "engine/weights.h"
#include "tests/test.h"
#include "tests/unit/fake_backend.h"

#include <stdio.h>

#define TINY "tests/fixtures/dummy-tiny" // untied, 4 query and 2 KV heads, a vocabulary of 97
#define DEMO "models/demo"

static struct backend_ops ops;
static struct device device;

struct fixture {
    struct model_config config;
    struct weights weights;
};

/* folder NULL: random weights. */
static struct fixture load(const char *model, const char *folder, struct slice slice) {
    struct fixture fixture;
    struct error err = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", model);
    assert_true(model_config_load_file(&fixture.config, path, NULL));
    ops = fake_backend();
    device = fake_device();
    struct weights_source source = {
        .ops = &ops, .device = &device, .shape = &fixture.config.shape, .slice = slice, .folder = folder, .seed = 7};
    if (!weights_init(&fixture.weights, &source, &err)) fail_msg("%s: %s", model, err.message);
    return fixture;
}

/* Columns [first, first + count) of rows [from, from + n) of a whole matrix are what a part holds. */
struct block {
    int32_t from, n_rows, first, n_columns, whole_columns;
};
static void assert_block(const uint16_t *part, const uint16_t *whole, struct block block) {
    for (int32_t row = 0; row < block.n_rows; row++)
        assert_memory_equal(part + (size_t)row * (size_t)block.n_columns,
                            whole + (size_t)(block.from + row) * (size_t)block.whole_columns + block.first,
                            (size_t)block.n_columns * sizeof *part);
}

static void assert_slice(const struct fixture *part, const struct fixture *whole, struct slice slice) {
    const struct model_shape *all = &whole->config.shape;
    struct model_shape own;
    assert_true(slice_shape(&own, all, slice, NULL));
    assert_int_equal(part->weights.bytes, weights_bytes(&own));
    int32_t hidden = all->hidden, q = shape_q_columns(&own), kv = shape_kv_columns(&own);
    int32_t all_q = shape_q_columns(all), all_kv = shape_kv_columns(all), first_q = slice.rank * q;
    int32_t first_kv = slice_first_kv_head(all, slice) * all->head_dim, first = slice.rank * own.intermediate;
    assert_block(part->weights.embedding, whole->weights.embedding, (struct block){0, all->vocab, 0, hidden, hidden});
    assert_block(part->weights.lm_head, whole->weights.lm_head,
                 (struct block){shape_vocab_first(&own), shape_vocab_part(&own), 0, hidden, hidden});
    for (int32_t i = 0; i < all->n_layers; i++) {
        const struct layer_weights *a = &part->weights.layers[i], *b = &whole->weights.layers[i];
        assert_block(a->qkv, b->qkv, (struct block){first_q, q, 0, hidden, hidden});
        assert_block(a->qkv + q * hidden, b->qkv, (struct block){all_q + first_kv, kv, 0, hidden, hidden});
        assert_block(a->qkv + (q + kv) * hidden, b->qkv,
                     (struct block){all_q + all_kv + first_kv, kv, 0, hidden, hidden});
        assert_block(a->attention_output, b->attention_output, (struct block){0, hidden, first_q, q, all_q});
        assert_block(a->gate_up, b->gate_up, (struct block){first, own.intermediate, 0, hidden, hidden});
        assert_block(a->gate_up + own.intermediate * hidden, b->gate_up,
                     (struct block){all->intermediate + first, own.intermediate, 0, hidden, hidden});
        assert_block(a->down, b->down, (struct block){0, hidden, first, own.intermediate, all->intermediate});
        assert_memory_equal(a->k_norm, b->k_norm, (size_t)all->head_dim * sizeof *a->k_norm);
    }
}

/* Of random weights too, so that a benchmark of several ranks runs the same model. */
static void check_slices(const char *model, const char *folder, int32_t n_ranks) {
    struct fixture whole = load(model, folder, (struct slice){0});
    for (int32_t rank = 0; rank < n_ranks; rank++) {
        struct slice slice = {rank, n_ranks};
        struct fixture part = load(model, folder, slice);
        assert_slice(&part, &whole, slice);
        weights_finish(&part.weights);
    }
    weights_finish(&whole.weights);
}

static void a_rank_holds_its_slice(void **state) {
    (void)state;
    check_slices(TINY, TINY, 2);
    check_slices(TINY, NULL, 2);
}

/* Tied embeddings, and two ranks for each KV head. */
static void ranks_beyond_the_kv_heads_share_them(void **state) {
    (void)state;
    check_slices(DEMO, DEMO, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_holds_its_slice),
        cmocka_unit_test(ranks_beyond_the_kv_heads_share_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
