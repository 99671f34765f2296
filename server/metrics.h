/* The statistics as Prometheus text (exposition format 0.0.4), under the names of vLLM. */
#ifndef QUERN_SERVER_METRICS_H
#define QUERN_SERVER_METRICS_H

#include "engine/engine.h"
#include "server/string_builder.h"

#include <stdint.h>

/* n_stopped_by_string: of the cancelled requests, those that a stop string ended. */
void metrics_write(const struct engine_stats *stats, const struct engine_info *info, const char *model_name,
                   uint64_t n_stopped_by_string, struct string_builder *out);

#endif
