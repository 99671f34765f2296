/* Which keys are held, which files are refused, and that no message tells a key. */
#include "server/api_keys.h"
#include "tests/unit/temporary_folder.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static struct api_keys *create(const char *list, const char *file) {
    struct error err = {.code = ERR_NONE};
    struct api_keys *keys = api_keys_create(list, file, &err);
    if (keys == NULL) fail_msg("%s", err.message);
    return keys;
}

static void test_a_list(void **state) {
    (void)state;
    char longest[API_KEYS_MAX_BYTES + 2], list[2 * API_KEYS_MAX_BYTES];
    memset(longest, 'k', sizeof longest);
    longest[API_KEYS_MAX_BYTES] = '\0';
    snprintf(list, sizeof list, "sk-one,b,%s", longest);
    struct api_keys *keys = create(list, "");
    assert_int_equal(api_keys_count(keys), 3);
    static const char *const others[] = {"", "sk-on", "sk-one1", "sk-onf", "tk-one", "SK-ONE", "b,", "sk-one,b", "c"};
    for (size_t i = 0; i < sizeof others / sizeof *others; ++i) assert_false(api_keys_hold(keys, others[i]));
    assert_true(api_keys_hold(keys, "sk-one"));
    assert_true(api_keys_hold(keys, "b"));
    assert_true(api_keys_hold(keys, longest));
    longest[API_KEYS_MAX_BYTES - 1] = 'l';
    assert_false(api_keys_hold(keys, longest));
    longest[API_KEYS_MAX_BYTES - 1] = '\0';
    assert_false(api_keys_hold(keys, longest));
    memset(longest, 'k', API_KEYS_MAX_BYTES + 1);
    longest[API_KEYS_MAX_BYTES + 1] = '\0';
    assert_false(api_keys_hold(keys, longest));
    api_keys_destroy(keys);
}

static void test_a_file(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    folder_write_text(&folder, "keys", "# of the team\n\n  alpha \t\r\n\t# gone: delta\nbe#ta\n   \ngamma");
    struct api_keys *keys = create("omega", folder_path(&folder, "keys"));
    assert_int_equal(api_keys_count(keys), 4);
    assert_true(api_keys_hold(keys, "alpha"));
    assert_true(api_keys_hold(keys, "be#ta"));
    assert_true(api_keys_hold(keys, "gamma"));
    assert_true(api_keys_hold(keys, "omega"));
    assert_false(api_keys_hold(keys, "delta"));
    assert_false(api_keys_hold(keys, "#"));
    api_keys_destroy(keys);
    folder_remove(&folder);
}

static void refuse(const char *list, const char *file, enum error_code code, const char *part) {
    struct error err = {.code = ERR_NONE};
    assert_null(api_keys_create(list, file, &err));
    assert_int_equal(err.code, code);
    if (strstr(err.message, part) == NULL) fail_msg("%s is not in: %s", part, err.message);
    if (strstr(err.message, "secret") != NULL) fail_msg("a key is told: %s", err.message);
}

static void test_what_is_refused(void **state) {
    (void)state;
    refuse("a,secret b", "", ERR_INVALID, "--api-key, key 2: an API key is 1 to 255 printable characters");
    refuse("a,,b", "", ERR_INVALID, "--api-key, key 2");
    refuse("secret\x7f", "", ERR_INVALID, "--api-key, key 1");
    char list[API_KEYS_MAX_BYTES + 2];
    memset(list, 'k', sizeof list - 1);
    list[sizeof list - 1] = '\0';
    refuse(list, "", ERR_INVALID, "1 to 255");
    refuse("a", "/nonexistent/keys", ERR_IO, "/nonexistent/keys: No such file");

    struct temporary_folder folder = folder_create();
    const char *path = folder_path(&folder, "keys");
    static const char *const texts[][2] = {{"# none\n\n", "holds no API key"},
                                           {"", "holds no API key"},
                                           {"a\nsecret # mine\n", "line 2"},
                                           {"secret,b\n", "line 1"},
                                           {"s\xc3\xa9"
                                            "cret\n",
                                            "line 1"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        folder_write_text(&folder, "keys", texts[i][0]);
        refuse("a", path, ERR_INVALID, texts[i][1]);
    }
    folder_remove(&folder);
}

static void test_a_wrong_file_changes_nothing(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    folder_write_text(&folder, "keys", "old\n");
    struct api_keys *keys = create("", folder_path(&folder, "keys"));
    struct error err;
    folder_write_text(&folder, "keys", "new\ntwo words\n");
    assert_false(api_keys_reload(keys, &err));
    assert_true(api_keys_hold(keys, "old"));
    assert_false(api_keys_hold(keys, "new"));
    folder_write_text(&folder, "keys", "new\nother\n");
    assert_true(api_keys_reload(keys, &err));
    assert_false(api_keys_hold(keys, "old"));
    assert_true(api_keys_hold(keys, "new"));
    assert_int_equal(api_keys_count(keys), 2);
    api_keys_destroy(keys);
    folder_remove(&folder);
}

struct asking {
    struct api_keys *keys;
    _Atomic bool done;
    int n_missed;
};

static void *ask(void *user) {
    struct asking *asking = user;
    while (!atomic_load(&asking->done)) asking->n_missed += !api_keys_hold(asking->keys, "always");
    return NULL;
}

static void test_reload_while_others_ask(void **state) {
    (void)state;
    struct asking asking = {.keys = create("always", "")};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask, &asking), 0);
    for (int i = 0; i < 200; ++i) assert_true(api_keys_reload(asking.keys, NULL));
    atomic_store(&asking.done, true);
    pthread_join(thread, NULL);
    assert_int_equal(asking.n_missed, 0);
    api_keys_destroy(asking.keys);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list),
        cmocka_unit_test(test_a_file),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_a_wrong_file_changes_nothing),
        cmocka_unit_test(test_reload_while_others_ask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
