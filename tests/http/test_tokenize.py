"""What the model reads: rendered prompts, token ids and back; and what the server says of itself."""
import json
import os
import unittest

from harness import GOLDEN, ServerTest


def load(name):
    with open(os.path.join(GOLDEN, name), encoding="utf-8") as file:
        return json.load(file)


class Tokens(ServerTest):
    def test_recorded_ids(self):
        limit = self.server.get("/v1/models")[1]["data"][0]["max_model_len"]
        vectors = load("tokenizer_vectors.json")
        self.assertGreater(len(vectors), 20)
        for vector in vectors:
            with self.subTest(vector["text"]):
                status, answer = self.server.post("/tokenize", {"model": "demo", "prompt": vector["text"]})
                self.assertEqual((status, answer["tokens"]), (200, vector["ids"]), answer)
                self.assertEqual((answer["count"], answer["max_model_len"]), (len(vector["ids"]), limit))

    def test_detokenize(self):
        for text in ("Hello!", "🐱 rocket ❄️", "<|im_start|>user\nHi<|im_end|>\n", "\0"):
            _, answer = self.server.post("/tokenize", {"prompt": text})
            status, back = self.server.post("/detokenize", {"model": "demo", "tokens": answer["tokens"]})
            self.assertEqual((status, back), (200, {"prompt": text}))
        self.assertEqual(self.server.post("/detokenize", {"tokens": []}), (200, {"prompt": ""}))

    def test_recorded_prompts(self):
        n_cases = 0
        for case in load("golden.json"):
            if "messages" not in case:
                continue
            n_cases += 1
            body = {"messages": case["messages"], "tools": case["tools"], "enable_thinking": case["enable_thinking"]}
            status, answer = self.server.post("/v1/chat/completions/render", body)
            self.assertEqual((status, answer), (200, {"prompt": case["prompt"], "prompt_token_ids": case["prompt_ids"]}))
            _, answer = self.server.post("/tokenize", body)
            self.assertEqual(answer["tokens"], case["prompt_ids"])
        self.assertEqual(n_cases, 20)

    def test_faults(self):
        hello = [{"role": "user", "content": "Hello!"}]
        for path, body, status, param in (
            ("/tokenize", {"prompt": ["a", "b"]}, 400, "prompt"),
            ("/tokenize", {"prompt": [1, 2]}, 400, "prompt"),
            ("/tokenize", {}, 400, "prompt"),
            ("/tokenize", [], 400, None),
            ("/tokenize", {"prompt": "a", "model": "gpt-9"}, 404, "model"),
            ("/tokenize", {"messages": []}, 400, "messages"),
            ("/v1/chat/completions/render", {}, 400, "messages"),
            ("/v1/chat/completions/render", {"messages": hello, "temperature": 7}, 400, "temperature"),
            ("/v1/chat/completions/render", {"messages": hello, "model": "gpt-9"}, 404, "model"),
            ("/detokenize", {}, 400, "tokens"),
            ("/detokenize", {"tokens": "a"}, 400, "tokens"),
            ("/detokenize", {"tokens": [1.5]}, 400, "tokens"),
            ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
            ("/detokenize", {"tokens": [4096]}, 400, "tokens"),
            ("/detokenize", {"tokens": [10**30]}, 400, "tokens"),
            ("/detokenize", {"tokens": ["1"]}, 400, "tokens"),
            ("/detokenize", {"tokens": [1], "model": 1}, 400, "model"),
            ("/detokenize", {"tokens": [1], "model": "gpt-9"}, 404, "model"),
        ):
            with self.subTest(f"{path} {body}"):
                got, answer = self.server.post(path, body)
                self.assertEqual((got, answer["error"]["param"]), (status, param), answer)
        self.assertEqual(self.server.call("GET", "/tokenize")[0], 405)


class About(ServerTest):
    arguments = ("--max-seqs", "3", "--max-model-len", "512")

    def test_version(self):
        status, answer = self.server.get("/version")
        self.assertEqual((status, list(answer)), (200, ["version"]))
        self.assertRegex(answer["version"], r"^\d+\.\d+\.\d+$")

    def test_request_ids(self):
        def request_id(path, given=None, body=None):
            headers = {"Content-Type": "application/json", **({} if given is None else {"X-Request-Id": given})}
            return self.server.call("POST" if body else "GET", path, body, headers)[1]["X-Request-Id"]
        hello = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}
        calls = (("/version",), ("/nowhere",), ("/v1/chat/completions", hello), ("/v1/chat/completions", {"messages": []}),
                 ("/v1/chat/completions", {**hello, "stream": True}))
        made = set()
        for path, *body in calls:
            for given in ("a", "6f1c-42/b:7", "x" * 128):
                self.assertEqual(request_id(path, given, *body), given)
            for given in (None, "", "two words", "x" * 129, "caf\xe9"):
                made.add(request_id(path, given, *body))
        self.assertEqual(len(made), 5 * len(calls))
        for one in made:
            self.assertRegex(one, "^[0-9a-f]{32}$")

    def test_server_info(self):
        status, answer = self.server.get("/server_info")
        self.assertEqual(status, 200)
        self.assertEqual(answer["version"], self.server.get("/version")[1]["version"])
        self.assertIn(answer["backend"], ("cpu", "cuda"))
        model, memory, limits = answer["model"], answer["memory"], answer["limits"]
        self.assertEqual((model["name"], model["chat_template"], model["layers"], model["vocab"]), ("demo", "hybrid", 7, 4096))
        self.assertEqual((limits["max_seqs"], limits["max_model_len"]), (3, 512))
        self.assertEqual(memory["kv_tokens"], memory["kv_blocks"] * limits["block_size"])
        self.assertGreaterEqual(memory["kv_bytes"], memory["kv_tokens"] * memory["kv_bytes_per_token"])
        self.assertGreater(memory["weights_bytes"], 8_000_000)


if __name__ == "__main__":
    unittest.main()
