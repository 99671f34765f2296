#include "server/chat_family.h"

#include "server/json_text.h"
#include "server/text_file.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 16 << 20 };

static const char *const names[] = {
    [CHAT_HYBRID] = "hybrid", [CHAT_INSTRUCT] = "instruct", [CHAT_THINKING] = "thinking", [CHAT_CODER] = "coder"};

const char *chat_family_name(enum chat_family family) {
    return names[family];
}

bool chat_family_recognise(const char *template, enum chat_family *family) {
    // In a template a line break of the prompt is written as \n.
    static const struct {
        const char *part;
        enum chat_family family;
    } parts[] = {
        {"<function=", CHAT_CODER},
        {"enable_thinking", CHAT_HYBRID},
        {"<|im_start|>assistant\\n<think>", CHAT_THINKING},
    };
    if (strstr(template, "<|im_start|>") == NULL) return false;
    *family = CHAT_INSTRUCT;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; ++i) {
        if (strstr(template, parts[i].part) == NULL) continue;
        *family = parts[i].family;
        break;
    }
    return true;
}

/* The template in a tokenizer_config.json: a text, or of several the one named default. False: there is none. */
static bool find_template(struct json_text config, struct json_text *template) {
    struct json_text entry, name;
    struct json_cursor cursor = {0};
    if (json_text_kind(config) != JSON_OBJECT || !json_text_find(config, "chat_template", template)) return false;
    if (json_text_kind(*template) == JSON_STRING) return true;
    if (json_text_kind(*template) != JSON_ARRAY) return false;
    const struct json_text list = *template;
    while (json_text_next(list, &cursor, &entry)) {
        if (json_text_kind(entry) == JSON_OBJECT && json_text_find(entry, "name", &name) &&
            json_text_kind(name) == JSON_STRING && json_text_equals(name, "default") &&
            json_text_find(entry, "template", template) && json_text_kind(*template) == JSON_STRING)
            return true;
    }
    return false;
}

static bool recognise(const char *path, const char *template, enum chat_family *family, struct error *err) {
    if (chat_family_recognise(template, family)) return true;
    return fail_param(err, ERR_INVALID, "chat-template",
                      "%s: the chat template is none of Qwen3's; --chat-template hybrid, instruct, thinking or coder "
                      "chooses one",
                      path);
}

static bool recognise_template(const char *path, enum chat_family *family, struct error *err) {
    struct string_builder text = {.max_length = MAX_FILE_BYTES};
    bool ok = text_file_read(path, &text, err) && recognise(path, text.data, family, err);
    string_builder_finish(&text);
    return ok;
}

static bool recognise_config(const char *path, enum chat_family *family, struct error *err) {
    struct string_builder text = {.max_length = MAX_FILE_BYTES}, decoded = {0};
    struct json_text config, template;
    struct error fault;
    bool ok = text_file_read(path, &text, err);
    if (ok && !json_text_check(text.data, text.length, &config, &fault)) {
        ok = fail(err, ERR_INVALID, "%s: %s", path, fault.message);
    } else if (ok && find_template(config, &template)) {
        json_text_decode(template, &decoded);
        string_builder_append_text(&decoded, "");
        ok = string_builder_check(&decoded, path, err) && recognise(path, decoded.data, family, err);
    }
    string_builder_finish(&decoded);
    string_builder_finish(&text);
    return ok;
}

bool chat_family_find(const char *folder, const char *choice, enum chat_family *family, struct error *err) {
    for (int i = 0; i < 4; ++i) {
        if (strcmp(choice, names[i]) != 0) continue;
        *family = (enum chat_family)i;
        return true;
    }
    if (choice[0] != '\0') return recognise_template(choice, family, err);
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    if (access(path, F_OK) == 0) return recognise_template(path, family, err);
    *family = CHAT_HYBRID;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    return access(path, F_OK) != 0 || recognise_config(path, family, err);
}
