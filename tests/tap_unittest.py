"""Runs the unittest cases of one file and writes TAP, so that each single test counts: tap_unittest.py FILE [NAME…]

NAME picks cases as unittest does (Class or Class.method). What the tests and their children print goes to stderr.
"""
import importlib.util
import os
import sys
import time
import unittest


class TapResult(unittest.TestResult):
    def __init__(self, stream):
        super().__init__()
        self.stream = stream
        self.number = 0
        self.notes = []

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        self.failed = False
        self.skipped_because = None

    def note_failure(self, test, err):
        self.failed = True
        self.notes += self._exc_info_to_string(err, test).splitlines()

    def addError(self, test, err):
        super().addError(test, err)
        self.note_failure(test, err)
        if not isinstance(test, unittest.TestCase):  # setUpClass, setUpModule: no test of its own
            self.write(f"not ok {self.next_number()} - {test}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note_failure(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.notes.append(str(subtest))
            self.note_failure(test, err)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.failed = True
        self.notes.append("this test was expected to fail and passed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.skipped_because = reason
        if not isinstance(test, unittest.TestCase):
            self.write(f"ok {self.next_number()} - {test} # SKIP {reason}")

    def stopTest(self, test):
        super().stopTest(test)
        name = ".".join(test.id().split(".")[-2:])
        line = f"{'not ok' if self.failed else 'ok'} {self.next_number()} - {name}"
        if self.skipped_because is not None and not self.failed:
            line += f" # SKIP {self.skipped_because}"
        self.write(line)
        self.notes.append(f"{name} took {time.monotonic() - self.began:.2f} s")
        self.write_notes()

    def next_number(self):
        self.number += 1
        return self.number

    def write_notes(self):
        for note in self.notes:
            self.write(f"# {note}")
        self.notes = []

    def write(self, line):
        print(line.replace("\n", " "), file=self.stream, flush=True)


def main():
    path = os.path.abspath(sys.argv[1])
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module

    tap = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)

    spec.loader.exec_module(module)
    loader = unittest.defaultTestLoader
    picked = sys.argv[2:]
    suite = loader.loadTestsFromNames(picked, module) if picked else loader.loadTestsFromModule(module)
    result = TapResult(tap)
    suite.run(result)
    result.write_notes()
    if result.number == 0:
        result.write(f"not ok {result.next_number()} - {name} holds no test")
    result.write(f"1..{result.number}")
    return 0 if result.wasSuccessful() and result.testsRun + len(result.skipped) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
