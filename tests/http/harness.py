"""Starts the server for one file of tests, and speaks HTTP with it in ways that the standard library does not."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from contract import CONTRACT, WatchedHTTPConnection, WatchedSocket

QUERN = os.environ.get("QUERN", "build/quern")
DEVICE = os.environ.get("QUERN_TEST_DEVICE", "cpu")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FIXTURES = os.path.join(ROOT, "tests", "fixtures")
GOLDEN = os.path.join(ROOT, "tests", "fixtures", "golden")
# Sanitizers cost a factor of 5 to 20: limits of time are that much wider, and long runs that much shorter.
SANITIZED = any(name in os.environ for name in ("ASAN_OPTIONS", "TSAN_OPTIONS"))
PATIENCE = 10 if SANITIZED else 1
# ThreadSanitizer computes some 20 tokens a second: what is about text and not about threads runs without it.
TEXT_ALONE = unittest.skipIf("TSAN_OPTIONS" in os.environ, "is about text, not about threads")


class Server:
    """quern serve on a free port, with the demo model."""

    def __init__(self, *arguments, wait=True, preload=None, where=r"http://\S+"):
        self.log = tempfile.TemporaryFile("w+")
        command = [QUERN, "serve", "--port", "0", "--device", DEVICE, "--kv-bytes", "64MiB", *arguments]
        env = {**os.environ, "LD_PRELOAD": preload} if preload else None
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=self.log, stderr=subprocess.STDOUT)
        self.url = self.wait_for_line(rf"listening on ({where}),")
        port = self.url.rsplit(":", 1)[1]
        self.port = int(port) if port.isdigit() else None  # a Unix socket has none
        if wait:
            self.wait_for_line(r"ready: (\S+)")

    def read_log(self):
        with open(f"/proc/self/fd/{self.log.fileno()}", encoding="utf-8") as file:
            return file.read()

    def wait_for_line(self, pattern, seconds=30):
        until = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < until:
            found = re.search(pattern, self.read_log())
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"the log has no line like {pattern}:\n{self.read_log()}")

    def stop(self):
        """Ends the server as an operator does, and tells its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        CONTRACT.raise_faults()
        return self.process.returncode

    def connect(self, timeout=60):
        return WatchedHTTPConnection("127.0.0.1", self.port, timeout=timeout * PATIENCE)

    def socket(self, timeout=60):
        return WatchedSocket(socket.create_connection(("127.0.0.1", self.port), timeout=timeout * PATIENCE))

    def call(self, method, path, body=None, headers=None):
        """One request on a connection of its own: status, headers, body."""
        with contextlib.closing(self.connect()) as connection:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            if headers is None:
                headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path):
        status, _, body = self.call("GET", path)
        return status, json.loads(body)

    def post(self, path, body):
        status, _, answer = self.call("POST", path, body)
        return status, json.loads(answer)

    def chat(self, content, **fields):
        fields.setdefault("temperature", 0)
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **fields})

    def complete(self, prompt, **fields):
        fields.setdefault("temperature", 0)
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def stream(self, path, body):
        """The events of a stream, the last one "[DONE]" as it should be."""
        status, headers, answer = self.call("POST", path, {"temperature": 0, **body, "stream": True})
        assert status == 200, answer
        assert headers["Content-Type"].startswith("text/event-stream"), headers["Content-Type"]
        return events_of(answer.decode())

    def metrics(self):
        """Name with labels, but without model_name, to value."""
        _, _, text = self.call("GET", "/metrics")
        values = {}
        for line in text.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "")] = float(value)
        return values

    def live(self):
        """Running requests, waiting requests, share of the KV blocks in use."""
        values = self.metrics()
        return tuple(values["vllm:" + name] for name in
                     ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"))

    def wait_for_live(self, condition, seconds=10):
        """Returns how long it took until condition(running, waiting, usage) held."""
        began = time.monotonic()
        while time.monotonic() - began < seconds * PATIENCE:
            if condition(*self.live()):
                return time.monotonic() - began
            time.sleep(0.002)
        raise AssertionError(f"running, waiting, usage stayed {self.live()}")


def events_of(text):
    """SSE text to a list of decoded data and the last word; comments are kept as strings that begin with a colon."""
    events = []
    assert text.endswith("\n\n"), repr(text[-80:])
    for event in text[:-2].split("\n\n"):
        if event.startswith(":"):
            events.append(event)
            continue
        assert event.startswith("data: ") and "\n" not in event, repr(event)
        data = event[len("data: "):]
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def post_bytes(path, body):
    """A POST as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class ServerTest(unittest.TestCase):
    """A test whose class has one server."""

    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.arguments)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        assert status == 0, f"the server ended with status {status}"
