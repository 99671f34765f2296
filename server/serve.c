#include "server/serve.h"

#include "engine/engine.h"
#include "engine/grammar_cache.h"
#include "engine/token_trie.h"
#include "engine/tokenizer.h"
#include "server/api_keys.h"
#include "server/background.h"
#include "server/cors.h"
#include "server/engine_setup.h"
#include "server/http.h"
#include "server/response_store.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/signals.h"
#include "server/text_file.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The last name in a path: "models/demo/" serves as "demo". */
static char *last_name(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') --end;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') --start;
    return strndup(path + start, end - start);
}

static char *model_name(const struct config *config) {
    if (config->served_model_name[0] != '\0') return strdup(config->served_model_name);
    char *resolved = realpath(config->model, NULL); // "." has a name too
    char *name = last_name(resolved != NULL ? resolved : config->model);
    free(resolved);
    return name;
}

/* Each connection takes a descriptor: the soft limit, often 1,024, is raised as far as the hard one allows. */
static void allow_descriptors(int32_t n_connections, struct log *log) {
    enum { OTHERS = 64 }; // files, epolls, the log
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    rlim_t wanted = (rlim_t)n_connections + OTHERS;
    if (limit.rlim_cur >= wanted) return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == wanted) return;
    log_message(log, LOG_WARN, "%d connections were asked for, but this process may open only %llu files",
                (int)n_connections, (unsigned long long)limit.rlim_cur);
}

static void say_ready(struct log *log, const char *url, const struct config *config, const char *name) {
    bool is_unix = config->uds[0] != '\0';
    const char *host = config->tls_cert[0] != '\0' ? " https://localhost" : " http://localhost";
    log_message(log, LOG_INFO, "ready: %s serves %s", url, name);
    log_message(log, LOG_INFO,
                "try: curl %s%s%s/v1/chat/completions -H 'Content-Type: application/json' "
                "-d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'",
                is_unix ? "--unix-socket " : "", is_unix ? config->uds : "", is_unix ? host : url, name);
}

static bool find_family(const struct config *config, enum chat_family *family, struct log *log, struct error *err) {
    const char *folder = config->tokenizer[0] != '\0' ? config->tokenizer : config->model;
    if (!chat_family_find(folder, config->chat_template, family, err)) return false;
    log_message(log, LOG_INFO, "chat template: %s", chat_family_name(*family));
    return true;
}

struct serving {
    struct server server;
    char *model_name; // owned, as all here
    struct api_keys *api_keys;
    struct response_store *responses;
    struct background *background;
    struct string_builder tls_cert; // PEM, as tls_key; empty: without TLS
    struct string_builder tls_key;
    struct http *http;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct token_trie *trie;
    struct grammar_cache *grammars;
};

/* What structured output needs: the vocabulary as a trie, and room for compiled grammars. */
static bool prepare_grammars(struct serving *serving, struct error *err) {
    enum { MAX_GRAMMARS = 64 };
    const struct model_config *model = &engine_info(serving->engine)->model;
    if (model->n_eos_ids == 0) return true; // nothing could end
    const struct token_trie_options options = {.tokenizer = serving->tokenizer,
                                               .n_vocab = model->shape.vocab,
                                               .stop_ids = model->eos_ids,
                                               .n_stop_ids = model->n_eos_ids};
    serving->trie = token_trie_create(&options, err);
    if (serving->trie == NULL) return false;
    serving->grammars = grammar_cache_create(serving->trie, MAX_GRAMMARS, err);
    serving->server.trie = serving->trie;
    serving->server.grammars = serving->grammars;
    return serving->grammars != NULL;
}

static bool read_pem(const char *option, const char *path, struct string_builder *text, struct error *err) {
    struct error fault;
    text->max_length = 1 << 20;
    if (!text_file_read(path, text, &fault))
        return fail_param(err, fault.code, option, "--%s %s", option, fault.message);
    if (strstr(text->data, "-----BEGIN ") != NULL) return true;
    return fail_param(err, ERR_INVALID, option, "--%s %s: the file is no PEM, it has no line -----BEGIN …", option,
                      path);
}

static bool read_tls(struct serving *serving, const struct config *config, struct error *err) {
    return config->tls_cert[0] == '\0' || (read_pem("tls-cert", config->tls_cert, &serving->tls_cert, err) &&
                                           read_pem("tls-key", config->tls_key, &serving->tls_key, err));
}

static void wake(void *user) {
    signals_wake(user);
}

static bool start(struct serving *serving, const struct serve_options *of, struct error *err) {
    const struct config *config = of->config;
    struct log *log = of->log;
    serving->model_name = model_name(config);
    if (serving->model_name == NULL) return fail(err, ERR_MEMORY, "no memory for the name of the model");
    server_init(&serving->server, serving->model_name, log);
    serving->server.pooling = config->pooling == CONFIG_POOLING_MEAN ? POOLING_MEAN : POOLING_LAST;
    serving->server.is_strict = config->strict;
    serving->server.page = config->page;
    if (config->api_key[0] != '\0' || config->api_key_file[0] != '\0') {
        serving->api_keys = api_keys_create(config->api_key, config->api_key_file, err);
        if (serving->api_keys == NULL) return false;
        serving->server.api_keys = serving->api_keys;
    }
    serving->responses = response_store_create(config->response_store, (size_t)config->response_store_bytes, err);
    if (serving->responses == NULL) return false;
    serving->server.responses = serving->responses;
    serving->background = background_create(&serving->server, err);
    if (serving->background == NULL) return false;
    serving->server.background = serving->background;
    if (!cors_check(config->cors_origin, err) || !read_tls(serving, config, err)) return false;
    allow_descriptors(config->max_connections, log);
    const struct http_options options = {
        .host = config->host,
        .port = config->port,
        .unix_path = config->uds[0] != '\0' ? config->uds : NULL,
        .tls_cert = serving->tls_cert.data,
        .tls_key = serving->tls_key.data,
        .n_threads = config->http_threads,
        .max_connections = config->max_connections,
        .max_body_bytes = config->max_body_bytes,
        .cors_origins = config->cors_origin,
        .handle = routes_handle,
        .user = &serving->server,
        .log = log,
    };
    serving->http = http_create(&options, err);
    if (serving->http == NULL) return false;
    log_message(log, LOG_INFO, "listening on %s, loading %s", http_url(serving->http), config->model);
    serving->tokenizer = engine_setup_tokenizer(config, err);
    if (serving->tokenizer == NULL) return false;
    if (!find_family(config, &serving->server.family, log, err)) return false;
    struct engine_options engine_options = engine_setup_options(config, of->ops, log);
    engine_options.failed = wake;
    engine_options.user = of->signals;
    serving->engine = engine_create(&engine_options, err);
    if (serving->engine == NULL || !prepare_grammars(serving, err)) return false;
    server_ready(&serving->server, serving->engine, serving->tokenizer);
    say_ready(log, http_url(serving->http), config, serving->model_name);
    return true;
}

static void stop(struct serving *serving, int32_t timeout_ms, struct log *log) {
    int64_t began = engine_now_ns();
    atomic_store(&serving->server.state, SERVER_STOPPING);
    http_stop_accepting(serving->http);
    bool all = engine_drain(serving->engine, timeout_ms);
    int64_t left_ms = timeout_ms - (engine_now_ns() - began) / 1000000;
    // The last tokens still have to be sent.
    if (all) all = http_wait_idle(serving->http, left_ms > 0 ? (int32_t)left_ms : 0);
    log_message(log, all ? LOG_INFO : LOG_WARN, "%s after %.1f s",
                all ? "all requests have finished" : "the shutdown timeout is over, what still runs is ended",
                (double)(engine_now_ns() - began) / 1e9);
}

static void finish(struct serving *serving) {
    http_destroy(serving->http);
    background_destroy(serving->background);
    engine_destroy(serving->engine);
    grammar_cache_destroy(serving->grammars);
    token_trie_destroy(serving->trie);
    tokenizer_destroy(serving->tokenizer);
    if (serving->tls_key.data != NULL) explicit_bzero(serving->tls_key.data, serving->tls_key.length);
    string_builder_finish(&serving->tls_key);
    string_builder_finish(&serving->tls_cert);
    response_store_destroy(serving->responses);
    api_keys_destroy(serving->api_keys);
    free(serving->model_name);
}

/* A file that is wrong now must not lock everyone out: the keys of before stay. */
static void reload_keys(struct api_keys *keys, struct log *log) {
    struct error err;
    if (api_keys_reload(keys, &err)) {
        log_message(log, LOG_INFO, "read the API keys again, there are %d", (int)api_keys_count(keys));
    } else {
        log_message(log, LOG_ERROR, "the API keys stay as they were: %s", err.message);
    }
}

#define FAILED_MS 5000 // long enough for whoever watches /health every few seconds to see why

/* False when the device has failed. */
static bool wait_for_end(struct serving *serving, const struct serve_options *options, struct error *err) {
    int32_t timeout_s = (int32_t)options->config->shutdown_timeout_s;
    int number;
    while ((number = signals_wait(options->signals, -1)) == SIGHUP) reload_keys(serving->api_keys, options->log);
    if (number != 0) {
        log_message(options->log, LOG_INFO, "%s: no new requests, running ones may finish within %d s",
                    strsignal(number), timeout_s);
        stop(serving, timeout_s * 1000, options->log);
    }
    struct engine_stats stats;
    engine_stats(serving->engine, &stats);
    if (!stats.failed) return true;
    if (number == 0) signals_wait(options->signals, FAILED_MS);
    return fail(err, ERR_DEVICE, "the device has failed: %.400s", stats.failure);
}

bool serve(const struct serve_options *options, struct error *err) {
    struct serving serving = {0};
    bool ok = start(&serving, options, err) && wait_for_end(&serving, options, err);
    finish(&serving);
    return ok;
}
