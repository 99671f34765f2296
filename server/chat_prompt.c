#include "server/chat_prompt.h"

#include "server/chat_messages.h"
#include "server/chat_template.h"
#include "server/server.h"

#include <string.h>

/* tool_choice none is kept by leaving the tools out of the prompt. */
static void choose_tools(struct openai_request *request, struct chat *chat) {
    request->tools = chat->tools;
    request->n_tools = chat->n_tools;
    request->has_strict_tools = chat->has_strict_tools;
    if (!request->has_no_tools) return;
    chat->tools = NULL;
    chat->n_tools = 0;
}

/* The tools were lent to the chat for its prompt; the answer needs them too. */
static void return_tools(struct openai_request *request, struct chat *chat) {
    if (chat->tools != request->tools) return;
    chat->tools = NULL;
    chat->n_tools = 0;
}

static bool check_thinking(const struct server *server, const struct openai_request *request, struct error *err) {
    if (server->family != CHAT_THINKING || request->thinking != CHAT_THINKING_OFF) return true;
    return fail_param(err, ERR_INVALID, "enable_thinking", "this model always thinks; that cannot be turned off");
}

/* An open turn: the model goes on with its content. */
static void open_final_turn(struct string_builder *prompt) {
    static const char closed[] = "<|im_end|>\n";
    size_t length = sizeof closed - 1;
    if (prompt->length < length || memcmp(prompt->data + prompt->length - length, closed, length) != 0) return;
    prompt->length -= length;
}

bool chat_prompt_render(struct server *server, struct chat *chat, struct openai_request *request,
                        struct chat_prompt *prompt, struct error *err) {
    chat->family = server->family;
    chat->thinking = request->thinking;
    if (request->no_generation_prompt || request->continues_final) chat->add_generation_prompt = false;
    choose_tools(request, chat);
    bool ok = check_thinking(server, request, err) && chat_template_render(chat, &prompt->text, err);
    if (ok && request->continues_final) open_final_turn(&prompt->text);
    ok = ok && tokenizer_encode(server->tokenizer, prompt->text.data, prompt->text.length, &prompt->ids, err);
    return_tools(request, chat);
    chat_finish(chat);
    return ok;
}

bool chat_prompt_make(struct server *server, const struct openai_source *source, struct openai_request *request,
                      struct chat_prompt *prompt, struct error *err) {
    struct chat chat = {0};
    return chat_messages_read(source->body, source->length, &chat, err) &&
           chat_prompt_render(server, &chat, request, prompt, err);
}

void chat_prompt_finish(struct chat_prompt *prompt) {
    string_builder_finish(&prompt->text);
    token_list_finish(&prompt->ids);
}
