#!/usr/bin/env python3
"""Every way a process ends: status and output as bare, the leak found, nothing printed twice.

The table is tests/ends/ends.c's (`ends --list`). Each end is run bare, with LD_PRELOAD alone, and by
`sockleak run`. --table and --markdown print what came out.
"""

import collections
import concurrent.futures
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
from harness import BUILD, LIBRARY, SOCKLEAK, clean_environment, need_build, read  # noqa: E402

PROGRAM = os.path.join(BUILD, "tests", "ends", "ends")
SKIPPED = 77
DEADLINE_S = 30
FUNCTION = "leak_one"
NAMES_MISSING = "names are missing"
# Ages are not what this is about: a leak counts at once.
OPTIONS = {"exit_grace_ms": "0", "grace_ms": "0"}
PR_SET_CHILD_SUBREAPER = 36

Row = collections.namedtuple("Row", "name found_by why")
Run = collections.namedtuple("Run", "status out err others")


def rows():
    listed = subprocess.run([PROGRAM, "--list"], env=clean_environment(), capture_output=True,
                            text=True, check=True).stdout
    return [Row(*line.split("\t")) for line in listed.splitlines()]


def run(command, **environment):
    """Runs it in a process that also waits for what outlives it, daemons too: `others` are the
    statuses of those."""
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err, \
            tempfile.TemporaryFile("w+b") as statuses:
        keeper = os.fork()
        if keeper == 0:
            keep(command, clean_environment(**environment), out, err, statuses)
        os.waitpid(keeper, 0)
        texts = []
        for file in (out, err, statuses):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    status, others = json.loads(texts[2])
    return Run(status, texts[0], texts[1], sorted(others))


def keep(command, environment, out, err, statuses):
    code = 1
    try:
        signal.alarm(DEADLINE_S)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err)
        status, others = None, []
        while True:
            try:
                pid, ended = os.wait()
            except ChildProcessError:
                break
            if pid == process.pid:
                status = ended
            else:
                others.append(ended)
        statuses.write(json.dumps([status, others]).encode())
        statuses.flush()
        code = 0
    finally:
        os._exit(code)


class Outcome:
    """One row's three runs, and what they say."""

    def __init__(self, row):
        self.row = row
        self.bare = run([PROGRAM, row.name])
        self.skipped = None
        if os.waitstatus_to_exitcode(self.bare.status) == SKIPPED:
            self.skipped = self.bare.err.strip().splitlines()[-1]
            return
        self.preloaded = run([PROGRAM, row.name], LD_PRELOAD=LIBRARY,
                             SOCKLEAK_OPTIONS=":".join(f"{k}={v}" for k, v in OPTIONS.items()))
        with tempfile.TemporaryDirectory(prefix="sockleak-ends-") as directory:
            report = os.path.join(directory, "report.json")
            options = [word for k, v in OPTIONS.items() for word in ("--option", f"{k}={v}")]
            self.run = run([SOCKLEAK, "run", "--format=json:" + report, *options, "--", PROGRAM,
                            row.name])
            self.document = json.loads(read(report)) if os.path.exists(report) else None

    def same_status(self):
        return (self.bare.status, self.bare.others) == (self.preloaded.status,
                                                        self.preloaded.others)

    def same_output(self):
        return self.bare.out == self.preloaded.out == self.run.out

    def found_by_preload(self):
        """How often the leak is told, with its function where there is a file to read it from."""
        named = FUNCTION in self.preloaded.err or NAMES_MISSING in self.preloaded.err
        return self.preloaded.err.count("1 socket, eof-ignored") if named else 0

    def found_by_run(self):
        """How many sockets with our origin and our end of stream."""
        return sum(finding["count"] for process in self.document["processes"]
                   for finding in process["findings"]
                   if finding["verdict"] == "eof-ignored" and FUNCTION in json.dumps(finding["birth"]))

    def leaks(self):
        return self.document["summary"]["leaks"]

    def words(self):
        """The columns of the table."""
        if self.skipped:
            return [self.row.name, self.skipped, "", "", ""]
        status = os.waitstatus_to_exitcode(self.bare.status)
        status = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        own = "yes" if self.found_by_preload() else f"no: {self.row.why}"
        return [self.row.name,
                status if self.same_status() else f"DIFFERS: {self.preloaded.status}", own,
                "yes" if self.found_by_run() == 1 == self.leaks() else "NO",
                "yes" if self.same_output() and self.found_by_preload() <= 1 else "NO"]


HEAD = ["end", "status, bare and preloaded", "found by LD_PRELOAD", "found by `sockleak run`",
        "told once"]


def outcomes():
    table = rows()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(Outcome, table))


def print_table(markdown):
    lines = [HEAD] + [outcome.words() for outcome in outcomes()]
    if markdown:
        for i, line in enumerate(lines):
            print("| " + " | ".join(line) + " |")
            if i == 0:
                print("|" + " --- |" * len(line))
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())


class TheEndsOfAProcess(unittest.TestCase):
    maxDiff = None


def claim(row):
    def test(self):
        outcome = Outcome(row)
        if outcome.skipped:
            self.skipTest(outcome.skipped)
        bare, preloaded = outcome.bare, outcome.preloaded
        self.assertEqual(preloaded.status, bare.status, preloaded.err)
        self.assertEqual(preloaded.others, bare.others, preloaded.err)
        self.assertEqual(preloaded.out, bare.out)
        self.assertEqual(outcome.run.out, bare.out)
        expected = 1 if row.found_by == "preload" else 0
        self.assertEqual(outcome.found_by_preload(), expected, preloaded.err)
        self.assertEqual(preloaded.err.count("== summary: "), expected, preloaded.err)
        if expected == 0:
            self.assertEqual(preloaded.err, bare.err)
        self.assertIsNotNone(outcome.document, outcome.run.err)
        self.assertEqual(outcome.found_by_run(), 1, outcome.run.err)
        self.assertEqual(outcome.leaks(), 1, outcome.run.err)
        self.assertEqual(outcome.run.err.count("eof-ignored"), 1, outcome.run.err)
        self.assertEqual(os.waitstatus_to_exitcode(outcome.run.status), 23, outcome.run.err)
    return test


if __name__ == "__main__":
    need_build()
    if not os.path.exists(PROGRAM):
        sys.exit(f"{PROGRAM} does not exist: make {PROGRAM}")
    if sys.argv[1:] in (["--table"], ["--markdown"]):
        print_table(sys.argv[1] == "--markdown")
    else:
        for number, each in enumerate(rows()):
            words = "".join(c if c.isalnum() else "_" for c in each.name)
            setattr(TheEndsOfAProcess, f"test_{number:02}_{words}", claim(each))
        unittest.main(verbosity=2)
