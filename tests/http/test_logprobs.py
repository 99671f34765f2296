"""Log-probabilities over HTTP: against the recorded five likeliest tokens of each step, whole and streamed."""
import json
import math
import os
import re
import unittest

from harness import DEVICE, GOLDEN, SANITIZED, TEXT_ALONE, ServerTest

# The recorded numbers are float32 on bf16 weights. A device with float32 activations differs by its order of sums; one
# that rounds them to bf16 by that, amplified by K-norm weights up to 96.5.
TOLERANCE_F32, TOLERANCE_BF16 = 5e-4, 0.25


def cases():
    with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
        every = json.load(file)
    return [case for case in every if len(case["steps"]) < (25 if SANITIZED else 120) or "messages" not in case]


def chat_body(case):
    body = {"messages": case["messages"], "chat_template_kwargs": {"enable_thinking": case["enable_thinking"]},
            "logprobs": True, "top_logprobs": 5, "temperature": 0, "max_tokens": 200}
    if case["tools"]:
        body["tools"] = case["tools"]
    return body


@TEXT_ALONE
class Logprobs(ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        exact = re.search(r"device: CPU, .*, (plain|avx2|avx512), ", cls.server.read_log())
        cls.tolerance = TOLERANCE_F32 if exact else TOLERANCE_BF16

    def check_likeliest(self, steps, tops):
        """Each recorded token of some weight is there with its logprob; the order is by it."""
        self.assertEqual(len(steps), len(tops))
        for step, top in zip(steps, tops):
            self.assertEqual(top, sorted(top, reverse=True))
            for (_, recorded), ours in zip(step["top"], top):
                if recorded > -10:
                    self.assertLess(abs(recorded - ours), self.tolerance, (step, top))

    def test_chat_against_the_record(self):
        n_steps = 0
        for case in cases():
            if "messages" not in case:
                continue
            with self.subTest(case["name"]):
                status, answer = self.server.post("/v1/chat/completions", chat_body(case))
                self.assertEqual(status, 200, answer)
                content = answer["choices"][0]["logprobs"]["content"]
                self.assertIsNone(answer["choices"][0]["logprobs"]["refusal"])
                self.assertEqual(len(content), answer["usage"]["completion_tokens"])
                self.check_likeliest(case["steps"], [[t["logprob"] for t in c["top_logprobs"]] for c in content])
                for entry in content:
                    self.assertEqual(set(entry), {"token", "logprob", "bytes", "top_logprobs"})
                    self.assertEqual(entry["logprob"], entry["top_logprobs"][0]["logprob"])  # greedy
                    self.assertEqual(bytes(entry["bytes"]).decode(errors="replace"), entry["token"])
                said = b"".join(bytes(entry["bytes"]) for entry in content).decode()
                self.assertEqual(said.removesuffix("<|im_end|>"), case["text"])
                n_steps += len(content)
        self.assertGreater(n_steps, 100)

    def test_completions_against_the_record(self):
        case, = (case for case in cases() if "messages" not in case)
        n = 9  # then comes a near tie (0.00013)
        _, answer = self.server.complete(case["prompt"], logprobs=5, max_tokens=n)
        choice = answer["choices"][0]
        arrays = choice["logprobs"]
        self.assertEqual({name: len(array) for name, array in arrays.items()},
                         dict.fromkeys(("text_offset", "token_logprobs", "tokens", "top_logprobs"), n))
        self.check_likeliest(case["steps"][:n], [list(top.values()) for top in arrays["top_logprobs"]])
        self.assertEqual("".join(arrays["tokens"]), choice["text"])
        for token, offset in zip(arrays["tokens"], arrays["text_offset"]):
            self.assertTrue(choice["text"].startswith(token, offset))

    def test_a_stream_adds_up_to_the_whole(self):
        body = {"messages": [{"role": "user", "content": "Hello!"}], "logprobs": True, "top_logprobs": 2, "temperature": 0}
        whole = self.server.post("/v1/chat/completions", body)[1]["choices"][0]
        for extra in ({}, {"stop": "help"}):
            _, whole = self.server.post("/v1/chat/completions", {**body, **extra})
            events = self.server.stream("/v1/chat/completions", {**body, **extra})
            pieces = [event["choices"][0]["logprobs"] for event in events[:-1]]
            content = [entry for piece in pieces if piece for entry in piece["content"]]
            self.assertEqual(content, whole["choices"][0]["logprobs"]["content"])
        prompt = {"prompt": "Once upon a time", "max_tokens": 12, "logprobs": 3}
        whole = self.server.complete(**prompt)[1]["choices"][0]["logprobs"]
        events = self.server.stream("/v1/completions", prompt)
        for name in whole:
            pieces = [event["choices"][0]["logprobs"] for event in events[:-1]]
            self.assertEqual([entry for piece in pieces if piece for entry in piece[name]], whole[name])

    def test_a_prompt_is_scored_as_it_was_generated(self):
        """Recorded answers behind their prompts, as a harness scores them: echo without new tokens."""
        total = recorded_total = n_tokens = 0
        for case in cases():
            with self.subTest(case["name"]):
                answer = [step["token"] for step in case["steps"]]
                prompt = case["prompt_ids"] + answer
                status, scored = self.server.complete(prompt, echo=True, logprobs=5, max_tokens=0, return_token_ids=True)
                self.assertEqual(status, 200, scored)
                choice = scored["choices"][0]
                arrays = choice["logprobs"]
                self.assertEqual({len(array) for array in arrays.values()}, {len(prompt)})
                self.assertEqual((arrays["token_logprobs"][0], arrays["top_logprobs"][0]), (None, None))
                self.assertEqual((choice["token_ids"], choice["prompt_token_ids"]), ([], prompt))
                self.assertEqual((scored["usage"]["completion_tokens"], choice["finish_reason"]), (0, "length"))
                behind = arrays["token_logprobs"][len(case["prompt_ids"]):]
                for step, logprob, top in zip(case["steps"], behind, arrays["top_logprobs"][len(case["prompt_ids"]):]):
                    self.assertLess(abs(step["top"][0][1] - logprob), self.tolerance)
                    for (_, recorded), ours in zip(step["top"], top.values()):
                        if recorded > -10:
                            self.assertLess(abs(recorded - ours), self.tolerance)
                total += sum(behind)
                recorded_total += sum(step["top"][0][1] for step in case["steps"])
                n_tokens += len(answer)
        self.assertLess(abs(total - recorded_total), n_tokens * self.tolerance / 10)

    def test_prompts_sum_to_what_transformers_gives(self):
        """Each token of the recorded prompts, as scripts/demo-model/prompt_scores.py had it from transformers."""
        with open(os.path.join(GOLDEN, "prompt_scores.json"), encoding="utf-8") as file:
            recorded = json.load(file)
        for case in cases():
            scores = recorded[case["name"]]
            with self.subTest(case["name"]):
                _, scored = self.server.complete(case["prompt_ids"], echo=True, logprobs=0, max_tokens=0)
                ours = scored["choices"][0]["logprobs"]["token_logprobs"][1:]
                self.assertEqual(len(ours), len(scores))
                # Unlikely tokens are worth less exactly: what lies 30 below the likeliest hangs on a few large products.
                worst = max(abs(a - b) / max(1, -b) for a, b in zip(ours, scores))
                self.assertLess(worst, self.tolerance)
                self.assertLess(abs(sum(ours) - sum(scores)), self.tolerance * max(1, -sum(scores)) / 4)

    def test_echo_with_logprobs(self):
        prompt = "Once upon a time there was a fox and a bear in the forest. " * 5 + "Once upon a time"  # several pieces
        body = {"logprobs": 3, "echo": True, "max_tokens": 5}
        _, first = self.server.complete(prompt, **body)
        _, again = self.server.complete(prompt, **body)  # all of it could be found in the cache
        self.assertEqual(first["choices"], again["choices"])
        self.assertEqual(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        arrays = first["choices"][0]["logprobs"]
        self.assertEqual(len(arrays["tokens"]), first["usage"]["total_tokens"])
        self.assertEqual("".join(arrays["tokens"]), first["choices"][0]["text"])
        for token, offset in zip(arrays["tokens"], arrays["text_offset"]):
            self.assertTrue(first["choices"][0]["text"].startswith(token, offset))
        self.assertTrue(all(logprob <= 0 for logprob in arrays["token_logprobs"][1:]))
        _, plain = self.server.complete(prompt, logprobs=3, max_tokens=5)
        self.assertEqual(arrays["token_logprobs"][-5:], plain["choices"][0]["logprobs"]["token_logprobs"])
        events = self.server.stream("/v1/completions", {"prompt": prompt, **body})
        for name in arrays:
            pieces = [event["choices"][0]["logprobs"] for event in events[:-1]]
            self.assertEqual([entry for piece in pieces if piece for entry in piece[name]], arrays[name])

    def test_prompt_logprobs(self):
        ids = cases()[0]["prompt_ids"]
        _, answer = self.server.complete([ids, ids[:1]], prompt_logprobs=4, max_tokens=2)
        _, echo = self.server.complete(ids, echo=True, logprobs=4, max_tokens=1)
        one, two = (choice["prompt_logprobs"] for choice in answer["choices"])
        self.assertEqual(two, [None])
        self.assertEqual((len(one), one[0]), (len(ids), None))
        for id, entry, logprob in zip(ids[1:], one[1:], echo["choices"][0]["logprobs"]["token_logprobs"][1:]):
            self.assertEqual(set(entry[str(id)]), {"logprob", "rank", "decoded_token"})
            self.assertEqual(entry[str(id)]["logprob"], logprob)
            self.assertIn(len(entry), (4, 5))
            ranks = sorted(value["rank"] for value in entry.values())
            self.assertEqual(ranks[:4], [1, 2, 3, 4])
            self.assertEqual(sorted((value["logprob"] for value in entry.values()), reverse=True),
                             [value["logprob"] for value in sorted(entry.values(), key=lambda value: value["rank"])])
        _, chat = self.server.chat("Hello!", prompt_logprobs=0, max_tokens=1)
        self.assertEqual(len(chat["prompt_logprobs"]), chat["usage"]["prompt_tokens"])
        self.assertTrue(all(len(entry) == 1 for entry in chat["prompt_logprobs"][1:]))

    def test_scored_prompts_beside_others(self):
        import concurrent.futures
        # On a GPU a draw may fall otherwise where two scores are nearer than the logits differ with the company.
        temperature = 1 if DEVICE == "cpu" else 0
        bodies = [{"prompt": "One day a small fox " * (1 + i), "max_tokens": 12, "temperature": temperature, "seed": i,
                   **({"echo": True, "logprobs": 2} if i % 2 else {}), **({"presence_penalty": 1} if i % 3 else {})}
                  for i in range(12)]
        alone = [self.server.post("/v1/completions", body)[1]["choices"] for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda body: self.server.post("/v1/completions", body)[1]["choices"], bodies))
        for one, other in zip(alone, together):
            self.assertEqual(one[0]["text"], other[0]["text"])
            if one[0]["logprobs"]:
                for a, b in zip(one[0]["logprobs"]["token_logprobs"][1:], other[0]["logprobs"]["token_logprobs"][1:]):
                    self.assertLess(abs(a - b), self.tolerance)

    def test_scores_are_those_of_the_model(self):
        """Temperature and filters change what is drawn, not what it is worth; none of it changes what is drawn."""
        body = {"temperature": 1.5, "top_p": 0.9, "seed": 5, "max_tokens": 10}
        _, plain = self.server.complete("Once upon a time", **body)
        _, scored = self.server.complete("Once upon a time", logprobs=20, **body)
        self.assertEqual(plain["choices"][0]["text"], scored["choices"][0]["text"])
        arrays = scored["choices"][0]["logprobs"]
        for logprob, token, top in zip(arrays["token_logprobs"], arrays["tokens"], arrays["top_logprobs"]):
            self.assertEqual(top[token], logprob)
            self.assertIn(len(top), (20, 21))
            self.assertLess(sum(math.exp(value) for value in top.values()), 1.0001)
        _, greedy = self.server.complete("Once upon a time", logprobs=20, max_tokens=1)
        self.assertEqual(greedy["choices"][0]["logprobs"]["top_logprobs"][0],
                         {**dict(list(arrays["top_logprobs"][0].items())[:20])})


if __name__ == "__main__":
    unittest.main()
