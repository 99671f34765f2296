"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's form, by hand and with the official anthropic SDK."""
import json
import os
import typing
import unittest

from harness import GOLDEN, SANITIZED, TEXT_ALONE, Server, ServerTest

try:
    import anthropic
except ImportError:
    anthropic = None

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "The city name"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Get the current weather for a city.", "input_schema": SCHEMA}
HELLO = [{"role": "user", "content": "Hello!"}]
THINKING = {"type": "enabled", "budget_tokens": 100}


def text(*texts):
    return [{"type": "text", "text": one} for one in texts]


def in_anthropic_form(messages, tools):
    """A recorded chat of OpenAI's form."""
    body = {"messages": []}
    for message in messages:
        content = message["content"]
        if message["role"] == "system":
            body["system"] = content
        elif message["role"] == "user":
            body["messages"].append({"role": "user", "content": text(content)})
        elif message["role"] == "tool":
            result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
            if body["messages"][-1]["role"] == "user":
                body["messages"][-1]["content"].append(result)
            else:
                body["messages"].append({"role": "user", "content": [result]})
        else:
            blocks = [{"type": "thinking", "thinking": message["reasoning_content"], "signature": ""}] \
                if message.get("reasoning_content") else []
            blocks += text(content) if content else []
            for call in message.get("tool_calls") or ():
                arguments = call["function"]["arguments"]
                blocks.append({"type": "tool_use", "id": "toolu_1", "name": call["function"]["name"],
                               "input": json.loads(arguments) if isinstance(arguments, str) else arguments})
            body["messages"].append({"role": "assistant", "content": blocks})
    if tools:
        body["tools"] = [{"name": tool["function"]["name"], "description": tool["function"]["description"],
                          "input_schema": tool["function"]["parameters"]} for tool in tools]
    return body


def events_of(body):
    """Name and data of each event."""
    events = []
    for event in body.decode().split("\n\n")[:-1]:
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        data = json.loads(data.removeprefix("data: "))
        assert name == "event: " + data["type"], event
        events.append(data)
    return events


@TEXT_ALONE
class Messages(ServerTest):
    def ask(self, messages, status=200, **fields):
        given, answer = self.server.post("/v1/messages", {
            "model": "demo", "messages": messages, "max_tokens": 200, "temperature": 0, **fields})
        self.assertEqual(given, status, answer)
        return answer

    def stream(self, messages, **fields):
        body = {"messages": messages, "max_tokens": 200, "temperature": 0, "stream": True, **fields}
        status, headers, answer = self.server.call("POST", "/v1/messages", body)
        self.assertEqual(status, 200, answer)
        self.assertTrue(headers["Content-Type"].startswith("text/event-stream"))
        return events_of(answer)

    def test_the_same_prompt_as_of_a_chat(self):
        """Recorded chats, each put into both forms: the model reads the same tokens."""
        with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
            cases = [case for case in json.load(file) if "messages" in case]
        roles = set()
        for case in cases:
            body = in_anthropic_form(case["messages"], case["tools"])
            body["thinking"] = {"type": "disabled" if case["enable_thinking"] is False else "adaptive"}
            roles |= {message["role"] for message in case["messages"]}
            status, answer = self.server.post("/v1/messages/count_tokens", body)
            self.assertEqual((status, answer), (200, {"input_tokens": len(case["prompt_ids"])}))
            chat = {"messages": case["messages"], "tools": case["tools"], "enable_thinking": case["enable_thinking"]}
            if SANITIZED and cases.index(case) % 4 > 0:
                continue
            status, chat = self.server.post("/v1/chat/completions", {**chat, "max_tokens": 24, "temperature": 0})
            message = self.ask(**{**body, "max_tokens": 24})
            said = chat["choices"][0]["message"]
            blocks = message["content"]
            self.assertEqual("".join(block["text"] for block in blocks if block["type"] == "text"), said["content"] or "")
            self.assertEqual("".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
                             said.get("reasoning_content", ""))
            self.assertEqual([(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
                             [(call["function"]["name"], json.loads(call["function"]["arguments"]))
                              for call in said.get("tool_calls", ())])
        self.assertEqual(roles, {"system", "user", "assistant", "tool"})

    def test_an_answer(self):
        answer = self.ask(HELLO, metadata={"user_id": "somebody"})
        self.assertRegex(answer["id"], "^msg_[0-9a-f]{24}$")
        self.assertEqual((answer["type"], answer["role"], answer["model"]), ("message", "assistant", "demo"))
        self.assertEqual(answer["content"], text("Hello! How can I help you today?"))
        self.assertEqual((answer["stop_reason"], answer["stop_sequence"]), ("end_turn", None))
        usage = answer["usage"]
        n_prompt = self.server.post("/v1/messages/count_tokens", {"messages": HELLO})[1]["input_tokens"]
        self.assertEqual(usage["input_tokens"] + usage["cache_read_input_tokens"], n_prompt)
        self.assertEqual((usage["cache_creation_input_tokens"], usage["output_tokens_details"]["thinking_tokens"]), (0, 0))

    def test_system_and_texts(self):
        ask = {"messages": [{"role": "user", "content": "Hello!"}]}
        chat = {"messages": [{"role": "system", "content": "Be brief.\nBe kind."}, *ask["messages"]], "enable_thinking": False}
        count = self.server.post("/tokenize", chat)[1]["count"]
        for fields in ({"system": "Be brief.\nBe kind."}, {"system": text("Be brief.", "Be kind.")},
                       {"messages": [{"role": "system", "content": text("Be brief.", "Be kind.")}, *HELLO]}):
            self.assertEqual(self.server.post("/v1/messages/count_tokens", {**ask, **fields})[1], {"input_tokens": count})

    def test_thinking(self):
        answer = self.ask(HELLO, thinking=THINKING)
        self.assertEqual(answer["content"], [
            {"type": "thinking", "thinking": "This is a simple message.", "signature": ""},
            *text("Hello! How can I help you today?")])
        self.assertEqual(answer["usage"]["output_tokens_details"]["thinking_tokens"], 7)
        self.assertEqual(self.ask(HELLO, thinking={"type": "adaptive"})["content"], answer["content"])
        for fields in ({}, {"thinking": {"type": "disabled"}}, {"thinking": {"type": "adaptive", "display": "omitted"}}):
            self.assertEqual(self.ask(HELLO, **fields)["content"], answer["content"][1:])
        cut = self.ask(HELLO, thinking={"type": "enabled", "budget_tokens": 3})["content"][0]["thinking"]
        self.assertTrue(cut.startswith("This is\n") and "limited time" in cut, cut)
        # Blocks of before come back, redacted ones too.
        self.ask([*HELLO, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, *answer["content"]]},
                  *HELLO])

    def test_stops(self):
        full = self.ask(HELLO)["content"][0]["text"]
        answer = self.ask(HELLO, stop_sequences=["nowhere", "help", "you"])
        self.assertEqual((answer["stop_reason"], answer["stop_sequence"]), ("stop_sequence", "help"))
        self.assertEqual(answer["content"], text(full[:full.index("help")]))
        answer = self.ask(HELLO, max_tokens=3)
        self.assertEqual((answer["stop_reason"], answer["usage"]["output_tokens"]), ("max_tokens", 3))
        limit = self.server.get("/v1/models")[1]["data"][0]["max_model_len"]
        self.assertEqual(self.ask(HELLO, max_tokens=limit + 1)["stop_reason"], "end_turn")

    @unittest.skipIf(SANITIZED, "fills the context")
    def test_the_end_of_the_context(self):
        limit = self.server.get("/v1/models")[1]["data"][0]["max_model_len"]

        def count(n_times):
            long = [{"role": "user", "content": "Once upon a time " * n_times}]
            return long, self.server.post("/v1/messages/count_tokens", {"messages": long})[1]["input_tokens"]

        each = (count(20)[1] - count(10)[1]) // 10
        long, n_prompt = count((limit - 40) // each)
        left = limit - n_prompt
        self.assertTrue(0 < left < 60, left)
        answer = self.ask(long, max_tokens=1000, output_config={"format": {
            "type": "json_schema", "schema": {"type": "string", "minLength": 300}}})
        self.assertEqual((answer["stop_reason"], answer["usage"]["output_tokens"]), ("model_context_window_exceeded", left))

    def test_prefill(self):
        whole = self.ask(HELLO)["content"][0]["text"]
        answer = self.ask([*HELLO, {"role": "assistant", "content": whole[:10]}])
        self.assertEqual(whole[:10] + answer["content"][0]["text"], whole)

    def test_events(self):
        for fields in ({}, {"thinking": THINKING}, {"tools": [WEATHER]}, {"stop_sequences": ["help"]}, {"max_tokens": 3}):
            messages = [{"role": "user", "content": "What is the weather in Paris?"}] if "tools" in fields else HELLO
            events = self.stream(messages, **fields)
            whole = self.ask(messages, **fields)
            self.assertEqual([events[0]["type"], events[1]["type"], events[-2]["type"], events[-1]["type"]],
                             ["message_start", "ping", "message_delta", "message_stop"])
            self.assertEqual(events[0]["message"]["content"], [])
            self.assertEqual(events[0]["message"]["usage"]["input_tokens"],
                             whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"])
            blocks, inputs = [], {}
            for event in events[2:-2]:
                if event["type"] == "content_block_start":
                    self.assertEqual(event["index"], len(blocks))
                    blocks.append(event["content_block"])
                elif event["type"] == "content_block_delta":
                    self.assertEqual(event["index"], len(blocks) - 1)
                    kind = event["delta"].pop("type")
                    (member, value), = event["delta"].items()
                    if kind == "input_json_delta":
                        inputs[event["index"]] = inputs.get(event["index"], "") + value
                    else:
                        blocks[-1][member] += value
                else:
                    self.assertEqual((event["type"], event["index"]), ("content_block_stop", len(blocks) - 1))
            for block, (one, other) in zip(blocks, zip(blocks, whole["content"])):
                if block["type"] == "tool_use":
                    block["input"], block["id"] = json.loads(inputs[blocks.index(block)]), other["id"]
            self.assertEqual(blocks, whole["content"])
            self.assertEqual(events[-2]["delta"], {key: whole[key] for key in ("stop_reason", "stop_sequence")})
            self.assertEqual(events[-2]["usage"]["output_tokens"], whole["usage"]["output_tokens"])

    def test_calls_that_are_guaranteed(self):
        timer = {"name": "set_timer", "input_schema": {"type": "object", "properties": {"minutes": {"type": "integer"}},
                                                       "required": ["minutes"], "additionalProperties": False}}
        for choice, names in (({"type": "any"}, {"get_weather", "set_timer"}), ({"type": "tool", "name": "set_timer"}, {"set_timer"})):
            for _ in range(1 if SANITIZED else 2):
                answer = self.ask(HELLO, tools=[WEATHER, timer], tool_choice={**choice, "disable_parallel_tool_use": True},
                                  temperature=1, max_tokens=600)
                self.assertEqual(answer["stop_reason"], "tool_use")
                call, = answer["content"]
                self.assertIn(call["name"], names)
                self.assertEqual(set(call["input"]), {"city"} if call["name"] == "get_weather" else {"minutes"})
        answer = self.ask(HELLO, tools=[WEATHER], tool_choice={"type": "none"})
        self.assertEqual(answer["content"], self.ask(HELLO)["content"])
        cuts = [self.ask(HELLO, tools=[timer], tool_choice={"type": "any"}, max_tokens=n) for n in (8, 10, 12)]
        self.assertEqual({cut["stop_reason"] for cut in cuts}, {"max_tokens"})
        self.assertIn([("set_timer", {})], [[(block.get("name"), block.get("input")) for block in cut["content"]] for cut in cuts])

    def test_structured_output(self):
        schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
        answer = self.ask(HELLO, output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}})
        self.assertEqual(set(json.loads(answer["content"][0]["text"])), {"sum"})

    def test_errors(self):
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
        call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
        user = lambda *blocks: {"messages": [{"role": "user", "content": list(blocks)}]}
        said = lambda *blocks: {"messages": [{"role": "assistant", "content": list(blocks)}, *HELLO]}
        for fields, part in (
                ({"max_tokens": None}, "max_tokens is missing"),
                ({"max_tokens": 0}, "from 1"),
                ({"messages": None}, "messages is missing"),
                ({"messages": []}, "at least one message"),
                ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role must be user, assistant or system"),
                ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
                (user(), "messages[0].content is empty"),
                (user(image), 'messages[0].content[0].type is "image"'),
                (user({"type": "document"}), "no images, documents"),
                (user({"type": "text"}), "messages[0].content[0].text is missing"),
                (user({"type": "tool_result"}), "messages[0].content[0].tool_use_id is missing"),
                (user({"type": "tool_result", "tool_use_id": "x", "content": [image]}), "messages[0].content[0].content[0].type"),
                (user(call), "allowed are text and tool_result"),
                (said({"type": "tool_use", "id": "x", "name": "f", "input": "{}"}), "messages[0].content[0].input is a string"),
                (said({"type": "server_tool_use"}), "allowed are text, thinking"),
                ({"messages": [*HELLO, {"role": "assistant", "content": [call]}]}, "ends with tool_use"),
                ({"system": 7}, "system is a number"),
                ({"temperature": 2.5}, "temperature must be a number from 0 to 2"),
                ({"stop_sequences": [""]}, "stop_sequences"),
                ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing"),
                ({"thinking": {"type": "enabled", "budget_tokens": 200}}, "below the 200 of max_tokens"),
                ({"thinking": {"type": "between_tools"}}, "thinking must be"),
                ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 'tools[0].type must be "custom"'),
                ({"tools": [{"name": "f"}]}, "tools[0].input_schema is missing"),
                ({"tool_choice": {"type": "any"}}, "tools are not given"),
                ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice must be"),
                ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "f"}}, "none of the tools"),
                ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
                ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}}, "output_config.format.schema"),
                ({"mcp_servers": [{}]}, "mcp_servers"),
                ({"container": "x"}, "container is not supported")):
            with self.subTest(fields=str(fields)[:80]):
                answer = self.ask(**{"messages": HELLO, "status": 400, **fields})
                self.assertEqual((answer["type"], answer["error"]["type"]), ("error", "invalid_request_error"))
                self.assertIn(part, answer["error"]["message"])
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            status, headers, body = self.server.call("POST", path, {"messages": HELLO, "max_tokens": 1, "model": "claude"})
            answer = json.loads(body)
            self.assertEqual((status, answer["error"]["type"]), (404, "not_found_error"))
            self.assertEqual(answer["request_id"], headers["X-Request-Id"])
            status, _, body = self.server.call("GET", path)
            self.assertEqual((status, json.loads(body)["error"]["type"]), (405, "invalid_request_error"))
            status, _, body = self.server.call("POST", path, "x" * 9_000_000)
            self.assertEqual((status, json.loads(body)["error"]["type"]), (413, "request_too_large"))


@unittest.skipIf(anthropic is None, "the anthropic SDK is not installed")
class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-seqs", "1", "--max-queue", "0", "--api-key", "sesame")
        cls.client = anthropic.Anthropic(base_url=cls.server.url, api_key="sesame", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0

    def create(self, content="Hello!", **fields):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.client.messages.create(
            model="demo", max_tokens=200, messages=messages, extra_body={"temperature": 0}, **fields)

    def test_create(self):
        message = self.create(thinking=THINKING)
        self.assertEqual([block.type for block in message.content], ["thinking", "text"])
        self.assertEqual(message.content[0].thinking, "This is a simple message.")
        self.assertEqual(message.content[1].text, "Hello! How can I help you today?")
        self.assertEqual(message.stop_reason, "end_turn")
        self.assertRegex(message._request_id, "^[0-9a-f]{32}$")
        again = self.create([{"role": "user", "content": "Hello!"}, message.to_param(), {"role": "user", "content": "Hello!"}])
        self.assertEqual(again.content[0].type, "text")

    def test_stream(self):
        with self.client.messages.stream(model="demo", max_tokens=200, messages=HELLO, thinking=THINKING,
                                         extra_body={"temperature": 0}) as stream:
            self.assertEqual("".join(stream.text_stream), "Hello! How can I help you today?")
            final = stream.get_final_message()
        self.assertEqual(final.content[0].thinking, "This is a simple message.")
        self.assertEqual((final.stop_reason, final.usage.output_tokens), ("end_turn", self.create(thinking=THINKING).usage.output_tokens))

    def test_tools(self):
        """The loop that every agent runs: question, call, result, answer; streamed too."""
        question = {"role": "user", "content": "What is the weather in Paris?"}
        message = self.create([question], tools=[WEATHER])
        call, = message.content
        self.assertEqual((message.stop_reason, call.type, call.name, call.input),
                         ("tool_use", "tool_use", "get_weather", {"city": "Paris"}))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 18, "sky": "sunny"}'}
        answer = self.create([question, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}],
                             tools=[WEATHER])
        self.assertEqual(answer.content[0].text, "It is sunny in Paris with a temperature of 18 degrees.")
        with self.client.messages.stream(model="demo", max_tokens=200, messages=[question], tools=[WEATHER],
                                         extra_body={"temperature": 0}) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        self.assertIn("input_json", kinds)
        self.assertEqual(final.content[0].input, {"city": "Paris"})

    def test_the_tool_runner(self):
        asked = []

        @anthropic.beta_tool
        def get_weather(city: str) -> str:
            """Get the current weather for a city.

            Args:
                city: The city name
            """
            asked.append(city)
            return '{"temperature": 18, "sky": "sunny"}'

        runner = self.client.beta.messages.tool_runner(
            model="demo", max_tokens=200, tools=[get_weather], extra_body={"temperature": 0},
            messages=[{"role": "user", "content": "What is the weather in Paris?"}])
        final = runner.until_done()
        self.assertEqual(asked, ["Paris"])
        self.assertRegex(final.content[0].text, "^It is sunny in .* with a temperature of 18 degrees.$")

    def test_parse(self):
        import pydantic

        class Solution(pydantic.BaseModel):
            unit: typing.Literal["m", "kg"]
            is_certain: bool

        message = self.client.messages.parse(model="demo", max_tokens=200, messages=HELLO, output_format=Solution,
                                             extra_body={"temperature": 0})
        self.assertIsInstance(message.parsed_output, Solution)

    def test_count_tokens(self):
        count = self.client.messages.count_tokens(model="demo", messages=HELLO, tools=[WEATHER], system="Be brief.")
        usage = self.create(tools=[WEATHER], system="Be brief.").usage
        self.assertEqual(count.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)

    def test_errors(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.client.messages.create(model="demo", max_tokens=0, messages=HELLO)
        self.assertIn("max_tokens must be an integer from 1", caught.exception.message)
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="claude", max_tokens=1, messages=HELLO)
        with anthropic.Anthropic(base_url=self.server.url, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(anthropic.AuthenticationError) as caught:
                stranger.messages.create(model="demo", max_tokens=1, messages=HELLO)
            self.assertEqual(caught.exception.body["error"]["type"], "authentication_error")
        long = {"type": "json_schema", "schema": {"type": "string", "minLength": 3000}}
        with self.client.messages.stream(model="demo", max_tokens=2000, messages=HELLO,
                                         output_config={"format": long}) as stream:
            next(iter(stream))
            with self.assertRaises(anthropic.RateLimitError) as caught:
                self.create()
            self.assertEqual(caught.exception.body["error"]["type"], "rate_limit_error")
        self.server.wait_for_live(lambda running, waiting, usage: (running, usage) == (0, 0))
