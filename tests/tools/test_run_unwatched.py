"""sockleak run and programs that it cannot watch: each is counted, also one that ends at once."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import harness
import sarif
from harness import EXAMPLES, PYTHON, findings, sockleak

CLEAN = os.path.join(EXAMPLES, "clean_half_close")
AT_ONCE = "#include <unistd.h>\nint main(void) { _exit(0); }\n"

# Becomes or starts what argv[2] names, by the call that argv[1] names, and prints the result.
CALLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static const char *program, *name;
static char *arguments[] = {"program", NULL};
static int by_execve(void) { return execve(program, arguments, environ); }
static int by_execv(void) { return execv(program, arguments); }
static int by_execvp(void) { return execvp(name, arguments); }
static int by_execvpe(void) { return execvpe(name, arguments, environ); }
static int by_execl(void) { return execl(program, "program", "1", "2", (char *)NULL); }
static int by_execlp(void) { return execlp(name, "program", "1", (char *)NULL); }
static int by_execle(void) { return execle(program, "program", (char *)NULL, environ); }
static int by_fexecve(void) { return fexecve(open(program, O_RDONLY | O_CLOEXEC), arguments, environ); }
static int by_execveat(void) { return execveat(AT_FDCWD, program, arguments, environ, 0); }
static int by_number(void) { return (int)syscall(SYS_execve, program, arguments, environ); }
static int by_number_at(void) { return (int)syscall(SYS_execveat, AT_FDCWD, program, arguments, environ, 0); }
static int by_empty(void) { char *none[] = {"A=b", NULL}; return execve(program, arguments, none); }
static int by_null(void) { return execve(program, arguments, NULL); }
static const struct { const char *name; int (*call)(void); } calls[] = {
    {"execve", by_execve}, {"execv", by_execv}, {"execvp", by_execvp}, {"execvpe", by_execvpe},
    {"execl", by_execl}, {"execlp", by_execlp}, {"execle", by_execle}, {"fexecve", by_fexecve},
    {"execveat", by_execveat}, {"number", by_number}, {"number_at", by_number_at},
    {"empty", by_empty}, {"null", by_null}};
static int wait_for(pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}
int main(int argc, char **argv) {
    const char *how = argv[1];
    program = argv[2];
    name = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(calls[i].name, how) != 0)
            continue;
        for (int in_vfork = 0; in_vfork < 2; in_vfork++) {
            pid_t child = in_vfork ? vfork() : fork();
            if (child == 0) {
                calls[i].call();
                _exit(errno);
            }
            printf("%x\n", wait_for(child));
        }
        return 0;
    }
    pid_t child = 0;
    int error = -1;
    if (strcmp(how, "posix_spawn") == 0)
        error = posix_spawn(&child, program, NULL, NULL, arguments, environ);
    else if (strcmp(how, "posix_spawnp") == 0)
        error = posix_spawnp(&child, name, NULL, NULL, arguments, environ);
    else if (strcmp(how, "posix_spawn_nopid") == 0)
        error = posix_spawn(NULL, program, NULL, NULL, arguments, environ), child = -1;
    else if (strcmp(how, "system") == 0)
        return printf("%x\n", system(program)) < 0;
    else if (strcmp(how, "popen") == 0)
        return printf("%x\n", pclose(popen(program, "r"))) < 0;
    printf("%d %x\n", error, error ? 0 : wait_for(child));
    return argc < 0;
}
"""
EXEC_CALLS = ("execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve", "execveat", "number",
              "number_at")
START_CALLS = ("posix_spawn", "posix_spawnp", "posix_spawn_nopid", "system", "popen")


def counted(stderr):
    """N of "N processes could not be watched"."""
    found = re.search(r"(\d+) process(?:es)? could not be watched", stderr)
    return int(found[1]) if found else 0


class TestCase(harness.TestCase):
    def static(self, source=AT_ONCE, name="static"):
        return self.compile(name, source, "-static")

    def caller(self):
        return self.compile("caller", CALLER, "-w")

    def run_watched(self, *command, **env):
        """A run whose report is asked for, also where nothing opened a socket: [(exe, why)]."""
        report = self.path("out.json")
        done = sockleak("run", "--format=json:" + report, *command, env=harness.clean_environment(**env))
        with open(report, encoding="utf-8") as file:
            document = json.load(file)
        done.unwatched = sorted((os.path.basename(p["exe"]), p["unwatched"], p["pid"])
                                for p in document["processes"] if p.get("unwatched"))
        done.document = document
        return done


class Brief(TestCase):
    """Programs that live for less than any look at /proc could see."""

    def test_two_hundred_static_children_are_all_counted(self):
        program = self.static()
        for _ in range(3):
            done = self.run_watched("sh", "-c", f"i=0; while [ $i -lt 200 ]; do {program}; i=$((i+1)); done")
            self.assertEqual(len(done.unwatched), 200)
            self.assertEqual({why for _, why, _ in done.unwatched}, {"statically linked"})
            self.assertEqual(counted(done.stderr), 200)

    def test_more_than_are_named_are_counted(self):
        program = self.static()
        done = self.run_watched("sh", "-c", f"i=0; while [ $i -lt 1003 ]; do {program}; i=$((i+1)); done")
        self.assertEqual(counted(done.stderr), 1000)
        self.assertIn("and 3 more processes could not be watched", done.stderr)

    def test_each_way_to_exec_is_noticed(self):
        program, caller = self.static(), self.caller()
        path = os.path.dirname(program) + ":" + os.environ["PATH"]
        for call in EXEC_CALLS:
            with self.subTest(call):
                done = self.run_watched(caller, call, program, PATH=path)
                self.assertEqual(done.stdout, "0\n0\n")
                self.assertEqual([u[:2] for u in done.unwatched], [("static", "statically linked")] * 2)

    def test_each_way_to_start_a_child_is_noticed(self):
        program, caller = self.static(), self.caller()
        path = os.path.dirname(program) + ":" + os.environ["PATH"]
        for call in START_CALLS:
            with self.subTest(call):
                done = self.run_watched(caller, call, program, PATH=path)
                self.assertEqual([u[:2] for u in done.unwatched], [("static", "statically linked")], done.stdout)

    def test_pythons_subprocess_is_noticed(self):
        program = self.static()
        for how in ("subprocess.run", "os.system", "lambda p: os.posix_spawn(p, [p], os.environ)",
                    "lambda p: subprocess.run(p, close_fds=False)", "lambda p: os.execv(p, [p])"):
            with self.subTest(how):
                done = self.run_watched(PYTHON, "-c", f"import os, subprocess; ({how})({program!r})")
                self.assertEqual([u[:2] for u in done.unwatched], [("static", "statically linked")])

    def test_a_mark_and_a_look_at_the_same_process_count_once(self):
        program = self.static("#include <unistd.h>\nint main(void) { usleep(200000); return 0; }\n")
        done = self.run_watched("sh", "-c", f"{program}; {program}; true")
        self.assertEqual(len({pid for _, _, pid in done.unwatched}), 2)
        self.assertEqual(counted(done.stderr), 2)

    def test_a_failed_exec_leaves_no_mark(self):
        program, caller = self.static(), self.caller()
        os.chmod(program, 0o644)
        for call in EXEC_CALLS + START_CALLS:
            done = self.run_watched(caller, call, program)
            self.assertEqual(done.unwatched, [], call)
        # A search in PATH goes on behind a file that cannot be run.
        os.mkdir(self.path("other"))
        shutil.copy("/bin/true", self.path("other", "static"))
        done = self.run_watched(caller, "execvp", program,
                                PATH=os.path.dirname(program) + ":" + self.path("other"))
        self.assertEqual((done.stdout, done.unwatched), ("0\n0\n", []))

    def test_an_exec_that_fails_behind_the_mark_takes_it_back(self):
        # The kernel refuses what looks like a static program, and is cut.
        with open(self.static(), "rb") as file:
            front = bytearray(file.read(4096))
        with open(self.path("cut"), "wb") as file:
            front[54:56] = b"\1\0"  # e_phentsize
            file.write(front)
        os.chmod(self.path("cut"), 0o755)
        done = self.run_watched(self.caller(), "execve", self.path("cut"))
        self.assertEqual(done.stdout, "800\n800\n")  # ENOEXEC
        self.assertEqual(done.unwatched, [])


class Reasons(TestCase):
    def test_an_environment_without_the_library(self):
        program, caller = self.compile("dynamic", AT_ONCE), self.caller()
        for call in ("empty", "null"):
            done = self.run_watched(caller, call, program)
            self.assertEqual([u[:2] for u in done.unwatched], [("dynamic", "started without LD_PRELOAD")] * 2)
        for _ in range(5):
            done = self.run_watched("sh", "-c", f"env -i {program}; {program}; {CLEAN}")
            self.assertEqual([u[:2] for u in done.unwatched], [("dynamic", "started without LD_PRELOAD")])

    def test_a_shell_without_the_library_that_system_starts(self):
        done = self.run_watched(PYTHON, "-c", "import os; os.unsetenv('LD_PRELOAD'); os.system(':')")
        self.assertEqual([u[1] for u in done.unwatched], ["started without LD_PRELOAD"])

    def test_an_environment_without_the_options(self):
        program = self.compile("dynamic", AT_ONCE)
        done = self.run_watched("sh", "-c", f"env -u SOCKLEAK_OPTIONS {program}; true")
        self.assertEqual([u[:2] for u in done.unwatched],
                         [("dynamic", "started without SOCKLEAK_OPTIONS: reports on its own")])

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_privileges(self):
        program = self.compile("setuid", AT_ONCE)
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        why = "gains privileges: setuid, setgid or capabilities"
        done = self.run_watched("sh", "-c", f"{program}; true")
        self.assertEqual([u[:2] for u in done.unwatched], [("setuid", why)])
        # Bits that change nothing: of the same user, or under no_new_privs.
        os.chown(program, 0, 0)
        os.chmod(program, 0o4755)
        self.assertEqual(self.run_watched("sh", "-c", f"{program}; true").unwatched, [])
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        done = self.run_watched("setpriv", "--no-new-privs", "sh", "-c", f"{program}; true")
        self.assertEqual(done.unwatched, [])
        # An effective user that is not the real one.
        plain = self.compile("plain", AT_ONCE)
        done = self.run_watched(PYTHON, "-c", f"import os; os.seteuid(65534); os.execv({plain!r}, ['plain'])")
        self.assertEqual([u[:2] for u in done.unwatched], [("plain", why)])

    @unittest.skipUnless(os.geteuid() == 0, "needs root, to be somebody else")
    def test_a_command_that_may_not_be_looked_at_is_named_once(self):
        program = self.compile("setuid", AT_ONCE.replace("_exit(0)", "usleep(300000)"))
        os.chmod(program, 0o4755)
        for file in (harness.SOCKLEAK, harness.LIBRARY):
            shutil.copy(file, self.directory)
        done = subprocess.run([self.path("sockleak"), "run", program], user=65534, group=65534, extra_groups=[],
                              env=harness.clean_environment(), capture_output=True, text=True, check=True)
        self.assertRegex(done.stderr.splitlines()[-1], r"; 1 process could not be watched: \d+ \S+/setuid \(gains")

    def test_another_c_library(self):
        program = self.compile("other", AT_ONCE, "-Wl,--dynamic-linker=" + self.path("ld-musl-x86_64.so.1"))
        found = re.search(r"interpreter: (\S+)\]", subprocess.run(
            ["readelf", "-l", "/bin/true"], capture_output=True, text=True, check=True).stdout)
        shutil.copy(found[1], self.path("ld-musl-x86_64.so.1"))
        done = self.run_watched("sh", "-c", f"{program}; true")
        self.assertEqual([u[:2] for u in done.unwatched], [("other", "of another C library than glibc")])

    def test_a_script_is_judged_by_its_interpreter(self):
        static = self.static()
        for text, expected in ((f"#!{static}\n", 1), (f"#! {static} argument\n", 1), ("#!/bin/sh\n", 0), (":\n", 0)):
            script = self.write("script", text, 0o755)
            done = self.run_watched("sh", "-c", f"{script}; true")
            self.assertEqual(len(done.unwatched), expected, text)

    def test_watched_programs_are_not_counted(self):
        done = self.run_watched("sh", "-c", f"ls / | cat >/dev/null; {CLEAN}; (exec true); env true; nice true; :")
        self.assertEqual(done.unwatched, [])

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_a_user_who_cannot_read_the_library(self):
        closed = self.path("closed")
        os.mkdir(closed)
        for file in (harness.SOCKLEAK, harness.LIBRARY):
            shutil.copy(file, closed)
        os.chmod(closed, 0o700)
        done = subprocess.run([closed + "/sockleak", "run", PYTHON, "-c",
                               "import os; os.setuid(65534); os.execv('/bin/true', ['true'])"],
                              env=harness.clean_environment(), capture_output=True, text=True, check=False)
        self.assertIn("(cannot read libsockleak.so: another root directory or user)", done.stderr)


# Reads end of stream on two connections, of which one is closed by exec, and becomes argv[1].
EXECS = harness.LEAKER.replace("print(port, flush=True)\n", "").split("line = sys")[0].replace(
    "sys.argv[1:]", "['eof=2']") + r"""
kept[0].set_inheritable(True)
server.set_inheritable(False)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Exec(TestCase):
    def ended(self, done):
        return [p["ended"] for p in done.document["processes"] if not p.get("unwatched")]

    def test_what_exec_closed_is_not_left_at_a_kill(self):
        script, program = self.write("execs.py", EXECS), self.compile("dynamic", AT_ONCE)
        done = self.run_watched("sh", "-c", f"{PYTHON} {script} {program}; true")
        self.assertEqual(self.ended(done), ["exec"])
        self.assertEqual(findings(done.document), [("eof-ignored", 1)])

    def test_an_image_that_cannot_be_watched_is_told_beside(self):
        script, program = self.write("execs.py", EXECS), self.static()
        done = self.run_watched("sh", "-c", f"{PYTHON} {script} {program}; true")
        self.assertEqual(self.ended(done), ["exec"])
        self.assertEqual([u[:2] for u in done.unwatched], [("static", "statically linked")])

    def test_an_exec_that_failed_is_none(self):
        script = self.write("execs.py", EXECS.replace(
            "os.execv(sys.argv[1], sys.argv[1:])",
            "try:\n    os.execv('/nonexistent', ['x'])\nexcept OSError:\n    os.kill(os.getpid(), 9)"))
        done = self.run_watched("sh", "-c", f"{PYTHON} {script}; true")
        self.assertEqual(self.ended(done), ["killed"])
        self.assertEqual(findings(done.document), [("eof-ignored", 2)])

    def test_a_later_watched_image_tells_the_rest(self):
        script = self.write("execs.py", EXECS)
        then = self.write("then.py", "import socket\nsocket.socket().close()\n")
        done = self.run_watched(PYTHON, script, PYTHON, then)
        self.assertEqual(self.ended(done), ["exec", "exit"])
        self.assertEqual(findings(done.document), [("eof-ignored", 1)])


# Starts argv[1] as often as argv[2] says, and is statically linked itself.
STARTS = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (int i = atoi(argv[2]); i > 0; i--) {
        if (fork() == 0)
            execl(argv[1], argv[1], (char *)NULL);
        wait(NULL);
    }
    return argc < 0;
}
"""
CHILDREN = "what it started may be unwatched, too, and not listed"


class Children(TestCase):
    """What an unwatched program starts leaves no mark, and may be gone before anybody looks."""

    def starter(self):
        return self.compile("starter", STARTS, "-static")

    def test_that_they_may_be_missing_is_said(self):
        starter, child = self.starter(), self.static()
        done = self.run_watched("sh", "-c", f"{starter} {child} 200; true")
        self.assertIn("starter", [u[0] for u in done.unwatched])
        self.assertRegex(done.stderr, r"(?m)could not be watched: \d+ .*; what (it|they) started may be unwatched, "
                         "too, and not listed$")
        self.assertEqual([p["children_may_be_unwatched"] for p in done.document["processes"]],
                         [True] * len(done.unwatched))
        # The same from the JSON, and where nothing else is to be told.
        self.assertIn("started may be unwatched, too", sockleak("report", self.path("out.json")).stdout)
        alone = sockleak("run", starter, child, "1")
        self.assertRegex(alone.stderr.splitlines()[-1], r"; (1 process|2 processes) could not be watched: \d+ .* started may be")

    def test_children_that_can_be_watched_are(self):
        done = self.run_watched("sh", "-c", f"{self.starter()} {os.path.join(EXAMPLES, 'forgotten_close')} 2; true")
        self.assertEqual(findings(done.document), [("eof-ignored", 3)] * 2)
        # The starter's child is a second one until it executes the other program.
        self.assertRegex(done.stderr, CHILDREN.replace("it", "(it|they)", 1))
        for process in done.document["processes"]:
            self.assertEqual("children_may_be_unwatched" in process, bool(process["unwatched"]))

    def test_where_all_is_watched_nothing_is_said(self):
        done = self.run_watched("sh", "-c", f"ls / >/dev/null; {CLEAN}; true")
        self.assertNotIn("not listed", done.stderr)
        self.assertNotIn("children_may_be_unwatched", json.dumps(done.document))

    def test_a_process_that_was_only_looked_at_has_none(self):
        process, _ = self.leaker("fin=1")
        self.assertNotIn("not listed", sockleak("dump", process.pid).stdout)
        self.assertNotIn("children_may_be_unwatched", sockleak("dump", "--format=json", process.pid).stdout)

    def test_it_is_said_behind_long_names(self):
        place = self.path(*["a-directory-with-a-name-of-some-length"] * 4)
        os.makedirs(place)
        program = shutil.copy(self.static(), place)
        done = self.run_watched("sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do {program}; done")
        self.assertRegex(done.stderr, r"9 processes could not be watched: \d+ \S+/static \(statically linked\), .*\), "
                         r"\.\.\.; what they started may be unwatched, too, and not listed\n")


class Formats(TestCase):
    """Each says what was not seen, or the command does: else it would be taken for a clean run."""

    LINE = re.compile(r"1 process could not be watched: \d+ \S+/static \(statically linked\); " + CHILDREN)

    def run_as(self, *options):
        done = sockleak("run", *options, "sh", "-c", f"{self.static()}; {CLEAN}")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def test_github_warns(self):
        self.assertRegex(self.run_as("--format=github"), r"^::warning title=sockleak%3A not seen::" + self.LINE.pattern + "\n$")

    def test_junit_skips_a_test(self):
        (suite,) = xml.etree.ElementTree.fromstring(self.run_as("--format=junit"))
        self.assertEqual((suite.get("tests"), suite.get("skipped"), suite.get("failures")), ("1", "1", "0"))
        self.assertRegex(suite.find("testcase/skipped").get("message"), self.LINE)

    def test_sarif_has_a_notification(self):
        log = json.loads(self.run_as("--format=sarif"))
        self.assertEqual(sarif.problems(log), [])
        (told,) = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
        self.assertRegex(told["message"]["text"], self.LINE)

    def test_text_does_not_call_it_running(self):
        """It has ended, and nothing of it was seen."""
        for options in ([], ["--format=text"], [f"--format=json:{self.path('out')}"]):
            with self.subTest(options):
                told = sockleak("run", *options, self.static()).stderr.splitlines()
                self.assertEqual(len(told), 2, told)
                self.assertRegex(told[1], "^sockleak: no process of .* that could be watched opened a socket; "
                                 + self.LINE.pattern + "$")
        told = sockleak("report", self.path("out")).stdout
        self.assertRegex(told, r"sockleak: no socket leaked in what was seen of \S+/static\n")
        self.assertRegex(told, self.LINE)

    def test_the_others_have_no_place_for_it(self):
        for name in ("folded", "pprof"):
            warned = self.run_as(f"--format={name}", "-o", self.path("out"))
            self.assert_one_line(warned, "^sockleak: warning: " + self.LINE.pattern)
            self.assertEqual(self.run_as("-q", f"--format={name}", "-o", self.path("out")), "")
            # Where the text is shown, that tells it.
            self.assertEqual(len(self.LINE.findall(self.run_as(f"--format={name}:{self.path('out')}"))), 1)

    def test_nothing_to_say(self):
        for name in ("github", "folded"):
            self.assertEqual(sockleak("run", f"--format={name}", CLEAN).stderr, "")
        log = json.loads(sockleak("run", "--format=sarif", CLEAN).stderr)
        self.assertEqual(log["runs"][0]["invocations"][0]["toolExecutionNotifications"], [])


class Kept(TestCase):
    """What `report` tells later of a kept directory is what `run` told."""

    def test_the_killed_and_the_unwatched(self):
        kept, script = self.path("kept"), self.write("leaker.py", harness.LEAKER)
        program = self.static()
        done = sockleak("run", "--ledger-dir", kept, "--format=json:" + self.path("now.json"), "sh", "-c",
                        f"echo kill | {PYTHON} {script} eof=2 data=1; {program}; sleep 0.3; {program}; true")
        self.assertEqual(done.returncode, 23, done.stderr)
        later = json.loads(sockleak("report", "--format=json", kept).stdout)
        self.assertEqual(later, json.loads(harness.read(self.path("now.json"))))
        (killed,) = [p for p in later["processes"] if p["ended"] == "killed"]
        self.assertEqual(later["summary"]["unwatched"], 2)
        for finding in killed["findings"]:
            for told in finding["sockets"]:
                self.assertLess(told["open_ms"], 5000)  # to its death, and not to now
                self.assertGreaterEqual(told["open_ms"], 0)

    def test_when_one_was_killed_that_lived_between_two_looks(self):
        """Where there are many processes, a look takes long, and the next one comes late: a first socket asks for it."""
        many = 'for i in $(seq 300); do sleep 60 & all="$all $!"; done; sleep 0.5'
        one = f"echo kill | {PYTHON} {self.write('leaker.py', harness.LEAKER)} eof=1"
        done = sockleak("run", "--format=json", "--output", self.path("told.json"), "sh", "-c",
                        "; ".join([many, *[one] * 4, "kill $all"]))
        self.assertEqual(done.returncode, 23, done.stderr)
        told = [process for process in json.loads(harness.read(self.path("told.json")))["processes"]
                if process["ended"] == "killed"]
        self.assertEqual(len(told), 4)
        for process in told:
            self.assertIsNotNone(process["findings"][0]["sockets"][0]["open_ms"])

    def test_nothing_is_put_beside_ledgers_that_say_all(self):
        kept = self.path("kept")
        sockleak("run", "--ledger-dir", kept, os.path.join(EXAMPLES, "forgotten_close"))
        (name,) = os.listdir(kept)
        self.assertRegex(name, r"^\d+-\d+\.ledger$")

    # Puts ledgers of its own into the directory, as if it had been killed: one with another name elsewhere.
    FORGES = r"""
import os, struct, sys, time
image = bytearray(open(sys.argv[1], "rb").read(4096))
ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
image[32:36] = struct.pack("<I", os.getpid())
image[44:48] = bytes(4)  # ended: it runs
image[56:64] = struct.pack("<Q", ticks)
place = os.environ["SOCKLEAK_OPTIONS"].split("ledger_dir=")[1]
for path in (sys.argv[2], f"{place}/{os.getpid()}-{ticks}.ledger"):
    open(path, "wb").write(image)
os.link(sys.argv[2], f"{place}/{os.getpid()}-{ticks}-1.ledger")
os.symlink(sys.argv[2], f"{place}/{os.getpid()}-{ticks}-2.ledger")
time.sleep(0.3)
"""

    def test_a_file_of_somebody_elses_is_not_written_to(self):
        """Others may put files there, where root runs it."""
        first, second, victim = self.path("first"), self.path("second"), self.path("victim")
        sockleak("run", "-q", "--ledger-dir", first, os.path.join(EXAMPLES, "forgotten_close"))
        (ledger,) = os.listdir(first)
        sockleak("run", "-q", "--ledger-dir", second, PYTHON, self.write("forges.py", self.FORGES),
                 os.path.join(first, ledger), victim)
        with open(os.path.join(first, ledger), "rb") as file:
            original = file.read(4096)  # of the header: the rest is long
        for name in [victim, *glob.glob(second + "/*[0-9].ledger")]:
            with open(name, "rb") as file:
                changed = {i // 8 * 8 for i, (a, b) in enumerate(zip(file.read(4096), original, strict=True))
                           if a != b and not 32 <= i < 64}
            is_own = name.count("-") == second.count("-") + 1  # PID-STARTTIME.ledger
            self.assertEqual(len(changed), 1 if is_own else 0, name)


def has_queue(directory):
    """Whether there is the System V message queue of a ledger directory (base/notice.c)."""
    key = 2166136261
    for byte in directory.encode():
        key = (key ^ byte) * 16777619 & 0xFFFFFFFF
    with open("/proc/sysvipc/msg", encoding="ascii") as file:
        return ((key & 0x7FFFFFFF) | 1) in {int(line.split()[0]) for line in file.readlines()[1:]}


# Starts `sleep` with a socket that is in CLOSE_WAIT as soon as the starter has ended.
HEIR = r"""
import os, socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
kept = server.accept()[0]
kept.set_inheritable(True)
away = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)]
pid = os.posix_spawn("/usr/bin/sleep", ["sleep", "60"], os.environ, file_actions=away)
print(pid, kept.fileno(), flush=True)
client.close()
kept.close()
"""


class Heir(TestCase):
    """A process that opened nothing, and was started with a socket; it outlives its starter."""

    def test_its_leak_is_said_and_fails_the_run(self):
        script, report = self.write("heir.py", HEIR), self.path("report.json")
        done = sockleak("run", "--option", "grace_ms=0", f"--format=json:{report}", PYTHON, script)
        pid, fd = map(int, done.stdout.split())
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        self.assertEqual(done.returncode, 23, done.stderr)
        document = json.loads(harness.read(report))
        (finding,) = (f for p in document["processes"] if p["pid"] == pid for f in p["findings"])
        self.assertEqual((finding["verdict"], finding["count"], finding["sockets"][0]["fds"]),
                         ("fin-unread", 1, [fd]))
        self.assertEqual((finding["birth"]["call"], finding["cause"]), ("unknown", "inherited"))
        self.assertIn("left it open over exec", finding["cause_text"])


@unittest.skipUnless(os.path.exists("/proc/sysvipc/msg"), "a kernel without System V message queues")
class NoLedger(TestCase):
    """A process that cannot make a file says in its own report what it leaked, and run knows."""

    AWAY = ("import os\no = os.environ['SOCKLEAK_OPTIONS'].split('ledger_dir=')[1]\nos.rename(o, o + '.away')\n" +
            harness.LEAKER.replace("line = sys", "os.rename(o + '.away', o)\nline = sys"))

    def test_its_leaks_are_said_and_fail_the_run(self):
        done = sockleak("run", PYTHON, self.write("away.py", self.AWAY), "eof=2", "fin=0")
        self.assertEqual(done.returncode, 23)
        self.assertRegex(done.stderr, r"process \d+ \S*python\S* could leave no ledger and leaked 2 sockets: its own")
        self.assertIn("eof-ignored", done.stderr)  # the own report
        self.assertEqual(sockleak("run", "--fail-on=none", PYTHON, self.path("away.py"), "eof=2").returncode, 0)

    def test_one_without_leaks_is_not_said(self):
        done = sockleak("run", PYTHON, self.write("away.py", self.AWAY))
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("could leave no ledger", done.stderr)

    def test_one_that_was_killed_is_said(self):
        """What it leaked nobody knows any more: that is no clean run, and no failed one."""
        script, line = self.write("away.py", self.AWAY), self.write("line", "kill\n")
        with open(line, encoding="ascii") as stdin:
            done = sockleak("run", PYTHON, script, "eof=2", stdin=stdin)
        self.assertEqual(done.returncode, 128 + signal.SIGKILL)
        self.assertRegex(done.stderr, r"process \d+ \S*python\S* could leave no ledger and made no last report of "
                                      "its own: what it leaked is not known")

    def test_its_children_and_what_it_executes_are_not_said(self):
        """What they have was their parent's; and who execs has not ended."""
        forks = ("import subprocess\nfor _ in range(5):\n    if os.fork() == 0:\n        os.execl('/bin/true', 'true')\n"
                 "    os.wait()\nsubprocess.run(['/bin/true'])\ntry:\n    os.execl('/nonexistent', 'x')\n"
                 "except OSError:\n    pass\nif len(kept) == 1:\n    os.execl('/bin/true', 'true')\nline = sys")
        script = self.write("forks.py", self.AWAY.replace("line = sys", forks))
        done = sockleak("run", PYTHON, script, "fin=0")
        self.assertEqual((done.returncode, done.stderr), (0, f"sockleak: no ledger was kept of {PYTHON}: what its "
                                                            "processes leaked they say themselves\n"))
        done = sockleak("run", PYTHON, script, "fin=1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("no last report", done.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_a_worker_in_another_root_directory(self):
        imports, body = harness.LEAKER.strip().split("\n", 1)  # they are not there any more
        script = self.write("root.py", f"{imports}\nimport encodings.idna\nos.chroot({self.directory!r})\n"
                            "child = os.fork()\nif child:\n    os.waitpid(child, 0)\n    os._exit(0)\n" + body)
        done = sockleak("run", PYTHON, script, "eof=2")
        self.assertEqual(done.returncode, 23, done.stderr)
        self.assertRegex(done.stderr, r"could leave no ledger and leaked 2 sockets|2 sockets, eof-ignored")


@unittest.skipUnless(os.path.exists("/proc/sysvipc/msg"), "a kernel without System V message queues")
class Killed(TestCase):
    def start_run(self):
        process = self.start(harness.SOCKLEAK, "run", "-q", "sh", "-c",
                             "echo ${SOCKLEAK_OPTIONS##*ledger_dir=}; exec sleep 60", stdin=subprocess.DEVNULL)
        return process, process.stdout.readline().strip()

    def test_what_a_killed_run_left_is_removed_by_the_next(self):
        process, directory = self.start_run()
        self.assertTrue(os.path.isdir(directory) and has_queue(directory))
        children = harness.read(f"/proc/{process.pid}/task/{process.pid}/children").split()
        process.kill()
        process.wait()
        for child in children:
            os.kill(int(child), 9)
        sockleak("run", "true")  # this one, or another at the same time
        self.assertFalse(os.path.exists(directory) or has_queue(directory))

    def test_what_a_running_one_has_is_not(self):
        process, directory = self.start_run()
        sockleak("run", "true")
        self.assertTrue(os.path.isdir(directory) and has_queue(directory))
        process.terminate()
        process.wait()
        self.assertFalse(os.path.exists(directory) or has_queue(directory))

    def test_what_is_somebody_elses_is_not(self):
        parent = os.path.dirname(self.start_run()[1])
        other = tempfile.mkdtemp(prefix="sockleak-", dir=parent)[:-2]
        self.addCleanup(shutil.rmtree, other, ignore_errors=True)
        os.rename(glob.glob(other + "??")[0], other)  # as long a name as ours
        self.assertEqual(len(os.path.basename(other)), 15)
        sockleak("run", "true")
        self.assertTrue(os.path.isdir(other))  # nothing tells whose it is


if __name__ == "__main__":
    harness.main()
