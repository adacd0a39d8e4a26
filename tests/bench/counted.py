"""Instructions and system calls: counted, not timed, and the same at every run."""

import re
import subprocess
import sys
import tempfile

from measure import LIBRARY, WORKLOAD, environment, row, section

BATCH = 4096


def callgrind(preloaded, command):
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}",
                               *command], env=environment(preloaded), capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found:
        sys.exit(f"bench: callgrind: {done.stderr[-300:]}")
    return int(found.group(1))


def instructions(preloaded, *words):
    return callgrind(preloaded, [WORKLOAD, *map(str, words)])


def system_calls(preloaded, command, options=""):
    with tempfile.NamedTemporaryFile("r") as out:
        preload = ["-E", "LD_PRELOAD=" + LIBRARY, "-E", "SOCKLEAK_OPTIONS=" + options]
        subprocess.run(["strace", "-f", "-o", out.name, *(preload if preloaded else []), *command],
                       env=environment(False), capture_output=True, check=True)
        return sum(1 for line in out if " +++ " not in line and " --- " not in line)


def per(count_of, *words):
    """What one more of words[1] costs, bare and preloaded; the rest of the process falls out."""
    what, count, *rest = words
    return [(count_of(p, what, 3 * count, *rest) - count_of(p, what, count, *rest)) / (2 * count)
            for p in (False, True)]


def calls(preloaded, *words):
    return system_calls(preloaded, [WORKLOAD, *map(str, words)])


def calls_with_a_file(preloaded, *words):
    """As under `sockleak run`."""
    with tempfile.TemporaryDirectory() as directory:
        return system_calls(preloaded, [WORKLOAD, *map(str, words)], "ledger_dir=" + directory)


def counted_row(what, both, limit, unit, share=1):
    bare, ours = [round(each / share, 2) for each in both]
    row(what, bare, ours, round(ours - bare, 2), limit, unit)


def measure():
    section("Instructions (callgrind)")
    counted_row("a successful recv", per(instructions, "recv", BATCH), 10, "instructions")
    life = per(instructions, "life", 200, 25)
    counted_row("a socket's life, 25 frames deep", life, None, "instructions", 2)
    ours_beside = [per(instructions, "life", 200, 25, 1, count)[True] for count in (5, 7500)]
    row("the same beside 15,000 open sockets, to beside 10", None, None, ours_beside[1] / ours_beside[0],
        1.05, "times ours")
    leak = per(instructions, "leak", 100)
    counted_row("an end of stream, accept and report included", leak, None, "instructions")
    counted_row("/bin/true", [callgrind(p, ["/bin/true"]) for p in (False, True)], None, "instructions")
    section("System calls (strace)")
    counted_row("a successful recv", per(calls, "recv", BATCH), 0, "calls")
    counted_row("a socket's life", per(calls, "life", 200, 5), 2, "calls", 2)
    filed = per(calls_with_a_file, "life", 200, 5)
    counted_row("a socket's life, with ledger_dir", filed, 2, "calls", 2)
    counted_row("/bin/true", [system_calls(p, ["/bin/true"]) for p in (False, True)], None, "calls")
    clean = [calls(p, "life", 1, 5) for p in (False, True)]
    counted_row("a process with 101 connections, clean exit", clean, None, "calls")
