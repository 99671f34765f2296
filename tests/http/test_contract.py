"""That contract.py, through which all other tests look, notices what /openapi.json does not say; and the document itself."""
import copy
import json
import unittest

from contract import CONTRACT, Contract, data_of
from harness import ServerTest, post_bytes

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 12}


class Faults(ServerTest):
    """Each with a document that was made wrong."""

    def changed(self, *place):
        """The document without what is at the place."""
        document = copy.deepcopy(CONTRACT.document)
        part = document
        for key in place[:-1]:
            part = part[key]
        del part[place[-1]]
        return Contract(document)

    def check(self, contract, method, path, body=None, headers=None):
        status, headers, answer = self.server.call(method, path, body, headers)
        CONTRACT.check(method, path, status, headers, answer)
        with self.assertRaises(AssertionError) as caught:
            contract.check(method, path, status, headers, answer)
        with self.assertRaises(AssertionError):
            contract.raise_faults()
        contract.raise_faults()  # they were told
        return str(caught.exception)

    def test_a_member_of_an_answer(self):
        changed = self.changed("components", "schemas", "ChatCompletion", "properties", "created")
        self.assertIn("created", self.check(changed, "POST", CHAT, HELLO))

    def test_a_member_of_an_event(self):
        changed = self.changed("components", "schemas", "ChatDelta", "properties", "content")
        self.assertIn("choices/0/delta", self.check(changed, "POST", CHAT, {**HELLO, "stream": True}))

    def test_a_status(self):
        changed = self.changed("paths", PLAIN, "post", "responses", "400")
        self.assertIn("400", self.check(changed, "POST", PLAIN, {}))
        changed = self.changed("paths", "/v1/models/{model}", "get", "responses", "404")
        self.assertIn("404", self.check(changed, "GET", "/v1/models/a/b%2F", None))

    def test_a_content_type(self):
        changed = self.changed("paths", CHAT, "post", "responses", "200", "content", "text/event-stream")
        self.assertIn("text/event-stream", self.check(changed, "POST", CHAT, {**HELLO, "stream": True}))

    def test_a_path_and_a_method(self):
        self.assertIn("200", self.check(self.changed("paths", "/version"), "GET", "/version"))
        self.assertIn("200", self.check(self.changed("paths", "/version", "get"), "GET", "/version?x=y"))
        self.assertIn("200", self.check(self.changed("paths", "/version", "head"), "HEAD", "/version"))

    def test_a_header(self):
        status, headers, answer = self.server.call("GET", "/version")
        del headers["X-Request-Id"]
        with self.assertRaises(AssertionError):
            Contract(CONTRACT.document).check("GET", "/version", status, headers, answer)

    def test_all_ways_are_watched(self):
        def n_checked(ask):
            before = CONTRACT.n_checked
            ask()
            return CONTRACT.n_checked - before

        def ask_by_socket():
            with self.server.socket() as connection:
                connection.sendall(2 * post_bytes(PLAIN, {"prompt": "Hi", "max_tokens": 2}))
                while connection.received.count(b"HTTP/1.1 200") < 2 or b'"usage"' not in connection.received[-300:]:
                    connection.recv(4096)

        def ask_by_sdk():
            import openai
            with openai.OpenAI(base_url=self.server.url + "/v1", api_key="any") as client:
                client.models.list()
                list(client.completions.create(model="demo", prompt="Hi", max_tokens=2, stream=True))

        async def ask_at_once():
            import openai
            async with openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="any") as client:
                async for _ in await client.completions.create(model="demo", prompt="Hi", max_tokens=2, stream=True):
                    pass

        import asyncio
        self.assertEqual(n_checked(ask_by_socket), 2)
        self.assertEqual(n_checked(ask_by_sdk), 2)
        self.assertEqual(n_checked(lambda: asyncio.run(ask_at_once())), 1)
        self.assertEqual(n_checked(lambda: self.server.call("HEAD", "/health")), 1)

    def test_events_that_are_cut(self):
        self.assertEqual(list(data_of(b'data: {"a": 1}\n\n: keep-alive\n\ndata: [DONE]\n\ndata: {"b', complete=False)),
                         [{"a": 1}, "[DONE]"])
        with self.assertRaises(AssertionError):
            list(data_of(b"data: {}\n\ndata: {", complete=True))


class Document(ServerTest):
    def test_it_is_served(self):
        status, headers, body = self.server.call("GET", "/openapi.json")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        document = json.loads(body)
        self.assertEqual(document, CONTRACT.document)
        self.assertEqual(document["info"]["version"], self.server.get("/version")[1]["version"])

    def test_it_is_openapi(self):
        import schemathesis
        schemathesis.openapi.from_dict(CONTRACT.document).validate()

    def test_each_part_is_used(self):
        text = json.dumps(CONTRACT.document)
        for kind, parts in CONTRACT.document["components"].items():
            for name in parts if kind != "securitySchemes" else ():
                self.assertIn(f'"#/components/{kind}/{name}"', text)

    def test_answers_are_closed(self):
        """An object of an answer that is not would let through what is not described."""
        def look(schema, place, seen):
            reference = schema.get("$ref")
            if reference in seen:
                return
            schema = CONTRACT.resolve(schema)
            kinds = schema.get("type", [])
            if "object" in ([kinds] if isinstance(kinds, str) else kinds):
                self.assertIn("additionalProperties", schema, place)
            for key in ("properties", "additionalProperties"):
                parts = schema.get(key) or {}
                for name, part in (parts if key == "properties" else {"*": parts}).items():
                    look(part, f"{place}/{name}", seen | {reference})
            for part in [schema["items"]] if "items" in schema else []:
                look(part, place + "/[]", seen | {reference})
            for key in ("anyOf", "oneOf", "allOf"):
                for part in schema.get(key, ()):
                    look(part, place, seen | {reference})

        for path, operations in CONTRACT.document["paths"].items():
            for method in operations.keys() - {"parameters"}:
                for status, response in CONTRACT.responses(path, method.upper()).items():
                    for content in response.get("content", {}).values():
                        if path != "/openapi.json" or status != "200":
                            look(content["schema"], f"{method} {path} {status}", frozenset([None]))


if __name__ == "__main__":
    unittest.main()
