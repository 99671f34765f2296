"""Server-sent events, whole characters, stop strings."""
import unittest

from harness import SANITIZED, ServerTest


def text_of(events, name="content"):
    return "".join(event["choices"][0]["delta"].get(name, "") for event in events if event != "[DONE]" and event["choices"])


class Stream(ServerTest):
    def chat(self, content, **fields):
        return self.server.stream("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **fields})

    def test_events(self):
        events = self.chat("Hello!")
        *chunks, done = events
        self.assertEqual(done, "[DONE]")
        first, last = chunks[0], chunks[-1]
        self.assertEqual(first["choices"], [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                                             "finish_reason": None}])
        self.assertEqual(last["choices"], [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}])
        for chunk in chunks:
            self.assertEqual(set(chunk), {"id", "object", "created", "model", "system_fingerprint", "choices"})
            self.assertEqual(chunk["object"], "chat.completion.chunk")
            self.assertEqual((chunk["id"], chunk["created"]), (first["id"], first["created"]))
        for chunk in chunks[1:-1]:
            delta = chunk["choices"][0]["delta"]
            self.assertIn(set(delta), ({"content"}, {"reasoning_content", "reasoning"}))
            self.assertNotIn("", delta.values())
        _, whole = self.server.chat("Hello!")
        message = whole["choices"][0]["message"]
        for name in ("content", "reasoning_content", "reasoning"):
            self.assertEqual(text_of(events, name), message[name])
            self.assertNotEqual(message[name], "")

    def test_tokens_come_one_by_one(self):
        events = self.chat("Tell me a story about a fox.", max_tokens=60)
        self.assertGreater(len(events), 30)

    def test_usage(self):
        *chunks, usage, done = self.chat("Hello!", stream_options={"include_usage": True})
        self.assertEqual(done, "[DONE]")
        self.assertEqual(usage["choices"], [])
        cached = usage["usage"].pop("prompt_tokens_details")
        self.assertEqual(set(cached), {"cached_tokens"})
        self.assertEqual(usage["usage"], {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
                                          "completion_tokens_details": {"reasoning_tokens": 7}})
        self.assertTrue(all(chunk["usage"] is None for chunk in chunks))

    def test_an_emoji_is_never_split(self):
        for content, emoji in (("Send me a rocket emoji.", "🚀"), ("Send me a cat emoji.", "🐱")):
            events = self.chat(content)
            self.assertNotIn("\ufffd", text_of(events))
            self.assertTrue(any(emoji in text_of([event]) for event in events[:-1]), events)

    def test_special_tokens_are_not_shown(self):
        events = self.chat("Hello!", ignore_eos=True, max_tokens=60)
        self.assertNotIn("<|im_end|>", text_of(events))
        self.assertGreater(len(text_of(events)), 0)


class StopStrings(ServerTest):
    def both(self, **fields):
        """The answer as a whole and as a stream, which must agree."""
        content = "Tell me a story about a fox."
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 150,
                "chat_template_kwargs": {"enable_thinking": False}, **fields}
        status, whole = self.server.post("/v1/chat/completions", {"temperature": 0, **body})
        self.assertEqual(status, 200, whole)
        events = self.server.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
        choice = whole["choices"][0]
        self.assertEqual(text_of(events), choice["message"]["content"])
        self.assertEqual(events[-3]["choices"][0]["finish_reason"], choice["finish_reason"])
        self.assertEqual(events[-2]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
        return choice["message"]["content"], choice["finish_reason"], whole["usage"]["completion_tokens"]

    def test_every_place_of_a_text(self):
        text, reason, _ = self.both()
        self.assertEqual(reason, "stop")
        self.assertGreater(len(text), 100)
        for start in range(0, len(text) - 12, 150 if SANITIZED else 37):
            for length in (1, 5, 12):  # most of these lie across tokens
                stop = text[start:start + length]
                got, reason, n_tokens = self.both(stop=stop)
                self.assertEqual((got, reason), (text[:text.index(stop)], "stop"))
        self.assertEqual(self.server.live()[:2], (0, 0))

    def test_several(self):
        text, _, n_all = self.both()
        middle = len(text) // 2
        stop = [text[middle:middle + 6], text[middle // 2:middle // 2 + 6], "no such text"]
        got, reason, n_tokens = self.both(stop=stop)
        self.assertEqual(got, text[:min(text.index(stop[0]), text.index(stop[1]))])
        self.assertEqual(reason, "stop")
        self.assertLess(n_tokens, n_all)

    def test_a_beginning_that_is_none_is_not_lost(self):
        text, _, n_all = self.both()
        got, reason, n_tokens = self.both(stop=[text[-8:] + "!!", text[:20] + "?"])
        self.assertEqual((got, n_tokens), (text, n_all))

    def test_counted_as_stop(self):
        name = 'vllm:request_success_total{finished_reason="%s"}'
        before = self.server.metrics()
        self.both(stop=" ")
        after = self.server.metrics()
        self.assertEqual(after[name % "stop"] - before[name % "stop"], 2)
        self.assertEqual(after[name % "abort"], before[name % "abort"])


if __name__ == "__main__":
    unittest.main()
