/* What each field becomes, and what is refused with which words. */
#include "server/openai.h"
#include "server/openai_request.h"
#include "tests/test.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { VOCAB = 1000 };

static const struct sampling_params defaults = {.temperature = 0.6f, .top_p = 0.95f, .min_p = 0.25f, .top_k = 20};

static bool read_body(enum openai_endpoint endpoint, const char *body, struct openai_request *request,
                      struct error *err) {
    const struct openai_source source = {
        .endpoint = endpoint, .body = body, .length = strlen(body), .defaults = defaults, .vocab = VOCAB};
    return openai_request_read(&source, request, err);
}

static struct openai_request accept(enum openai_endpoint endpoint, const char *body) {
    struct openai_request request;
    struct error err = {.code = ERR_NONE};
    if (!read_body(endpoint, body, &request, &err)) fail_msg("%s was refused: %s", body, err.message);
    return request;
}

static void refuse(enum openai_endpoint endpoint, const char *body, const char *param, const char *part) {
    struct openai_request request;
    struct error err = {.code = ERR_NONE};
    if (read_body(endpoint, body, &request, &err)) fail_msg("%s was accepted", body);
    openai_request_finish(&request);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, param);
    if (strstr(err.message, part) == NULL) fail_msg("%s is not in: %s", part, err.message);
}

static void test_defaults(void **state) {
    (void)state;
    struct openai_request request = accept(OPENAI_CHAT, "{}");
    assert_memory_equal(&request.sampling, &defaults, sizeof defaults);
    assert_null(request.model);
    assert_int_equal(request.max_new_tokens, 0); // what the context leaves
    assert_int_equal(request.stops.count, 0);
    assert_int_equal(request.thinking, CHAT_THINKING_DEFAULT);
    assert_false(request.has_seed || request.stream || request.include_usage || request.ignore_eos || request.echo);
    openai_request_finish(&request);
    request = accept(OPENAI_COMPLETIONS, "{\"prompt\": \"a\"}");
    assert_int_equal(request.max_new_tokens, 0);
    openai_request_finish(&request);
}

static void test_everything(void **state) {
    (void)state;
    struct openai_request request = accept(
        OPENAI_CHAT,
        "{\"model\": \"de\\u006do\", \"max_tokens\": 5, \"max_completion_tokens\": 7, \"temperature\": 1.5,"
        "\"top_p\": 1, \"min_p\": 0, \"top_k\": 3.0, \"seed\": -2, \"stop\": [\"a\", \"\\u0000b\"], \"stream\": true,"
        "\"stream_options\": {\"include_usage\": true, \"more\": 1}, \"ignore_eos\": true, \"n\": 1, \"user\": \"u\","
        "\"chat_template_kwargs\": {\"enable_thinking\": false}, \"unknown\": [{}]}");
    assert_string_equal(request.model, "demo");
    assert_int_equal(request.max_new_tokens, 7);
    assert_float_equal(request.sampling.temperature, 1.5f, 0);
    assert_float_equal(request.sampling.top_p, 1, 0);
    assert_float_equal(request.sampling.min_p, 0, 0);
    assert_int_equal(request.sampling.top_k, 3);
    assert_true(request.has_seed && request.sampling.seed == UINT64_MAX - 1);
    assert_int_equal(request.stops.count, 2);
    assert_int_equal(request.stops.strings[1].length, 2);
    assert_memory_equal(request.stops.strings[1].data, "\0b", 2);
    assert_true(request.stream && request.include_usage && request.ignore_eos);
    assert_int_equal(request.thinking, CHAT_THINKING_OFF);
    openai_request_finish(&request);
}

static void test_the_least_top_p(void **state) {
    (void)state;
    struct openai_request request = accept(OPENAI_CHAT, "{\"top_p\": 5e-324}");
    assert_true(request.sampling.top_p > 0);
    openai_request_finish(&request);
}

static void test_null_is_not_given(void **state) {
    (void)state;
    struct openai_request request =
        accept(OPENAI_CHAT, "{\"temperature\": null, \"stop\": null, \"seed\": null, \"max_tokens\": null, \"n\": null,"
                            "\"stream\": null, \"stream_options\": null, \"logprobs\": null, \"model\": null,"
                            "\"chat_template_kwargs\": {\"enable_thinking\": null}}");
    assert_memory_equal(&request.sampling, &defaults, sizeof defaults);
    openai_request_finish(&request);
}

static void test_the_last_of_equal_keys(void **state) {
    (void)state;
    struct openai_request request = accept(
        OPENAI_COMPLETIONS, "{\"prompt\": [\"a\", \"b\"], \"model\": \"x\", \"stop\": \"y\", \"prompt\": [1, 2, 3],"
                            "\"model\": \"z\", \"stop\": [\"v\", \"w\"]}");
    assert_string_equal(request.model, "z");
    assert_int_equal(request.n_prompts, 1);
    assert_int_equal(request.prompts[0].ids.count, 3);
    assert_int_equal(request.stops.count, 2);
    assert_string_equal(request.stops.strings[0].data, "v");
    openai_request_finish(&request);
}

static void test_seeds(void **state) {
    (void)state;
    const struct {
        const char *body;
        uint64_t seed;
    } rows[] = {
        {"{\"seed\": 0}", 0},
        {"{\"seed\": 9007199254740993}", 9007199254740993u}, // no double holds it
        {"{\"seed\": 18446744073709551615}", UINT64_MAX},
        {"{\"seed\": -9223372036854775808}", (uint64_t)INT64_MIN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct openai_request request = accept(OPENAI_CHAT, rows[i].body);
        assert_true(request.sampling.seed == rows[i].seed);
        openai_request_finish(&request);
    }
    refuse(OPENAI_CHAT, "{\"seed\": 18446744073709551616}", "seed", "64 bits, not 18446744073709551616");
    refuse(OPENAI_CHAT, "{\"seed\": 1.0}", "seed", "not 1.0");
}

static void test_prompts(void **state) {
    (void)state;
    struct openai_request request = accept(OPENAI_COMPLETIONS, "{\"prompt\": \"a\\u0000b\"}");
    assert_int_equal(request.n_prompts, 1);
    assert_int_equal(request.prompts[0].text.length, 3);
    openai_request_finish(&request);
    request = accept(OPENAI_COMPLETIONS, "{\"prompt\": [\"a\", \"\", \"c\"]}");
    assert_int_equal(request.n_prompts, 3);
    openai_request_finish(&request);
    request = accept(OPENAI_COMPLETIONS, "{\"prompt\": [0, 999]}");
    assert_int_equal(request.prompts[0].ids.ids[1], 999);
    openai_request_finish(&request);
    request = accept(OPENAI_COMPLETIONS, "{\"prompt\": [[1], [2, 3]], \"echo\": true}");
    assert_int_equal(request.n_prompts, 2);
    assert_int_equal(request.prompts[1].ids.count, 2);
    assert_true(request.echo);
    openai_request_finish(&request);
    refuse(OPENAI_COMPLETIONS, "{}", "prompt", "missing");
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": [1, 1000]}", "prompt", "from 0 to 999, not 1000");
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": null}", "prompt", "not null");
    request = accept(OPENAI_CHAT, "{\"prompt\": 1, \"echo\": false}"); // a chat has none
    openai_request_finish(&request);
}

static void test_refusals(void **state) {
    (void)state;
    refuse(OPENAI_CHAT, "{\"temperature\": 3}", "temperature", "temperature must be a number from 0 to 2, not 3");
    refuse(OPENAI_CHAT, "{\"temperature\": 1e999}", "temperature", "not 1e999");
    refuse(OPENAI_CHAT, "{\"top_p\": 0}", "top_p", "above 0 and at most 1, not 0");
    refuse(OPENAI_CHAT, "{\"max_tokens\": 1.5}", "max_tokens", "an integer from 1 to 2147483647, not 1.5");
    refuse(OPENAI_CHAT, "{\"stop\": \"\"}", "stop", "not \"\"");
    // Too many: it is the array that is wrong, not its 17th string.
    refuse(OPENAI_CHAT,
           "{\"stop\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\",\"k\",\"l\",\"m\",\"n\","
           "\"o\",\"p\",\"q\"]}",
           "stop", "not [\"a\"");
    refuse(OPENAI_CHAT, "{\"n\": 0}", "n", "n must be an integer from 1 to 128, not 0");
    refuse(OPENAI_CHAT, "{\"n\": 129}", "n", "not 129");
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": [\"a\", \"b\", \"c\"], \"n\": 43}", "n", "3 prompts with n 43 make more");
    refuse(OPENAI_CHAT, "{\"best_of\": 2}", "best_of", "best_of is not supported beyond 1, not 2");
    refuse(OPENAI_CHAT, "{\"guided_grammar\": \"x\"}", "guided_grammar", "must be left out");
    refuse(OPENAI_CHAT, "{\"stream_options\": {}}", "stream_options", "only with stream true");
    refuse(OPENAI_CHAT, "[1]", "", "not an array");
    refuse(OPENAI_CHAT, "{\"a\": }", "", "malformed");
    // What is quoted is cut, at a whole character.
    refuse(OPENAI_CHAT,
           "{\"top_k\": \"\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80"
           "\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80"
           "\xF0\x9F\x9A\x80\xF0\x9F\x9A\x80\"}",
           "top_k", "\xF0\x9F\x9A\x80…");
}

static void test_adjustments(void **state) {
    (void)state;
    struct openai_request request = accept(
        OPENAI_CHAT, "{\"presence_penalty\": -2, \"frequency_penalty\": 0.5, \"repetition_penalty\": 1.1,"
                     "\"logit_bias\": {\"7\": 1.5, \"0\": -100, \"7\": 2}, \"min_tokens\": 4, \"max_tokens\": 4,"
                     "\"stop_token_ids\": [999, 3], \"include_stop_str_in_output\": true, \"return_token_ids\": true,"
                     "\"priority\": -3, \"timeout_ms\": 1500, \"add_generation_prompt\": false,"
                     "\"continue_final_message\": true, \"stream\": true,"
                     "\"stream_options\": {\"include_usage\": true, \"continuous_usage_stats\": true}}");
    const struct sampling_adjustments *adjustments = &request.adjustments;
    assert_float_equal(adjustments->presence_penalty, -2, 0);
    assert_float_equal(adjustments->frequency_penalty, 0.5f, 0);
    assert_float_equal(adjustments->repetition_penalty, 1.1f, 0);
    assert_int_equal(adjustments->n_biases, 2);
    assert_int_equal(adjustments->biases[0].token, 7);
    assert_float_equal(adjustments->biases[0].bias, 2, 0);
    assert_int_equal(adjustments->biases[1].token, 0);
    assert_int_equal(request.min_new_tokens, 4);
    assert_int_equal(request.stop_tokens.count, 2);
    assert_int_equal(request.stop_tokens.ids[0], 999);
    assert_true(request.stops.included && request.return_token_ids && request.continuous_usage);
    assert_int_equal(request.priority, -3);
    assert_int_equal(request.timeout_ms, 1500);
    assert_true(request.no_generation_prompt && request.continues_final);
    openai_request_finish(&request);
    request = accept(OPENAI_CHAT, "{\"presence_penalty\": 0, \"repetition_penalty\": 1.0, \"logit_bias\": {},"
                                  "\"stop_token_ids\": [], \"min_tokens\": 0, \"add_generation_prompt\": true}");
    assert_false(request.no_generation_prompt || request.adjustments.n_biases > 0);
    openai_request_finish(&request);

    static const struct {
        const char *body, *param, *part;
    } refused[] = {
        {"{\"presence_penalty\": 2.1}", "presence_penalty", "a number from -2 to 2, not 2.1"},
        {"{\"frequency_penalty\": \"1\"}", "frequency_penalty", "a number from -2 to 2"},
        {"{\"repetition_penalty\": 0}", "repetition_penalty", "a number from 0.01 to 100, not 0"},
        {"{\"logit_bias\": [1]}", "logit_bias", "an object of at most 1024 token ids"},
        {"{\"logit_bias\": {\"1000\": 1}}", "logit_bias", "a token id from 0 to 999, not \"1000\""},
        {"{\"logit_bias\": {\"-1\": 1}}", "logit_bias", "not \"-1\""},
        {"{\"logit_bias\": {\"1x\": 1}}", "logit_bias", "not \"1x\""},
        {"{\"logit_bias\": {\"\": 1}}", "logit_bias", "not \"\""},
        {"{\"logit_bias\": {\"99999999999999999999\": 1}}", "logit_bias", "a token id from 0 to 999"},
        {"{\"logit_bias\": {\"1\": 101}}", "logit_bias", "from -100 to 100, not 101"},
        {"{\"min_tokens\": -1}", "min_tokens", "an integer from 0"},
        {"{\"min_tokens\": 5, \"max_tokens\": 4}", "min_tokens", "allowed are 0 to the 4 of max_tokens"},
        {"{\"stop_token_ids\": [1000]}", "stop_token_ids", "at most 64 token ids of the model, not [1000]"},
        {"{\"stop_token_ids\": 1}", "stop_token_ids", "an array"},
        {"{\"include_stop_str_in_output\": 1}", "include_stop_str_in_output", "true or false"},
        {"{\"priority\": 1.5}", "priority", "an integer of 32 bits"},
        {"{\"timeout_ms\": 0}", "timeout_ms", "an integer from 1"},
        {"{\"add_generation_prompt\": true, \"continue_final_message\": true}", "continue_final_message",
         "not allowed together"},
        {"{\"stream\": true, \"stream_options\": {\"continuous_usage_stats\": true}}",
         "stream_options.continuous_usage_stats", "only with include_usage true"},
        {"{\"stream\": true, \"stream_options\": {\"continuous_usage_stats\": 1}}",
         "stream_options.continuous_usage_stats", "true or false, not 1"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; ++i)
        refuse(OPENAI_CHAT, refused[i].body, refused[i].param, refused[i].part);
}

/* What a strict reader refuses for having no effect; "": nothing. */
static void expect_passed_over(enum openai_endpoint endpoint, const char *body, const char *param, const char *names) {
    struct openai_source source = {
        .endpoint = endpoint, .body = body, .length = strlen(body), .defaults = defaults, .vocab = VOCAB};
    struct openai_request request;
    struct error err = {.code = ERR_NONE};
    if (!openai_request_read(&source, &request, &err)) fail_msg("%s was refused: %s", body, err.message);
    openai_request_finish(&request);
    source.is_strict = true;
    bool read = openai_request_read(&source, &request, &err);
    openai_request_finish(&request);
    assert_int_equal(read, param[0] == '\0');
    if (read) return;
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.param, param);
    const char *told = strstr(err.message, "--strict does not allow: ");
    assert_non_null(told);
    assert_string_equal(told + strlen("--strict does not allow: "), names);
}

static void test_what_has_no_effect(void **state) {
    (void)state;
    expect_passed_over(OPENAI_CHAT, "{\"top_k\": 3, \"unknown\": null, \"user\": null}", "", "");
    expect_passed_over(OPENAI_CHAT, "{\"unknown\": [1]}", "unknown", "unknown");
    expect_passed_over(OPENAI_CHAT, "{\"user\": \"a\", \"n\": 1, \"x\": {}, \"store\": true}", "user",
                       "user, x, store");
    expect_passed_over(OPENAI_CHAT, "{\"store\": false, \"metadata\": {}, \"service_tier\": \"auto\"}", "", "");
    expect_passed_over(OPENAI_CHAT, "{\"service_tier\": \"default\", \"verbosity\": \"low\"}", "verbosity",
                       "verbosity");
    expect_passed_over(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"messages\": []}", "messages", "messages");
    expect_passed_over(OPENAI_CHAT, "{\"prompt\": \"a\"}", "prompt", "prompt");
    expect_passed_over(OPENAI_CHAT, "{\"chat_template_kwargs\": {\"enable_thinking\": true, \"a\": 1, \"b\": null}}",
                       "chat_template_kwargs.a", "chat_template_kwargs.a");
    expect_passed_over(
        OPENAI_CHAT, "{\"stream\": true, \"stream_options\": {\"include_usage\": true, \"include_obfuscation\": true}}",
        "stream_options.include_obfuscation", "stream_options.include_obfuscation");
    expect_passed_over(OPENAI_CHAT, "{\"a\\\"b\": 1}", "a\\\"b", "a\\\"b");

    char many[4096] = "{", *end = many + 1;
    for (int i = 0; i < 200; ++i) end += sprintf(end, "%s\"name_%d\": 1", i > 0 ? "," : "", i);
    strcpy(end, "}");
    const struct openai_source source = {
        .endpoint = OPENAI_CHAT, .body = many, .length = strlen(many), .vocab = VOCAB, .is_strict = true};
    struct openai_request request;
    struct error err = {.code = ERR_NONE};
    assert_false(openai_request_read(&source, &request, &err));
    openai_request_finish(&request);
    assert_string_equal(err.param, "name_0"); // as many as a message holds, all of them whole
    assert_non_null(strstr(err.message, ", name_9, "));
    assert_null(strstr(err.message, "name_199"));
}

/* Of what is not served, the values that the table allows are read, and others are not. */
static void test_what_is_not_served(void **state) {
    (void)state;
    struct openai_field field;
    int n_fields = 0;
    for (size_t i = 0; openai_request_field(i, &field); ++i) {
        if (field.state != OPENAI_FIELD_REFUSED) continue;
        char body[256];
        bool is_chat = (field.endpoints & OPENAI_CHAT) != 0;
        const char *prompt = is_chat ? "" : "\"prompt\": \"a\", ",
                   *allowed = field.allowed != NULL ? field.allowed : "null";
        snprintf(body, sizeof body, "{%s\"%s\": %.*s}", prompt, field.name,
                 strstr(allowed, " or ") != NULL ? (int)(strstr(allowed, " or ") - allowed) : (int)strlen(allowed),
                 allowed);
        struct openai_request request = accept(is_chat ? OPENAI_CHAT : OPENAI_COMPLETIONS, body);
        openai_request_finish(&request);
        snprintf(body, sizeof body, "{%s\"%s\": [\"something\"]}", prompt, field.name);
        refuse(is_chat ? OPENAI_CHAT : OPENAI_COMPLETIONS, body, field.name, "is not supported");
        ++n_fields;
    }
    assert_true(n_fields > 20);
    refuse(OPENAI_CHAT, "{\"function_call\": \"automatic\"}", "function_call", "beyond \"auto\" or \"none\", not");
    refuse(OPENAI_CHAT, "{\"modalities\": [\"text\", \"audio\"]}", "modalities", "[\"text\"]");
}

static void test_logprobs(void **state) {
    (void)state;
    const struct {
        enum openai_endpoint endpoint;
        const char *body;
        int32_t n_scores;
    } rows[] = {
        {OPENAI_CHAT, "{\"logprobs\": false}", 0},
        {OPENAI_CHAT, "{\"logprobs\": true}", 1},
        {OPENAI_CHAT, "{\"top_logprobs\": 20, \"logprobs\": true}", 21},
        {OPENAI_CHAT, "{\"logprobs\": false, \"top_logprobs\": 0}", 0},
        {OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"logprobs\": null}", 0},
        {OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"logprobs\": 0}", 1},
        {OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"logprobs\": 20}", 21},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct openai_request request = accept(rows[i].endpoint, rows[i].body);
        assert_int_equal(request.n_scores, rows[i].n_scores);
        openai_request_finish(&request);
    }
    struct openai_request request =
        accept(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"max_tokens\": 0, \"echo\": true, \"prompt_logprobs\": 3}");
    assert_true(request.echo && request.echo_only);
    assert_int_equal(request.n_prompt_scores, 4);
    openai_request_finish(&request);
    request = accept(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"max_tokens\": 0, \"max_tokens\": 2}");
    assert_false(request.echo_only);
    openai_request_finish(&request);
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"max_tokens\": 0}", "max_tokens", "or 0 with echo true");
    refuse(OPENAI_CHAT, "{\"max_tokens\": 0}", "max_tokens", "from 1 to 2147483647, not 0");
    refuse(OPENAI_CHAT, "{\"prompt_logprobs\": -1}", "prompt_logprobs", "from 0 to 20, not -1");
    refuse(OPENAI_CHAT, "{\"prompt_logprobs\": 1, \"stream\": true}", "prompt_logprobs",
           "not allowed with stream true");
    refuse(OPENAI_CHAT, "{\"logprobs\": 1}", "logprobs", "true or false, not 1");
    refuse(OPENAI_CHAT, "{\"top_logprobs\": 21, \"logprobs\": true}", "top_logprobs", "from 0 to 20, not 21");
    refuse(OPENAI_CHAT, "{\"top_logprobs\": 2}", "top_logprobs", "only with logprobs true");
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"logprobs\": 21}", "logprobs", "from 0 to 20, not 21");
    refuse(OPENAI_COMPLETIONS, "{\"prompt\": \"a\", \"logprobs\": true}", "logprobs", "from 0 to 20, not true");
}

static void test_reasoning_and_tools(void **state) {
    (void)state;
    static const struct {
        const char *body;
        enum chat_thinking thinking;
    } rows[] = {
        {"{\"enable_thinking\": false}", CHAT_THINKING_OFF},
        {"{\"enable_thinking\": true}", CHAT_THINKING_ON},
        {"{\"enable_thinking\": null, \"reasoning_effort\": null}", CHAT_THINKING_DEFAULT},
        {"{\"reasoning_effort\": \"none\"}", CHAT_THINKING_OFF},
        {"{\"reasoning_effort\": \"minimal\"}", CHAT_THINKING_ON},
        {"{\"reasoning_effort\": \"xhigh\", \"chat_template_kwargs\": {\"enable_thinking\": true}}", CHAT_THINKING_ON},
        {"{\"reasoning_effort\": \"none\", \"chat_template_kwargs\": {\"enable_thinking\": false}}", CHAT_THINKING_OFF},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct openai_request request = accept(OPENAI_CHAT, rows[i].body);
        assert_int_equal(request.thinking, rows[i].thinking);
        assert_false(request.drops_reasoning || request.has_no_tools || request.one_call);
        openai_request_finish(&request);
    }
    struct openai_request request = accept(
        OPENAI_CHAT, "{\"include_reasoning\": false, \"tool_choice\": \"none\", \"parallel_tool_calls\": false}");
    assert_true(request.drops_reasoning && request.has_no_tools && request.one_call);
    openai_request_finish(&request);
    request =
        accept(OPENAI_CHAT, "{\"include_reasoning\": true, \"tool_choice\": \"auto\", \"parallel_tool_calls\": true}");
    assert_false(request.drops_reasoning || request.has_no_tools || request.one_call);
    openai_request_finish(&request);
    refuse(OPENAI_CHAT, "{\"reasoning_effort\": \"none\", \"enable_thinking\": true}", "enable_thinking",
           "enable_thinking turns thinking on, and another field turns it off");
    refuse(OPENAI_CHAT, "{\"enable_thinking\": true, \"reasoning_effort\": \"none\"}", "reasoning_effort",
           "turns it on");
    refuse(OPENAI_CHAT, "{\"reasoning_effort\": \"most\"}", "reasoning_effort",
           "none, minimal, low, medium, high, xhigh or max");
    refuse(OPENAI_CHAT, "{\"reasoning_effort\": 1}", "reasoning_effort", "not 1");
    static const char *const no_choices[] = {"\"any\"",
                                             "1",
                                             "[\"auto\"]",
                                             "{}",
                                             "{\"type\": \"function\"}",
                                             "{\"type\": \"function\", \"function\": {}}",
                                             "{\"type\": \"function\", \"function\": {\"name\": 1}}",
                                             "{\"type\": \"custom\", \"function\": {\"name\": \"f\"}}",
                                             "{\"type\": \"function\", \"name\": \"f\"}"};
    for (size_t i = 0; i < sizeof no_choices / sizeof *no_choices; ++i) {
        char body[128];
        snprintf(body, sizeof body, "{\"tool_choice\": %s}", no_choices[i]);
        refuse(OPENAI_CHAT, body, "tool_choice", "must be \"auto\", \"none\", \"required\" or {");
    }
    refuse(OPENAI_CHAT, "{\"parallel_tool_calls\": 1}", "parallel_tool_calls", "true or false");
}

static void test_a_choice_of_tool(void **state) {
    (void)state;
    static const struct {
        const char *body, *name;
        bool needs_call;
    } rows[] = {
        {"{\"tool_choice\": \"auto\"}", NULL, false},
        {"{\"tool_choice\": null}", NULL, false},
        {"{\"tool_choice\": \"none\"}", NULL, false},
        {"{\"tool_choice\": \"required\"}", NULL, true},
        {"{\"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"a\\u0062\"}}}", "ab", true},
        {"{\"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"f\"}}, \"tool_choice\": \"auto\"}",
         NULL, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct openai_request request = accept(OPENAI_CHAT, rows[i].body);
        assert_int_equal(request.needs_call, rows[i].needs_call);
        assert_int_equal(request.named_tool != NULL, rows[i].name != NULL);
        if (rows[i].name != NULL) assert_string_equal(request.named_tool, rows[i].name);
        openai_request_finish(&request);
    }
}

static void test_tiny_temperature_is_greedy(void **state) {
    (void)state;
    struct openai_request request = accept(OPENAI_CHAT, "{\"temperature\": 1e-30}");
    assert_float_equal(request.sampling.temperature, 0, 0);
    openai_request_finish(&request);
}

static void test_error_bodies(void **state) {
    (void)state;
    const struct {
        enum error_code code;
        int status;
    } rows[] = {
        {ERR_INVALID, 400}, {ERR_NOT_FOUND, 404}, {ERR_TOO_LARGE, 413}, {ERR_BUSY, 429},     {ERR_UNAVAILABLE, 503},
        {ERR_MEMORY, 500},  {ERR_DEVICE, 500},    {ERR_NUMERIC, 500},   {ERR_INTERNAL, 500},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        struct error err = {.code = rows[i].code, .message = "a \"message\""};
        assert_int_equal(openai_error_from(&err).status, rows[i].status);
    }
    struct error err = {.code = ERR_INVALID, .param = "top_p", .message = "a \"message\"\n\x01"};
    struct openai_error error = openai_error_from(&err);
    struct string_builder out = {0};
    openai_write_error(&out, &error);
    assert_string_equal(out.data,
                        "{\"error\":{\"message\":\"a \\\"message\\\"\\n\\u0001\",\"type\":\"invalid_request_error\","
                        "\"param\":\"top_p\",\"code\":null}}");
    string_builder_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_the_least_top_p),
        cmocka_unit_test(test_null_is_not_given),
        cmocka_unit_test(test_the_last_of_equal_keys),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_adjustments),
        cmocka_unit_test(test_what_has_no_effect),
        cmocka_unit_test(test_what_is_not_served),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_reasoning_and_tools),
        cmocka_unit_test(test_a_choice_of_tool),
        cmocka_unit_test(test_tiny_temperature_is_greedy),
        cmocka_unit_test(test_error_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
