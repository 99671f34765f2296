"""That /openapi.json agrees with what OpenAI and Anthropic publish, from which the types of their SDKs are made, wherever
both speak.

A place is written as members, "[]" for the elements of an array, "?" behind what one requires and the other may leave
out, ": " before a kind or value that the other does not have; "*" ends those that begin alike. The lists below are all
that differs.
"""
import json
import unittest

import anthropic.types
import openai.types
import pydantic
from anthropic.types import message_create_params
from openai.types import chat, completion_create_params, embedding_create_params, responses, shared
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params, response_item_list

from contract import CONTRACT, data_of
from harness import TEXT_ALONE, ServerTest
from schema_compare import alternatives, misfits

# --- answers: what ours have and theirs do not ---

VLLM = {".choices[].stop_reason", ".choices[].token_ids"}
MESSAGE, DELTA = ({f".choices[].{part}.reasoning", f".choices[].{part}.reasoning_content"} for part in ("message", "delta"))
# OpenAI gives null for the first token of an echo too.
NULLS = {".choices[].logprobs.token_logprobs[]: null", ".choices[].logprobs.top_logprobs[]: null"}
# What the request said is told as it was said; OpenAI tells store too.
RESPONSE = {".reasoning.effort: string", ".store", ".text.format.type?", ".tool_choice.type?"}
ANSWERS = {
    "ChatCompletion": (chat.ChatCompletion, VLLM | MESSAGE | {".prompt_logprobs", ".prompt_token_ids"}),
    "ChatCompletionChunk": (chat.ChatCompletionChunk, VLLM | DELTA | {".prompt_token_ids"}),
    "Completion": (openai.types.Completion,
                   VLLM | NULLS | {".choices[].prompt_logprobs", ".choices[].prompt_token_ids"}),
    # OpenAI has no type of its own for these chunks.
    "CompletionChunk": (openai.types.Completion,
                        VLLM | NULLS | {".choices[].finish_reason: null", ".choices[].prompt_token_ids"}),
    # As vLLM; and base64, where it was asked for, which the SDK turns into numbers.
    "Embeddings": (openai.types.CreateEmbeddingResponse, {".created", ".data[].embedding: string", ".id"}),
    "Model": (openai.types.Model, {".max_model_len", ".parent", ".root"}),  # as vLLM
    "Response": (responses.Response, RESPONSE),
    "ResponseEvent": (responses.ResponseStreamEvent,
                      {".response" + place for place in RESPONSE} |
                      {".logprobs[].bytes", ".logprobs[].top_logprobs[].bytes", ".name"}),  # the name is published
    "ResponseItem": (response_item_list.ResponseItem, set()),
    "Message": (anthropic.types.Message, set()),
    # In the stream of a real server, and in the SDK's reader of it, but not in its types.
    "MessageEvent": (anthropic.types.RawMessageStreamEvent, {".type: 'ping'", ".type: 'error'"}),
    "MessagesError": (anthropic.types.ErrorResponse, {".error.type: 'request_too_large'"}),
}

# --- requests: what theirs may have and ours may not, or to no effect; fields without effect are in the document ---

REFUSED = {
    "ChatCompletionRequest": {
        ".audio: object", ".function_call: object",
        ".messages[].content[].type: 'file'", ".messages[].content[].type: 'image_url'",
        ".messages[].content[].type: 'input_audio'", ".messages[].content[].type: 'refusal'",
        ".messages[].role: 'function'",
        ".messages[].tool_calls[].function?", ".messages[].tool_calls[].custom",
        ".functions: array", ".modalities: array", ".moderation: object", ".web_search_options: object",
        ".response_format.json_schema.schema?",
        ".tool_choice.type: 'allowed_tools'", ".tool_choice.type: 'custom'", ".tools[].type: 'custom'",
    },
    "CompletionRequest": {".best_of: integer", ".prompt: null", ".suffix: string"},
    "ResponseRequest": {
        # Tools of ours are functions, items messages, reasoning, calls and their outputs, and all content is text.
        ".tools[].type: *", ".tool_choice.type: *", ".input[].type: *", ".input[].content[].type: *",
        ".input[].output[].type: *", ".input[].call_id: null", ".input[].call_id?", ".include[]: *",
        ".input?", ".context_management: array", ".conversation: *", ".max_tool_calls: integer", ".moderation: object",
        ".prompt: object", ".stream_options: object", ".text.verbosity: *", ".truncation: 'auto'",
    },
    "MessagesRequest": {
        ".tools[].type: *", ".messages[].content[].type: *", ".messages[].content[].content[].type: *",
        ".thinking.type: 'between_tools'",
    },
}
NO_EFFECT = {
    "ChatCompletionRequest": {
        ".messages[].audio", ".messages[].content[].prompt_cache_breakpoint", ".messages[].function_call",
        ".messages[].name", ".messages[].refusal", ".messages[].tool_call_id", ".messages[].tool_calls[].id",
        ".messages[].tool_calls[].type", ".response_format.json_schema.description",
        ".response_format.json_schema.name", ".response_format.json_schema.strict",
        ".stream_options.include_obfuscation",
    },
    "CompletionRequest": {".stream_options.include_obfuscation"},
    "ResponseRequest": {
        ".access_programs", ".background_options", ".image", ".input[].async", ".input[].caller",
        ".input[].content[].annotations", ".input[].content[].logprobs", ".input[].content[].prompt_cache_breakpoint",
        ".input[].encrypted_content", ".input[].name", ".input[].namespace", ".input[].output[].prompt_cache_breakpoint",
        ".input[].phase", ".input[].status", ".reasoning.context", ".reasoning.generate_summary", ".reasoning.mode",
        ".tools[].allowed_callers", ".tools[].async", ".tools[].defer_loading", ".tools[].output_schema",
    },
    "MessagesRequest": {
        ".cache_control", ".container", ".diagnostics", ".inference_geo", ".messages[].content[].cache_control",
        ".messages[].content[].caller", ".messages[].content[].citations",
        ".messages[].content[].content[].cache_control", ".messages[].content[].content[].citations",
        ".messages[].content[].data", ".messages[].content[].signature", ".messages[].content[].toolset_name",
        ".metadata", ".service_tier", ".speed", ".system[].cache_control", ".system[].citations",
        ".tools[].allowed_callers", ".tools[].cache_control", ".tools[].defer_loading",
        ".tools[].eager_input_streaming", ".tools[].input_examples", ".user_profile_id", ".workspace_id",
        ".tools[].input_schema.*",  # of an object of any kind
    },
}
REQUESTS = {
    "ChatCompletionRequest": chat_create_params.CompletionCreateParamsNonStreaming,
    "CompletionRequest": completion_create_params.CompletionCreateParamsNonStreaming,
    "EmbeddingsRequest": embedding_create_params.EmbeddingCreateParams,
    "ResponseRequest": response_create_params.ResponseCreateParamsNonStreaming,
    "MessagesRequest": message_create_params.MessageCreateParamsNonStreaming,
}


def ours(name):
    return alternatives(CONTRACT.document, {"$ref": "#/components/schemas/" + name})


def published(kind):
    schema = pydantic.TypeAdapter(kind).json_schema()
    return alternatives(schema, schema)


class Schemas(unittest.TestCase):
    maxDiff = None

    def check(self, found, listed):
        """Each place is listed, and each in the list is one."""
        def is_meant(place, entry):
            return place.startswith(entry[:-1]) if entry.endswith("*") else place == entry

        self.assertEqual([place for place in sorted(found) if not any(is_meant(place, entry) for entry in listed)], [])
        self.assertEqual([entry for entry in sorted(listed) if not any(is_meant(place, entry) for place in found)], [])

    def test_answers(self):
        for name, (kind, differences) in ANSWERS.items():
            with self.subTest(name):
                self.check(misfits(ours(name), published(kind)), differences)

    def test_errors(self):
        self.assertEqual(misfits(ours("Error")[0].member("error"), published(shared.ErrorObject)), set())

    def test_requests(self):
        for name, kind in REQUESTS.items():
            with self.subTest(name):
                self.check(misfits(published(kind), ours(name)), REFUSED.get(name, set()) | NO_EFFECT.get(name, set()))


class Comparison(unittest.TestCase):
    """That misfits finds what it is to find."""

    def found(self, one, other):
        return misfits(alternatives({}, one), alternatives({}, other))

    def test_what_fits(self):
        for one, other in (({"type": "string"}, {}), ({"const": "a"}, {"type": "string"}), ({"enum": ["a"]}, {"enum": ["a", "b"]}),
                           ({"type": "integer"}, {"type": ["number", "null"]}), ({"type": "object"}, {"type": "object"}),
                           ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": ["null", "string"]}),
                           ({"const": 1}, {"type": "number"}), ({"const": None}, {"type": "null"})):
            self.assertEqual(self.found(one, other), set(), (one, other))

    def test_what_does_not(self):
        def thing(kind, **members):
            return {"type": "object", "properties": {"type": {"const": kind}, **members}}

        for one, other, place in (
                ({"type": "string"}, {"type": "integer"}, ": string"), ({"type": "number"}, {"type": "integer"}, ": number"),
                ({"enum": ["a", "b"]}, {"enum": ["a"]}, ": 'b'"), ({"type": "string"}, {"const": "a"}, ": string"),
                ({"type": ["string", "null"]}, {"type": "string"}, ": null"), ({}, {"type": "string"}, ": any"),
                ({"type": "array", "items": thing("a")}, {"type": "array", "items": {"anyOf": [thing("b"), thing("c")]}},
                 "[].type: 'a'"),
                (thing("a", x={"type": "string"}), {"anyOf": [thing("b", x={}), thing("a", y={})]}, ".x"),
                (thing("a"), {**thing("a"), "required": ["type"]}, ".type?"),
                ({"allOf": [thing("a"), thing("a", x={"type": "null"})]}, thing("a", x={"type": "string"}), ".x: null"),
                ({"type": "object", "additionalProperties": {"type": "string"}},
                 {"type": "object", "additionalProperties": {"type": "null"}}, ".*: string")):
            self.assertEqual(self.found(one, other), {place}, (one, other))


@TEXT_ALONE
class Answers(ServerTest):
    """The SDK's own types read what is served, strictly."""

    CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
    WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}}

    def check(self, path, kind, chunk, **body):
        status, _, answer = self.server.call("POST", path, {"max_tokens": 60, "temperature": 0, **body})
        self.assertEqual(status, 200, answer)
        pydantic.TypeAdapter(kind).validate_json(answer, strict=True)
        events = self.server.stream(path, {"max_tokens": 60, **body, "stream_options": {"include_usage": True}})
        self.assertGreater(len(events), 2)
        for event in events[:-1]:
            pydantic.TypeAdapter(chunk).validate_json(json.dumps(event), strict=True)

    def test_chat(self):
        ask = [{"role": "user", "content": "What is the weather in Paris?"}]
        for fields in ({}, {"logprobs": True, "top_logprobs": 3}, {"tools": [self.WEATHER]}, {"n": 2, "seed": 1},
                       {"tools": [self.WEATHER], "tool_choice": "required"}, {"return_token_ids": True}):
            self.check(self.CHAT, chat.ChatCompletion, chat.ChatCompletionChunk, messages=ask, **fields)

    def test_completions(self):
        class Chunk(openai.types.Completion):  # see CompletionChunk above
            choices: list[dict]

        for fields in ({}, {"logprobs": 3}, {"echo": True, "n": 2}):
            self.check(self.PLAIN, openai.types.Completion, Chunk, prompt="Once upon a time", **fields)

    def test_embeddings(self):
        for fields in ({}, {"dimensions": 8}):
            _, answer = self.server.post("/v1/embeddings", {"input": ["Hello!", "Good bye!"], **fields})
            openai.types.CreateEmbeddingResponse.model_validate(answer, strict=True)

    def test_responses(self):
        events = pydantic.TypeAdapter(responses.ResponseStreamEvent)
        ask = {"max_output_tokens": 60, "input": "What is the weather in Paris?"}
        tool = {"type": "function", **self.WEATHER["function"], "strict": True}
        for fields in ({}, {"tools": [tool], "tool_choice": "required"}, {"include": ["message.output_text.logprobs"]}):
            status, _, answer = self.server.call("POST", "/v1/responses", {**ask, **fields})
            self.assertEqual(status, 200, answer)
            responses.Response.model_validate_json(answer, strict=True)
            status, _, answer = self.server.call("POST", "/v1/responses", {**ask, **fields, "stream": True})
            for event in data_of(answer):
                events.validate_json(json.dumps(event), strict=True)

    def test_messages(self):
        events = pydantic.TypeAdapter(anthropic.types.RawMessageStreamEvent)
        ask = {"max_tokens": 60, "messages": [{"role": "user", "content": "What is the weather in Paris?"}]}
        tool = {"name": "get_weather", "input_schema": self.WEATHER["function"]["parameters"]}
        for fields in ({}, {"tools": [tool]}, {"tools": [tool], "tool_choice": {"type": "any"}}):
            status, _, answer = self.server.call("POST", "/v1/messages", {**ask, **fields})
            self.assertEqual(status, 200, answer)
            anthropic.types.Message.model_validate_json(answer, strict=True)
            status, _, answer = self.server.call("POST", "/v1/messages", {**ask, **fields, "stream": True})
            for event in data_of(answer):
                if event["type"] not in ("ping", "error"):
                    events.validate_json(json.dumps(event), strict=True)
        _, answer = self.server.post("/v1/messages", {})
        anthropic.types.ErrorResponse.model_validate(answer, strict=True)

    def test_the_rest(self):
        for path in ("/v1/models/demo", "/v1/models"):
            _, answer = self.server.get(path)
            for model in answer.get("data", [answer]):
                openai.types.Model.model_validate(model, strict=True)
        _, answer = self.server.post(self.PLAIN, {"prompt": 1})
        shared.ErrorObject.model_validate(answer["error"], strict=True)


if __name__ == "__main__":
    unittest.main()
