"""The runs that scripts/bench makes: each returns what it measured as a dict, or raises Failed."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = ROOT / "config" / "shapes"
DEMO = ROOT / "models" / "demo"


class Failed(Exception):
    pass


class Clock:
    """What is left of the time for the whole table."""

    def __init__(self, seconds):
        self.began = time.monotonic()
        self.seconds = seconds

    def left(self):
        return self.seconds - (time.monotonic() - self.began)

    def limit(self, seconds):
        if self.left() < 5:
            raise Failed("no time was left")
        return min(seconds, self.left())


def run_json(command, seconds):
    """Runs a program whose last line of output is one JSON object."""
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"not done after {seconds:.0f} s") from expired
    if result.returncode != 0 or not result.stdout.strip():
        raise Failed((result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1])
    return json.loads(result.stdout.strip().splitlines()[-1])


def quern_bench(quern, clock, arguments, seconds=240):
    command = [quern, "bench", "--output", "json", "--log-level", "error", *map(str, arguments)]
    began = time.monotonic()
    measured = run_json(command, clock.limit(seconds))
    return {"command": " ".join(["quern", *command[1:]]), "seconds": round(time.monotonic() - began, 1), **measured}


# --- over HTTP


def write_shape_folder(folder, shape):
    """A model folder of a published shape without weights. Its tokenizer is the demo's, with a made-up word for each
    further id of the shape, so that every token that random weights choose has a text as long as real ones have."""
    folder = pathlib.Path(folder)
    shutil.copyfile(SHAPES / f"{shape}.json", folder / "config.json")
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    first = 1 + max([*vocab.values(), *(token["id"] for token in tokenizer["added_tokens"])])
    n_tokens = json.loads((SHAPES / f"{shape}.json").read_text())["vocab_size"]
    vocab.update({f"\u0120w{number}": number for number in range(first, n_tokens)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


@contextlib.contextmanager
def serving(quern, arguments, seconds):
    """quern serve on a free port; gives (url, seconds until it was ready, its log so far)."""
    with tempfile.TemporaryFile("w+") as log:
        began = time.monotonic()
        process = subprocess.Popen([quern, "serve", "--port", "0", *map(str, arguments)], cwd=ROOT, stdout=log,
                                   stderr=subprocess.STDOUT)
        try:
            while True:
                text = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
                ready = re.search(r"ready: \S+", text)
                if ready:
                    break
                if process.poll() is not None or time.monotonic() - began > seconds:
                    raise Failed((text.strip().splitlines() or ["the server said nothing"])[-1])
                time.sleep(0.002)
            yield re.search(r"listening on (http://[^\s,]+)", text).group(1), time.monotonic() - began, text
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def over_http(quern, clock, shape, device, arguments, server=()):
    """shape "" is the demo model."""
    with tempfile.TemporaryDirectory() as folder:
        model = ["--model", DEMO]
        if shape:
            write_shape_folder(folder, shape)
            model = ["--model", folder, "--load-format", "dummy"]
        options = [*model, *device, "--log-level", "info", *server]
        with serving(quern, options, clock.limit(120)) as (url, _, _):
            return quern_bench(quern, clock, ["--url", url, *arguments], 60)


# --- loading


def write_checkpoint(folder, shape):
    """A checkpoint of the right size; its elements repeat, which does not matter to how fast it loads."""
    command = [sys.executable, ROOT / "scripts" / "dummy_weights.py", SHAPES / f"{shape}.json", folder, "--repeat"]
    if subprocess.run(command, check=False).returncode != 0:
        raise Failed("scripts/dummy_weights.py failed")


def first_answer(url):
    address = url.removeprefix("http://")
    body = json.dumps({"prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0})
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Failed(f"HTTP {answer.status}: {answer.read()[:200]!r}")
        answer.read()


def loading(quern, clock, folder, shape, device):
    """From the start of the program to the first token, the files being in the page cache."""
    folder = pathlib.Path(folder).resolve()
    if not (folder / "config.json").exists():
        write_checkpoint(folder, shape)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with open(file, "rb") as stream:
            while stream.read(1 << 26):
                pass
    options = ["--model", folder, "--tokenizer", DEMO, *device]
    began = time.monotonic()
    with serving(quern, options, clock.limit(180)) as (url, ready_s, log):
        first_answer(url)
        total_s = time.monotonic() - began
    started = re.search(r"started: (.*)", log)
    return {"bytes": sum(file.stat().st_size for file in files), "ready_s": ready_s, "first_token_s": total_s,
            "started": started.group(1) if started else ""}


# --- the yardstick


def transformers(clock, shape, seconds=60):
    command = [sys.executable, str(ROOT / "scripts" / "bench_transformers.py"), str(SHAPES / f"{shape}.json"),
               "--seconds", str(int(seconds / 2))]
    return run_json(command, clock.limit(seconds))
