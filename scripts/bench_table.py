"""Runs the table of docs/performance.md in one go and prints it: scripts/bench builds the program and calls this.

With a GPU: decode, prefill, mixed load and HTTP at the shapes 0.6b and 8b, and a plain transformers loop where torch is
there. Without: decode and prefill of 0.6b and of the demo model on the processor. Everything measured goes to one JSON
file, from which the table can be printed again and scripts/plot_bench.py draws.
"""
import argparse
import datetime
import http.client
import json
import os
import pathlib
import sys

import bench_runs
from bench_runs import Failed

SECONDS = 520  # for the whole table, without the build
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
CONTEXTS = [128, 512, 2048, 8192, 32768]
# TFLOP/s of a bf16 product of 8192 x 8192 x 8192, for the floor of prefill where neither quern nor torch measured it.
PRODUCT_TFLOPS = {"H200": 775}


# --- what is run: name -> function of (quern, clock, arguments, runs so far)


def listed(numbers):
    return ",".join(map(str, numbers))


def product_tflops(runs, device):
    for name in ("transformers 8b", "transformers 0.6b"):
        if "product_tflops" in runs.get(name, {}):
            return runs[name]["product_tflops"]
    return next((speed for card, speed in PRODUCT_TFLOPS.items() if card in device), 0)


def gpu_plan(a):
    def steps(shape):
        return lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--shape", shape, "--prompt-tokens", listed(CONTEXTS), "--batch", listed(BATCHES),
                           "--repeat", 3])

    plan = {
        "0.6b": steps("0.6b"),
        "8b": steps("8b"),
        "mixed": lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--shape", "0.6b", "--workload", "mixed", "--repeat", 3]),
        "http": lambda quern, clock: bench_runs.over_http(
            quern, clock, "0.6b", a.device, ["--batch", 64, "--repeat", 5]),
        "transformers 0.6b": lambda quern, clock: bench_runs.transformers(clock, "0.6b"),
        "transformers 8b": lambda quern, clock: bench_runs.transformers(clock, "8b"),
    }
    if a.loading:
        plan["loading"] = lambda quern, clock: bench_runs.loading(quern, clock, a.loading, "8b", a.device)
    return plan


def cpu_plan(a):
    return {
        "demo": lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--batch", "1,8,64", "--new-tokens", 64]),
        "0.6b": lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--shape", "0.6b", "--batch", "1,8,16", "--new-tokens", 32]),
        "http": lambda quern, clock: bench_runs.over_http(
            quern, clock, "", a.device, ["--batch", 64, "--new-tokens", 64, "--repeat", 3]),
    }


def quick_plan(a):
    return {
        "demo": lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--prompt-tokens", "16,32", "--batch", "1,4", "--new-tokens", 8]),
        "mixed": lambda quern, clock: bench_runs.quern_bench(
            quern, clock, [*a.device, "--workload", "mixed", "--requests", 8, "--prompt-range", "4,32",
                           "--output-range", "4,16"]),
        "http": lambda quern, clock: bench_runs.over_http(
            quern, clock, "", a.device, ["--prompt-tokens", 16, "--batch", 4, "--new-tokens", 8]),
    }


# --- the rows


def shown(name):
    """0.6B as people write it; the demo model stays as it is."""
    return name.upper() if name[0].isdigit() else name


def row(work, unit, measured, floor=None, must=None, aim=None):
    """One line of the table; more is better where the unit is a rate or a share."""
    more = unit in ("tok/s", "%")
    better = (lambda goal: measured >= goal) if more else (lambda goal: measured <= goal)
    ratio = None
    if floor:
        ratio = measured / floor if more else floor / measured
    verdict = ""
    if must is not None:
        verdict = "aim" if better(aim) else "must" if better(must) else "short"
    return {"work": work, "unit": unit, "floor": floor, "measured": measured, "ratio": ratio, "must": must, "aim": aim,
            "verdict": verdict}


def find(run, kind, **wanted):
    matching = (entry for entry in run.get(kind, []) if all(entry[key] == value for key, value in wanted.items()))
    return next(matching, None)


def decode_row(runs, shape, batch, context, must=None, aim=None):
    entry = find(runs.get(shape, {}), "decode", prompt_tokens=context, batch=batch)
    if not entry:
        return None
    work = f"{shown(shape)} decode, batch {batch}" + (f", {context:,} tokens of context" if context != 128 else "")
    return row(work, "ms", entry["step_ms"], entry["floor_ms"], must, aim)


def prefill_row(runs, shape, n_prompt, must=None, aim=None):
    entry = find(runs.get(shape, {}), "prefill", prompt_tokens=n_prompt)
    if not entry:
        return None
    speed = runs[shape].get("product_tflops") or product_tflops(runs, runs[shape]["device"])
    floor = entry["operations"] / speed / n_prompt / 1e6 if speed else None
    work = f"{shown(shape)} prefill, one prompt of {n_prompt:,}"
    return row(work, "us a token", entry["us_per_token"], floor, must, aim)


def mixed_row(runs, must=None, aim=None):
    run = runs.get("mixed")
    if not run:
        return None
    mixed = run["mixed"]
    (least_in, most_in), (least_out, most_out) = mixed["prompt_range"], mixed["output_range"]
    work = (f"{shown(run['model'])}, {mixed['requests']} requests at once, {least_in:,} to {most_in:,} in and "
            f"{least_out:,} to {most_out:,} out")
    return row(work, "tok/s", mixed["overall_tokens_per_s"], mixed["floor_tokens_per_s"], must, aim)


def http_row(runs, name, must=None, aim=None):
    """What was run over HTTP, against the same run of the engine alone."""
    served = next(iter(runs.get("http", {}).get("decode", [])), None)
    alone = served and find(runs.get(name, {}), "decode", prompt_tokens=served["prompt_tokens"], batch=served["batch"])
    if not alone:
        return None
    share = 100 * served["overall_tokens_per_s"] / alone["overall_tokens_per_s"]
    work = f"{shown(name)} over HTTP, {served['batch']} streams against the engine alone"
    return row(work, "%", share, None, must, aim)


def first_token_row(runs, name, must=None, aim=None):
    entry = next(iter(runs.get("http", {}).get("prefill", [])), None)
    if not entry:
        return None
    work = f"time to first token, {shown(name)}, prompt {entry['prompt_tokens']}, idle server, over HTTP"
    return row(work, "ms", entry["first_token_ms"], None, must, aim)


def loading_row(runs, must=None, aim=None):
    if "loading" not in runs:
        return None
    return row("8B from page cache to the first token", "s", runs["loading"]["first_token_s"], None, must, aim)


def yardstick_row(runs, shape):
    run = runs.get(f"transformers {shape}")
    return run and row(f"for comparison: transformers, {shown(shape)} decode, batch 1", "ms", run["step_ms"])


def gpu_rows(runs):
    rows = [
        decode_row(runs, "0.6b", 1, 128, 0.50, 0.37),
        decode_row(runs, "8b", 1, 128, 4.1, 3.85),
        decode_row(runs, "0.6b", 64, 128, 1.1, 0.85),
        decode_row(runs, "0.6b", 256, 128, 2.6, 2.1),
        decode_row(runs, "8b", 64, 128, 5.2, 4.6),
        decode_row(runs, "8b", 256, 128, 8.0, 6.6),
        decode_row(runs, "8b", 1, 32768, 5.6, 5.2),
        prefill_row(runs, "8b", 2048, 28, 23),
        prefill_row(runs, "8b", 8192, 31, 26),
        mixed_row(runs, 24000, 31000),
        loading_row(runs, 4, 2),
        http_row(runs, "0.6b", 95, 99),
        first_token_row(runs, "0.6b", 5, 2.5),
        yardstick_row(runs, "0.6b"),
        yardstick_row(runs, "8b"),
    ]
    return [entry for entry in rows if entry]


def other_rows(runs):
    """All that was run, without goals: the processor's table."""
    rows = []
    for name, run in runs.items():
        if name in ("http", "mixed") or "decode" not in run:
            continue
        rows += [decode_row(runs, name, entry["batch"], entry["prompt_tokens"]) for entry in run["decode"]]
        rows += [prefill_row(runs, name, entry["prompt_tokens"]) for entry in run["prefill"]]
    rows += [mixed_row(runs), http_row(runs, "demo"), first_token_row(runs, "demo")]
    return [entry for entry in rows if entry]


def rows_of(report):
    return gpu_rows(report["runs"]) if report["table"] == "gpu" else other_rows(report["runs"])


# --- printing


def number(value, unit):
    if value is None:
        return "-"
    if unit == "tok/s":
        return f"{value:,.0f}"
    return f"{value:.1f}" if unit in ("%", "us a token") else f"{value:.3f}"


def cells(entry):
    unit = entry["unit"]
    measured = f"{number(entry['measured'], unit)} {unit}"
    ratio = f"{100 * entry['ratio']:.1f} %" if entry["ratio"] else "-"
    return [entry["work"], number(entry["floor"], unit), measured, ratio, number(entry["must"], unit),
            number(entry["aim"], unit), entry["verdict"]]


HEAD = ["work", "floor", "measured", "of floor", "must", "aim", "reached"]


def print_table(rows):
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    for line in lines:
        texts = [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
        print("  ".join(texts).rstrip())


def print_markdown(report, rows):
    print(f"{report['date']}, {report['device']}, quern {report['version']}, `scripts/bench`:\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for entry in rows:
        print("| " + " | ".join(cells(entry)) + " |")
    print()
    for name, run in report["runs"].items():
        if "command" in run:
            print(f"- {name}: `{run['command']}`")


# --- the whole


def has_gpu(quern, device):
    """By what the program itself takes when it may choose."""
    clock = bench_runs.Clock(60)
    probe = bench_runs.quern_bench(quern, clock, [*device, "--prompt-tokens", 1, "--new-tokens", 1, "--batch", 1,
                                                  "--model", bench_runs.DEMO])
    return probe["backend"] == "cuda", probe["device"], probe["version"]


def measure(a, quern):
    clock = bench_runs.Clock(SECONDS)
    gpu, device, version = has_gpu(quern, a.device)
    plan = quick_plan(a) if a.quick else gpu_plan(a) if gpu else cpu_plan(a)
    report = {"date": datetime.date.today().isoformat(), "device": device, "version": version,
              "table": "quick" if a.quick else "gpu" if gpu else "cpu", "runs": {}, "failures": {}}
    for name, run in plan.items():
        if a.only and name not in a.only.split(","):
            continue
        print(f"{name} …", end="", file=sys.stderr, flush=True)
        left = clock.left()
        try:
            report["runs"][name] = run(quern, clock)
            print(f" {left - clock.left():.1f} s", file=sys.stderr)
        except (Failed, OSError, ValueError, http.client.HTTPException) as failure:  # the others still count
            report["failures"][name] = str(failure)
            print(f" not measured: {failure}", file=sys.stderr)
        report["seconds"] = round(SECONDS - clock.left(), 1)
        report["rows"] = rows_of(report)
        a.output.write_text(json.dumps(report, indent=1) + "\n")  # what is measured is kept, whatever comes next
    return report


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("bench.json"), metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="FILE",
                        help="print the table of an earlier run and measure nothing")
    parser.add_argument("--only", metavar="NAME,…", help="these runs alone: 0.6b, 8b, mixed, http, …")
    parser.add_argument("--loading", type=pathlib.Path, metavar="DIR",
                        help="also load an 8B checkpoint from there; one of 16 GB is written if the folder has none")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="the demo model for a moment: does it all still work?")
    a = parser.parse_args()
    a.device = ["--device", a.device]
    return a


def main():
    a = parse_arguments()
    if a.source:
        report = json.loads(a.source.read_text())
    else:
        report = measure(a, os.path.abspath(os.environ["QUERN"]))
    rows = rows_of(report)
    if a.markdown:
        print_markdown(report, rows)
    else:
        print_table(rows)
    for name, failure in report["failures"].items():
        print(f"not measured: {name}: {failure}")
    # A yardstick that is not there is no failure.
    return 1 if any(not name.startswith("transformers") for name in report["failures"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"scripts/bench: {failure}")
