"""What requests come through: a Unix socket."""
import http.client
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import tempfile
import unittest

from harness import PATIENCE, QUERN, ROOT, Server, post_bytes

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class UnixServer(Server):
    def __init__(self, path, *arguments, **options):
        self.path = path
        super().__init__("--uds", path, *arguments, where=r"unix:\S+", **options)

    def connect(self, timeout=60):
        return UnixConnection(self.path, timeout * PATIENCE)

    def socket(self, timeout=60):
        connection = self.connect(timeout)
        connection.connect()
        return connection.sock


class Unix(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "quern.sock")

    def start(self, *arguments, **options):
        server = UnixServer(self.path, *arguments, **options)
        self.addCleanup(server.stop)
        return server

    def refused(self, *arguments):
        done = subprocess.run([QUERN, "serve", "--device", "cpu", *arguments], cwd=ROOT, capture_output=True, text=True,
                              timeout=30 * PATIENCE)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_it_serves(self):
        old = os.umask(0)
        try:
            server = self.start()
        finally:
            os.umask(old)
        status = os.stat(self.path)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o660)
        self.assertEqual(server.url, "unix:" + self.path)
        _, whole = server.post(CHAT, HELLO)
        chunks = server.stream(CHAT, HELLO)[:-1]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertNotEqual(text, "")
        self.assertEqual(server.stop(), 0)
        self.assertFalse(os.path.exists(self.path))

    def test_the_umask_takes_nothing(self):
        old = os.umask(0o077)
        try:
            self.start(wait=False)
        finally:
            os.umask(old)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)

    def test_the_example_is_one(self):
        server = self.start()
        command = server.wait_for_line(r"try: (curl .*)")
        self.assertIn(f"curl --unix-socket {self.path} http://localhost/v1", command)
        try:
            done = subprocess.run(shlex.split(command), capture_output=True, timeout=60 * PATIENCE)
        except FileNotFoundError:
            self.skipTest("curl is not installed")
        self.assertEqual(json.loads(done.stdout)["object"], "chat.completion")

    def test_a_client_that_leaves(self):
        server = self.start("--max-model-len", "4000")
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**HELLO, "stream": True, "ignore_eos": True, "max_tokens": 3900}))
            connection.recv(4096)
            self.assertEqual(server.live()[0], 1)
        self.assertLess(server.wait_for_live(lambda running, waiting, usage: running == 0), 1 * PATIENCE)

    def test_sigterm_ends_a_stream_well(self):
        server = self.start()
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**HELLO, "stream": True, "ignore_eos": True,
                                                 "max_tokens": 300 // PATIENCE}))
            data = connection.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            while piece := connection.recv(65536):
                data += piece
        self.assertIn(b"data: [DONE]", data[-100:])
        self.assertEqual(server.process.wait(30 * PATIENCE), 0)
        self.assertFalse(os.path.exists(self.path))

    def test_a_stale_one_is_replaced(self):
        server = self.start()
        server.process.kill()
        server.process.wait()
        self.assertTrue(os.path.exists(self.path))
        self.assertEqual(self.start().get("/health")[0], 200)

    def test_what_is_used_stays(self):
        server = self.start()
        self.assertIn(f"cannot listen on {self.path}: Address already in use", self.refused("--uds", self.path))
        self.assertEqual(server.get("/health")[0], 200)

    def test_what_is_no_socket_stays(self):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("mine")
        self.assertIn("is no socket", self.refused("--uds", self.path))
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "mine")

    def test_paths_that_cannot_be(self):
        self.assertIn("No such file or directory", self.refused("--uds", self.path + "/x/y"))
        self.assertIn("107", self.refused("--uds", "/tmp/" + "x" * 103))


if __name__ == "__main__":
    unittest.main()
