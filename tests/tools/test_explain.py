"""Why a socket was not closed: --explain, causes and holders, in `run`, `report` and `dump`.

The truth is the test programs' own: who closed first, which thread waits where, who else holds it.
"""

import json
import os
import re
import subprocess
import time
import unittest

import harness
from harness import BUILD, EXAMPLES, LIBRARY, PYTHON, clean_environment, sockleak, wait_until

START = r"""
import os, socket, subprocess, sys, threading, time
server = socket.create_server(("127.0.0.1", 0))
def connect():
    client = socket.create_connection(server.getsockname())
    return client, server.accept()[0]
def wait():
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""

# A worker reads end of stream of one connection, and then waits for ever in a recv of an older one.
BLOCKED = START + r"""
other, older = connect()
client, kept = connect()
client.close()
def work():
    while kept.recv(10):
        pass
    older.recv(10)
worker = threading.Thread(target=work, daemon=True)
worker.start()
time.sleep(0.1)
print(worker.native_id, older.fileno(), flush=True)
wait()
"""

# Reads end of stream and goes on to the next connection.
FORGOTTEN = START + r"""
kept = []
for i in range(5):
    client, connection = connect()
    client.close()
    connection.recv(1)
    if i % 2:
        connection.close()
    else:
        kept.append(connection)
wait()
"""

# A child has the connection, too: it was started without close_fds.
HELD = START + r"""
client, kept = connect()
os.set_inheritable(kept.fileno(), True)
client.close()
kept.recv(1)
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, kept.fileno(), flush=True)
wait()
child.kill()
"""

SHUT_FIRST = START + r"""
client, kept = connect()
kept.shutdown(socket.SHUT_WR)
client.recv(1)
client.close()
kept.recv(1)
time.sleep(0.3)
os._exit(0)
"""

# A call site that shuts down so many that only some are asked for: see RECORD_FIN_ASSUMED.
SHUT_MANY = START + r"""
def shut():
    client, kept = connect()
    kept.shutdown(socket.SHUT_WR)
    client.close()
    return kept
for _ in range(900):
    shut().close()
leaked = [shut() for _ in range(100)]
wait()
"""


def only_finding(document):
    (finding,) = [f for p in document["processes"] for f in p["findings"]]
    return finding


def steps(socket):
    """(who, what) of what happened, and what never did."""
    happened = [(e["who"], e["what"]) for e in socket["teardown"] if e["happened"]]
    return happened, [e["what"] for e in socket["teardown"] if not e["happened"]]


class Case(harness.TestCase):
    def watched(self, source, **options):
        """A running program under the library; what it printed before its pid."""
        script = self.write("program.py", source)
        env = clean_environment(LD_PRELOAD=LIBRARY, **options)
        process = self.start(PYTHON, script, env=env, stderr=subprocess.DEVNULL)
        words = []
        while True:
            line = process.stdout.readline().split()
            self.assertTrue(line, "it ended")
            if line == [str(process.pid)]:
                return process, words
            words += map(int, line)

    def dump(self, process, *options):
        done = sockleak("dump", *options, process.pid)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def dump_when_due(self, process, leaks=1):
        """What is in its state for less than a second is no leak yet."""
        documents = []

        def is_due():
            documents.append(json.loads(self.dump(process, "--format=json")))
            return documents[-1]["summary"]["leaks"] >= leaks

        wait_until(is_due, f"{leaks} leaks")
        return documents[-1]

    def ledgers_of(self, name):
        directory = self.path(name + "-ledgers")
        done = sockleak("run", "-q", "--ledger-dir", directory, os.path.join(EXAMPLES, name))
        self.assertIn(done.returncode, (0, 23), done.stderr)
        return directory


class Teardown(Case):
    def test_peer_was_first_and_our_fin_is_missing(self):
        document = json.loads(sockleak("report", "--format=json", self.ledgers_of("forgotten_close")).stdout)
        for socket in only_finding(document)["sockets"]:
            self.assertEqual(steps(socket), ([("peer", "peer-fin"), ("us", "our-ack"), ("program", "eof-read")],
                                             ["our-fin", "our-close"]))
            self.assertEqual(socket["first_fin"], "peer")
            fin, ack, eof = socket["teardown"][:3]
            self.assertEqual(fin["state"], "CLOSE_WAIT")
            self.assertEqual(eof["call"], "recv")
            self.assertGreaterEqual(fin["at_ms_ago"], eof["at_ms_ago"])
            self.assertEqual(fin["at_ms_ago"], ack["at_ms_ago"])
            self.assertLess(abs(time.time() * 1000 - fin["at_epoch_ms"]), 60000)

    def test_this_side_was_first(self):
        script = self.write("first.py", SHUT_FIRST)
        done = sockleak("run", "--format=json:" + self.path("run.json"), PYTHON, script)
        self.assertEqual(done.returncode, 23, done.stderr)
        socket = only_finding(json.loads(harness.read(self.path("run.json"))))["sockets"][0]
        self.assertEqual(socket["first_fin"], "us")
        happened, never = steps(socket)
        self.assertEqual(happened[:2], [("us", "our-fin"), ("peer", "peer-ack")])
        self.assertIn(("peer", "peer-fin"), happened)
        self.assertEqual(never, ["our-close"])

    def test_of_a_busy_call_site_it_is_not_known_of_the_first_leaks_who_was_first(self):
        process, _ = self.watched(SHUT_MANY)
        told = [socket["first_fin"] for socket in only_finding(self.dump_when_due(process, 100))["sockets"]]
        self.assertLessEqual(set(told), {"us", None})
        self.assertEqual(len(told), 100)
        self.assertLessEqual(told.count(None), 64)
        text = self.dump(process, "--explain", "--max-sockets=1")
        self.assertIn("shutdown: FIN_WAIT1", text) # of one that was asked for
        self.assertNotIn("is not known", text)

    def test_an_age_that_is_a_bound_is_told_as_such(self):
        """Data that this side sent around the FIN hides when it came."""
        for name, bound in (("blocked_read", False), ("idle_pool", True)):
            socket = only_finding(json.loads(sockleak("report", "--format=json", self.ledgers_of(name)).stdout))[
                "sockets"][0]
            self.assertIs(socket["fin_age_is_bound"], bound, name)

    def test_drawing_shows_the_missing_step(self):
        text = sockleak("report", "--explain", self.ledgers_of("forgotten_close")).stdout
        self.assertRegex(text, r"peer 127\.0\.0\.1:\d+ +fd \d+ of forgotten_close\n")
        self.assertRegex(text, r"\| -+ FIN -+> \|  CLOSE_WAIT   (at least )?\d.* ago\n==\d+== +\| <-+ ACK -+ \|\n")
        self.assertRegex(text, r"\|  recv returned 0   .* ago, handle_request \S*forgotten_close\.c:\d+\n"
                               r"==\d+== +\| +\|  close\(\) never called: our FIN was never sent\n")

    def test_reset_is_drawn_as_such(self):
        text = sockleak("report", "--explain", self.ledgers_of("reset_kept")).stdout
        self.assertRegex(text, r"\| -+ RST -+> \|  CLOSE ")
        self.assertRegex(text, r"recv returned ECONNRESET   .* ago, serve_client ")

    def test_without_the_option_there_is_no_drawing(self):
        self.assertNotIn("close() never", sockleak("report", self.ledgers_of("forgotten_close")).stdout)

    def test_the_way_back_from_json_changes_nothing(self):
        for name in ("forgotten_close", "reset_kept", "shutdown_without_close", "idle_pool", "fork_parent",
                     "forgotten_dup"):
            with self.subTest(name):
                ledgers, saved = self.ledgers_of(name), self.path(name + ".json")
                sockleak("report", "--show=all", f"--format=json:{saved}", ledgers)
                options = ("--show=all", "--explain", "--sites", "--time-wait")
                self.assertEqual(sockleak("report", *options, saved).stdout,
                                 sockleak("report", *options, ledgers).stdout)
                self.assertEqual(sockleak("report", "--show=all", "--format=json", saved).stdout,
                                 harness.read(saved))

    def test_killed_process_has_times_of_the_day(self):
        directory = self.path("killed")
        os.mkdir(directory)
        process, _ = self.watched(FORGOTTEN, SOCKLEAK_OPTIONS="ledger_dir=" + directory)
        process.kill()
        process.wait()
        events = only_finding(json.loads(sockleak("report", "--format=json", directory).stdout))["sockets"][0][
            "teardown"]
        eof = [event for event in events if event["what"] == "eof-read"][0]
        self.assertIsNone(eof["at_ms_ago"])
        self.assertLess(abs(time.time() * 1000 - eof["at_epoch_ms"]), 60000)
        self.assertRegex(sockleak("report", "--explain", directory).stdout,
                         r"recv returned 0   at \d\d:\d\d:\d\d\.\d{3}, ")


class Causes(Case):
    def test_forgotten_with_how_often_it_was_closed(self):
        process, _ = self.watched(FORGOTTEN)
        finding = only_finding(self.dump_when_due(process))
        self.assertEqual((finding["cause"], finding["count"]), ("forgotten", 3))
        self.assertRegex(finding["cause_text"], r"closed properly 2 of 5 times")
        self.assertRegex(self.dump(process), r"why: .*closed properly 2 of 5 times")

    def test_blocked_thread_is_seen_from_outside(self):
        process, (thread, fd) = self.watched(BLOCKED)
        finding = only_finding(self.dump_when_due(process))
        self.assertEqual(finding["cause"], "blocked", finding["cause_text"])
        self.assertIn(f"thread {thread}", finding["cause_text"])
        self.assertRegex(finding["cause_text"], rf"stuck in recvfrom on fd {fd}\b")
        self.assertIn("no read timeout", finding["cause_text"])

    def test_hints_are_the_sockets_properties(self):
        process, _ = self.watched(FORGOTTEN)
        socket = only_finding(self.dump_when_due(process))["sockets"][0]
        # What Python makes of accept(): blocking, with SOCK_CLOEXEC.
        for hint in ("no-read-timeout", "no-keepalive", "blocking-mode"):
            self.assertIn(hint, socket["hints"])
        for hint in ("no-cloexec", "unread-data"):
            self.assertNotIn(hint, socket["hints"])
        self.assertEqual(only_finding(self.dump_when_due(process))["hints"], socket["hints"])
        self.assertRegex(self.dump(process, "--explain"),
                         r"(?m)^==\d+==   hints: no-read-timeout, no-keepalive, blocking-mode$")
        self.assertNotIn("hints:", self.dump(process))

    def test_hints_without_the_library(self):
        process, port = self.leaker("data=1")
        socket = only_finding(self.dump_when_due(process))["sockets"][0]
        self.assertIn("unread-data", socket["hints"])
        self.assertIn("no-read-timeout", socket["hints"])
        self.assertTrue(socket["local"].endswith(f":{port}"))

    def test_unknown_is_said_as_such(self):
        process, _ = self.leaker("fin=1")
        finding = only_finding(self.dump_when_due(process))
        self.assertEqual((finding["cause"], finding["cause_text"]), ("unknown", None))

    def test_other_holders_are_named(self):
        process, (child, fd) = self.watched(HELD)
        self.addCleanup(subprocess.run, ["kill", str(child)], check=False, stderr=subprocess.DEVNULL)
        wait_until(lambda: harness.read(f"/proc/{child}/comm").strip() == "sleep", "the child's exec")
        finding = only_finding(self.dump_when_due(process))
        self.assertEqual(finding["sockets"][0]["also_open_in"], [{"pid": child, "name": "sleep", "fd": fd}])
        self.assertRegex(self.dump(process), rf"also open as fd {fd} in pid {child} \(sleep\)")

    def test_a_dup_keeps_it_open(self):
        document = json.loads(sockleak("report", "--format=json", self.ledgers_of("forgotten_dup")).stdout)
        self.assertEqual(only_finding(document)["cause"], "inherited")

    def test_a_close_of_another_descriptor_is_told_as_such(self):
        ledgers = self.ledgers_of("forgotten_dup")
        socket = only_finding(json.loads(sockleak("report", "--format=json", ledgers).stdout))["sockets"][0]
        self.assertEqual(socket["fds_closed"], 1)
        text = sockleak("report", "--explain", ledgers).stdout
        self.assertIn(f"close() called on 1 other descriptor, never on fd {socket['fds'][0]}: our FIN was never sent",
                      text)
        self.assertNotIn("close() never called", text)


class Width(Case):
    @unittest.skipUnless(os.path.exists(os.path.join(BUILD, "sockleak")), "not built")
    def test_drawing_keeps_its_shape_on_a_narrow_terminal(self):
        import test_terminal  # pylint: disable=import-outside-toplevel
        case = test_terminal.Terminal("test_no_color_is_respected")
        case.setUp()
        self.addCleanup(case.doCleanups)
        text = case.on_terminal("--explain", "--color=never", columns=80)
        drawn = [line for line in text.splitlines() if re.match(r"==\d+==     \|", line)]
        self.assertGreater(len(drawn), 4)
        for line in drawn:
            self.assertRegex(line, r"^==\d+==     \|.{29}\|")
            self.assertLessEqual(len(line), 80)


if __name__ == "__main__":
    harness.main()
