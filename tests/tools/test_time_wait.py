"""--time-wait: who closes first, and how long the local ports last. In a network namespace of the
test's own with 60 local ports; what is in TIME_WAIT there is asked of `ss`.
"""

import json
import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import PYTHON, SOCKLEAK, clean_environment, sockleak

FIRST_PORT, LAST_PORT = 40000, 40059

# COUNT connections, closed first by the client ("us"), by the server ("peer"), or by a client that
# has waited in vain for an answer ("patience").
CHURN = r"""
import socket, subprocess, sys
who, count = sys.argv[1], int(sys.argv[2])
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 7000))
server.listen(200)
kept = []
failed = 0
for _ in range(count):
    client = socket.socket()
    try:
        client.connect(("127.0.0.1", 7000))
    except OSError:
        failed += 1
        client.close()
        continue
    accepted = server.accept()[0]
    if who == "patience":
        client.sendall(b"?")
        client.settimeout(0.05)
        try:
            client.recv(1)
        except OSError:
            pass
    if who == "peer":
        accepted.close()
        client.recv(1)
        client.close()
    else:
        client.close()
        accepted.recv(1)
        while accepted.recv(1):
            pass
        accepted.close()
in_kernel = subprocess.run(["ss", "-tnH", "state", "time-wait"], capture_output=True, text=True).stdout
print("time-wait", len(in_kernel.splitlines()), "failed", failed, flush=True)
"""


def can_unshare():
    if not shutil.which("unshare") or not shutil.which("ip") or not shutil.which("ss"):
        return False
    return subprocess.run(["unshare", "-n", "--mount-proc", "-p", "-f", "true"], capture_output=True, check=False).returncode == 0


@unittest.skipUnless(can_unshare(), "no right to make a network namespace, or no unshare, ip or ss")
class TimeWait(harness.TestCase):
    def churn(self, who, count, *options, reuse=0):
        """In a namespace: what the program printed, the text, the JSON."""
        script = self.write("churn.py", CHURN)
        saved = self.path("run.json")
        command = [SOCKLEAK, "run", "--format=text", "--format=json:" + saved, *options, PYTHON, script, who,
                   str(count)]
        setup = (f"ip link set lo up && echo {FIRST_PORT} {LAST_PORT} > /proc/sys/net/ipv4/ip_local_port_range && "
                 f"echo {reuse} > /proc/sys/net/ipv4/tcp_tw_reuse && exec \"$@\"")
        done = subprocess.run(["unshare", "-n", "--mount-proc", "-p", "-f", "sh", "-c", setup, "sh", *command],
                              capture_output=True, text=True, check=False, env=clean_environment(),
                              timeout=harness.DEADLINE_S * 2)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        words = done.stdout.split()
        return int(words[1]), int(words[3]), done.stderr, json.loads(harness.read(saved))

    def test_it_matters_when_half_of_the_ports_are_taken(self):
        in_kernel, failed, text, document = self.churn("us", 40)
        self.assertEqual((in_kernel, failed), (40, 0))
        found = document["time_wait"]
        self.assertTrue(found["matters"])
        self.assertEqual((found["closed_active"], found["recent_active"]), (40, 40))
        self.assertEqual(found["kernel"], {"time_wait": 40, "local_port_range": [FIRST_PORT, LAST_PORT],
                                           "tcp_tw_reuse": 0, "tcp_timestamps": found["kernel"]["tcp_timestamps"]})
        (peer,) = found["peers"]
        self.assertEqual((peer["peer"], peer["recent_active"], peer["time_wait"]), ("127.0.0.1:7000", 40, 40))
        self.assertAlmostEqual(peer["port_share"], 40 / 60, places=2)
        self.assertGreater(peer["seconds_until_exhausted"], 0)
        self.assertIs(peer["tw_reuse_helps"], False)
        site = document["sites"][found["destinations"][0]["site"]]
        # To the interpreter's C code, the listening socket is made at the same place.
        self.assertEqual((site["opened"], site["closed_active"]), (41, 40))
        self.assertIn("TIME_WAIT: this side closed first 40 times in the last 60 s", text)
        self.assertRegex(text, r"to 127\.0\.0\.1:7000   40 in the last 60 s .*40 in TIME_WAIT now: 66\.7 % of the "
                               r"ports, and at this rate the last of 60 is taken in \d+ s")
        self.assertRegex(text, r"advice: keep connections to 127\.0\.0\.1:7000 open .*\(keep-alive, or a pool\)")
        self.assertRegex(text, r"advice: net\.ipv4\.tcp_tw_reuse=0 does not help here; 1 would")

    def test_it_does_not_when_few_are(self):
        _, _, text, document = self.churn("us", 10)
        self.assertFalse(document["time_wait"]["matters"])
        self.assertNotIn("TIME_WAIT", text)
        _, _, text, _ = self.churn("us", 10, "--time-wait")
        self.assertIn("TIME_WAIT: this side closed first 10 times", text)

    def test_reuse_for_loopback_helps_on_loopback(self):
        _, _, text, document = self.churn("us", 40, reuse=2)
        self.assertIs(document["time_wait"]["peers"][0]["tw_reuse_helps"], True)
        self.assertIn("tcp_tw_reuse=2 helps already", text)

    def test_ports_at_an_end_are_told(self):
        in_kernel, failed, text, document = self.churn("us", 70)
        self.assertGreater(failed, 0)
        self.assertEqual(in_kernel + failed, 70)
        counters = document["processes"][0]["counters"]
        self.assertEqual(counters["exhausted_ports"], failed)
        self.assertTrue(document["time_wait"]["matters"])
        self.assertRegex(text, rf"no local port left \(EADDRNOTAVAIL.*\) happened {failed} times?")

    def test_where_the_peer_closes_first_no_port_is_taken(self):
        _, failed, text, document = self.churn("peer", 70, "--time-wait")
        self.assertEqual(failed, 0)
        found = document["time_wait"]
        self.assertEqual(found["recent_active"], 70)  # both ends are this program's: the server's
        self.assertEqual(found["peers"], [])
        self.assertFalse(found["matters"])
        self.assertIn("70 of these closes were of connections that a peer made", text)

    def test_a_client_driven_by_timeouts_is_recognised(self):
        _, _, text, document = self.churn("patience", 10, "--time-wait")
        site = max(document["sites"], key=lambda s: s["gave_up"])
        self.assertEqual((site["closed_active"], site["gave_up"]), (10, 10))
        self.assertGreaterEqual(site["gave_up_ms"], 10 * 40)
        self.assertIn("driven by timeouts", text)
        self.assertRegex(text, r"advice: .* is driven by timeouts: of 10 connections that it closed first, 10 had no "
                               r"answer to the last bytes sent, for \d+ ms on average")
        self.assertNotIn("keep connections to", text)

    def test_the_way_back_from_json(self):
        _, _, text, _ = self.churn("us", 40)
        again = sockleak("report", self.path("run.json")).stdout
        part = re.compile(r"TIME_WAIT: (?s:.*?)(?===\d+== summary)")
        self.assertEqual(part.search(again)[0], part.search(text)[0])


class Unknown(harness.TestCase):
    def test_a_ledger_knows_nothing_of_the_kernel(self):
        ledgers = self.path("ledgers")
        sockleak("run", "-q", "--ledger-dir", ledgers, os.path.join(harness.EXAMPLES, "idle_pool"))
        document = json.loads(sockleak("report", "--format=json", ledgers).stdout)
        self.assertIsNone(document["time_wait"]["kernel"])
        text = sockleak("report", "--time-wait", ledgers).stdout
        self.assertIn("the kernel's count and its local ports are not known", text)

    def test_another_namespaces_numbers_are_not_believed(self):
        """The program runs out of ports in a network of its own; there are plenty here."""
        saved = self.path("run.json")
        done = sockleak("run", "--format=text", "--format=json:" + saved,
                        os.path.join(harness.EXAMPLES, "port_exhaustion"))
        if done.returncode == 77:
            self.skipTest(done.stderr)
        found = json.loads(harness.read(saved))["time_wait"]
        self.assertTrue(found["matters"])
        (peer,) = found["peers"]
        for key in ("time_wait", "port_share", "port_share_needed", "seconds_until_exhausted", "tw_reuse_helps"):
            self.assertIsNone(peer[key], key)
        self.assertIn("and yet a connect found none free: in another network namespace", done.stdout + done.stderr)
        self.assertNotIn("tcp_tw_reuse", done.stdout + done.stderr)
        self.assertIn("keep connections to 127.0.0.1:80 open", found["advice"][0])
        part = re.compile(r"TIME_WAIT: (?s:.*?)(?===\d+== summary)")
        self.assertEqual(part.search(sockleak("report", saved).stdout)[0], part.search(done.stderr)[0])


if __name__ == "__main__":
    harness.main()
