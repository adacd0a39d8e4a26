"""sockleak scan: the machine's sockets in CLOSE_WAIT and TIME_WAIT, compared with ss."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness
from harness import PYTHON, SOCKLEAK, sockleak, wait_until

IS_ROOT = os.geteuid() == 0


def scan(*options, **more):
    done = sockleak("scan", "--json", *options, **more)
    assert done.returncode in (0, 23), done.stderr
    return json.loads(done.stdout)


class CloseWait(harness.TestCase):
    def test_counts_and_ages_are_those_of_ss(self):
        process, port = self.leaker("eof=5", "fin=7", "data=3")
        wait_until(lambda: len(harness.close_wait_of_ss(port)) == 15, "all FINs")
        self.assert_ages_are_those_of_ss(port, lambda: harness.ages_by_ports(
            scan("--port", port)["processes"][0]["sockets"]))
        (told,) = scan("--port", port)["processes"]
        self.assertEqual(told["pid"], process.pid)
        self.assertEqual((told["close_wait"], told["eof_read"], told["eof_unread"]), (15, 5, 10))
        self.assertEqual((told["data_unread"], told["unread_bytes"]), (3, 15))

    def test_sockets_are_those_of_the_process(self):
        process, _ = self.leaker("fin=4")
        (told,) = scan("--pid", process.pid)["processes"]
        self.assertEqual(len(told["sockets"]), 4)
        for each in told["sockets"]:
            for fd in each["fds"]:
                self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{fd}"), f"socket:[{each['inode']}]")
            self.assertEqual(each["state"], "CLOSE_WAIT")

    def test_accepted_ones_are_grouped_by_the_peers_address(self):
        process, port = self.leaker("fin=4")
        (told,) = scan("--pid", process.pid)["processes"]
        self.assertEqual([(p["peer"], p["local_port"], p["count"]) for p in told["peers"]],
                         [("127.0.0.1", port, 4)])

    def test_connected_ones_are_grouped_by_where_they_went(self):
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        process = self.start(PYTHON, "-c", f"""
import socket, sys
kept = [socket.create_connection(("127.0.0.1", {port})) for _ in range(3)]
print(flush=True); sys.stdin.readline()
""")
        for _ in range(3):
            server.accept()[0].close()
        process.stdout.readline()
        (told,) = scan("--pid", process.pid)["processes"]
        self.assertEqual([(p["peer"], p["local_port"], p["count"]) for p in told["peers"]],
                         [(f"127.0.0.1:{port}", None, 3)])

    def test_what_hurts_most_comes_first(self):
        small, _ = self.leaker("fin=1")
        large, _ = self.leaker("fin=6")
        pids = [p["pid"] for p in scan()["processes"]]
        self.assertLess(pids.index(large.pid), pids.index(small.pid))

    def test_older(self):
        process, port = self.leaker("fin=2")
        self.assertEqual(scan("--port", port, "--older=1h")["processes"], [])
        time.sleep(0.3)
        self.assertEqual(scan("--port", port, "--older=200ms")["summary"]["close_wait"], 2)

    def test_ipv6(self):
        process = self.start(PYTHON, "-c", """
import socket, sys
server = socket.create_server(("::1", 0), family=socket.AF_INET6)
a = socket.create_connection(server.getsockname()[:2]); b, _ = server.accept(); a.close()
print(flush=True); sys.stdin.readline()
""")
        if not process.stdout.readline():
            self.skipTest("no IPv6")
        (told,) = scan("--pid", process.pid)["processes"]
        self.assertEqual(told["peers"][0]["peer"], "[::1]")

    def test_a_socket_that_a_child_shares_counts_once_in_the_sum(self):
        process = self.start(PYTHON, "-c", """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
a = socket.create_connection(server.getsockname()); b, _ = server.accept(); a.close()
if os.fork() == 0:
    sys.stdin.readline(); os._exit(0)
print(server.getsockname()[1], flush=True); sys.stdin.readline()
""")
        port = int(process.stdout.readline())
        document = scan("--port", port)
        self.assertEqual([p["close_wait"] for p in document["processes"]], [1, 1])
        self.assertEqual(document["summary"]["close_wait"], 1)

    @staticmethod
    def become_nobody():
        os.setgroups([])
        os.setuid(65534)

    def scan_as_nobody(self, *options):
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        shutil.copy(SOCKLEAK, place)
        return subprocess.run([place + "/sockleak", "scan", *map(str, options)], preexec_fn=self.become_nobody,
                              capture_output=True, text=True, check=True).stdout

    @unittest.skipUnless(IS_ROOT, "needs root, to be somebody else")
    def test_sockets_of_others_are_counted_though_their_process_is_not_known(self):
        _, port = self.leaker("fin=3")
        document = json.loads(self.scan_as_nobody("--json", "--port", port))
        self.assertEqual([(p["pid"], p["uid"], p["close_wait"]) for p in document["processes"]], [(None, 0, 3)])
        self.assertGreater(document["summary"]["processes_not_readable"], 0)

    @unittest.skipUnless(IS_ROOT, "needs root, to be somebody else")
    def test_a_process_that_is_not_known_is_not_counted(self):
        for count, sum_up in ((3, "3 sockets in CLOSE_WAIT, whose processes may not be looked at, "),
                              (1, "1 socket in CLOSE_WAIT, whose process may not be looked at, ")):
            _, port = self.leaker(f"fin={count}")
            self.assertRegex(self.scan_as_nobody("--port", port), f"(?m)^{sum_up}the oldest for")

    @unittest.skipUnless(IS_ROOT, "needs root, to be somebody else")
    def test_processes_that_are_known_are_told_from_those_that_are_not(self):
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        client = f"""
import socket, sys
kept = [socket.create_connection(("127.0.0.1", {port})) for _ in range(int(sys.argv[1]))]
print(flush=True); sys.stdin.readline()
"""
        for count, options in ((2, {"preexec_fn": self.become_nobody}), (3, {})):
            process = self.start(PYTHON, "-c", client, str(count), **options)
            accepted = [server.accept()[0] for _ in range(count)]
            process.stdout.readline()
            for each in accepted:
                each.close()
        self.assertRegex(self.scan_as_nobody("--port", port), r"(?m)^5 sockets in CLOSE_WAIT, 2 in 1 process "
                         r"and 3 whose processes may not be looked at, the oldest for")

    @unittest.skipUnless(harness.may_make_mounts(), "may not make a /proc with no process of others")
    def test_a_socket_that_is_on_its_way_is_nobodys(self):
        done = subprocess.run(["unshare", "-fp", "--mount-proc", PYTHON, "-c", """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
ways = socket.socketpair()
sent = socket.create_connection(server.getsockname())
accepted = server.accept()[0]
socket.send_fds(ways[0], [b"x"], [sent.fileno()])
sent.close()
accepted.close()
subprocess.run([sys.argv[1], "scan", "--port", str(server.getsockname()[1])], check=True)
""", SOCKLEAK], capture_output=True, text=True, check=True)
        self.assertRegex(done.stdout, r"(?m)^1 socket in CLOSE_WAIT, whose process is not known, the oldest for")

    @unittest.skipUnless(IS_ROOT and shutil.which("setpriv"), "needs root, and setpriv")
    def test_a_process_with_more_rights_is_not_taken_for_one_without_sockets(self):
        process, port = self.leaker("fin=3")
        fewer = ["setpriv", "--bounding-set=-sys_admin,-sys_ptrace", "--inh-caps=-sys_admin,-sys_ptrace"]
        done = subprocess.run([*fewer, SOCKLEAK, "scan", "--json", "--port", str(port)],
                              capture_output=True, text=True, check=True)
        document = json.loads(done.stdout)
        self.assertEqual([(p["pid"], p["close_wait"]) for p in document["processes"]], [(None, 3)])
        self.assertGreater(document["summary"]["processes_not_readable"], 0)
        done = subprocess.run([*fewer, SOCKLEAK, "scan", "--port", str(port)],
                              capture_output=True, text=True, check=True)
        self.assertRegex(done.stdout, r"may not be looked at: whose the sockets are is not known\n")
        done = subprocess.run([*fewer, SOCKLEAK, "scan", "--pid", str(process.pid)],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assert_one_line(done.stderr, f"process {process.pid} may not be looked at")

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare") and shutil.which("ip"), "needs root")
    def test_other_network_namespaces_are_looked_at_by_root(self):
        script = self.write("leaker.py", harness.LEAKER)
        process = self.start("unshare", "-n", "sh", "-c", f"ip link set lo up; exec {PYTHON} {script} fin=2")
        process.stdout.readline()
        told = [p for p in scan()["processes"] if p["pid"] == process.pid]
        self.assertEqual([p["close_wait"] for p in told], [2])


class AcceptQueue(harness.TestCase):
    """A program that does not come to accept(): its clients give up, and netstat shows CLOSE_WAIT."""

    HUNG = """
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", int(sys.argv[1]))); server.listen(64)
print(server.getsockname()[1], flush=True)
kept = [server.accept() for _ in range(int(sys.stdin.readline()))]
print(flush=True); sys.stdin.readline()
"""

    def hung_server(self, port=0):
        process = self.start(PYTHON, "-c", self.HUNG, str(port))
        return process, int(process.stdout.readline())

    def give_up(self, port, count):
        for _ in range(count):
            socket.create_connection(("127.0.0.1", port)).close()
        harness.wait_until(lambda: scan("--port", port)["summary"]["not_accepted"] >= count, "the FINs")

    @unittest.skipUnless(shutil.which("ss"), "no ss")
    def test_count_is_that_of_ss(self):
        process, port = self.hung_server()
        self.give_up(port, 7)
        listed = subprocess.run(["ss", "-Htn", "state", "close-wait", f"sport = :{port}"],
                                capture_output=True, text=True, check=True).stdout
        document = scan("--port", port)
        self.assertEqual(document["summary"]["close_wait"], len(listed.splitlines()))
        (told,) = document["processes"]
        self.assertEqual((told["pid"], told["close_wait"], told["not_accepted"], told["eof_unread"]),
                         (process.pid, 7, 7, 7))
        self.assertEqual([(p["peer"], p["local_port"], p["count"], p["in_accept_queue"]) for p in told["peers"]],
                         [("127.0.0.1", port, 7, True)])
        for each in told["sockets"]:
            self.assertEqual((each["inode"], each["fds"], each["accepted"]), (None, [], False))
        self.assertEqual(scan("--pid", process.pid)["processes"][0]["not_accepted"], 7)

    def test_accepted_ones_are_told_apart(self):
        process, port = self.hung_server()
        self.give_up(port, 5)
        process.stdin.write("2\n")
        process.stdin.flush()
        process.stdout.readline()
        (told,) = scan("--port", port)["processes"]
        self.assertEqual((told["close_wait"], told["not_accepted"]), (5, 3))
        self.assertEqual(sorted((p["count"], p["in_accept_queue"]) for p in told["peers"]), [(2, False), (3, True)])

    @unittest.skipUnless(shutil.which("ss"), "no ss")
    def test_of_two_that_share_the_port_it_is_the_one_whose_queue_it_is(self):
        first, port = self.hung_server()
        second, _ = self.hung_server(port)
        self.give_up(port, 12)
        told = {p["pid"]: p["not_accepted"] for p in scan("--port", port)["processes"]}
        self.assertEqual(sum(told.values()), 12)
        queued = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=True)
        for line in queued.stdout.splitlines():
            (pid,) = (p for p in (first.pid, second.pid) if f"pid={p}," in line)
            self.assertEqual(told.get(pid, 0), int(line.split()[1]), queued.stdout)

    def test_table(self):
        process, port = self.hung_server()
        self.give_up(port, 3)
        done = sockleak("scan", "--port", port)
        self.assertRegex(done.stdout, rf"(?m)^ +3 +[\d.]+ m?s +0 +3 +0 +{process.pid} ")
        self.assertRegex(done.stdout, rf"on port {port} from 127\.0\.0\.1, not accepted yet")
        self.assertRegex(done.stdout, r"(?m)^3 of them not accepted yet: they wait for their program to call accept$")


class TimeWait(harness.TestCase):
    def server_on_a_fresh_port(self):
        """On one that nothing in TIME_WAIT had: the kernel gives a port again within that minute."""
        while True:
            server = socket.create_server(("127.0.0.1", 0), backlog=64)
            self.addCleanup(server.close)
            port = server.getsockname()[1]
            if scan("--port", port)["summary"]["time_wait"] == 0:
                return server, port

    def test_share_of_the_ports_is_per_destination(self):
        server, port = self.server_on_a_fresh_port()
        for _ in range(20):  # who closes first gets TIME_WAIT: here the client
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            client.close()
            accepted.recv(1)
            accepted.close()
        document = scan("--port", port)
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = map(int, file.read().split())
        (told,) = document["time_wait"]
        self.assertEqual((told["peer"], told["local"], told["count"]), (f"127.0.0.1:{port}", "127.0.0.1", 20))
        self.assertEqual(told["ports"], last - first + 1)
        self.assertAlmostEqual(told["share"], 20 / (last - first + 1))
        self.assertEqual(document["port_range"], [first, last])
        self.assertEqual(document["summary"]["time_wait"], 20)

    ASKING = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
for _ in range(20):
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    client.close()
    accepted.close()
server.close()
print(flush=True); sys.stdin.readline()
"""

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare") and shutil.which("ip"), "needs root")
    def test_each_network_namespace_has_its_own_ports(self):
        server, port = self.server_on_a_fresh_port()
        server.close()
        for _ in range(2):
            script = self.write("asking.py", self.ASKING)
            self.start("unshare", "-n", "sh", "-c", f"ip link set lo up; exec {PYTHON} {script} {port}").stdout.readline()
        told = [each["count"] for each in scan("--port", port)["time_wait"] if each["peer"] == f"127.0.0.1:{port}"]
        self.assertEqual(told, [20, 20])

    MANY = """
import socket, subprocess, sys
server = socket.create_server(("0.0.0.0", 0))
for number in range(6000):
    address = "127.1.%d.%d" % (number // 250, number % 250 + 1), server.getsockname()[1]
    client = socket.create_connection(address)
    accepted, _ = server.accept()
    client.close()
    accepted.close()
server.close()
sys.exit(subprocess.call(sys.argv[1:]))
"""

    @unittest.skipUnless(IS_ROOT and shutil.which("unshare") and shutil.which("ip"), "needs root")
    def test_many_destinations_are_no_trouble(self):
        script = self.write("many.py", self.MANY)
        done = subprocess.run(
            ["unshare", "-n", "sh", "-c", f"ip link set lo up; exec {PYTHON} {script} {SOCKLEAK} scan --json"],
            env=harness.clean_environment(), capture_output=True, text=True, timeout=60, check=True)
        told = [each for each in json.loads(done.stdout)["time_wait"] if each["peer"].startswith("127.1.")]
        self.assertEqual((len(told), {each["count"] for each in told}), (6000, {1}))

    def test_accepted_connections_take_no_ports(self):
        server, port = self.server_on_a_fresh_port()
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()
            client.recv(1)
            client.close()
        document = scan("--port", port)
        self.assertEqual(document["time_wait"], [])
        self.assertEqual(document["summary"]["time_wait"], 5)

    def test_of_a_process_there_is_none(self):
        process, port = self.leaker("fin=1")
        document = scan("--pid", process.pid)
        self.assertEqual((document["time_wait"], document["summary"]["time_wait"]), (None, None))
        self.assertNotIn("TIME_WAIT", sockleak("scan", "--pid", process.pid, "--port", port).stdout)

    def test_of_a_port_it_is_named(self):
        self.assertRegex(sockleak("scan", "--port", 1).stdout, r"(?m)^0 in TIME_WAIT of port 1(;|$)")
        self.assertRegex(sockleak("scan").stdout, r"(?m)^\d+ in TIME_WAIT(;|$)")


class Command(harness.TestCase):
    def test_table(self):
        process, port = self.leaker("eof=1", "fin=2", "data=1")
        done = sockleak("scan", "--port", port)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"(?m)^ +4 +[\d.]+ m?s +1 +3 +1 +%d +\w+ +%s .*leaker" % (process.pid, PYTHON))
        self.assertRegex(done.stdout, rf"on port {port} from 127\.0\.0\.1")
        self.assertRegex(done.stdout, r"(?m)^4 sockets in CLOSE_WAIT in 1 process, the oldest for")

    def test_each_number_stands_below_its_heading(self):
        process, port = self.leaker("eof=4", "fin=2", "data=1")
        heading, row = sockleak("scan", "--port", port).stdout.splitlines()[:2]
        for name, number in (("CLOSE_WAIT", 7), ("EOF READ", 4), ("EOF UNREAD", 3), ("DATA", 1), ("PID", process.pid)):
            end = re.search(rf"(^|  ){name}(?=  )", heading).end()
            self.assertEqual(row[:end].rsplit(" ", 1)[1], str(number), f"{heading}\n{row}")

    def test_fail_older(self):
        process, port = self.leaker("fin=1")
        time.sleep(0.3)
        for limit, status in (("100ms", 23), ("1h", 0)):
            self.assertEqual(sockleak("scan", "--port", port, f"--fail-older={limit}").returncode, status)

    def test_fail_older_judges_what_older_leaves_out_too(self):
        process, port = self.leaker("fin=2", "data=1")
        time.sleep(0.3)
        for which in (["--port", port], ["--pid", process.pid]):
            for limit, status in (("100ms", 23), ("1h", 0)):
                done = sockleak("scan", *which, "--older=30m", f"--fail-older={limit}")
                self.assertEqual(done.returncode, status, which)
                self.assertRegex(done.stdout, r"\A0 sockets in CLOSE_WAIT\n"
                                 r"3 younger than --older are left out, the oldest for [\d.]+ m?s\n")
            document = scan(*which, "--older=30m", "--fail-older=100ms")
            self.assertEqual((document["processes"], document["summary"]["younger"]), ([], 3))
            self.assertEqual(scan(*which)["summary"]["younger"], 0)

    def test_nothing_to_fail_for(self):
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        self.assertEqual(sockleak("scan", "--port", port, "--fail-older=0").returncode, 0)

    def test_watch_ends_when_something_is_too_old(self):
        process, port = self.leaker("fin=1")
        begin = time.monotonic()
        done = sockleak("scan", "--json", "--watch=0.2", "--port", port, "--fail-older=1s")
        self.assertEqual(done.returncode, 23)
        self.assertLess(time.monotonic() - begin, 10)
        documents = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertGreater(len(documents), 1)

    def test_watch_goes_on_until_it_is_ended(self):
        watch = self.start(SOCKLEAK, "scan", "--json", "--watch=0.1")
        for _ in range(3):
            json.loads(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(harness.DEADLINE_S), -signal.SIGINT)

    def test_no_such_process(self):
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            pid = int(file.read())
        done = sockleak("scan", "--pid", pid)
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, f"no process {pid}")

    @unittest.skipUnless(harness.valgrind_can_run(), "no valgrind, or a sanitized build")
    def test_valgrind_has_nothing_to_say(self):
        process, _ = self.leaker("eof=2", "fin=2")
        for options in ([], ["--json"], ["--pid", str(process.pid)], ["--older=1h"]):
            done = subprocess.run(
                ["valgrind", "-q", "--leak-check=full", "--error-exitcode=99", SOCKLEAK, "scan", *options],
                capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    harness.main()
