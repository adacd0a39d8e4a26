"""Whoever can write where sockleak writes or reads gains nothing by it: symbolic and hard links,
fifos, files and directories of other users, at log_path, in ledger_dir, around the directory of a run,
among the inputs of a report, and in the environment of a privileged program.

Environment: BUILD is the build directory (default: build/ of this tree). What needs a second user
needs root.
"""

import glob
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
import unittest

import harness
from harness import EXAMPLES, LEAKER, LIBRARY, PYTHON, SOCKLEAK, sockleak, wait_until

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
FORGOTTEN = os.path.join(EXAMPLES, "forgotten_close")
SECRET = "what was here before\n"
needs_root = unittest.skipUnless(IS_ROOT, "needs root, to be somebody else")


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class Paths(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.victim = self.write("victim", SECRET)
        # Where everybody gets at them, wherever the build is.
        self.library = shutil.copy(LIBRARY, self.directory)
        self.command = shutil.copy(SOCKLEAK, self.directory)
        self.program = shutil.copy(FORGOTTEN, self.directory)

    def place(self, name, mode, owner=None):
        os.mkdir(self.path(name))
        os.chmod(self.path(name), mode)
        if owner is not None:
            os.chown(self.path(name), owner, owner)
        return self.path(name)

    def assert_untouched(self):
        self.assertEqual(harness.read(self.victim), SECRET)

    def leak(self, options, **more):
        """The leaking example with the library, its standard error as text."""
        done = subprocess.run([self.program], capture_output=True, text=True, check=False, timeout=20,
                              stdin=subprocess.DEVNULL, cwd=self.directory,
                              env=harness.clean_environment(LD_PRELOAD=self.library, SOCKLEAK_OPTIONS=options),
                              **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr


class LogPath(Paths):
    def assert_reported_on_stderr(self, err, why):
        self.assertRegex(err, r"log_path=\S+: " + why + r".*reporting here instead")
        self.assertIn("3 sockets, eof-ignored", err)

    def test_a_symbolic_link_is_not_followed(self):
        log = self.path("log")
        os.symlink(self.victim, log)
        self.assert_reported_on_stderr(self.leak("log_path=" + log), "it exists already")
        self.assert_untouched()
        self.assertTrue(os.path.islink(log))

    def test_a_dangling_symbolic_link_makes_no_file(self):
        os.symlink(self.path("made"), self.path("log"))
        self.assert_reported_on_stderr(self.leak("log_path=" + self.path("log")), "it exists already")
        self.assertFalse(os.path.lexists(self.path("made")))

    def test_a_hard_link_is_not_written_to(self):
        os.link(self.victim, self.path("log"))
        self.assert_reported_on_stderr(self.leak("log_path=" + self.path("log")), "it exists already")
        self.assert_untouched()

    def test_a_fifo_does_not_hold_the_program_up(self):
        os.mkfifo(self.path("log"))
        begun = time.monotonic()
        self.assert_reported_on_stderr(self.leak("log_path=" + self.path("log")), "it exists already")
        self.assertLess(time.monotonic() - begun, 10)

    def test_neither_does_one_with_a_reader(self):
        os.mkfifo(self.path("log"))
        reader = os.open(self.path("log"), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assert_reported_on_stderr(self.leak("log_path=" + self.path("log")), "it exists already")
        self.assertEqual(os.read(reader, 100), b"")

    def test_a_directory_and_a_device(self):
        self.assert_reported_on_stderr(self.leak("log_path=" + self.directory), "it exists already")
        self.assert_reported_on_stderr(self.leak("log_path=/dev/full"), "it exists already")

    @needs_root
    def test_in_a_sticky_directory_another_users_file_is_not_written_to(self):
        log = os.path.join(self.place("sticky", 0o1777), "log")
        with open(log, "w", encoding="utf-8") as file:
            file.write(SECRET)
        os.chown(log, NOBODY, NOBODY)
        os.chmod(log, 0o666)
        self.assert_reported_on_stderr(self.leak("log_path=" + log), "it exists already")
        self.assertEqual(harness.read(log), SECRET)

    def test_a_log_is_its_owners_alone(self):
        self.leak("log_path=" + self.path("log"), preexec_fn=lambda: os.umask(0))
        self.assertEqual(stat.S_IMODE(os.stat(self.path("log")).st_mode), 0o600)
        self.assertIn("eof-ignored", harness.read(self.path("log")))

    def replaced(self, replace):
        """A log, then something else in its place, then a second report: what stderr says."""
        log, err = self.path("log"), self.path("stderr")
        environment = harness.clean_environment(LD_PRELOAD=self.library,
                                                SOCKLEAK_OPTIONS=f"grace_ms=0:log_path={log}")
        with open(err, "w", encoding="utf-8") as file:
            process = self.start(PYTHON, self.write("leaker.py", LEAKER), "eof=1", stderr=file, env=environment)
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: os.path.exists(log) and "summary" in harness.read(log), "the first report")
        os.rename(log, self.path("first"))
        first = harness.read(self.path("first"))
        replace(log)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "summary" in harness.read(err), "the second report")
        self.assertEqual(harness.read(self.path("first")), first)
        return harness.read(err)

    def test_a_link_that_took_the_logs_place_is_not_followed(self):
        err = self.replaced(lambda log: os.symlink(self.victim, log))
        self.assertRegex(err, r"log_path=\S+: it is a symbolic link; reporting here instead")
        self.assert_untouched()

    def test_a_file_that_took_the_logs_place_is_not_written_to(self):
        err = self.replaced(lambda log: os.link(self.victim, log))
        self.assertRegex(err, r"log_path=\S+: it exists already, and is not overwritten; reporting here")
        self.assert_untouched()

    def test_a_fifo_that_took_the_logs_place_holds_nobody_up(self):
        err = self.replaced(os.mkfifo)
        self.assertRegex(err, r"log_path=\S+: .*reporting here instead")


class LedgerDir(Paths):
    """ledger_dir of SOCKLEAK_OPTIONS: the names in it can be foreseen."""

    # Says who it is, waits, then becomes the program: pid and start time stay.
    LAUNCHER = r"""
import os, sys
stat = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
print(f"{os.getpid()}-{stat[19]}", flush=True)
sys.stdin.readline()
os.environ["LD_PRELOAD"] = sys.argv[2]
os.execv(sys.argv[1], sys.argv[1:2])
"""

    def leak_after(self, directory, prepare, options="", **more):
        """Runs the leaking example; before, prepare(path) makes something of its ledger's name."""
        script = self.write("launcher.py", self.LAUNCHER, 0o755)
        process = subprocess.Popen([PYTHON, script, self.program, self.library], text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
                                   env=harness.clean_environment(
                                       SOCKLEAK_OPTIONS=f"ledger_dir={directory}{options}"), **more)
        self.addCleanup(self.end, process)
        name = process.stdout.readline().strip()
        prepare(os.path.join(directory, name + ".ledger"))
        _, err = process.communicate("go\n", timeout=30)
        self.assertEqual(process.returncode, 0, err)
        return name, err

    def ledgers_of(self, directory, name):
        """Those that are ledgers, and regular files."""
        found = []
        for path in glob.glob(os.path.join(directory, name + "*.ledger")):
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    found += [path] if file.read(8) == b"SOCKLEAK" else []
        return found

    def assert_own(self, ledgers, uid=os.geteuid()):
        self.assertEqual(len(ledgers), 1)
        status = os.lstat(ledgers[0])
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
        self.assertEqual(status.st_uid, uid)
        self.assertIn("3 sockets, eof-ignored", sockleak("report", ledgers[0]).stdout)

    def test_a_link_in_the_ledgers_place_is_not_followed(self):
        place = self.place("ledgers", 0o777)
        name, _ = self.leak_after(place, lambda path: os.symlink(self.victim, path))
        self.assert_untouched()
        self.assert_own(self.ledgers_of(place, name))

    def test_a_dangling_link_in_the_ledgers_place_makes_no_file(self):
        place = self.place("ledgers", 0o777)
        name, _ = self.leak_after(place, lambda path: os.symlink(self.path("made"), path))
        self.assertFalse(os.path.lexists(self.path("made")))
        self.assert_own(self.ledgers_of(place, name))

    def test_a_fifo_in_the_ledgers_place_holds_nobody_up(self):
        place = self.place("ledgers", 0o777)
        name, _ = self.leak_after(place, os.mkfifo)
        self.assert_own(self.ledgers_of(place, name))

    def test_another_file_in_the_ledgers_place_is_left_alone(self):
        place = self.place("ledgers", 0o1777)
        name, _ = self.leak_after(place, lambda path: os.link(self.victim, path))
        self.assert_untouched()
        self.assert_own(self.ledgers_of(place, name))

    def test_all_names_taken_means_a_report_as_text(self):
        place = self.place("ledgers", 0o777)

        def take(path):
            for name in [path] + [path.replace(".ledger", f"-{i}.ledger") for i in range(2, 65)]:
                os.symlink(self.victim, name)
        name, err = self.leak_after(place, take)
        self.assertEqual(self.ledgers_of(place, name), [])
        self.assertIn("3 sockets, eof-ignored", err)
        self.assert_untouched()

    def test_a_symbolic_link_to_a_directory_is_one_to_a_directory(self):
        """The name is the user's own word, as a shell's: what others make of it in a sticky directory is
        the kernel's to refuse (proc(5), protected_symlinks)."""
        place = self.place("real", 0o700)
        os.symlink(place, self.path("link"))
        name, _ = self.leak_after(self.path("link"), lambda path: None)
        self.assert_own(self.ledgers_of(place, name))

    @needs_root
    def test_a_directory_of_another_user_that_may_not_be_written_to(self):
        place = self.place("roots", 0o755)
        os.chmod(self.directory, 0o755)
        name, err = self.leak_after(place, lambda path: None, preexec_fn=become_nobody)
        self.assertEqual(os.listdir(place), [])
        self.assertIn("3 sockets, eof-ignored", err)

    @needs_root
    def test_a_directory_of_another_user_that_everybody_may_write_to(self):
        for mode in (0o777, 0o1777):
            place = self.place(f"nobodys-{mode:o}", mode, NOBODY)
            name, _ = self.leak_after(place, lambda path: os.symlink(self.victim, path))
            self.assert_untouched()
            ledgers = self.ledgers_of(place, name)
            self.assert_own(ledgers)
            read = subprocess.run(["cat", ledgers[0]], preexec_fn=become_nobody, capture_output=True, check=False)
            self.assertNotEqual(read.returncode, 0)


class RunDirectory(Paths):
    def where(self, **environment):
        """The directory that a run gives its command."""
        user = environment.pop("user", None)
        done = subprocess.run([self.command, "run", "sh", "-c", "echo $SOCKLEAK_OPTIONS"], text=True,
                              capture_output=True, check=False, timeout=30, preexec_fn=user, cwd="/",
                              env=harness.clean_environment(**environment))
        found = re.search(r"ledger_dir=['\"]?([^:'\"\n]+)", done.stdout)
        self.assertTrue(found, done.stdout + done.stderr)
        self.assertFalse(os.path.exists(found[1]))
        return found[1]

    def setUp(self):
        super().setUp()
        if not os.path.isdir("/dev/shm"):
            self.skipTest("no /dev/shm")

    def in_memory(self, name, mode, owner=None):
        """A directory in a tmpfs."""
        path = f"/dev/shm/{os.path.basename(self.directory)}-{name}"
        os.mkdir(path)
        self.addCleanup(shutil.rmtree, path, True)
        os.chmod(path, mode)
        if owner is not None:
            os.chown(path, owner, owner)
        return path

    @needs_root
    def test_a_runtime_directory_of_ones_own_is_taken(self):
        own = self.in_memory("own", 0o700, NOBODY)
        self.assertTrue(self.where(XDG_RUNTIME_DIR=own, user=become_nobody).startswith(own + "/sockleak-"))

    @needs_root
    def test_where_others_could_rename_it_no_directory_is_made(self):
        another = 65533
        for name, mode, owner in (("open", 0o777, 0), ("group", 0o775, NOBODY), ("others", 0o777, another),
                                  ("others-sticky", 0o1777, another)):
            runtime = self.in_memory(name, mode, owner)
            where = self.where(XDG_RUNTIME_DIR=runtime, user=become_nobody)
            self.assertRegex(where, r"^/dev/shm/sockleak-......$", runtime)

    @needs_root
    def test_a_temporary_directory_of_that_kind_is_not_taken_either(self):
        if not harness.may_make_mounts():
            self.skipTest("no mount namespace: not permitted here")
        for name, mode, owner, taken in (("own", 0o700, 0, True), ("sticky", 0o1777, 0, True),
                                         ("open", 0o777, 0, False), ("others", 0o755, NOBODY, False)):
            place = self.place("tmp-" + name, mode, owner)
            # Without /dev/shm in memory, which would come first.
            done = subprocess.run(["unshare", "-m", "sh", "-c",
                                   'mount --bind "$1" /dev/shm && exec "$2" run sh -c "echo \\$SOCKLEAK_OPTIONS"',
                                   "sh", self.directory, self.command], text=True, capture_output=True, check=False,
                                  env=harness.clean_environment(TMPDIR=place))
            self.assertIn("ledger_dir=", done.stdout, done.stderr)
            self.assertEqual(place in done.stdout, taken, done.stdout)

    def test_a_run_is_not_disturbed_by_what_its_command_leaves_there(self):
        script = self.write("plant.sh", f"""
dir=$(echo "$SOCKLEAK_OPTIONS" | sed "s/.*ledger_dir=//; s/['\\"]//g; s/:.*//")
ln -s {self.victim} "$dir/1-1.ledger"
ln -s {self.victim} "$dir/x.json"
ln -s {self.directory} "$dir/d.ledger"
ln {self.victim} "$dir/2-2.ledger"
mkfifo "$dir/3-3.ledger"
truncate -s 100G "$dir/4-4.ledger"
printf SOCKLEAK > "$dir/5-5.ledger"
truncate -s 100G "$dir/5-5.ledger"
echo "$dir"
exec {self.program}
""")
        begun = time.monotonic()
        done = sockleak("run", "--", "sh", script)
        self.assertLess(time.monotonic() - begun, 20)
        self.assertIn("3 sockets, eof-ignored", done.stderr)
        self.assertNotIn(SECRET.strip(), done.stderr)
        self.assert_untouched()
        self.assertFalse(os.path.exists(done.stdout.split()[0]))
        self.assertTrue(os.path.exists(self.library), "what a link leads to stays")


class Inputs(Paths):
    def check(self, path, status, pattern, limit_s=10):
        begun = time.monotonic()
        done = sockleak("report", path)
        self.assertLess(time.monotonic() - begun, limit_s)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertRegex(done.stdout + done.stderr, pattern)
        self.assertNotIn("what was here", done.stdout + done.stderr)

    def test_a_fifo(self):
        os.mkfifo(self.path("fifo"))
        self.check(self.path("fifo"), 1, "is no regular file")

    def test_devices(self):
        for device in ("/dev/zero", "/dev/tty", "/dev/full"):
            if os.path.exists(device):
                self.check(device, 1, "is no regular file")

    def test_a_socket(self):
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(self.path("socket"))
        self.check(self.path("socket"), 1, "is no regular file")

    def test_huge_sparse_files(self):
        for name, front in (("zeros", b""), ("ledger", b"SOCKLEAK"), ("json", b'{"schema": ')):
            with open(self.path(name), "wb") as file:
                file.write(front)
                file.truncate(1 << 40)
            self.check(self.path(name), 1, "neither a ledger|larger than a report|ledger version")

    def test_a_directory_with_links(self):
        place = self.place("ledgers", 0o755)
        os.symlink(self.victim, place + "/1-1.ledger")
        os.symlink("/etc/passwd", place + "/2-2.json")
        os.symlink("loop.ledger", place + "/loop.ledger")
        os.mkfifo(place + "/3-3.ledger")
        os.mkdir(place + "/4-4.ledger")
        self.check(place, 1, "is a symbolic link: not followed")

    def test_a_device_that_a_ledger_names_is_not_opened(self):
        """Watchdogs and tapes act on being opened."""
        if not shutil.which("strace"):
            self.skipTest("no strace")
        report = self.write("report.json", "")
        place = self.path("kept")
        sockleak("run", "--quiet", "--ledger-dir", place, self.program)
        ledger, = glob.glob(place + "/*.ledger")
        with open(ledger, "rb") as file:
            content = file.read()
        name = os.fsencode(self.program) + b"\0"
        self.assertIn(name, content)
        with open(ledger, "wb") as file:
            file.write(content.replace(name, b"/dev/zero".ljust(len(name), b"\0")))
        trace = subprocess.run(["strace", "-f", "-e", "trace=open,openat", SOCKLEAK, "report", "-o", report, ledger],
                               capture_output=True, text=True, check=False)
        if "ptrace" in trace.stderr and "Operation not permitted" in trace.stderr:
            self.skipTest("strace may not trace here")
        opened = [line for line in trace.stderr.splitlines() if "/dev/zero" in line]
        self.assertTrue(opened, trace.stderr)
        for line in opened:
            self.assertIn("O_PATH", line)
        self.assertIn("/dev/zero cannot be read", harness.read(report))


class Outputs(Paths):
    """Files that the user names are written as a shell's `>` would: that is what the manual says."""

    def setUp(self):
        super().setUp()
        self.kept = self.path("kept")
        sockleak("run", "--quiet", "--ledger-dir", self.kept, self.program)

    def test_a_file_that_is_there_is_written_anew(self):
        for option in ("--output=" + self.victim, "--format=json:" + self.victim):
            self.write("victim", SECRET * 10000)
            done = sockleak("report", option, self.kept)
            self.assertEqual(done.stderr, "")
            self.assertNotIn(SECRET, harness.read(self.victim))
            self.assertIn("eof-ignored", harness.read(self.victim))

    def test_what_cannot_be_written_is_said(self):
        for target in (self.directory, self.path("no", "such")):
            done = sockleak("report", "--output=" + target, self.kept)
            self.assertEqual(done.returncode, 1)
            self.assert_one_line(done.stderr, "cannot write the report")


@needs_root
class Privileged(Paths):
    """Set-user-ID: the linker drops LD_PRELOAD with a path, but an administrator may have it load us
    all the same. The environment is the unprivileged user's: it must not choose files."""

    PROGRAM = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, len) || listen(listener, 1)) return 1;
    getsockname(listener, (void *)&address, &len);
    if (connect(client, (void *)&address, len)) return 1;
    int fd = accept(listener, 0, 0);
    char c;
    close(client);
    if (read(fd, &c, 1)) return 1;
    printf("%lu %d\n", getauxval(AT_SECURE), (int)geteuid());
    return 0;
}
"""

    def run_as_nobody(self, mode):
        program = self.compile("privileged", self.PROGRAM, "-Wl,--no-as-needed", self.library,
                               f"-Wl,-rpath,{self.directory}")
        os.chmod(program, mode)
        place, log = self.place("ledgers", 0o777), self.place("logs", 0o777)
        return subprocess.run([program], capture_output=True, text=True, check=False, preexec_fn=become_nobody,
                              cwd="/", env=harness.clean_environment(
                                  SOCKLEAK_OPTIONS=f"ledger_dir={place}:log_path={log}/log:help=1:exitcode=9"))

    def test_its_environment_is_not_listened_to(self):
        done = self.run_as_nobody(0o4755)
        if not done.stdout.startswith("1 0"):
            self.skipTest(f"set-user-ID does not count here: {done.stdout!r}")
        self.assertEqual(os.listdir(self.path("ledgers")), [])
        self.assertEqual(os.listdir(self.path("logs")), [])
        self.assertNotIn("SOCKLEAK_OPTIONS", done.stderr)
        self.assertEqual(done.returncode, 0)

    def test_without_privileges_it_is(self):
        """The other half: the test above could not fail without it."""
        done = self.run_as_nobody(0o755)
        self.assertEqual(done.stdout, f"0 {NOBODY}\n")
        self.assertEqual(len(os.listdir(self.path("ledgers"))), 1)
        self.assertIn("SOCKLEAK_OPTIONS", done.stderr)


if __name__ == "__main__":
    harness.main()
