#include "server/endpoints.h"

#include "server/http.h"
#include "server/json_writer.h"
#include "server/server.h"

static void write_engine(const struct engine_stats *stats, struct string_builder *body) {
    json_write_format(body, ",\"running\":%d,\"waiting\":%d,\"steps\":%llu", (int)stats->n_running,
                      (int)stats->n_waiting, (unsigned long long)stats->n_steps);
    if (stats->last_step_end_ns > 0) {
        json_write_format(body, ",\"last_step_ms_ago\":%.1f,\"last_step_ms\":%.3f",
                          (double)(engine_now_ns() - stats->last_step_end_ns) / 1e6, (double)stats->last_step_ns / 1e6);
    } else {
        string_builder_append_text(body, ",\"last_step_ms_ago\":null,\"last_step_ms\":null");
    }
    if (stats->failed) {
        string_builder_append_text(body, ",\"failure\":");
        json_write_text(body, stats->failure);
    }
}

void health_get(struct server *server, struct http_request *http) {
    enum server_state state = atomic_load(&server->state);
    struct engine_stats stats = {0};
    if (state != SERVER_LOADING) engine_stats(server->engine, &stats);
    const char *status = state == SERVER_LOADING    ? "loading"
                         : stats.failed             ? "failed"
                         : state == SERVER_STOPPING ? "stopping"
                                                    : "ok";
    bool ok = state == SERVER_READY && !stats.failed;
    struct string_builder body = {0};
    json_write_format(&body, "{\"status\":\"%s\",\"model\":", status);
    json_write_text(&body, server->model_name);
    if (state != SERVER_LOADING) write_engine(&stats, &body);
    string_builder_append_text(&body, "}");
    http_respond(http,
                 &(struct http_response){.status = ok ? 200 : 503,
                                         .content_type = "application/json",
                                         .headers = {{ok ? NULL : "Retry-After", "1"}}},
                 &body);
}
