"""sockleak reap: exactly the sockets that it lists are destroyed, and the program is told."""

import json
import os
import select
import shutil
import subprocess
import tempfile
import unittest

import harness
from harness import PYTHON, SOCKLEAK, sockleak, wait_until

# A server with sockets of all kinds, that does what it is told on its standard input: `use FD` polls
# a descriptor, reads from it and writes to it, `close FD`, `answer FD` sends one byte, `fork` starts a child that
# keeps all descriptors. Prints one JSON line first, and one for each order.
PROGRAM = r"""
import errno, json, os, select, socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=64)
other = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=64)
kept, peers = {}, {}
def pair(listener):
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    return client, listener.accept()[0]
for kind in ("eof", "fin", "data", "eof6", "open", "half"):
    client, mine = pair(other if kind == "eof6" else server)
    kept[kind] = mine
    if kind == "data":
        client.sendall(b"hello")
    if kind == "half":
        client.shutdown(socket.SHUT_WR)
    if kind in ("open", "half"):
        peers[kind] = client
    else:
        client.close()
    if kind.startswith("eof"):
        mine.recv(1)
reset, mine = pair(server)
reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
reset.close()
kept["reset"] = mine
by_fd = {s.fileno(): s for s in kept.values()}
def use(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    told = [sum(event for _, event in poll.poll(0)) & (select.POLLERR | select.POLLHUP)]
    for call in (lambda: by_fd[fd].recv(100, socket.MSG_DONTWAIT), lambda: by_fd[fd].send(b"x", socket.MSG_NOSIGNAL)):
        try:
            told.append(repr(call()))
        except OSError as error:
            told.append(errno.errorcode[error.errno])
    return told
print(json.dumps({"fds": {k: s.fileno() for k, s in kept.items()}, "listening": [server.fileno(), other.fileno()],
                  "local": {k: s.getsockname()[1] for k, s in kept.items()},
                  "peer": {k: s.getpeername()[1] for k, s in kept.items() if k != "reset"}}), flush=True)
for line in sys.stdin:
    order, *fd = line.split()
    if order == "use":
        answer = use(int(fd[0]))
    elif order == "answer":
        answer = by_fd[int(fd[0])].send(b"!")
    elif order == "heard":
        answer = peers["half"].recv(1).decode()
    elif order == "fork":
        answer = os.fork()
        if answer == 0:
            import signal
            signal.pause()
    else:
        by_fd[int(fd[0])].close()
        answer = None
    print(json.dumps(answer), flush=True)
"""

AGE_MS = 3000  # of all but the one that answered just now
OLDER = "--older=3s"
LEAKED = {"eof", "fin", "data", "eof6"}  # and destroyable; `half` is healthy: it answers


def may_make_namespaces():
    return os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip") and subprocess.run(
        ["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0


class Stock:
    """Programs that were started ahead, in a network namespace each: they grow old together."""

    BATCH = 6

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="sockleak-tools-")
        self.script = os.path.join(self.directory.name, "server.py")
        with open(self.script, "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        self.waiting = {}

    def start(self, env):
        return subprocess.Popen(["unshare", "-n", "sh", "-c", f"ip link set lo up; exec {PYTHON} {self.script}"],
                                env=harness.clean_environment(**env), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def take(self, env):
        waiting = self.waiting.setdefault(tuple(env.items()), [])
        if not waiting:
            waiting.extend(self.start(env) for _ in range(self.BATCH))
        return waiting.pop()

    def end(self):
        for process in sum(self.waiting.values(), []):
            Case.end(process)
        self.directory.cleanup()


def setUpModule():
    global stock
    stock = Stock()
    unittest.addModuleCleanup(stock.end)


class Case(harness.TestCase):
    """The program in a network namespace of its own."""

    def setUp(self):
        if not may_make_namespaces():
            self.skipTest("may not make network namespaces: not root")
        super().setUp()

    def serve(self, **env):
        process = stock.take(env)
        self.addCleanup(self.end, process)
        made = json.loads(process.stdout.readline())
        # It is the kernel that says how old they are.
        wait_until(lambda: min(self.ages(process, made).values()) > AGE_MS, "an age in CLOSE_WAIT")
        self.answer(process, made)
        return process, made

    def answer(self, process, made):
        """Data moves: no leak."""
        self.order(process, f"answer {made['fds']['half']}")
        self.order(process, "heard")

    @staticmethod
    def order(process, order):
        process.stdin.write(order + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    @staticmethod
    def inside(process, *command):
        return subprocess.run(["nsenter", "-t", str(process.pid), "-n", *command],
                              capture_output=True, text=True, check=True).stdout

    def ages(self, process, made):
        out = self.inside(process, "ss", "-tinHO", "state", "close-wait")
        ports = {made["peer"][kind]: kind for kind in LEAKED}
        ages = {}
        for line in out.splitlines():
            kind = ports.get(int(line.split()[3].rsplit(":", 1)[1]))
            if kind:
                ages[kind] = next((int(w[8:]) for w in line.split() if w.startswith("lastack:")), 0)
        return ages if set(ages) == LEAKED else {"not all": 0}

    def connections(self, process):
        """{(local port, peer port): state} by the kernel."""
        out = self.inside(process, "ss", "-tanH")
        rows = [line.split() for line in out.splitlines()]
        return {tuple(int(end.rsplit(":", 1)[1].replace("*", "0")) for end in row[3:5]): row[0]
                for row in rows if row[0] != "TIME-WAIT"}

    def reap(self, process, *options, status=0):
        done = sockleak("reap", "--format=json", *options, process.pid)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout)

    def results(self, document, made):
        kinds = {fd: kind for kind, fd in made["fds"].items()}
        return {kinds[s["fds"][0]]: s["result"] for s in document["sockets"]}


class Listing(Case):
    def test_a_dry_run_is_the_default_and_changes_nothing(self):
        process, made = self.serve()
        before = self.connections(process)
        for options in ([], ["--dry-run"]):
            self.answer(process, made)
            document = self.reap(process, OLDER, *options)
            self.assertTrue(document["dry_run"])
            self.assertEqual(self.results(document, made), dict.fromkeys(LEAKED, "listed") | {"reset": "left"})
        self.assertEqual(self.connections(process), before)
        self.assertEqual(self.order(process, f"use {made['fds']['eof']}"), [0, "b''", "1"])

    def test_what_is_younger_is_not_listed(self):
        process, _ = self.serve()
        document = self.reap(process, "--older=1h")
        self.assertEqual((document["sockets"], document["younger"]), ([], len(LEAKED | {"reset"})))
        self.assertEqual(self.reap(process, OLDER)["younger"], 0)

    def test_what_is_younger_is_counted(self):
        process, _ = self.serve(LD_PRELOAD=harness.LIBRARY)
        for options, verb in (([], "would be destroyed"), (["--yes"], "destroyed")):
            done = sockleak("reap", "--older=1h", *options, process.pid)
            self.assert_one_line(done.stdout, rf"^0 of 5 sockets of process {process.pid} {verb} "
                                 r"\(5 younger than --older=1h\)$")
            done = sockleak("reap", "--older=1h", "--verdict=data-unread", *options, process.pid)
            self.assert_one_line(done.stdout, rf"^0 of 1 socket of process {process.pid} {verb} "
                                 r"\(1 younger than --older=1h\)$")

    def test_verdicts_choose(self):
        process, made = self.serve(LD_PRELOAD=harness.LIBRARY)
        for verdicts, kinds in (("eof-ignored", {"eof", "eof6"}), ("fin-unread,data-unread", {"fin", "data"}),
                                ("shutdown-unclosed", set())):
            self.answer(process, made)
            self.assertEqual(set(self.results(self.reap(process, OLDER, f"--verdict={verdicts}"), made)), kinds)

    def test_they_are_listed_by_descriptor(self):
        process, made = self.serve()
        listed = [s["fds"][0] for s in self.reap(process, OLDER)["sockets"]]
        self.assertEqual(listed, sorted(made["fds"][kind] for kind in LEAKED | {"reset"}))

    def test_the_text_names_the_code_where_it_is_known(self):
        process, made = self.serve(LD_PRELOAD=harness.LIBRARY)
        done = sockleak("reap", OLDER, process.pid)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, rf"(?m)^listed +fd {made['fds']['eof']}  127.0.0.1:{made['local']['eof']} - "
                         rf"127.0.0.1:{made['peer']['eof']}  CLOSE_WAIT for \d.*, eof-ignored, end of stream read in ")
        self.assertRegex(done.stdout, r"4 sockets of process \d+ would be destroyed, 1 not; nothing was done: --yes does it")


class Destroying(Case):
    def check_exactly(self, preload):
        process, made = self.serve(**({"LD_PRELOAD": harness.LIBRARY} if preload else {}))
        before = self.connections(process)
        document = self.reap(process, OLDER, "--yes")
        self.assertEqual(self.results(document, made), dict.fromkeys(LEAKED, "destroyed") | {"reset": "left"})
        gone = {(made["local"][kind], made["peer"][kind]) for kind in LEAKED}
        left = self.connections(process)
        # The peers' halves go, too: their FIN_WAIT2 ends by the reset.
        expected = {ends: state for ends, state in before.items()
                    if ends not in gone and (ends[1], ends[0]) not in gone}
        self.assertEqual(left, expected)
        for kind in LEAKED - {"data"}:
            told = self.order(process, f"use {made['fds'][kind]}")
            self.assertEqual(told, [select.POLLERR | select.POLLHUP, "b''", "ECONNABORTED"], kind)
        self.assertEqual(self.order(process, f"use {made['fds']['open']}"), [0, "EAGAIN", "1"])
        self.assertEqual(self.order(process, f"answer {made['fds']['half']}"), 1)
        self.assertEqual(self.order(process, "heard"), "!")
        return process, made

    def test_exactly_those_and_the_program_is_told(self):
        self.check_exactly(preload=True)

    def test_of_a_process_that_was_not_preloaded(self):
        self.check_exactly(preload=False)

    def test_data_that_was_not_read_can_still_be(self):
        process, made = self.serve()
        self.reap(process, OLDER, "--yes", "--verdict=data-unread")
        self.assertEqual(self.order(process, f"use {made['fds']['data']}"),
                         [select.POLLERR | select.POLLHUP, "b'hello'", "ECONNABORTED"])

    def test_a_second_time_there_is_nothing_to_do(self):
        process, made = self.serve()
        self.reap(process, OLDER, "--yes")
        document = self.reap(process, OLDER, "--yes")
        self.assertEqual(set(self.results(document, made).values()) - {"left"}, set())

    def test_how_long_they_are_dead_is_told_as_a_bound(self):
        """End of stream was read while they were in CLOSE_WAIT: it does not tell when they died."""
        process, made = self.serve(LD_PRELOAD=harness.LIBRARY)
        self.reap(process, OLDER, "--yes")
        text = sockleak("dump", process.pid).stdout
        self.assertRegex(text, rf"fd {made['fds']['eof']} .*   dead for at most \d")
        self.assertNotRegex(text, r"dead for \d")
        text = sockleak("reap", OLDER, process.pid).stdout
        self.assertRegex(text, rf"(?m)^left +fd {made['fds']['eof']}  .* CLOSE for at most \d")

    def test_the_descriptors_stay(self):
        process, made = self.serve()
        before = sorted(os.listdir(f"/proc/{process.pid}/fd"))
        self.reap(process, OLDER, "--yes")
        self.assertEqual(sorted(os.listdir(f"/proc/{process.pid}/fd")), before)

    def test_another_processs_sockets_are_left_alone(self):
        one, made = self.serve()
        other = self.start("nsenter", "-t", str(one.pid), "-n", PYTHON, stock.script, stderr=subprocess.DEVNULL)
        theirs = json.loads(other.stdout.readline())
        wait_until(lambda: min(self.ages(other, theirs).values()) > AGE_MS, "an age in CLOSE_WAIT")
        self.reap(one, OLDER, "--yes")
        states = self.connections(one)
        for kind in LEAKED:
            self.assertEqual(states.get((theirs["local"][kind], theirs["peer"][kind])), "CLOSE-WAIT", kind)
            self.assertNotIn((made["local"][kind], made["peer"][kind]), states)

    def test_what_a_child_has_too_is_left_unless_asked_for(self):
        process, made = self.serve()
        child = self.order(process, "fork")
        self.addCleanup(os.kill, child, 9)
        document = self.reap(process, OLDER, "--yes")
        self.assertEqual(set(self.results(document, made).values()), {"left"})
        self.assertIn(f"process {child} (", document["sockets"][0]["why"] + document["sockets"][-1]["why"])
        document = self.reap(process, OLDER, "--yes", "--shared")
        self.assertEqual(self.results(document, made), dict.fromkeys(LEAKED, "destroyed") | {"reset": "left"})

    def test_a_listed_socket_that_is_closed_meanwhile_is_gone(self):
        """Stopped between its list and its deed, by a debugger's breakpoint."""
        if not shutil.which("gdb") or harness.is_sanitized():
            self.skipTest("no gdb")
        process, made = self.serve()
        script = self.write("gdb.py", f"""
import gdb, os
gdb.execute("set breakpoint pending on")
gdb.execute("set debuginfod enabled off")
gdb.Breakpoint("reap_destroy")
gdb.execute("run")
open({self.path('stopped')!r}, "w").close()
with open({self.path('go')!r}) as go:
    go.read()
gdb.execute("continue")
""")
        os.mkfifo(self.path("go"))
        debugger = self.start("gdb", "-q", "-nx", "-batch", "-x", script, "--args", SOCKLEAK, "reap",
                              "--format=json", OLDER, "--yes", str(process.pid), stderr=subprocess.PIPE)
        wait_until(lambda: os.path.exists(self.path("stopped")) or debugger.poll() is not None, "the breakpoint")
        self.order(process, f"close {made['fds']['fin']}")
        self.order(process, f"answer {made['fds']['eof6']}")
        with open(self.path("go"), "w", encoding="ascii"):
            pass
        out, errors = debugger.communicate(timeout=harness.DEADLINE_S)
        if '"schema"' not in out:
            self.skipTest(f"gdb cannot run it here: {errors[-200:]}")
        document = json.loads(out[out.index("{\n"):out.rindex("\n}") + 2])
        results = self.results(document, made)
        self.assertEqual({k: results[k] for k in ("eof", "data", "fin")},
                         {"eof": "destroyed", "data": "destroyed", "fin": "gone"})
        # Its answer had none to hear it: a reset ended it, and there is nothing to destroy.
        self.assertEqual(results["eof6"], "gone")


class Mistakes(harness.TestCase):
    def check(self, status, pattern, *arguments):
        done = sockleak("reap", *arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""))
        self.assert_one_line(done.stderr, pattern)

    def test_usage(self):
        self.check(2, "which process", OLDER)
        self.check(2, "how old must a socket be", os.getpid())
        self.check(2, "'x' is no process id", OLDER, "x")
        self.check(2, "'2' is too much", OLDER, "1", "2")
        self.check(2, "--yes and --dry-run contradict", OLDER, "--yes", "--dry-run", os.getpid())
        self.check(2, "'nonsense' is none of eof-ignored", OLDER, "--verdict=nonsense", os.getpid())
        self.check(2, "is open is no leak, and is left alone", OLDER, "--verdict=open", os.getpid())
        self.check(2, "--older soon: is not a time", "--older=soon", os.getpid())

    def test_no_such_process(self):
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            self.check(1, "no process ", OLDER, int(file.read()))

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root, to be somebody else")
    def test_without_the_capability_it_names_it(self):
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        shutil.copy(SOCKLEAK, place)
        as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
        process = self.start(*as_nobody, PYTHON, self.write("leaker.py", harness.LEAKER), "fin=1")
        port = int(process.stdout.readline())
        wait_until(lambda: min(harness.close_wait_of_ss(port).values(), default=0) > AGE_MS, "an age")
        for yes, status, pattern in (([], 0, "1 socket of process .* would be destroyed"),
                                     (["--yes"], 1, "0 sockets of process .* destroyed, 1 not")):
            done = subprocess.run([*as_nobody, place + "/sockleak", "reap", OLDER, *yes, str(process.pid)],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, status)
            self.assertRegex(done.stdout, pattern)
            self.assert_one_line(done.stderr, "needs CAP_NET_ADMIN .*as root")
        self.assertEqual(len(harness.close_wait_of_ss(port)), 1)

    @unittest.skipUnless(may_make_namespaces() and shutil.which("setpriv"), "needs root")
    def test_another_namespace_without_the_right_names_the_remedy(self):
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        shutil.copy(SOCKLEAK, place)
        as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
        process = self.start("unshare", "-n", *as_nobody, PYTHON, "-c", "import time; print(flush=True); time.sleep(60)")
        process.stdout.readline()
        done = subprocess.run([*as_nobody, place + "/sockleak", "reap", OLDER, "--yes", str(process.pid)],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assert_one_line(done.stderr, "another network namespace .*as root")


class Memory(Case):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        process, _ = self.serve(LD_PRELOAD=harness.LIBRARY)
        for arguments in ([], ["--yes"]):
            done = subprocess.run(
                ["valgrind", "-q", "--leak-check=full", "--error-exitcode=99", SOCKLEAK, "reap", OLDER, *arguments,
                 str(process.pid)], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    harness.main()
