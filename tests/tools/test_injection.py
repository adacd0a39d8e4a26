"""Names from outside cannot say anything in our place: a program whose path, arguments, functions,
source file, threads and unix socket hold terminal escapes, newlines, quotes, workflow commands, the
ends of XML and JSON, invalid UTF-8 and bidirectional controls is reported in every format, by every
command, and what comes out is one report: no control character, no line that we did not write, and
readable for parsers that others wrote.

Environment: BUILD is the build directory (default: build/ of this tree).
"""

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
import unittest
import xml.etree.ElementTree

import harness
import sarif
from harness import LIBRARY, SOCKLEAK

# What a name may hold: anything but NUL, and in a path no slash.
HOSTILE = (b"e\x1b[31mv\x1b]0;x\x07\n::error file=a,line=1::forged\r\n==1== forged\t]]>\"'&lt;<b>;l 7\n"
           b"%0A::warning::x,y:z{}[]\\ \xff\x9b31m\xc2\x9b1m\xe2\x80\xae\xe2\x80\xa8\xf0\x9f\x90\x9b\x7f")

# Leaks three sockets: a connection that was read to its end, one that was never read, and one end of
# a unix connection whose path is the first argument. Then writes a line, and waits for the end of
# its input. BIRTH and END are functions of their own.
PROGRAM = r"""
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
__attribute__((noinline)) int birth(int listener) { int fd = accept(listener, 0, 0); return fd + 0 * getppid(); }
__attribute__((noinline)) long end_of_stream(int fd) { char c; long n = read(fd, &c, 1); return n + 0 * getppid(); }
static int leak(int family, struct sockaddr *address, socklen_t len, int reads) {
    int listener = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0);
    if (bind(listener, address, len) || listen(listener, 1)) return 1;
    if (family == AF_INET) getsockname(listener, address, &len);
    if (connect(client, address, len)) return 1;
    int fd = birth(listener);
    close(client);
    if (reads) end_of_stream(fd);
    close(listener);
    return fd < 0;
}
int main(int argc, char **argv) {
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    strncpy(path.sun_path, argc > 1 ? argv[1] : "x", sizeof path.sun_path - 1);
    prctl(PR_SET_NAME, "\033[31m\n::error:");
    if (leak(AF_INET, (struct sockaddr *)&loopback, sizeof loopback, 1)) return 1;
    loopback.sin_port = 0;
    if (leak(AF_INET, (struct sockaddr *)&loopback, sizeof loopback, 0)) return 2;
    if (leak(AF_UNIX, (struct sockaddr *)&path, sizeof path, 1)) return 3;
    puts("ready");
    fflush(stdout);
    usleep(200000); // older than exit_grace_ms
    if (argc > 2) getchar();
    return 0;
}
"""


def is_plain(character):
    """Neither a control nor what turns the direction of text: Unicode's categories Cc, Cf of the
    bidirectional ones, Zl and Zp, from their numbers."""
    number = ord(character)
    return not (number < 0x20 or 0x7f <= number < 0xa0 or number in (0x61c, 0x200e, 0x200f)
                or 0x2028 <= number <= 0x202e or 0x2066 <= number <= 0x2069)


class Hostile(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("objcopy"):
            raise unittest.SkipTest("no objcopy")

    def setUp(self):
        super().setUp()
        self.place = os.fsencode(self.directory) + b"/" + HOSTILE[:200]
        os.mkdir(self.place)
        # One with lines, which name the source file; one with symbols, which can be named at will.
        source = self.place + b"/" + HOSTILE[:190] + b".c"
        with open(source, "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        self.with_lines = self.build(b"with lines", source, "-g")
        plain = self.build(b"plain", source)
        self.with_symbols = self.place + b"/" + HOSTILE[:100]
        subprocess.run(["objcopy", b"--redefine-sym", b"birth=birth" + HOSTILE, b"--redefine-sym",
                        b"end_of_stream=end" + HOSTILE, plain, self.with_symbols], check=True)
        self.programs = (self.with_lines, self.with_symbols)
        # Not longer than sun_path, which is 108 bytes: relative to the place.
        self.arguments = [HOSTILE[:90], HOSTILE]

    def build(self, name, source, *flags):
        program = self.place + b"/" + name
        built = subprocess.run([os.environ.get("CC", "cc"), "-O1", *flags, "-pthread", "-o", program, source],
                               capture_output=True, check=False)
        if built.returncode:
            self.skipTest(f"the compiler does not take such a name: {built.stderr[:200]}")
        return program

    def unlink_socket(self):
        try:
            os.unlink(self.place + b"/" + self.arguments[0])
        except FileNotFoundError:
            pass

    def sockleak(self, *arguments, **options):
        """Its output as bytes."""
        self.unlink_socket()
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", harness.clean_environment())
        return subprocess.run([SOCKLEAK, *arguments], cwd=self.place, capture_output=True, check=False,
                              timeout=60, **options)

    def ledgers(self, program):
        directory = self.directory + "/ledgers"
        shutil.rmtree(directory, ignore_errors=True)
        self.sockleak("run", "--quiet", f"--ledger-dir={directory}", "--option=families=all", "--", program,
                      *self.arguments)
        self.assertTrue(os.listdir(directory))
        return directory

    def report(self, program, form):
        done = self.sockleak("report", "--format=" + form, "--show=all", self.ledgers(program))
        self.assert_text(done.stderr)
        self.assertEqual(done.stderr, b"")
        return done.stdout

    # --- what each of them must be ----------------------------------------------------------------

    def assert_ascii(self, out):
        bad = re.findall(rb"[^ -~\n]", out)
        self.assertEqual(bad, [], out)

    def assert_text(self, out):
        """Each line is ours: it says who speaks."""
        self.assert_ascii(out)
        for line in out.splitlines():
            self.assertRegex(line, rb"^(==\d+==|sockleak: )")
            self.assertNotRegex(line, rb"^(::|==1==)")

    def assert_plain_utf8(self, out):
        text = out.decode("utf-8")
        bad = [c for c in text if not is_plain(c) and c != "\n"]
        self.assertEqual(bad, [], text)
        return text


class Formats(Hostile):
    def test_text(self):
        for program in self.programs:
            out = self.report(program, "text")
            self.assert_text(out)
            self.assertIn(b"eof-ignored", out)

    def test_text_in_colour(self):
        for program in self.programs:
            done = self.sockleak("report", "--color=always", "--show=all", self.ledgers(program))
            self.assert_text(re.sub(rb"\x1b\[[0-9;]*m", b"", done.stdout))
            self.assertNotIn(b"\x1b[31mv", done.stdout)

    def test_json(self):
        for program in self.programs:
            out = self.report(program, "json")
            self.assertEqual(re.findall(rb"[^ -~\n\x7f]", out), [])
            document = json.loads(out)
            process = document["processes"][0]
            # The names are there, as well as UTF-8 can have them.
            name = program.decode("utf-8", "replace")
            self.assertEqual(process["exe"], name)
            self.assertEqual(process["cmdline"], [name, *(a.decode("utf-8", "replace") for a in self.arguments)])
            self.assertEqual(document["summary"]["leaks"], 3)
            text = json.dumps(document, ensure_ascii=False)
            self.assertIn("\u202e", text)

    def test_json_comes_back_the_same(self):
        for program in self.programs:
            first = self.report(program, "json")
            with open(self.path("first.json"), "wb") as file:
                file.write(first)
            again = self.sockleak("report", "--format=json", "--show=all", self.path("first.json"))
            self.assertEqual(again.stderr, b"")
            self.assertEqual(json.loads(first)["summary"], json.loads(again.stdout)["summary"])

    def test_junit(self):
        for program in self.programs:
            out = self.report(program, "junit")
            self.assert_plain_utf8(out)
            suites = xml.etree.ElementTree.fromstring(out)
            cases = list(suites.iter("testcase"))
            self.assertEqual(len(list(suites.iter("failure"))), 3)
            self.assertEqual({child.tag for case in cases for child in case}, {"failure"})
            self.assertEqual(len(list(suites.iter())), 2 + len(cases) + 3)

    def test_sarif(self):
        for program in self.programs:
            out = self.report(program, "sarif")
            self.assertEqual(re.findall(rb"[^ -~\n\x7f]", out), [])
            log = json.loads(out)
            self.assertEqual(sarif.problems(log), [])
            self.assertEqual(sum(r["level"] == "error" for r in log["runs"][0]["results"]), 3)

    def test_github(self):
        """As the runner reads it (actions/runner, ActionCommand.TryParseV2): a line is a command where it
        starts with ::, then the name, properties up to the next ::, and the message."""
        for program in self.programs:
            text = self.assert_plain_utf8(self.report(program, "github"))
            lines = text.splitlines()
            self.assertEqual(sum(line.startswith("::error ") for line in lines), 3)
            for line in lines:
                name, properties = re.match(r"^::(\w+) (.*?)::", line).groups()
                self.assertIn(name, ("error", "notice"))
                keys = [p.split("=", 1)[0] for p in properties.split(",")]
                self.assertEqual(len(keys), len(set(keys)), properties)
                self.assertLessEqual(set(keys), {"file", "line", "title"})

    def test_folded(self):
        for program in self.programs:
            text = self.assert_plain_utf8(self.report(program, "folded"))
            weights = []
            for line in text.splitlines():
                stack, weight = re.match(r"^(.+) (\d+)$", line).groups()
                weights.append(int(weight))
                frames = stack.split(";")
                self.assertIn(frames[-1], ("accept", "socket"))
                self.assertLess(len(frames), 12)
            self.assertEqual(sum(weights), 3)

    def test_pprof(self):
        for program in self.programs:
            profile = self.path("profile.pb.gz")
            with open(profile, "wb") as file:
                file.write(self.report(program, "pprof"))
            for name in strings_of(gzip.open(profile).read()):
                self.assert_plain_utf8(name + b"\n")
                self.assertNotIn(b"\n", name)
            if shutil.which("go"):
                raw = subprocess.run(["go", "tool", "pprof", "-raw", profile], capture_output=True, check=True,
                                     env=harness.clean_environment(HOME=self.directory, GOTOOLCHAIN="local"))
                self.assert_plain_utf8(raw.stdout.replace(b"\t", b" "))

    def test_suggestions_silence_what_they_are_for(self):
        for program in self.programs:
            ledgers = self.ledgers(program)
            rules = self.sockleak("report", "--suggest", ledgers)
            self.assert_plain_utf8(rules.stdout)
            file = self.path("rules")
            with open(file, "wb") as out:
                out.write(rules.stdout)
            done = self.sockleak("report", "--fail-on=close-wait", "--suppressions=" + file, ledgers)
            self.assertIn(b"0 leaked", done.stdout)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


def strings_of(profile):
    """The string_table of a profile.proto (field 6), from the wire format."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = profile[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if not byte & 0x80:
                return value
    while at < len(profile):
        key = varint()
        if key & 7 == 2:
            size = varint()
            if key >> 3 == 6:
                yield profile[at:at + size]
            at += size
        else:
            assert key & 7 == 0, key
            varint()


class Commands(Hostile):
    def test_report_of_the_process_itself(self):
        for program in self.programs:
            self.unlink_socket()
            done = subprocess.run([program, *self.arguments], cwd=self.place, capture_output=True, check=False,
                                  stdin=subprocess.DEVNULL,
                                  env=harness.clean_environment(LD_PRELOAD=LIBRARY,
                                                                SOCKLEAK_OPTIONS="families=all:verbosity=1"))
            self.assertEqual(done.returncode, 0)
            self.assertIn(b"eof-ignored", done.stderr)
            self.assert_text(done.stderr)

    def test_run(self):
        for program in self.programs:
            done = self.sockleak("run", "--option=families=all", "--verbose", "--", program, *self.arguments)
            self.assertEqual(done.returncode, 23)
            self.assertEqual(done.stdout, b"ready\n")
            self.assert_text(done.stderr)

    def hostile_process(self, preload):
        self.unlink_socket()
        more = {"LD_PRELOAD": LIBRARY, "SOCKLEAK_OPTIONS": "families=all"} if preload else {}
        process = subprocess.Popen([self.with_symbols, *self.arguments], cwd=self.place, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   env=harness.clean_environment(**more))
        self.addCleanup(self.end, process)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        time.sleep(1.1)  # grace_ms: what is younger is no finding of a running program
        return process

    def test_dump(self):
        for preload in (False, True):
            pid = str(self.hostile_process(preload).pid)
            done = self.sockleak("dump", "--show=all", pid)
            self.assert_text(done.stdout)
            self.assert_text(done.stderr)
            self.assertIn(b"CLOSE_WAIT", done.stdout)
            for form in ("json", "junit", "sarif", "github", "folded"):
                out = self.sockleak("dump", "--format=" + form, "--show=all", pid).stdout
                text = self.assert_plain_utf8(out.replace(b"\x7f", b""))
                if form in ("json", "sarif"):
                    json.loads(text)
                elif form == "junit":
                    xml.etree.ElementTree.fromstring(text)
                elif form == "github":
                    self.assertTrue(all(line.startswith(("::error ", "::notice ", "::warning ")) for line in text.splitlines()))

    def test_scan(self):
        pid = str(self.hostile_process(False).pid)
        out = self.sockleak("scan", "--pid", pid).stdout
        self.assert_ascii(out)
        self.assertEqual(sum(line.split()[4:5] == [pid.encode()] or f" {pid} ".encode() in line
                             for line in out.splitlines()), 1)
        out = self.sockleak("scan", "--pid", pid, "--json").stdout
        self.assertEqual(re.findall(rb"[^ -~\n]", out), [])
        self.assertEqual(json.loads(out)["processes"][0]["pid"], int(pid))

    def test_scan_of_a_process_that_wrote_over_its_arguments(self):
        """argv[0] without an end, as setproctitle may leave it."""
        script = self.write("title.py", r"""
import ctypes, socket, sys
name = b"\x1b[31m\n::error::\x9b"
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
kept, _ = server.accept(); client.close()
stat = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
start, end = int(stat[45]), int(stat[46])  # arg_start, arg_end: proc(5)
ctypes.memmove(start, (name * 200)[:end - start], end - start)
print("ready", flush=True); sys.stdin.readline()
""")
        process = self.start(harness.PYTHON, script, "x" * 50)
        process.stdout.readline()
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            self.assertIn(b"\x1b[31m\n", file.read())
        self.assert_ascii(self.sockleak("scan", "--pid", str(process.pid)).stdout)
        json.loads(self.sockleak("scan", "--pid", str(process.pid), "--json").stdout)
        self.assert_text(self.sockleak("dump", "--show=all", str(process.pid)).stdout)

    def test_watch_on_a_terminal(self):
        pid = str(self.hostile_process(False).pid)
        master, slave = pty.openpty()
        process = subprocess.Popen([SOCKLEAK, "scan", "--pid", pid, "--watch=50ms", "--color=never"],
                                   stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
                                   env=harness.clean_environment(TERM="xterm"))
        self.addCleanup(self.end, process)
        os.close(slave)
        out = b""
        while out.count(b"\x1b[H\x1b[2J") < 3:
            out += os.read(master, 4096)
        process.send_signal(signal.SIGTERM)
        process.wait()
        os.close(master)
        self.assertIn(pid.encode(), out)
        self.assert_ascii(out.replace(b"\x1b[H\x1b[2J", b"").replace(b"\r\n", b"\n"))

    def test_messages(self):
        name = self.place + b"/missing" + HOSTILE[:100]
        with open(self.place + b"/rules", "wb") as file:
            file.write(b"nonsense \x1b[31m \x9b \xe2\x80\xae\nverdict:\x1b[31m\n")
        for arguments in (["report", name], ["run", name], ["report", HOSTILE], ["dump", HOSTILE], [HOSTILE],
                          ["report", b"--suppressions=" + name, "/"], ["report", b"--format=" + HOSTILE, "/"],
                          ["report", b"--suppressions=" + self.place + b"/rules", "/"],
                          ["run", b"--ledger-dir=" + name + b"/x/y", "true"], ["run", b"--option=" + HOSTILE, "true"],
                          ["report", b"--output=" + name + b"/x/y", self.directory],
                          ["scan", b"--pid=" + HOSTILE]):
            done = self.sockleak(*arguments)
            self.assertNotEqual(done.returncode, 0, arguments)
            text = self.assert_plain_utf8(done.stderr)
            for line in text.splitlines():
                self.assertRegex(line, r"^(sockleak|==\d+==)", arguments)


if __name__ == "__main__":
    harness.main()
