#!/usr/bin/env python3
"""Draws decode time against context and against batch from what scripts/bench measured, floors dashed.

    plot_bench.py bench.json [FOLDER]

Writes FOLDER/decode-context.svg and FOLDER/decode-batch.svg; FOLDER is docs when it is not given. Both axes are
logarithmic, so that a cost that doubles with its cause is a line of slope one.
"""
import argparse
import json
import math
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 48, 56  # around the axes; names stand at the right end of their lines
COLORS = ["#1b6ca8", "#c2571a", "#4c8c4a", "#7a4fa3"]


class Axis:
    """Values on a logarithmic scale to a stretch of the picture."""

    def __init__(self, values, begin, end):
        self.low, self.high = min(values), max(values)
        self.begin, self.end = begin, end

    def place(self, value):
        if self.low == self.high:
            return (self.begin + self.end) / 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)


def nice_bounds(values):
    """The next of 1, 2, 5 times a power of ten below and above."""
    def steps():
        for power in range(-6, 7):
            yield from (digit * 10**power for digit in (1, 2, 5))

    return (max(step for step in steps() if step <= min(values) * 1.0001),
            min(step for step in steps() if step >= max(values) * 0.9999))


def ticks_between(low, high):
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def text(x, y, words, anchor="middle", color="#333", size=12, extra=""):
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}'
    return f'<text {place} fill="{color}" font-size="{size}">{escape(words)}</text>'


def line(x1, y1, x2, y2, color="#ddd"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def curve(points, color, dashed):
    dash = ' stroke-dasharray="5 4" opacity="0.8"' if dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'


def drawing(title, x_name, series):
    """series: name -> [(x, measured ms, floor ms)], ascending in x."""
    xs = sorted({x for points in series.values() for x, _, _ in points})
    ys = [y for points in series.values() for _, *pair in points for y in pair]
    across = Axis(xs, LEFT, WIDTH - RIGHT)
    low, high = nice_bounds(ys)
    up = Axis([low, high], HEIGHT - BOTTOM, TOP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(LEFT, 26, title, "start", "#111", 15)]
    for tick in ticks_between(low, high):
        y = up.place(tick)
        parts += [line(LEFT, y, WIDTH - RIGHT, y), text(LEFT - 8, y + 4, f"{tick:g}", "end")]
    for x in xs:
        parts += [line(across.place(x), TOP, across.place(x), HEIGHT - BOTTOM),
                  text(across.place(x), HEIGHT - BOTTOM + 18, f"{x:,}")]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_name),
              text(18, middle, "one step, ms", extra=f' transform="rotate(-90 18 {middle:.0f})"')]
    for (name, points), color in zip(series.items(), COLORS):
        measured = [(across.place(x), up.place(y)) for x, y, _ in points]
        floor = [(across.place(x), up.place(y)) for x, _, y in points]
        parts += [curve(floor, color, True), curve(measured, color, False)]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in measured]
        apart = abs(measured[-1][1] - floor[-1][1]) >= 14  # or the two names would cover each other
        parts += [text(WIDTH - RIGHT + 10, measured[-1][1] + (4 if apart else -5), name, "start", color),
                  text(WIDTH - RIGHT + 10, floor[-1][1] + (4 if apart else 11), f"{name}, floor", "start", color)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def points_of(run, x, keep):
    entries = [entry for entry in run["decode"] if keep(entry)]
    return sorted((entry[x], entry["step_ms"], entry["floor_ms"]) for entry in entries)


def collect(runs, x, other):
    """For each run the entries that share the first value of `other`, as scripts/bench varies one at a time."""
    series = {}
    for name, run in runs.items():
        if run.get("decode") and "step_ms" in run["decode"][0]:
            first = run["decode"][0][other]
            series[name] = points_of(run, x, lambda entry, first=first: entry[other] == first)
    return series


def first_of(runs, key):
    return next(run["decode"][0][key] for run in runs.values() if run.get("decode"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="what scripts/bench wrote")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "docs")
    a = parser.parse_args()
    report = json.loads(a.report.read_text())
    where = f"{report['device'].split(',')[0]}, {report['date']}"
    runs = report["runs"]
    by_context, by_batch = collect(runs, "prompt_tokens", "batch"), collect(runs, "batch", "prompt_tokens")
    context = drawing(f"Decode against context, batch {first_of(runs, 'batch')} ({where})", "prompt tokens", by_context)
    batch = drawing(f"Decode against batch, prompt {first_of(runs, 'prompt_tokens')} ({where})", "sequences in flight",
                    by_batch)
    (a.folder / "decode-context.svg").write_text(context, encoding="utf-8")
    (a.folder / "decode-batch.svg").write_text(batch, encoding="utf-8")


if __name__ == "__main__":
    main()
