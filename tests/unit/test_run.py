#!/usr/bin/env python3
"""tests/run itself: what counts as passed, failed and skipped."""

import os
import pathlib
import subprocess
import tempfile
import time
import unittest

RUN = pathlib.Path(__file__).resolve().parent.parent / "run"
CMOCKA = ("[==========] Running 3 test(s).\n[ RUN      ] a\n[       OK ] a\n[ RUN      ] b\n"
          "[  SKIPPED ] b\n[ RUN      ] c\n")


class Runner(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def script(self, text):
        path = self.directory / f"script{len(list(self.directory.iterdir()))}"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    def printing(self, text, status=0):
        return self.script(f"cat <<'END'\n{text}\nEND\nexit {status}\n")

    def run_tests(self, *arguments):
        done = subprocess.run([RUN, "--logs", self.directory / "logs", *arguments],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    def assert_closes_with(self, line, status, *arguments):
        code, output = self.run_tests(*arguments)
        self.assertEqual(output.splitlines()[-1], line, output)
        self.assertEqual(code, status, output)
        return output

    def test_a_program_counts_once_by_its_exit_status(self):
        self.assert_closes_with("2 passed, 1 failed, 0 skipped", 1, "a=true", "b=true", "c=false")

    def test_77_is_skipped_with_the_last_line_as_reason(self):
        script = self.script("echo noise; echo no network; exit 77")
        output = self.assert_closes_with("1 passed, 0 failed, 1 skipped", 0, f"s={script}", "t=true")
        self.assertRegex(output, r"skip +s .* no network\n")
        self.assertNotIn("noise", output)

    def test_where_nothing_ran_it_fails(self):
        self.assert_closes_with("0 passed, 0 failed, 0 skipped", 1)
        self.assert_closes_with("0 passed, 0 failed, 1 skipped", 1, f"s={self.script('exit 77')}")

    def test_a_death_by_signal_is_a_failure(self):
        for number in ("SEGV", "KILL", "TERM"):
            script = self.script(f"kill -{number} $$")
            output = self.assert_closes_with("0 passed, 1 failed, 0 skipped", 1, f"s={script}")
            self.assertIn("died by SIG" + number, output)

    def test_a_timeout_is_a_failure_and_kills_the_children_too(self):
        marker = self.directory / "marker"
        script = self.script(f"(sleep 1.5; echo > {marker}) & sleep 30")
        begun = time.monotonic()
        self.assert_closes_with("0 passed, 1 failed, 0 skipped", 1, "--timeout", "0.3", f"s={script}")
        self.assertLess(time.monotonic() - begun, 10)
        time.sleep(1.6)
        self.assertFalse(marker.exists())

    def test_output_is_shown_on_failure_only_and_always_kept(self):
        good, bad = self.printing("fine"), self.printing("wrong", 1)
        output = self.assert_closes_with("1 passed, 1 failed, 0 skipped", 1, f"a/g={good}", f"b={bad}")
        self.assertIn("wrong", output)
        self.assertNotIn("fine", output)
        self.assertEqual((self.directory / "logs/a/g.log").read_text(), "fine\n")

    def test_cmocka_cases_are_counted(self):
        ended = CMOCKA + "[       OK ] c\n[==========] 3 test(s) run.\n[  PASSED  ] 2 test(s).\n" \
            "[  SKIPPED ] 1 test(s), listed below:\n[  SKIPPED ] b"
        self.assert_closes_with("2 passed, 0 failed, 1 skipped", 0, f"c={self.printing(ended)}")
        failed = ended.replace("[       OK ] c", "[  FAILED  ] c")
        self.assert_closes_with("1 passed, 1 failed, 1 skipped", 1, f"c={self.printing(failed, 1)}")

    def test_a_cmocka_program_that_dies_in_a_case_fails_that_case(self):
        script = self.script(f"cat <<'END'\n{CMOCKA}\nEND\nkill -SEGV $$\n")
        self.assert_closes_with("1 passed, 1 failed, 1 skipped", 1, f"c={script}")

    def test_a_failed_case_fails_the_run_whatever_the_exit_status(self):
        text = CMOCKA + "[  FAILED  ] c"
        self.assert_closes_with("1 passed, 1 failed, 1 skipped", 1, f"c={self.printing(text)}")

    def test_a_bad_exit_after_good_cases_is_a_failure(self):
        text = "[==========] Running 1 test(s).\n[ RUN      ] a\n[       OK ] a"
        self.assert_closes_with("1 passed, 1 failed, 0 skipped", 1, f"c={self.printing(text, 66)}")

    def test_unittest_cases_are_counted(self):
        self.assert_closes_with("3 passed, 0 failed, 1 skipped", 0,
                                f"u={self.printing('Ran 4 tests in 0.1s' + chr(10) + 'OK (skipped=1)')}")
        text = "Ran 5 tests in 0.1s\n\nFAILED (failures=1, errors=2, skipped=1)"
        self.assert_closes_with("1 passed, 3 failed, 1 skipped", 1, f"u={self.printing(text, 1)}")

    def test_a_program_of_cases_that_ran_none_is_a_failure(self):
        self.assert_closes_with("0 passed, 1 failed, 0 skipped", 1,
                                f"u={self.printing('Ran 0 tests in 0.0s')}")

    def test_a_command_that_does_not_exist_is_a_failure(self):
        self.assert_closes_with("0 passed, 1 failed, 0 skipped", 1, "x=/nonexistent/program")

    def test_a_list_is_read_from_a_file(self):
        tests = self.directory / "list"
        tests.write_text("# comment\na=true\n\nb=sh -c 'exit 0' # here\n")
        self.assert_closes_with("2 passed, 0 failed, 0 skipped", 0, "--from", tests, "--jobs", "2")

    def test_jobs_run_beside_each_other(self):
        """Each of the two waits for the other, by the two ends of a pipe with a name."""
        os.mkfifo(self.directory / "pipe")
        self.assert_closes_with("2 passed, 0 failed, 0 skipped", 0, "--jobs", "2", "--timeout", "20",
                                f"a={self.script(f'echo > {self.directory}/pipe')}",
                                f"b={self.script(f'read line < {self.directory}/pipe')}")

    def test_beside_one_that_is_alone_none_runs(self):
        """A directory that is there already: another one runs. The others have all run before."""
        place = self.directory / "runs"
        one = self.script(f"test ! -e {place}")
        alone = self.script(f"mkdir {place} && sleep 0.2 && rmdir {place}")
        names = [f"t{i}={one}" for i in range(8)]
        output = self.assert_closes_with("10 passed, 0 failed, 0 skipped", 0, "--jobs", "4", "--alone", "x y",
                                         f"x={alone}", *names, f"y={alone}")
        self.assertEqual([line.split()[1] for line in output.splitlines()[-3:-1]], ["x", "y"])

    def test_a_make_that_is_tested_is_not_part_of_the_one_outside(self):
        script = self.script('echo "<$MAKEFLAGS$MFLAGS$MAKELEVEL>"')
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
            os.environ[name] = "1"
            self.addCleanup(os.environ.pop, name)
        self.assert_closes_with("1 passed, 0 failed, 0 skipped", 0, f"m={script}")
        self.assertEqual((self.directory / "logs/m.log").read_text(), "<>\n")

    def test_signals_that_the_caller_ignores_kill_the_tests(self):
        for name in ("INT", "QUIT", "HUP"):
            script = self.script(f"kill -{name} $$; exit 0")
            done = subprocess.run(["sh", "-c", f"trap '' {name}; exec \"$@\"", "sh", RUN, "--logs",
                                   self.directory / "logs", f"s={script}"],
                                  capture_output=True, text=True, timeout=60, check=False)
            self.assertIn("died by SIG" + name, done.stdout)

    def test_wrong_usage_is_status_2(self):
        for arguments in (["a=true", "a=true"], ["--jobs", "0", "a=true"], ["a="], ["--alone", "b", "a=true"],
                          ["--from", "/nonexistent"], ["--what"]):
            self.assertEqual(self.run_tests(*arguments)[0], 2, arguments)


if __name__ == "__main__":
    os.environ.pop("BUILD", None)
    unittest.main()
