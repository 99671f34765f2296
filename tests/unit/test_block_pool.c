#include "tests/test.h"

#include "engine/block_pool.h"

#include <string.h>

#define BLOCK_SIZE 4

static const int32_t tokens[3][BLOCK_SIZE] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {1, 2, 3, 5}};

static void gives_out_every_block_once(void **state) {
    (void)state;
    struct block_pool *pool = block_pool_create(5, BLOCK_SIZE, 1, NULL);
    bool seen[5] = {false};
    for (int i = 0; i < 5; ++i) {
        int32_t block = block_pool_alloc(pool);
        assert_in_range(block, 0, 4);
        assert_false(seen[block]);
        seen[block] = true;
        assert_int_equal(block_pool_n_free(pool), 4 - i);
    }
    assert_int_equal(block_pool_alloc(pool), -1);
    block_pool_release(pool, 3);
    assert_int_equal(block_pool_alloc(pool), 3);
    block_pool_destroy(pool);
}

static void counts_references(void **state) {
    (void)state;
    struct block_pool *pool = block_pool_create(2, BLOCK_SIZE, 1, NULL);
    int32_t block = block_pool_alloc(pool);
    block_pool_retain(pool, block);
    block_pool_release(pool, block);
    assert_int_equal(block_pool_references(pool, block), 1);
    assert_int_equal(block_pool_n_free(pool), 1);
    block_pool_release(pool, block);
    assert_int_equal(block_pool_n_free(pool), 2);
    block_pool_destroy(pool);
}

static void hashes_depend_on_tokens_order_prefix_and_seed(void **state) {
    (void)state;
    struct block_pool *pool = block_pool_create(1, BLOCK_SIZE, 1, NULL),
                      *other = block_pool_create(1, BLOCK_SIZE, 2, NULL);
    struct block_hash root = block_pool_root(pool);
    struct block_hash a = block_pool_extend(pool, root, tokens[0]), b = block_pool_extend(pool, root, tokens[1]);
    struct block_hash ab = block_pool_extend(pool, a, tokens[1]), ba = block_pool_extend(pool, b, tokens[0]);
    struct block_hash other_a = block_pool_extend(other, block_pool_root(other), tokens[0]);
    struct block_hash again = block_pool_extend(pool, root, tokens[0]);
    assert_memory_equal(&a, &again, sizeof a);
    assert_memory_not_equal(&a, &b, sizeof a);
    assert_memory_not_equal(&ab, &ba, sizeof a);
    assert_memory_not_equal(&ab, &b, sizeof a);
    assert_memory_not_equal(&a, &other_a, sizeof a);
    block_pool_destroy(pool);
    block_pool_destroy(other);
}

static void finds_published_blocks_after_their_release(void **state) {
    (void)state;
    struct block_pool *pool = block_pool_create(3, BLOCK_SIZE, 1, NULL);
    struct block_hash hash = block_pool_extend(pool, block_pool_root(pool), tokens[0]);
    struct block_hash other = block_pool_extend(pool, block_pool_root(pool), tokens[2]);
    assert_int_equal(block_pool_find(pool, hash), -1);
    int32_t block = block_pool_alloc(pool);
    block_pool_publish(pool, block, hash);
    assert_int_equal(block_pool_find(pool, other), -1);
    assert_int_equal(block_pool_find(pool, hash), block);
    assert_int_equal(block_pool_references(pool, block), 2);
    block_pool_release(pool, block);
    block_pool_release(pool, block);
    assert_int_equal(block_pool_n_free(pool), 3);
    assert_int_equal(block_pool_find(pool, hash), block);
    assert_int_equal(block_pool_n_free(pool), 2);

    int32_t twin = block_pool_alloc(pool); // the same content computed twice: the first stays the one that is found
    block_pool_publish(pool, twin, hash);
    block_pool_release(pool, twin);
    assert_int_equal(block_pool_find(pool, hash), block);
    block_pool_unpublish(pool, block);
    assert_int_equal(block_pool_find(pool, hash), -1);
    block_pool_destroy(pool);
}

static void evicts_the_least_recently_used(void **state) {
    (void)state;
    enum { N = 4 };
    struct block_pool *pool = block_pool_create(N, BLOCK_SIZE, 1, NULL);
    struct block_hash hash[N];
    int32_t block[N];
    for (int i = 0; i < N; ++i) {
        int32_t content[BLOCK_SIZE] = {i, i, i, i};
        hash[i] = block_pool_extend(pool, block_pool_root(pool), content);
        block[i] = block_pool_alloc(pool);
        block_pool_publish(pool, block[i], hash[i]);
    }
    for (int i = 0; i < N; ++i) block_pool_release(pool, block[i]);
    block_pool_release(pool, block_pool_find(pool, hash[0])); // now the most recently used
    assert_int_equal(block_pool_n_evictions(pool), 0);
    assert_int_equal(block_pool_alloc(pool), block[1]);
    assert_int_equal(block_pool_alloc(pool), block[2]);
    assert_int_equal(block_pool_n_evictions(pool), 2);
    assert_int_equal(block_pool_find(pool, hash[1]), -1);
    assert_int_equal(block_pool_find(pool, hash[2]), -1);
    assert_int_equal(block_pool_find(pool, hash[0]), block[0]);
    assert_int_equal(block_pool_find(pool, hash[3]), block[3]);
    block_pool_destroy(pool);
}

static void prefers_blocks_without_content(void **state) {
    (void)state;
    struct block_pool *pool = block_pool_create(3, BLOCK_SIZE, 1, NULL);
    int32_t kept = block_pool_alloc(pool), plain = block_pool_alloc(pool);
    struct block_hash hash = block_pool_extend(pool, block_pool_root(pool), tokens[0]);
    block_pool_publish(pool, kept, hash);
    block_pool_release(pool, kept);
    block_pool_release(pool, plain);
    assert_int_not_equal(block_pool_alloc(pool), kept);
    assert_int_not_equal(block_pool_alloc(pool), kept);
    assert_int_equal(block_pool_alloc(pool), kept);
    assert_int_equal(block_pool_find(pool, hash), -1);
    block_pool_destroy(pool);
}

/* Random operations against a plain model of who holds what. */
static void keeps_its_books_under_random_use(void **state) {
    (void)state;
    enum { N = 37, STEPS = 200000 };
    struct block_pool *pool = block_pool_create(N, BLOCK_SIZE, 9, NULL);
    int32_t references[N] = {0}, published[N]; // published: content number or -1
    memset(published, 0xff, sizeof published);
    uint32_t random = 1;
    for (int step = 0; step < STEPS; ++step) {
        random = random * 1664525u + 1013904223u;
        int32_t block = (int32_t)(random >> 8) % N, content = (int32_t)(random >> 20) % 50;
        int32_t words[BLOCK_SIZE] = {content, 0, 0, 0};
        struct block_hash hash = block_pool_extend(pool, block_pool_root(pool), words);
        int n_free = 0, holder = -1;
        for (int i = 0; i < N; ++i) {
            n_free += references[i] == 0;
            if (published[i] == content) holder = i;
        }
        assert_int_equal(block_pool_n_free(pool), n_free);
        switch ((random >> 4) % 4) {
        case 0:
            block = block_pool_alloc(pool);
            if (n_free == 0) {
                assert_int_equal(block, -1);
            } else {
                assert_int_equal(references[block], 0);
                references[block] = 1;
                published[block] = -1;
            }
            break;
        case 1:
            if (references[block] > 0) {
                block_pool_release(pool, block);
                references[block]--;
            }
            break;
        case 2:
            if (references[block] > 0) {
                block_pool_publish(pool, block, hash);
                if (holder < 0 && published[block] < 0) published[block] = content;
            }
            break;
        default:
            assert_int_equal(block_pool_find(pool, hash), holder);
            if (holder >= 0) references[holder]++;
        }
    }
    block_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_out_every_block_once),
        cmocka_unit_test(counts_references),
        cmocka_unit_test(hashes_depend_on_tokens_order_prefix_and_seed),
        cmocka_unit_test(finds_published_blocks_after_their_release),
        cmocka_unit_test(evicts_the_least_recently_used),
        cmocka_unit_test(prefers_blocks_without_content),
        cmocka_unit_test(keeps_its_books_under_random_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
