"""Processor time, as ratios of pairs of whole runs: bare and preloaded at the same time on the same
processor, and in turns where a run needs more than one.

Each run has a network namespace of its own where the machine permits, so that the TIME_WAIT sockets of
one run do not slow down the next.
"""

import subprocess
import sys

from measure import (PAIRS, QUICK, difference_row, environment, on, pairs, pairs_at_once, ratio_row, section,
                     workload)

# Prints the seconds of processor time of each of argv[1] /bin/true, in the environment argv[2:].
START = """
import os, resource, sys
runs, environment = int(sys.argv[1]), dict(each.split("=", 1) for each in sys.argv[2:])
for _ in range(runs):
    os.waitpid(os.posix_spawn("/bin/true", ["true"], environment), 0)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print((used.ru_utime + used.ru_stime) / runs)
"""


def connections(*words, count=PAIRS):
    return pairs_at_once(lambda preloaded, processor:
                         float(workload(preloaded, *words, processor=processor).stdout), count)


def connections_in_turns(*words):
    return pairs(lambda preloaded: float(workload(preloaded, *words).stdout))


def growth(many, few):
    """How much dearer a connection is in the one workload than in the other."""
    return pairs_at_once(lambda preloaded, processor: (
        float(workload(preloaded, *many, processor=processor).stdout)
        / float(workload(preloaded, *few, processor=processor).stdout)))


def start_up():
    def measure_one(preloaded, processor):
        words = [sys.executable, "-S", "-E", "-c", START, str(40 if QUICK else 100),
                 *(f"{name}={value}" for name, value in environment(preloaded).items())]
        return float(subprocess.run(on(processor, words), env=environment(False), check=True,
                                    capture_output=True, text=True).stdout)
    return pairs_at_once(measure_one)


def measure():
    section("Time")
    difference_row("/bin/true, ms", start_up(), 0.15, "ms", 1000)
    # 20,000 connections leave as many TIME_WAITs: what a connection costs on a machine that serves.
    # It is near its limit: the more pairs, the surer their median.
    ratio_row("a connection, 25 frames deep, us",
              connections("life", 20000, 25, count=PAIRS if QUICK else 3 * PAIRS), 1.03, 1e-3)
    ratio_row("a byte there and back, us", connections("ping", 30000), 1.01, 1e-3)
    ratio_row("beside 15,000, to beside 10", growth(("life", 5000, 25, 1, 7500), ("life", 5000, 25, 1, 5)),
              1.05)
    if QUICK:
        return
    ratio_row("a connection, 5 deep, us", connections("life", 20000, 5), None, 1e-3)
    ratio_row("a connection, 60 deep, us", connections("life", 20000, 60), None, 1e-3)
    ratio_row("a connection, 25 deep, idle loopback, us", connections("life", 3000, 25), None, 1e-3)
    ratio_row("1 thread: a connection, us", connections_in_turns("life", 5000, 25, 1), None, 1e-3)
    ratio_row("2 threads: a connection, us", connections_in_turns("life", 5000, 25, 2), None, 1e-3)
    ratio_row("beside 10 open sockets, us", connections("life", 5000, 25, 1, 5), None, 1e-3)
    ratio_row("beside 15,000 open sockets, us", connections("life", 5000, 25, 1, 7500), None, 1e-3)
