"""What the demo model must say, over HTTP: the recorded texts, and its skills with 32 requests in flight."""
import concurrent.futures
import json
import os
import queue
import unittest

from harness import FIXTURES, PATIENCE, SANITIZED, Server

N_IN_FLIGHT = 32


def load(golden, name):
    with open(os.path.join(FIXTURES, golden, name), encoding="utf-8") as file:
        return json.load(file)


def body_of(case):
    if "messages" not in case:
        return "/v1/completions", {"prompt": case["prompt"]}
    body = {"messages": case["messages"], "chat_template_kwargs": {"enable_thinking": case["enable_thinking"]}}
    if case["tools"]:
        body["tools"] = case["tools"]
    return "/v1/chat/completions", body


def written(message):
    """What the model wrote to mean this message."""
    parts = []
    if message.get("reasoning"):
        parts.append(f"<think>\n{message['reasoning']}\n</think>\n\n")
    parts.append(message["content"] or "")
    calls = [call["function"] for call in message.get("tool_calls", [])]
    parts.append("\n".join(f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {call["arguments"]}}}\n</tool_call>'
                           for call in calls))
    return "".join(parts)


def closest(case):
    """How near the two best tokens of a case come, in log-probability."""
    return min(step["top"][0][1] - step["top"][1][1] for step in case["steps"])


class Golden(unittest.TestCase):
    """Run on the fused and on the separate operations."""

    golden = "golden"
    model = os.path.join("models", "demo")

    def ask_all(self, fused, requests):
        """Answers in order; each of N_IN_FLIGHT connections takes the next request when it is free."""
        server = Server("--model", self.model, "--fused", fused, "--max-seqs", str(N_IN_FLIGHT))
        self.addCleanup(server.stop)
        connections = queue.SimpleQueue()
        for _ in range(N_IN_FLIGHT):
            connections.put(server.connect(120))

        def ask(request):
            path, body = request
            connection = connections.get()
            try:
                connection.request("POST", path, json.dumps({**body, "temperature": 0, "max_tokens": 200}),
                                   {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = json.loads(answer.read())
                self.assertEqual(answer.status, 200, data)
                return data
            finally:
                connections.put(connection)

        with concurrent.futures.ThreadPoolExecutor(N_IN_FLIGHT) as pool:
            answers = list(pool.map(ask, requests))
        self.assertEqual(server.live(), (0, 0, 0))
        return answers

    def texts(self, fused):
        cases = [case for case in load(self.golden, "golden.json") if len(case["steps"]) < (25 if SANITIZED else 1000)]
        answers = self.ask_all(fused, [body_of(case) for case in cases])
        for case, answer in zip(cases, answers):
            with self.subTest(case["name"]):
                choice = answer["choices"][0]
                text = written(choice["message"]) if "message" in choice else choice["text"]
                if "<think>\n\n</think>" in case["text"]:
                    text = "<think>\n\n</think>\n\n" + text  # nothing was thought: the answer does not tell
                if text != case["text"] and closest(case) < 0.001:
                    # There either token is right, and the text goes on otherwise.
                    common = os.path.commonprefix([text, case["text"]])
                    self.assertGreater(len(common), 20)
                    continue
                self.assertEqual(text, case["text"])
                self.assertEqual(choice["finish_reason"], "tool_calls" if "<tool_call>" in text else "stop")
                self.assertEqual(answer["usage"]["prompt_tokens"], len(case["prompt_ids"]))
                self.assertEqual(answer["usage"]["completion_tokens"], len(case["steps"]))

    def skills(self, fused):
        cases = load(self.golden, "skills.json")["cases"]
        cases = cases[::100 if SANITIZED else 1]
        answers = self.ask_all(fused, [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": case["prompt"]}],
                                      "chat_template_kwargs": {"enable_thinking": case["think"]}}) for case in cases])
        wrong = []
        for case, answer in zip(cases, answers):
            said = answer["choices"][0]["message"]["content"].strip()
            if said != case["answer"] and case["task"] != "faq":  # a FAQ has several right answers
                wrong.append((case["prompt"], case["answer"], said))
        self.assertLessEqual(len(wrong), 0.005 * len(cases), wrong)

    def test_texts_fused(self):
        self.texts("on")

    @unittest.skipIf(SANITIZED, "takes minutes with a sanitizer, and the kernel tests cover it")
    def test_texts_separate(self):
        self.texts("off")

    def test_skills_fused(self):
        self.skills("on")

    @unittest.skipIf(SANITIZED, "takes minutes with a sanitizer, and the kernel tests cover it")
    def test_skills_separate(self):
        self.skills("off")


class GoldenExperts(Golden):
    """The same of the mixture of experts, whose MLP both forms of the other operations share."""

    golden = "golden-moe"
    model = os.path.join("tests", "fixtures", "demo-moe")
    test_texts_separate = test_skills_separate = None


if __name__ == "__main__":
    unittest.main()
