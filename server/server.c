#include "server/server.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* SplitMix64 (Steele, Lea and Flood, 2014): a bijection, so that distinct inputs stay distinct. */
static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t random_key(void) {
    uint64_t key;
    if (getrandom(&key, sizeof key, 0) == (ssize_t)sizeof key) return key;
    return mix((uint64_t)engine_now_ns());
}

void server_init(struct server *server, const char *model_name, struct log *log) {
    *server = (struct server){
        .model_name = model_name,
        .log = log,
        .created_s = (int64_t)time(NULL),
        .id_key = random_key(),
        .seed_key = random_key(),
    };
}

void server_ready(struct server *server, struct engine *engine, struct tokenizer *tokenizer) {
    server->engine = engine;
    server->tokenizer = tokenizer;
    atomic_store(&server->state, SERVER_READY);
}

uint64_t server_next_seed(struct server *server) {
    return mix(server->seed_key + atomic_fetch_add(&server->n_seeds, 1));
}

void server_next_id(struct server *server, const char *prefix, char id[SERVER_ID_SIZE]) {
    uint64_t n = atomic_fetch_add(&server->n_ids, 1);
    unsigned long long digits = mix(server->id_key + n);
    snprintf(id, SERVER_ID_SIZE, "%s%08x%016llx", prefix, (unsigned)(mix(digits) >> 32), digits);
}

bool server_check_ready(struct server *server, struct error *err) {
    switch (atomic_load(&server->state)) {
    case SERVER_LOADING:
        return fail(err, ERR_UNAVAILABLE, "the model is still loading, try again in a moment");
    case SERVER_STOPPING:
        return fail(err, ERR_UNAVAILABLE, "the server is stopping");
    case SERVER_READY:
        break;
    }
    return true;
}

bool server_check_model(const struct server *server, const char *name, struct error *err) {
    if (name == NULL || strcmp(name, server->model_name) == 0) return true;
    return fail_param(err, ERR_NOT_FOUND, "model", "the model %.128s does not exist here; %.128s does", name,
                      server->model_name);
}
