"""sockleak run: exit status, the environment it makes, signals, process trees, what it cannot see."""

import glob
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import unittest

import harness
from harness import EXAMPLES, LIBRARY, PYTHON, SOCKLEAK, findings, sockleak, wait_until

FORGOTTEN = os.path.join(EXAMPLES, "forgotten_close")
CLEAN = os.path.join(EXAMPLES, "clean_half_close")


def ledger_directories():
    parents = {os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", os.environ.get("TMPDIR"), "/tmp"}
    return {d for p in parents if p for d in glob.glob(os.path.join(p, "sockleak-??????"))}


class Status(harness.TestCase):
    def test_a_leak_is_23(self):
        done = sockleak("run", "--", FORGOTTEN)
        self.assertEqual(done.returncode, 23)
        self.assertRegex(done.stderr, r"3 sockets, eof-ignored")
        self.assertRegex(done.stderr, r"handle_request +\S*forgotten_close\.c:\d+")

    def test_without_a_leak_it_is_the_commands_own(self):
        self.assertEqual(sockleak("run", CLEAN).returncode, 0)
        for status in (0, 1, 7, 255):
            self.assertEqual(sockleak("run", "sh", "-c", f"exit {status}").returncode, status)

    def test_a_leak_wins_over_the_commands_own(self):
        self.assertEqual(sockleak("run", "sh", "-c", f"{FORGOTTEN}; exit 5").returncode, 23)

    def test_death_by_a_signal_is_128_and_its_number(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
            done = sockleak("run", "sh", "-c", f"kill -{int(number)} $$")
            self.assertEqual(done.returncode, 128 + number)

    def test_exit_code_and_fail_on(self):
        self.assertEqual(sockleak("run", "--exit-code=42", FORGOTTEN).returncode, 42)
        self.assertEqual(sockleak("run", "--fail-on=none", FORGOTTEN).returncode, 0)
        self.assertEqual(sockleak("run", "--fail-on=dead", FORGOTTEN).returncode, 0)
        self.assertEqual(sockleak("run", "--fail-on=close-wait", FORGOTTEN).returncode, 23)

    def test_a_command_that_is_not_there_is_127(self):
        done = sockleak("run", "no-such-command-anywhere")
        self.assertEqual(done.returncode, 127)
        self.assert_one_line(done.stderr, "no-such-command-anywhere: command not found")
        self.assertEqual(sockleak("run", "/no/such/file").returncode, 127)

    def test_it_is_127_too_where_a_directory_of_path_may_not_be_searched(self):
        closed = self.path("closed")
        os.mkdir(closed, 0)
        command = [SOCKLEAK, "run", "no-such-command-anywhere"]
        if os.geteuid() == 0:  # which may search them all
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
            os.chown(closed, 65534, 65534)
        done = subprocess.run(command, env={**os.environ, "PATH": f"{closed}:{os.environ['PATH']}"},
                              stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 127)
        self.assertIn("no-such-command-anywhere: command not found", done.stderr)

    def test_a_command_that_cannot_be_run_is_126(self):
        done = sockleak("run", self.write("plain", "no program\n"))
        self.assertEqual(done.returncode, 126)
        self.assert_one_line(done.stderr, "Permission denied")

    def test_a_suppression_file_that_is_missing_is_said_before_the_command_runs(self):
        done = sockleak("run", "--suppressions=/no/such/file", "touch", self.path("ran"))
        self.assertIn(done.returncode, (1, 2))
        self.assertIn("/no/such/file: cannot ", done.stderr)
        self.assertFalse(os.path.exists(self.path("ran")))

    def test_suppressions_that_cannot_be_read_are_refused_before_the_command_runs(self):
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(self.path("listening"))
        for each in (self.directory, self.path("listening")):
            done = sockleak("run", f"--suppressions={each}", "-o", self.path("out"), "touch", self.path("ran"))
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"--suppressions={each} cannot be used", done.stderr)
            self.assertEqual(os.listdir(self.directory), ["listening"])

    def test_rules_from_a_pipe_that_are_none_do_not_lose_the_report(self):
        for command, status in ((FORGOTTEN, 23), (os.path.join(EXAMPLES, "clean_fd_reuse"), 1)):
            done = subprocess.run(
                ["bash", "-c", '"$1" run --suppressions=<(echo leek:x) -o "$2" "$3"', "bash", SOCKLEAK,
                 self.path("out"), command], env=harness.clean_environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertIn("'leek:x' is no suppression", done.stderr)
            self.assertIn("summary: ", harness.read(self.path("out")))
            os.unlink(self.path("out"))

    def test_quiet_says_nothing(self):
        done = sockleak("run", "--quiet", FORGOTTEN)
        self.assertEqual((done.returncode, done.stderr), (23, ""))

    def test_a_command_without_sockets_is_said_to_have_none(self):
        done = sockleak("run", "true")
        self.assertEqual(done.returncode, 0)
        self.assert_one_line(done.stderr, "no process of true opened a socket")

    def test_so_it_is_where_a_format_has_a_file(self):
        done = sockleak("run", f"--format=json:{self.path('out')}", "true")
        self.assertEqual(done.returncode, 0)
        self.assert_one_line(done.stderr, "no process of true opened a socket")
        self.assertIn('"processes":[]', re.sub(r"\s", "", harness.read(self.path("out"))))


class Environment(harness.TestCase):
    def show(self, *arguments, **env):
        done = sockleak("run", *arguments, "--", "sh", "-c", "env", env=harness.clean_environment(**env))
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def test_the_users_preload_is_kept_behind_ours(self):
        self.assertEqual(self.show()["LD_PRELOAD"], LIBRARY)
        other = "/lib/x86_64-linux-gnu/libm.so.6"
        if not os.path.exists(other) or harness.is_sanitized():
            self.skipTest("no libm where this test looks for it, or a sanitized build")
        self.assertEqual(self.show(LD_PRELOAD=other)["LD_PRELOAD"], f"{LIBRARY}:{other}")

    def test_the_users_options_are_kept(self):
        options = self.show("--option", "grace_ms=5", "--signal=SIGUSR2", SOCKLEAK_OPTIONS="stack_depth=7")
        self.assertRegex(
            options["SOCKLEAK_OPTIONS"],
            r"^stack_depth=7:grace_ms=5:signal=USR2:ledger_dir=/.*/sockleak-\w{6}$",
        )

    def test_the_users_sanitizer_options_are_kept(self):
        name = "ASAN_OPTIONS"
        self.assertEqual(self.show()[name], "verify_asan_link_order=0")
        self.assertEqual(self.show(ASAN_OPTIONS="a=1")[name], "a=1:verify_asan_link_order=0")
        own = "verify_asan_link_order=1"
        self.assertEqual(self.show(ASAN_OPTIONS=own)[name], own)

    def test_a_value_with_a_colon_is_quoted(self):
        options = self.show("--option", "log_path=/tmp/a:b")["SOCKLEAK_OPTIONS"]
        self.assertIn("log_path='/tmp/a:b'", options)

    def test_nothing_else_changes(self):
        before = harness.clean_environment(WITH="blanks and = signs")
        after = self.show(WITH="blanks and = signs")
        for name in ("LD_PRELOAD", "SOCKLEAK_OPTIONS", "ASAN_OPTIONS"):
            del after[name]
        for name in ("_", "PWD", "OLDPWD", "SHLVL"):
            before.pop(name, None), after.pop(name, None)
        multiline = {n for n, v in before.items() if "\n" in v}
        self.assertEqual({n: v for n, v in before.items() if n not in multiline},
                         {n: v for n, v in after.items() if n in before and n not in multiline})

    def test_a_library_below_a_path_with_a_blank_is_loaded(self):
        place = self.path("with blank")
        os.mkdir(place)
        shutil.copy(SOCKLEAK, place)
        shutil.copy(LIBRARY, place)
        done = subprocess.run([place + "/sockleak", "run", FORGOTTEN], capture_output=True, text=True,
                              check=False, env=harness.clean_environment())
        self.assertEqual(done.returncode, 23, done.stderr)

    def test_an_installed_pair_finds_each_other(self):
        os.makedirs(self.path("bin")), os.makedirs(self.path("lib"))
        shutil.copy(SOCKLEAK, self.path("bin"))
        shutil.copy(LIBRARY, self.path("lib"))
        done = subprocess.run([self.path("bin/sockleak"), "run", "sh", "-c", "echo $LD_PRELOAD"],
                              capture_output=True, text=True, check=False,
                              env=harness.clean_environment())
        self.assertEqual(done.stdout.strip(), self.path("lib/libsockleak.so"))

    def test_a_command_without_its_library_says_so(self):
        shutil.copy(SOCKLEAK, self.path("sockleak"))
        done = subprocess.run([self.path("sockleak"), "run", "touch", self.path("ran")],
                              capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self.skipTest("libsockleak.so is installed on this machine")
        self.assertEqual(done.returncode, 1)
        self.assertIn("libsockleak.so is neither beside this command", done.stderr)
        self.assertFalse(os.path.exists(self.path("ran")))

    def test_the_commands_view_is_the_same(self):
        """Process group, session, streams, signal mask and dispositions, descriptors."""
        script = self.write("view.py", r"""
import os, re
status = open("/proc/self/status").read()
print(os.getpgrp() == int(os.environ["GROUP"]), os.getsid(0))
print(re.findall(r"(?m)^(?:SigBlk|SigIgn):.*", status))
print(sorted(os.listdir("/proc/self/fd")), os.readlink("/proc/self/fd/0"))
""")
        env = harness.clean_environment(GROUP=str(os.getpgrp()))
        with open("/dev/zero", "rb") as zero:
            bare = subprocess.run([PYTHON, script], stdin=zero, env=env, capture_output=True, text=True)
            watched = sockleak("run", PYTHON, script, env=env, stdin=zero)
        self.assertEqual(watched.stdout, bare.stdout)
        self.assertTrue(watched.stdout.startswith("True"))

    def test_an_ignored_sigchld_is_no_trouble(self):
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        self.assertEqual(sockleak("run", "sh", "-c", "exit 9", preexec_fn=ignore).returncode, 9)
        done = sockleak("run", "grep", "SigIgn", "/proc/self/status", preexec_fn=ignore)
        ignored = int(done.stdout.split()[1], 16)
        self.assertTrue(ignored >> (signal.SIGCHLD - 1) & 1)


class Sanitizers(harness.TestCase):
    LEAK = open(os.path.join(harness.ROOT, "examples", "forgotten_close.c"), encoding="utf-8").read()

    def build(self, sanitizer):
        shutil.copy(os.path.join(harness.ROOT, "examples", "peer.h"), self.directory)
        return self.compile("leak", self.LEAK, f"-fsanitize={sanitizer}", "-pthread", "-D_GNU_SOURCE")

    def check(self, sanitizer):
        program = self.build(sanitizer)
        done = sockleak("run", program)
        self.assertIn("eof-ignored", done.stderr)
        self.assertEqual(done.returncode, 23, done.stderr)
        self.assertNotIn("does not come first", done.stderr)
        below = sockleak("run", "sh", "-c", f"{program}; true")
        self.assertIn("eof-ignored", below.stderr)

    def test_address(self):
        self.check("address")

    def test_thread(self):
        self.check("thread")


class Directory(harness.TestCase):
    def test_it_is_private_in_memory_and_removed(self):
        before = ledger_directories()
        done = sockleak("run", "sh", "-c", 'd=${SOCKLEAK_OPTIONS##*ledger_dir=}; stat -c "%a %u" $d; '
                        'stat -f -c %T $d; echo $d')
        mode, owner = done.stdout.splitlines()[0].split()
        self.assertEqual(mode, "1733" if os.geteuid() == 0 else "700")
        self.assertEqual(int(owner), os.geteuid())
        if os.path.ismount("/dev/shm"):
            self.assertEqual(done.stdout.splitlines()[1], "tmpfs")
        self.assertFalse(os.path.exists(done.stdout.splitlines()[2]))
        self.assertEqual(ledger_directories() - before, set())

    def test_it_is_removed_when_the_command_cannot_run(self):
        before = ledger_directories()
        sockleak("run", "/no/such/file")
        self.assertEqual(ledger_directories() - before, set())

    def test_a_kept_directory_gives_the_same_report_later(self):
        kept = self.path("ledgers")
        done = sockleak("run", "--ledger-dir", kept, "--format=json", f"--output={self.path('a.json')}", FORGOTTEN)
        self.assertEqual(done.returncode, 23)
        self.assertEqual(len(os.listdir(kept)), 1, os.listdir(kept))
        later = sockleak("report", "--format=json", kept)
        with open(self.path("a.json"), encoding="utf-8") as file:
            self.assertEqual(findings(json.load(file)), findings(json.loads(later.stdout)))

    def test_runs_that_keep_in_one_place_do_not_mix(self):
        kept = self.path("ledgers")
        self.assertEqual(sockleak("run", "--ledger-dir", kept, FORGOTTEN).returncode, 23)
        self.assertEqual(sockleak("run", "--ledger-dir", kept, CLEAN).returncode, 0)
        self.assertEqual(len(os.listdir(kept)), 2)

    def test_a_place_that_cannot_be_had_is_said(self):
        done = sockleak("run", "--ledger-dir=/proc/none", "true")
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, "/proc/none: cannot be made")
        done = sockleak("run", "--ledger-dir", self.path("x" * 250), "true")
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, "too long for a ledger directory")

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_a_server_that_drops_its_privileges_is_watched(self):
        script = self.write("drop.py", "import os, sys\nos.setgroups([]); os.setuid(65534)\n" + harness.LEAKER)
        report = self.path("out.json")
        done = sockleak("run", f"--format=json:{report}", PYTHON, script, "eof=2")
        self.assertEqual(done.returncode, 23, done.stderr)
        with open(report, encoding="utf-8") as file:
            self.assertEqual(findings(json.load(file)), [("eof-ignored", 2)])


class Signals(harness.TestCase):
    TRAP = r"""
import os, signal, sys, time
got = []
for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGWINCH):
    # Not by print: a signal may come in the middle of one.
    signal.signal(number, lambda n, f: os.write(1, signal.Signals(n).name.encode() + b"\n"))
signal.signal(signal.SIGUSR2, lambda n, f: sys.exit(9))
os.write(1, b"ready\n")
while True:
    time.sleep(1)
"""

    def test_what_is_sent_to_us_reaches_the_command(self):
        script = self.write("trap.py", self.TRAP)
        process = self.start(SOCKLEAK, "run", "-q", PYTHON, script)
        self.assertEqual(process.stdout.readline(), "ready\n")
        for name in ("SIGHUP", "SIGTERM", "SIGINT", "SIGWINCH"):
            process.send_signal(getattr(signal, name))
            self.assertEqual(process.stdout.readline().strip(), name)
        process.send_signal(signal.SIGUSR2)
        self.assertEqual(process.wait(harness.DEADLINE_S), 9)

    def test_a_signal_that_ends_the_command_ends_the_run_with_a_report(self):
        process = self.start(SOCKLEAK, "run", PYTHON, self.write("leaker.py", harness.LEAKER), "eof=1",
                             stderr=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.3)  # exit_grace_ms: a signal may come between the read and the close
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(harness.DEADLINE_S), 23)
        self.assertIn("1 socket, eof-ignored", process.stderr.read())

    def test_a_stopped_command_is_continued(self):
        process = self.start(SOCKLEAK, "run", "-q", "sh", "-c", "echo $$; kill -STOP $$; echo on; exit 4")
        child = int(process.stdout.readline())
        wait_until(lambda: self.state(child) == "T", "stopped")
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.stdout.readline(), "on\n")
        self.assertEqual(process.wait(harness.DEADLINE_S), 4)

    @staticmethod
    def state(pid):
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0]

    @staticmethod
    def states_of_group(group):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                state, _, its_group = harness.read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[:3]
            except OSError:  # it has ended
                continue
            if int(its_group) == group:
                yield state

    def on_a_terminal(self, *command):
        """Starts it as a shell would a job: its own foreground process group on a terminal."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        pid = os.fork()
        if pid == 0:
            os.close(master)
            os.setsid()
            os.dup2(slave, 0), os.dup2(slave, 1), os.dup2(slave, 2)
            import fcntl
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            job = os.fork()
            if job == 0:
                os.setpgid(0, 0)
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(0, os.getpid())
                signal.signal(signal.SIGTTOU, signal.SIG_DFL)
                os.execve(command[0], command, harness.clean_environment())
            while True:  # a very small shell: continues what stops, ends with what ends
                _, status = os.waitpid(job, os.WUNTRACED)
                if os.WIFSTOPPED(status):
                    print(f"[stopped {os.WSTOPSIG(status)}]", flush=True)
                    wait_until(lambda: set(self.states_of_group(job)) == {"T"}, "all of the job stopped")
                    os.killpg(job, signal.SIGCONT)
                    print("[continued]", flush=True)
                else:
                    print(f"[ended {os.waitstatus_to_exitcode(status)}]", flush=True)
                    os._exit(0)
        os.close(slave)
        self.addCleanup(lambda: os.waitpid(pid, 0))
        return master

    def read_until(self, master, pattern):
        text = ""
        os.set_blocking(master, False)
        end = time.monotonic() + harness.DEADLINE_S
        while not re.search(pattern, text):
            self.assertLess(time.monotonic(), end, text)
            try:
                text += os.read(master, 4096).decode(errors="replace")
            except (BlockingIOError, OSError):
                time.sleep(0.01)
        return text

    def test_keys_of_the_terminal_reach_the_command_once(self):
        script = self.write("trap.py", self.TRAP.replace("time.sleep(1)", "sys.stdin.readline()"))
        master = self.on_a_terminal(SOCKLEAK, "run", "-q", PYTHON, script)
        self.read_until(master, "ready")
        os.write(master, b"\x03")
        seen = self.read_until(master, "SIGINT")
        os.write(master, b"\x1a")  # ^Z: the small shell sees the job stop, and continues it
        seen += self.read_until(master, r"\[continued\]")
        os.write(master, b"\x1c")  # ^\ has the default action: 128+3
        seen += self.read_until(master, r"\[ended -?\d+\]")
        self.assertEqual(seen.count("SIGINT"), 1, seen)
        self.assertIn("[ended 131]", seen)


class Valgrind(harness.TestCase):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_the_program_is_named_and_not_valgrind(self):
        done = sockleak("run", "valgrind", "-q", FORGOTTEN)
        self.assertEqual(done.returncode, 23, done.stderr)
        self.assertRegex(done.stderr, r"#\d+ main +\S*forgotten_close\.c:\d+\n")
        self.assertNotIn("was replaced", done.stderr)

    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_memcheck_finds_no_error_of_ours(self):
        bare, ours = (subprocess.run(["valgrind", "-q", "--leak-check=full", "--error-exitcode=77", CLEAN],
                                     env=harness.clean_environment(**preload), capture_output=True, text=True)
                      for preload in ({}, {"LD_PRELOAD": harness.LIBRARY}))
        self.assertEqual((bare.returncode, bare.stdout, bare.stderr), (ours.returncode, ours.stdout, ours.stderr))
        self.assertEqual(ours.returncode, 0)


class Trees(harness.TestCase):
    def run_json(self, *command):
        report = self.path("out.json")
        done = sockleak("run", f"--format=json:{report}", "--", *command)
        with open(report, encoding="utf-8") as file:
            return done, json.load(file)

    def test_each_process_of_a_tree_is_told_apart(self):
        script = self.write("leaker.py", harness.LEAKER)
        self.write("tree.sh", f"""
{CLEAN}
echo kill | {PYTHON} {script} eof=2 fin=1
echo 0 | {PYTHON} {script} eof=1 &
echo 0 | {PYTHON} {script} fin=0 &
wait
setsid {PYTHON} {script} fin=2 < /dev/zero > {self.path('port')} 2>&1 &
while ! [ -s {self.path('port')} ]; do sleep 0.1; done
sleep 1.2
echo $! > {self.path('pid')}
exit 5
""")
        try:
            done, document = self.run_json("sh", self.path("tree.sh"))
        finally:
            with open(self.path("pid"), encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGKILL)
        self.assertEqual(done.returncode, 23, done.stderr)
        told = sorted((p["ended"], tuple(findings(document, p["pid"]))) for p in document["processes"])
        self.assertEqual(told, [
            ("_exit", ()),
            ("_exit", (("eof-ignored", 1),)),
            ("exit", ()),
            ("killed", (("eof-ignored", 2),)),
            ("running", (("fin-unread", 2),)),
        ])
        self.assertEqual(document["summary"]["leaks"], 5)

    KILLED = """
import os, socket, sys, time
l = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(l.getsockname())
s, peer = l.accept()
time.sleep(0.4)
c.close()
s.recv(1)
l.setblocking(False)
try:
    l.accept()  # as a server goes on
except BlockingIOError:
    pass
time.sleep(float(sys.argv[1]))
print("%s:%d" % peer, flush=True)
os.kill(os.getpid(), 9)
"""

    def test_when_a_process_was_killed_is_known(self):
        """Of the command, and of a process that the shell waits for."""
        for script in (f"exec {PYTHON} %s 0.6", f"{PYTHON} %s 0.6; true"):
            done, document = self.run_json("sh", "-c", script % self.write("killed.py", self.KILLED))
            (process,) = document["processes"]
            self.assertEqual((process["ended"], findings(document)), ("killed", [("eof-ignored", 1)]))
            (socket,) = process["findings"][0]["sockets"]
            self.assertGreaterEqual(socket["open_ms"], 1000)
            self.assertLess(socket["open_ms"], 1600)  # a look, on a busy machine
            (eof,) = [event for event in socket["teardown"] if event["what"] == "eof-read"]
            self.assertGreaterEqual(eof["at_ms_ago"], 600)
            self.assertLess(eof["at_ms_ago"], 1200)
            self.assertEqual(socket["peer"], done.stdout.strip())

    def test_what_was_killed_at_once_leaked_too(self):
        done, document = self.run_json(PYTHON, self.write("killed.py", self.KILLED), "0")
        self.assertEqual((findings(document), done.returncode), ([("eof-ignored", 1)], 23))

    def test_it_does_not_wait_for_a_daemon(self):
        begin = time.monotonic()
        done = sockleak("run", "sh", "-c", "setsid sleep 20 >/dev/null 2>&1 & echo $!")
        self.assertLess(time.monotonic() - begin, 5)
        os.kill(int(done.stdout), signal.SIGKILL)

    def test_a_ledger_in_private_memory_of_a_running_process_is_read(self):
        """The process cannot make a file: its ledger directory is gone when it opens a socket."""
        script = self.write("late.py", "import os, shutil\n"
                            "o = os.environ['SOCKLEAK_OPTIONS'].split('ledger_dir=')[1]\n"
                            "os.rename(o, o + '.away')\n" + harness.LEAKER.replace(
                                'line = sys', f"os.rename(o + '.away', o); open({self.path('ok')!r}, 'w')\nline = sys"))
        done, document = self.run_json(
            "sh", "-c", f"{PYTHON} {script} fin=2 < /dev/zero >/dev/null 2>&1 & echo $!; "
            f"while ! [ -e {self.path('ok')} ]; do sleep 0.1; done; sleep 1.2")
        os.kill(int(done.stdout), signal.SIGKILL)
        self.assertEqual(findings(document), [("fin-unread", 2)], done.stderr)
        finding = [f for p in document["processes"] for f in p["findings"]][0]
        self.assertEqual(finding["birth"]["call"], "accept4")


class Blind(harness.TestCase):
    WAIT = '#include <unistd.h>\nint main(void) { sleep(1); return 3; }\n'

    def test_a_static_program_is_said_at_the_start_and_in_the_report(self):
        program = self.compile("static", self.WAIT, "-static")
        done = sockleak("run", program)
        self.assertEqual(done.returncode, 3)
        first = done.stderr.splitlines()[0]
        self.assertRegex(first, r"static cannot be watched \(statically linked\)")
        self.assertRegex("\n".join(done.stderr.splitlines()[1:]), r"static \(statically linked\)")

    def test_a_static_child_is_in_the_report(self):
        program = self.compile("static", self.WAIT, "-static")
        report = self.path("out.json")
        done = sockleak("run", f"--format=json:{report}", "sh", "-c", f"{program}; {CLEAN}")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"1 process could not be watched: \d+ \S*/static \(statically linked\)")

    def test_a_static_child_that_lives_for_some_milliseconds_is_in_the_report(self):
        program = self.compile("brief", self.WAIT.replace("sleep(1)", "usleep(20000)"), "-static")
        for _ in range(5):
            done = sockleak("run", "sh", "-c", f"{program}; true")
            self.assertRegex(done.stderr, r"brief \(statically linked\)")

    @unittest.skipUnless(shutil.which("go"), "golang-go is not installed")
    def test_a_go_program_is_said_though_it_is_linked_dynamically(self):
        self.write("main.go", 'package main\nimport ("net"; "os"; "time")\nfunc main() {\n'
                   '\tnet.Listen("tcp", "127.0.0.1:0")\n\ttime.Sleep(300 * time.Millisecond)\n\tos.Exit(3)\n}\n')
        built = subprocess.run(
            ["go", "build", "-o", self.path("goprogram"), self.path("main.go")], capture_output=True, text=True,
            env=harness.clean_environment(GOCACHE=self.path("cache"), GOFLAGS="-mod=mod", CGO_ENABLED="1"), check=False)
        self.assertEqual(built.returncode, 0, built.stderr)
        self.assertIn("interpreter", subprocess.run(["readelf", "-l", self.path("goprogram")], text=True,
                                                    capture_output=True, check=True).stdout)
        done = sockleak("run", self.path("goprogram"))
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr.splitlines()[0], r"goprogram cannot be watched \(a Go program, which calls")
        done = sockleak("run", "sh", "-c", f"{self.path('goprogram')}; {CLEAN}")
        self.assertRegex(done.stderr, r"1 process could not be watched: \d+ \S*/goprogram \(a Go program")

    def test_a_child_with_a_cleared_environment_is_in_the_report(self):
        program = self.compile("dynamic", self.WAIT)
        done = sockleak("run", "sh", "-c", f"env -i {program}; {program}; {CLEAN}")
        self.assertRegex(done.stderr, r"1 process could not be watched: .*/dynamic \(started without LD_PRELOAD\)")

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_a_setuid_program_is_said_at_the_start(self):
        program = self.compile("setuid", self.WAIT)
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        done = sockleak("run", program)
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr.splitlines()[0], "setuid cannot be watched .gains privileges")

    def test_a_program_of_another_libc_is_run_without_the_library(self):
        program = self.compile("other", self.WAIT.replace("sleep(1)", "0").replace("return 3", 'return 3'),
                               "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")
        # There is no musl here: that it cannot start is not our doing, and is said as of the kernel.
        done = sockleak("run", program)
        self.assertRegex(done.stderr.splitlines()[0], "other cannot be watched .of another C library")

    def test_a_script_is_judged_by_its_interpreter(self):
        static = self.compile("static", '#include <unistd.h>\nint main(void) { return 6; }\n', "-static")
        script = self.write("script", f"#!{static}\n", 0o755)
        done = sockleak("run", script)
        self.assertEqual(done.returncode, 6)
        self.assertRegex(done.stderr.splitlines()[0], r"script cannot be watched \(statically linked\)")

    def test_a_watched_program_has_no_such_line(self):
        self.assertNotIn("could not be watched", sockleak("run", FORGOTTEN).stderr)
        self.assertNotIn("cannot be watched", sockleak("run", "sh", "-c", f"sleep 0.3; {CLEAN}").stderr)


class Memory(harness.TestCase):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        done = subprocess.run(
            ["valgrind", "-q", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible",
             "--error-exitcode=99", "--child-silent-after-fork=yes", "--trace-children=no",
             SOCKLEAK, "run", "--", "sh", "-c", f"{FORGOTTEN}; {CLEAN}"],
            capture_output=True, text=True, check=False, env=harness.clean_environment(),
        )
        self.assertEqual(done.returncode, 23, done.stderr)


if __name__ == "__main__":
    harness.main()
