"""One suite run once, in one mode: its directory, how its programs are started, and the reports.

    bare        without the library
    preloaded   LD_PRELOAD; each process reports, into a file, so that stderr is the programs' own
    witnessed   preloaded; all sockets are reported, and a witness writes down what the kernel knows
                of each process at its end (witness.c)
    run         below `sockleak run`, whose ledgers are files and whose report is JSON
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

import harness  # noqa: E402

BARE, PRELOADED, WITNESSED, RUN = "bare", "preloaded", "witnessed", "run"
SOCKLEAK = os.path.join(harness.BUILD, "sockleak")
WITNESS = os.path.join(harness.BUILD, "tests", "suites", "witness")
PYTHON = "/usr/bin/python3.11"

EVERYTHING = "show=all:families=all:max_sockets=1000000"


@functools.cache
def missing_witness():
    """Why there is none here: a container may forbid ptrace."""
    with tempfile.TemporaryDirectory(prefix="sockleak-suites-") as directory:
        result = subprocess.run([WITNESS, directory, "/bin/true"], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, check=False)
        if "PTRACE_SEIZE" in result.stderr:
            return result.stderr.strip()
        harness.wait_until("the witness has ended", lambda: all(
            text.endswith("end\n") for text in Pass.read_all(directory).values()))
    return None


class Pass:
    """Directories below `directory`: `work` for the suite's files, `reports` and `kernel` for what
    was found."""

    def __init__(self, directory, mode):
        self.mode = mode
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        self.work, self.reports, self.kernel = (os.path.join(directory, name)
                                                for name in ("work", "reports", "kernel"))
        for path in (self.work, self.reports, self.kernel):
            os.makedirs(path)
        # Servers drop their privileges, and report all the same.
        for path in (self.reports, self.kernel):
            os.chmod(path, 0o1777)
        self.programs = []

    # --- files ---

    def path(self, *names):
        return os.path.join(self.work, *names)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    # --- programs ---

    def options(self):
        everything = EVERYTHING + ":" if self.mode == WITNESSED else ""
        return f"{everything}verbosity=1:log_path={self.reports}/%p"

    def environment(self, more=None):
        """For what starts programs in its own way; with argv()."""
        environment = harness.environment(self.mode == PRELOADED, self.options(), more)
        environment.pop("BUILD", None)
        if self.mode == WITNESSED:
            environment |= {"WITNESS_PRELOAD": harness.LIBRARY, "SOCKLEAK_OPTIONS": self.options()}
        return environment

    def argv(self, argv):
        argv = [harness.find_program(argv[0]) or argv[0], *argv[1:]]
        if self.mode == WITNESSED:
            return [WITNESS, self.kernel, *argv]
        if self.mode == RUN:
            report = os.path.join(self.reports, f"{len(os.listdir(self.reports))}.json")
            open(report, "x", encoding="ascii").close()
            return [SOCKLEAK, "run", "--quiet", "--fail-on=none", f"--format=json:{report}", "--",
                    *argv]
        return argv

    def start(self, argv, cwd=None):
        program = harness.Program(self.argv(argv), self.work, preload=False, cwd=cwd,
                                  env=self.environment())
        self.programs.append(program)
        return program

    def call(self, argv, stdin=None, cwd=None):
        """Runs a program that ends by itself."""
        program = self.start(argv, cwd)
        if stdin is not None:
            try:
                program.process.stdin.write(stdin)
                program.process.stdin.flush()
            except BrokenPipeError:
                pass
        return program.end()

    def end(self):
        """Nothing outlives the pass; and the witnesses have seen the last process end."""
        for program in self.programs:
            program.kill()
        if self.mode == WITNESSED:
            harness.wait_until("every witness has ended", lambda: all(
                text.endswith("end\n") for text in self.read_all(self.kernel).values()))

    # --- what was found ---

    @staticmethod
    def read_all(directory):
        return {name: harness.read_text(os.path.join(directory, name))
                for name in sorted(os.listdir(directory))}

    def text_reports(self):
        """pid -> its reports, oldest first."""
        reports = {}
        for name, text in self.read_all(self.reports).items():
            found, rest = harness.parse_reports(text)
            if rest.strip():
                raise AssertionError(f"{self.reports}/{name}: no line of a report: {rest!r}")
            for report in found:
                reports.setdefault(report.pid, []).append(report)
        return reports

    def reporting(self):
        """How many processes had sockets and reported."""
        return len(self.json_processes() if self.mode == RUN else self.text_reports())

    def json_processes(self):
        """The processes of all reports of `sockleak run`."""
        return [process for text in self.read_all(self.reports).values() if text
                for process in json.loads(text)["processes"]]

    def findings(self):
        """[(pid, program, verdict, count, birth)] of what is reported as leaked."""
        if self.mode == RUN:
            return [(p["pid"], p["exe"], f["verdict"], f["count"], f["birth"]["call"])
                    for p in self.json_processes() for f in p["findings"]
                    if f["group"] in ("close-wait", "dead")]
        return [(pid, report.program, f.verdict, f.count, str(f.birth))
                for pid, reports in self.text_reports().items() for report in reports
                for f in report.leaks]


class Stopwatch:
    def __init__(self):
        self.begun = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.begun
