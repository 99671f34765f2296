#include "server/answer.h"

#include <stdlib.h>

/* --- what the parser finds --- */

static struct answer_part *add_part(struct answer *answer, enum answer_part_kind kind) {
    if (answer->n_parts == answer->parts_capacity) {
        int32_t capacity = 2 * answer->parts_capacity + 4;
        struct answer_part *parts = realloc(answer->parts, (size_t)capacity * sizeof *parts);
        if (parts == NULL) {
            answer->failure = ERR_MEMORY;
            return NULL;
        }
        answer->parts = parts;
        answer->parts_capacity = capacity;
    }
    struct answer_part *part = &answer->parts[answer->n_parts++];
    *part = (struct answer_part){.kind = kind, .call_index = answer->n_calls};
    if (kind == PART_CALL) ++answer->n_calls;
    server_next_id(answer->server, "", part->id);
    return part;
}

/* What goes on; of another kind, a new one. */
static struct answer_part *part_of(struct answer *answer, enum answer_part_kind kind) {
    struct answer_part *last = answer->n_parts > 0 ? &answer->parts[answer->n_parts - 1] : NULL;
    return last != NULL && last->kind == kind ? last : add_part(answer, kind);
}

static void append(struct answer *answer, struct string_builder *builder, const struct answer_event *event) {
    string_builder_append(builder, event->text, event->length);
    if (builder->failure != ERR_NONE) answer->failure = builder->failure;
}

static void take_event(void *user, const struct answer_event *event) {
    static const enum answer_part_kind kinds[] = {[ANSWER_REASONING] = PART_REASONING,
                                                  [ANSWER_CONTENT] = PART_CONTENT,
                                                  [ANSWER_CALL] = PART_CALL,
                                                  [ANSWER_ARGUMENTS] = PART_CALL};
    struct answer *answer = user;
    if (answer->failure != ERR_NONE || (event->kind == ANSWER_REASONING && answer->drops_reasoning)) return;
    enum answer_part_kind kind = kinds[event->kind];
    struct answer_part *part = event->kind == ANSWER_CALL ? add_part(answer, kind) : part_of(answer, kind);
    if (part != NULL) append(answer, event->kind == ANSWER_CALL ? &part->name : &part->text, event);
}

void answer_init(struct answer *answer, const struct answer_options *options, struct server *server) {
    *answer = (struct answer){.server = server,
                              .drops_reasoning = options->drops_reasoning,
                              .keeps_text = options->keeps_text,
                              .reasoning_tokens = reasoning_count_begin(options->form.thinking)};
    answer_parser_init(&answer->parser, &options->form, take_event, answer);
}

void answer_finish(struct answer *answer) {
    for (int32_t i = 0; i < answer->n_parts; ++i) {
        string_builder_finish(&answer->parts[i].name);
        string_builder_finish(&answer->parts[i].text);
    }
    free(answer->parts);
    answer_parser_finish(&answer->parser);
}

/* Where the next token stands among those of a call; only where there may be calls. */
static bool is_in_call(const struct answer *answer, int32_t token) {
    const struct tokenizer *tokenizer = answer->server->tokenizer;
    return answer->parser.form.has_calls &&
           (answer->counts_call || token == tokenizer_find_added(tokenizer, "<tool_call>"));
}

bool answer_is_content(const struct answer *answer, int32_t token) {
    const struct tokenizer *tokenizer = answer->server->tokenizer;
    struct reasoning_count count = answer->reasoning_tokens;
    reasoning_count_take(&count, tokenizer, token);
    bool is_reasoning = count.phase != ANSWER_IN_CONTENT || answer->reasoning_tokens.phase == ANSWER_IN_REASONING;
    bool is_form = answer->counts_line_breaks && reasoning_is_line_breaks(tokenizer, token);
    return !is_reasoning && !is_form && !is_in_call(answer, token) && !tokenizer_is_special(tokenizer, token);
}

void answer_count_token(struct answer *answer, int32_t token) {
    const struct tokenizer *tokenizer = answer->server->tokenizer;
    bool was_reasoning = answer->reasoning_tokens.phase == ANSWER_IN_REASONING;
    reasoning_count_take(&answer->reasoning_tokens, tokenizer, token);
    bool is_closed = was_reasoning && answer->reasoning_tokens.phase == ANSWER_IN_CONTENT;
    answer->counts_line_breaks =
        is_closed || (answer->counts_line_breaks && reasoning_is_line_breaks(tokenizer, token));
    answer->counts_call = is_in_call(answer, token) && token != tokenizer_find_added(tokenizer, "</tool_call>");
}

bool answer_push(struct answer *answer, struct string_builder *text) {
    if (text->failure != ERR_NONE) answer->failure = text->failure;
    answer_parser_push(&answer->parser, text->data, text->length);
    text->length = 0;
    return answer->parser.is_done;
}

void answer_end(struct answer *answer) {
    answer_parser_end(&answer->parser);
    answer->is_over = true;
}

bool answer_check(const struct answer *answer, struct error *err) {
    bool failed = answer->failure != ERR_NONE || answer->parser.failure != ERR_NONE;
    return !failed || fail(err, ERR_MEMORY, "no memory for the answer");
}

/* --- what is told --- */

static bool tell(struct answer_delta *delta, enum answer_delta_kind kind, const struct answer_part *part) {
    *delta = (struct answer_delta){.kind = kind, .part = part};
    return true;
}

static bool tell_text(struct answer_delta *delta, struct answer_part *part) {
    tell(delta, PART_GROWS, part);
    delta->text = part->text.data + part->n_told;
    delta->length = part->text.length - part->n_told;
    part->n_told = part->text.length;
    return true;
}

bool answer_next(struct answer *answer, struct answer_delta *delta) {
    if (answer->n_told == answer->n_parts) return false;
    struct answer_part *part = &answer->parts[answer->n_told];
    bool is_last = answer->n_told == answer->n_parts - 1;
    if (!part->is_begun) {
        part->is_begun = true;
        return tell(delta, PART_BEGINS, part);
    }
    if (part->n_told == part->text.length && !answer->keeps_text) part->n_told = part->text.length = 0;
    if (part->n_told < part->text.length) return tell_text(delta, part);
    if (is_last && !answer->is_over) return false; // it may go on
    ++answer->n_told;
    return tell(delta, PART_ENDS, part);
}
