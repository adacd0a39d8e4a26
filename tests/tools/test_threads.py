"""sockleak dump --threads: which thread is blocked where, and that the process goes on as before."""

import json
import os
import shutil
import signal
import subprocess
import time
import unittest

import harness
from harness import PYTHON, ROOT, SOCKLEAK, sockleak, wait_until

try:
    import jsonschema
except ImportError:
    jsonschema = None

# A worker that leaks one connection and waits in recv for another, a poller in epoll_wait, and main in
# read. Prints "leaked fd, waiting fd"; for each line on stdin, the worker is sent a byte and prints what
# recv returned. `epoll N` is printed should epoll_wait return.
PROGRAM = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
static int listener, other_end = -1;
static struct sockaddr_in a;
static int pair(int *client) {
    *client = socket(AF_INET, SOCK_STREAM, 0);
    connect(*client, (void *)&a, sizeof a);
    return accept(listener, 0, 0);
}
__attribute__((noinline)) long wait_for_answer(int fd) {
    char c[100];
    long got = recv(fd, c, sizeof c, 0);
    __asm__ volatile("");
    return got < 0 ? -errno : got;
}
static void *worker(void *x) {
    int client;
    char byte;
    int leaked = pair(&client);
    close(client);
    read(leaked, &byte, 1);
    int waiting = pair(&other_end);
    pthread_setname_np(pthread_self(), "the worker");
    printf("%d %d\n", leaked, waiting), fflush(stdout);
    for (;;)
        printf("recv %ld\n", wait_for_answer(waiting)), fflush(stdout);
    return x;
}
static void *poller(void *x) {
    struct epoll_event event;
    int e = epoll_create1(0);
    pthread_setname_np(pthread_self(), "the poller");
    printf("epoll %d\n", epoll_wait(e, &event, 1, -1)), fflush(stdout);
    return x;
}
int main(void) {
    socklen_t len = sizeof a;
    char line[10];
    a.sin_family = AF_INET, a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (void *)&a, len), listen(listener, 9), getsockname(listener, (void *)&a, &len);
    pthread_t threads[2];
    pthread_create(&threads[0], 0, poller, 0), pthread_create(&threads[1], 0, worker, 0);
    while (read(0, line, sizeof line) > 0)
        send(other_end, "!", 1, 0);
    return 0;
}
"""

SCRIPT = r"""
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
def pair():
    client = socket.create_connection(server.getsockname())
    return client, server.accept()[0]
def work():
    client, leaked = pair()
    client.close()
    leaked.recv(1)
    other, waiting = pair()
    print(leaked.fileno(), waiting.fileno(), flush=True)
    waiting.recv(1)
threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
"""


def is_blocked(pid, count):
    """All threads sleep in a system call."""
    tids = os.listdir(f"/proc/{pid}/task")
    try:
        return len(tids) == count and all(
            harness.read(f"/proc/{pid}/task/{tid}/stat").rsplit(")", 1)[1].split()[0] == "S" for tid in tids)
    except OSError:  # one has just ended
        return False


class Case(harness.TestCase):
    def serve(self, *flags, preload=True):
        program = self.compile("program", PROGRAM, "-D_GNU_SOURCE", "-pthread", "-w", *flags)
        env = harness.clean_environment(**({"LD_PRELOAD": harness.LIBRARY} if preload else {}))
        process = self.start(program, env=env, stderr=subprocess.DEVNULL)
        self.fds = [int(word) for word in process.stdout.readline().split()]
        wait_until(lambda: is_blocked(process.pid, 3), "all threads blocked")
        return process

    def threads(self, pid, *options):
        done = sockleak("dump", "--threads", "--format=json", *options, pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        (process,) = json.loads(done.stdout)["processes"]
        return {t["name"]: t for t in process["threads"]}, process

    def functions(self, thread):
        return [frame["function"] for frame in thread["stack"]]

    def assert_goes_on(self, process):
        """No tracer, no stop, and it does its work; no call of it was disturbed."""
        for tid in os.listdir(f"/proc/{process.pid}/task"):
            status = harness.read(f"/proc/{process.pid}/task/{tid}/status")
            self.assertRegex(status, r"TracerPid:\s+0\n")
            self.assertRegex(status, r"State:\s+S")
        process.stdin.write("x"), process.stdin.flush()
        self.assertEqual(process.stdout.readline(), "recv 1\n")

    def check(self, process, stopped):
        threads, told = self.threads(process.pid)
        self.assertEqual(set(threads), {"program", "the worker", "the poller"})
        worker, poller, main = (threads[n] for n in ("the worker", "the poller", "program"))
        self.assertEqual((worker["call"], worker["fd"], worker["state"]), ("recvfrom", self.fds[1], "S"))
        link = os.readlink(f"/proc/{process.pid}/fd/{self.fds[1]}")
        self.assertEqual(link, f"socket:[{worker['fd_inode']}]")
        self.assertIn(poller["call"], ("epoll_wait", "epoll_pwait"))
        self.assertEqual((main["call"], main["fd"]), ("read", 0))
        self.assertEqual(self.functions(worker)[-4:][:2] if "start_thread" in self.functions(worker) else
                         self.functions(worker)[-2:], ["wait_for_answer", "worker"])
        line = next(f for f in worker["stack"] if f["function"] == "wait_for_answer")
        self.assertTrue(line["file"].endswith("program.c"), line)
        self.assertEqual(PROGRAM.splitlines()[line["line"] - 1].strip()[:15], "long got = recv")
        self.assertIn("poller", self.functions(poller))
        self.assertIn("main", self.functions(main))
        for thread in threads.values():
            self.assertFalse(thread["truncated"], thread)
            self.assertEqual(thread["was_stopped"], stopped, thread["name"])
        return threads, told


class C(Case):
    def test_optimised_code_is_not_even_stopped(self):
        process = self.serve("-O2", "-fomit-frame-pointer")
        threads, told = self.check(process, stopped=False)
        self.assertEqual(len(told["findings"]), 0)  # young
        self.assert_goes_on(process)

    @unittest.skipUnless(os.uname().machine == "x86_64", "which registers a frame is found by")
    def test_frames_that_need_a_register_are_stopped_and_go_on(self):
        process = self.serve("-O0")
        threads, _ = self.threads(process.pid)
        self.assertTrue(any(thread["was_stopped"] for thread in threads.values()))
        self.assertEqual([f for f in self.functions(threads["the worker"]) if f in ("wait_for_answer", "worker")],
                         ["wait_for_answer", "worker"])
        self.assertFalse(threads["the worker"]["truncated"])
        # signal(7): epoll_wait is one of the calls that a stop ends, with any debugger.
        if threads["the poller"]["was_stopped"]:
            self.assertEqual(process.stdout.readline(), "epoll -1\n")
            wait_until(lambda: is_blocked(process.pid, 2), "the rest blocked")
        self.assert_goes_on(process)

    def test_leaked_sockets_are_joined_with_their_thread(self):
        process = self.serve("-O2")
        time.sleep(1.1)  # a leak
        threads, told = self.threads(process.pid)
        (leak,) = threads["the worker"]["leaked"]
        self.assertEqual((leak["fd"], leak["verdict"], leak["opened"], leak["read_end_of_stream"]),
                         (self.fds[0], "eof-ignored", True, True))
        self.assertEqual(leak["inode"], told["findings"][0]["sockets"][0]["inode"])
        self.assertEqual(threads["the poller"]["leaked"], [])
        text = sockleak("dump", "--threads", process.pid).stdout
        self.assertRegex(text, rf"thread \d+ the worker: blocked in recvfrom on fd {self.fds[1]}, "
                               r"127.0.0.1:\d+ - 127.0.0.1:\d+ ESTABLISHED, for \d")
        self.assertRegex(text, rf"opened, and read end of stream on, fd {self.fds[0]}: CLOSE_WAIT, eof-ignored")
        self.assertRegex(text, r"wait_for_answer at \S*program.c:\d+")
        self.assertLess(text.index("the worker"), text.index("the poller"))
        self.assertNotIn("more", text)
        text = sockleak("dump", "--threads", "--max-sockets=0", process.pid).stdout
        self.assertRegex(text, r"the worker: blocked in .*\n==\d+==     1 leaked socket, none listed\n")
        self.assertNotIn("opened, and read end of stream on", text)
        self.assertNotIn("preload/hooks", text)  # the hook that recv goes through
        self.assertNotIn("libsockleak.so", text)

    @unittest.skipIf(jsonschema is None, "python3-jsonschema is not installed")
    def test_the_schema_knows_threads(self):
        schema = json.loads(harness.read(os.path.join(ROOT, "tools", "sockleak-report.schema.json")))
        self.assertIn("thread", schema["$defs"])
        process = self.serve("-O2")
        time.sleep(1.1)  # a leak, with its thread
        document = json.loads(sockleak("dump", "--threads", "--format=json", process.pid).stdout)
        self.assertEqual(list(jsonschema.Draft202012Validator(schema).iter_errors(document)), [])
        self.assertTrue(any(thread["leaked"] for thread in document["processes"][0]["threads"]))

    def test_a_process_that_was_not_preloaded(self):
        process = self.serve("-O2", preload=False)
        threads, _ = self.threads(process.pid)
        self.assertIn("wait_for_answer", self.functions(threads["the worker"]))
        self.assert_goes_on(process)

    def test_how_long_it_is_blocked(self):
        process = self.serve("-O2")
        if not os.path.exists(f"/proc/{process.pid}/sched"):
            self.skipTest("this kernel has no /proc/PID/sched")
        process.stdin.write("x"), process.stdin.flush()
        process.stdout.readline()
        begun = time.monotonic()
        time.sleep(1.5)
        before = (time.monotonic() - begun) * 1000
        threads, _ = self.threads(process.pid)
        after = (time.monotonic() - begun) * 1000
        self.assertGreaterEqual(threads["the worker"]["blocked_ms"], before - 100)
        self.assertLessEqual(threads["the worker"]["blocked_ms"], after + 100)
        self.assertGreaterEqual(threads["the poller"]["blocked_ms"], threads["the worker"]["blocked_ms"] - 100)

    def test_a_running_thread_is_said_to_run(self):
        program = self.compile("spin", "int main(void) { for (volatile long i = 0;; i++); }", "-O1")
        process = self.start(program)
        wait_until(lambda: harness.read(f"/proc/{process.pid}/syscall").startswith("running"), "it runs")
        threads, _ = self.threads(process.pid)
        if threads["spin"]["state"] == "R":
            self.assertEqual((threads["spin"]["call"], threads["spin"]["stack_problem"]), (None, "it runs"))

    def test_without_being_asked_there_are_none(self):
        process = self.serve("-O2")
        (told,) = json.loads(sockleak("dump", "--format=json", process.pid).stdout)["processes"]
        self.assertNotIn("threads", told)
        done = sockleak("dump", "--threads", "--watch", process.pid)
        self.assertEqual(done.returncode, 2)


@unittest.skipUnless(os.uname().machine == "x86_64" and shutil.which("strace"), "no strace")
class Stopping(Case):
    """With frames that need a register, and strace in the way."""

    def setUp(self):
        if harness.is_sanitized():
            self.skipTest("a sanitized build")
        super().setUp()

    def test_a_stop_takes_milliseconds_at_most(self):
        process = self.serve("-O0")
        log = self.path("log")
        subprocess.run(["strace", "-ttt", "-e", "trace=ptrace", "-o", log, SOCKLEAK, "dump", "--threads",
                        str(process.pid)], check=True, capture_output=True, timeout=harness.DEADLINE_S)
        begun, took = None, []
        for line in harness.read(log).splitlines():
            if "PTRACE_INTERRUPT" in line:
                begun = float(line.split()[0])
            if "PTRACE_DETACH" in line and begun:
                took.append(float(line.split()[0]) - begun)
        self.assertTrue(took)
        self.assertLess(min(took), 0.01)  # strace's own stops included

    def held(self):
        """The tool held by strace while it has a thread stopped. (process, strace, pid of the tool)"""
        process = self.serve("-O0")
        tracer = self.start("strace", "-f", "-qq", "-o", self.path("log"), "-e", "trace=ptrace",
                            "-e", "inject=ptrace:delay_enter=3000000:when=3", SOCKLEAK, "dump", "--threads",
                            str(process.pid), stderr=subprocess.DEVNULL)
        states = lambda: {harness.read(f"/proc/{process.pid}/task/{t}/stat").rsplit(")", 1)[1].split()[0]
                          for t in os.listdir(f"/proc/{process.pid}/task")}
        wait_until(lambda: "t" in states(), "a stopped thread")
        pids = {harness.read(f"/proc/{process.pid}/task/{t}/status").split("TracerPid:")[1].split()[0]
                for t in os.listdir(f"/proc/{process.pid}/task")} - {"0"}
        return process, tracer, int(pids.pop()), states

    def test_killed_meanwhile_it_leaves_the_process_running(self):
        process, tracer, tool, states = self.held()
        os.kill(tool, signal.SIGKILL)
        tracer.wait(harness.DEADLINE_S)
        wait_until(lambda: states() == {"S"}, "all go on")
        process.stdin.write("x"), process.stdin.flush()
        lines = [process.stdout.readline()]
        if lines[0].startswith("epoll"):
            lines.append(process.stdout.readline())
        self.assertIn("recv 1\n", lines)

    def test_a_signal_meanwhile_waits_until_it_goes_on(self):
        process, tracer, tool, states = self.held()
        os.kill(tool, signal.SIGTERM)
        tracer.wait(harness.DEADLINE_S)
        self.assertEqual(states(), {"S"})
        status = harness.read(f"/proc/{process.pid}/status")
        self.assertRegex(status, r"TracerPid:\s+0\n")

    def test_a_process_that_is_traced_already_is_said_to_be(self):
        process = self.serve("-O0")
        tracer = self.start("strace", "-f", "-qq", "-o", "/dev/null", "-p", str(process.pid), stderr=subprocess.DEVNULL)
        wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in harness.read(f"/proc/{process.pid}/status"), "traced")
        wait_until(lambda: is_blocked(process.pid, len(os.listdir(f"/proc/{process.pid}/task"))), "blocked")
        done = sockleak("dump", "--threads", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("blocked in recvfrom", done.stdout)


class Python(Case):
    def test_a_python_program(self):
        process = self.start(PYTHON, self.write("script.py", SCRIPT),
                             env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY), stderr=subprocess.DEVNULL)
        leaked, waiting = (int(word) for word in process.stdout.readline().split())
        wait_until(lambda: is_blocked(process.pid, 2), "all threads blocked")
        time.sleep(1.1)  # a leak
        done = sockleak("dump", "--threads", "--format=json", process.pid)
        (told,) = json.loads(done.stdout)["processes"]
        (worker,) = [t for t in told["threads"] if t["fd"] == waiting]
        self.assertEqual(worker["call"], "recvfrom")
        self.assertEqual([leak["fd"] for leak in worker["leaked"]], [leaked])
        functions = [frame["function"] or "" for frame in worker["stack"]]
        self.assertTrue(any("PyEval_EvalFrame" in name or "PyObject_" in name for name in functions), functions)
        process.stdin.write("\n"), process.stdin.flush()
        self.assertEqual(process.wait(harness.DEADLINE_S), 0)


class Memory(Case):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        for flags in ("-O0", "-O2"):
            process = self.serve(flags)
            done = subprocess.run(["valgrind", "-q", "--leak-check=full", "--error-exitcode=99", SOCKLEAK, "dump",
                                   "--threads", str(process.pid)], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    harness.main()
