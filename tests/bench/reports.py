"""What a report costs: at the end of a process, and read later by the command."""

import json
import os
import statistics
import subprocess
import sys
import time

from measure import (BUILD, QUICK, SOCKLEAK, WORKLOAD, environment, own_network, preloading, row, section)


def exit_seconds(preloaded, count, sites):
    """From the end of main to the end of the process, the kernel's closing of all sockets included."""
    command = own_network(preloading([WORKLOAD, "leak", str(count), str(sites)], preloaded))
    process = subprocess.Popen(command, env=environment(False), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(out)) / 1e9, err


def at_exit(count, sites, limit):
    runs = [[exit_seconds(p, count, sites) for _ in range(3)] for p in (False, True)]
    bare, ours = [statistics.median(t for t, _ in each) for each in runs]
    places = f"{sites:,} call site" + ("s" if sites > 1 else "")
    row(f"exit with {count:,} leaked sockets, {places}", bare, ours, ours - bare, limit, "s")
    findings = min(count, sites)
    expected = f"{count} sockets left in CLOSE_WAIT ({findings} finding{'s' * (findings != 1)})"
    if count and expected not in runs[1][0][1]:
        sys.exit(f"bench: not {expected}:\n{runs[1][0][1][:500]}")


def scan(sockets):
    """The whole machine, with that many sockets in CLOSE_WAIT in one process that is not preloaded."""
    script = ("import resource, socket, sys\n"
              "n = int(sys.argv[1])\n"
              "resource.setrlimit(resource.RLIMIT_NOFILE, (n + 100, n + 100))\n"
              "s = socket.create_server(('127.0.0.1', 0), backlog=128)\n"
              "kept = []\n"
              "for _ in range(n):\n"
              "    c = socket.create_connection(s.getsockname())\n"
              "    kept.append(s.accept()[0])\n"
              "    c.close()\n"
              "print('ready', flush=True)\n"
              "sys.stdin.readline()\n")
    process = subprocess.Popen(["/usr/bin/python3", "-c", script, str(sockets)], env=environment(False),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            done = subprocess.run([SOCKLEAK, "scan", f"--pid={process.pid}", "--format=json"],
                                  capture_output=True, text=True, check=False)
            times.append(time.perf_counter() - begun)
        json.loads(done.stdout)
        row(f"sockleak scan beside {sockets:,} CLOSE_WAITs", None, statistics.median(times), None, None,
            "s", f"{min(times):.3f} to {max(times):.3f}")
    finally:
        process.communicate("\n")


def symbols():
    """10,000 frames of a 50 MB binary: see bench_symbols.c."""
    command = [os.path.join(BUILD, "tests/tools/bench_symbols"), os.path.join(BUILD, "tests/tools/large_binary"),
               "10000"]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(1 if QUICK else 5)]
    seconds = [run["seconds"] for run in runs]
    if min(run["with_line"] / run["frames"] for run in runs) < 0.95:
        sys.exit(f"bench: fewer than 95 % of the frames have a line: {runs}")
    row("10,000 frames of a 50 MB binary: function and line", None, statistics.median(seconds),
        statistics.median(seconds), 3, "s", f"{min(seconds):.2f} to {max(seconds):.2f}")


def measure():
    section("Reports")
    many = 3000 if QUICK else 15000
    for count, sites in ((0, 1), (100, 1), (many, 1), (many, 1000)):
        at_exit(count, sites, 0.5 if sites == 1 else None)
    symbols()
    scan(many)
