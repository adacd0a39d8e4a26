#!/usr/bin/env python3
"""Runs the stress (stress.c), seed after seed, until the time is over or something disagrees.

    tests/stress/run.py --seconds S [--seed N]... [--first-seed N] [--operations N]

What disagrees is run again with fewer and fewer operations. At the end stand the seed, the shortest
prefix found that still shows it, of that the operations that are needed, and what they did.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ.get("BUILD") or "build").resolve()
OPTIONS = "grace_ms=0:exit_grace_ms=0:families=all:max_sockets=1"
TIMEOUT_S = 240
SHOWN_LINES = 60
Result = collections.namedtuple("Result", "status text errors")

ALL_SEEN = ["--seen", "--no-children", "--processes=1", "--threads=2"]

# How a seed is run: in turns it can be cut short, free it finds what only happens side by side.
WAYS = [
    [],
    ["--free"],
    ["--processes=1", "--threads=1"],
    ["--processes=3", "--threads=2"],
    ["--free", "--processes=1", "--threads=8"],
    ALL_SEEN,
    ["--seen", "--no-children", "--free", "--processes=1", "--threads=8"],
    ["--seen", "--free", "--processes=1", "--threads=4"],
]


@functools.lru_cache
def sanitizer():
    """The runtime that the library was built against must come first: LD_PRELOAD's order."""
    needed = subprocess.run(["ldd", BUILD / "libsockleak.so"], stdout=subprocess.PIPE, text=True,
                            check=True).stdout
    return re.findall(r"=> (\S*lib[at]san\S*)", needed)


def environment(options=OPTIONS):
    out = {k: v for k, v in os.environ.items() if not k.startswith(("SOCKLEAK_", "LD_"))}
    out["LD_PRELOAD"] = " ".join(sanitizer() + [str(BUILD / "libsockleak.so")])
    out["SOCKLEAK_OPTIONS"] = options
    out.setdefault("ASAN_OPTIONS", "detect_leaks=0")
    # ThreadSanitizer sets its own handlers of crashes before it is ready to run instrumented code,
    # and sigaction is one of the library's functions. To put names in a report (symbolize) its
    # runtime opens and closes files by libc's functions, and so calls the library; as it ignores
    # what is atomic then, but not what is not, a record that such a close frees is a race with
    # whoever takes it next; and one that is found in there waits for ever for the end of the
    # report. So it puts no names, and named() does.
    signals = ("segv", "abort", "sigill", "sigbus", "sigfpe", "sigtrap")
    out.setdefault("TSAN_OPTIONS",
                   " ".join(f"handle_{name}=0" for name in signals) + " exitcode=0 symbolize=0")
    return out


def program():
    """ThreadSanitizer of gcc 12 does not know where today's kernels put programs: no ASLR then."""
    fixed = ["setarch", "-R"] if any("libtsan" in path for path in sanitizer()) else []
    return [*fixed, BUILD / "tests/stress/stress"]


def is_of_descriptors(block):
    """A race that ThreadSanitizer's runtime has with itself: it does not always say of what."""
    accesses = re.findall(r"^  (?:Previous )?(?:atomic )?(?:write|read) of .*\n    #0 (.*)$", block,
                          re.M | re.I)
    return ("Location is file descriptor" in block or
            (accesses and all("libtsan" in at for at in accesses) and
             "libsockleak.so" not in block))


def named(block):
    """A report of ThreadSanitizer's, with functions and lines in the place of "<null> <null>"."""
    files = [BUILD / "libsockleak.so", program()[-1], *map(pathlib.Path, sanitizer())]
    paths = {path.name: path for path in files}

    def name(found):
        module, offset = found.groups()
        if module not in paths:
            return found.group()
        out = subprocess.run(["addr2line", "-fpis", "-e", paths[module], offset], text=True,
                             stdout=subprocess.PIPE, check=False).stdout
        return f"{out.strip()} ({module}+{offset})" if out else found.group()

    return re.sub(r"<null> <null> \((\S+?)\+(0x[0-9a-f]+)\)", name, block)


def run(arguments, timeout_s=TIMEOUT_S):
    """One run. What the sanitizers say, which stderr has beside the library's reports, fails it."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([*program(), *arguments], env=environment(),
                                   stdout=subprocess.PIPE, stderr=errors, text=True,
                                   start_new_session=True)
        try:
            text, _ = process.communicate(timeout=timeout_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            text, status = process.communicate()[0] + "stress: no end\n", -9
        errors.seek(0)
        found = re.findall(r"^(?:==\d+==ERROR|WARNING: ThreadSanitizer).*?^SUMMARY: .*?$",
                           errors.read(), re.M | re.S)
        # The test closes and replaces numbers that other threads use, on purpose, and goes past
        # libc. ThreadSanitizer keeps a word for each descriptor and calls that a race of the
        # program's. It is no memory of anybody's.
        found = [block for block in found if not is_of_descriptors(block)]
    if found and status == 0:
        status = 66
    return Result(status, text, "\n".join(map(named, found)))


def operations_of(seed, way, count):
    return [f"--seed={seed}", f"--operations={count}", *way]


def failing_operation(text):
    at = [int(n) for n in re.findall(r"disagreement: seed \d+, operation (\d+)", text)]
    at += [int(n) for n in re.findall(r"a child of operation (\d+)", text)]
    return min([n for n in at if n], default=None)


def signature(text):
    """What kind of disagreement it is: its words without the numbers."""
    found = re.search(r"disagreement: .*?process \d+(?: \(.*?\))?: (.*)", text)
    return re.sub(r"\d+", "N", found.group(1)) if found else ""


def disagrees(arguments, like=None):
    result = run(arguments)
    return result.status not in (0, 66) and (like is None or signature(result.text) == like)


def shortest_prefix(seed, way, count, like):
    """The least number of operations that show it; they are compared at their end, too."""
    low, high = 0, count
    while low + 1 < high:
        middle = (low + high) // 2
        if disagrees(operations_of(seed, way, middle), like):
            high = middle
        else:
            low = middle
    return high


def ranges(operations):
    parts = []
    for n in operations:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(f"{a}-{b}" for a, b in parts)


def needed_operations(seed, way, count, like, seconds=60):
    """Of a prefix, what cannot be left out (Zeller's ddmin, for as long as there is time)."""
    kept, parts, end = list(range(count)), 2, time.monotonic() + seconds
    while len(kept) > 1 and time.monotonic() < end:
        size = max(1, len(kept) // parts)
        for at in range(0, len(kept), size):
            rest = kept[:at] + kept[at + size:]
            if rest and disagrees(operations_of(seed, way, count) +
                                  ["--only=" + ranges(rest)], like):
                kept, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept


def explain(seed, way, count, result, seconds=60):
    print(result.text, end="")
    print(result.errors[:20000])
    print(f"seed {seed}, {' '.join(way) or 'in turns'}: exit status {result.status}")
    if "--free" in way or result.status == 66:
        return
    at = failing_operation(result.text) or count
    alone = [*way, "--every=0"] # without the reports in between, where it shows without them
    for attempt, length in ((alone, at + 1), (alone, count), (way, at + 1), (way, count)):
        if disagrees(operations_of(seed, attempt, length)):
            break
    else:
        print("it does not show again")
        return
    like = signature(run(operations_of(seed, attempt, length)).text)
    prefix = shortest_prefix(seed, attempt, length, like)
    kept = needed_operations(seed, attempt, prefix, like, seconds)
    arguments = operations_of(seed, attempt, prefix) + ["--only=" + ranges(kept)]
    shown = run([*arguments, "--trace"])
    print(f"the shortest prefix: {prefix} operations, of which {len(kept)} are needed:")
    print(f"    stress {' '.join(arguments)}")
    print("\n".join(shown.text.splitlines()[-SHOWN_LINES:]))


# --- what the tools say -------------------------------------------------------------------------

def sockets_of(text):
    """The sockets in a JSON report: inode -> (verdict, state, birth function, end of stream's)."""
    out = {}
    for process in json.loads(text)["processes"]:
        for finding in process["findings"]:
            birth = (finding["birth"]["stack"] or [{}])[0].get("function")
            end = finding["end_of_stream"] and finding["end_of_stream"]["stack"][0]["function"]
            for socket in finding["sockets"]:
                out[socket["inode"]] = (finding["verdict"], socket["state"], birth, end)
    return out


def differences(pid, expected, shown, from_outside):
    """From outside nothing tells the state of an AF_UNIX socket: then it is null, and "open"."""
    for line in expected.splitlines():
        inode, state, verdicts, end, *births = line.split("|")
        got = shown.get(int(inode))
        births = [None if b == "nowhere" else b for b in births] or [None]
        if got is None:
            yield f"process {pid}, inode {inode} is not shown: {line}"
        elif (got[2] not in births or (got[0] == "eof-ignored" and got[3] != end) or
              (state and got[1] != state) or
              not (from_outside and not state and got[1] is None) and
              got[0] not in verdicts.split(" or ")):
            yield f"process {pid}, inode {inode}: {line}: shown as {got}"


def compare_tools(seed, count, way=("--processes=1",), has_file=True):
    """`sockleak dump` of the process while it lives, and `sockleak report` of what it leaves."""
    problems, compared = [], 0
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [*program(), *operations_of(seed, way, count), f"--expectations={directory}"],
            env=environment(OPTIONS + (f":ledger_dir={directory}" if has_file else "")),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        wanted = {}
        end = time.monotonic() + TIMEOUT_S
        while not wanted and time.monotonic() < end and process.poll() is None:
            for path in pathlib.Path(directory).glob("*.expect"):
                wanted[int(path.stem)] = path.read_text()
            time.sleep(0.01)
        show = ["--format=json", "--show=all", "--max-sockets=100000"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SOCKLEAK_", "LD_"))}
        for pid, expected in wanted.items():
            dump = subprocess.run([BUILD / "sockleak", "dump", str(pid), *show], text=True,
                                  stdout=subprocess.PIPE, env=clean)
            problems += differences(pid, expected, sockets_of(dump.stdout), True)
            compared += len(expected.splitlines())
        pathlib.Path(directory, "done").touch()
        text, _ = process.communicate(timeout=TIMEOUT_S)
        for pid, expected in wanted.items():
            for ledger in pathlib.Path(directory).glob(f"{pid}-*.ledger"):
                report = subprocess.run([BUILD / "sockleak", "report", ledger, *show], text=True,
                                        stdout=subprocess.PIPE, env=clean)
                problems += differences(pid, expected, sockets_of(report.stdout), False)
                compared += len(expected.splitlines())
    if process.returncode or not wanted:
        problems.append(f"seed {seed}: exit status {process.returncode}\n{text}")
    return problems, compared


# --- main ---------------------------------------------------------------------------------------

class Totals(collections.Counter):
    def add(self, text):
        for name, number in re.findall(r"(\w+) (\d+)", text.splitlines()[-1] if text else ""):
            self[name] += int(number)

    def __str__(self):
        return ", ".join(f"{self[name]} {name}" for name in
                         ("seeds", "operations", "checks", "compared", "unclear", "moved"))


def run_seeds(seeds, count, seconds, ways=tuple(WAYS)):
    """Returns (totals, what went wrong or None)."""
    totals, end = Totals(), time.monotonic() + seconds
    for number, seed in enumerate(seeds):
        if time.monotonic() > end:
            break
        way = ways[number % len(ways)]
        result = run(operations_of(seed, way, count))
        if result.status:
            return totals, (seed, way, count, result)
        totals.add(result.text)
        totals["seeds"] += 1
    return totals, None


def fresh_seeds():
    while True:
        yield random.SystemRandom().randrange(1, 1 << 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, action="append", help="this one, in each way")
    parser.add_argument("--operations", type=int, default=100000, help="of each seed (100000)")
    parser.add_argument("--ways", type=int, nargs="*", help="numbers in WAYS")
    options = parser.parse_args()
    ways = [WAYS[i] for i in options.ways] if options.ways else WAYS
    seeds = [s for s in options.seed for _ in ways] if options.seed else fresh_seeds()
    totals, wrong = run_seeds(seeds, options.operations, options.seconds, ways)
    print(totals)
    if wrong:
        explain(*wrong)
        return 1
    if sanitizer():
        return 0  # the tools are run bare, and the stack begins in the sanitizer's interceptor
    problems, compared = [], 0
    for seed in options.seed or [1, next(fresh_seeds())]:
        for has_file, way in ((True, ["--processes=1"]), (False, ALL_SEEN)):
            found, count = compare_tools(seed, 20000, way, has_file)
            problems += found
            compared += count
    print(f"{compared} sockets compared with dump and report")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
