"""What the parts of the bench share: bare and preloaded runs, pairs, and the table."""

import concurrent.futures
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
QUICK = os.environ.get("QUICK") == "1"
LIBRARY = os.path.join(BUILD, "libsockleak.so")
SOCKLEAK = os.path.join(BUILD, "sockleak")
WORKLOAD = os.path.join(BUILD, "tests/bench/workload")
LOAD = os.path.join(BUILD, "tests/bench/load")
PLUGIN = os.path.join(BUILD, "tests/bench/plugin.so")
PAIRS = 5 if QUICK else 15
PROCESSORS = sorted(os.sched_getaffinity(0))


def environment(preloaded, **options):
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SOCKLEAK_OPTIONS")}
    if preloaded:
        env["LD_PRELOAD"] = LIBRARY
    if options:
        env["SOCKLEAK_OPTIONS"] = ":".join(f"{k}={v}" for k, v in options.items())
    return env


def own_network(command):
    """The command in a fresh network namespace with loopback up, or as it is where that is denied."""
    user = ["--map-root-user"] if os.geteuid() else []  # which would take bpftrace's rights away
    inner = ["unshare", "--net", *user, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if own_network.allowed is None:
        own_network.allowed = shutil.which("ip") is not None and subprocess.run(
            inner + ["true"], capture_output=True).returncode == 0
    return inner + command if own_network.allowed else command


own_network.allowed = None


def preloading(command, preloaded):
    """The library in the program itself, not in what starts it."""
    return ["env", "LD_PRELOAD=" + LIBRARY] + command if preloaded else command


def on(processor, command):
    return command if processor is None else ["taskset", "--cpu-list", str(processor), *command]


def workload(preloaded, *words, network=True, processor=None):
    command = on(processor, preloading([WORKLOAD, *map(str, words)], preloaded))
    done = subprocess.run(own_network(command) if network else command, env=environment(False),
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"bench: workload {' '.join(map(str, words))}: {done.stderr.strip()[-500:]}")
    return done


def pairs(measure, count=PAIRS):
    """measure(preloaded) -> a number. Alternates; answers (bare, ours, ratios), one of each a pair."""
    bare, ours = [], []
    for i in range(count):
        for preloaded in (False, True) if i % 2 == 0 else (True, False):
            (ours if preloaded else bare).append(measure(preloaded))
    return bare, ours, [o / b for b, o in zip(bare, ours)]


def at_once(measure, turn):
    """measure(preloaded, processor) -> what it measured. Bare and preloaded run at the same time on the
    same processor, which gives each its turn of some milliseconds: what the machine does to the one it
    does to the other. Answers (bare, ours)."""
    processor = PROCESSORS[turn % len(PROCESSORS)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        begun = {preloaded: pool.submit(measure, preloaded, processor)
                 for preloaded in ((False, True) if turn // len(PROCESSORS) % 2 == 0 else (True, False))}
        return begun[False].result(), begun[True].result()


def pairs_at_once(measure, count=PAIRS):
    """As pairs(), of a measure(preloaded, processor) whose figure is processor time."""
    taken = [at_once(measure, turn) for turn in range(count)]
    return [bare for bare, _ in taken], [ours for _, ours in taken], [ours / bare for bare, ours in taken]


# --- the table --------------------------------------------------------------------------------------

ROWS = []
SECTION = [""]


def section(name):
    SECTION[0] = name
    print(f"\n{name}", flush=True)


def head():
    print(f"{'':<52} {'bare':>10} {'ours':>10} {'added':>9} {'limit':>7}")


def row(what, bare, ours, added, limit, unit, spread="", at_least=False):
    """One figure. `added` is held to `limit`: not above it, or not below it."""
    verdict = ""
    if limit is not None:
        verdict = "ok" if (added >= limit if at_least else added <= limit) else "OVER"
    ROWS.append({"section": SECTION[0], "what": what, "bare": bare, "ours": ours, "added": added,
                 "limit": limit, "unit": unit, "spread": spread, "verdict": verdict})
    text = [f"{each:.4g}" if each is not None else "-" for each in (bare, ours, added)]
    limit_text = "" if limit is None else f"{limit:g}"
    print(f"  {what:<50} {text[0]:>10} {text[1]:>10} {text[2]:>9} {limit_text:>7} {unit:<12} "
          f"{verdict:<4} {spread}".rstrip(), flush=True)


def ratio_row(what, measured, limit, scale=1.0, at_least=False):
    bare, ours, ratios = measured
    row(what, statistics.median(bare) * scale, statistics.median(ours) * scale,
        statistics.median(ratios), limit, "times bare", spread_of(ratios), at_least)


def spread_of(ratios):
    """Of all pairs, and where the median of so many is with a confidence of 95 % (by its order
    statistics: the k-th smallest and largest, k from the binomial distribution's normal form)."""
    ordered = sorted(ratios)
    k = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))) - 1)
    return f"{ordered[0]:.3f} to {ordered[-1]:.3f}, median {ordered[k]:.3f} to {ordered[-1 - k]:.3f}"


def difference_row(what, measured, limit, unit, scale=1.0):
    bare, ours, _ = measured
    added = [(o - b) * scale for b, o in zip(bare, ours)]
    row(what, statistics.median(bare) * scale, statistics.median(ours) * scale,
        statistics.median(added), limit, unit, f"{min(added):.3g} to {max(added):.3g}")


def missing(what, why):
    """A figure that this machine cannot give is named, not left out."""
    ROWS.append({"section": SECTION[0], "what": what, "verdict": "skipped", "spread": why})
    print(f"  {what:<50} skipped: {why}", flush=True)


def write_results(path):
    with open(path, "w", encoding="ascii") as out:
        json.dump({"date": time.strftime("%Y-%m-%d"), "kernel": os.uname().release,
                   "processors": os.cpu_count(), "quick": QUICK, "rows": ROWS}, out, indent=1)
        out.write("\n")


def is_over():
    return any(r["verdict"] == "OVER" for r in ROWS)
