"""schemathesis reads /openapi.json and asks what it allows and what it does not, thousands of times."""
import base64
import collections
import http.client
import json
import os
import subprocess
import sys
import tempfile
import unittest

from contract import CONTRACT
from harness import SANITIZED, ServerTest

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method",
          "allow_header_conformance", "use_after_free")
N_EXAMPLES = 10  # of each operation, behind those that cover all limits of all fields


@unittest.skipIf(SANITIZED, "is long, and about answers")
class Schemathesis(ServerTest):
    arguments = ("--max-model-len", "256")

    def run_it(self):
        """The requests and answers of a run, as HAR tells them."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        report = os.path.join(folder.name, "report.har")
        here = os.path.dirname(os.path.abspath(__file__))
        env = {**os.environ, "PYTHONPATH": here, "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
        command = [sys.executable, "-m", "schemathesis.cli", "run", self.server.url + "/openapi.json", "--seed", "1",
                   "--max-examples", str(N_EXAMPLES), "--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS),
                   "--continue-on-failure", "--no-shrink", "--warnings", "off", "--no-color", "--output-sanitize", "false",
                   "--report", "har", "--report-har-path", report]
        done = subprocess.run(command, cwd=folder.name, env=env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(report, encoding="utf-8") as file:
            return json.load(file)["log"]["entries"]

    def test_it_finds_nothing(self):
        entries = self.run_it()
        statuses = collections.defaultdict(collections.Counter)
        for entry in entries:
            request, answer = entry["request"], entry["response"]
            headers = http.client.HTTPMessage()
            for header in answer["headers"]:
                headers[header["name"]] = header["value"]
            content = answer["content"]
            body = content.get("text") or ""
            body = base64.b64decode(body) if content.get("encoding") == "base64" else body.encode()
            target = request["url"].removeprefix(self.server.url)
            CONTRACT.check(request["method"], target, answer["status"], headers, body)  # events too
            statuses[request["method"], CONTRACT.path_of(target)][answer["status"]] += 1
        for operation, counts in statuses.items():
            print(*operation, dict(counts))
        self.assertGreater(len(entries), 1000)
        for path, operations in CONTRACT.document["paths"].items():
            if "{" in path or path == "/openapi.json":  # what is there is not in the document; was read at first
                continue
            for method in operations.keys() & {"get", "post"}:
                self.assertTrue(any(status < 300 for status in statuses[method.upper(), path]), f"{method} {path}")
        self.assertEqual(self.server.live(), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
