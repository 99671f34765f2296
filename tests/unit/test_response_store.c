/* Stored responses: what leaves, what stays, and what they share; read and written by several threads. */
#include "server/response_store.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool put(struct response_store *store, const char *id, const char *body, bool is_under_way, struct error *err) {
    struct string_builder text = {0}, json = {0};
    struct response_items items = {0};
    char item_id[64];
    snprintf(item_id, sizeof item_id, "item of %s", id);
    string_builder_append_text(&text, body);
    string_builder_append_text(&json, "{\"type\":\"message\"}");
    assert_true(response_items_add(&items, item_id, &json, err));
    const struct stored_response response = {
        .id = id, .body = &text, .items = &items, .n_input = 1, .is_under_way = is_under_way};
    bool stored = response_store_put(store, &response, err);
    assert_null(text.data); // taken in any case
    assert_int_equal(items.count, 0);
    return stored;
}

static void expect(struct response_store *store, const char *id, const char *body) {
    struct string_builder text = {0};
    struct error err;
    bool found = response_store_get(store, id, &text, &err);
    assert_int_equal(found, body != NULL);
    if (found) assert_string_equal(text.data, body);
    if (!found) assert_int_equal(err.code, ERR_NOT_FOUND);
    string_builder_finish(&text);
}

static void test_the_least_recently_used_leaves(void **state) {
    (void)state;
    struct error err;
    struct response_store *store = response_store_create(2, 1 << 20, &err);
    assert_true(put(store, "a", "1", false, &err) && put(store, "b", "2", false, &err));
    expect(store, "a", "1");
    assert_true(put(store, "c", "3", false, &err));
    expect(store, "b", NULL);
    expect(store, "a", "1");
    assert_true(put(store, "a", "4", false, &err)); // in the place of itself
    expect(store, "a", "4");
    expect(store, "c", "3");
    assert_true(response_store_delete(store, "c", &err));
    assert_false(response_store_delete(store, "c", &err));
    assert_true(put(store, "d", "5", false, &err));
    expect(store, "a", "4");
    response_store_destroy(store);
}

static void test_what_is_under_way_stays(void **state) {
    (void)state;
    struct error err;
    struct response_store *store = response_store_create(2, 1 << 20, &err);
    assert_true(put(store, "a", "1", true, &err) && put(store, "b", "2", false, &err));
    assert_true(put(store, "c", "3", true, &err));
    expect(store, "a", "1");
    expect(store, "b", NULL);
    assert_false(put(store, "d", "4", false, &err));
    assert_int_equal(err.code, ERR_BUSY);
    struct response_items items = {0};
    assert_false(response_store_conversation(store, "a", &items, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_true(put(store, "a", "5", false, &err)); // it has its end
    assert_true(response_store_conversation(store, "a", &items, &err));
    assert_int_equal(items.count, 1);
    assert_true(put(store, "d", "4", false, &err));
    expect(store, "a", NULL);
    assert_string_equal(items.items[0]->id, "item of a"); // what was handed out stays
    response_items_finish(&items);
    response_store_destroy(store);
}

static void test_bytes_are_bounded(void **state) {
    (void)state;
    struct error err;
    struct response_store *store = response_store_create(1000, 100000, &err);
    static char large[60001];
    memset(large, 'x', sizeof large - 1);
    assert_true(put(store, "a", large, false, &err));
    expect(store, "a", large);
    assert_true(put(store, "b", large, false, &err));
    expect(store, "a", NULL);
    static char too_large[110001];
    memset(too_large, 'x', sizeof too_large - 1);
    assert_false(put(store, "c", too_large, false, &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    expect(store, "b", large);
    response_store_destroy(store);
}

static void test_items_are_found(void **state) {
    (void)state;
    struct error err;
    struct response_items items = {0};
    struct response_store *store = response_store_create(4, 1 << 20, &err);
    assert_true(put(store, "a", "1", false, &err) && put(store, "b", "2", false, &err));
    assert_true(response_store_find_item(store, "item of a", &items));
    assert_false(response_store_find_item(store, "item of c", &items));
    assert_int_equal(items.count, 1);
    response_store_destroy(store);
    assert_string_equal(items.items[0]->json, "{\"type\":\"message\"}");
    response_items_finish(&items);
}

enum { N_THREADS = 4, N_ROUNDS = 400 };

/* Few ids, so that threads replace and delete what others read. */
static void *work(void *user) {
    struct response_store *store = user;
    struct error err;
    for (int i = 0; i < N_ROUNDS; ++i) {
        char id[2] = {(char)('a' + i * 7 % 12), '\0'};
        struct string_builder text = {0};
        struct response_items items = {0};
        put(store, id, "body", i % 5 == 0, &err);
        if (response_store_get(store, id, &text, &err)) assert_string_equal(text.data, "body");
        if (response_store_conversation(store, id, &items, &err)) assert_int_equal(items.items[0]->length, 18);
        if (i % 3 == 0) response_store_delete(store, id, &err);
        string_builder_finish(&text);
        response_items_finish(&items);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    struct error err;
    struct response_store *store = response_store_create(8, 1 << 20, &err);
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; ++i) assert_int_equal(pthread_create(&threads[i], NULL, work, store), 0);
    for (int i = 0; i < N_THREADS; ++i) pthread_join(threads[i], NULL);
    response_store_destroy(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least_recently_used_leaves),
        cmocka_unit_test(test_what_is_under_way_stays),
        cmocka_unit_test(test_bytes_are_bounded),
        cmocka_unit_test(test_items_are_found),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
