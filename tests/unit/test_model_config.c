#include "engine/model_config.h"
#include "tests/unit/temporary_folder.h"

#define REQUIRED                                                                                                       \
    "\"hidden_size\":64,\"intermediate_size\":96,\"max_position_embeddings\":256,\"num_attention_heads\":4,"           \
    "\"num_hidden_layers\":2,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"vocab_size\":100"
#define ARCHITECTURE "\"architectures\":[\"Qwen3ForCausalLM\"]"
#define THETA        "\"rope_theta\":1000000.0"
#define VALID        "{" ARCHITECTURE "," REQUIRED "," THETA

static bool load(const char *config_json, const char *generation_json, struct model_config *config, struct error *err) {
    struct temporary_folder folder = folder_create();
    if (config_json) folder_write_text(&folder, "config.json", config_json);
    if (generation_json) folder_write_text(&folder, "generation_config.json", generation_json);
    bool ok = model_config_load(config, folder.path, err);
    if (!ok) assert_non_null(strstr(err->message, folder.path)); // every message names the file
    folder_remove(&folder);
    return ok;
}

static struct model_config load_valid(const char *config_json, const char *generation_json) {
    struct model_config config;
    struct error err = {0};
    bool ok = load(config_json, generation_json, &config, &err);
    assert_string_equal(err.message, "");
    assert_true(ok);
    return config;
}

static void assert_refused(const char *config_json, const char *generation_json, const char *expected) {
    struct model_config config;
    struct error err = {0};
    bool ok = load(config_json, generation_json, &config, &err);
    if (ok || !strstr(err.message, expected)) print_error("expected \"%s\", got \"%s\"\n", expected, err.message);
    assert_false(ok);
    assert_non_null(strstr(err.message, expected));
}

static void test_reads_the_shape(void **state) {
    (void)state;
    struct model_config config = load_valid(VALID ",\"head_dim\":32,\"tie_word_embeddings\":true}", NULL);
    assert_int_equal(config.shape.n_layers, 2);
    assert_int_equal(config.shape.hidden, 64);
    assert_int_equal(config.shape.n_heads, 4);
    assert_int_equal(config.shape.n_kv_heads, 2);
    assert_int_equal(config.shape.head_dim, 32);
    assert_int_equal(config.shape.intermediate, 96);
    assert_int_equal(config.shape.vocab, 100);
    assert_int_equal(config.shape.max_positions, 256);
    assert_true(config.shape.rms_eps == 1e-6f);
    assert_true(config.shape.rope_theta == 1e6f);
    assert_true(config.shape.tied_embeddings);
}

static void test_absent_members_have_the_published_defaults(void **state) {
    (void)state;
    struct model_config config = load_valid(VALID "}", NULL);
    assert_int_equal(config.shape.head_dim, 128);
    assert_false(config.shape.tied_embeddings);
    assert_int_equal(config.n_eos_ids, 0);
    assert_true(config.sampling.temperature == 1);
    assert_true(config.sampling.top_p == 1);
    assert_true(config.sampling.min_p == 0);
    assert_int_equal(config.sampling.top_k, 0);
    assert_int_equal(config.sampling.seed, 0);
    assert_int_equal(load_valid(VALID ",\"head_dim\":null}", NULL).shape.head_dim, 128);
}

static void test_both_forms_of_rope(void **state) {
    (void)state;
    const char *newer =
        "{" ARCHITECTURE "," REQUIRED ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5000}}";
    assert_true(load_valid(newer, NULL).shape.rope_theta == 5000);
    struct model_config both =
        load_valid(VALID ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5000}}", NULL);
    assert_true(both.shape.rope_theta == 5000); // as transformers: the newer form wins
    load_valid(VALID ",\"rope_scaling\":null}", NULL);
    load_valid(VALID ",\"rope_scaling\":{\"type\":\"default\"}}", NULL);
    load_valid(VALID ",\"rope_scaling\":{\"rope_type\":\"default\"}}", NULL);
}

static void test_harmless_members_are_accepted(void **state) {
    (void)state;
    load_valid("{\"architectures\":[\"Qwen3Model\"]," REQUIRED "," THETA "}", NULL); // saved without its head
    load_valid(VALID ",\"hidden_act\":\"silu\",\"attention_bias\":false,\"use_sliding_window\":false,"
                     "\"sliding_window\":4096,\"quantization_config\":null,\"torch_dtype\":\"float16\","
                     "\"layer_types\":[\"full_attention\",\"full_attention\"],\"anything\":[{}]}",
               NULL);
}

static void test_what_cannot_be_computed_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json;
        const char *expected;
    } configs[] = {
        {"{" REQUIRED "," THETA "}",
         "architectures must contain Qwen3ForCausalLM or Qwen3MoeForCausalLM, found nothing"},
        {"{\"architectures\":\"Qwen3ForCausalLM\"," REQUIRED "," THETA "}", "architectures must contain"},
        {"{\"architectures\":[]," REQUIRED "," THETA "}", "architectures must contain"},
        {"{\"architectures\":[\"LlamaForCausalLM\"]," REQUIRED "," THETA "}", "found [\"LlamaForCausalLM\"]"},
        {VALID ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}}", "rope_scaling of another type"},
        {VALID ",\"rope_scaling\":{\"type\":\"linear\"}}", "rope_scaling of another type"},
        {VALID ",\"rope_scaling\":2.0}", "rope_scaling of another type"},
        {VALID ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":1e6}}",
         "rope_parameters of another type"},
        {VALID ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}",
         "partial_rotary_factor must be 1, found 0.5"},
        {VALID ",\"use_sliding_window\":true}", "use_sliding_window is not supported"},
        {VALID ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "found \"sliding_attention\""},
        {VALID ",\"layer_types\":\"sliding_attention\"}", "layer_types must be an array"},
        {VALID ",\"attention_bias\":true}", "attention_bias is not supported"},
        {VALID ",\"attention_bias\":\"no\"}", "attention_bias must be true or false, found \"no\""},
        {VALID ",\"hidden_act\":\"gelu\"}", "hidden_act must be \"silu\", found \"gelu\""},
        {VALID ",\"quantization_config\":{\"quant_method\":\"fp8\"}}",
         "quantization_config is not supported, found the "
         "method \"fp8\""},
        {"{" ARCHITECTURE "," REQUIRED "}", "rope_theta must be a number"},
        {"{" ARCHITECTURE "," REQUIRED ",\"rope_theta\":0}", "rope_theta must be a number from 1 to 1e+12, found 0"},
        {"{" ARCHITECTURE "," REQUIRED ",\"rope_theta\":1e999}", "rope_theta must be a number"},
        {VALID ",\"head_dim\":33}", "head_dim must be even for RoPE, found 33"},
        {VALID ",\"head_dim\":4096}", "head_dim must be an integer from 2 to 1024, found 4096"},
        {VALID ",\"tie_word_embeddings\":1}", "tie_word_embeddings must be true or false, found 1"},
        {VALID ",\"eos_token_id\":100}", "eos_token_id must be at most 8 ids below the vocabulary of 100, found 100"},
        {VALID ",\"eos_token_id\":[1,-1]}", "eos_token_id"},
        {VALID ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "eos_token_id"},
        {VALID ",\"eos_token_id\":\"1\"}", "eos_token_id"},
        {VALID ",\"eos_token_id\":{\"a\":1}}", "eos_token_id"},
        {"", "not valid JSON"},
        {"null", "JSON object"},
        {"{\n\"a\":1,\n}", "line 3 is not valid JSON"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        assert_refused(configs[i].json, NULL, configs[i].expected);
    }
}

#define EXPERTS                                                                                                        \
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"]," REQUIRED "," THETA                                                 \
    ",\"num_experts\":16,\"num_experts_per_tok\":4,\"moe_intermediate_size\":48"

static void test_experts(void **state) {
    (void)state;
    struct model_shape shape = load_valid(EXPERTS "}", NULL).shape;
    assert_int_equal(shape.n_experts, 16);
    assert_int_equal(shape.n_active_experts, 4);
    assert_int_equal(shape.expert_intermediate, 48);
    assert_false(shape.normalised_experts); // as transformers, when the config does not say
    assert_true(shape_has_experts(&shape, 0) && shape_has_experts(&shape, 1));
    assert_int_equal(shape_activated_columns(&shape), 4 * 48);
    assert_true(load_valid(EXPERTS ",\"norm_topk_prob\":true}", NULL).shape.normalised_experts);

    shape = load_valid(EXPERTS ",\"mlp_only_layers\":[1]}", NULL).shape;
    assert_true(shape_has_experts(&shape, 0) && !shape_has_experts(&shape, 1));
    shape = load_valid(EXPERTS ",\"decoder_sparse_step\":2}", NULL).shape; // layers 1, 3, 5 …
    assert_true(!shape_has_experts(&shape, 0) && shape_has_experts(&shape, 1));
    shape = load_valid(VALID ",\"num_experts\":16}", NULL).shape; // means nothing in a dense model
    assert_true(shape.n_experts == 0 && !shape_has_experts(&shape, 0));
}

static void test_experts_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *json;
        const char *expected;
    } configs[] = {
        {"{\"num_experts\":0,", "num_experts must be an integer from 1 to 512, found 0"},
        {"{\"num_experts\":513,", "num_experts must be an integer from 1 to 512, found 513"},
        {"{\"num_experts_per_tok\":17,", "num_experts_per_tok must be an integer from 1 to 16, found 17"},
        {"{\"num_experts_per_tok\":null,", "num_experts_per_tok must be an integer from 1 to 16, found nothing"},
        {"{\"moe_intermediate_size\":1.5,", "moe_intermediate_size must be an integer from 1 to 65536, found 1.5"},
        {"{\"norm_topk_prob\":1,", "norm_topk_prob must be true or false, found 1"},
        {"{\"decoder_sparse_step\":0,", "decoder_sparse_step must be an integer from 1 to 1024, found 0"},
        {"{\"mlp_only_layers\":1,", "mlp_only_layers must be an array, found 1"},
        {"{\"mlp_only_layers\":[0,2],", "mlp_only_layers may only hold layers from 0 to 1, found 2"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        char json[1024]; // the first of two members of one name is read
        snprintf(json, sizeof json, "%s%s}", configs[i].json, &EXPERTS[1]);
        assert_refused(json, NULL, configs[i].expected);
    }
}

/* Each required integer absent, null, of a wrong type, and at both ends. */
static void test_required_integers_are_checked(void **state) {
    (void)state;
    static const char *const names[] = {"hidden_size",         "intermediate_size", "max_position_embeddings",
                                        "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
                                        "vocab_size"};
    static const char *const values[] = {"null", "\"64\"", "0", "-1", "1.5", "4294967296", "1e300", "[64]", "true"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            char json[1024], expected[96];
            // The first of two members of one name is read.
            snprintf(json, sizeof json, "{\"%s\":%s," ARCHITECTURE "," REQUIRED "," THETA "}", names[i], values[j]);
            snprintf(expected, sizeof expected, "%s must be an integer from 1 to", names[i]);
            assert_refused(json, NULL, expected);
        }
    }
    assert_refused("{" ARCHITECTURE "," THETA "}", NULL, "must be an integer");
    assert_refused("{\"num_key_value_heads\":3," ARCHITECTURE "," REQUIRED "," THETA "}", NULL,
                   "num_attention_heads 4 must be a multiple of num_key_value_heads 3");
    assert_refused("{\"rms_norm_eps\":0," ARCHITECTURE "," REQUIRED "," THETA "}", NULL, "rms_norm_eps must be");
}

static void test_generation_config_gives_the_defaults(void **state) {
    (void)state;
    struct model_config config = load_valid(VALID ",\"eos_token_id\":7}", NULL);
    assert_int_equal(config.n_eos_ids, 1);
    assert_int_equal(config.eos_ids[0], 7);

    config = load_valid(VALID ",\"eos_token_id\":7}",
                        "{\"eos_token_id\":[8,9],\"do_sample\":true,\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95,"
                        "\"min_p\":0.05}");
    assert_int_equal(config.n_eos_ids, 2);
    assert_int_equal(config.eos_ids[0], 8);
    assert_int_equal(config.eos_ids[1], 9);
    assert_true(config.sampling.temperature == 0.6f);
    assert_true(config.sampling.top_p == 0.95f);
    assert_true(config.sampling.min_p == 0.05f);
    assert_int_equal(config.sampling.top_k, 20);

    config = load_valid(VALID ",\"eos_token_id\":7}", "{\"do_sample\":false,\"temperature\":0.6}");
    assert_true(config.sampling.temperature == 0);
    assert_int_equal(config.eos_ids[0], 7);
    assert_true(load_valid(VALID "}", "{\"top_k\":null}").sampling.temperature == 1);
}

static void test_generation_config_is_checked(void **state) {
    (void)state;
    assert_refused(VALID "}", "{\"temperature\":2.5}",
                   "generation_config.json: temperature must be a number from 0 to 2");
    assert_refused(VALID "}", "{\"top_p\":0}", "top_p must be");
    assert_refused(VALID "}", "{\"min_p\":\"0\"}", "min_p must be a number from 0 to 1, found \"0\"");
    assert_refused(VALID "}", "{\"top_k\":-1}", "top_k must be");
    assert_refused(VALID "}", "{\"do_sample\":1}", "do_sample must be true or false");
    assert_refused(VALID "}", "{\"eos_token_id\":100}", "eos_token_id");
    assert_refused(VALID "}", "[]", "generation_config.json: must hold a JSON object");
}

static void test_a_folder_without_config_is_named(void **state) {
    (void)state;
    assert_refused(NULL, NULL, "/config.json: No such file or directory");
    struct model_config config;
    struct error err = {0};
    assert_false(model_config_load(&config, "/nowhere", &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_string_equal(err.message, "/nowhere/config.json: No such file or directory");
    assert_false(model_config_load_file(&config, "/tmp", &err));
    assert_int_equal(err.code, ERR_IO);
}

static void test_a_huge_file_is_refused(void **state) {
    (void)state;
    static char text[(1 << 20) + 2];
    memset(text, ' ', sizeof text - 1);
    assert_refused(text, NULL, "the limit is 1048576");
}

static void test_the_demo_model(void **state) {
    (void)state;
    const char *folder = access("models/demo/config.json", F_OK) == 0 ? "models/demo" : "../shared/demo-model";
    if (access(folder, F_OK) != 0) skip();
    struct model_config config;
    assert_true(model_config_load(&config, folder, NULL));
    assert_int_equal(config.shape.n_layers, 7);
    assert_int_equal(config.shape.hidden, 256);
    assert_int_equal(shape_qkv_columns(&config.shape), 8 * 128);
    assert_int_equal(config.n_eos_ids, 2);
    assert_int_equal(config.eos_ids[0], 3418);
    assert_int_equal(config.eos_ids[1], 3416);
    assert_int_equal(config.sampling.top_k, 20);
}

static void test_the_published_shapes(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int32_t n_layers, hidden, n_heads, intermediate;
        bool tied;
    } shapes[] = {
        {"config/shapes/0.6b.json", 28, 1024, 16, 3072, true},  {"config/shapes/1.7b.json", 28, 2048, 16, 6144, true},
        {"config/shapes/4b.json", 36, 2560, 32, 9728, true},    {"config/shapes/8b.json", 36, 4096, 32, 12288, false},
        {"config/shapes/14b.json", 40, 5120, 40, 17408, false}, {"config/shapes/32b.json", 64, 5120, 64, 25600, false},
    };
    if (access(shapes[0].path, F_OK) != 0) skip();
    struct model_config config;
    struct error err = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bool ok = model_config_load_file(&config, shapes[i].path, &err);
        assert_string_equal(err.message, "");
        assert_true(ok);
        assert_int_equal(config.shape.n_layers, shapes[i].n_layers);
        assert_int_equal(config.shape.hidden, shapes[i].hidden);
        assert_int_equal(config.shape.n_heads, shapes[i].n_heads);
        assert_int_equal(config.shape.intermediate, shapes[i].intermediate);
        assert_int_equal(config.shape.tied_embeddings, shapes[i].tied);
        assert_int_equal(config.shape.n_kv_heads, 8);
        assert_int_equal(config.shape.head_dim, 128);
        assert_int_equal(config.shape.vocab, 151936);
        assert_int_equal(config.shape.max_positions, 40960);
        assert_true(config.shape.rope_theta == 1e6f);
    }
    static const struct {
        const char *path;
        int32_t n_layers, hidden, n_heads, expert_intermediate;
    } experts[] = {{"config/shapes/30b-a3b.json", 48, 2048, 32, 768},
                   {"config/shapes/235b-a22b.json", 94, 4096, 64, 1536}};
    for (size_t i = 0; i < 2; i++) {
        assert_true(model_config_load_file(&config, experts[i].path, &err));
        assert_int_equal(config.shape.n_layers, experts[i].n_layers);
        assert_int_equal(config.shape.hidden, experts[i].hidden);
        assert_int_equal(config.shape.n_heads, experts[i].n_heads);
        assert_int_equal(config.shape.n_kv_heads, 4);
        assert_int_equal(config.shape.n_experts, 128);
        assert_int_equal(config.shape.n_active_experts, 8);
        assert_int_equal(config.shape.expert_intermediate, experts[i].expert_intermediate);
        assert_true(config.shape.normalised_experts && !config.shape.tied_embeddings);
        for (int32_t layer = 0; layer < config.shape.n_layers; layer++)
            assert_true(shape_has_experts(&config.shape, layer));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_shape),
        cmocka_unit_test(test_absent_members_have_the_published_defaults),
        cmocka_unit_test(test_both_forms_of_rope),
        cmocka_unit_test(test_harmless_members_are_accepted),
        cmocka_unit_test(test_what_cannot_be_computed_is_refused_by_name),
        cmocka_unit_test(test_required_integers_are_checked),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_experts_are_checked),
        cmocka_unit_test(test_generation_config_gives_the_defaults),
        cmocka_unit_test(test_generation_config_is_checked),
        cmocka_unit_test(test_a_folder_without_config_is_named),
        cmocka_unit_test(test_a_huge_file_is_refused),
        cmocka_unit_test(test_the_demo_model),
        cmocka_unit_test(test_the_published_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
