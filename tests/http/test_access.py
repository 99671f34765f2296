"""Who may ask: API keys."""
import json
import os
import signal
import subprocess
import tempfile
import unittest

from harness import PATIENCE, QUERN, ROOT, Server, ServerTest

PLAIN = "/v1/completions"


def bearer(key):
    return {"Authorization": "Bearer " + key}


class ApiKeys(ServerTest):
    arguments = ("--api-key", "sk-alpha,sk-beta", "--log-level", "debug")

    def ask(self, headers, method="POST", path=PLAIN):
        body = {"prompt": "Hi", "max_tokens": 1} if method == "POST" else None
        return self.server.call(method, path, body, {"Content-Type": "application/json", **headers})

    def test_a_key_is_let_in(self):
        for headers in (bearer("sk-alpha"), bearer("sk-beta"), {"Authorization": "bearer sk-beta"},
                        {"x-api-key": "sk-alpha"}, {"X-Api-Key": "sk-beta"}):
            status, _, answer = self.ask(headers)
            self.assertEqual(status, 200, (headers, answer))

    def test_all_else_is_not(self):
        for headers in ({}, bearer(""), bearer("sk-alph"), bearer("sk-alphaa"), bearer("sk-alpha,sk-beta"), bearer("any"),
                        {"Authorization": "Basic c2stYWxwaGE6"}, {"Authorization": "sk-alpha"}, {"x-api-key": "any"},
                        {"x-api-key": "Bearer sk-alpha"}, bearer("k" * 5000), {**bearer("any"), "x-api-key": "sk-alpha"}):
            status, answer_headers, answer = self.ask(headers)
            with self.subTest(headers=str(headers)[:100]):
                self.assertEqual(status, 401, answer)
                self.assertEqual(answer_headers["WWW-Authenticate"], "Bearer")
                self.assertTrue(answer_headers["X-Request-Id"])
                error = json.loads(answer)["error"]
                self.assertEqual((error["type"], error["code"], error["param"]),
                                 ("invalid_request_error", "invalid_api_key", None))
                self.assertIn("API key", error["message"])

    def test_nothing_is_told_without_a_key(self):
        for method, path in (("GET", "/v1/models"), ("GET", "/server_info"), ("GET", "/version"), ("GET", "/nonsense"),
                             ("GET", PLAIN), ("GET", "/health/"), ("DELETE", "/v1/models"), ("POST", "/tokenize")):
            self.assertEqual(self.ask({}, method, path)[0], 401, (method, path))
        self.assertEqual(self.ask(bearer("sk-alpha"), "GET", "/nonsense")[0], 404)
        self.assertEqual(self.ask(bearer("sk-alpha"), "GET", PLAIN)[0], 405)

    def test_what_watches_needs_none(self):
        for method, path in (("GET", "/health"), ("HEAD", "/health"), ("GET", "/metrics")):
            self.assertEqual(self.ask({}, method, path)[0], 200, (method, path))

    def test_no_key_is_logged(self):
        for key in ("sk-alpha", "sk-wrong"):
            self.ask(bearer(key))
        log = self.server.read_log()
        self.assertIn("401", log)
        for key in ("sk-alpha", "sk-beta", "sk-wrong"):
            self.assertNotIn(key, log)


class ApiKeyFile(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "keys")

    def write(self, text):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)

    def test_it_is_read_again(self):
        self.write("# keys\none\n\ntwo\n")
        server = Server("--api-key", "fixed", "--api-key-file", self.path)
        self.addCleanup(server.stop)

        def let_in():
            return {key for key in ("fixed", "one", "two", "three")
                    if server.call("GET", "/v1/models", headers=bearer(key))[0] == 200}

        self.assertEqual(let_in(), {"fixed", "one", "two"})
        self.write("two\nthree\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(r"(read the API keys again, there are 3)")
        self.assertEqual(let_in(), {"fixed", "two", "three"})
        self.write("two words\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(r"error +(the API keys stay as they were: .*, line 1: an API key is)")
        os.remove(self.path)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line(r"error +(the API keys stay as they were: .*No such file)")
        self.assertEqual(let_in(), {"fixed", "two", "three"})
        self.assertEqual(server.stop(), 0)

    def test_a_wrong_one_ends_the_start(self):
        self.write("# none yet\n")
        command = [QUERN, "serve", "--port", "0", "--device", "cpu", "--api-key-file"]
        for path, part in ((self.path, "holds no API key"), (self.path + "x", "No such file")):
            done = subprocess.run([*command, path], cwd=ROOT, capture_output=True, text=True, timeout=30 * PATIENCE)
            self.assertEqual(done.returncode, 1)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    unittest.main()
