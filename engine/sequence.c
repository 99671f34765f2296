#include "engine/sequence.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct sequence *sequence_create(const struct engine_request *request, int32_t max_model_len, int32_t block_size,
                                 struct error *err) {
    int32_t room = max_model_len - request->n_prompt, n_new = request->pooling ? 0 : request->max_new_tokens;
    assert(request->n_prompt > 0 && (request->pooling ? room >= 0 : room > 0 && n_new > 0));
    int32_t max_tokens = request->n_prompt + (n_new < room ? n_new : room);
    int32_t max_blocks = (max_tokens + block_size - 1) / block_size;
    struct sequence *sequence = calloc(1, sizeof *sequence);
    if (sequence) {
        *sequence = (struct sequence){
            .tokens = malloc((size_t)max_tokens * sizeof *sequence->tokens),
            .blocks = malloc((size_t)max_blocks * sizeof *sequence->blocks),
            .n_prompt = request->n_prompt,
            .n_known = request->n_prompt,
            .n_tokens = request->n_prompt,
            .max_tokens = max_tokens,
            .sampling = request->sampling,
            .stop_tokens = malloc((size_t)(request->n_stop_tokens + 1) * sizeof *sequence->stop_tokens),
            .n_stop_tokens = request->n_stop_tokens,
            .ignore_eos = request->ignore_eos,
            .priority = request->priority,
            .n_scores = request->n_scores,
            .n_prompt_scores = request->n_prompt_scores,
            .n_prompt_scored = 1,
            .pooling = request->pooling,
            .listener = request->listener,
            .user = request->user,
        };
    }
    if (!sequence || !sequence->tokens || !sequence->blocks || !sequence->stop_tokens) {
        fail(err, ERR_MEMORY, "no memory for a request of %d tokens", max_tokens);
        sequence_destroy(sequence);
        return NULL;
    }
    memcpy(sequence->tokens, request->prompt, (size_t)request->n_prompt * sizeof *request->prompt);
    for (int32_t i = 0; i < request->n_stop_tokens; ++i) sequence->stop_tokens[i] = request->stop_tokens[i];
    return sequence;
}

void sequence_destroy(struct sequence *sequence) {
    if (!sequence) return;
    free(sequence->tokens);
    free(sequence->blocks);
    free(sequence->adjusted);
    free(sequence->stop_tokens);
    free(sequence);
}

void sequence_queue_push_back(struct sequence_queue *queue, struct sequence *sequence) {
    sequence->previous = queue->last;
    sequence->next = NULL;
    *(queue->last ? &queue->last->next : &queue->first) = sequence;
    queue->last = sequence;
    queue->count++;
}

void sequence_queue_push_front(struct sequence_queue *queue, struct sequence *sequence) {
    sequence->previous = NULL;
    sequence->next = queue->first;
    *(queue->first ? &queue->first->previous : &queue->last) = sequence;
    queue->first = sequence;
    queue->count++;
}

void sequence_queue_remove(struct sequence_queue *queue, struct sequence *sequence) {
    *(sequence->previous ? &sequence->previous->next : &queue->first) = sequence->next;
    *(sequence->next ? &sequence->next->previous : &queue->last) = sequence->previous;
    sequence->previous = sequence->next = NULL;
    queue->count--;
}

void sequence_queue_insert(struct sequence_queue *queue, struct sequence *sequence) {
    struct sequence *before = queue->last;
    while (before && before->priority > sequence->priority) before = before->previous;
    if (!before) {
        sequence_queue_push_front(queue, sequence);
        return;
    }
    sequence->previous = before;
    sequence->next = before->next;
    *(before->next ? &before->next->previous : &queue->last) = sequence;
    before->next = sequence;
    queue->count++;
}

struct sequence *sequence_queue_pop_front(struct sequence_queue *queue) {
    struct sequence *sequence = queue->first;
    if (sequence) sequence_queue_remove(queue, sequence);
    return sequence;
}
