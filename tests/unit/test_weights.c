#include "engine/dummy_weights.h"
#include "engine/log.h"
#include "engine/model_config.h"
#include "engine/safetensors.h"
#include "engine/upload.h"
#include "engine/weights.h"
#include "tests/unit/fake_backend.h"
#include "tests/unit/temporary_folder.h"

#include <math.h>

/* Made by scripts/dummy_weights.py with this seed: 2 layers, hidden 36, 4 query and 2 KV heads of 16, untied. */
#define FIXTURE      "tests/fixtures/dummy-tiny"
#define FIXTURE_SEED 42

/* A load on a fake device, with all that it needs. */
struct fixture {
    struct backend_ops ops;
    struct device device;
    struct model_config config;
    struct weights weights;
    struct error err;
};

static struct fixture *fixture_create(const char *config_path) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    fixture->ops = fake_backend();
    fixture->device = fake_device();
    assert_true(model_config_load_file(&fixture->config, config_path, NULL));
    return fixture;
}

static bool fixture_load(struct fixture *fixture, const char *folder, uint64_t seed, struct log *log) {
    struct weights_source source = {
        .ops = &fixture->ops,
        .device = &fixture->device,
        .shape = &fixture->config.shape,
        .folder = folder,
        .seed = seed,
        .log = log,
    };
    return weights_init(&fixture->weights, &source, &fixture->err);
}

static void fixture_destroy(struct fixture *fixture) {
    weights_finish(&fixture->weights);
    assert_null(fixture->weights.data);
    assert_int_equal(fixture->device.n_allocated, 0);
    free(fixture);
}

static struct fixture *fixture_loaded(const char *config_path, const char *folder, uint64_t seed) {
    struct fixture *fixture = fixture_create(config_path);
    bool ok = fixture_load(fixture, folder, seed, NULL);
    assert_string_equal(fixture->err.message, "");
    assert_true(ok);
    return fixture;
}

/* One change to the fixture's file: the tensor is left out, or written with another shape or type. */
struct edit {
    const char *tensor;
    const char *dtype; // of the bytes as they are; NULL: leave the tensor out
    const char *shape;
};

/* WIDE: matrices as F32, norms as F16, both exact. HEADLESS: names without "model.", and no lm_head. */
enum copy_kind { COPY_BF16, COPY_WIDE, COPY_HEADLESS };

static uint16_t f16_near_one(uint16_t bf16) {
    return (uint16_t)(((bf16 >> 7) - 127 + 15) << 10 | (bf16 & 0x7f) << 3);
}

/* Appends the tensor's bytes to `data`, widened if asked. Returns the dtype written. */
static const char *copy_tensor(FILE *data, const struct safetensor *tensor, enum copy_kind kind) {
    if (kind != COPY_WIDE) {
        fwrite(tensor->data, 1, tensor->bytes, data);
        return "BF16";
    }
    for (size_t i = 0; i < tensor->bytes / 2; i++) {
        uint16_t bf16;
        memcpy(&bf16, (const char *)tensor->data + 2 * i, sizeof bf16);
        if (tensor->n_dims == 1) {
            uint16_t half = f16_near_one(bf16);
            fwrite(&half, sizeof half, 1, data);
        } else {
            uint32_t wide = (uint32_t)bf16 << 16;
            fwrite(&wide, sizeof wide, 1, data);
        }
    }
    return tensor->n_dims == 1 ? "F16" : "F32";
}

/* Writes tensors [first, last) of the fixture, in order of their names, as one file of the folder. */
static void write_tensors(struct temporary_folder *folder, const char *name, size_t first, size_t last,
                          enum copy_kind kind, struct edit edit) {
    struct safetensors *from = safetensors_open(FIXTURE "/model.safetensors", NULL);
    assert_non_null(from);
    char *header, *data;
    size_t n_header, n_data;
    FILE *header_file = open_memstream(&header, &n_header), *data_file = open_memstream(&data, &n_data);
    fputc('{', header_file);
    for (size_t i = first; i < last && i < safetensors_count(from); i++) {
        const struct safetensor *tensor = safetensors_at(from, i);
        bool edited = edit.tensor && strcmp(edit.tensor, tensor->name) == 0;
        if (edited && !edit.dtype) continue;
        bool is_head = strncmp(tensor->name, "model.", 6) != 0;
        if (kind == COPY_HEADLESS && is_head) continue;
        const char *written = kind == COPY_HEADLESS ? tensor->name + 6 : tensor->name;
        long begin = ftell(data_file);
        const char *dtype = copy_tensor(data_file, tensor, kind);
        char shape[64];
        snprintf(shape, sizeof shape, tensor->n_dims == 1 ? "[%d]" : "[%d,%d]", (int)tensor->dims[0],
                 (int)tensor->dims[1]);
        fprintf(header_file, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%ld,%ld]}",
                begin > 0 ? "," : "", written, edited ? edit.dtype : dtype, edited && edit.shape ? edit.shape : shape,
                begin, ftell(data_file));
    }
    fputc('}', header_file);
    fclose(header_file);
    fclose(data_file);
    char *bytes = malloc(8 + n_header + n_data);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)((uint64_t)n_header >> 8 * i);
    memcpy(bytes + 8, header, n_header);
    memcpy(bytes + 8 + n_header, data, n_data);
    folder_write(folder, name, bytes, 8 + n_header + n_data);
    free(bytes);
    free(header);
    free(data);
    safetensors_close(from);
}

static struct temporary_folder folder_with(enum copy_kind kind, struct edit edit) {
    struct temporary_folder folder = folder_create();
    write_tensors(&folder, "model.safetensors", 0, SIZE_MAX, kind, edit);
    return folder;
}

static void assert_load_refused(const char *folder, const char *expected) {
    struct fixture *fixture = fixture_create(FIXTURE "/config.json");
    bool ok = fixture_load(fixture, folder, 0, NULL);
    if (ok || !strstr(fixture->err.message, expected)) {
        print_error("expected \"%s\", got \"%s\"\n", expected, fixture->err.message);
    }
    assert_false(ok);
    assert_non_null(strstr(fixture->err.message, expected));
    assert_int_equal(fixture->device.n_copies, 0); // all checks come before the first byte
    fixture_destroy(fixture);
}

static void assert_same(const struct fixture *left, const struct fixture *right) {
    assert_int_equal(left->weights.bytes, right->weights.bytes);
    assert_non_null(left->weights.data);
    const char *a = left->weights.data, *b = right->weights.data;
    for (size_t i = 0; i < left->weights.bytes; i++) assert_int_equal(a[i], b[i]); // gaps hold the same filler
}

/* All tensors of the layout in order, with what they hold. */
static void assert_aligned_and_apart(const struct weights *weights, const struct model_shape *shape) {
    size_t hidden = (size_t)shape->hidden, head_dim = (size_t)shape->head_dim, vocab = (size_t)shape->vocab;
    size_t inner = (size_t)shape->intermediate, q = (size_t)shape_q_columns(shape);
    const char *end = weights->data;
#define NEXT(pointer, elements)                                                                                        \
    do {                                                                                                               \
        assert_int_equal((uintptr_t)(pointer) % 256, 0);                                                               \
        assert_true((const char *)(pointer) >= end && (const char *)(pointer) < end + 256);                            \
        end = (const char *)((pointer) + (elements));                                                                  \
    } while (0)
    NEXT(weights->embedding, vocab * hidden);
    NEXT(weights->final_norm, hidden);
    if (shape->tied_embeddings) {
        assert_ptr_equal(weights->lm_head, weights->embedding);
    } else {
        NEXT(weights->lm_head, vocab * hidden);
    }
    for (int32_t i = 0; i < shape->n_layers; i++) {
        const struct layer_weights *layer = &weights->layers[i];
        NEXT(layer->input_norm, hidden);
        NEXT(layer->qkv, (size_t)shape_qkv_columns(shape) * hidden);
        NEXT(layer->q_norm, head_dim);
        NEXT(layer->k_norm, head_dim);
        NEXT(layer->attention_output, hidden * q);
        NEXT(layer->post_attention_norm, hidden);
        bool has_experts = shape_has_experts(shape, i);
        size_t n = has_experts ? (size_t)shape->n_experts : 1;
        size_t width = has_experts ? (size_t)shape->expert_intermediate : inner;
        assert_true(has_experts == (layer->router != NULL));
        if (has_experts) NEXT(layer->router, n * hidden);
        NEXT(layer->gate_up, n * 2 * width * hidden);
        NEXT(layer->down, n * hidden * width);
    }
#undef NEXT
    assert_ptr_equal(end, (const char *)weights->data + weights->bytes);
}

/* Compares `count` elements at `at` with a published tensor and steps over them. */
static void assert_tensor(const uint16_t *at, const struct safetensors *file, int32_t layer, const char *name) {
    char full[96];
    if (layer < 0) {
        snprintf(full, sizeof full, "%s", name);
    } else {
        snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    }
    const struct safetensor *tensor = safetensors_find(file, full);
    assert_non_null(tensor);
    assert_memory_equal(at, tensor->data, tensor->bytes);
}

static void assert_equals_experts(const struct layer_weights *layer, const struct model_shape *shape,
                                  const struct safetensors *file, int32_t i) {
    size_t matrix = (size_t)shape->expert_intermediate * (size_t)shape->hidden;
    assert_tensor(layer->router, file, i, "mlp.gate.weight");
    for (int32_t e = 0; e < shape->n_experts; e++) {
        char name[64];
        snprintf(name, sizeof name, "mlp.experts.%d.gate_proj.weight", e);
        assert_tensor(layer->gate_up + 2 * (size_t)e * matrix, file, i, name);
        snprintf(name, sizeof name, "mlp.experts.%d.up_proj.weight", e);
        assert_tensor(layer->gate_up + (2 * (size_t)e + 1) * matrix, file, i, name);
        snprintf(name, sizeof name, "mlp.experts.%d.down_proj.weight", e);
        assert_tensor(layer->down + (size_t)e * matrix, file, i, name);
    }
}

static void assert_equals_file(const struct fixture *fixture, const char *path) {
    struct safetensors *file = safetensors_open(path, NULL);
    assert_non_null(file);
    const struct model_shape *shape = &fixture->config.shape;
    size_t hidden = (size_t)shape->hidden;
    size_t q = (size_t)shape_q_columns(shape), kv = (size_t)shape_kv_columns(shape);
    assert_tensor(fixture->weights.embedding, file, -1, "model.embed_tokens.weight");
    assert_tensor(fixture->weights.final_norm, file, -1, "model.norm.weight");
    if (!shape->tied_embeddings) assert_tensor(fixture->weights.lm_head, file, -1, "lm_head.weight");
    for (int32_t i = 0; i < shape->n_layers; i++) {
        const struct layer_weights *layer = &fixture->weights.layers[i];
        assert_tensor(layer->input_norm, file, i, "input_layernorm.weight");
        assert_tensor(layer->qkv, file, i, "self_attn.q_proj.weight");
        assert_tensor(layer->qkv + q * hidden, file, i, "self_attn.k_proj.weight");
        assert_tensor(layer->qkv + (q + kv) * hidden, file, i, "self_attn.v_proj.weight");
        assert_tensor(layer->q_norm, file, i, "self_attn.q_norm.weight");
        assert_tensor(layer->k_norm, file, i, "self_attn.k_norm.weight");
        assert_tensor(layer->attention_output, file, i, "self_attn.o_proj.weight");
        assert_tensor(layer->post_attention_norm, file, i, "post_attention_layernorm.weight");
        if (layer->router) {
            assert_equals_experts(layer, shape, file, i);
            continue;
        }
        assert_tensor(layer->gate_up, file, i, "mlp.gate_proj.weight");
        assert_tensor(layer->gate_up + (size_t)shape->intermediate * hidden, file, i, "mlp.up_proj.weight");
        assert_tensor(layer->down, file, i, "mlp.down_proj.weight");
    }
    safetensors_close(file);
}

static void test_loads_one_file(void **state) {
    (void)state;
    struct fixture *fixture = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    assert_int_equal(fixture->weights.bytes, weights_bytes(&fixture->config.shape));
    assert_aligned_and_apart(&fixture->weights, &fixture->config.shape);
    assert_equals_file(fixture, FIXTURE "/model.safetensors");
    fixture_destroy(fixture);
}

static void test_loads_shards(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    write_tensors(&folder, "a.safetensors", 0, 9, COPY_BF16, (struct edit){0});
    write_tensors(&folder, "b.safetensors", 9, SIZE_MAX, COPY_BF16, (struct edit){0});
    struct safetensors *all = safetensors_open(FIXTURE "/model.safetensors", NULL);
    char *index;
    size_t n_index;
    FILE *file = open_memstream(&index, &n_index);
    fprintf(file, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < safetensors_count(all); i++) {
        fprintf(file, "%s\"%s\":\"%s\"", i ? "," : "", safetensors_at(all, i)->name,
                i < 9 ? "a.safetensors" : "b.safetensors");
    }
    fprintf(file, "}}");
    fclose(file);
    folder_write_text(&folder, "model.safetensors.index.json", index);

    struct fixture *whole = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    struct fixture *shards = fixture_loaded(FIXTURE "/config.json", folder.path, 0);
    assert_same(whole, shards);
    fixture_destroy(shards);
    fixture_destroy(whole);

    // A tensor that is not where the index says; a shard that is not there.
    write_tensors(&folder, "b.safetensors", 10, SIZE_MAX, COPY_BF16, (struct edit){0});
    assert_load_refused(folder.path, "b.safetensors: tensor model.layers.0.self_attn.o_proj.weight is missing");
    unlink(folder_path(&folder, "b.safetensors"));
    assert_load_refused(folder.path, "b.safetensors: No such file");
    free(index);
    safetensors_close(all);
    folder_remove(&folder);
}

static void test_wrong_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *json;
        const char *expected;
    } indexes[] = {
        {"{}", "must have an object weight_map"},
        {"{\"weight_map\":[\"a.safetensors\"]}", "must have an object weight_map"},
        {"{\"weight_map\":{\"t\":1}}", "tensor t must be mapped to the name of a file"},
        {"{\"weight_map\":{\"t\":\"\"}}", "tensor t must be mapped to the name of a file"},
        {"{\"weight_map\":{\"t\":\"../model.safetensors\"}}", "tensor t must be mapped to the name of a file"},
        {"{\"weight_map\":{\"t\":\"/etc/passwd\"}}", "tensor t must be mapped to the name of a file"},
        {"{\"weight_map\":{\"t\":\"..\"}}", "not a regular file"},
        {"{\"weight_map\":{}}", "index.json: tensor model.embed_tokens.weight is missing"},
        {"{\"weight_map\":", "line 1 is not valid JSON"},
    };
    struct temporary_folder folder = folder_create();
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        folder_write_text(&folder, "model.safetensors.index.json", indexes[i].json);
        assert_load_refused(folder.path, indexes[i].expected);
    }
    folder_remove(&folder);
    assert_load_refused("/nowhere", "/nowhere: has neither model.safetensors nor model.safetensors.index.json");
}

static void test_f16_and_f32_become_bf16(void **state) {
    (void)state;
    struct temporary_folder folder = folder_with(COPY_WIDE, (struct edit){0});
    struct fixture *narrow = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    struct fixture *wide = fixture_loaded(FIXTURE "/config.json", folder.path, 0);
    assert_same(narrow, wide);
    fixture_destroy(wide);
    fixture_destroy(narrow);
    folder_remove(&folder);
}

static void test_host_writable_weights_are_read_in_place(void **state) {
    (void)state;
    struct temporary_folder folder = folder_with(COPY_WIDE, (struct edit){0});
    struct fixture *copied = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    const char *const folders[] = {FIXTURE, folder.path, NULL};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct fixture *in_place = fixture_create(FIXTURE "/config.json");
        in_place->ops.host_writable = true;
        assert_true(fixture_load(in_place, folders[i], FIXTURE_SEED, NULL));
        assert_int_equal(in_place->device.n_copies, 0);
        assert_same(copied, in_place);
        fixture_destroy(in_place);
    }
    fixture_destroy(copied);
    folder_remove(&folder);
}

static void test_wrong_tensors_are_refused(void **state) {
    (void)state;
    static const struct {
        struct edit edit;
        const char *expected;
    } files[] = {
        {{"model.norm.weight", NULL, NULL}, "/model.safetensors: tensor model.norm.weight is missing"},
        {{"lm_head.weight", NULL, NULL}, "/model.safetensors: tensor lm_head.weight is missing"},
        {{"model.layers.1.self_attn.k_proj.weight", "BF16", "[36,32]"},
         "/model.safetensors: tensor model.layers.1.self_attn.k_proj.weight has the shape [36, 32], the config asks "
         "for [32, 36]"},
        {{"model.layers.0.mlp.up_proj.weight", "BF16", "[1800]"}, "has the shape [1800], the config asks for [50, 36]"},
        {{"model.layers.0.self_attn.q_norm.weight", "BF16", "[16,1]"},
         "has the shape [16, 1], the config asks for [16]"},
        {{"model.norm.weight", "BF16", "[1,1,1,1,1,1,1,36]"}, "has the shape [1, 1, 1, 1, 1, 1, 1, 36]"},
        {{"model.layers.1.mlp.down_proj.weight", "I16", NULL},
         "/model.safetensors: tensor model.layers.1.mlp.down_proj.weight has the dtype I16; BF16, F16 and F32"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct temporary_folder folder = folder_with(COPY_BF16, files[i].edit);
        assert_load_refused(folder.path, files[i].expected);
        folder_remove(&folder);
    }
}

static void test_tied_embeddings_ignore_an_lm_head(void **state) {
    (void)state;
    struct fixture *fixture = fixture_create(FIXTURE "/config.json");
    fixture->config.shape.tied_embeddings = true;
    char *text;
    size_t n_text;
    FILE *stream = open_memstream(&text, &n_text);
    struct log *log = log_create(stream, LOG_INFO, LOG_TEXT);
    assert_true(fixture_load(fixture, FIXTURE, 0, log));
    assert_aligned_and_apart(&fixture->weights, &fixture->config.shape);
    assert_equals_file(fixture, FIXTURE "/model.safetensors");
    log_destroy(log);
    fclose(stream);
    assert_non_null(strstr(text, "weights: 0.00 of 0.00 GB"));
    assert_non_null(strstr(text, "100 %"));
    assert_null(strstr(text, "unused"));
    free(text);
    fixture_destroy(fixture);
}

/* As Qwen3-Embedding is published: what an lm_head would be is there and means nothing. */
static void test_a_model_without_its_head(void **state) {
    (void)state;
    struct temporary_folder folder = folder_with(COPY_HEADLESS, (struct edit){0});
    struct fixture *whole = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    struct fixture *headless = fixture_loaded(FIXTURE "/config.json", folder.path, 0);
    const struct weights *a = &whole->weights, *b = &headless->weights;
    const struct model_shape *shape = &whole->config.shape;
    size_t table = (size_t)shape->vocab * (size_t)shape->hidden * sizeof *a->embedding;
    size_t before = (size_t)((const char *)a->lm_head - (const char *)a->data), after = before + table;
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->data, b->data, before);
    assert_memory_equal(b->lm_head, b->embedding, table);
    assert_memory_equal((const char *)a->data + after, (const char *)b->data + after, a->bytes - after);
    fixture_destroy(whole);
    fixture_destroy(headless);
    folder_remove(&folder);
}

static void test_unused_tensors_are_told(void **state) {
    (void)state;
    struct fixture *fixture = fixture_create(FIXTURE "/config.json");
    fixture->config.shape.n_layers = 1;
    char *text;
    size_t n_text;
    FILE *stream = open_memstream(&text, &n_text);
    struct log *log = log_create(stream, LOG_INFO, LOG_TEXT);
    assert_true(fixture_load(fixture, FIXTURE, 0, log));
    log_destroy(log);
    fclose(stream);
    assert_non_null(strstr(text, "11 unused tensors, first model.layers.1.input_layernorm.weight"));
    free(text);
    fixture_destroy(fixture);
}

static void test_device_failures_leave_nothing_behind(void **state) {
    (void)state;
    for (int32_t n = 0; n < 2; n++) { // the weights, the pieces
        struct fixture *fixture = fixture_create(FIXTURE "/config.json");
        fixture->device.allocs_left = n;
        assert_false(fixture_load(fixture, FIXTURE, 0, NULL));
        assert_int_equal(fixture->err.code, ERR_MEMORY);
        fixture_destroy(fixture);
    }
    for (int32_t n = 0; n < 25; n++) { // each of the 25 tensors
        struct fixture *fixture = fixture_create(FIXTURE "/config.json");
        fixture->device.copies_left = n;
        assert_false(fixture_load(fixture, FIXTURE, 0, NULL));
        assert_int_equal(fixture->err.code, ERR_DEVICE);
        fixture_destroy(fixture);
    }
    struct fixture *fixture = fixture_create(FIXTURE "/config.json");
    fixture->device.copies_left = 25;
    assert_true(fixture_load(fixture, FIXTURE, 0, NULL));
    fixture_destroy(fixture);
}

static void test_dummy_weights_equal_the_python_script(void **state) {
    (void)state;
    struct fixture *file = fixture_loaded(FIXTURE "/config.json", FIXTURE, 0);
    struct fixture *dummy = fixture_loaded(FIXTURE "/config.json", NULL, FIXTURE_SEED);
    assert_same(file, dummy);
    fixture_destroy(dummy);
    fixture_destroy(file);
}

/* 18 MB tensors take several pieces; the fake device copies late. */
static void test_tensors_larger_than_a_piece(void **state) {
    (void)state;
    struct fixture *fixture = fixture_create(FIXTURE "/config.json");
    fixture->config.shape.vocab = 250001;
    assert_true(fixture_load(fixture, NULL, 3, NULL));
    size_t n_elements = (size_t)fixture->config.shape.vocab * (size_t)fixture->config.shape.hidden;
    uint16_t *expected = malloc(n_elements * sizeof *expected);
    assert_non_null(expected);
    dummy_weights_fill(expected, 0, n_elements, dummy_weights_key(3, "model.embed_tokens.weight"),
                       dummy_weights_spread("model.embed_tokens.weight", 2, 1));
    assert_memory_equal(fixture->weights.embedding, expected, n_elements * sizeof *expected);
    dummy_weights_fill(expected, 0, n_elements, dummy_weights_key(3, "lm_head.weight"),
                       dummy_weights_spread("lm_head.weight", 2, 1));
    assert_memory_equal(fixture->weights.lm_head, expected, n_elements * sizeof *expected);
    assert_int_equal(fixture->device.largest_copy, UPLOAD_PIECE_BYTES);
    free(expected);
    fixture_destroy(fixture);
}

static void test_sizes_of_published_models(void **state) {
    (void)state;
    struct model_shape shape = {
        .n_layers = 28,
        .hidden = 1024,
        .n_heads = 16,
        .n_kv_heads = 8,
        .head_dim = 128,
        .intermediate = 3072,
        .vocab = 151936,
        .tied_embeddings = true,
    };
    assert_int_equal(weights_bytes(&shape), 2 * (size_t)596049920); // parameters of Qwen3-0.6B
    shape.n_layers = 36;
    shape.hidden = 4096;
    shape.n_heads = 32;
    shape.intermediate = 12288;
    shape.tied_embeddings = false;
    assert_int_equal(weights_bytes(&shape), 2 * (size_t)8190735360); // of Qwen3-8B
    shape.n_layers = 48;
    shape.hidden = 2048;
    shape.n_kv_heads = 4;
    shape.n_experts = 128;
    shape.expert_intermediate = 768;
    assert_int_equal(weights_bytes(&shape), 2 * (size_t)30532122624); // of Qwen3-30B-A3B
}

static float f32_from_bf16(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_the_demo_model_with_experts(void **state) {
    (void)state;
    const char *folder = "tests/fixtures/demo-moe";
    if (access(folder, F_OK) != 0) skip();
    struct fixture *fixture = fixture_loaded("tests/fixtures/demo-moe/config.json", folder, 0);
    assert_aligned_and_apart(&fixture->weights, &fixture->config.shape);
    assert_equals_file(fixture, "tests/fixtures/demo-moe/model.safetensors");
    fixture_destroy(fixture);
}

static void test_the_demo_model(void **state) {
    (void)state;
    const char *folder = access("models/demo/model.safetensors", F_OK) == 0 ? "models/demo" : "../shared/demo-model";
    if (access(folder, F_OK) != 0) skip();
    char config[64], file[64];
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    struct fixture *fixture = fixture_loaded(config, folder, 0);
    assert_aligned_and_apart(&fixture->weights, &fixture->config.shape);
    assert_equals_file(fixture, file);
    float largest = 0;
    for (int32_t layer = 0; layer < fixture->config.shape.n_layers; layer++) {
        for (int32_t i = 0; i < fixture->config.shape.head_dim; i++) {
            largest = fmaxf(largest, f32_from_bf16(fixture->weights.layers[layer].k_norm[i]));
        }
    }
    assert_true(largest == 96.5f);
    fixture_destroy(fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_one_file),
        cmocka_unit_test(test_loads_shards),
        cmocka_unit_test(test_wrong_indexes_are_refused),
        cmocka_unit_test(test_f16_and_f32_become_bf16),
        cmocka_unit_test(test_host_writable_weights_are_read_in_place),
        cmocka_unit_test(test_wrong_tensors_are_refused),
        cmocka_unit_test(test_tied_embeddings_ignore_an_lm_head),
        cmocka_unit_test(test_a_model_without_its_head),
        cmocka_unit_test(test_unused_tensors_are_told),
        cmocka_unit_test(test_device_failures_leave_nothing_behind),
        cmocka_unit_test(test_dummy_weights_equal_the_python_script),
        cmocka_unit_test(test_tensors_larger_than_a_piece),
        cmocka_unit_test(test_sizes_of_published_models),
        cmocka_unit_test(test_the_demo_model),
        cmocka_unit_test(test_the_demo_model_with_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
