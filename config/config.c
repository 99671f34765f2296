#include "config/config.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>

enum { MAX_FILE_BYTES = 1 << 20, MAX_NAME_BYTES = 64, HELP_COLUMN = 38 };

enum option_kind { STRING, INT, BYTES, REAL, SWITCH, CHOICE, NUMBERS };
enum option_use { ALL, SERVE, BENCH };

struct option {
    enum option_kind kind;
    enum option_use use;
    const char *field; // max_seqs; the user writes max-seqs
    size_t offset;     // in struct config
    const char *initial;
    double min, max;
    const char *words;
    const char *help;
};

static const struct option OPTIONS[] = {
#define OPTION(kind, use, name, initial, min, max, words, help)                                                        \
    {kind, use, #name, offsetof(struct config, name), initial, min, max, words, help},
#include "config/options.def"
#undef OPTION
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof OPTIONS[0] };

static const char *const COMMANDS[] = {[CONFIG_SERVE] = "serve", [CONFIG_BENCH] = "bench"};
enum { N_COMMANDS = sizeof COMMANDS / sizeof COMMANDS[0] };

/* Where a value stands, for messages: "--port", or "\"port\" in quern.json". */
struct place {
    const struct option *option;
    const char *file; // NULL: the command line
};

static void option_name(const struct option *option, char name[MAX_NAME_BYTES]) {
    size_t i = 0;
    for (; i < MAX_NAME_BYTES - 1 && option->field[i]; i++) name[i] = option->field[i] == '_' ? '-' : option->field[i];
    name[i] = '\0';
}

static bool refuse(const struct place *place, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool refuse(const struct place *place, struct error *err, const char *format, ...) {
    char name[MAX_NAME_BYTES], reason[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    option_name(place->option, name);
    if (place->file) return fail_param(err, ERR_INVALID, name, "\"%s\" in %s: %s", name, place->file, reason);
    return fail_param(err, ERR_INVALID, name, "--%s: %s", name, reason);
}

/* Edits that turn one name into the other, for "did you mean". */
static int edit_distance(const char *a, const char *b) {
    int row[MAX_NAME_BYTES + 1];
    int length = (int)strlen(b);
    if (length > MAX_NAME_BYTES || strlen(a) > MAX_NAME_BYTES) return MAX_NAME_BYTES;
    for (int j = 0; j <= length; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= length; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[length];
}

/* " (did you mean --max-seqs?)", or where the names stand when none is near. */
static void suggest(const char *name, const char *dashes, char *text, size_t size) {
    const struct option *nearest = NULL;
    int nearest_distance = (int)strlen(name) / 3 + 2; // a third of its letters may be wrong
    char candidate[MAX_NAME_BYTES];
    for (int i = 0; i < N_OPTIONS; i++) {
        option_name(&OPTIONS[i], candidate);
        int distance = edit_distance(name, candidate);
        if (distance < nearest_distance) {
            nearest = &OPTIONS[i];
            nearest_distance = distance;
        }
    }
    if (!nearest) {
        snprintf(text, size, " (quern --help lists them all)");
        return;
    }
    option_name(nearest, candidate);
    snprintf(text, size, " (did you mean %s%s?)", dashes, candidate);
}

static const struct option *find_option(const char *name) {
    char candidate[MAX_NAME_BYTES];
    for (int i = 0; i < N_OPTIONS; i++) {
        option_name(&OPTIONS[i], candidate);
        if (!strcmp(name, candidate)) return &OPTIONS[i];
    }
    return NULL;
}

/* Plain decimal only: strtod would also take blanks, hexadecimal, "inf" and "nan". */
static bool read_number(const char *text, const char **end, double *number) {
    if (strspn(text, "+-.0123456789eE") == 0 || strcspn(text, "0123456789") == strlen(text)) return false;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) return false;
    char *stop;
    *number = strtod(text, &stop);
    *end = stop;
    return stop != text && isfinite(*number);
}

static bool check_range(const struct place *place, double number, const char *text, struct error *err) {
    const struct option *option = place->option;
    if (number >= option->min && number <= option->max) return true;
    return refuse(place, err, "%s is out of range, allowed is %.16g to %.16g", text, option->min, option->max);
}

static bool parse_integer(const struct place *place, const char *text, int32_t *value, struct error *err) {
    const char *end = text;
    double number;
    if (!read_number(text, &end, &number) || *end || number != floor(number)) {
        return refuse(place, err, "\"%s\" is not a whole number, allowed is %.16g to %.16g", text, place->option->min,
                      place->option->max);
    }
    if (!check_range(place, number, text, err)) return false;
    *value = (int32_t)number;
    return true;
}

static bool parse_bytes(const struct place *place, const char *text, size_t *value, struct error *err) {
    static const struct {
        const char *suffix;
        double bytes;
    } units[] = {{"", 1}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
    const char *end = text;
    double number;
    if (read_number(text, &end, &number)) {
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
            if (strcmp(end, units[i].suffix)) continue;
            double bytes = number * units[i].bytes;
            if (!check_range(place, bytes, text, err)) return false;
            *value = (size_t)bytes;
            return true;
        }
    }
    return refuse(place, err, "\"%s\" is not a size, give bytes or a number with KiB, MiB, GiB or TiB such as 512MiB",
                  text);
}

static bool parse_real(const struct place *place, const char *text, double *value, struct error *err) {
    const char *end = text;
    double number;
    if (!read_number(text, &end, &number) || *end) {
        return refuse(place, err, "\"%s\" is not a number, allowed is %.16g to %.16g", text, place->option->min,
                      place->option->max);
    }
    if (!check_range(place, number, text, err)) return false;
    *value = number;
    return true;
}

static bool parse_choice(const struct place *place, const char *text, int *value, struct error *err) {
    size_t length = strlen(text);
    const char *word = place->option->words;
    for (int i = 0; *word; i++) {
        size_t word_length = strcspn(word, "|");
        if (word_length == length && !memcmp(word, text, length)) {
            *value = i;
            return true;
        }
        word += word_length + (word[word_length] == '|');
    }
    return refuse(place, err, "\"%s\" is unknown, allowed is %s", text, place->option->words);
}

static bool parse_numbers(const struct place *place, const char *text, struct config_numbers *numbers,
                          struct error *err) {
    struct config_numbers list = {0};
    char item[32];
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        if (list.count == CONFIG_MAX_NUMBERS) return refuse(place, err, "more than %d numbers", CONFIG_MAX_NUMBERS);
        snprintf(item, sizeof item, "%.*s", (int)(length < sizeof item ? length : sizeof item - 1), at);
        if (!parse_integer(place, item, &list.values[list.count++], err)) return false;
        if (!at[length]) break;
        at += length + 1;
    }
    *numbers = list;
    return true;
}

static bool parse_string(const struct place *place, const char *text, char **value, struct error *err) {
    size_t length = strlen(text);
    if ((double)length < place->option->min || (double)length > place->option->max) {
        return refuse(place, err, "%zu bytes long, allowed is %.0f to %.0f", length, place->option->min,
                      place->option->max);
    }
    char *copy = strdup(text);
    if (!copy) return fail(err, ERR_MEMORY, "out of memory");
    free(*value);
    *value = copy;
    return true;
}

/* The one way a value gets into config, from wherever it comes. */
static bool set(struct config *config, const struct place *place, const char *text, struct error *err) {
    void *field = (char *)config + place->option->offset;
    int index = 0;
    switch (place->option->kind) {
    case STRING:
        return parse_string(place, text, field, err);
    case INT:
        return parse_integer(place, text, field, err);
    case BYTES:
        return parse_bytes(place, text, field, err);
    case REAL:
        return parse_real(place, text, field, err);
    case NUMBERS:
        return parse_numbers(place, text, field, err);
    case CHOICE:
        if (!parse_choice(place, text, &index, err)) return false;
        memcpy(field, &index, sizeof index);
        return true;
    case SWITCH:
        if (!parse_choice(place, text, &index, err)) return false;
        *(bool *)field = index == 0; // "on|off"
        return true;
    }
    return fail(err, ERR_INTERNAL, "option %s has no kind", place->option->field);
}

static bool set_defaults(struct config *config, struct error *err) {
    *config = (struct config){0};
    for (int i = 0; i < N_OPTIONS; i++) {
        struct place place = {.option = &OPTIONS[i]};
        if (!set(config, &place, OPTIONS[i].initial, err)) return false;
    }
    return true;
}

void config_finish(struct config *config) {
    for (int i = 0; i < N_OPTIONS; i++) {
        if (OPTIONS[i].kind != STRING) continue;
        char **string = (char **)(void *)((char *)config + OPTIONS[i].offset);
        free(*string);
        *string = NULL;
    }
}

static bool read_file(const char *path, char **text, size_t *length, struct error *err) {
    FILE *file = fopen(path, "rb");
    if (!file) return fail_param(err, ERR_IO, "config", "cannot open %s: %s", path, strerror(errno));
    char *buffer = malloc(MAX_FILE_BYTES + 1);
    *length = buffer ? fread(buffer, 1, MAX_FILE_BYTES + 1, file) : 0;
    bool failed = ferror(file) != 0;
    int reason = errno;
    fclose(file);
    if (!buffer) return fail(err, ERR_MEMORY, "out of memory");
    *text = buffer;
    if (failed) return fail_param(err, ERR_IO, "config", "cannot read %s: %s", path, strerror(reason));
    if (*length > MAX_FILE_BYTES) {
        return fail_param(err, ERR_INVALID, "config", "%s is larger than %d bytes", path, MAX_FILE_BYTES);
    }
    buffer[*length] = '\0';
    return true;
}

/* The value as the command line would have it; in JSON a number is a number and a string is a string. */
static bool json_to_text(const struct place *place, const cJSON *value, char *text, size_t size, const char **out,
                         struct error *err) {
    enum option_kind kind = place->option->kind;
    *out = text;
    if (cJSON_IsNumber(value) && (kind == INT || kind == BYTES || kind == REAL || kind == NUMBERS)) {
        double number = value->valuedouble;
        snprintf(text, size, number == floor(number) && fabs(number) < 9e15 ? "%.0f" : "%.15g", number);
        return true;
    }
    if (cJSON_IsString(value) && kind != INT && kind != REAL) {
        *out = value->valuestring;
        return true;
    }
    if (cJSON_IsBool(value) && kind == SWITCH) {
        snprintf(text, size, cJSON_IsTrue(value) ? "on" : "off");
        return true;
    }
    static const char *const wanted[] = {[STRING] = "a string",
                                         [INT] = "a number",
                                         [BYTES] = "a number or a string such as \"512MiB\"",
                                         [REAL] = "a number",
                                         [SWITCH] = "true, false, \"on\" or \"off\"",
                                         [CHOICE] = "a string",
                                         [NUMBERS] = "a number or a string such as \"1,8,64\""};
    return refuse(place, err, "wrong type, must be %s", wanted[kind]);
}

static int line_of(const char *text, const char *at) {
    int line = 1;
    for (; text < at; text++) line += *text == '\n';
    return line;
}

static bool apply_json(struct config *config, const char *path, const char *text, size_t length, struct error *err) {
    const char *stopped = text;
    cJSON *root = strlen(text) == length ? cJSON_ParseWithOpts(text, &stopped, true) : NULL;
    if (!root) {
        return fail_param(err, ERR_INVALID, "config", "%s is not valid JSON (line %d)", path, line_of(text, stopped));
    }
    bool good = cJSON_IsObject(root);
    if (!good) fail_param(err, ERR_INVALID, "config", "%s must hold one JSON object", path);
    for (const cJSON *value = good ? root->child : NULL; value && good; value = value->next) {
        struct place place = {.option = find_option(value->string), .file = path};
        char number[64], hint[MAX_NAME_BYTES + 32];
        const char *value_text;
        if (!place.option) {
            suggest(value->string, "", hint, sizeof hint);
            good =
                fail_param(err, ERR_INVALID, value->string, "unknown option \"%s\" in %s%s", value->string, path, hint);
        } else if (!strcmp(value->string, "config")) {
            good = refuse(&place, err, "a configuration file cannot name another");
        } else {
            good = json_to_text(&place, value, number, sizeof number, &value_text, err) &&
                   set(config, &place, value_text, err);
        }
    }
    cJSON_Delete(root);
    return good;
}

static bool apply_file(struct config *config, struct error *err) {
    char *text = NULL;
    size_t length = 0;
    bool good = read_file(config->config, &text, &length, err) && apply_json(config, config->config, text, length, err);
    free(text);
    return good;
}

/* Reads argv[*i], and the argument after it where the value stands there. */
static bool next_flag(struct config *config, int argc, char *const *argv, int *i, const struct option **option,
                      const char **value, struct error *err) {
    const char *argument = argv[*i];
    if (strncmp(argument, "--", 2)) {
        return fail(err, ERR_INVALID, "unexpected argument \"%s\", options begin with --", argument);
    }
    char name[MAX_NAME_BYTES], hint[MAX_NAME_BYTES + 32];
    size_t length = strcspn(argument + 2, "=");
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1), argument + 2);
    struct place place = {.option = *option = find_option(name)};
    if (!*option) {
        suggest(name, "--", hint, sizeof hint);
        return fail_param(err, ERR_INVALID, name, "unknown option --%s%s", name, hint);
    }
    if ((*option)->use != ALL && ((*option)->use == SERVE) != (config->command == CONFIG_SERVE)) {
        return refuse(&place, err, "an option of quern %s, not of quern %s",
                      COMMANDS[(*option)->use == SERVE ? CONFIG_SERVE : CONFIG_BENCH], COMMANDS[config->command]);
    }
    if (argument[2 + length] == '=') {
        *value = argument + 2 + length + 1;
    } else if (*i + 1 < argc && strncmp(argv[*i + 1], "--", 2)) {
        *value = argv[++*i];
    } else if ((*option)->kind == SWITCH) {
        *value = "on";
    } else {
        return refuse(&place, err, "a value (%s) must follow", (*option)->words);
    }
    return true;
}

/* Two passes: --config takes effect before every other flag, wherever it stands. */
static bool apply_flags(struct config *config, int argc, char *const *argv, bool only_config, struct error *err) {
    for (int i = 2; i < argc; i++) {
        const struct option *option = NULL;
        const char *value = NULL;
        if (!next_flag(config, argc, argv, &i, &option, &value, err)) return false;
        struct place place = {.option = option};
        bool is_config = option->offset == offsetof(struct config, config);
        if (is_config == only_config && !set(config, &place, value, err)) return false;
    }
    return true;
}

static bool read_command(struct config *config, int argc, char *const *argv, struct error *err) {
    const char *word = argc > 1 ? argv[1] : "";
    for (int i = 1; i < argc; i++) {
        bool help = !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
        if (!help && strcmp(argv[i], "--version")) continue;
        config->command = help ? CONFIG_HELP : CONFIG_VERSION;
        return true;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        config->command = (enum config_command)i;
        if (!strcmp(word, COMMANDS[i])) return true;
    }
    if (!*word) return fail(err, ERR_INVALID, "a command must follow: quern serve, quern bench or quern --help");
    if (word[0] == '-') {
        return fail(err, ERR_INVALID, "the command comes before its options: quern serve %s …, or quern --help", word);
    }
    return fail(err, ERR_INVALID, "unknown command \"%s\", there are serve, bench, --help and --version", word);
}

static bool check_pair(const struct config_numbers *pair, const char *name, struct error *err) {
    if (pair->count == 2 && pair->values[0] <= pair->values[1]) return true;
    return fail_param(err, ERR_INVALID, name,
                      "--%s: two numbers must be given, the least and the most, such as 100,1024", name);
}

/* What no option can see alone. */
static bool validate(const struct config *config, struct error *err) {
    if (config->max_batch_tokens > 0 && config->max_batch_tokens < config->max_seqs) {
        return fail_param(err, ERR_INVALID, "max-batch-tokens",
                          "--max-batch-tokens %d is less than --max-seqs %d: each running request needs a token a step",
                          config->max_batch_tokens, config->max_seqs);
    }
    if ((config->tls_cert[0] == '\0') != (config->tls_key[0] == '\0')) {
        const char *given = config->tls_cert[0] != '\0' ? "tls-cert" : "tls-key";
        const char *missing = config->tls_cert[0] != '\0' ? "tls-key" : "tls-cert";
        return fail_param(err, ERR_INVALID, missing, "--%s is given without --%s: TLS needs both", given, missing);
    }
    return check_pair(&config->prompt_range, "prompt-range", err) &&
           check_pair(&config->output_range, "output-range", err);
}

bool config_parse(struct config *config, int argc, char *const *argv, struct error *err) {
    if (!set_defaults(config, err) || !read_command(config, argc, argv, err)) return false;
    if (config->command == CONFIG_HELP || config->command == CONFIG_VERSION) return true;
    if (!apply_flags(config, argc, argv, true, err)) return false;
    if (config->config[0] && !apply_file(config, err)) return false;
    return apply_flags(config, argc, argv, false, err) && validate(config, err);
}

static void print_option(FILE *stream, const struct option *option) {
    char name[MAX_NAME_BYTES];
    option_name(option, name);
    int width = fprintf(stream, "  --%s %s", name, option->words);
    fprintf(stream, "%*s%s", width < HELP_COLUMN ? HELP_COLUMN - width : 1, "", option->help);
    bool ranged = option->kind == INT || option->kind == REAL || option->kind == NUMBERS;
    if (option->initial[0]) fprintf(stream, " [%s%s", option->initial, ranged ? "; " : "]");
    if (ranged) fprintf(stream, "%.16g to %.16g]", option->min, option->max);
    fputc('\n', stream);
}

void config_print_help(FILE *stream) {
    static const char *const titles[] = {
        [ALL] = "Options of both", [SERVE] = "Options of quern serve", [BENCH] = "Options of quern bench"};
    fputs("quern " QUERN_VERSION ": an OpenAI-compatible server for Qwen3 models\n\n"
          "  quern serve [options]    load a model and answer over HTTP\n"
          "  quern bench [options]    measure tokens per second without HTTP\n"
          "  quern --version\n"
          "  quern --help\n\n"
          "An option is --name VALUE or --name=VALUE, and \"name\": VALUE in the file of --config.\n"
          "Defaults and what is allowed stand in [brackets].\n",
          stream);
    for (enum option_use use = ALL; use <= BENCH; use++) {
        fprintf(stream, "\n%s:\n", titles[use]);
        for (int i = 0; i < N_OPTIONS; i++) {
            if (OPTIONS[i].use == use) print_option(stream, &OPTIONS[i]);
        }
    }
}
