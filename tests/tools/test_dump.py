"""sockleak dump: live processes from outside, preloaded or not, and what cannot be looked at."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness
from harness import PYTHON, SOCKLEAK, findings, sockleak, wait_until

KINDS = ("eof=3", "fin=2", "data=1", "reset=1")
GRACE_S = 1.1  # a live process: what is in its state for less than a second is no leak yet
FIN_SLACK_MS = 20
IS_ROOT = os.geteuid() == 0


def dump_json(pid, *options):
    done = sockleak("dump", "--format=json", *options, pid)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Preloaded(harness.TestCase):
    def test_each_verdict_with_both_stacks(self):
        process, port = self.leaker(*KINDS, preload=True)
        time.sleep(GRACE_S)
        document = dump_json(process.pid)
        self.assertEqual(findings(document), [
            ("data-unread", 1), ("eof-ignored", 3), ("fin-unread", 2), ("reset-unclosed", 1)])
        (told,) = document["processes"]
        self.assertEqual((told["pid"], told["ppid"], told["ended"]), (process.pid, os.getpid(), "running"))
        for finding in told["findings"]:
            self.assertEqual(finding["birth"]["call"], "accept4")
            self.assertEqual(finding["end_of_stream"] is not None, finding["verdict"] == "eof-ignored")
            for each in finding["sockets"]:
                self.assertEqual(each["local"], f"127.0.0.1:{port}")
                link = os.readlink(f"/proc/{process.pid}/fd/{each['fds'][0]}")
                self.assertEqual(link, f"socket:[{each['inode']}]")
                self.assertEqual(each["recv_queue"], 5 if finding["verdict"] == "data-unread" else 0)

    def test_ages_are_the_kernels(self):
        process, port = self.leaker("eof=2", "fin=2", preload=True)
        time.sleep(GRACE_S)
        self.assert_ages_are_those_of_ss(port, lambda: harness.ages_by_ports(
            s for f in dump_json(process.pid)["processes"][0]["findings"] for s in f["sockets"]))

    def test_ages_are_right_also_where_others_have_the_processor(self):
        """What the kernel says is old before the command gets to look at the clock."""
        process, _ = self.leaker("fin=40", preload=True)
        time.sleep(GRACE_S)
        processor = min(os.sched_getaffinity(0))

        def share_processor(nice):
            os.sched_setaffinity(0, {processor})
            os.nice(nice)
        for _ in range(2):
            self.start(PYTHON, "-c", "while True: pass", preexec_fn=lambda: share_processor(0))
        fins = {}
        for _ in range(6):
            done = sockleak("dump", "--format=json", "--max-sockets=40", process.pid,
                            preexec_fn=lambda: share_processor(5))
            for each in json.loads(done.stdout)["processes"][0]["findings"][0]["sockets"]:
                (fin,) = [event for event in each["teardown"] if event["what"] == "peer-fin"]
                fins.setdefault(each["inode"], []).append(fin["at_epoch_ms"])
        self.assertEqual(len(fins), 40)
        for seen in fins.values():
            self.assertLessEqual(max(seen) - min(seen), FIN_SLACK_MS, seen)

    def test_the_process_goes_on_untouched(self):
        process, _ = self.leaker("eof=1", preload=True)
        wait_until(lambda: self.view(process.pid)[0]["State"] == "S (sleeping)")
        before = self.view(process.pid)
        for _ in range(5):
            dump_json(process.pid)
        self.assertEqual(self.view(process.pid), before)
        process.stdin.write("7\n")
        process.stdin.flush()
        self.assertEqual(process.wait(harness.DEADLINE_S), 7)

    @staticmethod
    def view(pid):
        """What a stop, a signal or a tracer would show in."""
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        kept = ("State", "TracerPid", "SigPnd", "ShdPnd", "voluntary_ctxt_switches")
        fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        return {name: lines[name].strip() for name in kept}, fds

    def test_sockets_closed_since_are_not_told(self):
        process = self.start(PYTHON, "-c", """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
a = socket.create_connection(server.getsockname()); b, _ = server.accept(); a.close(); b.recv(1)
print(b.fileno(), flush=True); sys.stdin.readline(); b.close(); print("closed", flush=True); sys.stdin.readline()
""", env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        process.stdout.readline()
        time.sleep(GRACE_S)
        self.assertEqual(findings(dump_json(process.pid)), [("eof-ignored", 1)])
        process.stdin.write("\n"), process.stdin.flush(), process.stdout.readline()
        self.assertEqual(findings(dump_json(process.pid)), [])

    def test_a_reset_behind_the_programs_own_shutdown_is_no_proper_end(self):
        """Also where the program was not told: the error still waits in the socket, as poll sees."""
        process = self.start(PYTHON, "-c", """
import socket, struct, sys
server = socket.create_server(("127.0.0.1", 0))
def pair():
    client = socket.create_connection(server.getsockname()); return client, server.accept()[0]
reset, peer = pair(); reset.shutdown(socket.SHUT_WR)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); peer.close()
ended, peer = pair(); ended.shutdown(socket.SHUT_WR); peer.close()
print(reset.fileno(), ended.fileno(), flush=True); sys.stdin.readline()
""", env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        reset, ended = map(int, process.stdout.readline().split())
        time.sleep(GRACE_S)
        fds = {socket["fds"][0]: finding["verdict"]
               for finding in dump_json(process.pid)["processes"][0]["findings"]
               for socket in finding["sockets"]}
        self.assertEqual(fds, {reset: "reset-unclosed", ended: "shutdown-unclosed"})

    def test_a_process_of_run_is_dumped_too(self):
        script = self.write("leaker.py", harness.LEAKER)
        run = self.start(SOCKLEAK, "run", "-q", PYTHON, script, "fin=2")
        run.stdout.readline()
        with open(f"/proc/{run.pid}/task/{run.pid}/children", encoding="ascii") as file:
            pid = int(file.read())
        time.sleep(GRACE_S)
        self.assertEqual(findings(dump_json(pid)), [("fin-unread", 2)])
        run.communicate("0\n", harness.DEADLINE_S)  # killed, it would leave its directory behind

    def test_a_ledger_whose_file_was_truncated_says_so(self):
        """The process lives on, and what is open has no known origin."""
        script = self.write("leaker.py", harness.LEAKER)
        process = self.start(PYTHON, script, "eof=2", stderr=subprocess.PIPE, env=harness.clean_environment(
            LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS=f"ledger_dir={self.directory}"))
        process.stdout.readline()
        (name,) = [each for each in os.listdir(self.directory) if each.endswith(".ledger")]
        os.truncate(self.path(name), 0)
        process.send_signal(signal.SIGUSR1)
        while "file was truncated" not in process.stderr.readline():
            self.assertIsNone(process.poll())
        time.sleep(GRACE_S)
        done = sockleak("dump", process.pid)
        self.assertIn("its ledger's file was truncated", done.stdout)
        (finding,) = [f for p in dump_json(process.pid)["processes"] for f in p["findings"]]
        self.assertEqual((finding["verdict"], finding["birth"]["call"], finding["count"]), ("eof-ignored", "unknown", 2))
        self.assertFalse(os.path.exists(self.path(name)))
        done = sockleak("report", self.write(name, ""))
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, "empty: no ledger, or one that somebody has truncated")

    def test_a_program_that_was_renamed_while_it_runs_is_the_same(self):
        """As an upgrade does it: there was no exec that could have left a socket open."""
        name = shutil.copy(PYTHON, self.path("server"))
        script = self.write("leaker.py", harness.LEAKER)
        for options in ("", f"ledger_dir={self.directory}"):
            process = self.start(name, script, "eof=2", env=harness.clean_environment(
                LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS=options, PYTHONHOME="/usr"))
            process.stdout.readline()
            os.rename(name, name + ".old")
            time.sleep(GRACE_S)
            document = dump_json(process.pid)
            os.rename(name + ".old", name)
            (told,) = document["processes"]
            self.assertEqual(findings(document), [("eof-ignored", 2)])
            self.assertNotIn("inherited", told["findings"][0]["sockets"][0]["hints"])
            self.assertNotIn("exec", told["findings"][0]["cause_text"])

    def test_before_its_first_socket(self):
        process = self.start("cat", env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        # Loaded, it sleeps until there is something to read; what still loads waits for a disk, at most.
        wait_until(lambda: "libsockleak" in harness.read(f"/proc/{process.pid}/maps") and
                   self.view(process.pid)[0]["State"] == "S (sleeping)")
        document = dump_json(process.pid)
        self.assertEqual(document["summary"]["leaks"], 0)

    def test_a_library_that_was_replaced_since_is_no_trouble(self):
        library = self.path("libsockleak.so")
        shutil.copy(harness.LIBRARY, library)
        process, _ = self.leaker("fin=1", env=harness.clean_environment(LD_PRELOAD=library),
                                 stderr=subprocess.DEVNULL)
        os.unlink(library)
        self.write("libsockleak.so", "another build")
        time.sleep(GRACE_S)
        self.assertEqual(findings(dump_json(process.pid)), [("fin-unread", 1)])

    def test_status_is_0_unless_asked(self):
        process, _ = self.leaker("fin=1", preload=True)
        time.sleep(GRACE_S)
        self.assertEqual(sockleak("dump", process.pid).returncode, 0)
        self.assertEqual(sockleak("dump", "--fail-on=close-wait", process.pid).returncode, 23)
        self.assertEqual(sockleak("dump", "--exit-code=5", process.pid).returncode, 5)
        self.assertEqual(sockleak("dump", "--fail-on=dead", process.pid).returncode, 0)

    def test_a_young_state_is_no_leak_yet(self):
        process, _ = self.leaker("fin=1", preload=True)
        self.assertEqual(findings(dump_json(process.pid)), [])

    def test_the_grace_is_the_programs_also_where_that_is_none(self):
        script = self.write("leaker.py", harness.LEAKER)
        process = self.start(PYTHON, script, "fin=1", stderr=subprocess.DEVNULL, env=harness.clean_environment(
            LD_PRELOAD=harness.LIBRARY, SOCKLEAK_OPTIONS="grace_ms=0:exit_grace_ms=0"))
        process.stdout.readline()
        (finding,) = dump_json(process.pid)["processes"][0]["findings"]
        self.assertLess(finding["sockets"][0]["fin_age_ms"], 1000)

    def test_a_busy_process_is_read_at_any_moment(self):
        process = self.start(PYTHON, "-c", """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(flush=True)
while True:
    a = socket.create_connection(server.getsockname()); b, _ = server.accept(); a.close(); b.recv(1); b.close()
""", env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        process.stdout.readline()
        for _ in range(30):
            document = dump_json(process.pid)
            self.assertEqual(document["summary"]["leaks"], 0)


class Bare(harness.TestCase):
    def test_the_kernels_view_and_what_preloading_would_add(self):
        process, _ = self.leaker(*KINDS)
        time.sleep(GRACE_S)
        done = sockleak("dump", process.pid)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, "6 sockets left in CLOSE_WAIT and 1 socket dead")
        self.assertRegex(done.stdout, "of 6 sockets in CLOSE_WAIT, end of stream was read on 3 .* not on 3")
        self.assertRegex(done.stdout, "not started with sockleak")
        self.assertRegex(done.stdout, "Started by 'sockleak run -- COMMAND', it would also tell which code")
        document = dump_json(process.pid)
        self.assertEqual(document["summary"]["leaks"], 7)
        self.assertEqual(findings(document), [
            ("data-unread", 1), ("eof-ignored", 3), ("fin-unread", 2), ("reset-unclosed", 1)])
        for finding in document["processes"][0]["findings"]:
            self.assertEqual((finding["birth"]["call"], finding["end_of_stream"]), ("unknown", None))

    def test_sockets_that_never_were_connected_are_not_called_dead(self):
        process = self.start(PYTHON, "-c", """
import socket, sys
new = socket.socket()
refused = socket.socket()
try: refused.connect(("127.0.0.1", 1))
except OSError: pass
bound = socket.socket(); bound.bind(("127.0.0.1", 0))
pair = socket.socketpair(); datagram = socket.socket(type=socket.SOCK_DGRAM)
print(flush=True); sys.stdin.readline()
""")
        process.stdout.readline()
        time.sleep(GRACE_S)
        self.assertEqual(findings(dump_json(process.pid)), [])


class AcceptQueue(harness.TestCase):
    SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=64)
for _ in range(4):
    socket.create_connection(server.getsockname()).close()
print(flush=True); sys.stdin.readline()
"""

    def test_what_waits_for_an_accept_is_told_of_a_process_watched_or_not(self):
        for environment in ({}, {"LD_PRELOAD": harness.LIBRARY}):
            process = self.start(PYTHON, "-c", self.SERVER, env=harness.clean_environment(**environment))
            process.stdout.readline()
            note = f"4 more in CLOSE_WAIT not accepted yet: they wait for process {process.pid} to call accept"
            self.assertIn(note, sockleak("dump", process.pid).stdout)
            self.assertIn(note, dump_json(process.pid)["notes"])


class Nginx(harness.TestCase):
    """A worker whose clients went away while it waits for an upstream that never answers."""

    CLIENTS = 3
    CONFIG = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        proxy_ignore_client_abort on;
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""

    def setUp(self):
        super().setUp()
        self.nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if not self.nginx:
            self.skipTest("nginx is not installed")

    def serve(self, **env):
        """A live nginx with its clients gone: the worker's id and the port that it listens on."""
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = self.write("nginx.conf", self.CONFIG.format(
            directory=self.directory, port=port, upstream=silent.getsockname()[1]))
        master = self.start(self.nginx, "-p", self.directory, "-c", config, "-e", self.path("start.log"),
                            env=harness.clean_environment(**env), stderr=subprocess.DEVNULL)
        children = f"/proc/{master.pid}/task/{master.pid}/children"
        wait_until(lambda: os.path.exists(self.path("nginx.pid")) and harness.read(children), "a worker")
        self.addCleanup(master.wait)
        self.addCleanup(master.terminate)
        for _ in range(self.CLIENTS):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            silent.accept()[0].detach()  # open to the end of the test
            client.close()
        wait_until(lambda: len(harness.close_wait_of_ss(port)) == self.CLIENTS, "clients gone")
        time.sleep(GRACE_S)
        return int(harness.read(children)), port

    def check(self, pid, port):
        (finding,) = dump_json(pid)["processes"][0]["findings"]
        self.assertEqual((finding["verdict"], finding["count"]), ("fin-unread", self.CLIENTS))
        self.assert_ages_are_those_of_ss(port, lambda: harness.ages_by_ports(
            dump_json(pid)["processes"][0]["findings"][0]["sockets"]))
        return finding

    def test_preloaded(self):
        pid, port = self.serve(LD_PRELOAD=harness.LIBRARY)
        finding = self.check(pid, port)
        self.assertEqual(finding["birth"]["call"], "accept4")
        frame = finding["birth"]["stack"][0]
        self.assertEqual(os.path.realpath(frame["module"]), os.path.realpath(self.nginx))

    def test_not_preloaded(self):
        finding = self.check(*self.serve())
        self.assertEqual(finding["birth"]["call"], "unknown")


class Roots(harness.TestCase):
    PROGRAM = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef PADDING
int padding(int a) { return a * 3 + 1; }
#endif
__attribute__((noinline)) int NAME(int listener) {
    int s = accept(listener, 0, 0);
    __asm__ volatile("");
    return s;
}
int main(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char c;
    int l = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
    bind(l, (struct sockaddr *)&a, len), listen(l, 1), getsockname(l, (struct sockaddr *)&a, &len);
    connect(s, (struct sockaddr *)&a, len);
    int kept = NAME(l);
    close(s);
    puts("ready"), fflush(stdout);
    return read(0, &c, 1) + kept;
}
"""

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare"), "needs root")
    def test_modules_are_those_that_the_process_sees(self):
        """Where its path is another file to us, without a build id to tell them apart."""
        flags = ("-O1", "-Wl,--build-id=none")
        os.mkdir(self.path("place"))
        inner = self.compile("inner", self.PROGRAM.replace("NAME", "of_the_container"), *flags)
        outer = self.compile("outer", self.PROGRAM.replace("NAME", "of_the_host"), "-DPADDING", *flags)
        shutil.copy(outer, self.path("place/server"))
        process = self.start(
            "unshare", "-m", "sh", "-c", f"mount -t tmpfs none {self.path('place')} && "
            f"cp {inner} {self.path('place/server')} && exec {self.path('place/server')}",
            env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        if process.stdout.readline() != "ready\n":
            self.skipTest("may not mount here")
        time.sleep(GRACE_S)
        (finding,) = dump_json(process.pid)["processes"][0]["findings"]
        self.assertEqual([f["function"] for f in finding["birth"]["stack"]][:2], ["of_the_container", "main"])


class Impossible(harness.TestCase):
    def check(self, pid, pattern, **options):
        done = sockleak("dump", pid, **options)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assert_one_line(done.stderr, pattern)

    def test_no_such_process(self):
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            self.check(int(file.read()), "^sockleak: no process ")

    def test_a_zombie(self):
        process = self.start("true")
        wait_until(lambda: ") Z " in harness.read(f"/proc/{process.pid}/stat"))
        self.check(process.pid, f"process {process.pid} has ended: its parent, {os.getpid()}, has not waited")

    @unittest.skipUnless(harness.may_make_mounts(), "needs root, and mounts")
    def test_numbers_of_another_pid_namespace(self):
        done = subprocess.run(["unshare", "-p", "-f", harness.SOCKLEAK, "dump", str(os.getpid())],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assert_one_line(done.stderr, "^sockleak: /proc is that of another pid namespace: mount this one's")

    @unittest.skipUnless(IS_ROOT, "needs root, to be somebody else")
    def test_another_users_process_names_the_remedy(self):
        def become_nobody():
            os.setgroups([])
            os.setuid(65534)

        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        shutil.copy(SOCKLEAK, place)
        done = subprocess.run([place + "/sockleak", "dump", str(os.getpid())], preexec_fn=become_nobody,
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, f"belongs to root: .*sudo sockleak dump {os.getpid()}")

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare"), "needs root")
    def test_another_network_namespace_is_entered_by_root(self):
        script = self.write("leaker.py", harness.LEAKER)
        up = "ip link set lo up" if shutil.which("ip") else "ifconfig lo up"
        process = self.start("unshare", "-n", "sh", "-c", f"{up}; exec {PYTHON} {script} fin=2",
                             env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY))
        process.stdout.readline()
        time.sleep(GRACE_S)
        self.assertEqual(findings(dump_json(process.pid)), [("fin-unread", 2)])

    @unittest.skipUnless(IS_ROOT and harness.may_make_mounts(), "needs root, and mounts")
    def test_in_another_pid_namespace_its_threads_are_not_taken_for_ended(self):
        """Its ledger has thread 1, which /proc has by another number here."""
        script = self.write("leaker.py", harness.LEAKER)
        process = self.start("unshare", "-pf", "--mount-proc", "--kill-child", PYTHON, script, "eof=2",
                             env=harness.clean_environment(LD_PRELOAD=harness.LIBRARY), stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(GRACE_S)
        pid = int(harness.read(f"/proc/{process.pid}/task/{process.pid}/children").split()[0])
        document = dump_json(pid)
        self.assertEqual(findings(document), [("eof-ignored", 2)])
        (finding,) = [f for p in document["processes"] for f in p["findings"]]
        self.assertEqual(finding["birth"]["call"], "accept4")
        self.assertNotIn("ended", finding["cause_text"] or "")

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare") and shutil.which("setpriv"), "needs root")
    def test_another_network_namespace_without_the_right_names_the_remedy(self):
        script = self.write("sleeper.py", "import os, time\nprint(flush=True)\ntime.sleep(60)\n")
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        shutil.copy(SOCKLEAK, place)
        process = self.start("unshare", "-n", "setpriv", "--reuid=65534", "--clear-groups", PYTHON, script)
        process.stdout.readline()
        done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", place + "/sockleak", "dump",
                               str(process.pid)], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, "another network namespace .*as root")


class Memory(harness.TestCase):
    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        for preload in (True, False):
            process, _ = self.leaker(*KINDS, preload=preload)
            for arguments in (["dump", str(process.pid)], ["dump", "999999999"]):
                done = subprocess.run(
                    ["valgrind", "-q", "--leak-check=full", "--error-exitcode=99", SOCKLEAK, *arguments],
                    capture_output=True, text=True, check=False)
                self.assertNotEqual(done.returncode, 99, done.stderr)


if __name__ == "__main__":
    harness.main()
