/* Failures that travel: one message, built where the facts are, carried untouched to the log or the HTTP body.
 *
 * A fallible function returns bool (false: failed) or a pointer (NULL: failed) and takes `struct error *err` last.
 * err may be NULL when the caller does not want the text. `assert` is for our own mistakes, errors for the outside. */
#ifndef QUERN_ENGINE_ERROR_H
#define QUERN_ENGINE_ERROR_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum error_code {
    ERR_NONE = 0,
    ERR_INVALID,     // the input is wrong: say what is wrong and what is allowed
    ERR_NOT_FOUND,   // the named thing does not exist
    ERR_TOO_LARGE,   // over a configured limit
    ERR_BUSY,        // the queue is full: try again later
    ERR_UNAVAILABLE, // loading, stopping, or the device has failed
    ERR_CANCELLED,   // the caller asked to stop
    ERR_MEMORY,      // host or device memory ran out
    ERR_IO,          // a file or socket failed
    ERR_DEVICE,      // a CUDA, cuBLAS or NCCL call failed
    ERR_NUMERIC,     // a logit was not finite
    ERR_INTERNAL,    // our own fault
};

struct error {
    enum error_code code;
    char param[64];    // the request field or option at fault, "" when none
    char message[512]; // complete sentence, no trailing newline
};

/* Fills err (if not NULL). Call it through fail and fail_param. */
void error_set(struct error *err, enum error_code code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* fail(err, code, format, …) fills err and is false, so that `return fail(err, …);` is the whole error path.
 * fail_param(err, code, param, format, …) also names the request field or option at fault.
 * Macros over an inline function, so that the compiler sees the false and its warnings stay exact. */
static inline bool error_false(void) {
    return false;
}
#define fail(err, code, ...)              (error_set(err, code, "", __VA_ARGS__), error_false())
#define fail_param(err, code, param, ...) (error_set(err, code, param, __VA_ARGS__), error_false())

#ifdef __cplusplus
}
#endif
#endif
