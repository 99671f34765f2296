#include "server/reasoning_count.h"

#include "engine/tokenizer.h"

struct reasoning_count reasoning_count_begin(enum answer_thinking thinking) {
    static const enum answer_phase phases[] = {[ANSWER_NEVER_THINKS] = ANSWER_IN_CONTENT,
                                               [ANSWER_MAY_THINK] = ANSWER_AT_START,
                                               [ANSWER_THINKS] = ANSWER_IN_REASONING};
    return (struct reasoning_count){.phase = phases[thinking]};
}

bool reasoning_is_line_breaks(const struct tokenizer *tokenizer, int32_t token) {
    size_t length, n = 0;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    while (n < length && bytes[n] == '\n') ++n;
    return n == length;
}

void reasoning_count_take(struct reasoning_count *count, const struct tokenizer *tokenizer, int32_t token) {
    if (count->phase == ANSWER_AT_START) {
        if (token == tokenizer_find_added(tokenizer, "<think>"))
            count->phase = ANSWER_IN_REASONING;
        else if (!reasoning_is_line_breaks(tokenizer, token))
            count->phase = ANSWER_IN_CONTENT;
    } else if (count->phase == ANSWER_IN_REASONING) {
        if (token == tokenizer_find_added(tokenizer, "</think>"))
            count->phase = ANSWER_IN_CONTENT;
        else
            ++count->n_tokens;
    }
}
