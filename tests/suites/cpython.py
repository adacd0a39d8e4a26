"""CPython's own tests, as Debian packages them (libpython3.11-testsuite)."""

import os
import signal
import subprocess
import time

import harness
from passes import HERE, PYTHON

# A test that reports nothing for so long has hung. Some do on some machines, bare as well: with a
# vsock device, for example, one waits for a connection that never comes.
HANG_S = 60
MODULES = ("test_socket", "test_asyncio", "test_ssl", "test_socketserver", "test_httplib",
           "test_urllib2_localnet", "test_subprocess", "test_multiprocessing_fork",
           "test_multiprocessing_spawn", "test_os", "test_selectors", "test_signal",
           "test_threading", "test_io")
BELOW_COMMAND = ("test_socketserver", "test_httplib", "test_subprocess", "test_os")
# No module gets what regrtest calls a resource: hosts of the internet, huge files, sound. But this
# one calls loopback a network.
RESOURCES = {"test_socketserver": ["network"]}


class CPython:
    """One module of the package test."""

    witnessed_always = False

    def __init__(self, module):
        self.module = module
        self.run_below_command = module in BELOW_COMMAND
        self.name = f"cpython/{module}"

    def missing(self):
        if not os.path.exists(PYTHON):
            return "python3.11 is not installed"
        found = subprocess.run([PYTHON, "-c", f"import test.{self.module}"], check=False,
                               stdin=subprocess.DEVNULL, capture_output=True)
        return None if found.returncode == 0 else "libpython3.11-testsuite is not installed"

    def execute(self, run, only=None):
        """id -> outcome. After a crash or a hang the rest is run in a new process."""
        outcomes, restarts = {}, 0
        while True:
            results = run.path(f"results{restarts}")
            skipped = run.write(f"done{restarts}", "".join(f"{name}\n" for name in outcomes))
            wanted = run.write("wanted", "".join(f"{name}\n" for name in only or ()))
            ending = self.run_driver(run, restarts, results, skipped, wanted)
            finished, current = self.read(results, outcomes)
            if finished:
                return outcomes
            if current is None:
                outcomes[f"{self.module} (process {restarts})"] = ending
                return outcomes
            outcomes[current] = ending
            restarts += 1

    def run_driver(self, run, number, results, skipped, wanted):
        """How the process ended."""
        argv = run.argv([PYTHON, os.path.join(HERE, "cpython_driver.py"), results, skipped, wanted,
                         self.module, *RESOURCES.get(self.module, [])])
        with open(run.path(f"log{number}"), "wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       cwd=run.work, env=run.environment(), start_new_session=True)
        try:
            return self.wait(process, results)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    @staticmethod
    def wait(process, results):
        begun = time.time()
        while process.poll() is None:
            last = os.path.getmtime(results) if os.path.exists(results) else begun
            if time.time() - last > HANG_S:
                return f"no end within {HANG_S} s"
            time.sleep(0.05)
        if process.returncode < 0:
            return f"died by {signal.Signals(-process.returncode).name}"
        return f"died with status {process.returncode}"

    @staticmethod
    def read(results, outcomes):
        """Adds what the driver wrote. Returns whether it has ended, and the test it was in."""
        current = None
        for line in harness.read_text(results).splitlines() if os.path.exists(results) else []:
            outcome, name = line.split(" ", 1)
            if outcome == "end":
                return True, None
            if outcome == "begin":
                current = name
            else:
                outcomes[name] = outcome
                current = None
        return False, current


SUITES = [CPython(module) for module in MODULES]
