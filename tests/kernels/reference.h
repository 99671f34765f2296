/* Each op once more in double precision and in the plainest loops, from the host copy of the rig's weights and batch:
 * what every backend is compared with. Only the RoPE angle is float32, as its definition says. Results are the caller's
 * to free. */
#ifndef QUERN_TESTS_KERNELS_REFERENCE_H
#define QUERN_TESTS_KERNELS_REFERENCE_H

#include "tests/kernels/harness.h"

struct reference_qkv {
    double *q; // [n_rows][n_heads][head_dim]
    double *k; // [n_rows][n_kv_heads][head_dim]
    double *v; // [n_rows][n_kv_heads][head_dim]
};

double *reference_embed(const struct rig *rig); // [n_rows][hidden]
struct reference_qkv reference_rmsnorm_qkv(const struct rig *rig, int32_t layer, const float *hidden);
void reference_qkv_finish(struct reference_qkv *qkv);
/* keys and values as rig_read_kv gives them. */
double *reference_attention(const struct rig *rig, const float *q, const float *keys, const float *values);
double *reference_attention_output(const struct rig *rig, int32_t layer, const float *hidden, const float *attention);
/* Where the layer has experts, gaps, when not NULL, is [n_rows]: how much the weight of the last expert that a row has
 * is above that of the first that it has not, as a share of it. 0: they are equal, and the row has the former by its
 * number. */
double *reference_mlp(const struct rig *rig, int32_t layer, const float *hidden, double *gaps);
double *reference_lm_head(const struct rig *rig, const float *hidden); // [n_samples][vocab]

/* The definition of engine/sampling.h by sorting. kept, when not NULL, is [vocab]: 1 for tokens that may be chosen. */
int32_t reference_sample(const float *logits, int32_t vocab, const struct sampling_params *params, int32_t position,
                         uint8_t *kept);

#endif
