/* What a kernel test runs on.
 *
 * A target is one device with one way to compute: each instruction set of the processor, each GPU, fused and separate.
 * A rig is a context on a target with random weights, activations and keys and values, the same numbers on every
 * target: everything that belongs to a sequence depends on its `content`, the layer and the position alone, never on
 * the batch or the block ids. Whatever an op may write lies between guard bytes, which rig_destroy checks; memory that
 * no op and no fill has written holds NaN. Failures of the set-up end the test. */
#ifndef QUERN_TESTS_KERNELS_HARNESS_H
#define QUERN_TESTS_KERNELS_HARNESS_H

#include "engine/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct target {
    char label[32]; // "cpu avx2 separate"
    const struct backend_ops *ops;
    struct device *device;      // owned
    const char *cpu_isa;        // of a CPU target, NULL otherwise
    bool fused;                 // what stands behind rmsnorm_qkv
    double matrix_tolerance;    // relative error of one matrix product that the rounding of activations explains
    double attention_tolerance; // of attention, given its inputs as they are stored
};

#define MAX_TARGETS 16

/* Opens every target of a backend ("cpu" or "cuda") and returns how many: 0 when it is not built or has no device. */
int32_t targets_open(const char *backend, struct target targets[MAX_TARGETS]);
void targets_close(struct target *targets, int32_t n_targets);

/* One CPU target by hand: for thread counts. */
void target_open_cpu(struct target *target, bool fused, const char *isa, int32_t n_threads);

/* One test for each backend; a test whose backend is not there skips (on_targets). */
#define ON_EVERY_BACKEND(name, function)                                                                               \
    {name " on cpu", function, NULL, NULL, (void *)"cpu"}, {                                                           \
        name " on cuda", function, NULL, NULL, (void *)"cuda"                                                          \
    }

/* Runs check on every target of the backend that *state names; skips the test when there is none. */
void on_targets(void **state, void (*check)(const struct target *target));

struct rig_options {
    struct model_shape shape;
    struct context_limits limits;
    uint64_t seed;      // of weights and of block ids
    uint64_t pool_seed; // of block ids alone
    float k_norm_max;   // largest K-norm weight; 0: about 1, like the others
    bool equal_experts; // the router is all zeros: every row has the first experts, of equal weights
};

/* A shape that every backend can run, smaller than any real one: 2 layers, hidden 192, head_dim 128. */
struct rig_options rig_defaults(void);

struct guarded {
    void *base; // device memory: guard, data, guard
    void *data;
    size_t bytes;
};

#define MAX_GUARDED 19

struct rig {
    const struct target *target;
    struct model_shape shape;
    struct context *ctx;
    struct weights weights; // on the device
    struct weights host;    // the same numbers in host memory
    struct guarded guarded[MAX_GUARDED];
    int32_t n_guarded;
    struct context original; // pointers of the context before the guarded ones took their place
    uint64_t pool_seed;
    const struct rig_sequence *seqs; // of the last rig_prepare, borrowed
    int32_t n_seqs;
};

struct rig *rig_create(const struct target *target, const struct rig_options *options);
void rig_destroy(struct rig *rig); // checks the guard bytes

struct rig_sequence {
    uint64_t content; // whose tokens, activations, keys and values these are
    int32_t start;
    int32_t n_rows;
    bool sample;
    struct sampling_params sampling;
    int32_t n_scores; // this and the next two as in struct sample_row
    int32_t seat;
    int32_t mask;
    int32_t n_pooled_rows; // this and the next two as in struct batch_sequence
    int32_t n_pooled_before;
    bool pools;
    int32_t place; // 0: any free blocks; n: the n-th max_blocks blocks of the shuffled pool, step after step
};

/* Prepares a step. Blocks are drawn at random from the pool; the cache holds the keys and values of positions
 * [0, start) of each sequence in every layer, of [0, start + n_rows) with rows_too, NaN elsewhere. */
void rig_prepare(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs, bool rows_too);

/* The same, and the cache keeps what it holds: for steps that follow each other. */
void rig_prepare_step(struct rig *rig, const struct rig_sequence *seqs, int32_t n_seqs);

/* Fills an activation of the step from the sequences' contents. */
void rig_fill_hidden(struct rig *rig);
float rig_hidden_value(uint64_t content, int32_t position, int32_t column); // what rig_fill_hidden writes
void rig_fill_q(struct rig *rig);
void rig_fill_attention(struct rig *rig);

/* Copies count elements from or to the device, converting; the result is the caller's to free. */
float *rig_read(const struct rig *rig, const void *data, enum dtype dtype, size_t count);
void rig_write(const struct rig *rig, void *data, enum dtype dtype, const float *values, size_t count);

/* The keys (0) or values (1) of one layer; index by rig_kv_index. */
float *rig_read_kv(const struct rig *rig, int32_t layer, int32_t which);
size_t rig_kv_index(const struct rig *rig, int32_t seq, int32_t position, int32_t kv_head);

void rig_must(bool ok, const struct error *err);

float bf16_to_float(uint16_t value);
/* Uniform in [-1, 1), a function of its arguments. */
float random_value(uint64_t seed, uint64_t stream, uint64_t index);

/* ||a - b|| / ||b||; infinite when a or b holds what is not finite. */
double relative_error(const float *a, const double *b, size_t count);
void check_error(const struct target *target, const char *what, double error, double tolerance);

#endif
