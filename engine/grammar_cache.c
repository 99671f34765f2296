#include "engine/grammar_cache.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct grammar *grammar; // owned reference
    enum grammar_kind kind;
    char *text; // [length] owned
    size_t length;
    uint64_t hash;
    uint64_t last_used;
};

struct grammar_cache {
    const struct token_trie *trie;
    pthread_mutex_t lock;
    struct entry *entries; // [n_entries] owned
    int32_t n_entries, max_entries;
    uint64_t clock;
    uint64_t n_found, n_compiled;
};

/* FNV-1a. */
static uint64_t hash_of(const struct grammar_source *source) {
    uint64_t hash = 0xcbf29ce484222325u ^ (uint64_t)source->kind;
    for (size_t i = 0; i < source->length; i++) hash = (hash ^ (unsigned char)source->text[i]) * 0x100000001b3u;
    return hash;
}

struct grammar_cache *grammar_cache_create(const struct token_trie *trie, int32_t max_grammars, struct error *err) {
    assert(max_grammars > 0);
    struct grammar_cache *cache = calloc(1, sizeof *cache);
    if (cache) cache->entries = calloc((size_t)max_grammars, sizeof *cache->entries);
    if (!cache || !cache->entries) {
        free(cache);
        fail(err, ERR_MEMORY, "No memory for %d grammars.", max_grammars);
        return NULL;
    }
    cache->trie = trie;
    cache->max_entries = max_grammars;
    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

static void drop(struct entry *entry) {
    grammar_release(entry->grammar);
    free(entry->text);
}

void grammar_cache_destroy(struct grammar_cache *cache) {
    if (!cache) return;
    for (int32_t i = 0; i < cache->n_entries; i++) drop(&cache->entries[i]);
    free(cache->entries);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static struct entry *find(struct grammar_cache *cache, const struct grammar_source *source, uint64_t hash) {
    for (int32_t i = 0; i < cache->n_entries; i++) {
        struct entry *entry = &cache->entries[i];
        if (entry->hash == hash && entry->kind == source->kind && entry->length == source->length &&
            (source->length == 0 || memcmp(entry->text, source->text, source->length) == 0))
            return entry;
    }
    return NULL;
}

/* A place for a new entry: a free one, or that of the longest unused. */
static struct entry *find_place(struct grammar_cache *cache) {
    if (cache->n_entries < cache->max_entries) return &cache->entries[cache->n_entries++];
    struct entry *oldest = cache->entries;
    for (int32_t i = 1; i < cache->n_entries; i++)
        if (cache->entries[i].last_used < oldest->last_used) oldest = &cache->entries[i];
    drop(oldest);
    return oldest;
}

/* Without memory for the text the grammar is not kept, and serves all the same. */
static void keep(struct grammar_cache *cache, const struct grammar_source *source, uint64_t hash,
                 struct grammar *grammar) {
    char *text = malloc(source->length + 1);
    if (!text || find(cache, source, hash)) {
        free(text);
        return;
    }
    if (source->length > 0) memcpy(text, source->text, source->length);
    struct entry *entry = find_place(cache);
    entry->grammar = grammar_retain(grammar);
    entry->kind = source->kind;
    entry->text = text;
    entry->length = source->length;
    entry->hash = hash;
    entry->last_used = ++cache->clock;
}

struct grammar *grammar_cache_get(struct grammar_cache *cache, const struct grammar_source *source, struct error *err) {
    uint64_t hash = hash_of(source);
    struct grammar *grammar = NULL;
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = find(cache, source, hash);
    if (entry) {
        grammar = grammar_retain(entry->grammar);
        entry->last_used = ++cache->clock;
        cache->n_found++;
    }
    pthread_mutex_unlock(&cache->lock);
    if (grammar) return grammar;
    grammar = grammar_create(cache->trie, source, err);
    if (!grammar) return NULL;
    pthread_mutex_lock(&cache->lock);
    cache->n_compiled++;
    keep(cache, source, hash, grammar);
    pthread_mutex_unlock(&cache->lock);
    return grammar;
}

struct grammar_cache_counts grammar_cache_counts(struct grammar_cache *cache) {
    pthread_mutex_lock(&cache->lock);
    struct grammar_cache_counts counts = {cache->n_entries, cache->n_found, cache->n_compiled};
    pthread_mutex_unlock(&cache->lock);
    return counts;
}
