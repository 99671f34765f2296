/* What a backend promises beside the ops: memory, copies, refusals with numbers. */
#include "tests/kernels/harness.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

static void check_memory(const struct target *target) {
    const struct backend_ops *ops = target->ops;
    struct error err = {0};
    char text[128] = "";
    ops->device_describe(target->device, text, sizeof text);
    assert_true(strlen(text) > 0);

    struct device_memory memory = {0};
    rig_must(ops->device_memory(target->device, &memory, &err), &err);
    assert_true(memory.total_bytes > 0 && memory.free_bytes <= memory.total_bytes);

    assert_null(ops->alloc(target->device, (size_t)1 << 60, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_true(strpbrk(err.message, "0123456789") != NULL);
    ops->free(target->device, NULL);
    ops->free_host(target->device, NULL);
}

/* There and back, between pageable and page-locked memory, at odd sizes. */
static void check_copies(const struct target *target) {
    static const size_t sizes[] = {1, 255, 4096, 1000003};
    const struct backend_ops *ops = target->ops;
    struct error err = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        size_t bytes = sizes[i];
        uint8_t *device = ops->alloc(target->device, bytes, &err), *back = ops->alloc_host(target->device, bytes, &err);
        uint8_t *from = malloc(bytes);
        rig_must(device && back && from, &err);
        assert_int_equal((uintptr_t)device % 256, 0);
        for (size_t b = 0; b < bytes; ++b) from[b] = (uint8_t)(b * 7 + i);
        memset(back, 0, bytes);
        rig_must(ops->copy_to_device(target->device, device, from, bytes, &err), &err);
        rig_must(ops->copy_to_host(target->device, back, device, bytes, &err), &err);
        assert_memory_equal(back, from, bytes);
        rig_must(ops->synchronize(target->device, &err), &err);
        ops->free(target->device, device);
        ops->free_host(target->device, back);
        free(from);
    }
}

static void check_refused_device(const struct target *target) {
    struct error err = {0};
    assert_null(target->ops->device_create(&(struct device_options){.index = 99}, &err));
    assert_int_equal(err.code, ERR_DEVICE);
    assert_non_null(strstr(err.message, "99"));
    target->ops->device_destroy(NULL);
}

static void check_bandwidth(const struct target *target) {
    struct error err = {0};
    double bytes_per_second = 0;
    rig_must(target->ops->measure_bandwidth(target->device, &bytes_per_second, &err), &err);
    assert_true(bytes_per_second > 1e8 && bytes_per_second < 1e14);
}

static void test_memory(void **state) {
    on_targets(state, check_memory);
}
static void test_copies(void **state) {
    on_targets(state, check_copies);
}
static void test_refused_device(void **state) {
    on_targets(state, check_refused_device);
}
static void test_bandwidth(void **state) {
    on_targets(state, check_bandwidth);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EVERY_BACKEND("memory is described and refused in numbers", test_memory),
        ON_EVERY_BACKEND("copies", test_copies),
        {"a device that does not exist on cuda", test_refused_device, NULL, NULL, (void *)"cuda"},
        ON_EVERY_BACKEND("bandwidth", test_bandwidth),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
