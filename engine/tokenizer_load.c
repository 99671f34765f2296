/* Reads tokenizer.json. What the encoder does not do (another model, normaliser, split, flag) is refused by name. */
#include "engine/json_file.h"
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <utf8proc.h>

#define MAX_ID         0xffffff // sixteen million; Qwen3 has 151,669 ids
#define MAX_FILE_BYTES ((size_t)1 << 30)
#define N_LETTERS      324 // code points below this hold the byte-level alphabet: 256 and the 68 bytes moved up

struct loader {
    struct tokenizer *tokenizer;
    const cJSON *model;
    const cJSON *added_tokens;
    int16_t letter_bytes[N_LETTERS]; // the byte that a letter of the byte-level alphabet stands for, or -1
    char *buffer;                    // [buffer_capacity] bytes of the token at hand, owned
    size_t buffer_capacity;
};

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* The "type" of an object of the pipeline: "none" when it is absent or null. */
static const char *type_name(const cJSON *item) {
    if (!item || cJSON_IsNull(item)) return "none";
    const cJSON *type = member(item, "type");
    return cJSON_IsString(type) ? type->valuestring : "an object without type";
}

static bool is_type(const cJSON *item, const char *name) {
    return strcmp(type_name(item), name) == 0;
}

static bool is_false(const cJSON *object, const char *key) {
    return cJSON_IsFalse(member(object, key));
}

/* Absent, null, false, "" or 0: the option is not in use. */
static bool is_unset(const cJSON *object, const char *key) {
    const cJSON *item = member(object, key);
    if (!item || cJSON_IsNull(item) || cJSON_IsFalse(item)) return true;
    if (cJSON_IsString(item)) return item->valuestring[0] == '\0';
    return cJSON_IsNumber(item) && item->valuedouble == 0;
}

static bool read_id(const cJSON *item, int32_t *id) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= MAX_ID)) return false;
    *id = (int32_t)item->valuedouble;
    return *id == item->valuedouble;
}

static bool load_pattern(struct loader *loader, const cJSON *pre_tokenizer, struct error *err) {
    const cJSON *steps = member(pre_tokenizer, "pretokenizers");
    if (!is_type(pre_tokenizer, "Sequence") || cJSON_GetArraySize(steps) != 2)
        return fail(err, ERR_INVALID, "pre_tokenizer is %s; supported is a Sequence of Split and ByteLevel.",
                    type_name(pre_tokenizer));
    const cJSON *split = cJSON_GetArrayItem(steps, 0), *byte_level = cJSON_GetArrayItem(steps, 1);
    if (!is_type(split, "Split") || !is_type(byte_level, "ByteLevel"))
        return fail(err, ERR_INVALID, "pre_tokenizer is a Sequence of %s and %s; supported is Split, then ByteLevel.",
                    type_name(split), type_name(byte_level));
    const cJSON *regex = member(member(split, "pattern"), "Regex"), *behavior = member(split, "behavior");
    if (!cJSON_IsString(regex)) return fail(err, ERR_INVALID, "pre_tokenizer: Split needs a pattern.Regex string.");
    if (!cJSON_IsString(behavior) || strcmp(behavior->valuestring, "Isolated") != 0 || !is_false(split, "invert"))
        return fail(err, ERR_INVALID, "pre_tokenizer: Split must have behavior \"Isolated\" and invert false.");
    if (!is_false(byte_level, "add_prefix_space") || !is_false(byte_level, "use_regex"))
        return fail(err, ERR_INVALID, "pre_tokenizer: ByteLevel must have add_prefix_space and use_regex false.");
    loader->tokenizer->pattern = split_pattern_create(regex->valuestring, err);
    return loader->tokenizer->pattern != NULL;
}

static bool check_model(const struct loader *loader, struct error *err) {
    static const char *const unused[] = {
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"};
    if (!is_type(loader->model, "BPE"))
        return fail(err, ERR_INVALID, "model is %s; supported is BPE.", type_name(loader->model));
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (!is_unset(loader->model, unused[i]))
            return fail(err, ERR_INVALID, "model.%s is set, which is not supported.", unused[i]);
    if (!cJSON_IsObject(member(loader->model, "vocab")))
        return fail(err, ERR_INVALID, "model.vocab must be an object of tokens and their ids.");
    if (!cJSON_IsArray(member(loader->model, "merges")))
        return fail(err, ERR_INVALID, "model.merges must be an array.");
    return true;
}

/* TemplateProcessing of one text: the text itself, or with one token behind it. */
static bool load_template(struct loader *loader, const cJSON *template, struct error *err) {
    const cJSON *single = member(template, "single"), *token = member(cJSON_GetArrayItem(single, 1), "SpecialToken");
    const char *name = cJSON_GetStringValue(member(token, "id"));
    int n_pieces = cJSON_GetArraySize(single);
    if (n_pieces < 1 || n_pieces > 2 || !member(cJSON_GetArrayItem(single, 0), "Sequence") || (n_pieces == 2 && !name))
        return fail(err, ERR_INVALID,
                    "post_processor: TemplateProcessing must have single with a Sequence, and a SpecialToken at most.");
    if (n_pieces == 1) return true;
    const cJSON *ids = member(member(member(template, "special_tokens"), name), "ids");
    if (cJSON_GetArraySize(ids) == 1 && read_id(cJSON_GetArrayItem(ids, 0), &loader->tokenizer->end_id)) return true;
    return fail(err, ERR_INVALID, "post_processor: special_tokens must give \"%.80s\" one id.", name);
}

static bool load_post_processor(struct loader *loader, const cJSON *post_processor, struct error *err) {
    const cJSON *steps = member(post_processor, "processors"), *step;
    if (is_type(post_processor, "none") || is_type(post_processor, "ByteLevel")) return true;
    if (is_type(post_processor, "TemplateProcessing")) return load_template(loader, post_processor, err);
    if (!is_type(post_processor, "Sequence"))
        return fail(err, ERR_INVALID,
                    "post_processor is %s; supported are ByteLevel, TemplateProcessing, a Sequence of them and none.",
                    type_name(post_processor));
    cJSON_ArrayForEach(step, steps) {
        if (is_type(step, "Sequence"))
            return fail(err, ERR_INVALID, "post_processor is a Sequence of Sequences, which is not supported.");
        if (!load_post_processor(loader, step, err)) return false;
    }
    return true;
}

static bool load_pipeline(struct loader *loader, const cJSON *root, struct error *err) {
    loader->model = member(root, "model");
    loader->added_tokens = member(root, "added_tokens");
    const cJSON *normalizer = member(root, "normalizer"), *decoder = member(root, "decoder");
    loader->tokenizer->uses_nfc = is_type(normalizer, "NFC");
    if (!loader->tokenizer->uses_nfc && !is_type(normalizer, "none"))
        return fail(err, ERR_INVALID, "normalizer is %s; supported are NFC and none.", type_name(normalizer));
    loader->tokenizer->end_id = -1;
    if (!load_post_processor(loader, member(root, "post_processor"), err)) return false;
    if (!is_type(decoder, "none") && !is_type(decoder, "ByteLevel"))
        return fail(err, ERR_INVALID, "decoder is %s; supported are ByteLevel and none.", type_name(decoder));
    if (loader->added_tokens && !cJSON_IsNull(loader->added_tokens) && !cJSON_IsArray(loader->added_tokens))
        return fail(err, ERR_INVALID, "added_tokens must be an array.");
    return check_model(loader, err) && load_pattern(loader, member(root, "pre_tokenizer"), err);
}

/* Byte-level alphabet of GPT-2: printable Latin-1 stands for itself, the other 68 bytes, in order, for 256, 257, … */
static void fill_alphabet(struct loader *loader) {
    memset(loader->letter_bytes, -1, sizeof loader->letter_bytes);
    for (int byte = 0, moved = 256; byte < 256; byte++) {
        bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        loader->letter_bytes[is_printable ? byte : moved++] = (int16_t)byte;
    }
}

static bool reserve_buffer(struct loader *loader, size_t length, struct error *err) {
    if (length <= loader->buffer_capacity) return true;
    char *buffer = realloc(loader->buffer, length * 2);
    if (!buffer) return fail(err, ERR_MEMORY, "No memory for a token of %zu bytes.", length);
    loader->buffer = buffer;
    loader->buffer_capacity = length * 2;
    return true;
}

/* Writes the bytes that letters stand for at loader->buffer + offset, and their number to n_bytes. */
static bool decode_letters(struct loader *loader, const char *letters, size_t length, size_t offset, size_t *n_bytes) {
    *n_bytes = 0;
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t letter;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)letters + i, (utf8proc_ssize_t)(length - i), &letter);
        if (n < 1 || letter >= N_LETTERS || loader->letter_bytes[letter] < 0) return false;
        loader->buffer[offset + (*n_bytes)++] = (char)loader->letter_bytes[letter];
        i += (size_t)n;
    }
    return true;
}

/* The number of ids that both lists need, every id checked to be one. */
static bool measure(const struct loader *loader, int32_t *size, int32_t *n_tokens, struct error *err) {
    int32_t id, largest = -1, n_seen = 0;
    const cJSON *item, *vocab = member(loader->model, "vocab");
    cJSON_ArrayForEach(item, vocab) {
        if (!read_id(item, &id))
            return fail(err, ERR_INVALID, "model.vocab: the id of \"%.80s\" must be an integer from 0 to %d.",
                        item->string, MAX_ID);
        if (id > largest) largest = id;
        n_seen++;
    }
    *n_tokens = n_seen;
    n_seen = 0;
    cJSON_ArrayForEach(item, loader->added_tokens) {
        if (!read_id(member(item, "id"), &id))
            return fail(err, ERR_INVALID, "added_tokens[%d].id must be an integer from 0 to %d.", n_seen, MAX_ID);
        if (id > largest) largest = id;
        n_seen++;
    }
    *size = largest + 1;
    if (*n_tokens > *size)
        return fail(err, ERR_INVALID, "model.vocab has %d tokens but ids only up to %d.", *n_tokens, largest);
    return true;
}

static bool load_vocab(struct loader *loader, struct error *err) {
    struct vocabulary *vocabulary = &loader->tokenizer->vocabulary;
    const cJSON *item, *vocab = member(loader->model, "vocab");
    cJSON_ArrayForEach(item, vocab) {
        int32_t id;
        size_t length = strlen(item->string), n_bytes, n_other;
        if (!read_id(item, &id) || !reserve_buffer(loader, length, err)) return false;
        if (length == 0) return fail(err, ERR_INVALID, "model.vocab: the token with id %d is empty.", id);
        if (!decode_letters(loader, item->string, length, 0, &n_bytes))
            return fail(err, ERR_INVALID, "model.vocab: \"%.80s\" (id %d) is not written in the byte-level alphabet.",
                        item->string, id);
        vocabulary_bytes(vocabulary, id, &n_other);
        if (n_other > 0)
            return fail(err, ERR_INVALID, "model.vocab: \"%.80s\" has id %d, which another token has too.",
                        item->string, id);
        if (vocabulary_find(vocabulary, loader->buffer, n_bytes) >= 0)
            return fail(err, ERR_INVALID, "model.vocab: \"%.80s\" stands there twice.", item->string);
        if (!vocabulary_add(vocabulary, id, loader->buffer, n_bytes, err)) return false;
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        loader->tokenizer->bpe.byte_ids[byte] = vocabulary_find(vocabulary, &c, 1);
        if (loader->tokenizer->bpe.byte_ids[byte] < 0)
            return fail(err, ERR_INVALID, "model.vocab: no token stands for byte 0x%02x.", byte);
    }
    return true;
}

/* A merge is "left right" or ["left", "right"]; gives both texts and their lengths. */
static bool read_merge(const cJSON *item, const char *parts[2], size_t lengths[2]) {
    if (cJSON_IsString(item)) {
        const char *space = strchr(item->valuestring, ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        parts[0] = item->valuestring;
        lengths[0] = (size_t)(space - parts[0]);
        parts[1] = space + 1;
        lengths[1] = strlen(parts[1]);
        return true;
    }
    const cJSON *left = cJSON_IsArray(item) ? item->child : NULL, *right = left ? left->next : NULL;
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next) return false;
    parts[0] = left->valuestring;
    lengths[0] = strlen(parts[0]);
    parts[1] = right->valuestring;
    lengths[1] = strlen(parts[1]);
    return true;
}

static bool load_merge(struct loader *loader, const cJSON *item, uint32_t rank, struct error *err) {
    const struct vocabulary *vocabulary = &loader->tokenizer->vocabulary;
    const char *parts[2];
    size_t lengths[2], n_bytes[2], start = 0;
    int32_t ids[2];
    if (!read_merge(item, parts, lengths))
        return fail(err, ERR_INVALID, "model.merges[%u] must be \"left right\" or [\"left\", \"right\"].", rank);
    if (!reserve_buffer(loader, lengths[0] + lengths[1], err)) return false;
    for (int side = 0; side < 2; side++) {
        bool decoded = decode_letters(loader, parts[side], lengths[side], start, &n_bytes[side]);
        ids[side] = decoded ? vocabulary_find(vocabulary, loader->buffer + start, n_bytes[side]) : -1;
        if (ids[side] < 0)
            return fail(err, ERR_INVALID, "model.merges[%u]: \"%.*s\" is not in model.vocab.", rank,
                        (int)(lengths[side] < 80 ? lengths[side] : 80), parts[side]);
        start += n_bytes[side];
    }
    int32_t merged = vocabulary_find(vocabulary, loader->buffer, start);
    if (merged < 0)
        return fail(err, ERR_INVALID, "model.merges[%u]: \"%.80s\" and its neighbour make no token of model.vocab.",
                    rank, parts[0]);
    bpe_add_merge(&loader->tokenizer->bpe, ids[0], ids[1], rank, merged);
    return true;
}

static bool load_merges(struct loader *loader, struct error *err) {
    const cJSON *item, *merges = member(loader->model, "merges");
    uint32_t rank = 0;
    cJSON_ArrayForEach(item, merges) if (!load_merge(loader, item, rank++, err)) return false;
    return true;
}

static int compare_added(const void *a, const void *b) {
    const struct added_token *left = a, *right = b;
    uint32_t shorter = left->length < right->length ? left->length : right->length;
    int order = memcmp(left->content, right->content, shorter);
    return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

static bool load_added_token(struct loader *loader, const cJSON *item, int32_t index, struct error *err) {
    static const char *const unused[] = {"single_word", "lstrip", "rstrip", "normalized"};
    struct tokenizer *tokenizer = loader->tokenizer;
    const cJSON *content = member(item, "content");
    int32_t id;
    if (!cJSON_IsString(content) || content->valuestring[0] == '\0')
        return fail(err, ERR_INVALID, "added_tokens[%d].content must be a string, not empty.", index);
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (!is_unset(item, unused[i]))
            return fail(err, ERR_INVALID, "added_tokens[%d]: \"%.80s\" has %s true, which is not supported.", index,
                        content->valuestring, unused[i]);
    size_t length = strlen(content->valuestring), n_bytes;
    if (!read_id(member(item, "id"), &id)) return false;
    const char *bytes = vocabulary_bytes(&tokenizer->vocabulary, id, &n_bytes);
    if (n_bytes == 0 && !vocabulary_set(&tokenizer->vocabulary, id, content->valuestring, length, err)) return false;
    if (n_bytes > 0 && (n_bytes != length || memcmp(bytes, content->valuestring, length) != 0))
        return fail(err, ERR_INVALID, "added_tokens[%d]: \"%.80s\" has id %d, which another token has too.", index,
                    content->valuestring, id);
    tokenizer->added[index] = (struct added_token){.id = id, .is_special = cJSON_IsTrue(member(item, "special"))};
    return true;
}

static bool load_added(struct loader *loader, struct error *err) {
    struct tokenizer *tokenizer = loader->tokenizer;
    int32_t n_added = cJSON_GetArraySize(loader->added_tokens), index = 0;
    tokenizer->added = calloc((size_t)n_added + 1, sizeof *tokenizer->added);
    if (!tokenizer->added) return fail(err, ERR_MEMORY, "No memory for %d added tokens.", n_added);
    const cJSON *item;
    cJSON_ArrayForEach(item, loader->added_tokens) {
        if (!load_added_token(loader, item, index, err)) return false;
        index++;
    }
    /* Only now does the vocabulary stay where it is. */
    for (int32_t i = 0; i < n_added; i++) {
        struct added_token *added = &tokenizer->added[i];
        size_t length;
        added->content = tokenizer_bytes(tokenizer, added->id, &length);
        added->length = (uint32_t)length;
        tokenizer->added_first[(unsigned char)added->content[0]] = true;
    }
    tokenizer->n_added = n_added;
    qsort(tokenizer->added, (size_t)n_added, sizeof *tokenizer->added, compare_added);
    for (int32_t i = 1; i < n_added; i++)
        if (compare_added(&tokenizer->added[i - 1], &tokenizer->added[i]) == 0)
            return fail(err, ERR_INVALID, "added_tokens: \"%.*s\" stands there twice.",
                        (int)(tokenizer->added[i].length < 80 ? tokenizer->added[i].length : 80),
                        tokenizer->added[i].content);
    return true;
}

static bool load_all(struct loader *loader, const cJSON *root, struct error *err) {
    int32_t size = 0, n_tokens = 0;
    fill_alphabet(loader);
    return load_pipeline(loader, root, err) && measure(loader, &size, &n_tokens, err) &&
           vocabulary_init(&loader->tokenizer->vocabulary, size, n_tokens, err) &&
           bpe_init(&loader->tokenizer->bpe, (size_t)cJSON_GetArraySize(member(loader->model, "merges")), err) &&
           load_vocab(loader, err) && load_merges(loader, err) && load_added(loader, err);
}

struct tokenizer *tokenizer_load(const char *path, struct error *err) {
    struct error reason = {0};
    cJSON *root = json_file_read(path, MAX_FILE_BYTES, err);
    if (!root) return NULL;
    struct loader loader = {.tokenizer = calloc(1, sizeof *loader.tokenizer)};
    bool loaded =
        loader.tokenizer ? load_all(&loader, root, &reason) : fail(&reason, ERR_MEMORY, "no memory for a tokenizer");
    cJSON_Delete(root);
    free(loader.buffer);
    if (loaded) return loader.tokenizer;
    fail(err, reason.code, "%s: %s", path, reason.message);
    tokenizer_destroy(loader.tokenizer);
    return NULL;
}
