#include "server/endpoints.h"

#include "server/http.h"
#include "server/json_writer.h"
#include "server/openai.h"
#include "server/server.h"

void version_get(struct server *server, struct http_request *http) {
    (void)server;
    struct string_builder body = {0};
    string_builder_append_text(&body, "{\"version\":\"" QUERN_VERSION "\"}");
    openai_respond_json(http, &body);
}

static void write_model(const struct server *server, struct string_builder *out) {
    const struct model_shape *shape = &engine_info(server->engine)->model.shape;
    string_builder_append_text(out, "\"model\":{\"name\":");
    json_write_text(out, server->model_name);
    json_write_format(out,
                      ",\"chat_template\":\"%s\",\"layers\":%d,\"hidden\":%d,\"heads\":%d,\"kv_heads\":%d,"
                      "\"head_dim\":%d,\"intermediate\":%d,\"vocab\":%d,\"tied_embeddings\":%s",
                      chat_family_name(server->family), (int)shape->n_layers, (int)shape->hidden, (int)shape->n_heads,
                      (int)shape->n_kv_heads, (int)shape->head_dim, (int)shape->intermediate, (int)shape->vocab,
                      shape->tied_embeddings ? "true" : "false");
    if (shape->n_experts > 0)
        json_write_format(out, ",\"experts\":%d,\"active_experts\":%d,\"expert_intermediate\":%d",
                          (int)shape->n_experts, (int)shape->n_active_experts, (int)shape->expert_intermediate);
    string_builder_append_text(out, "}");
}

/* Bytes of device memory, of all ranks together, and what the KV cache holds. */
static void write_memory(const struct engine_info *info, struct string_builder *out) {
    json_write_format(out,
                      "\"memory\":{\"weights_bytes\":%zu,\"scratch_bytes\":%zu,\"kv_bytes\":%zu,"
                      "\"kv_bytes_per_token\":%zu,\"kv_blocks\":%d,\"kv_tokens\":%lld}",
                      info->weights_bytes, info->scratch_bytes, info->kv_bytes, info->kv_token_bytes,
                      (int)info->n_blocks, (long long)info->n_blocks * info->block_size);
}

static void write_ranks(const struct engine_info *info, struct string_builder *out) {
    json_write_format(out, "\"interconnect\":\"%s\",\"ranks\":[", info->interconnect);
    for (int32_t r = 0; r < info->n_ranks; ++r) {
        const struct engine_rank *rank = &info->ranks[r];
        json_write_format(out, "%s{\"weights_bytes\":%zu,\"scratch_bytes\":%zu,\"kv_bytes\":%zu}", r ? "," : "",
                          rank->weights_bytes, rank->scratch_bytes, rank->kv_bytes);
    }
    string_builder_append_text(out, "]");
}

static void write_limits(const struct engine_info *info, struct string_builder *out) {
    json_write_format(
        out, "\"limits\":{\"max_model_len\":%d,\"max_seqs\":%d,\"max_batch_tokens\":%d,\"block_size\":%d}",
        (int)info->max_model_len, (int)info->max_seqs, (int)info->max_batch_tokens, (int)info->block_size);
}

void server_info_get(struct server *server, struct http_request *http) {
    const struct engine_info *info = engine_info(server->engine);
    struct string_builder body = {0};
    json_write_format(&body, "{\"version\":\"%s\",\"backend\":\"%s\",\"device\":", QUERN_VERSION, info->backend);
    json_write_text(&body, info->device);
    string_builder_append_text(&body, ",");
    write_model(server, &body);
    string_builder_append_text(&body, ",");
    write_memory(info, &body);
    string_builder_append_text(&body, ",");
    write_ranks(info, &body);
    string_builder_append_text(&body, ",");
    write_limits(info, &body);
    string_builder_append_text(&body, "}");
    openai_respond_json(http, &body);
}
