"""Counts the single tests of a Meson run: count_tests.py testlog.json prints "PASSED FAILED SKIPPED".

A program that writes TAP counts as its cases, any other as one. One that ends badly (crash, time out, sanitizer) without
naming a failed case counts as one failure more."""
import json
import re
import sys

CASE = re.compile(r"^(not )?ok\b([^#\n]*)(#\s*skip)?", re.IGNORECASE | re.MULTILINE)
PLAN = re.compile(r"^1\.\.\d+", re.MULTILINE)


def count(record):
    passed = failed = skipped = 0
    output = record.get("stdout") or ""
    tap = PLAN.search(output) is not None
    for bad, _, skip in CASE.findall(output) if tap else ():
        if bad:
            failed += 1
        elif skip:
            skipped += 1
        else:
            passed += 1
    result = record["result"]
    if result == "SKIP":
        return (0, 0, max(skipped, 1))
    if result not in ("OK", "EXPECTEDFAIL"):
        return (passed, max(failed, 1), skipped)
    return (passed, failed, skipped) if tap else (1, 0, 0)


def main():
    totals = [0, 0, 0]
    with open(sys.argv[1], encoding="utf-8") as log:
        for line in log:
            totals = [total + more for total, more in zip(totals, count(json.loads(line)))]
    print(*totals)


if __name__ == "__main__":
    main()
