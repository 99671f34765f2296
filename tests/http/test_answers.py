"""What an answer is made of: reasoning, content and tool calls, whole and streamed, and how they come back in history."""
import concurrent.futures
import json
import os
import subprocess
import unittest

import jsonschema

from harness import GOLDEN, QUERN, ROOT, SANITIZED, TEXT_ALONE, Server, ServerTest

CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather for a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "The city name"}}, "required": ["city"]}}}
TWO_CITIES = "What is the weather in Oslo and in Rome?"
THINK, THINK_END, CALL = 3440, 3441, 3430
CONSIDERING = "Considering the limited time by the user, I have to give the solution based on the thinking directly now."


def user(content):
    return {"role": "user", "content": content}


def joined(events):
    """The message that the deltas of a stream make, as clients add them up, and its finish_reason."""
    message, reason = {}, None
    for event in events:
        if event == "[DONE]" or isinstance(event, str) or not event["choices"]:
            continue
        choice = event["choices"][0]
        for name, value in choice["delta"].items():
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
                continue
            for part in value:
                calls = message.setdefault("tool_calls", [])
                if part["index"] == len(calls):
                    calls.append({"id": part["id"], "type": part["type"], "function": {**part["function"]}})
                else:
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return message, reason


@TEXT_ALONE
class Answers(ServerTest):
    def ask(self, messages, **fields):
        """The choice and the usage, which a stream must give as well."""
        body = {"temperature": 0, "messages": messages, **fields}
        status, whole = self.server.post(CHAT, body)
        self.assertEqual(status, 200, whole)
        choice, usage = whole["choices"][0], whole["usage"]
        *events, last, _ = self.server.stream(CHAT, {**body, "stream_options": {"include_usage": True}})
        message, reason = joined(events)
        expected = {key: value for key, value in choice["message"].items() if key != "refusal"}
        expected["content"] = expected["content"] or ""
        for calls in (message.get("tool_calls", []), expected.get("tool_calls", [])):
            for call in calls:
                self.assertRegex(call["id"], "^call_[0-9a-f]{24}$")
        self.assertEqual(without_ids(message), without_ids(expected))
        self.assertEqual(reason, choice["finish_reason"])
        del last["usage"]["prompt_tokens_details"]
        self.assertEqual(last["usage"], {k: v for k, v in usage.items() if k != "prompt_tokens_details"})
        return choice, usage

    def refused(self, body, param, part):
        status, answer = self.server.post(CHAT, {"messages": [user("Hello!")], **body})
        self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
        self.assertIn(part, answer["error"]["message"])

    def check_calls(self, choice, tools, names):
        calls = choice["message"].get("tool_calls", [])
        if choice["finish_reason"] == "length":
            calls = calls[:-1]
        else:
            self.assertEqual(choice["finish_reason"], "tool_calls")
            self.assertGreater(len(calls), 0)
        schemas = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in tools}
        for call in calls:
            self.assertIn(call["function"]["name"], names)
            arguments = json.loads(call["function"]["arguments"])
            self.assertIsInstance(arguments, dict)
            jsonschema.Draft202012Validator(schemas[call["function"]["name"]]).validate(arguments)
        return calls


def without_ids(message):
    calls = [{**call, "id": None} for call in message.get("tool_calls", [])]
    return {**message, "tool_calls": calls}


class Reasoning(Answers):
    def test_is_told_apart(self):
        choice, usage = self.ask([user("Hello!")])
        self.assertEqual(choice["message"]["content"], "Hello! How can I help you today?")
        self.assertEqual(choice["message"]["reasoning_content"], "This is a simple message.")
        self.assertEqual(choice["message"]["reasoning"], choice["message"]["reasoning_content"])

    def test_its_tokens_are_those_between_the_marks(self):
        with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
            cases = [case for case in json.load(file) if case.get("enable_thinking")]
        self.assertGreaterEqual(len(cases), 4)
        for case in cases:
            ids = [step["token"] for step in case["steps"]]
            between = ids.index(THINK_END) - ids.index(THINK) - 1 if THINK in ids else 0
            _, usage = self.ask(case["messages"], tools=case["tools"])
            with self.subTest(case["name"]):
                self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": between})
                self.assertEqual(usage["completion_tokens"], len(case["steps"]))

    def test_can_be_turned_off(self):
        for fields in ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}},
                       {"reasoning_effort": "none"}):
            choice, usage = self.ask([user("What is 17 plus 25?")], **fields)
            self.assertEqual(set(choice["message"]), {"role", "content", "refusal"})
            self.assertEqual(choice["message"]["content"], "42")
            self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": 0})
        for fields in ({"enable_thinking": True}, {"reasoning_effort": "low"}):
            choice, _ = self.ask([user("Hello!")], **fields)
            self.assertIn("reasoning", choice["message"])
        self.refused({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort", "turns it on")
        self.refused({"reasoning_effort": "lots"}, "reasoning_effort", "none, minimal, low, medium, high, xhigh or max")

    def test_can_be_dropped(self):
        shown, usage = self.ask([user("Hello!")])
        dropped, same_usage = self.ask([user("Hello!")], include_reasoning=False)
        self.assertEqual(set(dropped["message"]), {"role", "content", "refusal"})
        self.assertEqual(dropped["message"]["content"], shown["message"]["content"])
        self.assertEqual(same_usage["completion_tokens_details"], {"reasoning_tokens": 7})
        self.assertEqual(same_usage["completion_tokens"], usage["completion_tokens"])

    def test_that_is_cut_stays_reasoning(self):
        choice, usage = self.ask([user("Hello!")], max_tokens=5)
        self.assertEqual(choice["finish_reason"], "length")
        self.assertEqual(choice["message"]["content"], "")
        self.assertEqual(choice["message"]["reasoning"], "This is a")
        self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": 4})
        choice, _ = self.ask([user("Hello!")], stop="simple")
        self.assertEqual((choice["message"]["reasoning"], choice["finish_reason"]), ("This is a ", "stop"))

    def test_is_closed_within_its_budget(self):
        free, usage = self.ask([user("Hello!")])
        for budget in (8, 1000, -1, None):  # the model needs 7, and closes the block then
            choice, same = self.ask([user("Hello!")], thinking_token_budget=budget)
            self.assertEqual((choice, same["completion_tokens"]), (free, usage["completion_tokens"]))
        n_forced = {budget: self.closed(budget) - budget for budget in (1, 2, 5)}
        self.assertEqual(len(set(n_forced.values())), 1, n_forced)
        choice, usage = self.ask([user("Hello!")], thinking_token_budget=0)
        self.assertEqual(choice["message"], {"role": "assistant", "content": "Hello! How can I help you today?", "refusal": None})
        self.assertEqual(usage["completion_tokens_details"], {"reasoning_tokens": 1})  # line breaks
        for body, part in (({"thinking_token_budget": -2}, "-1 for no limit, or from 0"),
                           ({"thinking_token_budget": 2, "allowed_token_ids": [1]}, "together with allowed_token_ids")):
            self.refused(body, "thinking_token_budget", part)
        status, answer = self.server.complete("Hello!", thinking_token_budget=2)
        self.assertEqual((status, answer["error"]["param"]), (400, "thinking_token_budget"))

    def closed(self, budget):
        """The reasoning tokens of an answer whose reasoning was closed, which cost as many as they are."""
        choice, usage = self.ask([user("Hello!")], thinking_token_budget=budget, max_tokens=100)
        begun = "This is a simple message.".split(" ")[:max(budget - 1, 0)]  # a line break comes first
        self.assertEqual(choice["message"]["reasoning"].removesuffix(CONSIDERING).strip(), " ".join(begun))
        return usage["completion_tokens_details"]["reasoning_tokens"]

    def test_what_is_held_to_a_form_begins_behind_a_closed_reasoning(self):
        for budget in (0, 3):
            choice, _ = self.ask([user("Hello!")], thinking_token_budget=budget, guided_choice=["red", "green"])
            self.assertIn(choice["message"]["content"], ("red", "green"))
            self.assertEqual(choice["message"].get("reasoning", CONSIDERING)[-len(CONSIDERING):], CONSIDERING)
            choice, _ = self.ask([user("Hello!")], thinking_token_budget=budget, tools=[ADD], tool_choice=function("add"),
                                 max_tokens=300)
            self.assertEqual(choice["message"]["tool_calls"][0]["function"]["name"], "add")
            # The budget leaves the answer free, and min_tokens is kept where all is free.
            choice, usage = self.ask([user("Hello!")], thinking_token_budget=budget, min_tokens=80, max_tokens=90)
            self.assertGreaterEqual(usage["completion_tokens"], 80)

    def test_a_budget_together_as_alone(self):
        bodies = [{"thinking_token_budget": i % 4, "temperature": 1, "seed": i, "max_tokens": 50} for i in range(12)]
        alone = [self.server.chat("What is 17 + 25?", **body)[1]["choices"] for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda body: self.server.chat("What is 17 + 25?", **body)[1]["choices"], bodies))
        self.assertEqual(together, alone)

    def test_has_two_names_in_history(self):
        def n_prompt(**fields):
            call = {"type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            messages = [user("Weather?"), {"role": "assistant", "content": None, "tool_calls": [call], **fields},
                        {"role": "tool", "content": "rain"}]
            return self.ask(messages, max_tokens=1)[1]["prompt_tokens"]
        self.assertEqual(n_prompt(reasoning="one two three"), n_prompt(reasoning_content="one two three"))
        self.assertGreater(n_prompt(reasoning="one two three"), n_prompt())


class Tools(Answers):
    def test_a_call(self):
        choice, usage = self.ask([user("What is the weather in Paris?")], tools=[WEATHER])
        self.assertEqual(choice["finish_reason"], "tool_calls")
        self.assertIsNone(choice["message"]["content"])
        call, = choice["message"]["tool_calls"]
        self.assertEqual(call["type"], "function")
        self.assertEqual(call["function"], {"name": "get_weather", "arguments": '{"city": "Paris"}'})

    def test_several_calls_and_their_results(self):
        choice, _ = self.ask([user(TWO_CITIES)], tools=[WEATHER], tool_choice="auto")
        message = choice["message"]
        cities = [json.loads(call["function"]["arguments"])["city"] for call in message["tool_calls"]]
        self.assertEqual(cities, ["Oslo", "Rome"])
        self.assertEqual(len({call["id"] for call in message["tool_calls"]}), 2)
        results = [{"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"temperature": t, "sky": sky})}
                   for call, t, sky in zip(message["tool_calls"], (4, 21), ("snowy", "sunny"))]
        choice, _ = self.ask([user(TWO_CITIES), message, *results], tools=[WEATHER])
        self.assertEqual(choice["finish_reason"], "stop")
        self.assertEqual(choice["message"]["content"], "It is snowy in Oslo with a temperature of 4 degrees. "
                                                       "It is sunny in Rome with a temperature of 21 degrees.")

    def test_arguments_in_history_may_be_spelled_in_any_way(self):
        def n_prompt(arguments):
            call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
            return self.ask([user("Weather?"), {"role": "assistant", "tool_calls": [call]},
                             {"role": "tool", "tool_call_id": "1", "content": "rain"}], max_tokens=1)[1]["prompt_tokens"]
        self.assertEqual(len({n_prompt({"city": "Oslo"}), n_prompt('{"city":"Oslo"}'), n_prompt(' {"city" : "Oslo"}\n')}), 1)
        self.assertEqual(n_prompt(""), n_prompt({}))

    def test_tool_choice_none_leaves_the_tools_out(self):
        _, without = self.ask([user(TWO_CITIES)], max_tokens=1)
        choice, with_none = self.ask([user(TWO_CITIES)], max_tokens=1, tools=[WEATHER], tool_choice="none")
        _, with_auto = self.ask([user(TWO_CITIES)], max_tokens=1, tools=[WEATHER])
        self.assertEqual(with_none["prompt_tokens"], without["prompt_tokens"])
        self.assertGreater(with_auto["prompt_tokens"], 5 * without["prompt_tokens"])

    def test_one_call_at_most(self):
        both, usage = self.ask([user(TWO_CITIES)], tools=[WEATHER], parallel_tool_calls=True)
        one, less = self.ask([user(TWO_CITIES)], tools=[WEATHER], parallel_tool_calls=False)
        self.assertEqual(without_ids(one["message"])["tool_calls"], without_ids(both["message"])["tool_calls"][:1])
        self.assertEqual(one["finish_reason"], "tool_calls")
        self.assertLess(less["completion_tokens"], usage["completion_tokens"])
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))

    def test_a_call_that_is_cut_is_content(self):
        whole = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        for n in range(3, 24, 5) if SANITIZED else range(1, 24):
            choice, _ = self.ask([user(TWO_CITIES)], tools=[WEATHER], enable_thinking=False, max_tokens=n)
            message = choice["message"]
            self.assertEqual(choice["finish_reason"], "length")
            if "tool_calls" in message:
                self.assertEqual(message["tool_calls"][0]["function"]["arguments"], '{"city": "Oslo"}')
            else:
                self.assertTrue(whole.startswith(message["content"]), message)
                self.assertNotEqual(message["content"], "")
        self.assertIn("tool_calls", message)
        choice, _ = self.ask([user(TWO_CITIES)], tools=[WEATHER], enable_thinking=False, stop="Oslo")
        self.assertEqual(choice["message"]["content"], whole[:whole.index("Oslo")])
        self.assertEqual(choice["finish_reason"], "stop")

    def test_without_tools_marks_are_content(self):
        with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
            case = {case["name"]: case for case in json.load(file)}["tool-one"]
        system = case["prompt"].split("<|im_start|>system\n")[1].split("<|im_end|>")[0]
        messages = [{"role": "system", "content": system}, *case["messages"]]
        choice, usage = self.ask(messages, enable_thinking=False)
        self.assertEqual(usage["prompt_tokens"], len(case["prompt_ids"]))
        self.assertEqual((choice["message"]["content"], choice["finish_reason"]), (case["text"], "stop"))


def function(name, **fields):
    return {"type": "function", "function": {"name": name, **fields}}


ADD = function("add", parameters={
    "type": "object", "properties": {"n": {"type": "integer", "minimum": -50, "maximum": 50}, "unit": {"$ref": "#/$defs/unit"},
                                     "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2}},
    "required": ["n", "unit"], "$defs": {"unit": {"enum": ["m", "kg", "\u00e9\n"]}}})
NOTE = function("note", parameters={"properties": {"text": {"type": "string", "maxLength": 8}}, "required": ["text"]})
NOW = function("now", description="The time.")
SURPRISE = {"top_k": -1, "top_p": 1, "max_tokens": 400}


class GuaranteedCalls(Answers):
    def test_a_call_is_required(self):
        tools, names = [WEATHER, ADD, NOTE, NOW], set()
        for content in ("Hello!", TWO_CITIES, "Tell me a story."):
            for temperature, seed, thinks in ((0, 0, True), (1, 1, False), (2, 2, True), (2, 3, False)):
                with self.subTest(content=content, seed=seed):
                    choice, _ = self.ask([user(content)], tools=tools, tool_choice="required", enable_thinking=thinks,
                                         temperature=temperature, seed=seed, **SURPRISE)
                    calls = self.check_calls(choice, tools, ["get_weather", "add", "note", "now"])
                    names |= {call["function"]["name"] for call in calls}
                    if choice["finish_reason"] == "tool_calls":
                        self.assertIsNone(choice["message"]["content"])
        self.assertGreater(len(names), 1)

    def test_what_the_model_would_call_by_itself_stays(self):
        for thinks in (False, True):
            asked = dict(tools=[WEATHER, ADD], enable_thinking=thinks)
            free, _ = self.ask([user(TWO_CITIES)], **asked)
            bound, _ = self.ask([user(TWO_CITIES)], tool_choice="required", **asked)
            self.assertEqual(without_ids(bound["message"]), without_ids(free["message"]))
            one, _ = self.ask([user(TWO_CITIES)], tool_choice="required", parallel_tool_calls=False, **asked)
            self.assertEqual(without_ids(one["message"])["tool_calls"], without_ids(free["message"])["tool_calls"][:1])
            self.assertEqual(one["finish_reason"], "tool_calls")

    def test_reasoning_comes_first(self):
        choice, usage = self.ask([user(TWO_CITIES)], tools=[ADD], tool_choice="required", logit_bias={str(CALL): -100},
                                 max_tokens=300)
        self.check_calls(choice, [ADD], ["add"])
        self.assertEqual(choice["finish_reason"], "tool_calls")
        self.assertNotEqual(choice["message"]["reasoning"], "")
        self.assertGreater(usage["completion_tokens_details"]["reasoning_tokens"], 5)

    def test_a_named_function_is_called_once(self):
        tools = [WEATHER, ADD, NOTE, NOW]
        for tool in tools:
            for seed in range(3):
                choice, _ = self.ask([user("Hello!")], tools=tools, tool_choice=function(tool["function"]["name"]),
                                     temperature=seed, seed=seed, **SURPRISE)
                calls = self.check_calls(choice, tools, [tool["function"]["name"]])
                if choice["finish_reason"] == "tool_calls":
                    self.assertEqual(len(calls), 1)

    def test_recorded_schemas_at_temperature_2(self):
        with open(os.path.join(ROOT, "tests/fixtures/grammar/schemas.json"), encoding="utf-8") as file:
            schemas = [schema for schema in json.load(file) if isinstance(schema, dict)]
        schemas = [schema if schema.get("type") == "object" else
                   {"type": "object", "properties": {"it": schema}, "required": ["it"]}
                   for schema in schemas if schema.get("type") == "object" or "$ref" not in json.dumps(schema)]
        schemas = schemas[::40] if SANITIZED else schemas[::2]
        tools = [function("f", parameters=schema) for schema in schemas]

        def run(index):
            return self.server.chat("Go on.", tools=[tools[index], NOW], tool_choice=function("f"), temperature=2,
                                    seed=index, enable_thinking=False, max_tokens=400)

        n_finished = 0
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for index, (status, answer) in enumerate(pool.map(run, range(len(tools)))):
                with self.subTest(schema=json.dumps(schemas[index])[:200], answer=str(answer)):
                    self.assertEqual(status, 200)
                    self.check_calls(answer["choices"][0], [tools[index]], ["f"])
                    n_finished += answer["choices"][0]["finish_reason"] == "tool_calls"
        print(f"{n_finished} of {len(tools)} calls finished")
        self.assertGreater(n_finished, len(tools) * 0.6)

    def test_strict_holds_what_is_called_and_nothing_else(self):
        city = {"type": "object", "properties": {"city": {"enum": ["Bergen", "Turin"]}}, "required": ["city"]}
        strict = function("get_weather", description=WEATHER["function"]["description"], parameters=city, strict=True)
        choice, _ = self.ask([user("Hello!")], tools=[strict], logit_bias={str(CALL): -100})
        self.assertEqual(choice["finish_reason"], "stop")
        self.assertNotIn("tool_calls", choice["message"])
        self.assertNotEqual(choice["message"]["content"], "")
        for seed in range(4):
            choice, _ = self.ask([user(TWO_CITIES)], tools=[strict, NOTE], temperature=seed % 3, seed=seed, **SURPRISE)
            calls = self.check_calls(choice, [strict, function("note")], ["get_weather"])
            for call in calls:
                self.assertIn(json.loads(call["function"]["arguments"])["city"], ["Bergen", "Turin"])
        # Another tool of the same request need not be strict, nor its schema be covered.
        loose = function("get_weather", parameters={"type": "object", "properties": {"city": {"not": {}}}})
        choice, _ = self.ask([user(TWO_CITIES)], tools=[loose, function("now", strict=True)], enable_thinking=False)
        self.assertEqual([call["function"]["arguments"] for call in choice["message"]["tool_calls"]],
                         ['{"city": "Oslo"}', '{"city": "Rome"}'])

    def test_a_call_that_is_cut_stays_a_call(self):
        whole = '{"city": "Oslo"}'
        for n in range(3, 24, 5) if SANITIZED else range(1, 24):
            choice, _ = self.ask([user(TWO_CITIES)], tools=[WEATHER], tool_choice="required", enable_thinking=False, max_tokens=n)
            self.assertEqual(choice["finish_reason"], "length")
            message = choice["message"]
            if "tool_calls" in message:
                self.assertTrue(whole.startswith(message["tool_calls"][0]["function"]["arguments"]), message)
            else:  # as long as it has no name
                self.assertTrue('<tool_call>\n{"name": "get_weather'.startswith(message["content"]), message)
        self.assertIn("tool_calls", message)

    def test_arguments_are_streamed_as_they_come(self):
        body = {"messages": [user(TWO_CITIES)], "tools": [WEATHER], "tool_choice": "required", "enable_thinking": False}
        parts = [part for event in self.server.stream(CHAT, body) if event != "[DONE]"
                 for part in event["choices"][0]["delta"].get("tool_calls", [])]
        self.assertEqual([part["function"]["name"] for part in parts if "id" in part], ["get_weather", "get_weather"])
        self.assertGreater(len(parts), 6)
        self.assertEqual(parts[0]["function"]["arguments"], "")

    def test_each_of_several_choices(self):
        status, answer = self.server.chat("Hello!", tools=[ADD, NOW], tool_choice="required", n=4, temperature=2, seed=1,
                                          enable_thinking=False, parallel_tool_calls=False)
        self.assertEqual(status, 200)
        for choice in answer["choices"]:
            self.assertEqual(len(self.check_calls(choice, [ADD, NOW], ["add", "now"])), 1)

    def test_refusals(self):
        required = {"tools": [WEATHER], "tool_choice": "required"}
        self.refused({**required, "tool_choice": "any"}, "tool_choice", '"auto", "none", "required" or {')
        self.refused({"tool_choice": "required"}, "tool_choice", "tools are not given")
        self.refused({**required, "tools": []}, "tool_choice", "tools are not given")
        self.refused({**required, "tool_choice": function("other")}, "tool_choice", '"other", which is none of the tools')
        self.refused({**required, "response_format": {"type": "json_object"}}, "tool_choice", "together with response_format")
        self.refused({**required, "allowed_token_ids": [1]}, "tool_choice", "together with allowed_token_ids")
        strict = function("f", strict=True, parameters={"type": "object", "properties": {"a": {"not": {}}}})
        for fields in ({"tools": [strict]}, {"tools": [strict], "tool_choice": "required"}):
            self.refused(fields, "tools", 'The parameters of f: The schema keyword "not" is not')
        self.refused({"tools": [strict], "guided_regex": "a"}, "tools", "strict is not supported together with guided_regex")
        self.refused({**required, "tools": [function("f", parameters="{}")]}, "tools[0].function.parameters",
                     "must be a JSON schema that is an object")
        for fields in ({"tools": [strict], "tool_choice": "none"}, {"tools": [function("f", parameters={"not": {}})]}):
            self.ask([user("Hello!")], max_tokens=1, **fields)


CODE = {"type": "object", "properties": {
    "path": {"type": "string", "pattern": "^[a-z]{1,8}\\.py$"}, "line": {"type": "integer", "minimum": 1},
    "mode": {"type": "string", "enum": ["read", "write"]}, "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "unit": {"$ref": "#/$defs/unit"}, "tags": {"type": "array", "items": {"enum": ["</parameter>", "b\n"]}, "maxItems": 2}},
    "required": ["path", "line", "mode"], "additionalProperties": False, "$defs": {"unit": {"enum": ["m", "kg"]}}}


@TEXT_ALONE
class GuaranteedXmlCalls(Answers):
    """The same of a model whose calls are XML. Strings without a limit are cut: the demo model never ends one."""
    arguments = ("--chat-template", "coder")

    def test_all_kinds_of_parameters(self):
        edit, n_called = function("edit", parameters=CODE), 0
        for seed in range(2 if SANITIZED else 8):
            for choice in (function("edit"), "required"):
                choice, _ = self.ask([user("Edit the file.")], tools=[edit, NOW], tool_choice=choice, temperature=seed % 3, seed=seed,
                                     max_tokens=120)
                n_called += len(self.check_calls(choice, [edit, NOW], ["edit", "now"]))
        self.assertGreater(n_called, 1 if SANITIZED else 10)

    def test_recorded_schemas_as_parameters(self):
        """One that cannot be guaranteed says which; what is called fits."""
        with open(os.path.join(ROOT, "tests/fixtures/grammar/schemas.json"), encoding="utf-8") as file:
            schemas = [schema for schema in json.load(file) if isinstance(schema, dict) and "$defs" not in schema]
        schemas = schemas[::20] if SANITIZED else schemas[::2]
        tools = [function("f", parameters={"type": "object", "properties": {"it": schema}, "required": ["it"]}) for schema in schemas]

        def run(index):
            return self.server.chat("Go on.", tools=[tools[index]], tool_choice="required", parallel_tool_calls=False,
                                    temperature=2, seed=index, max_tokens=60)
        n_called = n_refused = 0
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for index, (status, answer) in enumerate(pool.map(run, range(len(tools)))):
                with self.subTest(schema=json.dumps(schemas[index])[:200], answer=str(answer)):
                    if status == 400:
                        self.assertRegex(answer["error"]["message"], "parameter it: its schema cannot be guaranteed|leads to no schema")
                        n_refused += 1
                    else:
                        n_called += len(self.check_calls(answer["choices"][0], [tools[index]], ["f"]))
        print(f"{n_called} calls, {n_refused} refused, of {len(schemas)} schemas")
        self.assertGreater(n_called, 1 if SANITIZED else 25)

    def test_strict_holds_what_is_called(self):
        strict, n_called = function("edit", parameters=CODE, strict=True), 0
        for seed in range(2 if SANITIZED else 6):
            choice, _ = self.ask([user("Edit the file.")], tools=[strict], parallel_tool_calls=False, temperature=1, seed=seed,
                                 max_tokens=120, logit_bias={str(CALL): 60})
            n_called += len(self.check_calls(choice, [strict], ["edit"]))
        self.assertGreater(n_called, 0)

    def test_a_text_may_be_anything(self):
        tool = function("say", parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})
        choice, _ = self.ask([user("Hello!")], tools=[tool], tool_choice="required", max_tokens=40)
        self.assertEqual(choice["finish_reason"], "length")
        call, = choice["message"]["tool_calls"]
        self.assertEqual((call["function"]["name"], call["function"]["arguments"]), ("say", '{"text": '))  # told when it is whole

    def test_what_would_not_be_clear_is_refused(self):
        tool = function("f", parameters={"type": "object", "properties": {"it": {"type": ["string", "integer"]}}})
        self.refused({"tools": [tool], "tool_choice": "required"}, "tools", "The parameters of f: the parameter it:")


@TEXT_ALONE
class Families(unittest.TestCase):
    def serve(self, family):
        server = Server("--chat-template", family)
        self.addCleanup(server.stop)
        return server

    def test_a_model_that_always_thinks(self):
        server = self.serve("thinking")
        _, answer = server.chat("Hello!")
        self.assertEqual(answer["choices"][0]["message"]["reasoning"], "This is a simple message.")
        self.assertEqual(answer["choices"][0]["message"]["content"], "Hello! How can I help you today?")
        self.assertEqual(answer["usage"]["prompt_tokens"], 12)  # with "<think>\n"
        self.assertEqual(answer["usage"]["completion_tokens_details"], {"reasoning_tokens": 6})
        _, answer = server.chat("Hello!", tools=[ADD], tool_choice="required", max_tokens=400)
        self.assertEqual(answer["choices"][0]["finish_reason"], "tool_calls")
        self.assertEqual(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "add")
        _, answer = server.chat("Hello!", thinking_token_budget=0)  # the prompt opened the block
        self.assertEqual(answer["choices"][0]["message"]["content"], "Hello! How can I help you today?")
        self.assertEqual(answer["usage"]["completion_tokens_details"], {"reasoning_tokens": 1})
        status, answer = server.chat("Hello!", enable_thinking=False)
        self.assertEqual((status, answer["error"]["param"]), (400, "enable_thinking"))

    def test_a_model_that_never_thinks(self):
        _, answer = self.serve("instruct").chat("Hello!")
        message = answer["choices"][0]["message"]
        self.assertNotIn("reasoning", message)
        self.assertTrue(message["content"].startswith("<think>"))  # the demo model does not know that it should not

    def test_a_coder(self):
        status, answer = self.serve("coder").chat(TWO_CITIES, tools=[WEATHER], max_tokens=60)
        self.assertEqual(status, 200)
        self.assertGreater(answer["usage"]["prompt_tokens"], 300)

    def test_another_template_is_refused(self):
        command = [QUERN, "serve", "--port", "0", "--chat-template", "LICENSE"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--chat-template hybrid, instruct, thinking or coder", done.stderr)


del Answers  # a base, without a test of its own

if __name__ == "__main__":
    unittest.main()
