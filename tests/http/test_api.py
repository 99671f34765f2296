"""The shapes of answers: chat, completions in all forms of a prompt, models, health, metrics."""
import json
import os
import re
import time
import unittest

from harness import GOLDEN, ServerTest, events_of, post_bytes

STORY = "Once upon a time"


class Chat(ServerTest):
    def test_shape(self):
        before = int(time.time())
        status, answer = self.server.chat("Hello!", model="demo")
        self.assertEqual(status, 200)
        self.assertRegex(answer.pop("id"), r"^chatcmpl-[0-9a-f]{24}$")
        self.assertIn(answer.pop("created") - before, range(0, 60))
        self.assertEqual(answer, {
            "object": "chat.completion",
            "model": "demo",
            "system_fingerprint": answer["system_fingerprint"],
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello! How can I help you today?",
                    "refusal": None,
                    "reasoning_content": "This is a simple message.",
                    "reasoning": "This is a simple message.",
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": answer["usage"]["prompt_tokens_details"]["cached_tokens"]},
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
        })

    def test_ids_differ(self):
        self.assertEqual(len({self.server.chat("Hello!")[1]["id"] for _ in range(20)}), 20)

    def test_thinking_can_be_switched_off(self):
        _, answer = self.server.chat("What is 17 plus 25?", chat_template_kwargs={"enable_thinking": False})
        self.assertEqual(answer["choices"][0]["message"]["content"], "42")

    def test_content_in_parts(self):
        parts = [{"type": "text", "text": "What is 17"}, {"type": "text", "text": "plus 25?"}]
        status, answer = self.server.chat(parts, chat_template_kwargs={"enable_thinking": False})
        self.assertEqual(status, 200, answer)

    def test_length(self):
        for field in ("max_tokens", "max_completion_tokens"):
            _, answer = self.server.chat("Hello!", **{field: 3})
            self.assertEqual(answer["choices"][0]["finish_reason"], "length")
            self.assertEqual(answer["usage"]["completion_tokens"], 3)
        _, answer = self.server.chat("Hello!", max_tokens=5, max_completion_tokens=2)
        self.assertEqual(answer["usage"]["completion_tokens"], 2)

    def test_ignore_eos(self):
        _, answer = self.server.chat("Hello!", max_tokens=60, ignore_eos=True)
        self.assertEqual(answer["usage"]["completion_tokens"], 60)
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")

    def test_seed_decides(self):
        def text(seed):
            return self.server.complete(STORY, temperature=2, top_k=0, top_p=1, max_tokens=20, seed=seed)[1]["choices"][0]["text"]
        self.assertEqual(text(7), text(7))
        self.assertEqual(text(-1), text(2**64 - 1))
        self.assertGreater(len({text(seed) for seed in range(4)}), 1)

    def test_cached_tokens(self):
        content = "Remember this: " + " ".join(f"word{i}" for i in range(40))
        first = self.server.chat(content, max_tokens=1)[1]["usage"]
        second = self.server.chat(content, max_tokens=1)[1]["usage"]
        self.assertEqual(first["prompt_tokens"], second["prompt_tokens"])
        cached = second["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, first["prompt_tokens_details"]["cached_tokens"])
        self.assertEqual(cached % 16, 0)

    def test_harmless_fields_are_accepted(self):
        status, answer = self.server.chat(
            "Hello!", user="someone", n=1, presence_penalty=0, frequency_penalty=0.0, logprobs=False, logit_bias={},
            response_format={"type": "text"}, tool_choice="auto", parallel_tool_calls=True, store=False, metadata={},
            something_unknown=[1, {"a": None}], stop=None, max_tokens=None, top_k=-1, stream_options=None)
        self.assertEqual(status, 200, answer)


class Completions(ServerTest):
    def test_all_forms_of_a_prompt(self):
        _, one = self.server.complete(STORY, max_tokens=8)
        text = one["choices"][0]["text"]
        n_prompt = one["usage"]["prompt_tokens"]
        self.assertRegex(one["id"], r"^cmpl-[0-9a-f]{24}$")
        self.assertEqual(one["object"], "text_completion")
        self.assertEqual(one["choices"], [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length", "stop_reason": None}])

        _, two = self.server.complete([STORY, STORY], max_tokens=8)
        self.assertEqual([(c["index"], c["text"]) for c in two["choices"]], [(0, text), (1, text)])
        self.assertEqual(two["usage"]["prompt_tokens"], 2 * n_prompt)
        self.assertEqual(two["usage"]["completion_tokens"], 16)
        self.assertEqual(two["usage"]["total_tokens"], 2 * n_prompt + 16)

        with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
            golden = {case["name"]: case for case in json.load(file)}["plain-story"]
        ids, text = golden["prompt_ids"], golden["text"]
        _, same = self.server.complete(ids, max_tokens=4)
        self.assertTrue(text.startswith(same["choices"][0]["text"]))
        _, pair = self.server.complete([ids, golden["prompt_ids"][:1]], max_tokens=4)
        self.assertEqual(pair["choices"][0]["text"], same["choices"][0]["text"])
        self.assertEqual(pair["usage"]["prompt_tokens"], len(ids) + 1)

    def test_echo(self):
        _, plain = self.server.complete([STORY, "The capital"], max_tokens=4)
        _, echo = self.server.complete([STORY, "The capital"], max_tokens=4, echo=True)
        for prompt, a, b in zip([STORY, "The capital"], plain["choices"], echo["choices"]):
            self.assertEqual(b["text"], prompt + a["text"])
        events = self.server.stream("/v1/completions", {"prompt": STORY, "max_tokens": 4, "echo": True})
        text = "".join(event["choices"][0]["text"] for event in events[:-1])
        self.assertEqual(text, echo["choices"][0]["text"])

    def test_streamed_choices_carry_their_index(self):
        prompts = [STORY, "The capital of France", "Hello"]
        _, whole = self.server.complete(prompts, max_tokens=12)
        events = self.server.stream("/v1/completions", {"prompt": prompts, "max_tokens": 12})
        texts, reasons = [""] * 3, [None] * 3
        for event in events[:-1]:
            choice = event["choices"][0]
            texts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"]
        self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])
        self.assertEqual(reasons, [choice["finish_reason"] for choice in whole["choices"]])
        self.assertEqual(events[-1], "[DONE]")


class Others(ServerTest):
    arguments = ("--served-model-name", "group/demo model", "--max-model-len", "2048")

    def test_models(self):
        status, models = self.server.get("/v1/models")
        self.assertEqual(status, 200)
        self.assertEqual(models["object"], "list")
        model, = models["data"]
        self.assertEqual((model["id"], model["object"], model["owned_by"]), ("group/demo model", "model", "quern"))
        self.assertEqual(model["max_model_len"], 2048)
        for path in ("/v1/models/group%2Fdemo%20model", "/v1/models/group/demo%20model"):
            self.assertEqual(self.server.get(path), (200, model))
        status, answer = self.server.get("/v1/models/group%2Fdemo")
        self.assertEqual((status, answer["error"]["code"]), (404, "model_not_found"))

    def test_query_strings_change_nothing(self):
        self.assertEqual(self.server.get("/v1/models?limit=3")[0], 200)
        self.assertEqual(self.server.get("/health?verbose")[0], 200)

    def test_health(self):
        self.server.chat("Hello!", max_tokens=2)
        status, health = self.server.get("/health")
        self.assertEqual((status, health["status"]), (200, "ok"))
        self.assertEqual((health["running"], health["waiting"]), (0, 0))
        self.assertGreater(health["steps"], 0)
        self.assertGreaterEqual(health["last_step_ms_ago"], 0)
        time.sleep(0.05)
        self.assertGreater(self.server.get("/health")[1]["last_step_ms_ago"], health["last_step_ms_ago"] + 40)

    def test_metrics(self):
        before = self.server.metrics()
        self.server.chat("Hello!", max_tokens=4)
        self.server.chat("Hello!", max_tokens=50)
        after = self.server.metrics()
        grown = {name: after[name] - before[name] for name in after}
        self.assertEqual(grown['vllm:request_success_total{finished_reason="length"}'], 1)
        self.assertEqual(grown['vllm:request_success_total{finished_reason="stop"}'], 1)
        self.assertEqual(grown["vllm:generation_tokens_total"], 24)
        self.assertEqual(grown["vllm:prompt_tokens_total"], 20)
        self.assertEqual(grown["vllm:prefix_cache_queries"] >= 0, True)
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                     "vllm:prefix_cache_hits", "vllm:num_preemptions_total"):
            self.assertIn(name, after)
        for name, count in (("vllm:time_to_first_token_seconds", 2), ("vllm:inter_token_latency_seconds", 22),
                            ("vllm:e2e_request_latency_seconds", 2)):
            self.assertEqual(grown[name + "_count"], count)
            self.assertEqual(grown[name + '_bucket{le="+Inf"}'], count)
            self.assertGreater(grown[name + "_sum"], 0)
            buckets = [value for key, value in after.items() if key.startswith(name + "_bucket")]
            self.assertEqual(buckets, sorted(buckets))

    def test_metrics_are_prometheus_text(self):
        _, headers, text = self.server.call("GET", "/metrics")
        self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        declared = set()
        for line in text.decode().splitlines():
            if line.startswith("# TYPE"):
                declared.add(line.split()[2])
            elif not line.startswith("#"):
                found = re.fullmatch(r'([a-z_:0-9]+)\{model_name="group/demo model"(,[a-z_]+="[^"]+")*\} [0-9.e+-]+', line)
                self.assertIsNotNone(found, line)
                name = re.sub("_(bucket|sum|count)$", "", found.group(1))
                self.assertTrue(name in declared or found.group(1) in declared, line)

    def test_one_log_line_for_each_request(self):
        _, answer = self.server.chat("Hello!")
        found = self.server.wait_for_line(f"(request id={answer['id']} .*)")
        for part in ("endpoint=/v1/chat/completions", "prompt_tokens=10", "generated_tokens=20", "queue_ms=", "ttft_ms=",
                     "tokens_per_s=", "finish=stop"):
            self.assertIn(part, found)


class Protocol(ServerTest):
    def test_head(self):
        for path in ("/health", "/v1/models", "/metrics"):
            status, headers, body = self.server.call("HEAD", path)
            self.assertEqual((status, body), (200, b""))
            self.assertGreater(int(headers["Content-Length"]), 0)

    def test_one_connection_serves_many(self):
        connection = self.server.connect()
        for i in range(30):
            body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2, "stream": i % 2 == 1}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            socket_before = connection.sock
            answer = connection.getresponse()
            self.assertEqual(answer.status, 200)
            data = answer.read().decode()
            self.assertEqual(events_of(data)[-1] if i % 2 else "[DONE]", "[DONE]")
            self.assertIs(connection.sock, socket_before)
        connection.close()

    def test_pipelined_requests(self):
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3, "temperature": 0}
        with self.server.socket() as connection:
            connection.sendall(post_bytes("/v1/chat/completions", body) * 3 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            file = connection.makefile("rb")
            for i in range(4):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += file.readline()
                self.assertTrue(head.startswith(b"HTTP/1.1 200"), head)
                length = int(re.search(rb"Content-Length: (\d+)", head).group(1))
                answer = json.loads(file.read(length))
                self.assertEqual(answer.get("object"), "chat.completion" if i < 3 else None)

    def test_chunked_body(self):
        body = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()
        connection = self.server.connect()
        connection.request("POST", "/v1/completions", (body[i:i + 5] for i in range(0, len(body), 5)),
                           {"Content-Type": "application/json"}, encode_chunked=True)
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()

    def test_expect_continue(self):
        body = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()
        with self.server.socket() as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(body))
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 100"))
            connection.sendall(body)
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 200"))

    def test_http_1_0(self):
        with self.server.socket() as connection:
            body = json.dumps({"prompt": "Hello", "max_tokens": 2, "stream": True}).encode()
            connection.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            self.assertIn(b"Content-Type: text/event-stream", answer)
            self.assertEqual(events_of(answer.split(b"\r\n\r\n", 1)[1].decode())[-1], "[DONE]")

    def test_content_type_with_parameters_or_none(self):
        body = {"prompt": "Hello", "max_tokens": 1}
        for headers in ({"Content-Type": "application/json; charset=utf-8"}, {"content-type": "Application/JSON"}, {}):
            status, _, answer = self.server.call("POST", "/v1/completions", body, headers)
            self.assertEqual(status, 200, answer)


if __name__ == "__main__":
    unittest.main()
