"""Time, as ratios of alternating pairs of whole runs.

Connections are measured in processor time of the process, which a busy machine adds less to. Each run
has a network namespace of its own where the machine permits, so that the TIME_WAIT sockets of one run
do not slow down the next.
"""

import os
import subprocess
import time

from measure import QUICK, difference_row, environment, pairs, ratio_row, section, workload


def connections(*words):
    return pairs(lambda preloaded: float(workload(preloaded, *words).stdout))


def start_up():
    runs = 40 if QUICK else 100

    def measure_one(preloaded):
        env = environment(preloaded)
        begun = time.perf_counter()
        for _ in range(runs):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], env), 0)
        return (time.perf_counter() - begun) / runs
    return pairs(measure_one)


def measure():
    section("Time")
    difference_row("/bin/true, ms", start_up(), 0.15, "ms", 1000)
    # 20,000 connections leave as many TIME_WAITs: what a connection costs on a machine that serves.
    ratio_row("a connection, 25 frames deep, us", connections("life", 20000, 25), 1.03, 1e-3)
    if not QUICK:
        ratio_row("a connection, 5 deep, us", connections("life", 20000, 5), None, 1e-3)
        ratio_row("a connection, 60 deep, us", connections("life", 20000, 60), None, 1e-3)
    ratio_row("a connection, 25 deep, idle loopback, us", connections("life", 3000, 25), None, 1e-3)
    ratio_row("a byte there and back, us", connections("ping", 30000), 1.01, 1e-3)
    ratio_row("1 thread: a connection, us", connections("life", 5000, 25, 1), None, 1e-3)
    ratio_row("2 threads: a connection, us", connections("life", 5000, 25, 2), None, 1e-3)
    ratio_row("beside 10 open sockets, us", connections("life", 5000, 25, 1, 5), None, 1e-3)
    ratio_row("beside 15,000 open sockets, us", connections("life", 5000, 25, 1, 7500), None, 1e-3)
