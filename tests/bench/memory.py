"""Memory: Pss, the share of the machine's memory that a process has to itself."""

import re
import statistics
import subprocess

from measure import QUICK, WORKLOAD, environment, row, section


def look(preloaded, *words, pattern=r"^Pss:\s+(\d+) kB"):
    process = subprocess.Popen([WORKLOAD, *map(str, words)], env=environment(preloaded),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as rollup:
        kb = int(re.search(pattern, rollup.read(), re.M).group(1))
    process.communicate("\n")
    return kb


def growth_bytes(few, many, count):
    return [(look(p, *many) - look(p, *few)) * 1024 / count for p in (False, True)]


def measure():
    section("Memory (Pss)")
    # What the kernel maps around a page that is touched depends on where the loader puts the libraries.
    bare, ours = [statistics.mean(look(p, "idle") for _ in range(25)) for p in (False, True)]
    row("a process without sockets", bare, ours, ours - bare, 200, "KB")
    bare, ours = [statistics.median(look(p, "open", 1) for _ in range(5)) for p in (False, True)]
    row("a process with three sockets", bare, ours, ours - bare, None, "KB")
    sockets = 2 * (4000 if QUICK else 8000)
    bare, ours = growth_bytes(("open", 100), ("open", sockets // 2), sockets)
    row("an open socket", bare, ours, ours - bare, 256, "bytes")
    stacks = 2048
    bare, ours = growth_bytes(("open", 4096, 1), ("open", 4096, stacks), stacks)
    row("a distinct stack of some 25 frames", bare, ours, ours - bare, None, "bytes")
