"""The runner of the suites finds what it is there to find: differences, and reports that do not
agree with the kernel."""

import os
import re
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import passes  # noqa: E402
import cpython  # noqa: E402
import suites  # noqa: E402
import truth  # noqa: E402
import harness  # noqa: E402

EXAMPLES = os.path.join(harness.BUILD, "examples")


class Fake:
    """A suite whose outcomes are those of a function of the mode and of how often it ran so."""

    witnessed_always = run_below_command = False
    name = "fake"

    def __init__(self, outcomes_of):
        self.outcomes_of, self.runs = outcomes_of, {}

    @staticmethod
    def missing():
        return None

    def execute(self, run, _only=None):
        self.runs[run.mode] = self.runs.get(run.mode, 0) + 1
        return self.outcomes_of(run.mode, self.runs[run.mode])


class InADirectory(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="sockleak-suites-")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        kept, suites.DIRECTORY = suites.DIRECTORY, self.directory
        self.addCleanup(setattr, suites, "DIRECTORY", kept)


class Differences(InADirectory):
    def row(self, outcomes_of):
        return suites.execute(Fake(outcomes_of))

    def test_what_fails_only_when_preloaded_is_a_difference(self):
        row = self.row(lambda mode, run: {"a": "ok", "b": "ok" if mode == "bare" else "fail"})
        self.assertTrue(row.failed)
        self.assertEqual([str(v) for v in row.differences], ["b: bare 5 x ok; preloaded 5 x fail"])

    def test_what_does_not_run_when_preloaded_is_a_difference(self):
        row = self.row(lambda mode, run: {"a": "ok"} | ({"b": "ok"} if mode == "bare" else {}))
        self.assertTrue(row.failed)
        self.assertIn("5 x did not run", str(row.differences[0]))

    def test_what_fails_now_and_then_only_when_preloaded_is_a_difference(self):
        row = self.row(lambda mode, run: {"a": "ok", "b": "fail" if mode != "bare" and run in (1, 4)
                                          else "ok"})
        self.assertTrue(row.failed)

    def test_what_varies_bare_is_flaky_and_listed_with_its_counts(self):
        row = self.row(lambda mode, run: {"a": "ok",
                                          "b": "ok" if (run + len(mode)) % 2 else "fail"})
        self.assertFalse(row.failed)
        self.assertEqual(len(row.flaky), 1)
        self.assertTrue(any("b: bare 3 x fail, 2 x ok" in line or "b: bare 3 x ok, 2 x fail" in line
                            for line in row.details()), list(row.details()))

    def test_what_nearly_always_succeeds_bare_and_never_preloaded_is_a_difference(self):
        row = self.row(lambda mode, run: {"a": "ok",
                                          "b": "ok" if mode == "bare" and run != 3 else "fail"})
        self.assertTrue(row.failed)

    def test_a_suite_of_which_nothing_succeeds_is_a_problem(self):
        self.assertTrue(self.row(lambda mode, run: {"a": "fail"}).failed)

    def test_an_exception_in_a_suite_is_a_problem(self):
        self.assertTrue(self.row(lambda mode, run: {}["a"]).failed)


class CPythonResults(InADirectory):
    def test_a_crash_is_the_outcome_of_the_test_that_it_struck_and_the_rest_is_run(self):
        class Crashing(cpython.CPython):
            def run_driver(self, run, number, results, skipped, wanted):
                with open(results, "w", encoding="utf-8") as file:
                    file.write("begin a\nok a\nbegin b\n" if number == 0 else
                               "begin c\nskip c\nend succeeded\n")
                self.done = harness.read_text(skipped)
                return "died by SIGSEGV"

        suite = Crashing("test_nothing")
        outcomes = suite.execute(passes.Pass(self.directory, passes.BARE))
        self.assertEqual(outcomes, {"a": "ok", "b": "died by SIGSEGV", "c": "skip"})
        self.assertEqual(suite.done, "a\nb\n")


class Truth(InADirectory):
    """examples/leaky_http leaves three sockets in CLOSE_WAIT."""

    def setUp(self):
        super().setUp()
        if passes.missing_witness():
            self.skipTest(passes.missing_witness())

    def witnessed(self):
        run = passes.Pass(os.path.join(self.directory, "run"), passes.WITNESSED)
        result = run.call([os.path.join(EXAMPLES, "leaky_http")])
        run.end()
        self.assertEqual((result.status, result.stdout), (0, "8 requests served\n"))
        self.report = os.path.join(run.reports, str(result.pid))
        return run

    def tampered(self, run, change):
        text = harness.read_text(self.report)
        changed = change(text)
        self.assertNotEqual(text, changed)
        with open(self.report, "w", encoding="utf-8") as file:
            file.write(changed)
        return truth.check(run)[2]

    def test_a_right_report_agrees_with_the_kernel(self):
        run = self.witnessed()
        self.assertEqual(truth.check(run), (1, 1, []))
        self.assertEqual([f[2:4] for f in run.findings()], [("eof-ignored", 3)])

    def test_an_accused_descriptor_that_is_no_socket_is_a_problem(self):
        run = self.witnessed()
        fd = re.search(r"  fd (\d+) ", harness.read_text(self.report))[1]
        problems = self.tampered(run, lambda text: text.replace(f"  fd {fd} ", "  fd 1 "))
        self.assertTrue(any("fd 1 is no socket" in problem for problem in problems), problems)
        self.assertTrue(any(f"not reported: fd {fd}" in problem for problem in problems), problems)

    def test_a_socket_that_is_not_dead_to_the_kernel_is_a_problem(self):
        problems = self.tampered(self.witnessed(), lambda text: text.replace(
            "3 sockets left in CLOSE_WAIT", "3 sockets dead but not closed").replace(
            "3 close-wait, 0 dead", "0 close-wait, 3 dead").replace(
            "eof-ignored", "reset-unclosed"))
        self.assertEqual(len([p for p in problems if "reset-unclosed, but" in p]), 3, problems)

    def test_another_address_is_a_problem(self):
        problems = self.tampered(self.witnessed(), lambda text: text.replace("<- 127.0.0.1:",
                                                                             "<- 127.0.0.9:"))
        self.assertEqual(len(problems), 3, problems)


if __name__ == "__main__":
    for program in (harness.LIBRARY, passes.WITNESS):
        if not os.path.exists(program):
            sys.exit(f"{program} does not exist: build it first, and set BUILD")
    harness.main()
