/* Which template a folder has, and what --chat-template makes of it. */
#include "server/chat_family.h"
#include "tests/unit/temporary_folder.h"

#include <stdio.h>

/* The lines of the published templates that tell them apart. */
#define COMMON                                                                                                         \
    "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content }}{%- if add_generation_prompt %}"
#define HYBRID                                                                                                         \
    COMMON "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
#define INSTRUCT "{{- '<|im_start|>' + message.role + '\\n' + content }}{{- '<|im_start|>assistant\\n' }}"
#define THINKING COMMON "{{- '<|im_start|>assistant\\n<think>\\n' }}"
#define CODER    "{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}{{- '<|im_start|>assistant\\n' }}"
#define OTHER    "{{- '[INST]' + message.content }}"

static const char *const templates[] = {
    [CHAT_HYBRID] = HYBRID, [CHAT_INSTRUCT] = INSTRUCT, [CHAT_THINKING] = THINKING, [CHAT_CODER] = CODER};

static void test_templates_are_told_apart(void **state) {
    (void)state;
    enum chat_family family;
    for (int i = 0; i < 4; ++i) {
        assert_true(chat_family_recognise(templates[i], &family));
        assert_string_equal(chat_family_name(family), chat_family_name((enum chat_family)i));
    }
    assert_false(chat_family_recognise(OTHER, &family));
    assert_false(chat_family_recognise("", &family));
    assert_false(chat_family_recognise("about enable_thinking and <function=", &family));
}

static void expect(const char *folder, const char *choice, enum chat_family expected) {
    enum chat_family family = (enum chat_family) - 1;
    struct error err = {.code = ERR_NONE};
    if (!chat_family_find(folder, choice, &family, &err)) fail_msg("%s", err.message);
    assert_int_equal(family, expected);
}

static void refuse(const char *folder, const char *choice, enum error_code code, const char *part) {
    enum chat_family family;
    struct error err = {.code = ERR_NONE};
    assert_false(chat_family_find(folder, choice, &family, &err));
    assert_int_equal(err.code, code);
    if (strstr(err.message, part) == NULL) fail_msg("%s is not in: %s", part, err.message);
}

/* A tokenizer_config.json; backslashes of the template are doubled, as in JSON. */
static void write_config(struct temporary_folder *folder, const char *before, const char *template, const char *after) {
    char text[2048];
    size_t n = (size_t)snprintf(text, sizeof text, "%s", before);
    for (const char *c = template; *c != '\0'; ++c) {
        if (*c == '\\' || *c == '"') text[n++] = '\\';
        text[n++] = *c;
    }
    snprintf(text + n, sizeof text - n, "%s", after);
    folder_write_text(folder, "tokenizer_config.json", text);
}

static void test_where_a_folder_has_it(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    expect(folder.path, "", CHAT_HYBRID); // nothing there
    folder_write_text(&folder, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"chat_template\": null}");
    expect(folder.path, "", CHAT_HYBRID);
    for (int i = 0; i < 4; ++i) {
        write_config(&folder, "{\"chat_template\": \"", templates[i], "\"}");
        expect(folder.path, "", (enum chat_family)i);
    }
    write_config(
        &folder,
        "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": \"",
        CODER, "\"}]}");
    expect(folder.path, "", CHAT_CODER);
    folder_write_text(&folder, "chat_template.jinja", THINKING); // counts before the other
    expect(folder.path, "", CHAT_THINKING);
    folder_remove(&folder);
}

static void test_a_choice_counts_more(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    folder_write_text(&folder, "chat_template.jinja", OTHER);
    expect(folder.path, "hybrid", CHAT_HYBRID);
    expect(folder.path, "instruct", CHAT_INSTRUCT);
    expect(folder.path, "thinking", CHAT_THINKING);
    expect(folder.path, "coder", CHAT_CODER);
    folder_write_text(&folder, "mine.jinja", CODER);
    char path[512];
    snprintf(path, sizeof path, "%s", folder_path(&folder, "mine.jinja"));
    expect(folder.path, path, CHAT_CODER);
    folder_remove(&folder);
}

static void test_refusals(void **state) {
    (void)state;
    struct temporary_folder folder = folder_create();
    refuse(folder.path, "/nowhere/at.all", ERR_IO, "/nowhere/at.all: No such file");
    refuse(folder.path, "Coder", ERR_IO, "Coder: No such file");
    folder_write_text(&folder, "tokenizer_config.json", "{\"chat_template\": ");
    refuse(folder.path, "", ERR_INVALID, "tokenizer_config.json: The JSON is malformed");
    write_config(&folder, "{\"chat_template\": \"", OTHER, "\"}");
    refuse(folder.path, "", ERR_INVALID, "none of Qwen3's; --chat-template hybrid, instruct, thinking or coder");
    folder_write_text(&folder, "chat_template.jinja", OTHER);
    refuse(folder.path, "", ERR_INVALID, "chat_template.jinja");
    folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_templates_are_told_apart),
        cmocka_unit_test(test_where_a_folder_has_it),
        cmocka_unit_test(test_a_choice_counts_more),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
