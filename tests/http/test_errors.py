"""Every status that is no success, and the words that come with it."""
import contextlib
import json
import unittest

from harness import Server, ServerTest

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello!"}]


class Errors(ServerTest):
    arguments = ("--max-model-len", "256", "--max-body-bytes", "20000")

    def refused(self, status, path, body, *parts, param=None, code=None, headers=None):
        """The request must be refused with this status, param and code, and a message that holds the parts."""
        got, answer_headers, answer = self.server.call("POST", path, body, headers)
        with self.subTest(body=str(body)[:200]):
            self.assertEqual(got, status, answer)
            self.assertEqual(answer_headers["Content-Type"], "application/json")
            error = json.loads(answer)["error"]
            self.assertEqual(set(error), {"message", "type", "param", "code"})
            self.assertEqual((error["param"], error["code"]), (param, code), error)
            for part in parts:
                self.assertIn(part, error["message"])
        return answer_headers

    def test_wrong_values(self):
        """A field, what is given, and what the message must say is allowed."""
        number, flag = "a number from 0 to 2", "true or false"
        for field, values, allowed in (
            ("temperature", (-0.1, 2.1, "1", True, [], 1e300), number),
            ("top_p", (0, -1, 1.01, "0.5"), "above 0 and at most 1"),
            ("min_p", (-0.5, 1.5, {}), "a number from 0 to 1"),
            ("top_k", (-2, 1.5, "3", 2**31, 2**70), "-1 or 0 for no limit"),
            ("max_tokens", (0, -1, 1.5, "10", True, 2**31, 1e400), "an integer from 1 to 2147483647"),
            ("max_completion_tokens", (0, "1"), "an integer from 1 to 2147483647"),
            ("seed", (1.5, "1", 2**64, -2**63 - 1, 1e3), "an integer of 64 bits"),
            ("stream", (1, "true", 0), flag),
            ("ignore_eos", ("no", 0), flag),
            ("stop", (1, "", ["a", ""], ["a", 1], ["x"] * 17, "y" * 1025, {"a": 1}), "at most 16 strings"),
            ("stream_options", (True, [], "usage"), "include_usage"),
            ("presence_penalty", (-2.1, 3, "1", True), "a number from -2 to 2"),
            ("frequency_penalty", (-2.1, 1e400, []), "a number from -2 to 2"),
            ("repetition_penalty", (0, -1, 101, "1"), "a number from 0.01 to 100"),
            ("logit_bias", ([], 1, {"3": 101}, {"3": "x"}, {str(i): 1 for i in range(1025)}), "at most 1024 token ids"),
            ("min_tokens", (-1, 1.5, "1"), "an integer from 0 to max_tokens"),
            ("stop_token_ids", (1, [-1], [10**6], ["a"], [1] * 65), "at most 64 token ids"),
            ("allowed_token_ids", (1, [], [-1], [10**6]), "token ids of the model, and not empty"),
            ("priority", (2**31, "high"), "an integer of 32 bits"),
            ("timeout_ms", (0, -5, "1 s"), "an integer from 1 to 2147483647"),
            ("model", (1, ["demo"]), "a string"),
        ):
            for value in values:
                body = json.dumps({field: value, "prompt": "Hi"}).replace("Infinity", "1e400")
                self.refused(400, PLAIN, body, f"{field} must be ", allowed, param=field)
        self.refused(400, PLAIN, {"prompt": "Hi", "echo": "yes"}, flag, param="echo")
        self.refused(400, PLAIN, {"prompt": "Hi", "logit_bias": {"1000000": 1}}, "a token id from 0 to ", param="logit_bias")
        self.refused(400, PLAIN, {"prompt": "Hi", "min_tokens": 17}, "0 to the 16 of max_tokens", param="min_tokens")
        self.refused(400, PLAIN, {"prompt": "Hi", "min_tokens": 9, "max_tokens": 8}, "0 to the 8 of max_tokens",
                     param="min_tokens")
        self.refused(400, PLAIN, {"prompt": "Hi", "logprobs": 21}, "an integer from 0 to 20", param="logprobs")
        self.refused(400, CHAT, {"messages": HELLO, "logprobs": 1}, flag, param="logprobs")
        self.refused(400, CHAT, {"messages": HELLO, "top_logprobs": 1}, "only with logprobs true", param="top_logprobs")
        self.refused(400, PLAIN, {"prompt": "Hi", "temperature": 3}, "temperature must be a number from 0 to 2, not 3",
                     param="temperature")
        self.refused(400, PLAIN, {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": 1}}, flag,
                     param="stream_options.include_usage")
        self.refused(400, PLAIN, {"prompt": "Hi", "stream_options": {"include_usage": True}}, "only with stream true",
                     param="stream_options")
        for kwargs, param in (("on", "chat_template_kwargs"),
                              ({"enable_thinking": "on"}, "chat_template_kwargs.enable_thinking")):
            self.refused(400, CHAT, {"messages": HELLO, "chat_template_kwargs": kwargs}, param=param)

    def test_what_is_not_served_is_refused(self):
        for field, value in (("best_of", 3), ("guided_grammar", "root ::= x"), ("suffix", "end")):
            for path, body in ((CHAT, {"messages": HELLO}), (PLAIN, {"prompt": "Hi"})):
                self.refused(400, path, {**body, field: value}, f"{field} is not supported", param=field)
        for value in ("required", {"type": "function", "function": {"name": "f"}}):
            self.refused(400, PLAIN, {"prompt": "Hi", "tool_choice": value}, "tool_choice is not supported",
                         param="tool_choice")
        self.refused(400, CHAT, {"messages": HELLO, "n": 129}, "n must be an integer from 1 to 128, not 129", param="n")
        self.refused(400, PLAIN, {"prompt": ["Hi"] * 65, "n": 2}, "65 prompts with n 2", param="n")

    def test_prompts(self):
        self.refused(400, PLAIN, {}, "prompt is missing", param="prompt")
        for prompt in ([], None, 1, {}, True, [[]], "", [""], [[1], []]):
            self.refused(400, PLAIN, {"prompt": prompt}, "empty", param="prompt")
        for prompt in (["a", 1], [1, "a"], [[1], "a"], ["a", ["b"]], [[1, "x"]]):
            self.refused(400, PLAIN, {"prompt": prompt}, "prompt must be a string, an array of strings", param="prompt")
        for prompt in ([-1], [1, 10**6], [[1], [2, 3.5]], [2**40]):
            self.refused(400, PLAIN, {"prompt": prompt}, "an integer from 0 to ", param="prompt")
        self.refused(400, PLAIN, {"prompt": ["a"] * 129}, "128", param="prompt")

    def test_messages(self):
        for messages in (None, [], {}, "Hello", 1):
            self.refused(400, CHAT, {"messages": messages}, "messages", param="messages")
        self.refused(400, CHAT, {}, "messages", param="messages")
        self.refused(400, CHAT, {"messages": [{"role": "wizard", "content": "Hi"}]}, param="messages[0].role")
        self.refused(400, CHAT, {"messages": [*HELLO, {"role": "user"}]}, param="messages[1].content")
        self.refused(400, CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
                     param="messages[0].content[0].type")

    def test_malformed_bodies(self):
        for body in ("", "{", '{"prompt": "a"', '{"prompt": "a",}', "{'prompt': 'a'}", '{"prompt": "a"} x', "\0",
                     '{"prompt": NaN}', '{"prompt": "\t"}', '{"prompt": "\\x"}', '{"prompt": 01}', '{"a" 1}',
                     b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', '{"prompt": "a"}\0', "[" * 100000):
            if len(body) < 20000:
                self.refused(400, PLAIN, body, "JSON")
        self.refused(400, PLAIN, "[" * 5000, "nested too deeply")
        for body in ("[]", '"prompt"', "1", "null", "true"):
            self.refused(400, PLAIN, body, "must be a JSON object")
            self.refused(400, CHAT, body, "JSON object", headers={"Content-Type": "application/json"})

    def test_the_last_of_equal_keys_counts(self):
        self.refused(400, PLAIN, '{"prompt": "a", "temperature": 1, "temperature": 5}', param="temperature")
        status, answer = self.server.post(PLAIN, '{"prompt": "a", "max_tokens": 3, "max_tokens": 2, "prompt": "b"}')
        self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, 2))

    def test_context_length(self):
        code = "context_length_exceeded"
        self.refused(400, PLAIN, {"prompt": [5] * 256}, "256 tokens", "holds 256", code=code)
        self.refused(400, PLAIN, {"prompt": [5] * 1000}, "1000 tokens", code=code)
        self.refused(400, PLAIN, {"prompt": [5] * 200, "max_tokens": 57}, "200 prompt tokens", "57", "257", "256",
                     param="max_tokens", code=code)
        self.refused(400, CHAT, {"messages": [{"role": "user", "content": "word " * 400}]}, "holds 256", code=code)
        status, answer = self.server.post(PLAIN, {"prompt": [5] * 200, "max_tokens": 56, "ignore_eos": True})
        self.assertEqual((status, answer["usage"]["total_tokens"]), (200, 256))
        for n_prompt, n_new in ((200, 16), (250, 6)):  # 16 by default, or what is left
            status, answer = self.server.post(PLAIN, {"prompt": [5] * n_prompt, "ignore_eos": True})
            self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, n_new))
            self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        status, answer = self.server.post(CHAT, {"messages": HELLO, "ignore_eos": True})  # up to the end
        self.assertEqual((status, answer["usage"]["total_tokens"]), (200, 256))

    def test_unknown_model(self):
        for path, body in ((CHAT, {"messages": HELLO}), (PLAIN, {"prompt": "Hi"})):
            self.refused(404, path, {**body, "model": "gpt-9"}, "gpt-9", "demo", param="model", code="model_not_found")
        status, _, answer = self.server.call("GET", "/v1/models/gpt-9")
        self.assertEqual((status, json.loads(answer)["error"]["code"]), (404, "model_not_found"))

    def test_paths_and_methods(self):
        for method, path, allowed in (("GET", CHAT, "POST"), ("PUT", PLAIN, "POST"), ("DELETE", "/v1/models", "GET, HEAD"),
                                      ("POST", "/health", "GET, HEAD"), ("POST", "/metrics", "GET, HEAD"),
                                      ("PATCH", "/v1/models/demo", "GET, HEAD")):
            status, headers, answer = self.server.call(method, path)
            self.assertEqual((status, headers["Allow"]), (405, allowed), path)
            self.assertEqual(json.loads(answer)["error"]["code"], "method_not_allowed")
        for method, path in (("GET", "//"), ("POST", "/v1/audio/speech"), ("GET", "/v1/models/"), ("GET", "/healthy"),
                             ("GET", "/v1"), ("POST", CHAT + "/"), ("GET", "/" + "x" * 2000)):
            status, _, answer = self.server.call(method, path)
            self.assertEqual((status, json.loads(answer)["error"]["code"]), (404, "not_found"), path)

    def test_what_is_quoted_stays_valid_utf8(self):
        for path in ("/v1/models/%FF%FE", "/%C3", "/v1/models/" + "%C3%A9" * 300, "/%22%5C%0A"):
            status, _, answer = self.server.call("GET", path)
            self.assertEqual(status, 404)
            self.assertIn("message", json.loads(answer.decode("utf-8"))["error"])
        self.refused(404, PLAIN, {"prompt": "Hi", "model": "é" * 200}, "does not exist", param="model",
                     code="model_not_found")

    def test_content_type(self):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/json-patch"):
            self.refused(415, PLAIN, {"prompt": "Hi"}, "application/json", kind, code="unsupported_media_type",
                         headers={"Content-Type": kind})

    def test_too_large(self):
        for size in (20001, 1000000):
            self.refused(413, PLAIN, json.dumps({"prompt": "Hi"}).ljust(size), "20000 bytes", code="request_too_large")
        status, _ = self.server.post(PLAIN, json.dumps({"prompt": "Hi", "max_tokens": 1}).ljust(20000))
        self.assertEqual(status, 200)
        connection = self.server.connect()
        connection.request("POST", PLAIN, (b" " * 1000 for _ in range(100)), encode_chunked=True)
        self.assertEqual(connection.getresponse().status, 413)
        connection.close()

    def test_what_is_no_request(self):
        """libmicrohttpd answers it, with a page of HTML; nothing can be put in its place."""
        get, post = b"GET /health HTTP/1.1\r\nHost: x\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
        for data, status in ((b"\x16\x03\x01 this is no request\r\n\r\n", 400), (b"GET /health\r\n\r\n", 400),
                             (b"GET /health HTP/1.1\r\n\r\n", 400), (get + b"no colon\r\n\r\n", 400),
                             (post + b"Content-Length: -1\r\n\r\n", 400), (post + b"Content-Length: a\r\n\r\n", 400),
                             (post + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
                             (post + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n", 413),
                             (post + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 413),
                             (b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\n\r\n", 414),
                             (get + b"X: " + b"x" * 40000 + b"\r\n\r\n", 431),
                             (b"GET /health HTTP/2.0\r\n\r\n", 505), (b"GET /health HTTP/0.9\r\n\r\n", 505)):
            with self.subTest(data[:80]), self.server.socket() as connection:
                connection.sendall(data)
                answer = b""
                with contextlib.suppress(ConnectionResetError):  # it does not read to the end
                    while piece := connection.recv(65536):
                        answer += piece
                self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), answer[:200])
                self.assertIn(b"<html>", answer)
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_a_nul_ends_no_path(self):
        for path in ("/health%00", "/v1/models/demo%00x", "/%00"):
            status, _, answer = self.server.call("GET", path)
            self.assertEqual(status, 404, path)
            self.assertIn("%00", json.loads(answer)["error"]["message"])

    def test_unknown_fields_are_logged_at_debug(self):
        server = Server("--log-level", "debug")
        try:
            status, _ = server.chat("Hello!", max_tokens=1, my_field={"a": 1})
            self.assertEqual(status, 200)
            self.assertIn("my_field", server.read_log())
        finally:
            server.stop()

    def test_strict_passes_nothing_over(self):
        server = Server("--strict")
        self.addCleanup(server.stop)
        fields = {"user": "me", "my_field": 1, "stream_options": {"include_obfuscation": False}, "stream": True}
        status, answer = server.chat("Hello!", **fields)
        self.assertEqual((status, answer["error"]["param"]), (400, "user"))
        self.assertTrue(answer["error"]["message"].endswith(": user, my_field, stream_options.include_obfuscation"), answer)
        for ask, content in ((server.chat, "Hello!"), (server.complete, "Once")):
            self.assertEqual(ask(content, max_tokens=2, store=False, best_of=1, n=1, seed=3)[0],
                             200 if ask == server.chat else 400)  # plain completions have no store
        status, answer = server.post("/tokenize", {"prompt": "Hi", "my_field": 1})
        self.assertEqual((status, answer["error"]["param"]), (400, "my_field"))

    def test_nothing_is_left_behind(self):
        self.assertEqual(self.server.live(), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
