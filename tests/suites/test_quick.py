"""The part of `make suites` that `make check` has time for: a test each, skipped where the suite is
not installed."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import passes  # noqa: E402
import suites  # noqa: E402
import harness  # noqa: E402  (on the path since passes)


class Quick(unittest.TestCase):
    def check(self, suite):
        row = suites.execute(suite)
        if row.skipped:
            self.skipTest(f"{row.skipped} (`make suite-deps`)")
        self.assertFalse(row.failed, "\n".join(row.details()))


def add_test(suite):
    def test(self):
        self.check(suite)
    test.__name__ = f"test_{suite.name.replace('/', '_').replace('-', '_')}_is_the_same_as_bare"
    setattr(Quick, test.__name__, test)


for each in suites.ALL:
    if each.name in suites.QUICK:
        add_test(each)

if __name__ == "__main__":
    for program in (harness.LIBRARY, passes.SOCKLEAK, passes.WITNESS):
        if not os.path.exists(program):
            sys.exit(f"{program} does not exist: build it first, and set BUILD")
    if all(each.missing() for each in suites.ALL if each.name in suites.QUICK):
        harness.skip_file("no suite is installed (`make suite-deps`)")
    harness.main()
