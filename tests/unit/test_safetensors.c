#include "engine/safetensors.h"
#include "tests/unit/temporary_folder.h"

#define NAME "model.safetensors"

/* length: of the header as the file says it; the data are n_data bytes counting up. */
static void write_file(struct temporary_folder *folder, uint64_t length, const char *header, size_t n_data) {
    size_t n_header = strlen(header);
    unsigned char *bytes = malloc(8 + n_header + n_data);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) bytes[8 + n_header + i] = (unsigned char)i;
    folder_write(folder, NAME, bytes, 8 + n_header + n_data);
    free(bytes);
}

static void assert_refused(struct temporary_folder *folder, const char *expected) {
    struct error err = {0};
    struct safetensors *file = safetensors_open(folder_path(folder, NAME), &err);
    if (file || !strstr(err.message, expected)) print_error("expected \"%s\", got \"%s\"\n", expected, err.message);
    assert_null(file);
    assert_non_null(strstr(err.message, expected));
    assert_non_null(strstr(err.message, folder->path)); // names the file
}

static void test_reads_names_types_shapes_and_bytes(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    const char *header = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[6,14]},"
                         "\"__metadata__\":{\"format\":\"pt\"},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
                         "\"scalar\":{\"shape\":[],\"dtype\":\"I32\",\"data_offsets\":[14,18]},"
                         "\"nothing\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,7],\"data_offsets\":[6,6]},"
                         "\"c\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[18,21]}}   ";
    write_file(&folder, strlen(header), header, 21);
    struct error err = {0};
    struct safetensors *file = safetensors_open(folder_path(&folder, NAME), &err);
    assert_string_equal(err.message, "");
    assert_non_null(file);
    assert_int_equal(safetensors_count(file), 5);
    for (size_t i = 1; i < 5; i++) {
        assert_true(strcmp(safetensors_at(file, i - 1)->name, safetensors_at(file, i)->name) < 0);
    }

    const struct safetensor *b = safetensors_find(file, "b");
    assert_non_null(b);
    assert_string_equal(b->dtype_name, "F32");
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 1);
    assert_int_equal(b->bytes, 8);
    assert_memory_equal(b->data, "\6\7\10\11\12\13\14\15", 8);

    assert_int_equal(safetensors_find(file, "scalar")->n_dims, 0);
    assert_int_equal(safetensors_find(file, "scalar")->bytes, 4);
    assert_int_equal(safetensors_find(file, "nothing")->bytes, 0);
    assert_int_equal(safetensors_find(file, "c")->bytes, 3);
    assert_null(safetensors_find(file, "d"));
    assert_null(safetensors_find(file, "__metadata__"));
    assert_null(safetensors_find(file, ""));
    safetensors_close(file);
    folder_remove(&folder);
}

static void test_reads_a_stretch_of_a_tensor(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[100],\"data_offsets\":[0,100]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[100],\"data_offsets\":[100,200]}}";
    write_file(&folder, strlen(header), header, 200);
    struct safetensors *file = safetensors_open(folder_path(&folder, NAME), NULL);
    assert_non_null(file);
    const struct safetensor *b = safetensors_find(file, "b");
    unsigned char bytes[100];
    assert_true(safetensor_read(b, 0, 100, bytes, NULL));
    assert_memory_equal(bytes, b->data, 100);
    assert_true(safetensor_read(b, 93, 7, bytes, NULL));
    assert_memory_equal(bytes, (const char *)b->data + 93, 7);
    assert_true(safetensor_read(b, 100, 0, bytes, NULL));

    // Cut behind our back: what is left can be read, what is gone is told and not made up.
    int cut_at = 8 + (int)strlen(header) + 150;
    assert_int_equal(truncate(folder_path(&folder, NAME), cut_at), 0);
    assert_true(safetensor_read(b, 0, 50, bytes, NULL));
    struct error err = {0};
    assert_false(safetensor_read(b, 40, 60, bytes, &err));
    assert_int_equal(err.code, ERR_IO);
    char expected[128];
    snprintf(expected, sizeof expected, NAME ": tensor b ends at byte %d of the file: it was cut", cut_at);
    assert_non_null(strstr(err.message, expected));
    safetensors_close(file);
    folder_remove(&folder);
}

static void test_a_file_may_be_empty_of_tensors(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    write_file(&folder, 2, "{}", 0);
    struct safetensors *file = safetensors_open(folder_path(&folder, NAME), NULL);
    assert_non_null(file);
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    safetensors_close(file);
    folder_remove(&folder);
}

static void test_malicious_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        const char *expected;
    } files[] = {
        {"", 0, "not valid JSON"},
        {"{", 0, "not valid JSON"},
        {"{\"1\":1,", 0, "not valid JSON"},
        {"{}{}", 0, "not valid JSON"},
        {"{}\n\n{}", 0, "line 3"},
        {"[]", 0, "JSON object"},
        {"{\"a\":1}", 0, "member a is not an object"},
        {"{\"a\":{}}", 0, "needs a dtype"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "needs a dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "a shape (array)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1, "a shape (array)"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, "unknown dtype Q4"},
        {"{\"a\":{\"dtype\":\"bf16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2, "unknown dtype bf16"},
        {"{\"a\":{\"dtype\":\"BF16BF16BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2, "unknown dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "dimension 0 is not an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1.5],\"data_offsets\":[0,1]}}", 1, "dimension 1 is not an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", 1, "dimension 0 is not an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e300],\"data_offsets\":[0,1]}}", 1, "dimension 0 is not an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e999],\"data_offsets\":[0,1]}}", 1, "dimension 0 is not an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
         "more than 8 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "overflows"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[536870912,536870912],\"data_offsets\":[0,0]}}", 0, "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{\"x\":0,\"y\":1}}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.5]}}", 1, "needs data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "lies at [1, 0)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 1, "lies at [1, 2) of 1 bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9007199254740991,9007199254740992]}}", 1,
         "lies at [9007199254740991"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, "its shape and type make 2"},
        {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, "its shape and type make 6"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "its shape and type make 1"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "tensor b overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         2, "overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "gap before tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 3, "2 bytes after the last tensor"},
        {"{}", 1, "1 bytes after the last tensor"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "two tensors are named a"},
    };
    struct temporary_folder folder = folder_create();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(&folder, strlen(files[i].header), files[i].header, files[i].n_data);
        assert_refused(&folder, files[i].expected);
    }
    folder_remove(&folder);
}

static void test_malicious_lengths_are_refused(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    static const uint64_t lengths[] = {3, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_file(&folder, lengths[i], "{}", 0);
        assert_refused(&folder, "a header of");
    }
    write_file(&folder, 1, "{}", 0);
    assert_refused(&folder, "not valid JSON");
    folder_write(&folder, NAME, "1234567", 7);
    assert_refused(&folder, "7 bytes are too few");
    folder_write(&folder, NAME, "", 0);
    assert_refused(&folder, "0 bytes are too few");
    folder_remove(&folder);
}

static void test_deep_nesting_is_refused(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    static char header[1 << 20];
    memset(header, '[', sizeof header - 1);
    write_file(&folder, sizeof header - 1, header, 0);
    assert_refused(&folder, "not valid JSON");
    folder_remove(&folder);
}

static void test_what_is_no_file_is_refused(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    assert_refused(&folder, "No such file");
    folder_remove(&folder);

    struct error err = {0};
    assert_null(safetensors_open("/tmp", &err));
    assert_int_equal(err.code, ERR_IO);
    assert_null(safetensors_open("/dev/null", &err));
    assert_int_equal(err.code, ERR_IO);
    safetensors_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_names_types_shapes_and_bytes), cmocka_unit_test(test_reads_a_stretch_of_a_tensor),
        cmocka_unit_test(test_a_file_may_be_empty_of_tensors),     cmocka_unit_test(test_malicious_headers_are_refused),
        cmocka_unit_test(test_malicious_lengths_are_refused),      cmocka_unit_test(test_deep_nesting_is_refused),
        cmocka_unit_test(test_what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
