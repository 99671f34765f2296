"""Structured output: whatever the model would rather write, finished answers fit; what cannot be promised is refused."""
import concurrent.futures
import json
import os
import re
import sys
import time
import unittest

import jsonschema

from harness import PATIENCE, ROOT, SANITIZED, TEXT_ALONE, ServerTest

sys.path.append(os.path.join(ROOT, "tests", "unit"))
from test_grammar_answers import Generator, Weird, formats  # noqa: E402

PLAIN = "/v1/completions"
CHAT = "/v1/chat/completions"
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                           "age": {"type": "integer", "minimum": 0, "maximum": 130},
                                           "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2}},
          "required": ["name", "age"], "additionalProperties": False}


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


class Structured(ServerTest):
    def answer(self, content="Describe a person.", **fields):
        body = {"model": "demo", "messages": [{"role": "user", "content": content}], "max_tokens": 400,
                "enable_thinking": False, **fields}
        status, _, raw = self.server.call("POST", CHAT, body)
        self.assertEqual(status, 200, raw)
        choice = json.loads(raw)["choices"][0]
        return choice["message"], choice["finish_reason"]

    def refused(self, path, fields, contains, param):
        prompt = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
        status, _, raw = self.server.call("POST", path, {**prompt, **fields})
        error = json.loads(raw)["error"]
        self.assertEqual((status, error["param"]), (400, param), error)
        self.assertIn(contains, error["message"])

    @TEXT_ALONE
    def test_schemas_at_temperature_2(self):
        """160 that were picked by hand and 160 of the generator that the grammar is tested with."""
        with open(os.path.join(ROOT, "tests/fixtures/grammar/schemas.json"), encoding="utf-8") as file:
            schemas = json.load(file) + [Generator(seed).whole() for seed in range(160)]
        runs = [(schema, seed) for schema in schemas[::16 if SANITIZED else 1] for seed in range(1 if SANITIZED else 2)]

        def run(schema, seed):
            body = {"messages": [{"role": "user", "content": "Describe a person."}], "max_tokens": 400, "enable_thinking": False,
                    "temperature": 2, "seed": seed, "response_format": schema_format(schema)}
            return self.server.post(CHAT, body)

        n_finished = n_refused = 0
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for (schema, _), (status, answer) in zip(runs, pool.map(lambda of: run(*of), runs)):
                with self.subTest(schema=json.dumps(schema)[:200], answer=str(answer)):
                    if status == 400:  # a few that are generated
                        self.assertRegex(answer["error"]["message"], "Nothing fits|leads to no schema")
                        n_refused += 1
                        continue
                    choice = answer["choices"][0]
                    if choice["finish_reason"] == "stop":
                        n_finished += 1
                        validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
                        validator.validate(json.loads(choice["message"]["content"]))
        print(f"{n_finished} of {len(runs)} answers to {len(schemas)} schemas finished, {n_refused} were refused")
        self.assertGreater(n_finished, len(runs) * 0.6)
        self.assertLess(n_refused, len(runs) * 0.1)

    @TEXT_ALONE
    def test_odd_schemas_are_served_or_refused(self):
        n_served, slowest = 0, 0
        for seed in range(20 if SANITIZED else 200):
            began = time.monotonic()
            status, answer = self.server.complete("Once", max_tokens=1, guided_json=Weird(seed).schema())
            slowest = max(slowest, time.monotonic() - began)
            with self.subTest(seed=seed, answer=answer):
                self.assertIn(status, (200, 400))
                self.assertTrue(status == 200 or answer["error"]["param"] == "guided_json")
                n_served += status == 200
        print(f"{n_served} served, slowest {slowest:.3f} s")
        self.assertLess(slowest, 2 * PATIENCE)
        self.assertGreater(n_served, 1)

    @TEXT_ALONE
    def test_json_object(self):
        for seed in range(8):
            message, reason = self.answer(temperature=1.5, seed=seed, response_format={"type": "json_object"})
            if reason == "stop":
                self.assertIsInstance(json.loads(message["content"]), dict)
            self.assertTrue(message["content"].startswith("{"))

    @TEXT_ALONE
    def test_each_name_of_the_same(self):
        schema = {"const": {"a": [1, None]}}
        for fields in ({"response_format": schema_format(schema)}, {"structured_outputs": {"json": schema}},
                       {"guided_json": schema}, {"guided_json": json.dumps(schema)},
                       {"structured_outputs": {"json": json.dumps(schema), "regex": None}},
                       {"guided_regex": r"\{\"a\": \[1, null\]\}"},
                       {"guided_choice": ["{\"a\": [1, null]}"]},
                       {"structured_outputs": {"choice": ["{\"a\": [1, null]}"]}},
                       {"structured_outputs": {"regex": r"\{\"a\": \[1, null\]\}", "json_object": False}}):
            with self.subTest(fields):
                message, reason = self.answer(temperature=0, **fields)
                self.assertEqual((json.loads(message["content"]), reason), (schema["const"], "stop"))
        message, reason = self.answer(temperature=0, response_format={"type": "text"}, structured_outputs={},
                                      guided_json=None)
        self.assertNotIn("{", message["content"])

    @TEXT_ALONE
    def test_completions_and_streams(self):
        for seed in range(4):
            body = {"prompt": "Once", "max_tokens": 300, "seed": seed, "temperature": 2, "guided_regex": "(yes|no)( really)?!"}
            status, _, raw = self.server.call("POST", PLAIN, body)
            self.assertEqual(status, 200, raw)
            choice = json.loads(raw)["choices"][0]
            self.assertRegex(choice["text"], r"\A(yes|no)( really)?!\Z")
            self.assertEqual(choice["finish_reason"], "stop")
            status, _, raw = self.server.call("POST", PLAIN, {**body, "stream": True})
            pieces = [json.loads(line[6:]) for line in raw.decode().split("\n\n") if line.startswith("data: {")]
            self.assertEqual("".join(piece["choices"][0]["text"] for piece in pieces), choice["text"])

    @TEXT_ALONE
    def test_reasoning_stays_free(self):
        message, reason = self.answer("Hello!", temperature=0, enable_thinking=True, response_format=schema_format(PERSON))
        self.assertEqual(message["reasoning_content"], "This is a simple message.")
        self.assertEqual(reason, "stop")
        jsonschema.validate(json.loads(message["content"]), PERSON)
        for seed in range(4):
            message, reason = self.answer("Hello!", temperature=2, seed=seed, enable_thinking=True, max_tokens=1000,
                                          guided_choice=["red", "green"])
            if reason == "stop":
                self.assertIn(message["content"], ["red", "green"])

    def test_together_as_alone(self):
        """Answers with and without a structure in one batch are what they are alone."""
        def run(index):
            structured = {"response_format": schema_format(PERSON)} if index % 2 else {}
            return self.answer("Tell me a story.", temperature=1, seed=index, max_tokens=60, **structured)

        n = 4 if SANITIZED else 8
        alone = [run(index) for index in range(n)]
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            self.assertEqual(list(pool.map(run, range(n))), alone)

    @TEXT_ALONE
    def test_other_parameters_go_along(self):
        _, reason = self.answer(temperature=1, response_format=schema_format(PERSON), presence_penalty=2, min_tokens=3,
                                logprobs=True, top_logprobs=2, stop=["}"])
        self.assertEqual(reason, "stop")
        message, _ = self.answer(temperature=0, guided_regex="[ab]{4}", logit_bias={"65": -100}, n=1)
        self.assertTrue(re.fullmatch("[ab]{4}", message["content"]))

    @TEXT_ALONE
    def test_each_of_several_choices_fits(self):
        body = {"prompt": "Once", "n": 5, "max_tokens": 30, "seed": 3, "temperature": 2, "guided_choice": ["red", "green", "blue"]}
        status, _, raw = self.server.call("POST", PLAIN, body)
        self.assertEqual(status, 200, raw)
        texts = [choice["text"] for choice in json.loads(raw)["choices"]]
        self.assertEqual(len(texts), 5)
        self.assertLessEqual(set(texts), {"red", "green", "blue"})

    @TEXT_ALONE
    def test_refusals(self):
        for path in (CHAT, PLAIN):
            self.refused(path, {"response_format": {"type": "json"}}, "text, json_object or json_schema",
                         "response_format.type")
            self.refused(path, {"response_format": "json"}, "an object with a type", "response_format")
            self.refused(path, {"response_format": {"type": "json_schema"}}, "an object with a schema",
                         "response_format.json_schema")
            self.refused(path, {"response_format": schema_format({"type": "string", "contentEncoding": "base64"})},
                         "\"contentEncoding\" is not supported", "response_format.json_schema.schema")
            self.refused(path, {"guided_json": {"type": "strong"}}, "type must be", "guided_json")
            self.refused(path, {"guided_json": 3}, "must be a JSON schema", "guided_json")
            self.refused(path, {"guided_regex": "(a"}, "without )", "guided_regex")
            self.refused(path, {"guided_choice": []}, "one or more strings", "guided_choice")
            self.refused(path, {"structured_outputs": {"grammar": "root ::= x"}}, "json, regex, choice or json_object",
                         "structured_outputs")
            self.refused(path, {"guided_regex": "a", "guided_json": {}}, "asks for already", "guided_json")
            self.refused(path, {"guided_regex": "a", "allowed_token_ids": [1]}, "together", "allowed_token_ids")
            self.refused(path, {"guided_json": {"type": "string", "maxLength": 10**7}}, "characters", "guided_json")


if __name__ == "__main__":
    unittest.main()
