#!/usr/bin/env python3
"""Prints which share of the lines of each file the tests ran, by gcov's counters below a directory.

    tests/coverage/table.py [--at-least PERCENT] [--lines FILE] DIRECTORY PART...

PART is a directory of sources (preload). A source that was built several times counts once: a line
is covered where any of its copies ran. FILE gets the lines that none did, as PATH:LINE.

Exit status 1 where a part has less than PERCENT of its lines covered.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys

OBJECTS_A_RUN = 50


def counts_of(directory):
    """What gcov says of each object file that was built for it, run or not."""
    notes = sorted(str(path.resolve()) for path in pathlib.Path(directory).rglob("*.gcno"))
    for first in range(0, len(notes), OBJECTS_A_RUN):
        command = ["gcov", "--json-format", "--stdout", *notes[first:first + OBJECTS_A_RUN]]
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        for line in ran.stdout.splitlines():
            yield json.loads(line)


def lines_by_file(directory, parts):
    """{path: {line number: did it run}} of the sources below `parts`."""
    files = collections.defaultdict(lambda: collections.defaultdict(bool))
    for unit in counts_of(directory):
        for source in unit["files"]:
            path = os.path.relpath(os.path.join(unit["current_working_directory"], source["file"]))
            if path.split(os.sep)[0] in parts:
                for line in source["lines"]:
                    files[path][line["line_number"]] |= line["count"] > 0
    return files


def percent(covered, lines):
    return 100 * covered / lines if lines else 100.0


def ranges(numbers):
    """3, 4, 5, 9 as "3-5 9"."""
    found = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-least", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--lines", metavar="FILE")
    parser.add_argument("directory")
    parser.add_argument("parts", nargs="+", metavar="part")
    options = parser.parse_args()

    files = lines_by_file(options.directory, options.parts)
    missing = {path: sorted(n for n, ran in lines.items() if not ran) for path, lines in files.items()}
    if options.lines:
        with open(options.lines, "w", encoding="utf-8") as out:
            out.writelines(f"{path}:{n}\n" for path in sorted(files) for n in missing[path])

    print(" lines  covered            file, and the lines that no test ran")
    enough = True
    for part in options.parts:
        mine = sorted((p for p in files if p.split(os.sep)[0] == part),
                      key=lambda p: (percent(len(files[p]) - len(missing[p]), len(files[p])), p))
        for path in mine:
            lines, covered = len(files[path]), len(files[path]) - len(missing[path])
            print(f"{lines:6} {covered:8} {percent(covered, lines):7.1f} %  {path:36} "
                  f"{ranges(missing[path])}".rstrip())
        lines, covered = sum(len(files[p]) for p in mine), sum(len(files[p]) - len(missing[p]) for p in mine)
        print(f"{lines:6} {covered:8} {percent(covered, lines):7.1f} %  {part}/ in all\n")
        enough = enough and lines and percent(covered, lines) >= options.at_least
    if not enough:
        print(f"coverage: less than {options.at_least:g} % of a part's lines", file=sys.stderr)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
