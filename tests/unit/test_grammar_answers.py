"""Random answers that grammars let through, checked by others: schemas by jsonschema, expressions by re.

tests/fixtures/grammar/schemas.json holds hand-picked schemas; more are generated here from seeds.
"""
import datetime
import json
import os
import pathlib
import random
import re
import subprocess
import unittest
import uuid

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SAMPLE = os.environ.get("GRAMMAR_SAMPLE", ROOT / "build/tests/unit/grammar_sample")
TOKENIZER = ROOT / "models/demo/tokenizer.json"
JSON_OBJECT, JSON_SCHEMA, REGEX, CHOICE = range(4)
ERR_INVALID = 1
MAX_SECONDS = 20.0 if "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ else 2.0

formats = jsonschema.FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_date_time(value):
    return not isinstance(value, str) or ("T" in value and datetime.datetime.fromisoformat(value).tzinfo is not None)


@formats.checks("date", raises=ValueError)
def is_date(value):
    return not isinstance(value, str) or (len(value) == 10 and bool(datetime.date.fromisoformat(value)))


@formats.checks("time", raises=ValueError)
def is_time(value):
    return not isinstance(value, str) or datetime.time.fromisoformat(value).tzinfo is not None


@formats.checks("uuid", raises=ValueError)
def is_uuid(value):
    return not isinstance(value, str) or str(uuid.UUID(value)) == value.lower()


@formats.checks("email")
def is_email(value):
    return not isinstance(value, str) or re.fullmatch(r"[^@\s]{1,64}@([\w-]{1,63}\.)+\w+", value, re.ASCII) is not None


class Served:
    def __init__(self, microseconds):
        self.seconds = microseconds * 1e-6
        self.answers = []  # (is_finished, bytes)


class Refused:
    def __init__(self, code, microseconds, message):
        self.code, self.seconds, self.message = code, microseconds * 1e-6, message


def sample(requests):
    """requests: (kind, text, number of answers, seed). Gives Served or Refused for each."""
    texts = [(kind, text.encode(), count, seed) for kind, text, count, seed in requests]
    data = b"".join(b"%d %d %d %d\n%s" % (kind, count, seed, len(text), text) for kind, text, count, seed in texts)
    process = subprocess.run([SAMPLE, TOKENIZER], input=data, capture_output=True, timeout=280)
    if process.returncode != 0:
        raise AssertionError(f"exit code {process.returncode}: {process.stderr.decode(errors='replace')}")
    output, at, results = process.stdout, 0, []

    def line():
        nonlocal at
        end = output.index(b"\n", at)
        words, at = output[at:end].decode().split(), end + 1
        return words[0], [int(word) for word in words[1:]]

    def block(length):
        nonlocal at
        at += length
        return output[at - length:at]

    for _, _, count, _ in texts:
        word, numbers = line()
        if word == "refused":
            results.append(Refused(numbers[0], numbers[1], block(numbers[2]).decode(errors="replace")))
            continue
        results.append(Served(numbers[0]))
        for _ in range(count):
            _, (is_finished, _, length) = line()
            results[-1].answers.append((is_finished == 1, block(length)))
    return results


class Generator:
    """Schemas of keywords that are covered, mostly satisfiable."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def integer(self):
        low = self.random.randint(-200, 200)
        schema = {"type": "integer"}
        if self.random.random() < 0.6:
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.6:
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = low + self.random.randint(2, 3000)
        return schema

    def number(self):
        low = self.random.choice([-1e6, -3, -0.5, 0, 0.1, 1 / 3, 2.5, 99.99, 1e9, 123456789012])
        schema = {"type": "number", self.random.choice(["minimum", "exclusiveMinimum"]): low}
        if self.random.random() < 0.6:
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = low + self.random.choice([0.07, 1, 2e4, 1e12])
        return schema

    def string(self):
        kind = self.random.randrange(5)
        if kind == 0:
            return {"type": "string", "format": self.random.choice(["date-time", "date", "time", "uuid", "email"])}
        if kind == 1:
            parts = ["[a-z]", r"\d", "(foo|bar)?", "x{2,4}", "[^,;]", "é", r"\w+", ".", r"\s", "(a|b|cd)*"]
            pattern = "".join(self.random.choice(parts) for _ in range(self.random.randint(1, 4)))
            return {"type": "string", "pattern": self.random.choice(["", "^"]) + pattern + self.random.choice(["", "$"])}
        schema = {"type": "string"}
        if kind == 2:
            schema["minLength"] = self.random.randint(0, 5)
        if kind in (2, 3):
            schema["maxLength"] = self.random.randint(5, 30)
        return schema

    def value(self, depth=0):
        return self.random.choice([None, True, 7, -2.5, "a", "é\"\n", [1, "x"], {"k": None}])

    def object(self, depth):
        names = self.random.sample(["a", "ab", "abc", "b", "name", "id", "é", "x y", "\"q\"", "kind"],
                                   self.random.randint(0, 5))
        schema = {"type": "object", "properties": {name: self.schema(depth + 1) for name in names}}
        schema["required"] = [name for name in names if self.random.random() < 0.5]
        if self.random.random() < 0.5:
            schema["additionalProperties"] = self.random.choice([True, False, {"type": "integer"}, {"type": "null"}])
        return schema

    def array(self, depth):
        schema = {"type": "array"}
        if self.random.random() < 0.3:
            schema["prefixItems"] = [self.schema(depth + 1) for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.8:
            schema["items"] = self.schema(depth + 1)
        if self.random.random() < 0.4:
            schema["minItems"] = self.random.randint(0, 3)
        if self.random.random() < 0.6:
            schema["maxItems"] = self.random.randint(3, 6)
        return schema

    def schema(self, depth=0):
        kind = self.random.randrange(6 if depth > 3 else 12)
        if kind == 0:
            return {"type": self.random.choice(["boolean", "null", "number", ["integer", "null"], ["string", "boolean"]])}
        if kind == 1:
            return self.number() if self.random.random() < 0.4 else self.integer()
        if kind in (2, 3):
            return self.string()
        if kind == 4:
            return {"enum": [self.value() for _ in range(self.random.randint(1, 4))]}
        if kind == 5:
            return {"const": self.value()}
        if kind in (6, 7):
            return self.array(depth)
        if kind == 8:
            return {"anyOf": [self.schema(depth + 1) for _ in range(self.random.randint(1, 3))]}
        if kind == 9 and depth > 0:
            return {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/" + self.random.choice(["one", "two"])}]}
        return self.object(depth)

    def whole(self):
        schema = self.schema()
        if "$ref" in json.dumps(schema):
            schema["$defs"] = {"one": self.object(2), "two": self.array(2)}
            for definition in schema["$defs"].values():
                if "$ref" in json.dumps(definition):
                    definition.setdefault("properties", {})
        return schema


class Weird:
    """Schemas that no one should write: shapes, depths and counts at random."""

    WORDS = ["type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
             "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "minLength", "maxLength", "pattern", "format",
             "minimum", "maximum", "exclusiveMinimum", "not", "if", "title", "description", "definitions"]
    TEXTS = ["", "string", "integer", "object", "array", "null", "#", "#/$defs/a", "#/properties/a", "#/anyOf/0", "date",
             "^(a|b)*$", "((((a{9}){9}){9}){9}){9}", "(", "[^]", "\\", "(a*)*(b*)*$", ".*.*.*.*x", "\ud7ff", "a" * 300]
    NUMBERS = [0, 1, -1, 2, 64, 1000, 99999, 10**9, 1e308, -1e308, 0.5, 2**63, 5e-324]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth):
        kind = self.random.randrange(5 if depth > 5 else 9)
        if kind == 0:
            return self.random.choice([True, False, None])
        if kind == 1:
            return self.random.choice(self.NUMBERS)
        if kind in (2, 3, 4):
            return self.random.choice(self.TEXTS)
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 4))]
        return self.schema(depth + 1)

    def fitting(self, word, depth):
        if word == "type":
            return self.random.choice(self.TEXTS[1:6])
        if word in ("properties", "$defs", "definitions"):
            return {self.random.choice("abc"): self.schema(depth + 1) for _ in range(self.random.randint(0, 3))}
        if word in ("anyOf", "oneOf", "allOf", "prefixItems"):
            return [self.schema(depth + 1) for _ in range(self.random.randint(1, 4))]
        if word in ("items", "additionalProperties", "not", "if"):
            return self.schema(depth + 1)
        if word == "required":
            return [self.random.choice("abc")]
        if word == "enum":
            return [self.value(depth + 1) for _ in range(3)]
        if word in ("$ref", "pattern", "format", "title", "description"):
            return self.random.choice(self.TEXTS)
        return self.random.choice(self.NUMBERS)

    def schema(self, depth=0):
        if depth > 5:
            return self.random.choice([True, {}, {"$ref": "#"}, {"type": "string"}])
        words = self.random.sample(self.WORDS, self.random.randint(0, 4))
        return {word: self.fitting(word, depth) if self.random.random() < 0.93 else self.value(depth) for word in words}


def large_schemas():
    """At the limits: what takes long if it is done badly."""
    doubling = {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
                          for i in range(40)}, "$ref": "#/$defs/d0"}
    doubling["$defs"]["d40"] = {"type": "integer"}
    product = {"allOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {"type": "string"}}} for j in range(8)]}
                         for i in range(8)]}
    deep = {"type": "null"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    tagged = {"oneOf": [{"type": "object", "properties": {"kind": {"const": f"kind {i}"}, "value": {"type": "integer"}},
                         "required": ["kind", "value"]} for i in range(200)]}
    return [doubling, product, deep, tagged,
            {"type": "object", "properties": {f"name{i}": {"type": "string"} for i in range(900)}},
            {"type": "object", "properties": {f"name{i}": {} for i in range(900)}, "additionalProperties": True},
            {"enum": [f"value {i}" for i in range(8000)]},
            {"type": "string", "maxLength": 15000}, {"type": "string", "pattern": "^(a|b|c|d)*x.{200}$"},
            {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 5000},
            {"type": "string", "pattern": "(x+x+)+y"}, {"type": "string", "pattern": "(" * 60 + "a" + ")*" * 60},
            {"anyOf": [{"type": "string", "pattern": f"^[a-{c}]*{c}.{{20}}$"} for c in "bcdefghijk"]}]


class AnswersFitTheirSchemas(unittest.TestCase):
    def check(self, schemas, n_answers, may_refuse=()):
        results = sample([(JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), n_answers, seed)
                          for seed, schema in enumerate(schemas)])
        n_finished = n_answers_seen = n_refused = 0
        for schema, result in zip(schemas, results):
            with self.subTest(schema=json.dumps(schema)[:300]):
                self.assertLess(result.seconds, MAX_SECONDS)
                if isinstance(result, Refused):
                    n_refused += 1
                    self.assertTrue(any(reason in result.message for reason in may_refuse), result.message)
                    continue
                validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
                for is_finished, answer in result.answers:
                    n_answers_seen += 1
                    text = answer.decode() if is_finished else answer.decode(errors="ignore")
                    if is_finished:
                        n_finished += 1
                        errors = [error.message for error in validator.iter_errors(json.loads(text))]
                        self.assertEqual(errors, [], text)
        print(f"{len(schemas)} schemas, {n_refused} refused; {n_answers_seen} answers, {n_finished} finished")
        return n_refused, n_finished / max(n_answers_seen, 1)

    def test_hand_picked_schemas(self):
        schemas = json.loads((ROOT / "tests/fixtures/grammar/schemas.json").read_text())
        self.assertGreaterEqual(len(schemas), 100)
        _, share_finished = self.check(schemas, 8)
        self.assertGreater(share_finished, 0.98)

    def test_generated_schemas(self):
        schemas = [Generator(seed).whole() for seed in range(400)]
        n_refused, share_finished = self.check(schemas, 4, may_refuse=("Nothing fits", "leads to no schema"))
        self.assertLess(n_refused, 20)
        self.assertGreater(share_finished, 0.97)

    def test_any_object(self):
        (result,) = sample([(JSON_OBJECT, "", 60, 1)])
        for is_finished, answer in result.answers:
            if is_finished:
                self.assertIsInstance(json.loads(answer), dict)
        self.assertGreater(sum(is_finished for is_finished, _ in result.answers), 50)


class OddSchemasEnd(unittest.TestCase):
    def check(self, schemas, n_answers):
        results = sample([(JSON_SCHEMA, json.dumps(schema), n_answers, seed) for seed, schema in enumerate(schemas)])
        n_served = 0
        for schema, result in zip(schemas, results):
            with self.subTest(schema=json.dumps(schema)[:300]):
                self.assertLess(result.seconds, MAX_SECONDS)
                if isinstance(result, Refused):
                    self.assertEqual(result.code, ERR_INVALID, result.message)
                    self.assertTrue(result.message)
                    continue
                n_served += 1
                for is_finished, answer in result.answers:
                    if is_finished:
                        json.loads(answer)
        reasons = {result.message[:60] for result in results if isinstance(result, Refused)}
        print("refused:", *sorted(reasons)[:12], sep="\n  ")
        print(f"{len(schemas)} schemas, {n_served} served, at most {max(result.seconds for result in results):.3f} s")
        return n_served

    def test_weird_schemas(self):
        n_served = self.check([Weird(seed).schema() for seed in range(1000)], 1)
        self.assertGreater(n_served, 30)

    def test_schemas_at_the_limits(self):
        self.check(large_schemas(), 1)


class AnswersFitTheirExpressions(unittest.TestCase):
    EXPRESSIONS = [r"[a-z]+@[a-z]+\.(com|org)", r"\d{1,3}(\.\d{1,3}){3}", r"(Yes|No)(, (because|but) \w+)?", r"[A-Z][^\n]{5,40}\.",
                   r"[^a-z\s]{1,9}", r"(ab?c|d{2,3})+", r".{0,30}", r"\s*\S+\s*", r"[é-ü☀-⛿]{1,8}", r"-?\d+(\.\d+)?", r"(a|)(b|)c",
                   r"\x41\u0042[\]\-^]*", r"\w{3}\W{0}\w{3}", r"```json\n\{\}\n```"]

    def test_expressions(self):
        results = sample([(REGEX, expression, 10, seed) for seed, expression in enumerate(self.EXPRESSIONS)])
        for expression, result in zip(self.EXPRESSIONS, results):
            with self.subTest(expression=expression):
                self.assertIsInstance(result, Served)
                for is_finished, answer in result.answers:
                    if is_finished:
                        self.assertIsNotNone(re.fullmatch(expression, answer.decode()), answer)

    def test_choices(self):
        choices = ["red", "green", "reddish", "日本", "a\nb", " leading"]
        (result,) = sample([(CHOICE, json.dumps(choices), 60, 5)])
        self.assertEqual({answer.decode() for _, answer in result.answers}, set(choices))


if __name__ == "__main__":
    unittest.main()
