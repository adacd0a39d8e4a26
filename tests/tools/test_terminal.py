"""What depends on where the report goes: colour, width, and progress, on a terminal and off it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import unittest

import harness
from harness import SOCKLEAK, sockleak

ESCAPE = "\033["
# Debug information of one file that takes WAIT_MS to be read.
SLOW = r"""
#include <dlfcn.h>
#include <elfutils/libdwfl.h>
#include <time.h>
Dwarf *dwfl_module_getdwarf(Dwfl_Module *module, Dwarf_Addr *bias) {
    Dwarf *(*real)(Dwfl_Module *, Dwarf_Addr *) =
        (Dwarf *(*)(Dwfl_Module *, Dwarf_Addr *))dlsym(RTLD_NEXT, "dwfl_module_getdwarf");
    struct timespec pause = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000000};
    nanosleep(&pause, NULL);
    return real(module, bias);
}
"""
LONG = r"""
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>
namespace a_namespace_with_a_long_name::and_one_inside {
template <typename First, typename Second> struct connection_of_two_types {
    __attribute__((noinline)) static int accept_from_the_listener(int listener, First, Second) {
        int s = accept(listener, nullptr, nullptr);
        __asm__ volatile("");
        return s;
    }
};
}
int main() {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
    bind(l, (sockaddr *)&a, len), listen(l, 1), getsockname(l, (sockaddr *)&a, &len);
    connect(c, (sockaddr *)&a, len);
    using namespace a_namespace_with_a_long_name::and_one_inside;
    int kept = connection_of_two_types<unsigned long, long long>::accept_from_the_listener(l, 1, 2);
    close(c);
    usleep(200000);
    return kept < 0;
}
"""


PROGRESS = r"(?:\rsockleak: reading symbols: \d+ % \(\d+ s\))+\r +\r"  # and wiped away


def on_terminal(*arguments, columns=200, until=None, progress=False, **env):
    """(status, what a terminal of so many columns gets). With `until`, a regular expression, the
    command is ended when it has shown that. Progress, as a slow machine may make it show, counts
    for nothing, unless it is asked for."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {"TERM": "xterm", **env}
    process = subprocess.Popen([SOCKLEAK, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
                               env=harness.clean_environment(**env))
    os.close(slave)
    text, end = b"", time.monotonic() + harness.DEADLINE_S
    try:
        while select.select([master], [], [], max(0, end - time.monotonic()))[0] and (part := os.read(master, 65536)):
            text += part
            if until and re.search(until, text.decode(errors="replace")):
                process.terminate()
                break
    except OSError:  # EIO: the last one closed it
        pass
    os.close(master)
    text = text.decode().replace("\r\n", "\n")
    return process.wait(harness.DEADLINE_S), text if progress else re.sub(PROGRESS, "", text)


class Terminal(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.ledgers = self.path("ledgers")
        self.record(os.path.join(harness.EXAMPLES, "forgotten_close"))

    def record(self, program):
        done = sockleak("run", "-q", "--ledger-dir", self.ledgers, program)
        self.assertEqual(done.returncode, 23, done.stderr)

    def on_terminal(self, *arguments, **options):
        """What a terminal gets from the report command."""
        status, text = on_terminal("report", *arguments, self.ledgers, **options)
        self.assertEqual(status, 0, text)
        return text

    def test_colour_on_a_terminal_only(self):
        self.assertIn(ESCAPE, self.on_terminal())
        self.assertNotIn(ESCAPE, sockleak("report", self.ledgers).stdout)
        self.assertNotIn(ESCAPE, self.on_terminal(TERM="dumb"))
        sockleak("report", "-o", self.path("file"), self.ledgers)
        self.assertNotIn(ESCAPE, harness.read(self.path("file")))

    def test_no_color_is_respected(self):
        self.assertNotIn(ESCAPE, self.on_terminal(NO_COLOR="1"))
        self.assertIn(ESCAPE, self.on_terminal(NO_COLOR=""))  # no-color.org: "when not an empty string"
        self.assertIn(ESCAPE, self.on_terminal("--color=always", NO_COLOR="1"))

    def test_color_always_and_never(self):
        self.assertNotIn(ESCAPE, self.on_terminal("--color=never"))
        self.assertIn(ESCAPE, sockleak("report", "--color=always", self.ledgers).stdout)

    def test_colour_changes_no_word(self):
        plain = re.sub(r"\033\[[0-9;]*m", "", self.on_terminal())
        self.assertEqual(plain, sockleak("report", self.ledgers).stdout)

    def test_only_text_is_coloured(self):
        for name in ("json", "junit", "github", "folded"):
            self.assertNotIn(ESCAPE, self.on_terminal(f"--format={name}", "--color=always"), name)

    def test_stacks_fit_the_terminal(self):
        self.write("long.cc", LONG)
        place = self.path("a-directory-with-a-name-that-is-long", "and-another-one-inside-of-it")
        os.makedirs(place)
        source = os.path.join(place, "server_with_a_long_name.cc")
        os.rename(self.path("long.cc"), source)
        subprocess.run([os.environ.get("CXX", "g++"), "-g", "-o", self.path("long"), source], check=True)
        self.ledgers = self.path("long-ledgers")
        self.record(self.path("long"))
        for columns in (80, 100, 140):
            text = self.on_terminal("--color=never", columns=columns)
            stack = [line for line in text.splitlines() if re.match(r"==\d+==     #\d", line)]
            self.assertEqual(len(stack), 2, text)
            for line in stack:
                self.assertLessEqual(len(line), columns)
                self.assertRegex(line, r"long_name\.cc:\d+$")
            self.assertRegex(stack[0], r"#0 a_n.*\.\.\..*listener")
        whole = sockleak("report", self.ledgers).stdout
        self.assertRegex(whole, r"#0 a_namespace_with_a_long_name::and_one_inside::connection_of_two_types"
                         r"<unsigned long, long long>::accept_from_the_listener\(.*long_name\.cc:\d+")

    def test_all_lines_fit_the_terminal(self):
        whole = sockleak("report", "--explain", "--sites", "--time-wait", self.ledgers).stdout
        self.assertGreater(max(map(len, whole.splitlines())), 100)
        def words_of(text):
            return sorted(re.sub(r"==\d+==|[|]", "", text).split())

        for columns in (60, 80, 100):
            text = self.on_terminal("--color=never", "--explain", "--sites", "--time-wait", columns=columns)
            for line in text.splitlines():
                self.assertLessEqual(len(line), columns, line)
                self.assertRegex(line, r"^==\d+==( |$)")
            if columns == 100:  # wide enough for stacks, and nothing but line breaks differs
                self.assertEqual(words_of(text), words_of(whole))

    def test_call_sites_on_a_narrow_terminal_are_words(self):
        text = self.on_terminal("--color=never", "--sites", columns=80)
        self.assertRegex(text, r"(?m)^==\d+==     \d+ opened, \d+ leaked(, [1-9]\d* \w+)*(; median .*)?$")
        self.assertNotIn("opened at", text)
        self.assertIn("opened at", self.on_terminal("--color=never", "--sites", columns=130))

    def slow(self, wait_ms):
        return self.compile(f"slow{wait_ms}.so", SLOW, "-shared", "-fPIC", "-D_GNU_SOURCE", f"-DWAIT_MS={wait_ms}")

    @unittest.skipIf(harness.is_sanitized(), "a sanitized build")
    def test_progress_is_shown_after_a_second_and_wiped_away(self):
        """Also while one file takes all the time."""
        slow = self.on_terminal("--color=never", progress=True, LD_PRELOAD=self.slow(1700))
        self.assertRegex(slow, f"^{PROGRESS}==\\d+==")
        self.assertGreater(slow.count("reading symbols"), 1)
        self.assertNotIn(ESCAPE, slow)
        percents = [int(p) for p in re.findall(r"(\d+) %", slow)]
        self.assertEqual(percents, sorted(percents))
        seconds = [int(s) for s in re.findall(r"\((\d+) s\)", slow)]
        self.assertEqual(seconds[0], 1)  # the first second was silent

    @unittest.skipIf(harness.is_sanitized(), "a sanitized build")
    def test_no_progress_within_a_second(self):
        for _ in range(10):
            begin = time.monotonic()
            text = self.on_terminal("--color=never", progress=True, LD_PRELOAD=self.slow(0))
            if time.monotonic() - begin < 1:
                self.assertNotIn("reading symbols", text)
                return
        self.skipTest("this machine is too busy to read symbols within a second")

    @unittest.skipIf(harness.is_sanitized(), "a sanitized build")
    def test_no_progress_where_nobody_looks(self):
        done = sockleak("report", self.ledgers, env=harness.clean_environment(LD_PRELOAD=self.slow(1700)))
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class EveryCommand(harness.TestCase):
    """On a terminal no line is wider than it; elsewhere no line is broken."""

    def check(self, *arguments, **options):
        for columns in (80, 100):
            _, text = on_terminal(*arguments, columns=columns, **options)
            text = re.sub(r"\033\[[0-9;]*[mHJK]", "", text)
            self.assertNotEqual(text, "")
            for line in text.split("\n"):
                self.assertLessEqual(len(line), columns, f"{arguments}: {line}")
        return text

    def check_same_words(self, *arguments):
        def words_of(text):  # but for ages
            return [w for w in text.split() if not re.fullmatch(r"[\d.]+", w) and w not in ("ms", "s")]

        done = sockleak(*arguments)
        self.assertGreater(max(map(len, (done.stdout + done.stderr).splitlines())), 80, "none is long enough to say much")
        self.assertEqual(words_of(self.check(*arguments)), words_of(done.stdout + done.stderr))

    def test_reap(self):
        process, _ = self.leaker("eof=1", "data=1", "reset=1", preload=True)
        harness.wait_until(lambda: "3 sockets" in sockleak("reap", "--older=0", process.pid).stdout
                           or "2 sockets" in sockleak("reap", "--older=0", process.pid).stdout, "a second has passed")
        self.check_same_words("reap", "--older=0", process.pid)

    def test_scan(self):
        long = self.write("a-script-with-a-name-that-is-longer-than-most-of-them-are.py", harness.LEAKER)
        process = self.start(harness.PYTHON, long, "eof=2", "fin=2")
        port = process.stdout.readline().strip()
        self.assertRegex(self.check("scan", "--port", port), r"(?m)^ +4 .*\d+ +\w+ +python3 /")
        self.check("scan", "--port", port, "--watch=100ms", until=r"(?s)(TIME_WAIT.*){4}")

    def test_dump(self):
        process, _ = self.leaker("eof=1", "data=1", preload=True)
        for options in ((), ("--explain", "--sites", "--threads", "--time-wait"), ("--show=all",)):
            self.check("dump", *options, process.pid)
        self.check("dump", "--watch=100ms", process.pid, until=r"(?s)( dead.*){3}")
        plain, _ = self.leaker("eof=1", "data=1")
        self.check("dump", plain.pid)

    def test_run(self):
        program = os.path.join(harness.EXAMPLES, "forgotten_close")
        self.check("run", "--interval=100ms", "sh", "-c", f"{program}; sleep 0.5")
        static = self.compile("static", "int main(void) { return 0; }", "-static")
        self.check("run", static)
        self.check("run", "sh", "-c", f"{static}; {program}; {static}")

    def test_mistakes(self):
        for arguments in (["run", "--format=yaml", "true"], ["run", "--signal=KILL", "true"], ["reap", 1],
                          ["run", "--option", "nonsense=1", "true"], ["run", "--leak-after=1", "--option",
                          "leak_after=1000", "true"], ["run", "--format=json", "--format=junit", "true"]):
            self.check_same_words(*arguments)

    def test_a_long_word_and_one_that_is_not_ascii(self):
        text = self.check("report", "/" + "x" * 200)
        self.assertIn("x" * 200, re.sub(r"\n +", "", text))
        text = self.check("report", "/" + " \u00e4\u00f6\u00fc" * 60)
        self.assertEqual(text.count("\u00e4\u00f6\u00fc"), 60)

    def test_help(self):
        for arguments in (["--help"], *(["help", c] for c in ("run", "report", "dump", "reap", "scan"))):
            for line in sockleak(*arguments).stdout.splitlines():
                self.assertLessEqual(len(line), 80, line)


if __name__ == "__main__":
    harness.main()
