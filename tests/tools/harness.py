"""What the tests of the sockleak command share: how to run it, and programs that leak.

The truth about sockets is the kernel's (/proc/PID/fd, ss), never the code under test.

Environment: BUILD is the build directory (default: build/ of this tree), CC the compiler.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
SOCKLEAK = os.path.join(BUILD, "sockleak")
LIBRARY = os.path.join(BUILD, "libsockleak.so")
EXAMPLES = os.path.join(BUILD, "examples")
PYTHON = "/usr/bin/python3"
AGE_SLACK_MS = 50
DEADLINE_S = 30  # of everything that is waited for

# Accepts connections whose clients close at once, and keeps them: `eof` read to the end, `fin`
# never read, `data` with five unread bytes, `reset` reset by the client. Prints its port, then
# waits for a line on stdin (and then does what the line says), or for the end of it.
LEAKER = r"""
import os, signal, socket, struct, sys, threading
server = socket.create_server(("127.0.0.1", 0), backlog=128)
port = server.getsockname()[1]
kept = []
def client(kind):
    c = socket.create_connection(("127.0.0.1", port))
    if kind == "data":
        c.sendall(b"hello")
    if kind == "reset":
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
for argument in sys.argv[1:]:
    kind, count = argument.split("=")
    for _ in range(int(count)):
        thread = threading.Thread(target=client, args=(kind,))
        thread.start()
        connection, _ = server.accept()
        thread.join()
        if kind == "eof":
            while connection.recv(100):
                pass
        kept.append(connection)
print(port, flush=True)
line = sys.stdin.readline().strip()
if line == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(int(line or 0))
"""


def need_build():
    for path in (SOCKLEAK, LIBRARY):
        if not os.path.exists(path):
            sys.exit(f"{path} does not exist: build it first, and set BUILD")
    with open(LIBRARY, "rb") as file:
        library = file.read()
    if b"__asan_init" in library or b"__tsan_init" in library:
        # Their runtimes end any program in which they are not the first library.
        print("a sanitized libsockleak.so cannot be preloaded into programs that are not sanitized: "
              "`make check-tools-address` runs these tests with a sanitized command and a plain library")
        sys.exit(77)


def is_sanitized():
    """Whether the command itself was built with SANITIZE=address."""
    with open(SOCKLEAK, "rb") as file:
        return b"__asan_init" in file.read()


def valgrind_can_run():
    return shutil.which("valgrind") and os.path.exists(SOCKLEAK) and not is_sanitized()


def wait_until(condition, what="condition"):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"after {DEADLINE_S} s still not: {what}")
        time.sleep(0.01)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def clean_environment(**more):
    """This environment without what would change how sockleak behaves."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SOCKLEAK") and name not in ("LD_PRELOAD", "NO_COLOR", "MAKEFLAGS")
    }
    kept.update(more)
    return kept


def sockleak(*arguments, env=None, **options):
    """Runs the command to its end; output as text."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [SOCKLEAK, *map(str, arguments)],
        env=env or clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=DEADLINE_S * 2,
        **options,
    )


def may_make_mounts():
    """In a mount namespace of one's own: root may, but not below a chroot, nor in every container."""
    return bool(os.geteuid() == 0 and shutil.which("unshare") and subprocess.run(
        ["unshare", "-m", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0)


class TestCase(unittest.TestCase):
    """A test with a directory of its own, whose processes do not outlive it."""

    maxDiff = None

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sockleak-tools-")
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, text, mode=0o644):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def compile(self, name, source, *flags):
        """A C program; skips the test where the compiler cannot make it so."""
        self.write(name + ".c", source)
        command = [os.environ.get("CC", "cc"), "-g", "-o", self.path(name), self.path(name + ".c")]
        built = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        if built.returncode:
            self.skipTest(f"cannot compile with {flags}: {built.stderr.strip()[:200]}")
        return self.path(name)

    def start(self, *command, **options):
        """A program that runs beside the test and is ended with it."""
        options.setdefault("env", clean_environment())
        options.setdefault("stdin", subprocess.PIPE)
        options.setdefault("stdout", subprocess.PIPE)
        process = subprocess.Popen(command, text=True, **options)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def leaker(self, *kinds, preload=False, **options):
        """A running LEAKER and the port that it listens on."""
        script = self.write("leaker.py", LEAKER)
        if preload:
            options["env"] = clean_environment(LD_PRELOAD=LIBRARY)
            options.setdefault("stderr", subprocess.DEVNULL)
        process = self.start(PYTHON, script, *kinds, **options)
        return process, int(process.stdout.readline())

    def assert_ages_are_those_of_ss(self, port, look):
        """look() gives {(local port, peer port): age in ms}. ss is asked before and after it: an age
        must lie between, give or take 50 ms, and the sockets must be the same."""
        before = close_wait_of_ss(port)
        ours = look()
        after = close_wait_of_ss(port)
        self.assertEqual(set(ours), set(before))
        self.assertEqual(set(ours), set(after))
        for ends, age_ms in ours.items():
            self.assertGreaterEqual(age_ms, before[ends] - AGE_SLACK_MS, ends)
            self.assertLessEqual(age_ms, after[ends] + AGE_SLACK_MS, ends)

    def assert_one_line(self, text, pattern):
        lines = text.splitlines()
        self.assertEqual(len(lines), 1, text)
        self.assertRegex(lines[0], pattern)


def findings(document, pid=None):
    """(verdict, count) of each finding in a JSON report."""
    return sorted(
        (finding["verdict"], finding["count"])
        for process in document["processes"]
        if pid is None or process["pid"] == pid
        for finding in process["findings"]
    )


def ages_by_ports(sockets):
    """{(local port, peer port): milliseconds since the FIN} of sockets as our JSON has them."""
    return {tuple(int(s[end].rsplit(":", 1)[1]) for end in ("local", "peer")): s["fin_age_ms"]
            for s in sockets}


def close_wait_of_ss(port):
    """{(local port, peer port): milliseconds since the FIN} as `ss` has it."""
    out = subprocess.run(
        ["ss", "-tinHO", "state", "close-wait", f"sport = :{port}"],
        capture_output=True, text=True, check=True,
    ).stdout
    ages = {}
    for line in out.splitlines():
        ports = re.findall(r":(\d+)\s", line)
        found = re.search(r"lastack:(\d+)", line)  # ss leaves out a zero
        ages[int(ports[0]), int(ports[1])] = int(found[1]) if found else 0
    return ages


def main():
    need_build()
    # A shell without job control starts what runs in the background with SIGINT ignored, and so
    # would be what is started here: signal(2) is kept by exec.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main(verbosity=2)
