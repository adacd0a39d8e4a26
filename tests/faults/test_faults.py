#!/usr/bin/env python3
"""Every system call of the library fails in turn: the program's own results never change, nothing
hangs or crashes, and a report says what is missing, or is complete.

The library is a second build of the same sources (faults.mk), in which one call fails. A first
run notes which calls there are and where they are made. `make faults` then lets each one fail;
`make check` the first one of each place, and the last one alone. Each fails alone, with all later
ones of its kind, and with all later ones of any; with two different errors, where it has two. And in
front of each the ledger's file is truncated, and the call made. All runs of a scenario make the same
calls; where one does not, and another call fails, it is run again.
"""

import collections
import concurrent.futures
import ctypes
import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
from harness import BUILD, SOCKLEAK, clean_environment, is_sanitized, need_build  # noqa: E402

DIRECTORY = os.path.join(BUILD, "faults")
LIBRARY = os.path.join(DIRECTORY, "libsockleak.so")
PROGRAM = os.path.join(DIRECTORY, "faulty")
NO_DEBUG = os.path.join(DIRECTORY, "no_debug.so")
OPTIONS = "exit_grace_ms=0:grace_ms=0"
FILE_BYTES = 1 << 20
HEAD, CALL = struct.Struct("=8I"), struct.Struct("=3IHBB")  # struct faults of seam.c
TRACE_MAX = 1 << 15
TRACE, ONCE, KIND, ALL, CUT = range(5)
MODES = ["trace", "once", "its kind from then on", "all from then on", "the file is cut"]
DEADLINE_S = 20
TRIES = 4
ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
THOROUGH = os.environ.get("FAULTS") == "all"
WORKERS = int(os.environ.get("JOBS", 2)) if THOROUGH else 2  # of `make check`, one of several tests
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # None: where temporary files are

LEAKS = {"create": 1, "grow": 1, "capture": 1, "fork": 3, "signal": 1}
WITH_FILE = ("create", "grow", "fork", "signal")
# What a report may say that it lacks.
SILENT = "no report, or not from every process"
CREATION_CALLS = 16  # of these the ledger's creation is one
RAISING = 297  # rt_tgsigqueueinfo: behind the last report
WRITING = {1, 5, 271, 328}  # write, fstat (is this still stderr?), ppoll, pwritev2 (x86-64)
SAID = re.compile(r"not tracked: |not recorded: |could not be judged|given up|no memory|cannot be|"
                  r"one frame deep|origin unknown|names are missing|some are missing|"
                  r"could not be written|file was truncated")

Call = collections.namedtuple("Call", "process index site number errors_once errors_kind")
Fault = collections.namedtuple("Fault", "call mode variant")
Result = collections.namedtuple("Result", "status out err failed ledgers")


class Switch:
    """The file that tells the library which of its calls is to fail."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.truncate(FILE_BYTES)

    def set(self, process, index, mode, variant):
        with open(self.path, "r+b") as file:
            file.write(HEAD.pack(process, index, mode, variant, 0, 0, 0, 0))

    def counts(self):
        """How many calls there were, and how many were made to fail."""
        with open(self.path, "rb") as file:
            return HEAD.unpack(file.read(HEAD.size))[5:7]

    def calls(self, count):
        with open(self.path, "rb") as file:
            file.seek(HEAD.size)
            return [Call(*CALL.unpack(file.read(CALL.size))) for _ in range(count)]


def end_of(process):
    """Exit status, or "hangs". Popen.wait(timeout) would sleep between its looks."""
    pidfd = os.pidfd_open(process.pid)
    ended = select.select([pidfd], [], [], DEADLINE_S)[0]
    os.close(pidfd)
    if not ended:
        process.kill()
    status = process.wait()
    return status if ended else "hangs"


class Bench:
    """One worker's directory: what it runs does not disturb another's."""

    def __init__(self, directory, with_file):
        self.directory = directory
        self.ledgers = os.path.join(directory, "ledgers") if with_file else None
        # AddressSanitizer's runtime wants to be the first library.
        self.reporting = clean_environment(**{} if is_sanitized() else {"LD_PRELOAD": NO_DEBUG})
        self.switch = Switch(os.path.join(directory, "switch"))

    def run(self, scenario, preloaded=True):
        if self.ledgers:
            shutil.rmtree(self.ledgers, ignore_errors=True)
            os.mkdir(self.ledgers)
        environment = clean_environment(PLUGIN=os.path.join(DIRECTORY, "plugin.so"),
                                        SOCKLEAK_LIBRARY=LIBRARY)
        if preloaded:
            options = OPTIONS + (f":ledger_dir={self.ledgers}" if self.ledgers else "")
            environment.update(LD_PRELOAD=LIBRARY, SOCKLEAK_OPTIONS=options,
                               SOCKLEAK_FAULTS=self.switch.path)
        paths = [os.path.join(self.directory, name) for name in ("out", "err")]
        with open(paths[0], "w+b") as out, open(paths[1], "w+b") as err:
            process = subprocess.Popen([PROGRAM, "--scenario", scenario], env=environment,
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            status = end_of(process)
            out.seek(0)
            err.seek(0)
            texts = [file.read().decode(errors="replace") for file in (out, err)]
        failed = self.switch.counts()[1] if preloaded else 0
        ledgers = len(os.listdir(self.ledgers)) if self.ledgers else 0
        return Result(status, *texts, failed, ledgers)

    def report(self):
        """What the command makes of the ledgers that are left."""
        done = subprocess.run([SOCKLEAK, "report", "--format=json:/dev/stdout", "-q", self.ledgers],
                              env=self.reporting, capture_output=True, text=True,
                              errors="replace", timeout=DEADLINE_S, check=False)
        return done.returncode, done.stdout, done.stderr


def place(call):
    """Function and line of a call's site."""
    out = subprocess.run(["addr2line", "-fie", LIBRARY, hex(call.site - 1)], capture_output=True,
                         text=True, check=False).stdout.split("\n")
    return " < ".join(f"{out[i]} {os.path.basename(out[i + 1])}" for i in range(0, len(out) - 1, 2))


def variants(call, mode):
    """Of the errors that it is given: no two are the same."""
    return range({ONCE: call.errors_once, KIND: call.errors_kind, ALL: 2, CUT: 3}[mode])


def chosen(calls, with_file):
    """All of them where time is none; else of each place the first call, and the last one alone."""
    if THOROUGH:
        modes = (ONCE, KIND, ALL, CUT) if with_file else (ONCE, KIND, ALL)
        return [Fault(call, mode, variant) for call in calls
                for mode in modes for variant in variants(call, mode)]
    by_site = collections.defaultdict(list)
    for call in calls:
        by_site[call.site, call.number].append(call)
    first = {at_site[0] for at_site in by_site.values()}
    last = {at_site[-1] for at_site in by_site.values()} - first
    return sorted([Fault(call, *how) for call in first
                   for how in ((ONCE, 0), (KIND, call.index % 2), (ALL, call.index % 2))] +
                  [Fault(call, CUT, call.index % 3) for call in first if with_file] +
                  [Fault(call, ONCE, call.index % 2) for call in last])


def run_with(bench, scenario, fault):
    """A run in which a call fails, the first one that did, and whether that is the one of the first
    run."""
    call = fault.call
    for _ in range(TRIES):
        bench.switch.set(call.process, call.index, fault.mode, fault.variant)
        result = bench.run(scenario)
        first = bench.switch.calls(1)[0] if result.failed else call
        if result.failed and first == call:
            return result, first, True
    return result, first, False


def may_be_silent(scenario, fault, first, where):
    # What cannot be written is not there, and nothing can be said of it.
    if (fault.mode == ALL or "output.c" in where or
            (fault.mode == KIND and first.number in WRITING)):
        return True
    # A process that has no ledger has none of our signal handlers: it dies of the signal, as bare.
    return scenario == "signal" and "backing.c" in where and first.index <= CREATION_CALLS


def problem(bench, scenario, bare, result, fault=None):
    """What is wrong with a run, or None."""
    if result.status != bare.status:
        return f"status {result.status}, bare {bare.status}"
    if result.out != bare.out:
        for with_us, without in zip(result.out.splitlines(), bare.out.splitlines()):
            if with_us != without:
                return f"the program saw `{with_us}`, bare `{without}`"
        return "the program's output is longer or shorter"
    for line in result.err.splitlines():
        if not line.startswith("=="):
            return f"on stderr: {line}"
    was_cut = fault is not None and fault.mode == CUT and fault.call.number != RAISING
    if was_cut and "no socket leaked" in result.err:
        return "the report knows of no leak"
    leaks = result.err.count("eof-ignored: ")
    complete = len(re.findall(r"\bleak_here\b", result.err)) >= 2 * leaks
    if bench.ledgers and result.ledgers:
        status, document, errors = bench.report()
        if status == 1 and re.search("neither a ledger|empty: no ledger", errors) and not was_cut:
            return None  # it could not even be removed; its name is told
        if status == 1 and fault and fault.mode == CUT and "records are missing" in document and not was_cut:
            return None  # cut behind the last report: the command does not take it for a whole one
        if status not in (0, 23) or (not document and not errors):
            return f"sockleak report: status {status}, {errors}"
        # Those of processes whose ledgers are private are on stderr.
        if SAID.search(result.err) or SAID.search(errors) or SAID.search(document):
            return None
        found = json.loads(document)["summary"]["leaks"]
        counters = [process["counters"] for process in json.loads(document)["processes"]]
        lost = any(value for each in counters for name, value in each.items()
                   if name not in ("born", "closed", "found", "inherited", "adopted", "received"))
        if found + leaks < LEAKS[scenario] and not lost:
            if not result.err:
                return SILENT
            return f"{found} leaks in the ledgers, {leaks} on stderr: {errors}"
        return None
    if result.err.count("== summary: ") < LEAKS[scenario] and not SAID.search(result.err):
        return SILENT
    if (leaks < LEAKS[scenario] or not complete) and not SAID.search(result.err):
        return "the report is incomplete, and does not say so"
    return None


class EveryFault(unittest.TestCase):
    faults = wrong = 0

    @classmethod
    def tearDownClass(cls):
        print(f"all scenarios: {cls.faults} faults, {cls.wrong} wrong", flush=True)

    def check(self, scenario, with_file):
        with tempfile.TemporaryDirectory(prefix="sockleak-faults-", dir=MEMORY) as directory:
            benches = []
            for number in range(WORKERS):
                os.mkdir(os.path.join(directory, str(number)))
                benches.append(Bench(os.path.join(directory, str(number)), with_file))
            bare = benches[0].run(scenario, preloaded=False)
            self.assertIn(bare.status, (3, -15), bare.err)
            benches[0].switch.set(0, 0, TRACE, 0)
            whole = benches[0].run(scenario)
            self.assertIsNone(problem(benches[0], scenario, bare, whole), whole.err)
            count = benches[0].switch.counts()[0]
            self.assertIn(count, range(20, TRACE_MAX))
            calls = benches[0].switch.calls(count)
            faults = chosen(calls, with_file)
            waiting = iter(faults)  # its next() is atomic: whoever is free takes one
            with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
                parts = list(pool.map(
                    lambda bench: self.part(bench, scenario, bare, waiting), benches))
        found = [each for part, _ in parts for each in part]
        missed = sum(each for _, each in parts)
        print(f"{scenario}{', ledger file' if with_file else ''}: {len(faults)} faults at "
              f"{len({(c.site, c.number) for c in calls})} places of {len(calls)} calls, "
              f"{f'{missed} at other calls, ' if missed else ''}{len(found)} wrong", flush=True)
        EveryFault.faults += len(faults)
        EveryFault.wrong += len(found)
        if found:
            self.fail("\n".join(found[:40]))

    @staticmethod
    def part(bench, scenario, bare, faults):
        """What was wrong, and how many faults did not meet the call that they are for."""
        found, missed = [], 0
        for fault in faults:
            result, first, met = run_with(bench, scenario, fault)
            missed += not met
            wrong = problem(bench, scenario, bare, result, fault)
            if not wrong:
                continue
            where = place(first)
            if wrong == SILENT and may_be_silent(scenario, fault, first, where):
                continue
            found.append(f"call {fault.call.index} of process {fault.call.process} "
                         f"({MODES[fault.mode]}, variant {fault.variant}), "
                         f"number {first.number} in {where}: {wrong}\n{result.err[-700:]}")
        return found, missed


def claim(scenario, with_file):
    return lambda self: self.check(scenario, with_file)


for each in LEAKS:
    setattr(EveryFault, f"test_{each}", claim(each, False))
    if each in WITH_FILE:
        setattr(EveryFault, f"test_{each}_with_a_ledger_file", claim(each, True))

if __name__ == "__main__":
    need_build()
    if not os.path.exists(PROGRAM):
        sys.exit(f"{PROGRAM} does not exist: make {PROGRAM}")
    # The kernel is asked of each page of a stack, and a stack that begins anywhere has now one page
    # more, now one less. Where this is not allowed, more faults miss their call.
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)
    unittest.main(verbosity=2)
