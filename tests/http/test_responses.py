"""POST /v1/responses and what is stored of it, with the official openai SDK; each event as the SDK's types have it."""
import concurrent.futures
import copy
import json
import time
import typing
import unittest

from harness import PATIENCE, SANITIZED, TEXT_ALONE, Server, ServerTest

try:
    import openai
    import pydantic
    from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
except ImportError:
    openai = None

WEATHER = {"type": "function", "name": "get_weather", "description": "Get the current weather for a city.",
           "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The city name"}},
                          "required": ["city"]}, "strict": None}
RESULT = '{"temperature": 18, "sky": "sunny"}'
ENDS = {"response.completed": "completed", "response.incomplete": "incomplete"}


def events_of(text):
    """(name, data) of each event."""
    events = []
    for event in text.strip().split("\n\n"):
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        assert name.startswith("event: ") and data.startswith("data: "), event
        events.append((name[len("event: "):], json.loads(data[len("data: "):])))
    return events


def outline(response):
    """What was said, without ids and times."""
    lines = []
    for item in response["output"]:
        if item["type"] == "function_call":
            lines.append(("function_call", item["status"], item["name"], item["arguments"]))
        else:
            lines.append((item["type"], item.get("status"), [part["text"] for part in item["content"]]))
    return lines


@TEXT_ALONE
class Created(ServerTest):
    """The object and its events, as they go over the wire."""

    def create(self, body, status=200):
        answered, response = self.server.post("/v1/responses", {"temperature": 0, **body})
        self.assertEqual(answered, status, response)
        if status == 200 and openai is not None:
            Response.model_validate(response)
        return response

    def events(self, body):
        _, headers, answer = self.server.call("POST", "/v1/responses", {"temperature": 0, **body, "stream": True})
        self.assertTrue(headers["Content-Type"].startswith("text/event-stream"), answer)
        return events_of(answer.decode())

    def check_events(self, events):
        """Their order, and that they add up to the last of them, which is told."""
        names = [name for name, _ in events]
        self.assertEqual(names[:2], ["response.created", "response.in_progress"])
        self.assertIn(names[-1], ENDS)
        if openai is not None:
            adapter = pydantic.TypeAdapter(ResponseStreamEvent)
            for _, data in events:
                adapter.validate_python(data)
        done, item, text = [], None, None
        for number, (name, data) in enumerate(events):
            self.assertEqual((data["type"], data["sequence_number"]), (name, number))
            if name == "response.output_item.added":
                self.assertIsNone(item)
                item, text = data["item"], ""
                self.assertEqual(item["status"], "in_progress")
            if "output_index" in data:
                self.assertEqual(data["output_index"], len(done))
            if "item_id" in data:
                self.assertEqual(data["item_id"], item["id"])
            if name.endswith(".delta"):
                text += data["delta"]
            for member in ("text", "arguments"):
                if member in data:
                    self.assertEqual(data[member], text)
            if name == "response.output_item.done":
                self.assertEqual(data["item"]["id"], item["id"])
                done.append(data["item"])
                item = None
        response = events[-1][1]["response"]
        self.assertEqual(response["output"], done)
        self.assertEqual(response["status"], ENDS[names[-1]])
        return response

    def test_streamed_and_whole_are_the_same(self):
        fits = {"type": "json_schema", "name": "fit", "schema": {"type": "object", "properties": {
            "n": {"type": "integer", "maximum": 99}}, "required": ["n"]}}
        bodies = [{"input": "Hello!"},
                  {"input": "What is 17 + 25?", "reasoning": {"effort": "none"}},
                  {"input": "What is 17 + 25?", "max_output_tokens": 5},
                  {"input": "What is 17 + 25?", "max_output_tokens": 22},
                  {"input": "What is the weather in Paris?", "tools": [WEATHER]},
                  {"input": "Hello!", "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 60},
                  {"input": "Hello!", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"},
                   "reasoning": {"effort": "none"}, "max_output_tokens": 18},
                  {"input": "Hello!", "text": {"format": fits}, "reasoning": {"effort": "none"}},
                  {"input": "Hello!", "text": {"format": {"type": "json_object"}}, "max_output_tokens": 40}]
        for body in bodies:
            with self.subTest(body=body):
                whole = self.create(body)
                streamed = self.check_events(self.events(body))
                self.assertEqual(outline(streamed), outline(whole))
                self.assertEqual({**streamed["usage"], "input_tokens_details": 0},
                                 {**whole["usage"], "input_tokens_details": 0})
                self.assertEqual(streamed["status"], whole["status"])

    def test_what_the_object_says(self):
        body = {"input": "Hello!", "instructions": "Be kind.", "metadata": {"a": "b"}, "max_output_tokens": 500,
                "user": "me", "temperature": 0.5, "top_p": 0.25, "tools": [WEATHER], "parallel_tool_calls": False,
                "reasoning": {"effort": "low", "summary": "auto"}, "store": False}
        response = self.create(body)
        for name in ("instructions", "metadata", "max_output_tokens", "user", "temperature", "top_p", "store",
                     "parallel_tool_calls"):
            self.assertEqual(response[name], body[name])
        self.assertEqual(response["reasoning"], {"effort": "low", "summary": None})
        self.assertEqual(response["tools"], [{**WEATHER, "strict": False}])
        self.assertEqual((response["object"], response["status"], response["model"]), ("response", "completed", "demo"))
        self.assertIsNone(response["error"])
        self.assertEqual(self.server.get(f"/v1/responses/{response['id']}")[0], 404)  # store is false

    def test_a_limit_ends_the_last_item(self):
        response = self.create({"input": "What is 17 + 25?", "max_output_tokens": 3})
        self.assertEqual((response["status"], response["incomplete_details"]),
                         ("incomplete", {"reason": "max_output_tokens"}))
        self.assertEqual([(item["type"], item["status"]) for item in response["output"]], [("reasoning", "incomplete")])
        self.assertEqual(response["usage"]["output_tokens"], 3)
        self.assertEqual(response["usage"]["output_tokens_details"]["reasoning_tokens"], 2)

    def test_log_probabilities_are_those_of_the_text(self):
        body = {"input": "What is 17 + 25?", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
        for response in (self.create(body), self.check_events(self.events(body))):
            text = response["output"][-1]["content"][0]
            self.assertEqual("".join(entry["token"] for entry in text["logprobs"]), text["text"])
            for entry in text["logprobs"]:
                self.assertEqual(len(entry["top_logprobs"]), 2)
                self.assertLessEqual(entry["logprob"], entry["top_logprobs"][0]["logprob"] + 1e-6)
        deltas = [data["logprobs"] for name, data in self.events(body) if name == "response.output_text.delta"]
        self.assertEqual(sum(deltas, []), text["logprobs"])

    def test_the_same_answer_as_a_chat(self):
        """Instructions, roles, tools and results of tools read as in the chat that says the same."""
        call = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'}
        cases = [
            ([{"role": "user", "content": "What is 2 + 2?"}], {}, [{"role": "user", "content": "What is 2 + 2?"}]),
            ([{"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
              {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]}], {},
             [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello!"}]),
            ("What is the weather in Paris?", {"tools": [WEATHER]},
             [{"role": "user", "content": "What is the weather in Paris?"}]),
            ([{"role": "user", "content": "What is the weather in Paris?"},
              {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "They ask."}]},
              call, {"type": "function_call_output", "call_id": "c1", "output": RESULT}], {"tools": [WEATHER]},
             [{"role": "user", "content": "What is the weather in Paris?"},
              {"role": "assistant", "reasoning_content": "They ask.", "content": None, "tool_calls": [
                  {"id": "c1", "type": "function",
                   "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}]},
              {"role": "tool", "tool_call_id": "c1", "content": RESULT}]),
        ]
        tool = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "description", "parameters")}}
        for given, fields, messages in cases:
            response = self.create({"input": given, "instructions": "You are here.", **fields})
            chat = {"messages": [{"role": "system", "content": "You are here."}, *messages], "temperature": 0,
                    **({"tools": [tool]} if fields else {})}
            _, answer = self.server.post("/v1/chat/completions", chat)
            message = answer["choices"][0]["message"]
            texts = [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]
            calls = [item["arguments"] for item in response["output"] if item["type"] == "function_call"]
            self.assertEqual("".join(texts), message["content"] or "")
            self.assertEqual(calls, [each["function"]["arguments"] for each in message.get("tool_calls", [])])
            self.assertEqual(response["usage"]["input_tokens"], answer["usage"]["prompt_tokens"])
            self.assertEqual(response["usage"]["output_tokens"], answer["usage"]["completion_tokens"])


@TEXT_ALONE
class Refused(ServerTest):
    def test_bodies(self):
        message = {"role": "user", "content": "Hello!"}
        for body, param, words in (
            ({}, "input", "is missing"),
            ({"input": 3}, "input", "must be a string or an array of items"),
            ({"input": []}, "input", "at least one item"),
            ({"input": [message, 4]}, "input[1]", "must be an object"),
            ({"input": 4097 * [message]}, "input", "more than 4096 items"),
            ({"input": [{"type": "web_search_call"}]}, "input[0].type", "must be message, reasoning"),
            ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "must be user"),
            ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type",
             "text only"),
            ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
            ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, "input[0].arguments", "is missing"),
            ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input[0].call_id",
             "no function_call before it"),
            ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
             "input[0].encrypted_content", "not what this server made"),
            ({"tools": "f"}, "tools", "an array of tools"),
            ({"tools": [3]}, "tools[0]", "must be an object"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type", "\"web_search\", but only \"function\""),
            ({"tools": [{"type": "function"}]}, "tools[0].name", "is missing"),
            ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "\"other\""),
            ({"tool_choice": {"type": "file_search"}}, "tool_choice", "\"required\" or"),
            ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "with a schema"),
            ({"text": {"format": {"type": "json_schema", "schema": {"if": {}}}}}, "text.format.schema", "if"),
            ({"text": {"verbosity": "low"}}, "text.verbosity", "is not supported beyond \"medium\""),
            ({"reasoning": {"effort": "much"}}, "reasoning.effort", "must be none, minimal"),
            ({"include": ["file_search_call.results"]}, "include", "message.output_text.logprobs"),
            ({"top_logprobs": 2}, "top_logprobs", "in include"),
            ({"truncation": "auto"}, "truncation", "\"disabled\""),
            ({"metadata": {"a": 1}}, "metadata", "at most 16 strings"),
            ({"max_output_tokens": 0}, "max_output_tokens", "from 1"),
            ({"max_output_tokens": 10**6}, "max_output_tokens", "max_output_tokens) make"),
            ({"conversation": "c"}, "conversation", "must be left out"),
            ({"model": "other"}, "model", "does not exist"),
            ({"background": True, "store": False}, "background", "store false"),
            ({"background": True, "stream": True}, "background", "stream"),
            ({"previous_response_id": "resp_unknown"}, "previous_response_id", "'resp_unknown' not found"),
        ):
            with self.subTest(body=body):
                status, answer = self.server.post("/v1/responses", {**({"input": "Hello!"} if body else {}), **body})
                self.assertEqual(status, 404 if param == "model" else 400, answer)
                self.assertEqual(answer["error"]["param"], param, answer)
                self.assertIn(words, answer["error"]["message"])
                self.assertEqual(answer["error"]["type"], "invalid_request_error")

    def test_many_tools_take_no_long_time(self):
        begun = time.monotonic()
        tools = [{"type": "function", "name": f"tool{i}", "parameters": {"type": "object"}} for i in range(20000)]
        status, answer = self.server.post("/v1/responses", {"input": "Hello!", "tools": tools})
        self.assertEqual((status, answer["error"]["code"]), (400, "context_length_exceeded"))
        self.assertLess(time.monotonic() - begun, 10 * PATIENCE)  # 0.2 s

    def test_odd_values(self):
        """At each place of two bodies that hold all there is: an answer, and one that is described."""
        message = {"type": "message", "id": "msg_a", "role": "user", "content": [{"type": "input_text", "text": "a"}]}
        bodies = [
            {"model": "demo", "input": [
                message, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}],
                          "content": [{"type": "reasoning_text", "text": "a"}], "encrypted_content": None},
                {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
                {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]},
                {"type": "item_reference", "id": "msg_a"}],
             "instructions": "a", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"},
             "parallel_tool_calls": True, "metadata": {"a": "b"}, "max_output_tokens": 1, "top_logprobs": 1,
             "include": ["message.output_text.logprobs"], "store": True, "background": False, "stream": False,
             "reasoning": {"effort": "low", "summary": "auto"}, "user": "a", "truncation": "disabled"},
            {"input": "a", "max_output_tokens": 1, "stream": True, "previous_response_id": None, "text": {
                "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}}]
        values = [None, {}, "", []] if SANITIZED else [None, True, -1, 1e308, "", "a\0", [], [None], {}, {"type": "a"}]

        def places(value, place=()):
            yield place
            for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
                yield from places(value[key], place + (key,))

        for body in bodies:
            for place in places(body):
                for value in values:
                    odd = copy.deepcopy(body)
                    holder = odd
                    for key in place[:-1]:
                        holder = holder[key]
                    if place:
                        holder[place[-1]] = value
                    status, _, answer = self.server.call("POST", "/v1/responses", odd if place else json.dumps(value))
                    self.assertIn(status, (200, 400, 404), (place, value, answer))

    def test_what_is_not_there(self):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
            status, _, answer = self.server.call(method, "/v1/responses/resp_none" + path)
            self.assertEqual((status, json.loads(answer)["error"]["message"]),
                             (404, "Response with id 'resp_none' not found."))
        status, answer = self.server.post("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_none"}]})
        self.assertEqual((status, answer["error"]["param"]), (404, "input[0].id"))
        status, headers, _ = self.server.call("PUT", "/v1/responses/resp_none")
        self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD, DELETE"))
        self.assertEqual(self.server.get("/v1/responses/resp_none?stream=true")[0], 400)


class Stored(ServerTest):
    arguments = ("--response-store", "8")

    def create(self, given, **fields):
        status, response = self.server.post("/v1/responses", {"input": given, "temperature": 0, **fields})
        self.assertEqual(status, 200, response)
        return response

    def test_it_can_be_asked_for_and_deleted(self):
        response = self.create("Hello!")
        path = f"/v1/responses/{response['id']}"
        self.assertEqual(self.server.get(path), (200, response))
        status, _, answer = self.server.call("DELETE", path)
        self.assertEqual((status, json.loads(answer)),
                         (200, {"id": response["id"], "object": "response", "deleted": True}))
        self.assertEqual(self.server.get(path)[0], 404)

    def test_a_streamed_one_too(self):
        _, _, answer = self.server.call("POST", "/v1/responses", {"input": "Hello!", "temperature": 0, "stream": True})
        response = events_of(answer.decode())[-1][1]["response"]
        self.assertEqual(self.server.get(f"/v1/responses/{response['id']}"), (200, response))

    @TEXT_ALONE
    def test_a_conversation_reads_as_the_same_messages_do(self):
        """Two turns with a tool between them; instructions are not carried over."""
        tools = {"tools": [WEATHER]}
        first = self.create("What is the weather in Paris?", instructions="Be kind.", **tools)
        call = first["output"][-1]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": RESULT}
        second = self.create([output], previous_response_id=first["id"], **tools)
        third = self.create("Hello!", previous_response_id=second["id"], **tools)
        question = {"role": "user", "content": "What is the weather in Paris?"}
        by_hand = self.create([question, *first["output"], output, *second["output"], {"role": "user", "content": "Hello!"}],
                              **tools)
        self.assertEqual(outline(by_hand), outline(third))
        self.assertEqual(by_hand["usage"]["input_tokens"], third["usage"]["input_tokens"])
        by_reference = self.create([question, *({"type": "item_reference", "id": item["id"]} for item in first["output"]),
                                    output], **tools)
        self.assertEqual(outline(by_reference), outline(second))
        self.assertEqual(second["output"][-1]["content"][0]["text"],
                         "It is sunny in Paris with a temperature of 18 degrees.")
        # The last holds the conversation: those before it may go.
        self.server.call("DELETE", f"/v1/responses/{first['id']}")
        self.assertEqual(outline(self.create("Hello!", previous_response_id=second["id"], **tools)), outline(third))

    def test_the_input_in_pages(self):
        first = self.create("Hello!")
        second = self.create([{"role": "user", "content": "What is 2 + 2?", "id": "msg_mine"}],
                             previous_response_id=first["id"])
        path = f"/v1/responses/{second['id']}/input_items"
        _, everything = self.server.get(path + "?order=asc")
        self.assertEqual([item["type"] for item in everything["data"]], ["message", "reasoning", "message", "message"])
        self.assertEqual(everything["data"][1:3], first["output"])
        self.assertEqual((everything["last_id"], everything["has_more"]), ("msg_mine", False))
        if openai is not None:
            for item in everything["data"]:
                pydantic.TypeAdapter(ResponseItem).validate_python(item)
        _, page = self.server.get(path + "?limit=3")
        self.assertEqual((page["data"], page["has_more"]), (everything["data"][:0:-1], True))
        _, page = self.server.get(path + f"?limit=3&after={page['last_id']}")
        self.assertEqual((page["data"], page["has_more"]), (everything["data"][:1], False))
        self.assertEqual(self.server.get(path + "?limit=0")[0], 400)
        _, page = self.server.get(path + "?after=msg_none")
        self.assertEqual((page["data"], page["last_id"], page["has_more"]), ([], "", False))
        self.assertEqual(self.server.get(path + "?order=up")[0], 400)

    def test_pages_end_where_an_item_comes_twice(self):
        again = self.create([{"role": "user", "content": "a", "id": "msg_a"}, {"type": "item_reference", "id": "msg_a"},
                             {"role": "user", "content": "b", "id": "msg_b"}], max_output_tokens=1)
        path = f"/v1/responses/{again['id']}/input_items?order=asc&limit=1"
        _, page = self.server.get(path)
        self.assertEqual((page["last_id"], page["has_more"]), ("msg_a", True))
        _, page = self.server.get(path + "&after=msg_a")
        self.assertEqual((page["last_id"], page["has_more"]), ("msg_b", False))

    def test_the_least_recently_used_leaves(self):
        ids = [self.create("Hello!", max_output_tokens=1)["id"] for _ in range(8)]
        self.assertEqual(self.server.get(f"/v1/responses/{ids[0]}")[0], 200)
        self.create("Hello!", max_output_tokens=1)
        self.assertEqual(self.server.get(f"/v1/responses/{ids[0]}")[0], 200)
        self.assertEqual(self.server.get(f"/v1/responses/{ids[1]}")[0], 404)
        self.assertEqual(self.server.get(f"/v1/responses/{ids[2]}")[0], 200)


class Background(ServerTest):
    """Made while nobody waits."""
    arguments = ("--response-store", "3")
    endless = {"input": "Tell me a story.", "ignore_eos": True, "temperature": 0, "background": True}

    def create(self, status=200, **body):
        answered, response = self.server.post("/v1/responses", {"temperature": 0, "background": True, **body})
        self.assertEqual(answered, status, response)
        return response

    def get(self, response):
        status, response = self.server.get(f"/v1/responses/{response['id']}")
        self.assertEqual(status, 200, response)
        return response

    def call(self, method, response, path=""):
        status, _, answer = self.server.call(method, f"/v1/responses/{response['id']}{path}")
        return status, json.loads(answer)

    def wait(self, response, *statuses):
        until = time.monotonic() + 20 * PATIENCE
        while time.monotonic() < until:
            response = self.get(response)
            if response["status"] in statuses:
                return response
            self.assertIn(response["status"], ("queued", "in_progress"))
            time.sleep(0.01)
        self.fail(f"it stays {response['status']}")

    def wait_until_idle(self):
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))

    def test_it_is_what_would_have_been_answered(self):
        for body in ({"input": "What is 17 + 25?"}, {"input": "What is 17 + 25?", "max_output_tokens": 4},
                     {"input": "What is the weather in Paris?", "tools": [WEATHER], "parallel_tool_calls": False}):
            begun = self.create(**body)
            self.assertEqual((begun["status"], begun["output"], begun["usage"]), ("queued", [], None))
            ended = self.wait(begun, "completed", "incomplete")
            _, foreground = self.server.post("/v1/responses", {"temperature": 0, "store": False, **body})
            self.assertEqual((outline(ended), ended["status"]), (outline(foreground), foreground["status"]))
            self.assertTrue(ended["background"])
            self.assertEqual(self.call("POST", ended, "/cancel"), (200, ended))  # too late

    def test_cancel(self):
        response = self.create(**self.endless)
        self.wait(response, "in_progress")
        self.assertEqual(len(self.call("GET", response, "/input_items")[1]["data"]), 1)
        answer = self.create(400, input="Hello!", previous_response_id=response["id"])
        self.assertIn("still being made", answer["error"]["message"])
        status, cancelled = self.call("POST", response, "/cancel")
        self.assertEqual((status, cancelled["status"], cancelled["output"]), (200, "cancelled", []))
        self.assertEqual(self.get(response), cancelled)
        self.assertEqual(self.call("POST", response, "/cancel"), (200, cancelled))
        self.wait_until_idle()
        foreground = self.create(input="Hello!", background=False)
        self.assertEqual(self.call("POST", foreground, "/cancel")[0], 400)
        self.assertEqual(self.call("POST", {"id": "resp_none"}, "/cancel")[0], 404)

    def test_deleting_one_ends_it(self):
        response = self.create(**self.endless)
        self.assertEqual(self.call("DELETE", response)[0], 200)
        self.wait_until_idle()
        self.assertEqual(self.call("GET", response)[0], 404)

    def test_the_store_is_the_limit(self):
        under_way = [self.create(**self.endless) for _ in range(3)]
        self.assertEqual(self.create(429, **self.endless)["error"]["code"], "rate_limit_exceeded")
        status, other = self.server.post("/v1/responses", {"input": "Hello!", "max_output_tokens": 1})
        self.assertEqual(status, 200)  # but there is no room for it
        self.assertEqual(self.call("GET", other)[0], 404)
        for response in under_way:
            self.assertEqual(self.call("POST", response, "/cancel")[1]["status"], "cancelled")
        self.wait_until_idle()
        self.wait(self.create(input="Hello!"), "completed")

    def test_many_at_once(self):
        """Begun, asked for, cancelled and deleted from several threads."""
        def work(number):
            for _ in range(3 if SANITIZED else 10):
                status, response = self.server.post("/v1/responses", self.endless)
                if status == 429:
                    continue
                self.call("GET", response)
                self.call(*(("POST", response, "/cancel") if number % 2 == 0 else ("DELETE", response)))
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        self.wait_until_idle()

    def test_one_that_the_store_cannot_hold_has_failed(self):
        server = Server("--response-store-bytes", "65536")
        try:
            logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}
            _, response = server.post("/v1/responses", {**self.endless, **logprobs, "max_output_tokens": 100,
                                                        "enable_thinking": False})
            for _ in range(1000 * PATIENCE):
                response = server.get(f"/v1/responses/{response['id']}")[1]
                if response["status"] not in ("queued", "in_progress"):
                    break
                time.sleep(0.01)
            self.assertEqual((response["status"], response["output"]), ("failed", []))
            self.assertIn("--response-store-bytes", response["error"]["message"])
            self.assertEqual(len(server.get(f"/v1/responses/{response['id']}/input_items")[1]["data"]), 1)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_a_server_that_stops_ends_them(self):
        server = Server("--shutdown-timeout-s", "0")
        self.assertEqual(server.post("/v1/responses", self.endless)[0], 200)
        self.assertEqual(server.stop(), 0)

    @unittest.skipIf(openai is None, "the openai SDK is not installed")
    def test_sdk(self):
        with openai.OpenAI(base_url=self.server.url + "/v1", api_key="any", max_retries=0) as client:
            response = client.responses.create(model="demo", input="Tell me a story.", background=True,
                                               extra_body={"ignore_eos": True})
            self.assertIn(response.status, ("queued", "in_progress"))
            self.assertEqual(client.responses.cancel(response.id).status, "cancelled")
            self.assertEqual(client.responses.retrieve(response.id).status, "cancelled")
            response = client.responses.create(model="demo", input="Hello!", temperature=0, background=True)
            self.wait({"id": response.id}, "completed")
            self.assertEqual(client.responses.retrieve(response.id).output_text, "Hello! How can I help you today?")


@TEXT_ALONE
@unittest.skipIf(openai is None, "the openai SDK is not installed")
class Sdk(ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="any", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        super().tearDownClass()

    def test_create_and_go_on(self):
        first = self.client.responses.create(model="demo", input="Hello!", temperature=0)
        self.assertEqual(first.output_text, "Hello! How can I help you today?")
        self.assertEqual(first.output[0].content[0].text, "This is a simple message.")
        self.assertEqual((first.usage.input_tokens, first.usage.total_tokens), (10, 30))
        second = self.client.responses.create(model="demo", input="What is 17 + 25?", temperature=0,
                                              previous_response_id=first.id)
        self.assertGreater(second.usage.input_tokens, 25)
        self.assertEqual(self.client.responses.retrieve(second.id).output_text, second.output_text)
        items = list(self.client.responses.input_items.list(second.id, limit=2, order="asc"))
        self.assertEqual([item.type for item in items], ["message", "reasoning", "message", "message"])
        self.client.responses.delete(first.id)
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve(first.id)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.responses.create(model="demo", input="Hello!", previous_response_id=first.id)
        self.assertEqual(caught.exception.code, "previous_response_not_found")

    def test_stream(self):
        with self.client.responses.stream(model="demo", input="Hello!", temperature=0) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        self.assertEqual(text, "Hello! How can I help you today?")
        self.assertEqual(final.output_text, text)
        self.assertEqual(final.usage.output_tokens_details.reasoning_tokens, 7)
        with self.client.responses.create(model="demo", input="Tell me a story.", stream=True, temperature=0,
                                          extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        self.server.wait_for_live(lambda running, waiting, usage: (running, usage) == (0, 0))

    def test_tools(self):
        """The loop of an agent, with what was told given back as it is."""
        ask = dict(model="demo", temperature=0, tools=[WEATHER])
        history = [{"role": "user", "content": "What is the weather in Paris?"}]
        answer = self.client.responses.create(input=history, **ask)
        call = answer.output[-1]
        self.assertEqual((call.type, call.name, json.loads(call.arguments)),
                         ("function_call", "get_weather", {"city": "Paris"}))
        history += answer.output
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
        answer = self.client.responses.create(input=history, **ask)
        self.assertEqual(answer.output_text, "It is sunny in Paris with a temperature of 18 degrees.")
        with self.client.responses.stream(input=history[:1], **ask) as stream:
            kinds = {event.type for event in stream}
            self.assertEqual(stream.get_final_response().output[-1].arguments, call.arguments)
        self.assertLessEqual({"response.function_call_arguments.delta", "response.function_call_arguments.done"}, kinds)

    def test_parse(self):
        class Solution(pydantic.BaseModel):
            steps: list[typing.Literal["add", "carry"]] = pydantic.Field(max_length=3)
            answer: float
            unit: typing.Literal["m", "kg"]

        tool = openai.pydantic_function_tool(Solution, name="note")
        for seed in range(2):
            ask = dict(model="demo", input="What is 2 + 2?", temperature=1.5, max_output_tokens=600,
                       reasoning={"effort": "none"}, extra_body={"seed": seed})
            answer = self.client.responses.parse(text_format=Solution, **ask)
            self.assertIsInstance(answer.output_parsed, Solution)
            with self.client.responses.stream(text_format=Solution, **ask) as stream:
                for _ in stream:
                    pass
                self.assertEqual(stream.get_final_response().output_parsed, answer.output_parsed)
            answer = self.client.responses.parse(tools=[tool], tool_choice="required", parallel_tool_calls=False, **ask)
            self.assertIsInstance(answer.output[0].parsed_arguments, Solution)


if __name__ == "__main__":
    unittest.main()
