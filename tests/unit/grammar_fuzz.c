/* Mutated schemas, tools, expressions and choices, compiled and walked until the time is over; for a build with
 * sanitizers: grammar_fuzz TOKENIZER SCHEMAS SECONDS SEED
 *
 * Ends with 1 when something does not hold: a compilation takes over MAX_SECONDS, a refusal has no message, a mask is
 * empty, or the mask and the matcher disagree about a token. The last input is in grammar_fuzz.last. */
#include "engine/engine.h"
#include "engine/grammar.h"
#include "engine/token_trie.h"
#include "engine/tokenizer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SECONDS 2.0
#define MAX_STEPS   40
#define N_TRIED     30 // tokens compared with the mask at each step

struct fuzzer {
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    cJSON *schemas; // array
    uint64_t random;
    uint64_t n_inputs, n_served, n_steps, n_tokens;
    double slowest_s;
};

static const char *const words[] = {"{\"$ref\":\"#\"}",
                                    "{\"$ref\":\"#/$defs/a\"}",
                                    "true",
                                    "false",
                                    "null",
                                    "{}",
                                    "[]",
                                    "\"\"",
                                    "1e308",
                                    "-1",
                                    "0.5",
                                    "20000",
                                    "\"^(a|b)*$\"",
                                    "\"[^\\\\s]{3,9}\"",
                                    "\"\\\\d+$\"",
                                    "\"(x+x+)+y\"",
                                    "{\"anyOf\":[{},{}]}",
                                    "{\"oneOf\":[true]}",
                                    "\"integer\"",
                                    "{\"type\":\"string\",\"pattern\":\"a.*b\"}",
                                    "{\"additionalProperties\":true}",
                                    "{\"minItems\":3}",
                                    "[\"string\",\"null\"]"};
static const char *const expressions[] = {
    "[a-z]{2,5}(foo|bar)*\\d+", "(a|b)*c.{3}", "[^\"\\\\]*\\n?", "\\w+@\\w+\\.(com|org)", "(x+x+)+y",
    "[\\u00e9-\\uffff]{1,3}",   "((a?){9}){9}"};
static const char alphabet[] = "()[]{}*+?|\\^$.,-019az\"'dDwWsSux:=<! \303\251";

static uint32_t draw(struct fuzzer *fuzzer, uint32_t below) {
    fuzzer->random = fuzzer->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fuzzer->random >> 33) % below);
}

/* A value somewhere below root, root itself least often. */
static cJSON *draw_value(struct fuzzer *fuzzer, cJSON *root) {
    while (root->child && draw(fuzzer, 5) > 0) {
        cJSON *child = root->child;
        for (uint32_t i = draw(fuzzer, (uint32_t)cJSON_GetArraySize(root)); i > 0; i--) child = child->next;
        root = child;
    }
    return root;
}

static cJSON *draw_schema(struct fuzzer *fuzzer) {
    return cJSON_GetArrayItem(fuzzer->schemas, (int)draw(fuzzer, (uint32_t)cJSON_GetArraySize(fuzzer->schemas)));
}

/* Puts something else at a random place of the tree. */
static void mutate_tree(struct fuzzer *fuzzer, cJSON *root) {
    cJSON *holder = draw_value(fuzzer, root), *donor;
    if (!holder->child) return;
    int index = (int)draw(fuzzer, (uint32_t)cJSON_GetArraySize(holder));
    cJSON *old = cJSON_GetArrayItem(holder, index);
    switch (draw(fuzzer, 4)) {
    case 0:
        donor = cJSON_Parse(words[draw(fuzzer, sizeof words / sizeof *words)]);
        break;
    case 1:
        donor = cJSON_Duplicate(draw_value(fuzzer, root), true);
        break;
    default:
        donor = cJSON_Duplicate(draw_value(fuzzer, draw_schema(fuzzer)), true);
        break;
    }
    if (cJSON_IsObject(holder)) {
        char name[64];
        snprintf(name, sizeof name, "%s", draw(fuzzer, 6) == 0 && donor->string ? donor->string : old->string);
        cJSON_DetachItemViaPointer(holder, old);
        cJSON_Delete(old);
        free(donor->string);
        donor->string = NULL;
        cJSON_AddItemToObject(holder, name, donor);
    } else {
        cJSON_ReplaceItemViaPointer(holder, old, donor);
    }
}

static void mutate_bytes(struct fuzzer *fuzzer, char *text, size_t *length, size_t capacity) {
    for (uint32_t n = 1 + draw(fuzzer, 4); n > 0 && *length > 0; n--) {
        size_t at = draw(fuzzer, (uint32_t)*length);
        switch (draw(fuzzer, 4)) {
        case 0:
            text[at] = (char)draw(fuzzer, 256);
            break;
        case 1:
            text[at] = alphabet[draw(fuzzer, sizeof alphabet - 1)];
            break;
        case 2:
            memmove(text + at, text + at + 1, --*length - at);
            break;
        default:
            if (*length + 1 >= capacity) break;
            memmove(text + at + 1, text + at, (*length)++ - at);
            text[at] = alphabet[draw(fuzzer, sizeof alphabet - 1)];
        }
    }
}

/* Where a schema stands: alone, as the parameters of a tool, or of one of them. */
static const struct form {
    enum grammar_kind kind;
    const char *text;
} forms[] = {
    {GRAMMAR_JSON_SCHEMA, "%s"},
    {GRAMMAR_TOOL_CALL, "[{\"name\":\"f\",\"parameters\":%s},{\"name\":\"g\",\"parameters\":true}]"},
    {GRAMMAR_XML_CALL, "[{\"name\":\"f\",\"parameters\":%s},{\"name\":\"g\",\"parameters\":true}]"},
    {GRAMMAR_XML_CALL, "[{\"name\":\"f\",\"parameters\":{\"properties\":{\"x\":%s},\"required\":[\"x\"]}}]"},
};

static struct grammar_source make_source(struct fuzzer *fuzzer, char *buffer, size_t capacity) {
    struct grammar_source source = {.text = buffer};
    uint32_t kind = draw(fuzzer, 10);
    if (kind < 7) {
        cJSON *schema = cJSON_Duplicate(draw_schema(fuzzer), true);
        for (uint32_t n = draw(fuzzer, 5); n > 0; n--) mutate_tree(fuzzer, schema);
        char *text = cJSON_PrintUnformatted(schema);
        const struct form *form = &forms[kind < 4 ? kind : 0];
        int length = snprintf(buffer, capacity / 2, form->text, text);
        source.kind = form->kind;
        source.length = (size_t)length < capacity / 2 ? (size_t)length : capacity / 2 - 1;
        free(text);
        cJSON_Delete(schema);
    } else {
        const char *text = expressions[draw(fuzzer, sizeof expressions / sizeof *expressions)];
        source.kind = kind < 9 ? GRAMMAR_REGEX : GRAMMAR_CHOICE;
        if (source.kind == GRAMMAR_CHOICE) text = "[\"yes\",\"no\",\"\\u00e9\\n\"]";
        source.length = strlen(text);
        memcpy(buffer, text, source.length);
    }
    if (kind > 5) mutate_bytes(fuzzer, buffer, &source.length, capacity);
    return source;
}

static void give_up(const char *what) {
    fprintf(stderr, "%s; see grammar_fuzz.last\n", what);
    exit(1);
}

static void walk(struct fuzzer *fuzzer, struct grammar *grammar) {
    struct grammar_matcher matcher;
    grammar_matcher_init(&matcher, grammar);
    bool is_over = false;
    for (int step = 0; step < MAX_STEPS && !is_over; step++, fuzzer->n_steps++) {
        const uint32_t *mask = grammar_matcher_mask(&matcher, NULL);
        int32_t taken = -1;
        if (!mask) give_up("no mask");
        for (int i = 0; i < N_TRIED; i++, fuzzer->n_tokens++) {
            int32_t id = (int32_t)draw(fuzzer, (uint32_t)fuzzer->trie->n_vocab);
            struct grammar_matcher copy;
            grammar_matcher_copy(&copy, &matcher);
            bool takes = grammar_matcher_accept(&copy, id), is_in = mask[id / 32] >> (id % 32) & 1;
            grammar_matcher_finish(&copy);
            if (is_in && !takes) give_up("a token of the mask is not taken");
            if (takes) taken = id;
        }
        for (int32_t id = 0; taken < 0 && id < fuzzer->trie->n_vocab; id++)
            if (mask[id / 32] >> (id % 32) & 1) taken = id;
        if (taken < 0) give_up("an empty mask");
        if (!grammar_matcher_accept(&matcher, taken)) give_up("a token is not taken twice");
        is_over = token_trie_is_stop(fuzzer->trie, taken);
    }
    char noise[40];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)draw(fuzzer, 256);
    grammar_matcher_accept_bytes(&matcher, noise, draw(fuzzer, sizeof noise));
    grammar_matcher_finish(&matcher);
}

static double cpu_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void try_one(struct fuzzer *fuzzer) {
    static char buffer[1 << 16];
    struct grammar_source source = make_source(fuzzer, buffer, sizeof buffer);
    FILE *last = fopen("grammar_fuzz.last", "wb");
    if (last) {
        fwrite(buffer, 1, source.length, last);
        fclose(last);
    }
    struct error err = {0};
    double began = cpu_seconds();
    struct grammar *grammar = grammar_create(fuzzer->trie, &source, &err);
    double seconds = cpu_seconds() - began;
    if (seconds > fuzzer->slowest_s) fuzzer->slowest_s = seconds;
    if (seconds > MAX_SECONDS) give_up("slow");
    if (!grammar && (err.code != ERR_INVALID || !err.message[0])) give_up("a refusal without a reason");
    fuzzer->n_inputs++;
    if (!grammar) return;
    fuzzer->n_served++;
    walk(fuzzer, grammar);
    grammar_release(grammar);
}

static cJSON *read_schemas(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    cJSON *schemas = NULL;
    if (file && text && fread(text, 1, (1 << 20) - 1, file) > 0) schemas = cJSON_Parse(text);
    if (file) fclose(file);
    free(text);
    return schemas;
}

int main(int argc, char **argv) {
    struct error err = {0};
    if (argc != 5) return 2;
    struct fuzzer fuzzer = {.random = strtoull(argv[4], NULL, 10)};
    fuzzer.tokenizer = tokenizer_load(argv[1], &err);
    fuzzer.schemas = read_schemas(argv[2]);
    if (!fuzzer.tokenizer || !fuzzer.schemas) return 2;
    int32_t stop = tokenizer_find_added(fuzzer.tokenizer, "<|im_end|>");
    struct token_trie_options options = {fuzzer.tokenizer, tokenizer_size(fuzzer.tokenizer), &stop, 1};
    fuzzer.trie = token_trie_create(&options, &err);
    int64_t end = engine_now_ns() + strtoll(argv[3], NULL, 10) * 1000000000;
    while (fuzzer.trie && engine_now_ns() < end) try_one(&fuzzer);
    printf("%llu inputs, %llu served, %llu steps, %llu tokens compared, slowest compilation %.3f s\n",
           (unsigned long long)fuzzer.n_inputs, (unsigned long long)fuzzer.n_served, (unsigned long long)fuzzer.n_steps,
           (unsigned long long)fuzzer.n_tokens, fuzzer.slowest_s);
    token_trie_destroy(fuzzer.trie);
    tokenizer_destroy(fuzzer.tokenizer);
    cJSON_Delete(fuzzer.schemas);
    return 0;
}
