"""quern bench against a server, and scripts/bench on the demo model."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

from harness import DEVICE, PATIENCE, QUERN, ROOT, SANITIZED, ServerTest


def bench(*arguments):
    """Status, standard output, standard error."""
    command = [QUERN, "bench", "--log-level", "error", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120 * PATIENCE)
    return result.returncode, result.stdout, result.stderr


class Url(ServerTest):
    arguments = ("--max-model-len", "512", "--max-seqs", "4", "--max-queue", "4")

    def measure(self, *arguments):
        status, out, err = bench("--url", self.server.url, "--output", "json", *arguments)
        self.assertEqual(status, 0, err)
        return json.loads(out)

    def test_streams(self):
        before = self.server.metrics()
        report = self.measure("--prompt-tokens", "12,5", "--new-tokens", 6, "--batch", "1,6", "--repeat", 2)
        after = self.server.metrics()
        self.assertEqual([(entry["prompt_tokens"], entry["batch"], entry["n_tokens"]) for entry in report["decode"]],
                         [(12, 1, 6), (12, 6, 36), (5, 1, 6)])
        for entry in report["decode"]:
            self.assertGreater(entry["first_token_ms"], 0)
            self.assertGreater(entry["total_ms"], 0)
            rate = entry["n_tokens"] / entry["total_ms"] * 1e3
            self.assertAlmostEqual(entry["overall_tokens_per_s"], rate, delta=0.001 + rate * 1e-4)
        # What the server saw: of each length one prompt to warm up and three alone, then two runs of each batch.
        served = {name: after[name] - before[name] for name in after}
        self.assertEqual(served["vllm:generation_tokens_total"], 2 * 4 + 2 * (6 + 36 + 6))
        self.assertEqual(served["vllm:prompt_tokens_total"], 4 * (12 + 5) + 2 * (12 + 6 * 12 + 5))
        self.assertEqual(served["vllm:prefix_cache_hits_total"], 0)
        self.assertEqual(self.server.live()[:2], (0, 0))

    def test_mixed(self):
        report = self.measure("--workload", "mixed", "--requests", 8, "--prompt-range", "3,30", "--output-range", "2,9")
        self.assertEqual(report["mixed"]["requests"], 8)
        self.assertTrue(8 * 2 < report["mixed"]["n_tokens"] < 8 * 9)

    def test_text(self):
        status, out, _ = bench("--url", self.server.url + "/", "--prompt-tokens", 8, "--new-tokens", 4, "--batch", 2)
        self.assertEqual(status, 0)
        self.assertIn(self.server.url, out)
        self.assertIn("first token ms", out)

    def test_refusals_are_told(self):
        status, _, err = bench("--url", self.server.url, "--prompt-tokens", 600)
        self.assertEqual(status, 1)
        self.assertIn("HTTP 400", err)
        self.assertIn("holds 512", err)
        status, _, err = bench("--url", self.server.url, "--batch", 9, "--prompt-tokens", 8, "--new-tokens", 64)
        self.assertEqual(status, 1)
        self.assertIn("HTTP 429", err)
        self.server.wait_for_live(lambda running, waiting, _: running + waiting == 0)

    def test_what_is_no_server(self):
        for url, word in (("127.0.0.1:8000", "http://host:port"), ("http://127.0.0.1", "http://host:port"),
                          ("http://127.0.0.1:1", "Connection refused"), ("http://127.0.0.1:x", "--url")):
            with self.subTest(url):
                status, _, err = bench("--url", url)
                self.assertEqual(status, 1)
                self.assertIn(word, err)


MANY = 65  # tokens: on a busy machine the first request must not have ended before the last one begins
# To measure the bandwidth takes half a minute then.
ONCE = unittest.skipIf(SANITIZED, "with sanitizers test_steps alone starts an engine")


class Engine(unittest.TestCase):
    def measure(self, *arguments):
        status, out, err = bench("--device", DEVICE, *arguments)
        self.assertEqual(status, 0, err)
        return out

    def test_steps(self):
        report = json.loads(self.measure("--prompt-tokens", "6,9", "--batch", "2,1", "--new-tokens", MANY,
                                         "--product-tflops", 1, "--output", "json"))
        runs = [(entry["prompt_tokens"], entry["batch"]) for entry in report["decode"]]
        self.assertEqual(runs, [(6, 2), (6, 1), (9, 2)])
        for entry in report["decode"]:
            kv_bytes = entry["step_kv_tokens"] * report["kv_token_bytes"]
            floor_ms = (report["weights_bytes"] + kv_bytes) / entry["bandwidth_bytes_per_s"] * 1e3
            self.assertAlmostEqual(entry["floor_ms"], floor_ms, delta=floor_ms * 0.01)  # the file holds some padding
            self.assertAlmostEqual(entry["share_of_floor"], entry["floor_ms"] / entry["step_ms"], delta=1e-3)
        # One sequence that sees 7, 8, … and 70 tokens.
        self.assertAlmostEqual(report["decode"][1]["step_kv_tokens"], 38.5, delta=0.1)
        self.assertEqual([entry["prompt_tokens"] for entry in report["prefill"]], [6, 9])
        for entry in report["prefill"]:
            floor_us = entry["operations"] / entry["prompt_tokens"] / 1e6
            self.assertAlmostEqual(entry["floor_us_per_token"], floor_us, delta=1e-3)

    @ONCE
    def test_mixed(self):
        mixed = json.loads(self.measure("--workload", "mixed", "--requests", 3, "--prompt-range", "2,9",
                                        "--output-range", "3,3", "--output", "json"))["mixed"]
        self.assertEqual((mixed["n_tokens"], mixed["longest_output"]), (9, 3))

    @ONCE
    def test_text(self):
        steps = self.measure("--prompt-tokens", 8, "--batch", 2, "--new-tokens", MANY, "--product-tflops", 1)
        self.assertRegex(steps, r"first token ms +us a token +floor us +TFLOP/s +of floor\n +8( +[0-9.]+){5}%\n")
        self.assertRegex(steps, r"floor ms +of floor +tok/s with start\n +8 +2( +[0-9.]+){4}% +[0-9.]+\n")
        mixed = self.measure("--workload", "mixed", "--requests", 2, "--prompt-range", "2,9", "--output-range", "3,3")
        self.assertRegex(mixed, r"mixed +6 tokens for 2 requests in .* tok/s\nfloor .* reached\n")

    @ONCE
    def test_a_phase_that_is_empty_is_told(self):
        status, _, err = bench("--device", DEVICE, "--prompt-tokens", 24, "--new-tokens", 2, "--batch", 8,
                               "--max-batch-tokens", 16, "--max-seqs", 16)
        self.assertEqual(status, 1)
        self.assertIn("--new-tokens 2 is too few", err)


@unittest.skipIf(SANITIZED, "measures nothing that the classes above do not run")
class Script(unittest.TestCase):
    def run_script(self, script, *arguments):
        command = [*script, *map(str, arguments)]
        result = subprocess.run(command, cwd=ROOT, env={**os.environ, "QUERN": os.path.abspath(QUERN)},
                                capture_output=True, text=True, timeout=120 * PATIENCE)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_the_whole_way(self):
        """Measured, printed as a table, printed again from the file as Markdown, drawn."""
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "bench.json")
            table = self.run_script(["scripts/bench"], "--quick", "--device", DEVICE, "--output", report)
            self.assertIn("demo decode, batch 4", table)
            markdown = self.run_script(["scripts/bench"], "--from", report, "--markdown")
            self.assertEqual(len([line for line in markdown.splitlines() if line.startswith("|")]), 2 + 8)
            with open(report, encoding="utf-8") as file:
                self.assertEqual(set(json.load(file)["runs"]), {"demo", "mixed", "http"})
            self.run_script([sys.executable, "scripts/plot_bench.py"], report, folder)
            for name in ("decode-context.svg", "decode-batch.svg"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    self.assertIn("demo", file.read())


if __name__ == "__main__":
    unittest.main()
