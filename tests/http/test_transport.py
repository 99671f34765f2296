"""What requests come through: a Unix socket, TLS."""
import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
import unittest

import test_stream
from contract import WatchedConnection, WatchedSocket
from harness import PATIENCE, QUERN, ROOT, SANITIZED, Server, post_bytes

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}


class UnixConnection(WatchedConnection, http.client.HTTPConnection):
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
        return WatchedSocket(connection.sock)


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


def make_certificate(folder, name):
    """A certificate that signs itself: its path, and that of its key."""
    certificate, key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                   check=True, capture_output=True)
    return certificate, key


class TlsConnection(WatchedConnection, http.client.HTTPSConnection):
    pass


class TlsServer(Server):
    def __init__(self, certificate, key, *arguments):
        self.context = ssl.create_default_context(cafile=certificate)
        super().__init__("--tls-cert", certificate, "--tls-key", key, *arguments, where=r"https://\S+")

    def connect(self, timeout=60):
        return TlsConnection("127.0.0.1", self.port, timeout=timeout * PATIENCE, context=self.context)

    def socket(self, timeout=60):
        plain = super().socket(timeout).connection
        return WatchedSocket(self.context.wrap_socket(plain, server_hostname="localhost"))


NEEDS_OPENSSL = unittest.skipIf(shutil.which("openssl") is None, "needs the program openssl to make a certificate")


class TlsTest(unittest.TestCase):
    """A test whose class has one server with TLS."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.certificate, cls.key = make_certificate(cls.folder, "server")
        cls.server = TlsServer(cls.certificate, cls.key, "--max-model-len", "4000")

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        assert status == 0, f"the server ended with status {status}"


@NEEDS_OPENSSL
class TlsStream(TlsTest, test_stream.Stream):
    """Every test of streams, through TLS."""


@NEEDS_OPENSSL
class Tls(TlsTest):
    def test_the_certificate_is_shown(self):
        self.assertTrue(self.server.wait_for_line(r"ready: (\S+)").startswith("https://127.0.0.1:"))
        with self.server.socket() as connection:
            self.assertIn(connection.version(), ("TLSv1.2", "TLSv1.3"))
            with open(self.certificate, encoding="ascii") as file:
                self.assertEqual(connection.getpeercert(binary_form=True), ssl.PEM_cert_to_DER_cert(file.read()))

    def test_without_tls_nothing_is_told(self):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            with self.assertRaises((OSError, http.client.HTTPException)):
                connection.request("GET", "/health")
                connection.getresponse()
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_many_streams_at_once(self):
        texts = []

        def ask():
            events = self.server.stream(CHAT, {**HELLO, "ignore_eos": True, "max_tokens": 40})
            texts.append("".join(test_stream.text_of(events, name) for name in ("content", "reasoning")))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(texts), 16)
        self.assertEqual(len(set(texts)), 1)
        self.assertNotEqual(texts[0], "")

    def test_requests_in_one_record(self):
        """The second is in the buffer of TLS, not in that of the kernel, while the first waits for its tokens."""
        count = 4
        with self.server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**HELLO, "max_tokens": 3}) * (count - 1) +
                               b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while piece := connection.recv(65536):
                data += piece
        self.assertEqual(data.count(b"HTTP/1.1 200"), count)

    def test_a_large_body(self):
        """Many records of 16 KiB each, in and out."""
        # AddressSanitizer looks at all of a string for each number that is read from it.
        n = 10000 if SANITIZED else 300000
        text = "The fox. " * n
        status, answer = self.server.post("/tokenize", {"prompt": text})
        self.assertEqual(status, 200)
        self.assertGreater(answer["count"], n)
        status, answer = self.server.post("/detokenize", {"tokens": answer["tokens"]})
        self.assertEqual((status, answer["prompt"] == text), (200, True))

    def test_a_client_that_leaves(self):
        for politely in (True, False):
            connection = self.server.socket()
            connection.sendall(post_bytes(CHAT, {**HELLO, "stream": True, "ignore_eos": True, "max_tokens": 3900}))
            connection.recv(4096)
            self.assertEqual(self.server.live()[0], 1)
            if politely:
                with contextlib.suppress(OSError):
                    connection.unwrap()
            connection.close()
            self.assertLess(self.server.wait_for_live(lambda running, waiting, usage: running == 0), 1 * PATIENCE)

    def test_sigterm_ends_a_stream_well(self):
        server = TlsServer(self.certificate, self.key)
        self.addCleanup(server.stop)
        with server.socket() as connection:
            connection.sendall(post_bytes(CHAT, {**HELLO, "stream": True, "ignore_eos": True,
                                                 "max_tokens": 300 // PATIENCE}))
            data = connection.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            while piece := connection.recv(65536):
                data += piece
        self.assertIn(b"data: [DONE]", data[-100:])
        self.assertEqual(server.process.wait(30 * PATIENCE), 0)

    def test_files_that_cannot_be(self):
        other, other_key = make_certificate(self.folder, "other")
        junk, broken = os.path.join(self.folder, "junk"), os.path.join(self.folder, "broken")
        for path, text in ((junk, "no certificate"), (broken, "-----BEGIN CERTIFICATE-----\nMIIC\n")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        missing = os.path.join(self.folder, "missing")
        # GnuTLS 3.7 leaks a certificate that does not match its key.
        env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        for certificate, key, status, part in (
                (self.certificate, other_key, 1, "do not match"), (other, self.key, 1, "do not match"),
                (self.key, self.certificate, 1, "--tls-cert"), (broken, self.key, 1, "--tls-cert"),
                (junk, self.key, 1, f"--tls-cert {junk}: the file is no PEM"),
                (self.certificate, junk, 1, f"--tls-key {junk}: the file is no PEM"),
                (missing, self.key, 1, f"--tls-cert {missing}: No such file"),
                (self.certificate, missing, 1, f"--tls-key {missing}: No such file"),
                (self.certificate, "", 2, "--tls-cert is given without --tls-key")):
            done = subprocess.run([QUERN, "serve", "--port", "0", "--device", "cpu", "--tls-cert", certificate,
                                   "--tls-key", key], cwd=ROOT, env=env, capture_output=True, text=True,
                                  timeout=30 * PATIENCE)
            with self.subTest(part):
                self.assertEqual(done.returncode, status)
                self.assertIn(part, done.stderr)
                self.assertNotIn("ready", done.stderr)


if __name__ == "__main__":
    unittest.main()
