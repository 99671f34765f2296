"""SIGTERM: what runs is finished within the deadline, nothing new is taken, the status is 0. Start-up and idleness."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from harness import DEVICE, PATIENCE, QUERN, ROOT, SANITIZED, Server, events_of, post_bytes

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Tell me a story."}], "ignore_eos": True, "stream": True,
        "temperature": 0}


def receive_all(connection):
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def cpu_seconds(process):
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Shutdown(unittest.TestCase):
    def start(self, *arguments, **options):
        server = Server(*arguments, **options)
        self.addCleanup(server.stop)
        return server

    @unittest.skipUnless("DRIVER_THREADS" in os.environ, "needs a build with CUDA")
    def test_a_driver_with_threads_changes_nothing(self):
        """A signal ends the process when it meets a thread that does not block it, as those of a GPU driver may."""
        server = self.start("--device", "auto", preload=os.environ["DRIVER_THREADS"])
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(30 * PATIENCE), 0)

    def test_a_stream_is_finished(self):
        server = self.start("--shutdown-timeout-s", "30")
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**LONG, "max_tokens": 400 // PATIENCE}))
            first = connection.recv(4096)
            self.assertIn(b"200", first)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            with self.assertRaises(OSError):
                server.socket()
            data = first + receive_all(connection)
        self.assertIn(b"data: [DONE]", data[-100:])
        self.assertIn(b'"finish_reason":"length"', data[-400:])
        self.assertEqual(server.process.wait(30 * PATIENCE), 0)

    def test_the_deadline_is_kept(self):
        server = self.start("--shutdown-timeout-s", "1", "--max-model-len", "4000")
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**LONG, "max_tokens": 3900}))
            first = connection.recv(4096)
            began = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            data = first + receive_all(connection)
            status = server.process.wait(30 * PATIENCE)
        self.assertLess(time.monotonic() - began, 2.5 * PATIENCE)
        self.assertEqual(status, 0)
        if b"[DONE]" not in data:  # a fast machine may have finished
            self.assertIn(b'data: {"error":{"message":"the server is stopping"', data[-300:])

    def test_an_open_connection_is_told(self):
        server = self.start("--max-model-len", "4000")
        with server.socket() as runs, server.socket() as idle:
            # It must last longer than this test takes to ask: a GPU makes 3,000 tokens of the demo model in a second,
            # a processor 400 to 1,000, but with ThreadSanitizer 20.
            n_tokens = 3000 if DEVICE != "cpu" else 40 if "TSAN_OPTIONS" in os.environ else 800
            runs.sendall(post_bytes(CHAT, {**LONG, "max_tokens": n_tokens}))
            runs.recv(4096)
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b"200 OK", idle.recv(4096))
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_line("(no new requests)")
            time.sleep(0.05)
            idle.sendall(post_bytes(CHAT, {**LONG, "max_tokens": 4}))
            answer = receive_all(idle)
            self.assertIn(b"503", answer[:20])
            self.assertIn(b"Retry-After", answer)
            self.assertIn(b"Connection: close", answer)
            self.assertIn(b"[DONE]", receive_all(runs)[-100:])
        self.assertEqual(server.process.wait(30 * PATIENCE), 0)

    def test_a_second_signal_ends_at_once(self):
        server = self.start("--max-model-len", "4000")
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**LONG, "max_tokens": 3900}))
            connection.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_line("(no new requests)")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(5 * PATIENCE), 130)

    def test_idle_connections_do_not_hold_up_the_end(self):
        server = self.start()
        with server.socket() as silent, server.socket() as kept:
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            kept.recv(4096)
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 1.5 * PATIENCE)
            self.assertEqual(silent.recv(10), b"")


class Start(unittest.TestCase):
    def test_health_while_loading(self):
        """Random weights of the 0.6B shape take seconds to make."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(os.path.join(ROOT, "config", "shapes", "0.6b.json"), os.path.join(folder, "config.json"))
            server = Server("--model", folder, "--tokenizer", "models/demo", "--load-format", "dummy", wait=False)
            self.addCleanup(server.stop)
            status, health = server.get("/health")
            self.assertEqual((status, health["status"]), (503, "loading"))
            status, headers, answer = server.call("POST", CHAT, {"messages": []})
            self.assertEqual((status, headers["Retry-After"]), (503, "1"))
            self.assertIn("loading", json.loads(answer)["error"]["message"])
            began = time.monotonic()  # there is nothing to finish yet
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(10 * PATIENCE), 0)
            self.assertLess(time.monotonic() - began, 1 * PATIENCE)

    def test_failures_to_start(self):
        def run(*arguments):
            return subprocess.run([QUERN, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60 * PATIENCE)
        busy = Server()
        self.addCleanup(busy.stop)
        for arguments, status, part in (
            (("serve", "--model", "no/such/folder", "--port", "0"), 1, "no/such/folder"),
            (("serve", "--port", str(busy.port)), 1, f"port {busy.port}"),
            (("serve", "--host", "256.1.1.1", "--port", "0"), 1, "256.1.1.1"),
            (("serve", "--device", "toaster"), 2, "toaster"),
            (("serve", "--no-such-option", "1"), 2, "no-such-option"),
            (("serve", "--port", "70000"), 2, "65535"),
            ((), 2, "serve"),
        ):
            with self.subTest(arguments=arguments):
                result = run(*arguments)
                self.assertEqual(result.returncode, status, result.stderr)
                self.assertIn(part, result.stderr)
        self.assertRegex(run("--version").stdout, r"^quern \d+\.\d+\.\d+\n$")
        self.assertIn("--max-queue", run("--help").stdout)


@unittest.skipIf(SANITIZED, "the time of a sanitizer is not the program's")
class Idle(unittest.TestCase):
    SECONDS = 10

    def cost(self, server):
        """CPU seconds for each second of doing nothing."""
        time.sleep(0.5)
        before = cpu_seconds(server.process)
        time.sleep(self.SECONDS)
        return (cpu_seconds(server.process) - before) / self.SECONDS

    def test_fresh(self):
        server = Server()
        self.addCleanup(server.stop)
        self.assertLess(self.cost(server), 0.005)

    def test_after_work_with_an_open_connection(self):
        server = Server()
        self.addCleanup(server.stop)
        connection = server.connect()
        connection.request("POST", CHAT, json.dumps({**LONG, "max_tokens": 20}), {"Content-Type": "application/json"})
        self.assertEqual(events_of(connection.getresponse().read().decode())[-1], "[DONE]")
        with server.socket() as gone:  # one that left in the middle
            gone.sendall(post_bytes(CHAT, {**LONG, "max_tokens": 1000}))
            gone.recv(1000)
        server.wait_for_live(lambda running, waiting, usage: running == 0)
        self.assertLess(self.cost(server), 0.005)
        connection.close()


if __name__ == "__main__":
    unittest.main()
