"""Who may ask: API keys, and pages of other origins."""
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


class Origins(ServerTest):
    arguments = ("--cors-origin", "https://chat.example.org,http://localhost:3000", "--api-key", "k")

    def preflight(self, origin, server=None, path=PLAIN, **headers):
        server = server or self.server
        wanted = {"Origin": origin, "Access-Control-Request-Method": "POST",
                  "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os", **headers}
        return server.call("OPTIONS", path, headers={key: value for key, value in wanted.items() if value is not None})

    def test_preflight(self):
        for origin in ("https://chat.example.org", "http://localhost:3000"):
            for path in (PLAIN, "/v1/models", "/health", "/nonsense"):
                status, headers, body = self.preflight(origin, path=path)
                self.assertEqual((status, body), (204, b""))
                self.assertEqual(headers["Access-Control-Allow-Origin"], origin)
                self.assertEqual(headers["Access-Control-Allow-Headers"], "authorization,content-type,x-stainless-os")
                self.assertIn("POST", headers["Access-Control-Allow-Methods"])
                self.assertGreater(int(headers["Access-Control-Max-Age"]), 0)
                self.assertEqual(headers["Vary"], "Origin")
        _, headers, _ = self.preflight("http://localhost:3000", **{"Access-Control-Request-Headers": None})
        self.assertNotIn("Access-Control-Allow-Headers", headers)

    def test_other_origins(self):
        for origin in ("https://evil.example.org", "http://chat.example.org", "https://chat.example.org:8443", "null", "*",
                       "https://chat.example.org,http://localhost:3000", "https://chat.example.orga", "https://chat", ""):
            status, headers, _ = self.preflight(origin)
            self.assertEqual(status, 401, origin)
            self.assertNotIn("Access-Control-Allow-Origin", headers)
            status, headers, _ = self.server.call("GET", "/v1/models", headers={**bearer("k"), "Origin": origin})
            self.assertEqual((status, headers["Vary"]), (200, "Origin"))
            self.assertNotIn("Access-Control-Allow-Origin", headers)

    def test_each_answer_may_be_read(self):
        origin = {"Origin": "http://localhost:3000"}
        json_type = {"Content-Type": "application/json", **bearer("k")}
        for method, path, body, headers, wanted in (
                ("GET", "/v1/models", None, bearer("k"), 200), ("GET", "/v1/models", None, {}, 401),
                ("GET", "/nonsense", None, bearer("k"), 404), ("POST", PLAIN, "{", json_type, 400),
                ("POST", PLAIN, {"prompt": "Hi", "max_tokens": 2}, json_type, 200),
                ("POST", PLAIN, {"prompt": "Hi", "max_tokens": 2, "stream": True}, json_type, 200)):
            status, answer_headers, _ = self.server.call(method, path, body, {**headers, **origin})
            self.assertEqual(status, wanted)
            self.assertEqual(answer_headers["Access-Control-Allow-Origin"], origin["Origin"])
            self.assertIn("X-Request-Id", answer_headers["Access-Control-Expose-Headers"])

    def test_all_origins(self):
        server = Server("--cors-origin", "*")
        self.addCleanup(server.stop)
        status, headers, _ = self.preflight("https://any.example", server)
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "*"))
        self.assertNotIn("Vary", headers)
        _, headers, _ = server.call("GET", "/v1/models", headers={"Origin": "https://any.example"})
        self.assertEqual(headers["Access-Control-Allow-Origin"], "*")
        for lacking in ("Origin", "Access-Control-Request-Method"):
            self.assertEqual(self.preflight("https://any.example", server, **{lacking: None})[0], 405)

    def test_without_the_option_nothing_changes(self):
        server = Server()
        self.addCleanup(server.stop)
        for status, headers, _ in (self.preflight("http://localhost:3000", server),
                                   server.call("GET", "/v1/models", headers={"Origin": "http://localhost:3000"})):
            self.assertIn(status, (405, 200))
            self.assertFalse([name for name in headers if name.lower().startswith(("access-control", "vary"))])

    def test_what_no_browser_sends_ends_the_start(self):
        for origin in ("example.org", "https://", "https://a.org/", "*,https://a.org", "https://*.org",
                       "https://A.org", "://a.org", "https://a.org, https://b.org"):
            done = subprocess.run([QUERN, "serve", "--port", "0", "--device", "cpu", "--cors-origin", origin], cwd=ROOT,
                                  capture_output=True, text=True, timeout=30 * PATIENCE)
            self.assertEqual(done.returncode, 1, origin)
            self.assertIn("is no origin", done.stderr)


if __name__ == "__main__":
    unittest.main()
