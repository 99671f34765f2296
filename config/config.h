/* What the user asked for: defaults, then the configuration file, then flags; each value checked where it enters.
 *
 * options.def has one line for each option; the fields below, the parser, the file reader and --help are made from it.
 * A flag is --kv-bytes VALUE or --kv-bytes=VALUE, the same in a JSON file is "kv-bytes"; the last one given counts.
 * Errors are ERR_INVALID (or ERR_IO for the file) with the option in err->param, and say what is allowed. */
#ifndef QUERN_CONFIG_CONFIG_H
#define QUERN_CONFIG_CONFIG_H

#include "engine/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CONFIG_MAX_NUMBERS = 16 };

enum config_command { CONFIG_SERVE, CONFIG_BENCH, CONFIG_HELP, CONFIG_VERSION };

/* In the order of the choices in options.def. */
enum config_device { CONFIG_DEVICE_AUTO, CONFIG_DEVICE_CPU, CONFIG_DEVICE_CUDA };
enum config_load_format { CONFIG_LOAD_AUTO, CONFIG_LOAD_DUMMY };
enum config_log_level { CONFIG_LOG_DEBUG, CONFIG_LOG_INFO, CONFIG_LOG_WARN, CONFIG_LOG_ERROR };
enum config_log_format { CONFIG_LOG_TEXT, CONFIG_LOG_JSON };
enum config_pooling { CONFIG_POOLING_LAST, CONFIG_POOLING_MEAN };
enum config_workload { CONFIG_WORKLOAD_STEPS, CONFIG_WORKLOAD_MIXED };
enum config_output { CONFIG_OUTPUT_TEXT, CONFIG_OUTPUT_JSON };

/* A short list such as the batch sizes of a benchmark. */
struct config_numbers {
    int32_t count;
    int32_t values[CONFIG_MAX_NUMBERS]; // [count]
};

#define CONFIG_TYPE_STRING(name)  char *
#define CONFIG_TYPE_INT(name)     int32_t
#define CONFIG_TYPE_BYTES(name)   size_t
#define CONFIG_TYPE_REAL(name)    double
#define CONFIG_TYPE_SWITCH(name)  bool
#define CONFIG_TYPE_CHOICE(name)  enum config_##name
#define CONFIG_TYPE_NUMBERS(name) struct config_numbers

struct config {
    enum config_command command;
#define OPTION(kind, use, name, initial, min, max, words, help) CONFIG_TYPE_##kind(name) name; // strings are owned
#include "config/options.def"
#undef OPTION
};

/* Fills config from the command line of main. It may be given to config_finish whether this succeeds or not. */
bool config_parse(struct config *config, int argc, char *const *argv, struct error *err);
void config_finish(struct config *config);

/* The commands, and each option with its default and what it allows. */
void config_print_help(FILE *stream);

#endif
