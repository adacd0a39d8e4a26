#!/usr/bin/python3
"""Measures what the library costs, each figure beside the bare program's, and prints one table.

BUILD names the build directory; QUICK=1 takes fewer runs. Also writes BUILD/bench.json. Exit status 1
where a figure is over its limit.

Instructions (callgrind) and system calls (strace) are counted, and repeat exactly. Times are ratios
of alternating pairs of whole runs; the table shows median, minimum and maximum. Where the machine
lets us, each timed run has a network namespace of its own, so that the TIME_WAIT sockets of one run
do not slow down the next.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
QUICK = os.environ.get("QUICK") == "1"
LIBRARY = os.path.join(BUILD, "libsockleak.so")
WORKLOAD = os.path.join(BUILD, "tests/bench/workload")
PAIRS = 5 if QUICK else 15


def environment(preloaded, **options):
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SOCKLEAK_OPTIONS")}
    if preloaded:
        env["LD_PRELOAD"] = LIBRARY
    if options:
        env["SOCKLEAK_OPTIONS"] = ":".join(f"{k}={v}" for k, v in options.items())
    return env


def own_network(command):
    """The command in a fresh network namespace with loopback up, or as it is where that is denied."""
    inner = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if own_network.allowed is None:
        own_network.allowed = shutil.which("ip") is not None and subprocess.run(
            inner + ["true"], capture_output=True).returncode == 0
    return inner + command if own_network.allowed else command


own_network.allowed = None


def run(command, preloaded, **kwargs):
    """Runs the command with the library (or not) in the program itself, not in the shell before it."""
    if preloaded:
        command = ["env", "LD_PRELOAD=" + LIBRARY] + command
    return subprocess.run(command, env=environment(False), capture_output=True, text=True,
                          check=False, **kwargs)


def workload(preloaded, *words):
    done = run([WORKLOAD, *map(str, words)], preloaded)
    if done.returncode != 0:
        sys.exit(f"bench: workload {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done


# --- counted ----------------------------------------------------------------------------------------

def instructions(preloaded, *words):
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", WORKLOAD,
             *map(str, words)], env=environment(preloaded), capture_output=True, text=True)
        found = re.search(r"Collected : (\d+)", done.stderr)
        if not found:
            sys.exit(f"bench: callgrind: {done.stderr[-300:]}")
        return int(found.group(1))


def recv_instructions():
    few, many = 4096, 5 * 4096
    each = [(instructions(p, "recv", many) - instructions(p, "recv", few)) / (many - few)
            for p in (False, True)]
    return each


def system_calls(preloaded, *words):
    with tempfile.NamedTemporaryFile("r") as out:
        preload = ["-E", "LD_PRELOAD=" + LIBRARY] if preloaded else []
        subprocess.run(["strace", "-f", "-o", out.name, *preload, WORKLOAD, *map(str, words)],
                       env=environment(False), capture_output=True, check=True)
        return sum(1 for _ in out)


def calls_per(what, count, *rest):
    return [(system_calls(p, what, 2 * count, *rest) - system_calls(p, what, count, *rest)) / count
            for p in (False, True)]


# --- timed ------------------------------------------------------------------------------------------

def pairs(measure, count=PAIRS):
    """measure(preloaded) -> a number; alternates, and answers (bare median, ours median, ratios)."""
    bare, ours = [], []
    for _ in range(count):
        bare.append(measure(False))
        ours.append(measure(True))
    return bare, ours, [o / b for b, o in zip(bare, ours)]


def life(count, depth):
    def measure(preloaded):
        command = [WORKLOAD, "life", str(count), str(depth)]
        if preloaded:
            command = ["env", "LD_PRELOAD=" + LIBRARY] + command
        done = subprocess.run(own_network(command), env=environment(False), capture_output=True,
                              text=True, check=True)
        return float(done.stdout)
    return pairs(measure)


def start_up():
    runs = 40 if QUICK else 100

    def measure(preloaded):
        env = environment(preloaded)
        begun = time.perf_counter()
        for _ in range(runs):
            pid = os.posix_spawn("/bin/true", ["true"], env)
            os.waitpid(pid, 0)
        return (time.perf_counter() - begun) / runs * 1000
    return pairs(measure)


# --- memory -----------------------------------------------------------------------------------------

def pss_kb(preloaded, *words):
    process = subprocess.Popen([WORKLOAD, *map(str, words)], env=environment(preloaded),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as rollup:
        pss = int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1))
    process.communicate("\n")
    return pss


# --- the report -------------------------------------------------------------------------------------

def exit_seconds(preloaded, count):
    """From the end of main to the end of the process, the kernel's closing of all sockets included."""
    process = subprocess.Popen(own_network([WORKLOAD, "leak", str(count)]) if not preloaded else
                               own_network(["env", "LD_PRELOAD=" + LIBRARY, WORKLOAD, "leak",
                                            str(count)]),
                               env=environment(False), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return (ended - int(out)) / 1e9, err


# --- the table --------------------------------------------------------------------------------------

ROWS = []


def row(what, bare, ours, added, limit, unit, spread=""):
    verdict = "" if limit is None else "ok" if added <= limit else "OVER"
    ROWS.append({"what": what, "bare": bare, "ours": ours, "added": added, "limit": limit,
                 "unit": unit, "spread": spread, "verdict": verdict})
    limit_text = "" if limit is None else f"{limit:g}"
    print(f"{what:<52} {bare:>10.4g} {ours:>10.4g} {added:>9.4g} {limit_text:>7} {unit:<14} "
          f"{verdict:<4} {spread}", flush=True)


def ratio_row(what, measured, limit, scale=1.0):
    bare, ours, ratios = measured
    row(what, statistics.median(bare) * scale, statistics.median(ours) * scale,
        statistics.median(ratios), limit, "times bare", f"{min(ratios):.3f} to {max(ratios):.3f}")


def main():
    print(f"{'':<52} {'bare':>10} {'ours':>10} {'added':>9} {'limit':>7}")
    bare, ours = recv_instructions()
    row("a successful recv, instructions", bare, ours, ours - bare, 10, "instructions")
    bare, ours = [round(each, 2) for each in calls_per("recv", 4 * 4096)]
    row("a successful recv, system calls", bare, ours, ours - bare, 0, "calls")
    bare, ours = calls_per("life", 400, 5)
    row("a socket's life, system calls", bare / 2, ours / 2, (ours - bare) / 2, 2, "calls")
    ratio_row("a connection among TIME_WAITs, 25 frames deep, us", life(20000, 25), 1.03, 1e-3)
    ratio_row("a connection on an idle loopback, 25 deep, us", life(3000, 25), None, 1e-3)
    ratio_row("a connection on an idle loopback, 5 deep, us", life(3000, 5), None, 1e-3)
    bare, ours, _ = start_up()
    added = statistics.median(o - b for b, o in zip(bare, ours))
    row("/bin/true, ms", statistics.median(bare), statistics.median(ours), added, 0.15, "ms",
        f"{min(o - b for b, o in zip(bare, ours)):.3f} to {max(o - b for b, o in zip(bare, ours)):.3f}")
    bare, ours = [statistics.median(pss_kb(p, "idle") for _ in range(5)) for p in (False, True)]
    row("a process without sockets, Pss in KB", bare, ours, ours - bare, 200, "KB")
    sockets = 2 * 8000
    bare, ours = [pss_kb(p, "open", sockets // 2) - pss_kb(p, "open", 100) for p in (False, True)]
    row("an open socket, Pss in bytes", bare * 1024 / sockets, ours * 1024 / sockets,
        (ours - bare) * 1024 / sockets, 256, "bytes")
    leaks = 15000
    timed = [[exit_seconds(p, leaks) for _ in range(3)] for p in (False, True)]
    bare, ours = [statistics.median(t for t, _ in runs) for runs in timed]
    row(f"the exit of a process with {leaks} leaked sockets, s", bare, ours, ours - bare, 0.5, "s")
    report = timed[1][0][1]
    if f"{leaks} sockets left in CLOSE_WAIT (1 finding)" not in report:
        sys.exit(f"bench: {leaks} leaks of one call site are not one finding:\n{report[:500]}")
    with open(os.path.join(BUILD, "bench.json"), "w", encoding="ascii") as out:
        json.dump(ROWS, out, indent=1)
    return any(r["verdict"] == "OVER" for r in ROWS)


sys.exit(main())
