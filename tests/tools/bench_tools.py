#!/usr/bin/python3
"""Measures what the sockleak command takes, prints one table, and writes BUILD/bench_tools.json. Exit
status 1 where a figure is over its limit.

BUILD names the build directory; QUICK=1 takes one run of each, not five.
"""

import json
import os
import statistics
import subprocess
import sys

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
RUNS = 1 if os.environ.get("QUICK") == "1" else 5
SYMBOLS = os.path.join(BUILD, "tests/tools/bench_symbols")
LARGE = os.path.join(BUILD, "tests/tools/large_binary")
ADDRESSES = 10000
LIMIT_S = 3


def main():
    runs = [json.loads(subprocess.run([SYMBOLS, LARGE, str(ADDRESSES)], check=True, capture_output=True,
                                      text=True).stdout) for _ in range(RUNS)]
    seconds = [run["seconds"] for run in runs]
    megabytes = os.path.getsize(LARGE) / 1e6
    named = min(run["with_line"] / run["frames"] for run in runs)
    is_over = statistics.median(seconds) > LIMIT_S or named < 0.95 or megabytes < 50
    print(f"{'name ' + str(ADDRESSES) + ' frames of a binary of ' + format(megabytes, '.0f') + ' MB':<48}"
          f" {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
          f"{runs[0]['max_rss_kb'] / 1000:.0f} MB, {100 * named:.0f} % with a line; limit {LIMIT_S} s"
          + ("  OVER" if is_over else ""))
    with open(os.path.join(BUILD, "bench_tools.json"), "w", encoding="ascii") as file:
        json.dump({"symbols": {"binary_mb": megabytes, "limit_s": LIMIT_S, "runs": runs}}, file, indent=2)
    return 1 if is_over else 0


if __name__ == "__main__":
    sys.exit(main())
