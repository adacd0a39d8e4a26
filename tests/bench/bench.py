#!/usr/bin/python3
"""Measures what sockleak costs, each figure beside the bare program's and beside what people use
today, and prints one table. Exit status 1 where a figure is over its limit.

BUILD names the build directory. A whole run also writes results.json and soak.svg beside this file;
QUICK=1 takes fewer runs, leaves out the slow servers, and writes them to BUILD. Words on the command
line choose parts: counted timed servers peers memory reports soak.

`added` is a difference or, where the unit says "times bare", the median of the ratios of the pairs;
behind it stand the smallest and the largest.
"""

import os
import sys

import counted
import measure
import memory
import peers
import reports
import servers
import soak
import timed

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    is_whole = len(sys.argv) == 1
    place = HERE if is_whole and not measure.QUICK else measure.BUILD
    parts = {"counted": counted.measure, "timed": timed.measure, "servers": servers.measure,
             "peers": peers.measure, "memory": memory.measure, "reports": reports.measure,
             "soak": lambda: soak.measure(os.path.join(place, "soak.svg"))}
    chosen = sys.argv[1:] or list(parts)
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        sys.exit(f"bench: no part {unknown[0]!r}: choose of {', '.join(parts)}")
    measure.head()
    for name in chosen:
        parts[name]()
        measure.write_results(os.path.join(place, "results.json"))
    return measure.is_over()


sys.exit(main())
