#include "engine/error.h"

#include <stdarg.h>
#include <stdio.h>

void error_set(struct error *err, enum error_code code, const char *param, const char *format, ...) {
    if (!err) return;
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
}
