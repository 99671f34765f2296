"""What changes which tokens are drawn: bias, penalties, ends, limits; against plain Python on recorded logits."""
import json
import os
import unittest

from harness import GOLDEN, PATIENCE, SANITIZED, TEXT_ALONE, ServerTest

STORY = "Once upon a time"
HELLO = [{"role": "user", "content": "Hello!"}]


def golden():
    with open(os.path.join(GOLDEN, "golden.json"), encoding="utf-8") as file:
        return json.load(file)


def penalised(logit, bias, n_prompt, n_answer, repetition=1, frequency=0, presence=0):
    """The formulas of vLLM and OpenAI."""
    logit += bias
    if n_prompt + n_answer > 0:
        logit = logit / repetition if logit > 0 else logit * repetition
    return logit - frequency * n_answer - presence * (n_answer > 0)


@TEXT_ALONE
class Penalties(ServerTest):
    def first_token(self, case, **fields):
        _, answer = self.server.complete(case["prompt_ids"], max_tokens=1, return_token_ids=True, **fields)
        return answer["choices"][0]["token_ids"][0]

    def test_repetition_and_bias_on_recorded_logits(self):
        """The first token of each recorded prompt, of which the 20 largest logits are known."""
        n_changed = n_checked = 0
        for case in golden():
            ids, logits = case["first_logits"]["ids"], case["first_logits"]["logits"]
            for repetition in (1.5,) if SANITIZED else (0.5, 1.05, 1.5, 3):
                for bias in ({}, {ids[0]: -30}, {ids[3]: 25, ids[1]: 12.5}):
                    adjusted = sorted(((penalised(logit, bias.get(id, 0), case["prompt_ids"].count(id), 0, repetition), id)
                                       for id, logit in zip(ids, logits)), reverse=True)
                    # What is not recorded lies below the 20th, and a prompt may lift it by 1 / repetition.
                    if adjusted[0][0] < logits[-1] * max(1, 1 / repetition) + 0.5 or adjusted[0][0] - adjusted[1][0] < 0.5:
                        continue
                    with self.subTest(case["name"], repetition=repetition, bias=bias):
                        token = self.first_token(case, repetition_penalty=repetition,
                                                 logit_bias={str(id): value for id, value in bias.items()})
                        self.assertEqual(token, adjusted[0][1])
                        n_checked += 1
                        n_changed += token != ids[0]
        self.assertGreater(n_checked, 20 if SANITIZED else 100)
        self.assertGreater(n_changed, 4 if SANITIZED else 20)

    def check_steps(self, body, bias=None, **penalties):
        """Each token of a greedy answer is the likeliest after penalties; the 20 likeliest before them are known."""
        _, answer = self.server.complete(STORY, logprobs=20, max_tokens=200, ignore_eos=True, **body, **penalties_of(penalties))
        arrays = answer["choices"][0]["logprobs"]
        counts, n_checked = {}, 0
        for token, top in zip(arrays["tokens"], arrays["top_logprobs"]):
            adjusted = {text: penalised(value, (bias or {}).get(text, 0), 0, counts.get(text, 0), **penalties)
                        for text, value in top.items()}
            best = max(adjusted.values())
            if best > sorted(top.values())[-20] + 1e-3 or min(penalties.values(), default=0) >= 0:
                self.assertGreater(adjusted[token], best - 1e-3, (token, top, counts))
                n_checked += 1
            counts[token] = counts.get(token, 0) + 1
        self.assertGreater(n_checked, 30)
        return answer["choices"][0]["text"]

    def test_frequency_and_presence_step_by_step(self):
        plain = self.check_steps({})
        frequent = self.check_steps({}, frequency=2)
        present = self.check_steps({}, presence=2)
        both = self.check_steps({}, frequency=0.7, presence=1.2)
        self.assertEqual(len({plain, frequent, present, both}), 4)
        # A reward repeats what was said.
        again = self.server.complete(STORY, max_tokens=60, ignore_eos=True, frequency_penalty=-2)[1]["choices"][0]["text"]
        self.assertGreater(len(set(plain.split())), len(set(again.split())))

    def test_together_as_alone(self):
        """Same tokens alone and among others, on a cold and on a warm cache."""
        import concurrent.futures
        bodies = [{"seed": i, "temperature": 1, "max_tokens": 40, "ignore_eos": True,
                   **({"frequency_penalty": 0.08 * i, "repetition_penalty": 1 + 0.05 * i} if i % 3 else {}),
                   **({"min_tokens": 5} if i % 4 == 0 else {}), **({"logprobs": i % 5} if i % 2 else {})}
                  for i in range(8 if SANITIZED else 24)]
        prompt = STORY + " there was a small fox that lived in a forest near a river and it liked"

        def ask(body):
            return self.server.complete(prompt, **body)[1]["choices"][0]
        alone = [ask(body) for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            together = list(pool.map(ask, bodies))
        self.assertEqual([choice["text"] for choice in alone], [choice["text"] for choice in together])
        self.assertEqual(self.server.live(), (0, 0, 0))

    def test_a_bias_of_100_decides(self):
        for id in (300, 301, 4095):
            _, answer = self.server.complete(STORY, max_tokens=4, logit_bias={str(id): 100}, return_token_ids=True)
            self.assertEqual(answer["choices"][0]["token_ids"], [id] * 4)


def penalties_of(penalties):
    return {name + "_penalty": value for name, value in penalties.items()}


@TEXT_ALONE
class Ends(ServerTest):
    def hello(self, **fields):
        return self.server.post("/v1/chat/completions", {"messages": HELLO, "temperature": 0, **fields})[1]

    def ids_of_hello(self):
        return self.hello(return_token_ids=True)["choices"][0]["token_ids"]

    def test_min_tokens(self):
        plain = self.hello(max_tokens=60)["usage"]["completion_tokens"]
        longer = self.hello(max_tokens=60, min_tokens=plain + 5, return_token_ids=True)
        self.assertGreaterEqual(longer["usage"]["completion_tokens"], plain + 5)
        self.assertNotIn(self.ids_of_hello()[-1], longer["choices"][0]["token_ids"][:plain + 4])
        self.assertEqual(self.hello(min_tokens=3)["choices"][0]["message"]["content"],
                         self.hello()["choices"][0]["message"]["content"])
        # A stop string counts from the token after them on.
        text = self.server.complete(STORY, max_tokens=40, ignore_eos=True)[1]["choices"][0]["text"]
        word = text.split()[1]
        stopped = self.server.complete(STORY, max_tokens=40, ignore_eos=True, stop=word)[1]
        later = self.server.complete(STORY, max_tokens=40, ignore_eos=True, stop=word, min_tokens=20)[1]
        self.assertLess(stopped["usage"]["completion_tokens"], 20)
        self.assertGreater(later["usage"]["completion_tokens"], 20)

    def test_stop_token_ids(self):
        ids = self.ids_of_hello()
        text = self.hello()["choices"][0]["message"]["content"]
        for include in (False, True):
            answer = self.hello(stop_token_ids=[ids[14]], include_stop_str_in_output=include, return_token_ids=True)
            choice = answer["choices"][0]
            self.assertEqual(choice["finish_reason"], "stop")
            n = ids.index(ids[14]) + 1
            self.assertEqual(choice["token_ids"], ids[:n])
            self.assertEqual(answer["usage"]["completion_tokens"], n)
            self.assertTrue(text.startswith(choice["message"]["content"]))
        said = [self.hello(stop_token_ids=[ids[14]], include_stop_str_in_output=include)["choices"][0]["message"]["content"]
                for include in (False, True)]
        self.assertLess(len(said[0]), len(said[1]))
        self.assertTrue(said[1].startswith(said[0]))

    def test_stop_strings_can_be_kept(self):
        for stream in (False, True):
            body = {"messages": HELLO, "stop": "How can", "include_stop_str_in_output": True}
            if stream:
                events = self.server.stream("/v1/chat/completions", body)
                text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
            else:
                text = self.hello(**body)["choices"][0]["message"]["content"]
            self.assertTrue(text.endswith("Hello! How can"), text)

    def test_stop_reason(self):
        ids = self.ids_of_hello()
        said = self.hello(max_tokens=40)["choices"][0]["message"]["content"]
        word = said.split()[1]
        for fields, reason, finish in (({}, None, "stop"), ({"max_tokens": 2}, None, "length"), ({"stop": ["xyz", word]}, word, "stop"),
                                       ({"stop": word, "include_stop_str_in_output": True}, word, "stop"),
                                       ({"stop_token_ids": [ids[-3]]}, ids[-3], "stop"),
                                       ({"stop_token_ids": [ids[-3]], "include_stop_str_in_output": True}, ids[-3], "stop"),
                                       ({"stop_token_ids": [ids[-1]]}, None, "stop"),  # the model's own end
                                       ({"stop_token_ids": [ids[-1]], "ignore_eos": True}, ids[-1], "stop")):
            with self.subTest(fields):
                choice = self.hello(**fields)["choices"][0]
                self.assertEqual((choice["stop_reason"], choice["finish_reason"]), (reason, finish))
                events = self.server.stream("/v1/chat/completions", {"messages": HELLO, **fields})[:-1]
                self.assertEqual(events[-1]["choices"][0]["stop_reason"], reason)
                self.assertFalse(any("stop_reason" in event["choices"][0] for event in events[:-1]))
        for fields, reason in (({"stop": "a"}, "a"), ({"max_tokens": 3}, None), ({"max_tokens": 0, "echo": True}, None)):
            choice = self.server.complete(STORY, **fields)[1]["choices"][0]
            self.assertEqual(choice["stop_reason"], reason)
            self.assertEqual(self.server.stream("/v1/completions", {"prompt": STORY, **fields})[-2]["choices"][0]["stop_reason"], reason)

    def test_a_time_limit(self):
        body = {"max_tokens": 1500, "ignore_eos": True, "timeout_ms": 150 * PATIENCE}
        _, answer = self.server.complete(STORY, **body)
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        self.assertIn(answer["usage"]["completion_tokens"], range(1, 1500))
        self.assertEqual(self.server.live(), (0, 0, 0))

    def test_seed_and_priority(self):
        body = {"temperature": 1.5, "max_tokens": 20, "seed": 11}
        texts = {self.server.complete(STORY, priority=priority, **body)[1]["choices"][0]["text"] for priority in (-7, 0, 9)}
        self.assertEqual(len(texts), 1)


@TEXT_ALONE
class Choices(ServerTest):
    def test_n_shares_the_prompt(self):
        content = "Tell me a story about a fox. " * 12
        body = {"messages": [{"role": "user", "content": content}], "temperature": 1.5, "max_tokens": 24, "seed": 40,
                "chat_template_kwargs": {"enable_thinking": False}}
        before = self.server.metrics()
        _, answer = self.server.post("/v1/chat/completions", {**body, "n": 5})
        self.assertEqual([choice["index"] for choice in answer["choices"]], list(range(5)))
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        self.assertGreater(len(set(texts)), 2)
        # Four of the five found the prompt, but for its last block.
        n_prompt = answer["usage"]["prompt_tokens"]
        grown = self.server.metrics()["vllm:prefix_cache_hits"] - before["vllm:prefix_cache_hits"]
        self.assertGreaterEqual(grown, 4 * ((n_prompt - 1) // 16) * 16)
        # The prompt counts once. Each choice is what it would be alone: its seed is the next one.
        for index, text in enumerate(texts):
            _, alone = self.server.post("/v1/chat/completions", {**body, "seed": 40 + index})
            self.assertEqual(alone["choices"][0]["message"]["content"], text)
            self.assertEqual(alone["usage"]["prompt_tokens"], n_prompt)
        self.assertGreater(answer["usage"]["completion_tokens"], 24)

    def test_n_of_several_prompts_streamed(self):
        body = {"prompt": [STORY, "Hello"], "n": 3, "max_tokens": 8, "seed": 1, "temperature": 1, "echo": True}
        _, whole = self.server.complete(**body)
        self.assertEqual([choice["index"] for choice in whole["choices"]], list(range(6)))
        for choice in whole["choices"]:
            self.assertTrue(choice["text"].startswith(body["prompt"][choice["index"] // 3]))
        texts = [""] * 6
        for event in self.server.stream("/v1/completions", body)[:-1]:
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])
        one = self.server.complete(STORY, max_tokens=8, n=1)[1]["usage"]["prompt_tokens"]
        two = self.server.complete("Hello", max_tokens=8)[1]["usage"]["prompt_tokens"]
        self.assertEqual(whole["usage"]["prompt_tokens"], one + two)

    def test_without_a_seed_they_differ(self):
        _, answer = self.server.complete(STORY, n=4, temperature=2, max_tokens=12)
        self.assertEqual(len({choice["text"] for choice in answer["choices"]}), 4)


@TEXT_ALONE
class Masks(ServerTest):
    def test_allowed_token_ids(self):
        allowed = [300, 17, 999, 4001, 64]
        for fields in ({}, {"temperature": 2, "top_p": 1, "seed": 3}, {"temperature": 1, "top_k": 3},
                       {"frequency_penalty": 0.5}, {"logprobs": 2}):
            _, answer = self.server.complete(STORY, max_tokens=20, allowed_token_ids=allowed, return_token_ids=True, **fields)
            ids = answer["choices"][0]["token_ids"]
            self.assertEqual(len(ids), 20)
            self.assertLessEqual(set(ids), set(allowed))
        _, answer = self.server.complete(STORY, max_tokens=5, allowed_token_ids=[77], return_token_ids=True, logprobs=1)
        self.assertEqual(answer["choices"][0]["token_ids"], [77] * 5)
        # Scores are the model's own: what is not allowed is still the likeliest.
        arrays = answer["choices"][0]["logprobs"]
        self.assertNotIn(arrays["tokens"][0], list(arrays["top_logprobs"][0])[:1])

    def test_masks_beside_others(self):
        """Constrained requests leave the others as they are."""
        import concurrent.futures
        bodies = [{"seed": i, "temperature": 1, "max_tokens": 30, "ignore_eos": True,
                   **({"allowed_token_ids": list(range(100 + i, 4000, 9))} if i % 3 == 0 else {}),
                   **({"presence_penalty": 1.0} if i % 4 == 0 else {})} for i in range(6 if SANITIZED else 16)]

        def ask(body):
            return self.server.complete(STORY, **body)[1]["choices"][0]["text"]
        alone = [ask(body) for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertEqual(list(pool.map(ask, bodies)), alone)
        self.assertEqual(self.server.live(), (0, 0, 0))


@TEXT_ALONE
class Shapes(ServerTest):
    def test_token_ids(self):
        case = next(case for case in golden() if case["name"] == "hello")
        body = {"messages": case["messages"], "return_token_ids": True,
                "chat_template_kwargs": {"enable_thinking": case["enable_thinking"]}}
        _, answer = self.server.post("/v1/chat/completions", {**body, "temperature": 0})
        self.assertEqual(answer["prompt_token_ids"], case["prompt_ids"])
        self.assertEqual(answer["choices"][0]["token_ids"], [step["token"] for step in case["steps"]])
        events = self.server.stream("/v1/chat/completions", body)[:-1]
        self.assertEqual([event["prompt_token_ids"] for event in events if "prompt_token_ids" in event], [case["prompt_ids"]])
        ids = [id for event in events for id in event["choices"][0].get("token_ids", [])]
        self.assertEqual(ids, [step["token"] for step in case["steps"]])

        prompts = [case["prompt_ids"], case["prompt_ids"][:4]]
        _, plain = self.server.complete(prompts, max_tokens=3, return_token_ids=True)
        self.assertEqual([choice["prompt_token_ids"] for choice in plain["choices"]], prompts)
        self.assertNotIn("prompt_token_ids", plain)
        events = self.server.stream("/v1/completions", {"prompt": prompts, "max_tokens": 3, "return_token_ids": True})[:-1]
        for index, prompt in enumerate(prompts):
            choices = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
            self.assertEqual([choice["prompt_token_ids"] for choice in choices if "prompt_token_ids" in choice], [prompt])
            self.assertEqual([id for choice in choices for id in choice["token_ids"]], plain["choices"][index]["token_ids"])
        self.assertNotIn("token_ids", self.server.complete(STORY, max_tokens=1)[1]["choices"][0])

    def test_usage_in_every_chunk(self):
        events = self.server.stream("/v1/chat/completions", {
            "messages": HELLO, "max_tokens": 200, "ignore_eos": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}})[:-1]
        counts = [event["usage"]["completion_tokens"] for event in events]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual((len(set(counts)) > 3, counts[-1]), (True, 200))
        self.assertEqual({event["usage"]["prompt_tokens"] for event in events}, {10})
        for event in events:
            self.assertEqual(event["usage"]["total_tokens"], 10 + event["usage"]["completion_tokens"])

    def test_the_final_message_goes_on(self):
        """The open turn is the rendered prompt without its end."""
        messages = [*HELLO, {"role": "assistant", "content": "Hello! How can"}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 30, "return_token_ids": True}
        _, closed = self.server.post("/v1/chat/completions", {**body, "add_generation_prompt": False})
        _, opened = self.server.post("/v1/chat/completions", {**body, "add_generation_prompt": False,
                                                              "continue_final_message": True})
        self.assertEqual(opened["prompt_token_ids"], closed["prompt_token_ids"][:-2])  # <|im_end|> and the line break
        self.assertIn("I help you", opened["choices"][0]["message"]["content"])
        self.assertNotIn("Hello!", opened["choices"][0]["message"]["content"])
        _, usual = self.server.post("/v1/chat/completions", body)
        self.assertEqual(usual["prompt_token_ids"][:len(closed["prompt_token_ids"])], closed["prompt_token_ids"])
        self.assertGreater(len(usual["prompt_token_ids"]), len(closed["prompt_token_ids"]))

    def test_a_developer_is_the_system(self):
        ids = [self.server.post("/v1/chat/completions", {
            "messages": [{"role": role, "content": "Be brief."}, *HELLO], "max_tokens": 1,
            "return_token_ids": True})[1]["prompt_token_ids"] for role in ("system", "developer")]
        self.assertEqual(*ids)


if __name__ == "__main__":
    unittest.main()
