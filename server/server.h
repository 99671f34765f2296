/* What every endpoint is given: the engine, the tokenizer, the name of the model, and where the server is in its life.
 *
 * `state` is written by the main thread; engine, tokenizer and info are set before it becomes SERVER_READY and stay
 * until the last request has ended. */
#ifndef QUERN_SERVER_SERVER_H
#define QUERN_SERVER_SERVER_H

#include "engine/engine.h"
#include "engine/log.h"
#include "engine/tokenizer.h"
#include "server/chat_family.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct api_keys;
struct background;
struct grammar_cache;
struct response_store;
struct token_trie;

enum server_state { SERVER_LOADING, SERVER_READY, SERVER_STOPPING };

struct server {
    _Atomic enum server_state state;
    const char *model_name; // borrowed, as the rest
    struct log *log;
    struct api_keys *api_keys;      // NULL: everyone may ask
    bool page;                      // the chat page is served
    struct engine *engine;          // NULL while loading
    struct tokenizer *tokenizer;    // NULL while loading
    struct token_trie *trie;        // set before server_ready, as what follows
    struct grammar_cache *grammars; // NULL: no structured output
    struct response_store *responses;
    struct background *background;
    enum chat_family family;
    enum engine_pooling pooling; // of embeddings that name none
    bool is_strict;              // requests with fields that have no effect are refused
    int64_t created_s;           // Unix time of the model entry
    uint64_t id_key;             // random: keys the ids of answers
    uint64_t seed_key;           // random: keys the seeds of requests that name none
    _Atomic uint64_t n_ids;
    _Atomic uint64_t n_seeds;
    _Atomic uint64_t n_stopped_by_string; // requests the engine saw as cancelled, but that ended as they should
};

void server_init(struct server *server, const char *model_name, struct log *log);

/* From here on requests are served. */
void server_ready(struct server *server, struct engine *engine, struct tokenizer *tokenizer);

/* For a request that names none. */
uint64_t server_next_seed(struct server *server);

enum { SERVER_ID_SIZE = 48 };

/* prefix and 24 hexadecimal digits, no two alike. */
void server_next_id(struct server *server, const char *prefix, char id[SERVER_ID_SIZE]);

/* ERR_UNAVAILABLE unless requests are served now. */
bool server_check_ready(struct server *server, struct error *err);

/* ERR_NOT_FOUND unless name is that of the model, or NULL. */
bool server_check_model(const struct server *server, const char *name, struct error *err);

#endif
