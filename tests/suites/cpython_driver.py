"""Runs tests of CPython's own suite in one process, and says how each of them went.

    python3.11 cpython_driver.py RESULTS DONE WANTED MODULE [RESOURCE...]

MODULE is a module of the package test, such as test_socket. DONE and WANTED are files with ids of
tests, one a line: those that are not to be run, and those that are (all, where it is empty). Into
RESULTS goes a line `begin ID` before and `OUTCOME ID` behind each test, so that a crash tells where
it was, and `end` in the last. No descriptor stays open for that: tests count descriptors. RESOURCEs
are what regrtest's option -u enables.
"""

import faulthandler
import os
import sys
import unittest

RESULTS = os.path.abspath(sys.argv[1])


def note(outcome, name):
    descriptor = os.open(RESULTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, f"{outcome} {name}\n".encode())
    os.close(descriptor)


class Result(unittest.TextTestResult):
    """One outcome a test: the worst thing that happened in it."""

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.owner = "ok", os.getpid()
        note("begin", test.id())

    def stopTest(self, test):
        super().stopTest(test)
        if os.getpid() == self.owner:  # a child that got away is not this test
            note(self.outcome, test.id())

    def worst(self, test, outcome):
        if test is not None and not isinstance(test, unittest.TestCase):
            note(outcome, test.id())  # setUpClass, tearDownModule: no test of its own
        else:
            self.outcome = outcome

    def addError(self, test, error):
        super().addError(test, error)
        self.worst(test, "fail")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.worst(test, "fail")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.worst(test, "fail")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.worst(test, "fail")

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        self.worst(test, "expected-failure")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if not isinstance(test, unittest.TestCase) or self.outcome == "ok":
            self.worst(test, "skip")


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def names_in(path):
    with open(path, encoding="utf-8") as file:
        return set(file.read().splitlines())


def main():
    done, wanted, module = names_in(sys.argv[2]), names_in(sys.argv[3]), sys.argv[4]
    faulthandler.enable()
    from test import support
    from test.support import os_helper
    support.use_resources = sys.argv[5:]
    support.verbose = False
    with os_helper.temp_cwd(f"directory-of-{os.getpid()}"):
        suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
        suite = unittest.TestSuite(test for test in flatten(suite) if test.id() not in done
                                   and (not wanted or test.id() in wanted))
        runner = unittest.TextTestRunner(sys.stdout, verbosity=2, resultclass=Result)
        succeeded = runner.run(suite).wasSuccessful()
    note("end", "succeeded" if succeeded else "failed")
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
