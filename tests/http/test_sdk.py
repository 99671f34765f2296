"""The official openai SDK against the server: chat, stream, completions, embeddings, models, errors, patience."""
import json
import threading
import typing
import unittest

from harness import PATIENCE, Server

try:
    import openai
except ImportError:
    openai = None

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather for a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "The city name"}}, "required": ["city"]}}}
ENDLESS = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}


@unittest.skipIf(openai is None, "the openai SDK is not installed")
class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-seqs", "1", "--max-queue", "0")
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="any", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0

    def chat(self, content, **fields):
        return self.client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": content}], temperature=0, **fields)

    def wait_until_idle(self):
        self.server.wait_for_live(lambda running, waiting, usage: (running, usage) == (0, 0))

    def test_parse_with_a_pydantic_model(self):
        import pydantic

        class Step(pydantic.BaseModel):
            explanation: str
            result: int | None

        class Solution(pydantic.BaseModel):
            steps: list[Step]
            answer: float
            unit: typing.Literal["m", "kg"]

        for seed in range(3):
            answer = self.client.chat.completions.parse(
                model="demo", messages=[{"role": "user", "content": "What is 2 + 2?"}], temperature=1.5, seed=seed,
                response_format=Solution, max_tokens=600, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
            self.assertIsInstance(answer.choices[0].message.parsed, Solution)

    def test_chat(self):
        answer = self.chat("Hello!", extra_body={"chat_template_kwargs": {"enable_thinking": True}})
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.choices[0].message.content, "Hello! How can I help you today?")
        self.assertEqual(answer.choices[0].message.reasoning_content, "This is a simple message.")
        self.assertEqual(answer.usage.completion_tokens_details.reasoning_tokens, 7)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, 30)
        self.assertGreaterEqual(answer.usage.prompt_tokens_details.cached_tokens, 0)

    def test_stream(self):
        chunks = list(self.chat("Send me a rocket emoji.", stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertTrue(text.endswith("🚀"))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-2].choices[0].finish_reason, "stop")
        self.assertGreater(chunks[-1].usage.completion_tokens, 3)

    def test_a_stream_can_be_left(self):
        with self.chat("Tell me a story.", stream=True, **ENDLESS) as stream:
            next(iter(stream))
        self.wait_until_idle()

    def test_completions(self):
        answer = self.client.completions.create(model="demo", prompt="Once upon a time", max_tokens=5, temperature=0,
                                                stop=["nowhere"], echo=True)
        self.assertTrue(answer.choices[0].text.startswith("Once upon a time"))
        pieces = self.client.completions.create(model="demo", prompt="Once upon a time", max_tokens=5, temperature=0,
                                                stream=True)
        text = "".join(piece.choices[0].text for piece in pieces)
        self.assertEqual("Once upon a time" + text, answer.choices[0].text)

    def test_embeddings(self):
        """The SDK asks for base64 unless told otherwise, and decodes it."""
        answer = self.client.embeddings.create(model="demo", input="Hello!")
        numbers = self.client.embeddings.create(model="demo", input=["Hello!"], encoding_format="float")
        self.assertEqual(len(answer.data[0].embedding), 256)
        for value, number in zip(answer.data[0].embedding, numbers.data[0].embedding):
            self.assertAlmostEqual(value, number, delta=1e-7)
        self.assertEqual(answer.usage.prompt_tokens, answer.usage.total_tokens)
        short = self.client.embeddings.create(model="demo", input="Hello!", dimensions=8, extra_body={"pooling": "mean"})
        self.assertAlmostEqual(sum(value * value for value in short.data[0].embedding), 1, delta=1e-6)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.embeddings.create(model="demo", input="Hello!", dimensions=257)
        self.assertEqual(caught.exception.param, "dimensions")

    def test_tools(self):
        """The loop that every agent runs: question, call, result, answer; streamed too."""
        question = {"role": "user", "content": "What is the weather in Paris?"}
        ask = dict(model="demo", temperature=0, tools=[WEATHER], tool_choice="auto")
        message = self.client.chat.completions.create(messages=[question], **ask).choices[0].message
        self.assertIsNone(message.content)
        call, = message.tool_calls
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.assertEqual(json.loads(call.function.arguments), {"city": "Paris"})
        result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 18, "sky": "sunny"}'}
        answer = self.client.chat.completions.create(messages=[question, message, result], **ask)
        self.assertEqual(answer.choices[0].message.content, "It is sunny in Paris with a temperature of 18 degrees.")

        with self.client.chat.completions.stream(messages=[question], model="demo", temperature=0, tools=[WEATHER]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion().choices[0]
        self.assertIn("tool_calls.function.arguments.delta", kinds)
        self.assertIn("tool_calls.function.arguments.done", kinds)
        self.assertEqual(final.finish_reason, "tool_calls")
        self.assertEqual(final.message.tool_calls[0].function.arguments, call.function.arguments)

    def test_calls_that_are_guaranteed(self):
        import pydantic

        class Reading(pydantic.BaseModel):
            city: typing.Literal["Oslo", "Rome"]
            degrees: int
            sky: list[typing.Literal["sunny", "snowy"]] = pydantic.Field(max_length=2)

        tool = openai.pydantic_function_tool(Reading, name="note_weather")
        self.assertTrue(tool["function"]["strict"])
        timer = openai.pydantic_function_tool(pydantic.create_model("Timer", minutes=(int, ...)))
        named = {"type": "function", "function": {"name": "note_weather"}}
        for choice in ("required", named):
            for seed in range(3):
                answer = self.client.chat.completions.parse(
                    model="demo", messages=[{"role": "user", "content": "Hello!"}], temperature=1.5, seed=seed,
                    tools=[tool, timer] if choice == named else [tool], tool_choice=choice, max_tokens=800,
                    parallel_tool_calls=False, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
                self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
                call, = answer.choices[0].message.tool_calls
                self.assertIsInstance(call.function.parsed_arguments, Reading)
        with self.client.chat.completions.stream(
                model="demo", messages=[{"role": "user", "content": "Hello!"}], temperature=0, tools=[tool],
                tool_choice="required", parallel_tool_calls=False) as stream:
            kinds = [event.type for event in stream]
            call, = stream.get_final_completion().choices[0].message.tool_calls
        self.assertGreater(kinds.count("tool_calls.function.arguments.delta"), 3)
        self.assertIsInstance(call.function.parsed_arguments, Reading)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").id, "demo")

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("Hello!", top_p=7)
        self.assertEqual(caught.exception.param, "top_p")
        self.assertIn("at most 1", caught.exception.message)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.models.retrieve("gpt-9")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.chat("Tell me a story.", stream=True, **ENDLESS):
            with self.assertRaises(openai.RateLimitError):
                self.chat("Hello!")
        self.wait_until_idle()

    def test_a_busy_server_is_asked_again(self):
        """The SDK waits as long as Retry-After says; the seat is free by then."""
        with self.chat("Tell me a story.", stream=True, **ENDLESS) as stream:
            next(iter(stream))
            leaving = threading.Timer(0.5 * PATIENCE, stream.close)
            leaving.start()
            patient = self.client.with_options(max_retries=10)
            answer = patient.chat.completions.with_raw_response.create(
                model="demo", messages=[{"role": "user", "content": "What is 17 + 25?"}], temperature=0)
            leaving.join()
        self.assertGreater(answer.retries_taken, 0)
        self.assertTrue(answer.parse().choices[0].message.content.endswith("42"))

    def test_a_client_that_waits_no_longer(self):
        with self.assertRaises(openai.APITimeoutError):
            self.chat("Tell me a story.", timeout=0.1, **ENDLESS)
        self.wait_until_idle()


@unittest.skipIf(openai is None, "the openai SDK is not installed")
class SdkKeys(unittest.TestCase):
    def test_only_the_right_key_is_let_in(self):
        server = Server("--api-key", "sk-right")
        self.addCleanup(server.stop)
        for key, right in (("sk-right", True), ("sk-wrong", False)):
            with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as client:
                if right:
                    self.assertEqual([model.id for model in client.models.list()], ["demo"])
                    continue
                with self.assertRaises(openai.AuthenticationError) as caught:
                    client.models.list()
                self.assertEqual(caught.exception.code, "invalid_api_key")


if __name__ == "__main__":
    unittest.main()
