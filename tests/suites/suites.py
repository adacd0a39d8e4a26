#!/usr/bin/env python3
"""Other people's test suites and long runs of other people's programs, bare and preloaded.

    tests/suites/suites.py [--list] [--jobs N] [--quick] [SUITE...]

Runs the suites (all, or those that are named SUITE or begin so) and compares outcome by outcome. What
differs is run again on both sides, to tell a difference from a flaky test; compare.py says how. The
long runs, and suites with findings, are also run with a witness, and their reports are compared
with the kernel's table (truth.py). The long runs and some suites are also run below `sockleak run`.

Everything is kept in BUILD/suites/SUITE/, the table in BUILD/suites/table.txt. Exit status 1 where
something differs or a report is wrong, 77 where nothing could be run.
"""

import argparse
import concurrent.futures
import os
import sys
import threading
import traceback

import passes
from passes import BARE, PRELOADED, RUN, WITNESSED, Pass, Stopwatch

import compare
import cpython
import glib
import harness
import long_runs
import truth

ALL = [*cpython.SUITES, *glib.SUITES, *long_runs.SUITES]
# What `make check` has time for.
QUICK = ("cpython/test_socketserver", "cpython/test_httplib", "cpython/test_urllib2_localnet",
         "long/socat")
DIRECTORY = os.path.join(harness.BUILD, "suites")
RETRIES = 4
WITNESSED_RUNS = 3  # at most


class Row:
    """What became of a suite."""

    def __init__(self, suite):
        self.suite = suite
        self.skipped = None
        self.tallies, self.seconds = {}, {}
        self.failing = []  # bare
        self.variations = []
        self.findings = {}  # mode -> findings
        self.reporting = 0  # processes that reported, preloaded
        self.compared = self.to_compare = 0  # processes, with the kernel
        self.unwitnessed = None  # why nothing could be compared with the kernel
        self.unproven = set()  # kinds of findings that no witnessed run had
        self.problems = []

    @property
    def differences(self):
        return [v for v in self.variations if v.is_difference]

    @property
    def flaky(self):
        return [v for v in self.variations if not v.is_difference]

    @property
    def failed(self):
        return bool(self.differences or self.problems)

    def verdict(self):
        if self.skipped:
            return f"skipped: {self.skipped}"
        words = [f"{len(self.differences)} differ"] if self.differences else []
        words += [f"{len(self.problems)} problems"] if self.problems else []
        words = words or ["same"]
        if self.flaky:
            words.append(f"{len(self.flaky)} flaky")
        leaks = max((sum(f[3] for f in found) for found in self.findings.values()), default=0)
        if leaks:
            words.append(f"{leaks} leaked")
        if self.reporting:
            words.append(f"{self.reporting} processes reported")
        if self.unwitnessed:
            words.append(f"not compared with the kernel: {self.unwitnessed}")
        if self.compared:
            words.append(f"{self.compared} of {self.to_compare} compared with the kernel")
        return ", ".join(words)

    def line(self):
        columns = []
        for mode in (BARE, PRELOADED):
            counts = self.tallies.get(mode)
            columns.append(f"{counts[0]:>6} {counts[1]:>4} {counts[2]:>5}" if counts else " " * 17)
        seconds = " ".join(f"{self.seconds[mode]:>6.1f}" if mode in self.seconds else " " * 6
                           for mode in (BARE, PRELOADED))
        return f"{self.suite.name:<36} {columns[0]}   {columns[1]}  {seconds}  {self.verdict()}"

    def details(self):
        for variation in self.differences:
            yield f"{self.suite.name}: DIFFERS: {variation}"
        for problem in self.problems:
            yield f"{self.suite.name}: PROBLEM: {problem}"
        for variation in self.flaky:
            yield f"{self.suite.name}: flaky: {variation}"
        for failure in self.failing:
            yield f"{self.suite.name}: fails bare: {failure}"
        for mode, found in self.findings.items():
            kinds = {}
            for finding in found:
                sockets, pids = kinds.setdefault(kind(finding), ([], set()))
                sockets.append(finding[3])
                pids.add(finding[0])
            for (program, verdict, birth), (sockets, pids) in sorted(kinds.items()):
                yield f"{self.suite.name}: leaked ({mode}): {verdict}, {program}, {birth}: " \
                      f"{sum(sockets)} sockets in {len(pids)} processes"
        for program, verdict, birth in sorted(self.unproven):
            yield f"{self.suite.name}: not seen with the witness: {verdict}, {program}, {birth}"


def shortened(text):
    return text if len(text) <= 3000 else f"{text[:1500]} ... {text[-1500:]}"


HEADER = (f"{'':<36} {'bare':^17}   {'preloaded':^17}  {'seconds':^13}\n"
          f"{'suite':<36} {'ok':>6} fail  skip   {'ok':>6} fail  skip    bare preload")


def kind(finding):
    """What makes findings of two runs the same."""
    _, program, verdict, _, birth = finding
    return program, verdict, birth


class Execution:
    """Runs one suite, in all its modes."""

    def __init__(self, suite):
        self.suite, self.row = suite, Row(suite)
        self.directory = os.path.join(DIRECTORY, suite.name.replace("/", "-"))

    def execute(self, mode, label, only=None):
        run = Pass(os.path.join(self.directory, label), mode)
        try:
            outcomes = self.suite.execute(run, only)
        finally:
            run.end()
        return run, outcomes

    def timed(self, mode):
        watch = Stopwatch()
        run, outcomes = self.execute(mode, mode)
        self.row.seconds[mode] = watch.seconds()
        self.row.tallies[mode] = compare.tally(outcomes)
        with open(os.path.join(run.directory, "outcomes"), "w", encoding="utf-8") as file:
            file.writelines(f"{outcome}\t{name}\n" for name, outcome in outcomes.items())
        return run, outcomes

    def note_findings(self, run):
        found = run.findings()
        if found:
            self.row.findings.setdefault(run.mode, []).extend(found)
        return found

    def compare(self, bare, mode, watched):
        """Compares the outcomes of a mode with those bare, and runs again what differs."""
        as_seen = compare.below_the_command if mode == RUN else dict
        names = compare.differing(as_seen(bare), as_seen(watched))
        if not names:
            return
        variations = [compare.Variation(name, mode) for name in names]
        for attempt in range(1 + RETRIES):
            if attempt:
                bare, watched = (self.execute(side, f"{side}-again{attempt}", names)[1]
                                 for side in (BARE, mode))
            for variation in variations:
                variation.add(as_seen(bare), as_seen(watched))
        self.row.variations += variations

    def compare_with_kernel(self, found):
        """Until each kind of finding that was there without the witness was there with it, too:
        some depend on who ends first."""
        wanted, proven = {kind(f) for f in found}, set()
        for attempt in range(WITNESSED_RUNS):
            run, _ = self.execute(WITNESSED, f"{WITNESSED}{attempt}")
            proven |= {kind(f) for f in self.note_findings(run)}
            compared, reporting, problems = truth.check(run)
            self.row.compared += compared
            self.row.to_compare += reporting
            self.row.problems += problems
            if wanted <= proven:
                return
        self.row.unproven = wanted - proven

    def run(self):
        self.row.skipped = self.suite.missing()
        if self.row.skipped:
            return self.row
        _, bare = self.timed(BARE)
        self.row.failing = [f"{name}: {text}" for name, text in bare.items()
                            if compare.is_failure(text)]
        if not self.row.tallies[BARE][0]:
            self.row.problems.append("nothing succeeds bare: there is nothing to compare")
        run, preloaded = self.timed(PRELOADED)
        found, self.row.reporting = self.note_findings(run), run.reporting()
        self.compare(bare, PRELOADED, preloaded)
        if found or self.suite.witnessed_always:
            self.row.unwitnessed = passes.missing_witness()
            if not self.row.unwitnessed:
                self.compare_with_kernel(found)
        if self.suite.run_below_command:
            run, outcomes = self.execute(RUN, RUN)
            self.note_findings(run)
            self.compare(bare, RUN, outcomes)
        return self.row


def execute(suite):
    execution = Execution(suite)
    try:
        return execution.run()
    except Exception:  # pylint: disable=broad-except
        execution.row.problems.append(traceback.format_exc())
        return execution.row


def chosen(options):
    if options.suites:
        suites = [s for s in ALL if s.name in options.suites] or \
            [s for s in ALL if s.name.startswith(tuple(options.suites))]
        if not suites:
            sys.exit(f"suites.py: no suite is named {' or '.join(options.suites)}; see --list")
        return suites
    return [s for s in ALL if s.name in QUICK] if options.quick else ALL


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
                        help="suites at once (2)")
    parser.add_argument("--quick", action="store_true", help="the part that `make check` runs")
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    return parser.parse_args()


def main():
    options = arguments()
    suites = chosen(options)
    if options.list:
        print("\n".join(suite.name for suite in suites))
        return 0
    for program in (harness.LIBRARY, passes.SOCKLEAK, passes.WITNESS):
        if not os.path.exists(program):
            sys.exit(f"{program} does not exist: build it first, and set BUILD")
    os.makedirs(DIRECTORY, exist_ok=True)
    rows, lock = [], threading.Lock()
    with open(os.path.join(DIRECTORY, "table.txt"), "w", encoding="utf-8") as table:
        def say(text):
            with lock:
                print(text, flush=True)
                print(text, file=table, flush=True)
        say(HEADER)
        watch = Stopwatch()
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for future in concurrent.futures.as_completed(pool.submit(execute, s) for s in suites):
                rows.append(future.result())
                say(rows[-1].line())
        for row in rows:
            for detail in row.details():
                say(shortened(detail))
        ran = [row for row in rows if not row.skipped]
        outcomes = sum(sum(row.tallies.get(BARE, ())) for row in ran)
        failed = [row for row in ran if row.failed]
        say(f"{len(ran)} suites, {outcomes} outcomes, {len(failed)} suites with differences or "
            f"problems, {len(rows) - len(ran)} skipped, {watch.seconds():.0f} s")
    return 1 if failed else 0 if ran else harness.SKIPPED


if __name__ == "__main__":
    sys.exit(main())
