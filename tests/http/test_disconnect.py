"""A client that leaves frees what it held: streaming or not, running or queued. And the limits of the queue."""
import contextlib
import json
import select
import time
import unittest

from harness import PATIENCE, ServerTest, post_bytes

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Tell me a story."}], "ignore_eos": True, "max_tokens": 3000}


class Disconnect(ServerTest):
    # One request runs, the rest waits.
    arguments = ("--max-seqs", "1", "--max-queue", "2", "--max-model-len", "4000")

    def open(self, **fields):
        connection = self.server.socket()
        connection.sendall(post_bytes(CHAT, {**LONG, **fields}))
        return connection

    def setUp(self):
        self.server.wait_for_live(lambda running, waiting, usage: running + waiting == 0)

    def leaves(self, stream, queued):
        with contextlib.ExitStack() as stack:
            if queued:
                blocker = stack.enter_context(self.open())
                self.server.wait_for_live(lambda running, waiting, usage: running == 1 and waiting == 0)
            client = stack.enter_context(self.open(stream=stream))
            if queued:
                self.server.wait_for_live(lambda running, waiting, usage: (running, waiting) == (1, 1))
            else:
                self.server.wait_for_live(lambda running, waiting, usage: running == 1 and usage > 0)
            time.sleep(0.05)
            client.close()
            if queued:
                seconds = self.server.wait_for_live(lambda running, waiting, usage: (running, waiting) == (1, 0))
                blocker.close()
            else:
                seconds = self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))
        # A step of the demo model takes some milliseconds; 100 ms beyond it, and the look at /metrics.
        self.assertLess(seconds, 0.15 * PATIENCE)
        self.server.wait_for_line("(finish=client_gone)")

    def test_running(self):
        self.leaves(stream=False, queued=False)

    def test_running_stream(self):
        self.leaves(stream=True, queued=False)

    def test_queued(self):
        self.leaves(stream=False, queued=True)

    def test_queued_stream(self):
        self.leaves(stream=True, queued=True)

    def test_half_of_the_body(self):
        for i in range(20):
            with self.server.socket() as connection:
                connection.sendall(post_bytes(CHAT, LONG)[:-20 - i])
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_many_that_come_and_go(self):
        """What is freed twice, or lost, shows itself here."""
        for i in range(60):
            with contextlib.suppress(OSError):
                client = self.open(stream=i % 2 == 0)
                time.sleep(0.001 * (i % 7))
                client.close()
        self.server.wait_for_live(lambda running, waiting, usage: (running, waiting, usage) == (0, 0, 0))
        self.assertEqual(self.server.chat("Hello!", max_tokens=2)[0], 200)

    def test_full_queue(self):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.open(stream=i == 1)) for i in range(3)]
            self.server.wait_for_live(lambda running, waiting, usage: (running, waiting) == (1, 2))
            for body in ({"stream": True}, {}):
                status, headers, answer = self.server.call("POST", CHAT, {**LONG, **body})
                self.assertEqual((status, headers["Retry-After"]), (429, "1"))
                self.assertEqual(json.loads(answer)["error"]["code"], "rate_limit_exceeded")
            # The rest goes on as if nothing had been.
            self.assertEqual(self.server.live()[:2], (1, 2))
            for client in clients:
                client.close()
        self.server.wait_for_live(lambda running, waiting, usage: running + waiting == 0)

    def test_prompts_are_taken_all_or_none(self):
        status, _ = self.server.complete(["a", "b", "c", "d"], max_tokens=1000, ignore_eos=True)
        self.assertEqual(status, 429)
        seconds = self.server.wait_for_live(lambda running, waiting, usage: running + waiting == 0)
        self.assertLess(seconds, 0.15 * PATIENCE)
        self.assertEqual(self.server.complete(["a", "b", "c"], max_tokens=2)[0], 200)


class SlowReaders(ServerTest):
    def test_a_reader_that_stands_still_holds_up_no_one(self):
        with self.server.socket() as slow:
            slow.sendall(post_bytes(CHAT, {**LONG, "stream": True, "max_tokens": 1500 // PATIENCE}))
            began = time.monotonic()
            status, _ = self.server.chat("Hello!")
            self.assertEqual(status, 200)
            self.assertLess(time.monotonic() - began, 5 * PATIENCE)
            self.server.wait_for_live(lambda running, waiting, usage: running == 0, seconds=30)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                self.assertTrue(select.select([slow], [], [], 20 * PATIENCE)[0])
                piece = slow.recv(2000)
                self.assertNotEqual(piece, b"")
                data += piece
            self.assertIn(b"data: [DONE]", data[-100:])

    def test_one_byte_at_a_time(self):
        request = post_bytes(CHAT, {**LONG, "max_tokens": 5, "stream": True})
        with self.server.socket() as slow:
            for byte in request:
                slow.sendall(bytes([byte]))
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += slow.recv(1)
            self.assertIn(b'"role":"assistant"', answer)
            self.assertIn(b"data: [DONE]", answer)


if __name__ == "__main__":
    unittest.main()
