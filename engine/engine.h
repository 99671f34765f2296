/* The narrow door to generation: token ids in, token ids out.
 *
 * The engine owns one thread, which alone touches sequences, blocks and the context and runs one step after another:
 * choose rows, prepare the context, run the model, hand each sampled token to its request's listener. Any thread may
 * submit, cancel and read statistics. Nothing is allocated on the device after create. */
#ifndef QUERN_ENGINE_ENGINE_H
#define QUERN_ENGINE_ENGINE_H

#include "engine/constraint.h"
#include "engine/error.h"
#include "engine/log.h"
#include "engine/model_config.h"
#include "engine/sampling.h"
#include "engine/slice.h"
#include "engine/stats.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend_ops;
struct engine;

struct engine_options {
    const struct backend_ops *ops; // borrowed, static
    const char *model_folder;      // config.json, and weights unless dummy_weights
    const char *config_file;       // NULL: config.json in model_folder; else that file, with dummy_weights
    bool dummy_weights;            // seeded random weights instead of the folder's
    uint64_t seed;                 // of dummy weights
    int32_t n_ranks;               // devices that share the model; 0 as 1, at most SLICE_MAX_RANKS
    int32_t n_threads;             // CPU backend, of all ranks together: 0 for all cores
    const char *cpu_isa;           // CPU backend: NULL for the best there is
    int32_t block_size;            // tokens per KV block
    size_t kv_bytes;               // of the KV pool on each rank; 0: from memory_share
    double memory_share;           // of each device's memory for weights, scratch and KV together, (0, 1]
    int32_t max_seqs;              // running at once
    int32_t max_batch_tokens;      // rows of one step; 0: the backend's default
    int32_t max_model_len;         // prompt and generated tokens of one sequence; 0: the model's, clamped to the pool
    int32_t max_queue;             // requests accepted beyond max_seqs; then submit answers ERR_BUSY
    bool prefix_cache;
    bool graphs;                // record decode steps at start and replay them, where the backend can
    struct log *log;            // borrowed, may be NULL
    void (*failed)(void *user); // NULL: nobody asks; called once, on the engine thread, when no more can be served
    void *user;
};

/* Loads the model and starts the thread; takes as long as the weights take to read. */
struct engine *engine_create(const struct engine_options *options, struct error *err);
/* Ends every request with FINISH_CANCELLED, stops the thread, frees all. Takes NULL. */
void engine_destroy(struct engine *engine);

/* Device memory that one rank has taken. */
struct engine_rank {
    size_t weights_bytes;
    size_t scratch_bytes;
    size_t kv_bytes;
};

/* What was loaded; constant after create. */
struct engine_info {
    struct model_config model;
    const char *backend; // "cpu", "cuda"
    char device[128];
    int32_t max_model_len;
    int32_t max_seqs;
    int32_t max_batch_tokens;
    int32_t block_size;
    int32_t n_blocks;
    int32_t n_ranks;
    struct engine_rank ranks[SLICE_MAX_RANKS]; // [n_ranks]
    char interconnect[32];                     // between the ranks: "NVLink P2P"; "none" when there is one
    size_t weights_bytes;                      // of all ranks together, as what follows
    size_t scratch_bytes;
    size_t kv_bytes;
    size_t kv_token_bytes; // of one token in all layers
};
const struct engine_info *engine_info(const struct engine *engine);

enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR, FINISH_REASONS };

/* ENGINE_PROMPT_TOKEN: scores of the prompt's second token, of its third, …, where they were asked for; all of them
 * before the first ENGINE_TOKEN. ENGINE_POOLED: once, of a request that is pooled, before FINISH_STOP. */
enum engine_event_kind { ENGINE_PROMPT_TOKEN, ENGINE_TOKEN, ENGINE_POOLED, ENGINE_FINISHED };

struct engine_event {
    enum engine_event_kind kind;
    int32_t token; // ENGINE_TOKEN, and ENGINE_PROMPT_TOKEN; an end-of-sequence token comes too, before FINISH_STOP
    const struct token_scores *scores; // of the token, valid during the call; NULL: not asked for
    const float *pooled;               // ENGINE_POOLED: [hidden], valid during the call
    enum finish_reason reason;         // ENGINE_FINISHED, and the rest
    struct error error;                // FINISH_ERROR
    int32_t n_prompt;
    int32_t n_cached; // prompt tokens that were found in the prefix cache
    int32_t n_generated;
    int32_t n_preemptions;
    int64_t queue_ns;       // submit to first scheduled
    int64_t first_token_ns; // submit to first token, 0 without one
    int64_t total_ns;       // submit to finish
};

/* Called on the engine thread: must be quick and must not call the engine. Each accepted request gets exactly one
 * ENGINE_FINISHED, its last event. Events may come before engine_submit returns. */
typedef void engine_listener(void *user, const struct engine_event *event);

enum { ENGINE_MAX_STOP_TOKENS = 64 };

/* A prompt's states after the final norm to one vector: that of the last token, or the mean of all. */
enum engine_pooling { POOLING_NONE, POOLING_LAST, POOLING_MEAN };

struct engine_request {
    const int32_t *prompt;  // [n_prompt], copied
    int32_t n_prompt;       // 1 to max_model_len - 1; pooled: to max_model_len
    int32_t max_new_tokens; // at least 1; cut so that the sequence fits max_model_len
    struct sampling_params sampling;
    struct sampling_adjustments adjustments; // its biases are copied
    bool ignore_eos;
    int32_t min_new_tokens;     // before that many no end-of-sequence or stop token is sampled; at most max_new_tokens
    const int32_t *stop_tokens; // [n_stop_tokens] that end the answer too, copied
    int32_t n_stop_tokens;      // at most ENGINE_MAX_STOP_TOKENS
    int32_t priority;           // the lowest waits least
    int32_t timeout_ms;         // from submit: then FINISH_LENGTH with what there is; 0: none
    struct constraint *constraint; // NULL: none; the engine's own once the request is accepted
    int32_t n_scores; // 0: none; n: scores of each token and of the n - 1 likeliest, at most 1 + SAMPLING_MAX_TOP
    int32_t n_prompt_scores; // the same for the tokens of the prompt but the first; nothing of it is then found in the
                             // cache
    enum engine_pooling pooling; // not POOLING_NONE: nothing is generated, and what is about tokens plays no part. A
                                 // mean needs all states: nothing of the prompt is then found in the cache
    engine_listener *listener;
    void *user;
};

/* *id names the request for engine_cancel. ERR_INVALID: the request; ERR_BUSY: the queue is full; ERR_UNAVAILABLE: the
 * device failed or the engine is draining. */
bool engine_submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct error *err);

/* Asks to end a request: it finishes with FINISH_CANCELLED before another step is planned. Unknown or finished: no
 * effect. */
void engine_cancel(struct engine *engine, uint64_t id);

/* Refuses new requests, then waits until all have finished or the time is over; true: all finished. */
bool engine_drain(struct engine *engine, int32_t timeout_ms);

/* A consistent copy. */
void engine_stats(struct engine *engine, struct engine_stats *stats);

/* Memory bandwidth of all ranks' devices together in bytes per second, measured now; the engine must be idle. */
bool engine_measure_bandwidth(struct engine *engine, double *bytes_per_second, struct error *err);

/* Monotonic time, the clock of all statistics. */
int64_t engine_now_ns(void);

#endif
