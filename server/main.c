/* The program: options, log, backend, then the command. The only file that names a backend. */
#include "config/config.h"
#include "cpu/cpu_backend.h"
#include "engine/error.h"
#include "engine/log.h"
#include "server/bench.h"
#include "server/serve.h"
#include "server/signals.h"
#ifdef QUERN_CUDA
#include "cuda/cuda_backend.h"
#endif

#include <stdio.h>
#include <stdlib.h>

enum { STATUS_FAILED = 1, STATUS_USAGE = 2 };

#ifdef QUERN_CUDA
static const struct backend_ops *choose_backend(const struct config *config, struct error *err) {
    bool wanted = config->device != CONFIG_DEVICE_CPU;
    if (wanted && cuda_device_count() > 0) return cuda_backend(config->fused);
    if (config->device == CONFIG_DEVICE_CUDA) {
        fail_param(err, ERR_INVALID, "device", "--device cuda: there is no GPU that this build can use");
        return NULL;
    }
    return cpu_backend(config->fused);
}
#else
static const struct backend_ops *choose_backend(const struct config *config, struct error *err) {
    if (config->device == CONFIG_DEVICE_CUDA) {
        fail_param(err, ERR_INVALID, "device", "--device cuda: this quern was built without CUDA");
        return NULL;
    }
    return cpu_backend(config->fused);
}
#endif

static bool run_bench(const struct config *config, struct log *log, struct error *err) {
    if (config->url[0] != '\0') return bench(config, NULL, log, err);
    const struct backend_ops *ops = choose_backend(config, err);
    return ops != NULL && bench(config, ops, log, err);
}

/* Signals first: to look for GPUs starts threads of the driver, and a signal ends the process when it meets one thread
 * that does not block it. */
static bool run_serve(const struct config *config, struct log *log, struct error *err) {
    struct signals *signals = signals_create(config->api_key_file[0] != '\0', err);
    if (signals == NULL) return false;
    const struct backend_ops *ops = choose_backend(config, err);
    const struct serve_options options = {.config = config, .ops = ops, .signals = signals, .log = log};
    bool ok = ops != NULL && serve(&options, err);
    signals_destroy(signals);
    return ok;
}

static bool run(const struct config *config, struct log *log, struct error *err) {
    return config->command == CONFIG_BENCH ? run_bench(config, log, err) : run_serve(config, log, err);
}

static int run_logged(const struct config *config) {
    struct log *log = log_create(stderr, (enum log_level)config->log_level, (enum log_format)config->log_format);
    struct error err = {.code = ERR_NONE};
    bool ok = log != NULL ? run(config, log, &err) : fail(&err, ERR_MEMORY, "no memory for the log");
    if (!ok) log_message(log, LOG_ERROR, "%s", err.message);
    if (!ok && log == NULL) fprintf(stderr, "quern: %s\n", err.message);
    log_destroy(log);
    return ok ? EXIT_SUCCESS : STATUS_FAILED;
}

int main(int argc, char **argv) {
    struct config config;
    struct error err;
    int status = EXIT_SUCCESS;
    if (!config_parse(&config, argc, argv, &err)) {
        fprintf(stderr, "quern: %s\n", err.message);
        status = STATUS_USAGE;
    } else if (config.command == CONFIG_HELP) {
        config_print_help(stdout);
    } else if (config.command == CONFIG_VERSION) {
        printf("quern %s\n", QUERN_VERSION);
    } else {
        status = run_logged(&config);
    }
    config_finish(&config);
    return status;
}
