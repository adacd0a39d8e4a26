"""Programs that another one runs in its own process: the dynamic linker by its name (ld.so(8)), and
valgrind. /proc/PID/exe is that other one; what leaks is in the program."""

import json
import os
import subprocess
import time
import unittest

import harness
from harness import EXAMPLES, PYTHON, findings, sockleak

EXAMPLE = os.path.join(EXAMPLES, "forgotten_close")
LINKERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
GRACE_S = 1.1
NO_COMPLAINT = "could not be watched|cannot be watched|was replaced|not named"


def linker():
    found = [path for path in LINKERS if os.path.exists(path)]
    if not found:
        raise unittest.SkipTest("glibc's dynamic linker is not where it is elsewhere")
    return [found[0]]


def valgrind():
    if not harness.valgrind_can_run():
        raise unittest.SkipTest("valgrind is not installed (`make deps`), or this is a sanitized build")
    return ["valgrind", "-q"]


class Launcher:
    """The tests; what inherits it says what `launcher` is, and how the program is called then."""

    def test_the_library_names_what_the_program_opened(self):
        done = subprocess.run([*self.launcher(), EXAMPLE], env=harness.clean_environment(
            LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS="exit_grace_ms=0"), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=harness.DEADLINE_S, check=False)
        self.assertRegex(done.stderr, r"#0 accept_client\+0x\w+ +forgotten_close \(")
        self.assertRegex(done.stderr, r"#0 handle_request\+0x\w+ +forgotten_close \(")
        self.assertRegex(done.stderr.splitlines()[0], f"at exit of {self.headline()}$")

    def test_run_shows_file_and_line(self):
        done = sockleak("run", "--", *self.launcher(), EXAMPLE)
        self.assertRegex(done.stderr, r"#0 accept_client +\S*examples/forgotten_close\.c:\d+")
        self.assertRegex(done.stderr, r"#0 handle_request +\S*examples/forgotten_close\.c:\d+")
        self.assertNotRegex(done.stderr, NO_COMPLAINT)

    def test_a_live_process_is_known(self):
        script = self.write("leaker.py", harness.LEAKER)
        process = self.start(*self.launcher(), PYTHON, script, "eof=2", env=harness.clean_environment(
            LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS=f"ledger_dir={self.directory}"))
        process.stdout.readline()
        time.sleep(GRACE_S)
        done = sockleak("dump", "--format=json", process.pid)
        document = json.loads(done.stdout)
        self.assertEqual(findings(document), [("eof-ignored", 2)], done.stderr)
        (told,) = document["processes"]
        (finding,) = told["findings"]
        self.assertEqual(finding["birth"]["call"], "accept4")
        self.assertIn("python3", finding["birth"]["stack"][0]["module"])


class DynamicLinker(Launcher, harness.TestCase):
    def launcher(self):
        return linker()

    def headline(self):
        return linker()[0]  # as it was called

    def test_a_linker_of_another_name_and_a_program_found_by_a_relative_path(self):
        """As wrappers and bundles of programs have them."""
        copy = self.path("ld-linux-of-its-own.so.2")
        with open(linker()[0], "rb") as file, open(copy, "wb") as out:
            out.write(file.read())
        os.chmod(copy, 0o755)
        done = sockleak("run", "--", copy, os.path.relpath(EXAMPLE, self.directory), cwd=self.directory)
        self.assertRegex(done.stderr, r"#0 accept_client +\S*forgotten_close\.c:\d+")
        self.assertNotRegex(done.stderr, NO_COMPLAINT)


class Valgrind(Launcher, harness.TestCase):
    def launcher(self):
        return valgrind()

    def headline(self):
        return EXAMPLE


if __name__ == "__main__":
    harness.main()
