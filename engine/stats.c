#include "engine/stats.h"

#include <string.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof(array)[0]))

/* The buckets of vLLM's metrics of the same names, in seconds, so that its dashboards keep their axes. */
static const double first_token_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,
                                            0.75,  1.0,   2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0};
static const double inter_token_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                            0.3,   0.4,    0.5,   0.75, 1.0,   2.5,  5.0,   7.5, 10.0};
static const double request_bounds[] = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,
                                        15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0};
_Static_assert(COUNT(first_token_bounds) <= HISTOGRAM_MAX_BOUNDS && COUNT(inter_token_bounds) <= HISTOGRAM_MAX_BOUNDS &&
                   COUNT(request_bounds) <= HISTOGRAM_MAX_BOUNDS,
               "a histogram has more bounds than its array");

void engine_stats_init(struct engine_stats *stats) {
    memset(stats, 0, sizeof *stats);
    stats->first_token = (struct histogram){.bounds = first_token_bounds, .n_bounds = COUNT(first_token_bounds)};
    stats->inter_token = (struct histogram){.bounds = inter_token_bounds, .n_bounds = COUNT(inter_token_bounds)};
    stats->request = (struct histogram){.bounds = request_bounds, .n_bounds = COUNT(request_bounds)};
}

void histogram_observe(struct histogram *histogram, double value) {
    int32_t i = 0;
    while (i < histogram->n_bounds && value > histogram->bounds[i]) ++i;
    histogram->counts[i]++;
    histogram->total++;
    histogram->sum += value;
}
