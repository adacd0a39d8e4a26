"""Every example says in its first comment what must be reported; here it is held to that."""

import glob
import os
import re
import stat

import harness

harness.need()

EXPECT = re.compile(r"^ \* expect: (?:nothing|(\d+) (\S+) birth=(\S+) eof=(\S+)"
                    r"(?: process=(parent|child))?)$", re.M)
EXHAUSTED = re.compile(r"^ \* exhausted: (.+)$", re.M)
CAUSE = re.compile(r"^ \* cause: (.+)$", re.M)
CAUSES = {  # what the sentence of each says; `inherited` shows from outside only
    "forgotten": "read end of stream and went on",
    "blocked": "is stuck in recv",
    "idle-pool": "nobody has looked since",
}
RUNS = 3


def examples():
    """name -> what its comment expects: (count, verdict, birth, end of stream, process)."""
    expected = {}
    for path in sorted(glob.glob(os.path.join(harness.ROOT, "examples", "*.c"))):
        matches = list(EXPECT.finditer(harness.read_text(path)))
        if not matches:
            raise AssertionError(f"{path} does not say what it expects")
        expected[os.path.basename(path)[:-2]] = sorted(
            (int(m[1]), m[2], m[3], m[4], m[5] or "parent") for m in matches if m[1])
    return expected


def found(result):
    """What a run reported, in the form of the comments."""
    return sorted((f.count, f.verdict, str(f.birth or "unknown"), str(f.end_of_stream or "-"),
                   "parent" if report.pid == result.pid else "child")
                  for report in result.reports if report.when == "at exit of"
                  for f in report.findings)


class ExampleCase(harness.TestCase):
    def run_example(self, name, **settings):
        return harness.run([os.path.join(harness.BUILD, "examples", name)], self.directory,
                           **settings)


class Examples(ExampleCase):
    def check(self, name, expected):
        bare = self.run_example(name, preload=False)
        if bare.status == harness.SKIPPED:
            self.skipTest(bare.stderr)
        self.assertEqual((bare.status, bare.stderr), (0, ""))
        source = harness.read_text(os.path.join(harness.ROOT, "examples", f"{name}.c"))
        for _ in range(RUNS):
            result = self.run_example(name)
            self.assertSame(result, bare)
            self.assertEqual(found(result), expected, result.stderr)
            self.check_exhaustion(result, EXHAUSTED.findall(source))
            at_exit = [r for r in result.reports if r.when == "at exit of"]
            for report in at_exit:
                self.assertEqual(report.program, os.path.join(harness.BUILD, "examples", name))
                self.assertEqual(report.notes, [], result.stderr)
                for finding, cause in zip(report.findings, CAUSE.findall(source)):
                    self.assertIn(CAUSES.get(cause, ""), finding.why)
            if not expected:
                self.assertEqual(at_exit, [])

    def check_exhaustion(self, result, said):
        """One report at that moment, whose first line names what ran out; else none."""
        live = [r for r in result.reports if r.when != "at exit of"]
        self.assertEqual(len(live), len(said), result.stderr)
        for report, what in zip(live, said):
            self.assertEqual(report.exhausted, what)
            self.assertGreater(len(report.stack.frames), 0)


def add_example_tests():
    for name, expected in examples().items():
        claim = f"test_{name}_reports_" + (
            "_and_".join(f"{e[0]}_{e[1].replace('-', '_')}" for e in expected) or "nothing")
        setattr(Examples, claim,
                lambda self, name=name, expected=expected: self.check(name, expected))


add_example_tests()


class Addresses(ExampleCase):
    def test_the_peer_of_a_reset_connection_is_known_although_accept_was_not_asked(self):
        finding = self.only_finding(self.only_report(self.run_example("reset_kept")))
        for listed in finding.sockets:
            self.assertRegex(listed.peer, r"^127\.0\.0\.1:\d+$")


class Options(ExampleCase):
    """The options that change what a report is or where it goes."""

    def test_verbosity_1_reports_a_clean_process_too(self):
        result = self.run_example("clean_short_client", options="verbosity=1")
        report = self.only_report(result)
        self.assertEqual((report.findings, report.summary["leaked"]), ([], 0))
        self.assertGreater(report.summary["closed"], 0)

    def test_log_path_takes_pid_and_name_and_leaves_stderr_alone(self):
        result = self.run_example("forgotten_close",
                                  options=f"log_path={self.path('%n.%p.log')}")
        self.assertEqual(result.stderr, "")
        log = self.path(f"forgotten_close.{result.pid}.log")
        reports, rest = harness.parse_reports(harness.read_text(log))
        self.assertEqual(([r.close_wait for r in reports], rest), ([3], ""))
        self.assertEqual(stat.S_IMODE(os.stat(log).st_mode), 0o600)

    def test_log_path_of_a_clean_process_makes_no_file(self):
        self.run_example("clean_half_close", options=f"log_path={self.path('%n.%p.log')}")
        self.assertEqual(glob.glob(self.path("*.log")), [])

    def test_log_path_never_overwrites_and_says_so(self):
        log = self.write("taken.log", "precious")
        result = self.run_example("forgotten_close", options=f"log_path={log}")
        self.assertEqual(harness.read_text(log), "precious")
        report = self.only_report(result)
        self.assertEqual(report.close_wait, 3)
        self.assertIn("taken.log", "".join(report.notes))

    def test_exitcode_changes_the_status_of_a_leaking_process(self):
        self.assertEqual(self.run_example("forgotten_close", options="exitcode=23").status, 23)

    def test_exitcode_of_a_clean_process_is_its_own(self):
        self.assertEqual(self.run_example("clean_fd_reuse", options="exitcode=23").status, 0)

    def test_exitcode_loses_no_buffered_output(self):
        bare = self.run_example("forgotten_close", preload=False)
        result = self.run_example("forgotten_close", options="exitcode=23")
        self.assertEqual(result.stdout, bare.stdout)

    def test_max_sockets_lists_one_and_counts_the_others(self):
        result = self.run_example("idle_pool", options="max_sockets=1")
        finding = self.only_finding(self.only_report(result))
        self.assertEqual((finding.count, len(finding.sockets), finding.more), (4, 1, 3))

    def test_show_all_lists_what_is_open_and_no_leak(self):
        # Within this grace nothing that these examples leave behind counts as a leak.
        result = self.run_example("idle_pool", options="show=all:verbosity=1:exit_grace_ms=60000")
        report = self.only_report(result)
        self.assertEqual(report.leaks, [])
        self.assertEqual([(f.count, f.verdict) for f in report.findings], [(4, "open")])
        self.assertIn("CLOSE_WAIT", report.findings[0].sockets[0].text)

    def test_stack_depth_1_keeps_one_frame_of_each_stack(self):
        result = self.run_example("forgotten_close", options="stack_depth=1")
        finding = self.only_finding(self.only_report(result))
        self.assertEqual([f.function for f in finding.birth.frames], ["accept_client"])
        self.assertEqual([f.function for f in finding.end_of_stream.frames], ["handle_request"])

    def test_help_1_lists_every_option_and_the_program_still_runs(self):
        bare = self.run_example("clean_half_close", preload=False)
        result = self.run_example("clean_half_close", options="help=1")
        self.assertEqual((result.status, result.stdout), (bare.status, bare.stdout))
        for name in ("log_path", "exitcode", "grace_ms", "exit_grace_ms", "stack_depth",
                     "max_sockets", "families", "signal", "show", "verbosity", "help"):
            self.assertRegex(result.stderr, rf"(?m)^  {name} .*default ")

    def test_each_bad_option_gets_one_line_and_its_default(self):
        result = self.run_example(
            "forgotten_close", options="no_such=1:stack_depth=0:max_sockets=many:families=tcp")
        report = self.only_report(result)
        self.assertEqual((result.status, report.close_wait), (0, 3))
        self.assertEqual(len(report.notes), 4, report.text)
        for name, note in zip(("no_such", "stack_depth", "max_sockets", "families"), report.notes):
            self.assertIn(name, note)
        self.assertRegex(report.notes[1], "1 to 128.*default, 32")

    def test_a_process_without_a_socket_says_nothing_of_leaks(self):
        result = harness.run(["/bin/true"], self.directory)
        self.assertEqual((result.status, result.stdout, result.stderr), (0, "", ""))


if __name__ == "__main__":
    harness.main()
