"""Watching over time: sockleak dump --watch, sockleak run --interval and --leak-after."""

import json
import os
import re
import select
import signal
import subprocess
import time
import unittest

import harness
from harness import PYTHON, SOCKLEAK, sockleak, wait_until

# Leaks as many sockets as each line on its standard input says; `-N` closes N of them again; `exit`
# ends. Answers each line with the number of sockets that it has then.
PROGRAM = r"""
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=128)
kept = []
def leak():
    client = socket.create_connection(server.getsockname())
    kept.append(server.accept()[0])
    client.close()
    kept[-1].recv(1)
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "exit":
        break
    number = int(line)
    for _ in range(number):
        leak()
    for _ in range(-number):
        kept.pop().close()
    print(len(kept), flush=True)
os._exit(7)
"""


class Case(harness.TestCase):
    def program(self):
        return self.write("program.py", PROGRAM)

    def order(self, process, line):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return process.stdout.readline()

    def lines(self, stream):
        """Each line as it comes; the test fails where none does in time."""
        end = time.monotonic() + harness.DEADLINE_S
        descriptor, rest = stream.fileno(), b""
        while True:
            while b"\n" in rest:
                line, rest = rest.split(b"\n", 1)
                yield line.decode()
            left = end - time.monotonic()
            self.assertGreater(left, 0, f"no more lines; the last was {rest!r}")
            if select.select([descriptor], [], [], left)[0]:
                more = os.read(descriptor, 1 << 16)
                if not more:
                    return
                rest += more


class Dump(Case):
    def serve(self):
        process = self.start(PYTHON, self.program(), env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY),
                             stderr=subprocess.DEVNULL)
        process.stdout.readline()
        return process

    def watch(self, process, *options):
        return self.start(SOCKLEAK, "dump", "--watch=250ms", *options, str(process.pid),
                          stderr=subprocess.PIPE)

    def until(self, looks, count):
        """The looks up to the one that counts so many in CLOSE_WAIT."""
        seen = []
        for line in looks:
            seen.append(json.loads(line))
            if seen[-1]["close_wait"] == count:
                return seen
        raise AssertionError(f"never {count}: {seen}")

    def test_growth_is_that_of_the_program(self):
        process = self.serve()
        self.order(process, 3)
        watch = self.watch(process, "--format=json")
        looks = self.lines(watch.stdout)
        seen = self.until(looks, 3)
        self.assertEqual(seen[0]["interval_ms"], None)
        self.order(process, 12)
        seen += self.until(looks, 15)
        self.order(process, -5)
        seen += self.until(looks, 10)
        grown = [sum(f["grown"] for f in look["findings"]) for look in seen[1:]]
        self.assertEqual(sum(g for g in grown if g > 0) - (3 - seen[0]["close_wait"]), 12)
        self.assertEqual(sum(g for g in grown if g < 0), -5)
        (finding,) = seen[-1]["findings"]
        self.assertEqual((finding["count"], finding["verdict"], finding["pids"]), (10, "eof-ignored", [process.pid]))
        self.assertEqual(finding["grown_since_start"], 10 - seen[0]["close_wait"])
        self.assertEqual(len({f["fingerprint"] for look in seen for f in look["findings"]}), 1)
        # A look that is late does not delay the next one: on the whole it is every 250 ms.
        self.assertEqual(sum(look["interval_ms"] for look in seen[1:]), seen[-1]["elapsed_ms"])
        self.assertLessEqual(len(seen) - 2, seen[-1]["elapsed_ms"] / 250)

    def test_as_text(self):
        process = self.serve()
        watch = self.watch(process)
        looks = self.lines(watch.stdout)
        self.assertRegex(next(looks), r"^\d\d:\d\d:\d\d  0 sockets left in CLOSE_WAIT, 0 dead$")
        self.order(process, 4)
        grown = 0
        while grown < 4:
            line = next(looks)
            found = re.match(r" +(\d+) \(\+(\d+) in (\d+ ms|[\d.]+ s)\)  eof-ignored, end of stream read in \w+.*, "
                             r"opened by accept4 in \w+", line)
            grown += int(found[2]) if found else 0
        self.assertEqual((grown, int(found[1])), (4, 4))

    def test_whole_seconds_are_told_as_such(self):
        process = self.serve()
        watch = self.start(SOCKLEAK, "dump", "--watch=1s", str(process.pid), stderr=subprocess.PIPE)
        looks = self.lines(watch.stdout)
        next(looks)
        self.order(process, 3)
        told = []
        while "1 s" not in told:  # a look may be late
            found = re.search(r" 0 dead$|\([+-]\d+ in ([^)]+)\)", next(looks))
            told += [found[1]] if found and found[1] else []
            self.assertLess(len(told), 20, told)
        self.assertFalse([age for age in told if ".0" in age], told)

    def test_it_ends_with_the_process(self):
        process = self.serve()
        watch = self.watch(process)
        next(self.lines(watch.stdout))
        process.stdin.write("exit\n"), process.stdin.flush()
        # Its parent, this test, has not waited for it yet: a zombie has ended, too.
        _, errors = watch.communicate(timeout=harness.DEADLINE_S)
        self.assertIn(watch.returncode, (0, 1))
        if watch.returncode:  # it ended in the middle of a look
            self.assert_one_line(errors, f"process {process.pid}")

    def test_fail_on_ends_it(self):
        process = self.serve()
        watch = self.watch(process, "--fail-on=close-wait")
        next(self.lines(watch.stdout))
        self.order(process, 1)
        watch.communicate(timeout=harness.DEADLINE_S)
        self.assertEqual(watch.returncode, 23)

    def test_mistakes(self):
        for options, pattern in ((["--watch=soon"], "--watch=soon: is not a time"),
                                 (["--watch", "--format=sarif"], "text or JSON"),
                                 (["--watch", "--output=x"], "text or JSON"),
                                 (["--watch=0"], "--watch=0: is not a time that is longer than 0"),
                                 (["--watch", "--threads"], "--watch and --threads do not go together"),
                                 (["--watch", "--sites"], "--watch and --sites do not go together"),
                                 (["--watch", "--explain"], "--watch and --explain do not go together"),
                                 (["--watch", "--time-wait"], "--watch and --time-wait do not go together"),
                                 (["--watch", "--suggest"], "--watch and --suggest do not go together")):
            done = sockleak("dump", *options, os.getpid())
            self.assertEqual(done.returncode, 2)
            self.assert_one_line(done.stderr, pattern)


class Run(Case):
    def run_program(self, *options, command=()):
        run = self.start(SOCKLEAK, "run", *options, "--", *command, PYTHON, self.program(), stderr=subprocess.PIPE)
        self.assertEqual(run.stdout.readline(), "ready\n")
        return run

    def finish(self, run):
        run.stdin.write("exit\n")
        run.stdin.flush()
        run.wait(harness.DEADLINE_S)
        return run.returncode

    def test_interval_shows_growth(self):
        run = self.run_program("--interval=250ms")
        errors = self.lines(run.stderr)
        self.assertRegex(next(errors), r"^sockleak: \d\d:\d\d:\d\d  0 sockets left in CLOSE_WAIT, 0 dead$")
        self.order(run, 5)
        grown = 0
        while grown < 5:
            found = re.match(r"sockleak: +\d+ \(\+(\d+) in .*\)  eof-ignored, end of stream read in ", next(errors))
            grown += int(found[1]) if found else 0
        self.assertEqual(grown, 5)
        self.order(run, -5)
        while True:  # those that are closed are no leak any more
            if re.search(r" 0 sockets left in CLOSE_WAIT \(-\d+ in", next(errors)):
                break
        self.assertEqual(self.finish(run), 7)

    def test_what_runs_out_is_told_while_the_command_runs(self):
        run = self.run_program("--option", "max_open=4")
        errors = self.lines(run.stderr)
        self.order(run, 5)
        self.assertRegex(next(errors), r"^==\d+== sockleak: max_open=4 is reached: .* of them from this stack")
        self.assertRegex(next(errors), r"^==\d+==     #0 ")
        self.assertIsNone(run.poll())
        self.order(run, -5)
        self.assertEqual(self.finish(run), 7)
        self.assertNotIn("is reached", "".join(errors))  # once in exhaustion_interval

    def test_signals_are_passed_on_at_once_meanwhile(self):
        run = self.run_program("--interval=100ms")
        next(self.lines(run.stderr))
        run.send_signal(signal.SIGTERM)
        self.assertEqual(run.wait(harness.DEADLINE_S), 128 + signal.SIGTERM)

    def check_leak_after(self, *command):
        run = self.run_program("--leak-after=2s", command=command)
        self.order(run, 1)
        leaked = time.monotonic()
        errors = self.lines(run.stderr)
        self.assertRegex(next(errors), "^sockleak: 1 socket is in CLOSE_WAIT for 2.0 s or longer:$")
        seconds = time.monotonic() - leaked
        self.assertGreater(seconds, 1.9)  # the FIN came before `leaked`
        self.assertLess(seconds, 4)  # symbols of Python, on a busy machine
        self.order(run, 2)
        # Two more become late, within the minute after the first: not told again until the end.
        time.sleep(2.5)
        self.assertEqual(self.finish(run), 23)
        rest = list(errors)
        self.assertEqual([line for line in rest if "or longer:" in line], [])
        self.assertEqual(sum("1 socket, eof-ignored" in line for line in rest), 1)
        self.assertEqual(sum("3 sockets, eof-ignored" in line for line in rest), 1)

    def test_leak_after_tells_of_a_live_process_once(self):
        self.check_leak_after()

    def test_leak_after_tells_of_a_child(self):
        # Two commands, or the shell would make itself one.
        self.check_leak_after("sh", "-c", '"$@"; exit $?', "sh")

    def test_leak_after_less_than_the_grace_of_a_report(self):
        run = self.run_program("--leak-after=300ms")
        self.order(run, 2)
        leaked = time.monotonic()
        self.assertRegex(next(self.lines(run.stderr)), "^sockleak: 2 sockets are in CLOSE_WAIT for 300 ms or longer:$")
        self.assertLess(time.monotonic() - leaked, 2.5)
        self.assertEqual(self.finish(run), 23)

    def test_what_is_closed_in_time_is_not_told(self):
        run = self.run_program("--leak-after=2s")
        for _ in range(6):
            self.order(run, 1)
            time.sleep(0.5)
            self.order(run, -1)
        self.assertEqual(self.finish(run), 7)
        self.assertNotIn("or longer", run.stderr.read())

    def test_quiet_does_not_say_what_runs_out(self):
        run = self.run_program("-q", "--option", "max_open=4")
        self.order(run, 5)
        self.order(run, -5)
        self.assertEqual(self.finish(run), 7)
        self.assertEqual(run.stderr.read(), "")

    def test_quiet_says_nothing(self):
        run = self.run_program("--quiet", "--interval=100ms", "--leak-after=100ms")
        self.order(run, 1)
        time.sleep(0.5)
        self.assertEqual(self.finish(run), 23)
        self.assertEqual(run.stderr.read(), "")

    def test_mistakes(self):
        for option in ("--interval", "--leak-after"):
            for value in ("x", "0"):
                done = sockleak("run", f"{option}={value}", "true")
                self.assertEqual(done.returncode, 2)
                self.assert_one_line(done.stderr, f"{option} {value}: is not a time")

    def test_late_sockets_are_reported_by_one_of_us_only(self):
        done = sockleak("run", "--leak-after=1s", "--option", "leak_after=1", "true")
        self.assertEqual(done.returncode, 2)
        self.assert_one_line(done.stderr, "--leak-after and --option leak_after would both report")
        done = sockleak("run", "--leak-after=1s", "sh", "-c", "echo $SOCKLEAK_OPTIONS",
                        env=harness.clean_environment(SOCKLEAK_OPTIONS="leak_after=1"))
        self.assertRegex(done.stdout, r"leak_after=0:ledger_dir")  # the last one holds


class Memory(Case):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        run = self.start("valgrind", "-q", "--leak-check=full", "--error-exitcode=99", "--trace-children=no", SOCKLEAK,
                         "run", "--fail-on=none", "--interval=200ms", "--leak-after=500ms", PYTHON, self.program(),
                         stderr=subprocess.PIPE)
        self.assertEqual(run.stdout.readline(), "ready\n")
        self.order(run, 2)
        errors = self.lines(run.stderr)
        wait_until(lambda: "or longer:" in next(errors), "a late socket")
        run.stdin.write("exit\n"), run.stdin.flush()
        rest = list(errors)
        self.assertEqual(run.wait(harness.DEADLINE_S), 7, "\n".join(rest))


if __name__ == "__main__":
    harness.main()
