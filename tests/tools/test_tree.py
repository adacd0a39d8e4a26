"""sockleak run on a tree as `make test` makes it: make, a shell, three servers, 200 clients. One
client leaks, one server is killed by SIGKILL after it read end of stream, one is a daemon that
outlives the command. Every leak must be found, in the process that has it."""

import json
import os
import re
import shutil
import signal
import subprocess
import unittest

import harness
from harness import sockleak

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tree")
CLIENTS, SERVERS = 200, 3


def line_of(file, text):
    """The only line of the source that has the text."""
    (number,) = [i for i, line in enumerate(harness.read(os.path.join(TREE, file)).splitlines(), 1) if text in line]
    return number


def place(event):
    frame = event["stack"][0]
    return event["call"], frame["function"], os.path.basename(frame["file"]), frame["line"]


@unittest.skipUnless(shutil.which("make") and shutil.which("xargs"), "needs make and xargs")
class Tree(harness.TestCase):
    SERVER = (("accept4", "accept_client", "server.c", line_of("server.c", "accept4(listener")),
              ("recv", "serve", "server.c", line_of("server.c", "recv(client")))
    CLIENT = (("socket", "open_connection", "client.c", line_of("client.c", "socket(AF_INET")),
              ("read", "read_answer", "client.c", line_of("client.c", "read(server")))

    def setUp(self):
        super().setUp()
        self.project = self.path("project")
        shutil.copytree(TREE, self.project)
        subprocess.run(["make", "-s", "-C", self.project], check=True, env=harness.clean_environment())
        self.addCleanup(self.end_daemon)

    def pid(self, name):
        return int(harness.read(os.path.join(self.project, name + ".pid")))

    def end_daemon(self):
        if os.path.exists(os.path.join(self.project, "daemon.pid")):
            try:
                os.kill(self.pid("daemon"), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def test_all_leaks_are_found_each_with_its_process(self):
        report, text = self.path("report.json"), self.path("report.txt")
        done = sockleak("run", f"--format=json:{report}", f"--output={text}", "--",
                        "make", "-s", "-C", self.project, "test")
        self.assertEqual(done.returncode, 23, done.stderr)
        document = json.loads(harness.read(report))
        told = {p["pid"]: (p["ended"], f["verdict"], f["count"], place(f["birth"]), place(f["end_of_stream"]))
                for p in document["processes"] for f in p["findings"]}
        self.assertEqual(told, {
            self.pid("client"): ("exit", "eof-ignored", 1, *self.CLIENT),
            self.pid("killed"): ("killed", "eof-ignored", 3, *self.SERVER),
            self.pid("daemon"): ("running", "eof-ignored", 4, *self.SERVER),
        })
        self.assertEqual(document["summary"]["leaks"], 8)
        self.check_everyone_is_there(document)
        self.check_daemon(document)
        self.check_text(harness.read(text))

    def check_everyone_is_there(self, document):
        """Make, the shell and xargs opened no socket; all others did, and the kernel ran each."""
        names = [os.path.basename(p["exe"]) for p in document["processes"]]
        self.assertEqual((names.count("client"), names.count("server"), len(names)),
                         (CLIENTS, SERVERS, CLIENTS + SERVERS))
        (clean,) = [p for p in document["processes"] if p["pid"] == self.pid("clean")]
        self.assertEqual(clean["ended"], "exit")
        # 96 clients, the one that leaks, and the listener.
        self.assertEqual((clean["counters"]["born"], clean["counters"]["untracked"]), (98, 0))

    def check_daemon(self, document):
        """It still runs: its leaks are what the kernel has open and in CLOSE_WAIT now."""
        pid = self.pid("daemon")
        (process,) = [p for p in document["processes"] if p["pid"] == pid]
        self.assertEqual({s["inode"] for f in process["findings"] for s in f["sockets"]}, {
            int(re.search(r"\d+", link)[0])
            for fd in os.listdir(f"/proc/{pid}/fd")
            if (link := os.readlink(f"/proc/{pid}/fd/{fd}")).startswith("socket:")
        } - {self.listener(pid)})
        port = int(harness.read(os.path.join(self.project, "daemon.port")))
        self.assertEqual(len(harness.close_wait_of_ss(port)), 4)
        self.assertEqual(os.getsid(pid) == os.getsid(0), False)

    def listener(self, pid):
        port = int(harness.read(os.path.join(self.project, "daemon.port")))
        for line in harness.read(f"/proc/{pid}/net/tcp").splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                return int(fields[9])
        raise AssertionError("the daemon does not listen")

    def check_text(self, text):
        self.assertIn("summary: 8 leaked (8 close-wait, 0 dead)", text)
        # The same leak of two servers is shown once, with both named.
        self.assertRegex(text, r"7 sockets, eof-ignored: ")
        self.assertRegex(text, r"1 socket, eof-ignored: ")
        for name in ("killed", "daemon"):
            self.assertRegex(text, rf"in processes .*\b{self.pid(name)} \./server\b")
        self.assertEqual(text.count("#0 serve "), 1, text)


if __name__ == "__main__":
    harness.main()
