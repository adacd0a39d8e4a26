"""The teardown that is reported, against what tcpdump saw of the same connections on the wire: who sent
FIN first always agrees, and times within 20 ms. In a network namespace of the test's own.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

import harness
from harness import LIBRARY, PYTHON, SOCKLEAK, clean_environment, wait_until

SLACK_MS = 20

# Connections that end, or do not, in all ways; one after the other, some tens of milliseconds apart.
# Both ends are this program's and so in the report, as far as they are left open.
PROGRAM = r"""
import os, random, signal, socket, struct, sys, time
server = socket.create_server(("127.0.0.1", 0))
kept = []
ends = {}  # local and peer port
def pause():
    time.sleep(random.uniform(0.01, 0.08))
def connect(used=True):
    client = socket.create_connection(server.getsockname())
    accepted = server.accept()[0]
    if used:
        client.sendall(b"question")
        accepted.recv(100)
        pause()
        accepted.sendall(b"answer")
        client.recv(100)
    pause()
    kept.extend((client, accepted))
    ports = client.getsockname()[1], server.getsockname()[1]
    ends[client], ends[accepted] = "%d %d" % ports, "%d %d" % ports[::-1]
    return client, accepted
def eof_read(peer, ours):
    peer.close(); pause(); ours.recv(1); pause()
def eof_unread(peer, ours):
    peer.close(); pause()
def data_unread(peer, ours):
    peer.sendall(b"last words"); peer.close(); pause()
def ours_first(peer, ours):
    ours.shutdown(socket.SHUT_WR); pause(); peer.recv(1); pause(); peer.close(); pause(); ours.recv(1); pause()
def ours_only(peer, ours):
    ours.shutdown(socket.SHUT_WR); pause()
def ours_second(peer, ours):
    peer.shutdown(socket.SHUT_WR); pause(); ours.recv(1); pause(); ours.shutdown(socket.SHUT_RDWR); pause()
def ours_second_unread(peer, ours):
    peer.shutdown(socket.SHUT_WR); pause(); ours.shutdown(socket.SHUT_WR); pause()
def answered_after_fin(peer, ours):
    peer.shutdown(socket.SHUT_WR); pause(); ours.recv(1); pause(); ours.sendall(b"late"); peer.recv(10); pause()
    peer.close(); pause()
def read_late(peer, ours):
    peer.close(); time.sleep(0.3); ours.recv(1); pause()
def open_still(peer, ours):
    pass
for way in (eof_read, eof_unread, data_unread, ours_first, ours_only, ours_second, ours_second_unread,
            answered_after_fin, read_late, open_still):
    for used in (True, False):
        client, accepted = connect(used)
        way(client, accepted)
        client, accepted = connect(used)
        way(accepted, client)
time.sleep(1.2)  # longer than grace_ms: so old are they when they are judged
for s in kept:
    if s.fileno() >= 0:
        print(s.fileno(), ends[s], flush=True)
print(os.getpid(), flush=True)
line = sys.stdin.readline().strip()
if line == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(0)
"""


def can_capture():
    if not shutil.which("tcpdump") or not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True,
                          check=False).returncode == 0


def fins(path, until_ms):
    """{(source port, destination port): time of its first FIN in ms since 1970} of a capture file. Up to
    a time: the end of a process sends what it has not sent."""
    with open(path, "rb") as file:
        data = file.read()
    magic, = struct.unpack("<I", data[:4])
    assert magic == 0xa1b2c3d4, "microseconds, little endian"
    link, = struct.unpack("<I", data[20:24])
    assert link == 1, "Ethernet, as lo has it"
    found, at = {}, 24
    while at + 16 <= len(data):
        seconds, microseconds, length, _ = struct.unpack("<IIII", data[at:at + 16])
        packet = data[at + 16:at + 16 + length]
        at += 16 + length
        ip = packet[14:]
        tcp = ip[(ip[0] & 15) * 4:]
        source, destination = struct.unpack(">HH", tcp[:4])
        ms = seconds * 1000 + microseconds / 1000
        if tcp[13] & 1 and ms < until_ms:
            found.setdefault((source, destination), ms)
    return found


class World(harness.TestCase):
    """The program, in a network namespace of its own with tcpdump. No test: what a test looks at."""

    def __init__(self, *command, **options):
        super().__init__()
        self.command, self.options = command, options

    def setUp(self):
        super().setUp()
        self.script = self.write("ends.py", PROGRAM)
        self.capture = self.path("capture.pcap")
        # A shell that holds the namespace, and what runs in it beside the program.
        self.space = self.start("unshare", "-n", "sh", "-c", "ip link set lo up && echo up && read line")
        self.assertEqual(self.space.stdout.readline(), "up\n")
        self.inside = ("nsenter", "-t", str(self.space.pid), "-n")
        self.dump = self.start(*self.inside, "tcpdump", "-i", "lo", "-n", "-U", "--immediate-mode", "-s", "128", "-w",
                               self.capture, "tcp", stderr=subprocess.PIPE)
        self.assertIn("listening on lo", self.dump.stderr.readline())
        self.program = self.start(*self.inside, *self.command, PYTHON, self.script, stderr=subprocess.DEVNULL,
                                  cwd=self.directory, **self.options)

    def wire(self):
        """What was captured, once it has the FINs of all."""
        self.dump.send_signal(signal.SIGINT)
        self.dump.communicate(timeout=harness.DEADLINE_S)
        return fins(self.capture, self.end_ms)

    def report(self):
        return self.path("run.json")

    def read_ports(self):
        """{fd: (local, peer)}, as the program knows it, and its pid."""
        ports = {}
        while True:
            words = list(map(int, self.program.stdout.readline().split()))
            if len(words) == 1:
                return ports, words[0]
            ports[words[0]] = tuple(words[1:])

    def finish(self, line):
        self.end_ms = time.time() * 1000
        self.program.stdin.write(line + "\n")
        self.program.stdin.flush()
        self.program.wait(harness.DEADLINE_S)


@unittest.skipUnless(can_capture(), "no tcpdump, or no right to make a network namespace")
class Wire(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        """All at once: they pause most of the time."""
        watched = [SOCKLEAK, "run", "--show=all", "--format=json:run.json"]
        cls.exits, cls.is_killed = World(*watched), World(*watched)
        cls.runs_on = World(env=clean_environment(LD_PRELOAD=LIBRARY))
        for world in (cls.exits, cls.is_killed, cls.runs_on):
            cls.addClassCleanup(world.doCleanups)
            world.setUp()

    def check(self, world, document, expected_sockets):
        wire = world.wire()
        sockets = [s for p in document["processes"] for f in p["findings"] for s in f["sockets"]
                   if s["fds"][0] in self.ports]  # not the listening one, whose state is not known of the dead
        self.assertGreaterEqual(len(sockets), expected_sockets)
        compared = 0
        for socket in sockets:
            local, peer = self.ports[socket["fds"][0]]
            if socket["local"] and socket["peer"]:
                self.assertEqual([int(socket[end].rsplit(":", 1)[1]) for end in ("local", "peer")], [local, peer])
            theirs, ours = wire.get((peer, local)), wire.get((local, peer))
            events = {event["what"]: event for event in socket["teardown"] if event["happened"]}
            with self.subTest(ports=(local, peer), teardown=socket["teardown"], theirs=theirs, ours=ours):
                self.check_first(socket["first_fin"], ours, theirs)
                if socket["state"]:  # else last known: a FIN that nobody was told of is not known
                    self.assertEqual("our-fin" in events, ours is not None)
                    self.assertEqual("peer-fin" in events, theirs is not None)
                compared += self.check_time(events.get("peer-fin"), theirs)
                compared += self.check_time(events.get("our-fin"), ours)
                if "eof-read" in events:
                    self.assertGreaterEqual(events["eof-read"]["at_epoch_ms"], int(theirs) - 1)
        return compared

    def check_first(self, first, ours, theirs):
        truth = ("nobody" if ours is None and theirs is None
                 else "us" if theirs is None or (ours is not None and ours < theirs) else "peer")
        if first is not None:
            self.assertEqual(first, truth)

    def check_time(self, event, on_wire_ms):
        if not event or event["time"] == "unknown":
            return 0
        self.assertIsNotNone(on_wire_ms)
        if event["time"] == "exact":
            self.assertLessEqual(abs(event["at_epoch_ms"] - on_wire_ms), SLACK_MS)
        else:
            self.assertLessEqual(on_wire_ms, event["at_epoch_ms"] + SLACK_MS)
        return event["time"] == "exact"

    def test_at_exit(self):
        self.ports, _ = self.exits.read_ports()
        self.exits.finish("exit")
        document = json.loads(harness.read(self.exits.report()))
        compared = self.check(self.exits, document, 50)
        self.assertGreaterEqual(compared, 30)
        for finding in document["processes"][0]["findings"]:
            for socket in finding["sockets"]:
                self.assertIsNotNone(socket["first_fin"], socket)

    def test_of_a_killed_process(self):
        self.ports, _ = self.is_killed.read_ports()
        self.is_killed.finish("kill")
        document = json.loads(harness.read(self.is_killed.report()))
        self.assertEqual(document["processes"][0]["ended"], "killed")
        self.check(self.is_killed, document, 25)

    def test_from_outside(self):
        self.ports, pid = self.runs_on.read_ports()
        done = harness.sockleak("dump", "--show=all", "--format=json", pid)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.runs_on.finish("exit")
        wait_until(lambda: os.path.getsize(self.runs_on.capture) > 0)
        self.assertGreaterEqual(self.check(self.runs_on, json.loads(done.stdout), 50), 30)


if __name__ == "__main__":
    harness.main()
