#include "config/config.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 16 };

/* line is split at blanks; "''" stands for an empty argument. */
static bool parse(struct config *config, const char *line, struct error *err) {
    char words[1024];
    char *argv[MAX_ARGUMENTS + 1] = {"quern"};
    int argc = 1;
    assert_true(strlen(line) < sizeof words);
    strcpy(words, line);
    for (char *word = strtok(words, " "); word && argc < MAX_ARGUMENTS; word = strtok(NULL, " ")) {
        argv[argc++] = strcmp(word, "''") ? word : "";
    }
    return config_parse(config, argc, argv, err);
}

static void parse_good(struct config *config, const char *line) {
    struct error err = {0};
    if (!parse(config, line, &err)) fail_msg("quern %s: %s", line, err.message);
}

struct file {
    char path[64];
};

static struct file write_file(const char *text, size_t length) {
    struct file file = {"/tmp/quern-config-XXXXXX"};
    int descriptor = mkstemp(file.path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, text, length), (ssize_t)length);
    close(descriptor);
    return file;
}

static bool parse_with_file(struct config *config, const char *json, size_t length, const char *flags,
                            struct error *err) {
    struct file file = write_file(json, length);
    char line[512];
    snprintf(line, sizeof line, "serve --config %s %s", file.path, flags);
    bool good = parse(config, line, err);
    unlink(file.path);
    return good;
}

static void test_defaults(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "serve");
    assert_int_equal(config.command, CONFIG_SERVE);
    assert_string_equal(config.model, "models/demo");
    assert_string_equal(config.tokenizer, "");
    assert_string_equal(config.served_model_name, "");
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 8000);
    assert_int_equal(config.device, CONFIG_DEVICE_AUTO);
    assert_true(config.fused);
    assert_true(config.graphs);
    assert_int_equal(config.block_size, 16);
    assert_int_equal(config.kv_bytes, 0);
    assert_true(config.gpu_memory_share == 0.9);
    assert_int_equal(config.max_batch_tokens, 0);
    assert_int_equal(config.max_model_len, 0);
    assert_int_equal(config.max_body_bytes, 8 << 20);
    assert_true(config.prefix_cache);
    assert_int_equal(config.load_format, CONFIG_LOAD_AUTO);
    assert_int_equal(config.log_level, CONFIG_LOG_INFO);
    assert_int_equal(config.log_format, CONFIG_LOG_TEXT);
    config_finish(&config);
}

static void test_both_forms_of_a_flag(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "serve --port 9 --host=::1 --fused=off --prefix-cache off --device cuda --log-level error "
                        "--log-format json --load-format=dummy");
    assert_int_equal(config.port, 9);
    assert_string_equal(config.host, "::1");
    assert_false(config.fused);
    assert_false(config.prefix_cache);
    assert_int_equal(config.device, CONFIG_DEVICE_CUDA);
    assert_int_equal(config.log_level, CONFIG_LOG_ERROR);
    assert_int_equal(config.log_format, CONFIG_LOG_JSON);
    assert_int_equal(config.load_format, CONFIG_LOAD_DUMMY);
    config_finish(&config);
}

static void test_the_last_flag_counts(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "serve --port 1 --model /a --port=2 --model=/b=c");
    assert_int_equal(config.port, 2);
    assert_string_equal(config.model, "/b=c");
    config_finish(&config);
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *flags;
        size_t bytes;
    } cases[] = {
        {"serve --kv-bytes 123456789", 123456789},
        {"serve --kv-bytes 512MiB", (size_t)512 << 20},
        {"serve --kv-bytes=4GiB", (size_t)4 << 30},
        {"serve --kv-bytes 1.5GiB", (size_t)3 << 29},
        {"serve --kv-bytes 16KiB", 16384},
        {"serve --kv-bytes 1TiB", (size_t)1 << 40},
        {"serve --kv-bytes 1024TiB", (size_t)1 << 50},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config;
        parse_good(&config, cases[i].flags);
        assert_int_equal(config.kv_bytes, cases[i].bytes);
        config_finish(&config);
    }
}

static void test_limits_are_inclusive(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "serve --port 65535 --block-size 8 --gpu-memory-share 1 --seed 2147483647 --max-queue 0");
    assert_int_equal(config.port, 65535);
    assert_int_equal(config.block_size, 8);
    assert_true(config.gpu_memory_share == 1.0);
    assert_int_equal(config.seed, 2147483647);
    assert_int_equal(config.max_queue, 0);
    config_finish(&config);
}

static void test_bench(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "bench --shape 8b --batch 1,2,256 --new-tokens 32 --output json --device cpu");
    assert_int_equal(config.command, CONFIG_BENCH);
    assert_string_equal(config.shape, "8b");
    assert_int_equal(config.batch.count, 3);
    assert_int_equal(config.batch.values[0], 1);
    assert_int_equal(config.batch.values[1], 2);
    assert_int_equal(config.batch.values[2], 256);
    assert_int_equal(config.prompt_tokens.count, 1);
    assert_int_equal(config.prompt_tokens.values[0], 128);
    assert_int_equal(config.new_tokens, 32);
    assert_int_equal(config.workload, CONFIG_WORKLOAD_STEPS);
    assert_int_equal(config.prompt_range.values[0], 100);
    assert_int_equal(config.prompt_range.values[1], 1024);
    assert_true(config.temperature == 0 && config.top_p == 1);
    assert_int_equal(config.output, CONFIG_OUTPUT_JSON);
    assert_int_equal(config.device, CONFIG_DEVICE_CPU);
    config_finish(&config);
}

static void test_help_and_version_win(void **state) {
    (void)state;
    static const struct {
        const char *line;
        enum config_command command;
    } cases[] = {
        {"--help", CONFIG_HELP},
        {"-h", CONFIG_HELP},
        {"--version", CONFIG_VERSION},
        {"serve --help", CONFIG_HELP},
        {"bench -h", CONFIG_HELP},
        {"serve --port none --help", CONFIG_HELP},
        {"serve --version", CONFIG_VERSION},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config;
        parse_good(&config, cases[i].line);
        assert_int_equal(config.command, cases[i].command);
        config_finish(&config);
    }
}

static void test_a_switch_alone_is_on(void **state) {
    (void)state;
    static const struct {
        const char *line;
        bool strict;
    } cases[] = {
        {"serve", false},
        {"serve --strict", true},
        {"serve --strict --port 9", true},
        {"serve --strict on", true},
        {"serve --strict off", false},
        {"serve --strict=off --port 9", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config;
        parse_good(&config, cases[i].line);
        assert_int_equal(config.strict, cases[i].strict);
        config_finish(&config);
    }
}

/* Each bad command line, the option it must blame, and two parts of what it must say. */
static const struct {
    const char *line, *param, *first, *second;
} BAD_LINES[] = {
    {"", "", "a command must follow", "quern serve"},
    {"serv", "", "unknown command \"serv\"", "serve, bench"},
    {"--port 80", "", "the command comes before its options", "quern serve --port"},
    {"serve models/demo", "", "unexpected argument \"models/demo\"", "--"},
    {"serve -p 80", "", "unexpected argument \"-p\"", "--"},
    {"serve --prot 80", "prot", "unknown option --prot", "did you mean --port?"},
    {"serve --max-seq 4", "max-seq", "unknown option --max-seq", "did you mean --max-seqs?"},
    {"serve --max_seqs 4", "max_seqs", "unknown option --max_seqs", "did you mean --max-seqs?"},
    {"serve --beams 1", "beams", "unknown option --beams", "quern --help lists"},
    {"serve --", "", "unknown option --", ""},
    {"serve --port", "port", "--port", "must follow"},
    {"serve --port --host x", "port", "--port", "must follow"},
    {"serve --device", "device", "--device", "auto|cpu|cuda"},
    {"serve --strict --port", "port", "--port", "must follow"},
    {"serve --port 65536", "port", "--port: 65536 is out of range", "0 to 65535"},
    {"serve --port -1", "port", "--port: -1 is out of range", "0 to 65535"},
    {"serve --port 80.5", "port", "\"80.5\" is not a whole number", "0 to 65535"},
    {"serve --port 0x50", "port", "\"0x50\" is not a whole number", "0 to 65535"},
    {"serve --port 80a", "port", "\"80a\" is not a whole number", "0 to 65535"},
    {"serve --port=", "port", "\"\" is not a whole number", "0 to 65535"},
    {"serve --port nan", "port", "\"nan\" is not a whole number", "0 to 65535"},
    {"serve --port 1e400", "port", "\"1e400\" is not a whole number", "0 to 65535"},
    {"serve --seed 2147483648", "seed", "--seed: 2147483648 is out of range", "0 to 2147483647"},
    {"serve --block-size 7", "block-size", "7 is out of range", "8 to 256"},
    {"serve --gpu-memory-share 1.01", "gpu-memory-share", "1.01 is out of range", "0.01 to 1"},
    {"serve --gpu-memory-share 0", "gpu-memory-share", "0 is out of range", "0.01 to 1"},
    {"serve --gpu-memory-share 90%", "gpu-memory-share", "\"90%\" is not a number", "0.01 to 1"},
    {"serve --gpu-memory-share inf", "gpu-memory-share", "\"inf\" is not a number", "0.01 to 1"},
    {"serve --kv-bytes 4GB", "kv-bytes", "\"4GB\" is not a size", "MiB"},
    {"serve --kv-bytes lots", "kv-bytes", "\"lots\" is not a size", "MiB"},
    {"serve --kv-bytes -1", "kv-bytes", "-1 is out of range", "allowed is 0 to 1125899906842624"},
    {"serve --kv-bytes 1025TiB", "kv-bytes", "1025TiB is out of range", "1125899906842624"},
    {"serve --max-body-bytes 1023", "max-body-bytes", "1023 is out of range", "1024 to 1073741824"},
    {"serve --device gpu", "device", "--device: \"gpu\" is unknown", "auto|cpu|cuda"},
    {"serve --device CPU", "device", "\"CPU\" is unknown", "auto|cpu|cuda"},
    {"serve --device au", "device", "\"au\" is unknown", "auto|cpu|cuda"},
    {"serve --device=", "device", "\"\" is unknown", "auto|cpu|cuda"},
    {"serve --device auto|cpu", "device", "is unknown", "auto|cpu|cuda"},
    {"serve --fused yes", "fused", "--fused: \"yes\" is unknown", "on|off"},
    {"serve --log-level trace", "log-level", "\"trace\" is unknown", "debug|info|warn|error"},
    {"serve --model ''", "model", "--model: 0 bytes long", "1 to 4095"},
    {"serve --host ''", "host", "--host: 0 bytes long", "1 to 255"},
    {"serve --batch 1", "batch", "an option of quern bench", "not of quern serve"},
    {"bench --port 80", "port", "an option of quern serve", "not of quern bench"},
    {"bench --prompt-range 5", "prompt-range", "two numbers", "the least and the most"},
    {"bench --output-range 9,8", "output-range", "two numbers", "the least and the most"},
    {"bench --output-range 1,2,3", "output-range", "two numbers", "the least and the most"},
    {"bench --workload all", "workload", "\"all\" is unknown", "steps|mixed"},
    {"bench --batch 1,,2", "batch", "\"\" is not a whole number", "1 to 1024"},
    {"bench --batch 1,0", "batch", "0 is out of range", "1 to 1024"},
    {"bench --batch 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "batch", "more than 16 numbers", ""},
    {"serve --max-seqs 64 --max-batch-tokens 63", "max-batch-tokens", "63 is less than --max-seqs 64", ""},
    {"serve --tls-cert a.pem", "tls-key", "--tls-cert is given without --tls-key", "needs both"},
    {"serve --tls-key a.pem", "tls-cert", "--tls-key is given without --tls-cert", "needs both"},
    {"serve --config /nonexistent/quern.json", "config", "cannot open /nonexistent/quern.json", "No such file"},
    {"serve --config /tmp", "config", "cannot read /tmp", "directory"},
};

static void test_bad_lines_name_the_option_and_what_is_allowed(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_LINES / sizeof BAD_LINES[0]; i++) {
        struct config config;
        struct error err = {0};
        if (parse(&config, BAD_LINES[i].line, &err)) fail_msg("quern %s was accepted", BAD_LINES[i].line);
        config_finish(&config);
        assert_string_equal(err.param, BAD_LINES[i].param);
        if (!strstr(err.message, BAD_LINES[i].first) || !strstr(err.message, BAD_LINES[i].second)) {
            fail_msg("quern %s: \"%s\" lacks \"%s\" or \"%s\"", BAD_LINES[i].line, err.message, BAD_LINES[i].first,
                     BAD_LINES[i].second);
        }
    }
}

static void test_file_overrides_defaults_and_flags_override_the_file(void **state) {
    (void)state;
    static const char json[] = "{\"port\": 81, \"max-seqs\": 5, \"model\": \"/from/file\", \"kv-bytes\": \"2MiB\","
                               " \"fused\": false, \"prefix-cache\": \"off\", \"device\": \"cpu\","
                               " \"gpu-memory-share\": 0.25, \"max-body-bytes\": 4096, \"batch\": \"2,4\"}";
    struct config config;
    struct error err = {0};
    if (!parse_with_file(&config, json, strlen(json), "--port 82", &err)) fail_msg("%s", err.message);
    assert_int_equal(config.port, 82);
    assert_int_equal(config.max_seqs, 5);
    assert_string_equal(config.model, "/from/file");
    assert_int_equal(config.kv_bytes, 2 << 20);
    assert_int_equal(config.max_body_bytes, 4096);
    assert_false(config.fused);
    assert_false(config.prefix_cache);
    assert_int_equal(config.device, CONFIG_DEVICE_CPU);
    assert_true(config.gpu_memory_share == 0.25);
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.batch.count, 2);
    config_finish(&config);
}

static void test_flags_before_config_override_it_too(void **state) {
    (void)state;
    struct file file = write_file("{\"port\": 81}", 12);
    char line[256];
    snprintf(line, sizeof line, "serve --port 82 --config=%s", file.path);
    struct config config;
    parse_good(&config, line);
    unlink(file.path);
    assert_int_equal(config.port, 82);
    config_finish(&config);
}

static void test_example_file_is_valid(void **state) {
    (void)state;
    struct config config;
    parse_good(&config, "serve --config config/quern.example.json");
    assert_string_equal(config.served_model_name, "demo");
    assert_int_equal(config.kv_bytes, (size_t)4 << 30);
    config_finish(&config);
}

static const struct {
    const char *json, *param, *first, *second;
} BAD_FILES[] = {
    {"", "config", "is not valid JSON", "line 1"},
    {"{\n\"port\": 80,\n}", "config", "is not valid JSON", "line 3"},
    {"{\"port\": 80} x", "config", "is not valid JSON", "line 1"},
    {"[1]", "config", "must hold one JSON object", ""},
    {"\"port\"", "config", "must hold one JSON object", ""},
    {"{\"prot\": 80}", "prot", "unknown option \"prot\" in /tmp/quern-config-", "did you mean port?"},
    {"{\"max_seqs\": 80}", "max_seqs", "unknown option \"max_seqs\"", "did you mean max-seqs?"},
    {"{\"nothing like it\": 80}", "nothing like it", "unknown option \"nothing like it\"", ""},
    {"{\"port\": 70000}", "port", "\"port\" in /tmp/quern-config-", "70000 is out of range, allowed is 0 to 65535"},
    {"{\"port\": \"80\"}", "port", "wrong type", "must be a number"},
    {"{\"port\": 80.5}", "port", "\"80.5\" is not a whole number", "0 to 65535"},
    {"{\"port\": true}", "port", "wrong type", "must be a number"},
    {"{\"port\": null}", "port", "wrong type", "must be a number"},
    {"{\"port\": [80]}", "port", "wrong type", "must be a number"},
    {"{\"model\": 3}", "model", "wrong type", "must be a string"},
    {"{\"fused\": 1}", "fused", "wrong type", "must be true, false"},
    {"{\"fused\": \"true\"}", "fused", "\"true\" is unknown", "on|off"},
    {"{\"device\": true}", "device", "wrong type", "must be a string"},
    {"{\"device\": \"gpu\"}", "device", "\"gpu\" is unknown", "auto|cpu|cuda"},
    {"{\"kv-bytes\": \"4 GiB\"}", "kv-bytes", "\"4 GiB\" is not a size", "512MiB"},
    {"{\"kv-bytes\": true}", "kv-bytes", "wrong type", "512MiB"},
    {"{\"gpu-memory-share\": 2}", "gpu-memory-share", "2 is out of range", "0.01 to 1"},
    {"{\"gpu-memory-share\": 1e999}", "gpu-memory-share", "is not a number", "0.01 to 1"},
    {"{\"config\": \"other.json\"}", "config", "cannot name another", ""},
};

static void test_bad_files_name_the_file_the_key_and_what_is_allowed(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_FILES / sizeof BAD_FILES[0]; i++) {
        struct config config;
        struct error err = {0};
        if (parse_with_file(&config, BAD_FILES[i].json, strlen(BAD_FILES[i].json), "", &err)) {
            fail_msg("%s was accepted", BAD_FILES[i].json);
        }
        config_finish(&config);
        assert_string_equal(err.param, BAD_FILES[i].param);
        if (!strstr(err.message, BAD_FILES[i].first) || !strstr(err.message, BAD_FILES[i].second)) {
            fail_msg("%s: \"%s\" lacks \"%s\" or \"%s\"", BAD_FILES[i].json, err.message, BAD_FILES[i].first,
                     BAD_FILES[i].second);
        }
    }
}

static void test_file_of_bytes_is_refused(void **state) {
    (void)state;
    struct config config;
    struct error err = {0};
    assert_false(parse_with_file(&config, "{}\0{}", 5, "", &err));
    config_finish(&config);
    assert_non_null(strstr(err.message, "is not valid JSON"));

    size_t length = (1 << 20) + 1;
    char *blanks = malloc(length);
    memset(blanks, ' ', length);
    assert_false(parse_with_file(&config, blanks, length, "", &err));
    config_finish(&config);
    free(blanks);
    assert_non_null(strstr(err.message, "is larger than 1048576 bytes"));
}

static void test_long_values_and_names(void **state) {
    (void)state;
    char long_text[5001];
    memset(long_text, 'a', 5000);
    long_text[5000] = '\0';
    struct config config;
    struct error err = {0};
    char *model[] = {"quern", "serve", "--model", long_text};
    assert_false(config_parse(&config, 4, model, &err));
    config_finish(&config);
    assert_non_null(strstr(err.message, "5000 bytes long, allowed is 1 to 4095"));

    memcpy(long_text, "--", 2);
    char *unknown[] = {"quern", "serve", long_text};
    assert_false(config_parse(&config, 3, unknown, &err));
    config_finish(&config);
    assert_non_null(strstr(err.message, "unknown option --aaa"));
    assert_null(config.model);
}

static void test_help_names_each_option(void **state) {
    (void)state;
    static const char *const names[] = {
#define OPTION(kind, use, name, initial, min, max, words, help) #name,
#include "config/options.def"
#undef OPTION
    };
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    assert_non_null(stream);
    config_print_help(stream);
    fclose(stream);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "  --%s ", names[i]);
        for (char *at = flag; *at; at++) *at = *at == '_' ? '-' : *at;
        if (!strstr(text, flag)) fail_msg("--help lacks %s", flag);
    }
    assert_non_null(strstr(text, "[8000; 0 to 65535]"));
    assert_non_null(strstr(text, "--device auto|cpu|cuda"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_both_forms_of_a_flag),
        cmocka_unit_test(test_the_last_flag_counts),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_limits_are_inclusive),
        cmocka_unit_test(test_bench),
        cmocka_unit_test(test_help_and_version_win),
        cmocka_unit_test(test_bad_lines_name_the_option_and_what_is_allowed),
        cmocka_unit_test(test_file_overrides_defaults_and_flags_override_the_file),
        cmocka_unit_test(test_flags_before_config_override_it_too),
        cmocka_unit_test(test_example_file_is_valid),
        cmocka_unit_test(test_bad_files_name_the_file_the_key_and_what_is_allowed),
        cmocka_unit_test(test_a_switch_alone_is_on),
        cmocka_unit_test(test_file_of_bytes_is_refused),
        cmocka_unit_test(test_long_values_and_names),
        cmocka_unit_test(test_help_names_each_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
