"""POST /v1/embeddings: the states of a prompt after the final norm, pooled."""
import array
import base64
import concurrent.futures
import contextlib
import json
import math
import os
import struct
import tempfile
import unittest

from harness import DEVICE, GOLDEN, ROOT, SANITIZED, TEXT_ALONE, Server, ServerTest, post_bytes

EXACT = DEVICE == "cpu"  # there, a vector does not depend on what else is computed
TOLERANCE = 2e-2  # of rows rounded to bf16 by the best instruction set; tests/model/test_layers.c compares closer
HIDDEN = 256


def recorded(name):
    """A tensor of golden/layers.safetensors as rows."""
    with open(os.path.join(GOLDEN, "layers.safetensors"), "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        tensor = json.loads(file.read(length))[name]
        begin, end = tensor["data_offsets"]
        file.seek(8 + length + begin)
        values = array.array("i" if tensor["dtype"] == "I32" else "f", file.read(end - begin)).tolist()
    columns = math.prod(tensor["shape"][1:])
    return values if len(tensor["shape"]) == 1 else [values[i:i + columns] for i in range(0, len(values), columns)]


def normalised(vector):
    length = math.hypot(*vector)
    return [value / length for value in vector]


def error_of(vector, expected):
    return math.dist(vector, expected) / math.hypot(*expected)


def decoded(text):
    values = array.array("f", base64.b64decode(text, validate=True))
    return values.tolist()


class Embeddings(ServerTest):
    arguments = ("--max-batch-tokens", "64", "--max-seqs", "8")

    def embed(self, text, **fields):
        status, answer = self.server.post("/v1/embeddings", {"input": text, **fields})
        self.assertEqual(status, 200, answer)
        self.assertEqual([entry["index"] for entry in answer["data"]], list(range(len(answer["data"]))))
        return [entry["embedding"] for entry in answer["data"]]

    def test_against_recorded_states(self):
        ids, states = recorded("input_ids"), recorded("norm")
        mean = [sum(column) / len(states) for column in zip(*states)]
        for fields, expected in (({}, states[-1]), ({"pooling": "last"}, states[-1]), ({"pooling": "mean"}, mean)):
            with self.subTest(fields):
                vector, = self.embed(ids, normalize=False, **fields)
                self.assertLess(error_of(vector, expected), TOLERANCE)
                vector, = self.embed(ids, **fields)
                self.assertLess(error_of(vector, normalised(expected)), TOLERANCE)
                self.assertAlmostEqual(math.hypot(*vector), 1, delta=1e-6)

    def test_an_answer(self):
        status, answer = self.server.post("/v1/embeddings", {
            "model": "demo", "input": ["Hello!", "The weather in Paris"], "user": "somebody", "encoding_format": "float"})
        self.assertEqual(status, 200)
        self.assertRegex(answer["id"], "^embd-[0-9a-f]{24}$")
        self.assertEqual((answer["object"], answer["model"]), ("list", "demo"))
        self.assertEqual({entry["object"] for entry in answer["data"]}, {"embedding"})
        n_tokens = sum(self.server.post("/tokenize", {"prompt": text})[1]["count"]
                       for text in ("Hello!", "The weather in Paris"))
        self.assertEqual(answer["usage"], {"prompt_tokens": n_tokens, "total_tokens": n_tokens})

    def test_inputs(self):
        ids = self.server.post("/tokenize", {"prompt": "Hello!"})[1]["tokens"]
        vector, = self.embed("Hello!")
        self.assertEqual(len(vector), HIDDEN)
        self.assertEqual(self.embed(["Hello!"]), [vector])
        self.assertEqual(self.embed(ids), [vector])
        self.assertEqual(self.embed([ids, ids]), [vector, vector])

    def test_base64_holds_the_same_numbers(self):
        for fields in ({}, {"pooling": "mean"}, {"dimensions": 7}, {"dimensions": 8}, {"dimensions": 9}):
            numbers, text = self.embed("Hello!", **fields), self.embed("Hello!", encoding_format="base64", **fields)
            self.assertEqual(decoded(text[0]), array.array("f", numbers[0]).tolist())

    def test_dimensions(self):
        whole, = self.embed("Once upon a time", normalize=False)
        for n in (1, 100, HIDDEN):
            vector, = self.embed("Once upon a time", normalize=False, dimensions=n)
            self.assertEqual(vector, whole[:n])
            vector, = self.embed("Once upon a time", dimensions=n)
            self.assertLess(error_of(vector, normalised(whole[:n])), 1e-6)

    @unittest.skipIf(SANITIZED, "fills the context")
    def test_truncation_keeps_the_end(self):
        ids = list(range(300, 340))
        limit = self.server.get("/v1/models")[1]["data"][0]["max_model_len"]
        for kept in (1, 7, 40, 41):
            self.assertEqual(self.embed(ids, truncate_prompt_tokens=kept), self.embed(ids[-kept:]))
        long = [300 + i % 90 for i in range(limit + 5)]
        self.assertEqual(self.embed(long, truncate_prompt_tokens=-1), self.embed(long[-limit:]))

    @unittest.skipUnless(EXACT, "the same bits are a promise of the CPU")
    def test_alone_equals_together(self):
        """In chunks of 64 rows and of 5, beside others that generate, in any order."""
        texts = ["Once upon a time " * n for n in ((1, 2, 9) if SANITIZED else (1, 2, 9, 30, 50))] + ["What is 17 + 25?"]
        for pooling in ("last", "mean"):
            alone = [self.embed(text, pooling=pooling)[0] for text in texts]
            self.assertEqual(self.embed(texts, pooling=pooling), alone)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                chats = [pool.submit(self.server.chat, "What is 17 + 25?", enable_thinking=False) for _ in range(4)]
                together = [pool.submit(self.embed, text, pooling=pooling) for text in texts[::-1]]
                self.assertEqual([vector.result()[0] for vector in together], alone[::-1])
                self.assertEqual({chat.result()[1]["choices"][0]["message"]["content"] for chat in chats}, {"42"})
        small = Server("--max-batch-tokens", "5", "--max-seqs", "2", "--pooling", "mean")
        try:
            status, answer = small.post("/v1/embeddings", {"input": texts})
            self.assertEqual((status, [entry["embedding"] for entry in answer["data"]]), (200, alone))
        finally:
            self.assertEqual(small.stop(), 0)

    def test_errors(self):
        for fields, param, part in (
                ({}, "input", "input is missing"),
                ({"input": None}, "input", "a string"),
                ({"input": []}, "input", "not empty"),
                ({"input": ""}, "input", "input 0 is empty"),
                ({"input": ["Hello!", ""]}, "input", "input 1 is empty"),
                ({"input": [[]]}, "input", "input 0 is empty"),
                ({"input": ["a", [1]]}, "input", "must be a string"),
                ({"input": [4096]}, "input", "from 0 to 4095"),
                ({"input": [-1]}, "input", "from 0 to 4095"),
                ({"input": ["a"] * 2049}, "input", "more than the 2048"),
                ({"input": [1] * 100000}, "input", "truncate_prompt_tokens"),
                ({"dimensions": 0}, "dimensions", "from 1"),
                ({"dimensions": HIDDEN + 1}, "dimensions", "1 to 256"),
                ({"dimensions": 2.5}, "dimensions", "an integer"),
                ({"encoding_format": "int8"}, "encoding_format", "float or base64"),
                ({"pooling": "cls"}, "pooling", "last or mean"),
                ({"normalize": 1}, "normalize", "true or false"),
                ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1"),
                ({"truncate_prompt_tokens": 1000000}, "truncate_prompt_tokens", "1 to"),
                ({"messages": [{"role": "user", "content": "a"}]}, "messages", "not supported"),
                ({"embed_dtype": "float16"}, "embed_dtype", "float32"),
                ({"user": 7, "temperature": 9, "embed_dtype": "float32"}, None, None)):
            body = {"input": "Hello!", **fields} if fields else {}
            with self.subTest(fields=str(fields)[:60]):
                status, answer = self.server.post("/v1/embeddings", body)
                if param is None:
                    self.assertEqual(status, 200)
                    continue
                self.assertEqual((status, answer["error"]["param"]), (400, param), answer)
                self.assertIn(part, answer["error"]["message"])
        status, answer = self.server.post("/v1/embeddings", {"input": "Hello!", "model": "gpt-9"})
        self.assertEqual((status, answer["error"]["code"]), (404, "model_not_found"))
        self.assertEqual(self.server.live(), (0, 0, 0))


@TEXT_ALONE
class WithoutHead(unittest.TestCase):
    """A folder as Qwen3-Embedding is published: names without "model.", no lm_head, a token behind every text."""

    @classmethod
    def setUpClass(cls):
        demo = os.path.join(ROOT, "models", "demo")
        cls.folder = tempfile.TemporaryDirectory()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            with open(os.path.join(demo, name), encoding="utf-8") as file:
                content = json.load(file)
            if name == "config.json":
                content["architectures"] = ["Qwen3Model"]
            if name == "tokenizer.json":
                end = {"id": "<|endoftext|>", "ids": [
                    token["id"] for token in content["added_tokens"] if token["content"] == "<|endoftext|>"]}
                cls.end, = end["ids"]
                content["post_processor"] = {"type": "Sequence", "processors": [
                    {"type": "ByteLevel"},
                    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": end["id"]}}],
                     "special_tokens": {end["id"]: end}}]}
            with open(os.path.join(cls.folder.name, name), "w", encoding="utf-8") as file:
                json.dump(content, file)
        with open(os.path.join(demo, "model.safetensors"), "rb") as file:
            length, = struct.unpack("<Q", file.read(8))
            header, data = json.loads(file.read(length)), file.read()
        header = json.dumps({name.removeprefix("model."): tensor for name, tensor in header.items()}).encode()
        with open(os.path.join(cls.folder.name, "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + data)
        cls.servers = [Server(), Server("--model", cls.folder.name, "--served-model-name", "demo")]

    @classmethod
    def tearDownClass(cls):
        assert [server.stop() for server in cls.servers] == [0, 0]
        cls.folder.cleanup()

    def test_the_same_states(self):
        ids = self.servers[0].post("/tokenize", {"prompt": "Hello!"})[1]["tokens"]
        for pooling in ("last", "mean"):
            for text, tokens in (({"input": "Hello!"}, [*ids, self.end]), ({"input": ids}, ids),
                                 ({"input": "Hello!", "add_special_tokens": False}, ids),
                                 ({"input": "Hello!", "truncate_prompt_tokens": 2}, [ids[-1], self.end])):
                expected = self.servers[0].post("/v1/embeddings", {"input": tokens, "pooling": pooling})
                answer = self.servers[1].post("/v1/embeddings", {**text, "pooling": pooling})
                self.assertEqual(answer[1]["data"], expected[1]["data"], (text, pooling))


class Queue(ServerTest):
    arguments = ("--max-seqs", "1", "--max-queue", "1", "--max-batch-tokens", "16")

    def test_more_inputs_than_the_queue_holds(self):
        texts = [str(i) for i in range(20 if SANITIZED else 200)]
        status, answer = self.server.post("/v1/embeddings", {"input": texts})
        self.assertEqual((status, [entry["index"] for entry in answer["data"]]), (200, list(range(len(texts)))))
        for i in (0, 7, len(texts) - 1) if EXACT else ():
            alone = self.server.post("/v1/embeddings", {"input": texts[i]})[1]["data"][0]["embedding"]
            self.assertEqual(answer["data"][i]["embedding"], alone)
        status, answer = self.server.post("/v1/embeddings", {"input": ["a", "b", "c", ""]})
        self.assertEqual((status, answer["error"]["param"]), (400, "input"))
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))

    def test_a_queue_that_others_fill(self):
        long = {"input": [[300 + i % 90 for i in range(4000)]] * 2, "pooling": "mean"}
        with contextlib.closing(self.server.socket()) as client:
            client.sendall(post_bytes("/v1/embeddings", long))
            self.server.wait_for_live(lambda running, waiting, usage: running == 1 and waiting == 1)
            status, answer = self.server.post("/v1/embeddings", {"input": ["a", "b"]})
            self.assertEqual((status, answer["error"]["code"]), (429, "rate_limit_exceeded"))
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))

    def test_a_client_that_leaves(self):
        long = {"input": [[300 + i % 90 for i in range(1000)]] * 2, "pooling": "mean"}
        with contextlib.closing(self.server.socket()) as client:
            client.sendall(post_bytes("/v1/embeddings", long))
            self.server.wait_for_live(lambda running, waiting, usage: running == 1 and waiting == 1)
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))
        self.assertIn("client_gone", self.server.read_log())
