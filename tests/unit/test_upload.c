#include "engine/upload.h"
#include "tests/test.h"
#include "tests/unit/fake_backend.h"

#include <stdatomic.h>

#define PIECE  UPLOAD_PIECE_BYTES
#define RAGGED (3 * PIECE + 12345)
#define PAGE   4096
#define NEVER  SIZE_MAX

/* Targets that lie one behind the other; each page of a target is full of a byte of its own. */
struct fixture {
    struct backend_ops ops;
    struct device device;
    struct upload_target targets[5];
    size_t n_targets;
    unsigned char *memory; // owned
    size_t n_bytes;
    size_t fails_at; // piece that cannot be made, or NEVER
    atomic_size_t n_made;
    size_t n_copied; // bytes
    struct error err;
};

static unsigned char expected_byte(size_t target, size_t i) {
    size_t page = i / PAGE;
    return (unsigned char)(page * 7 + (page >> 8) + target * 31 + 1);
}

static bool make(void *user, const struct upload_piece *piece, struct error *err) {
    struct fixture *fixture = user;
    if (atomic_fetch_add(&fixture->n_made, 1) == fixture->fails_at) return fail(err, ERR_IO, "the source is cut");
    assert(piece->first % PIECE == 0 && piece->n_bytes > 0 && piece->n_bytes <= PIECE); // not cmocka's: on any thread
    unsigned char *to = piece->memory;
    for (size_t i = 0; i < piece->n_bytes; i += PAGE) {
        size_t n = piece->n_bytes - i < PAGE ? piece->n_bytes - i : PAGE;
        memset(to + i, expected_byte(piece->target, piece->first + i), n);
    }
    return true;
}

static void copied(void *user, size_t n_bytes) {
    struct fixture *fixture = user;
    fixture->n_copied += n_bytes;
}

/* FEW pieces are 1 + 4 + 1 + 3 of them; MANY more than memory is taken for on any machine, so that it is used again. */
enum { FEW = 2, MANY = 20, N_FEW = 9, N_MANY = 27 };

static struct fixture *fixture_create(size_t n_last) {
    const size_t sizes[] = {10, 0, RAGGED, PIECE, n_last * PIECE + 1};
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    fixture->ops = fake_backend();
    fixture->device = fake_device();
    fixture->fails_at = NEVER;
    fixture->n_targets = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < fixture->n_targets; i++) fixture->n_bytes += sizes[i];
    fixture->memory = calloc(1, fixture->n_bytes);
    assert_non_null(fixture->memory);
    unsigned char *to = fixture->memory;
    for (size_t i = 0; i < fixture->n_targets; i++) {
        fixture->targets[i] = (struct upload_target){.to = to, .n_bytes = sizes[i]};
        to += sizes[i];
    }
    return fixture;
}

static bool fixture_run(struct fixture *fixture) {
    const struct upload upload = {
        .ops = &fixture->ops,
        .device = &fixture->device,
        .targets = fixture->targets,
        .n_targets = fixture->n_targets,
        .make = make,
        .copied = copied,
        .user = fixture,
    };
    bool ok = upload_run(&upload, &fixture->err);
    assert_int_equal(fixture->device.n_allocated, 0);
    assert_int_equal(fixture->device.n_pending, 0);
    return ok;
}

static void fixture_destroy(struct fixture *fixture) {
    free(fixture->memory);
    free(fixture);
}

static void assert_all_arrived(const struct fixture *fixture) {
    assert_string_equal(fixture->err.message, "");
    assert_int_equal(fixture->n_copied, fixture->n_bytes);
    assert_int_equal(fixture->n_made, N_MANY);
    for (size_t t = 0; t < fixture->n_targets; t++) {
        const unsigned char *at = fixture->targets[t].to;
        for (size_t i = 0; i < fixture->targets[t].n_bytes; i += PAGE) {
            unsigned char page[PAGE];
            size_t left = fixture->targets[t].n_bytes - i;
            memset(page, expected_byte(t, i), sizeof page);
            assert_memory_equal(at + i, page, left < PAGE ? left : PAGE);
        }
    }
}

static void test_every_byte_arrives(void **state) {
    (void)state;
    for (int run = 0; run < 5; run++) {
        struct fixture *fixture = fixture_create(MANY);
        assert_true(fixture_run(fixture));
        assert_all_arrived(fixture);
        assert_int_equal(fixture->device.n_copies, N_MANY);
        assert_int_equal(fixture->device.largest_copy, PIECE);
        fixture_destroy(fixture);
    }
}

static void test_host_writable_memory_is_written_in_place(void **state) {
    (void)state;
    struct fixture *fixture = fixture_create(MANY);
    fixture->ops.host_writable = true;
    fixture->device.allocs_left = 0;
    assert_true(fixture_run(fixture));
    assert_all_arrived(fixture);
    assert_int_equal(fixture->device.n_copies, 0);
    fixture_destroy(fixture);
}

static void test_a_source_that_fails_ends_it(void **state) {
    (void)state;
    for (size_t piece = 0; piece < N_FEW; piece++) {
        for (int in_place = 0; in_place < 2; in_place++) {
            struct fixture *fixture = fixture_create(FEW);
            fixture->fails_at = piece;
            fixture->ops.host_writable = in_place;
            assert_false(fixture_run(fixture));
            assert_int_equal(fixture->err.code, ERR_IO);
            assert_string_equal(fixture->err.message, "the source is cut");
            assert_true(fixture->n_made <= piece + 8); // those under way on other threads
            fixture_destroy(fixture);
        }
    }
}

static void test_a_device_that_fails_ends_it(void **state) {
    (void)state;
    for (int32_t n = 0; n < N_FEW; n++) {
        struct fixture *fixture = fixture_create(FEW);
        fixture->device.copies_left = n;
        assert_false(fixture_run(fixture));
        assert_int_equal(fixture->err.code, ERR_DEVICE);
        fixture_destroy(fixture);
    }
    struct fixture *fixture = fixture_create(FEW);
    fixture->device.allocs_left = 0;
    assert_false(fixture_run(fixture));
    assert_int_equal(fixture->err.code, ERR_MEMORY);
    fixture_destroy(fixture);
}

static void test_nothing_to_do_is_done(void **state) {
    (void)state;
    struct fixture *fixture = fixture_create(FEW);
    fixture->n_targets = 0;
    assert_true(fixture_run(fixture));
    fixture->n_targets = 2;
    fixture->targets[0].n_bytes = 0;
    assert_true(fixture_run(fixture));
    assert_int_equal(fixture->n_made, 0);
    fixture_destroy(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_arrives),
        cmocka_unit_test(test_host_writable_memory_is_written_in_place),
        cmocka_unit_test(test_a_source_that_fails_ends_it),
        cmocka_unit_test(test_a_device_that_fails_ends_it),
        cmocka_unit_test(test_nothing_to_do_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
