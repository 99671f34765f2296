#include "tests/kernels/reference.h"

#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

static double *doubles(size_t count) {
    double *values = calloc(count ? count : 1, sizeof *values);
    if (!values) fail_msg("no memory for %zu numbers", count);
    return values;
}

static void normalize(const double *x, const uint16_t *weight, int32_t n, double eps, double *out) {
    double sum = 0;
    for (int32_t i = 0; i < n; ++i) sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + eps);
    for (int32_t i = 0; i < n; ++i) out[i] = x[i] * scale * bf16_to_float(weight[i]);
}

static double dot(const double *x, const uint16_t *weights, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; ++i) sum += x[i] * bf16_to_float(weights[i]);
    return sum;
}

/* out[o] = x · weights[o] */
static void project(const double *x, const uint16_t *weights, int32_t n_inputs, int32_t n_outputs, double *out) {
    for (int32_t o = 0; o < n_outputs; ++o) out[o] = dot(x, weights + (size_t)o * (size_t)n_inputs, n_inputs);
}

static double *normalized_row(const struct rig *rig, const float *hidden, int32_t row, const uint16_t *weight) {
    int32_t n = rig->shape.hidden;
    double *x = doubles((size_t)n);
    for (int32_t i = 0; i < n; ++i) x[i] = hidden[(size_t)row * (size_t)n + (size_t)i];
    normalize(x, weight, n, rig->shape.rms_eps, x);
    return x;
}

double *reference_embed(const struct rig *rig) {
    size_t hidden = (size_t)rig->shape.hidden;
    const struct batch *batch = &rig->ctx->host;
    double *out = doubles((size_t)batch->n_rows * hidden);
    for (size_t r = 0; r < (size_t)batch->n_rows; ++r)
        for (size_t i = 0; i < hidden; ++i)
            out[r * hidden + i] = bf16_to_float(rig->host.embedding[(size_t)batch->tokens[r] * hidden + i]);
    return out;
}

static void rotate(const struct rig *rig, double *head, int32_t position) {
    int32_t half = rig->shape.head_dim / 2;
    for (int32_t i = 0; i < half; ++i) {
        float frequency = 1.0f / powf(rig->shape.rope_theta, (float)(2 * i) / (float)rig->shape.head_dim);
        float angle = (float)position * frequency;
        double c = cos((double)angle), s = sin((double)angle), a = head[i], b = head[i + half];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

struct reference_qkv reference_rmsnorm_qkv(const struct rig *rig, int32_t layer, const float *hidden) {
    const struct model_shape *shape = &rig->shape;
    const struct layer_weights *weights = &rig->host.layers[layer];
    size_t n_rows = (size_t)rig->ctx->host.n_rows, q_columns = (size_t)shape_q_columns(shape);
    size_t kv_columns = (size_t)shape_kv_columns(shape), hidden_size = (size_t)shape->hidden;
    struct reference_qkv out = {doubles(n_rows * q_columns), doubles(n_rows * kv_columns),
                                doubles(n_rows * kv_columns)};
    for (size_t r = 0; r < n_rows; ++r) {
        double *n = normalized_row(rig, hidden, (int32_t)r, weights->input_norm);
        int32_t position = rig->ctx->host.positions[r];
        double *q = out.q + r * q_columns, *k = out.k + r * kv_columns, *v = out.v + r * kv_columns;
        project(n, weights->qkv, shape->hidden, (int32_t)q_columns, q);
        project(n, weights->qkv + q_columns * hidden_size, shape->hidden, (int32_t)kv_columns, k);
        project(n, weights->qkv + (q_columns + kv_columns) * hidden_size, shape->hidden, (int32_t)kv_columns, v);
        for (int32_t h = 0; h < shape->n_heads; ++h, q += shape->head_dim) {
            normalize(q, weights->q_norm, shape->head_dim, shape->rms_eps, q);
            rotate(rig, q, position);
        }
        for (int32_t h = 0; h < shape->n_kv_heads; ++h, k += shape->head_dim) {
            normalize(k, weights->k_norm, shape->head_dim, shape->rms_eps, k);
            rotate(rig, k, position);
        }
        free(n);
    }
    return out;
}

void reference_qkv_finish(struct reference_qkv *qkv) {
    free(qkv->q);
    free(qkv->k);
    free(qkv->v);
}

/* One query head of one row over positions [0, position]. */
static void attend(const struct rig *rig, int32_t row, int32_t head, const float *q, const float *keys,
                   const float *values, double *out) {
    const struct model_shape *shape = &rig->shape;
    int32_t seq = rig->ctx->host.row_seqs[row], n = rig->ctx->host.positions[row] + 1;
    int32_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    double *weights = doubles((size_t)n), max = -INFINITY, sum = 0;
    for (int32_t p = 0; p < n; ++p) {
        const float *k = keys + rig_kv_index(rig, seq, p, kv_head);
        for (int32_t d = 0; d < shape->head_dim; ++d) weights[p] += (double)q[d] * k[d];
        weights[p] /= sqrt(shape->head_dim);
        max = fmax(max, weights[p]);
    }
    for (int32_t p = 0; p < n; ++p) sum += weights[p] = exp(weights[p] - max);
    for (int32_t p = 0; p < n; ++p) {
        const float *v = values + rig_kv_index(rig, seq, p, kv_head);
        for (int32_t d = 0; d < shape->head_dim; ++d) out[d] += weights[p] / sum * v[d];
    }
    free(weights);
}

double *reference_attention(const struct rig *rig, const float *q, const float *keys, const float *values) {
    const struct model_shape *shape = &rig->shape;
    int32_t n_rows = rig->ctx->host.n_rows;
    double *out = doubles((size_t)n_rows * (size_t)shape_q_columns(shape));
    for (int32_t r = 0; r < n_rows; ++r) {
        for (int32_t h = 0; h < shape->n_heads; ++h) {
            size_t at = ((size_t)r * (size_t)shape->n_heads + (size_t)h) * (size_t)shape->head_dim;
            attend(rig, r, h, q + at, keys, values, out + at);
        }
    }
    return out;
}

double *reference_attention_output(const struct rig *rig, int32_t layer, const float *hidden, const float *attention) {
    size_t n_rows = (size_t)rig->ctx->host.n_rows, columns = (size_t)shape_q_columns(&rig->shape);
    size_t n = (size_t)rig->shape.hidden;
    double *out = doubles(n_rows * n), *input = doubles(columns);
    for (size_t r = 0; r < n_rows; ++r) {
        for (size_t i = 0; i < columns; ++i) input[i] = attention[r * columns + i];
        project(input, rig->host.layers[layer].attention_output, (int32_t)columns, (int32_t)n, out + r * n);
        for (size_t i = 0; i < n; ++i) out[r * n + i] += hidden[r * n + i];
    }
    free(input);
    return out;
}

/* out += weight * (silu(x · gateᵀ) * (x · upᵀ)) · downᵀ. */
static void add_mlp(const double *x, const uint16_t *gate_up, const uint16_t *down, int32_t n, int32_t intermediate,
                    double weight, double *out) {
    double *values = doubles(2 * (size_t)intermediate), *sums = doubles((size_t)n);
    project(x, gate_up, n, 2 * intermediate, values);
    for (int32_t i = 0; i < intermediate; ++i) values[i] = values[i] / (1 + exp(-values[i])) * values[i + intermediate];
    project(values, down, intermediate, n, sums);
    for (int32_t i = 0; i < n; ++i) out[i] += weight * sums[i];
    free(sums);
    free(values);
}

/* Returns the gap. */
static double add_experts(const struct model_shape *shape, const struct layer_weights *weights, const double *x,
                          double *out) {
    double p[MODEL_MAX_EXPERTS], all = 0, chosen = 0;
    int32_t order[MODEL_MAX_EXPERTS], n_experts = shape->n_experts, n_active = shape->n_active_experts;
    project(x, weights->router, shape->hidden, n_experts, p);
    for (int32_t e = 0; e < n_experts; ++e) all += p[e] = exp(p[e]);
    for (int32_t e = 0; e < n_experts; ++e) { // sorted by falling p, of equal ones the first first
        int32_t at = e;
        for (; at > 0 && p[order[at - 1]] < p[e]; --at) order[at] = order[at - 1];
        order[at] = e;
    }
    for (int32_t k = 0; k < n_active; ++k) chosen += p[order[k]];
    for (int32_t k = 0; k < n_active; ++k) {
        size_t matrix = (size_t)order[k] * (size_t)shape->expert_intermediate * (size_t)shape->hidden;
        add_mlp(x, weights->gate_up + 2 * matrix, weights->down + matrix, shape->hidden, shape->expert_intermediate,
                p[order[k]] / (shape->normalised_experts ? chosen : all), out);
    }
    return n_active == n_experts ? 1 : 1 - p[order[n_active]] / p[order[n_active - 1]];
}

double *reference_mlp(const struct rig *rig, int32_t layer, const float *hidden, double *gaps) {
    const struct layer_weights *weights = &rig->host.layers[layer];
    const struct model_shape *shape = &rig->shape;
    size_t n_rows = (size_t)rig->ctx->host.n_rows, n = (size_t)shape->hidden;
    double *out = doubles(n_rows * n);
    for (size_t r = 0; r < n_rows; ++r) {
        double *x = normalized_row(rig, hidden, (int32_t)r, weights->post_attention_norm), gap = 1;
        for (size_t i = 0; i < n; ++i) out[r * n + i] = hidden[r * n + i];
        if (weights->router) {
            gap = add_experts(shape, weights, x, out + r * n);
        } else {
            add_mlp(x, weights->gate_up, weights->down, shape->hidden, shape->intermediate, 1, out + r * n);
        }
        if (gaps) gaps[r] = gap;
        free(x);
    }
    return out;
}

double *reference_lm_head(const struct rig *rig, const float *hidden) {
    size_t vocab = (size_t)rig->shape.vocab;
    const struct batch *batch = &rig->ctx->host;
    double *out = doubles((size_t)batch->n_samples * vocab);
    for (int32_t i = 0; i < batch->n_samples; ++i) {
        double *x = normalized_row(rig, hidden, batch->samples[i].row, rig->host.final_norm);
        project(x, rig->host.lm_head, rig->shape.hidden, (int32_t)vocab, out + (size_t)i * vocab);
        free(x);
    }
    return out;
}

struct ranked {
    float logit;
    uint32_t weight;
    int32_t token;
};

static int larger_first(const void *a, const void *b) {
    float x = ((const struct ranked *)a)->logit, y = ((const struct ranked *)b)->logit;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Tokens [0, result) of the sorted row may be chosen by top_k and top_p. */
static int32_t count_kept(const struct ranked *ranked, int32_t vocab, const struct sampling_params *params) {
    int32_t n = vocab;
    if (params->top_k > 0 && params->top_k < vocab) {
        n = params->top_k;
        while (n < vocab && ranked[n].logit == ranked[n - 1].logit) ++n;
    }
    uint64_t total = 0, above = 0; // above: weights of strictly larger logits
    for (int32_t i = 0; i < n; ++i) total += ranked[i].weight;
    uint64_t limit = sampling_top_p_limit(params->top_p, total);
    int32_t first_equal = 0;
    for (int32_t i = 0; i < n; ++i) {
        if (ranked[i].logit != ranked[first_equal].logit) {
            for (int32_t j = first_equal; j < i; ++j) above += ranked[j].weight;
            first_equal = i;
        }
        if (above >= limit) return i;
    }
    return n;
}

int32_t reference_sample(const float *logits, int32_t vocab, const struct sampling_params *params, int32_t position,
                         uint8_t *kept) {
    float max = -INFINITY;
    int32_t best = 0;
    for (int32_t i = 0; i < vocab; ++i) {
        if (kept) kept[i] = 0;
        if (!isfinite(logits[i])) return SAMPLED_NOT_FINITE;
        if (logits[i] > max) max = logits[best = i];
    }
    if (params->temperature < SAMPLING_MIN_TEMPERATURE) {
        if (kept) kept[best] = 1;
        return best;
    }
    float inverse = 1.0f / params->temperature, best_score = -INFINITY;
    struct ranked *ranked = calloc((size_t)vocab, sizeof *ranked);
    if (!ranked) fail_msg("no memory for %d tokens", vocab);
    for (int32_t i = 0; i < vocab; ++i)
        ranked[i] = (struct ranked){logits[i], sampling_weight(logits[i], max, inverse), i};
    qsort(ranked, (size_t)vocab, sizeof *ranked, larger_first);
    int32_t n = count_kept(ranked, vocab, params);
    best = INT32_MAX;
    for (int32_t i = 0; i < n; ++i) {
        int32_t token = ranked[i].token;
        if (ranked[i].weight == 0 || ranked[i].weight < sampling_min_weight(params->min_p)) continue;
        if (kept) kept[token] = 1;
        float gumbel = sampling_gumbel(params->seed, (uint32_t)token, (uint32_t)position);
        float score = sampling_score(logits[token], max, inverse, gumbel);
        if (score > best_score || (score == best_score && token < best)) {
            best_score = score;
            best = token;
        }
    }
    free(ranked);
    return best;
}
