"""Servers of several processes: each leak is reported exactly once, by the process whose it is."""

import os

import harness

harness.need("cc", harness.PYTHON)


def ended(pid):
    """True for a process that is gone, or that nobody has waited for yet."""
    try:
        return harness.read_text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Forks(harness.TestCase):
    def serve(self, manner, clients, **settings):
        server = self.start([harness.compile_c("forks", self.directory), manner], **settings)
        self.peers = []
        for _ in range(clients):
            self.ask(server.port())
        return server

    def ask(self, port):
        """One client, as harness.ask; notes its address."""
        with harness.connect(port) as client:
            self.peers.append("%s:%d" % client.getsockname())
            client.sendall(b"hello\n")
            self.assertEqual(client.recv(100), b"hello\n")

    def assertEachOnce(self, reports, clients):
        """Every client's connection is in the reports, in exactly one finding of one process."""
        for report in reports:
            for finding in report.findings:
                self.assertEqual((finding.verdict, str(finding.end_of_stream)),
                                 ("eof-ignored", "recv:serve"))
        peers = [s.peer for r in reports for f in r.findings for s in f.sockets]
        self.assertEqual(sorted(peers), sorted(self.peers))
        self.assertEqual(len(peers), clients)

    def births(self, reports):
        return {str(f.birth) for r in reports for f in r.findings}

    def test_a_child_per_client_reports_its_own_client_and_the_parent_none(self):
        server = self.serve("per-client", 4)
        result = server.end()
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        self.assertEachOnce(result.reports, 4)
        self.assertEqual(len({r.pid for r in result.reports}), 4)
        self.assertNotIn(result.pid, {r.pid for r in result.reports})
        self.assertEqual(self.births(result.reports), {"accept:accept_client"})

    def test_preforked_workers_report_what_they_accepted(self):
        server = self.serve("prefork", 6)
        result = server.end()
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        self.assertEachOnce(result.reports, 6)
        self.assertEqual(sorted(r.close_wait for r in result.reports), [2, 2, 2])
        self.assertNotIn(result.pid, {r.pid for r in result.reports})

    def test_a_child_does_not_report_what_its_parent_leaked_before_the_fork(self):
        result = self.serve("inherited", 2).end()
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        self.assertEachOnce(result.reports, 2)
        self.assertEqual([r.pid for r in result.reports], [result.pid])

    def test_a_client_that_was_handed_over_is_its_receivers(self):
        result = self.serve("pass", 3).end()
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        self.assertEachOnce(result.reports, 3)
        self.assertEqual(self.births(result.reports), {"recvmsg:receive_client"})
        self.assertNotIn(result.pid, [r.pid for r in result.reports])

    def serve_daemon(self, manner, **settings):
        """The pid of a daemon that has served three clients and ended."""
        server = self.serve(manner, 1, **settings)
        pid = int(harness.wait_until("the daemon tells its pid", lambda: [
            line for line in server.stdout().splitlines() if line.startswith("pid ")])[0][4:])
        self.assertEqual(server.end().status, 0)
        for _ in range(2):
            self.ask(server.port())
        harness.wait_until("the daemon has ended", lambda: ended(pid))
        return server, pid

    def test_a_daemon_reports_what_it_leaked_before_and_after_daemon(self):
        server, pid = self.serve_daemon("daemon")
        reports = server.reports()
        self.assertEqual([r.pid for r in reports], [pid])
        self.assertEachOnce(reports, 3)

    def test_a_daemon_that_gave_up_its_stderr_reports_to_log_path(self):
        server, pid = self.serve_daemon("daemon-quiet", options=f"log_path={self.path('log.%p')}")
        self.assertEqual([n for n in os.listdir(self.directory) if n.startswith("log.")],
                         [f"log.{pid}"])
        reports, _ = harness.parse_reports(harness.read_text(self.path(f"log.{pid}")))
        self.assertEachOnce(reports, 3)
        self.assertEqual(server.stderr(), "")

    def test_pythons_forking_server_is_clean(self):
        script = ("import socketserver, sys, threading\n"
                  "class Echo(socketserver.StreamRequestHandler):\n"
                  "    def handle(self):\n"
                  "        for line in self.rfile: self.wfile.write(line)\n"
                  "server = socketserver.ForkingTCPServer(('127.0.0.1', 0), Echo)\n"
                  "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
                  "print('port', server.server_address[1], flush=True)\n"
                  "sys.stdin.read()\n"
                  "server.shutdown(); server.server_close()\n")
        server = self.start([harness.PYTHON, "-c", script])
        port = server.port()
        harness.in_threads(4, lambda number: [harness.ask(port) for _ in range(5)])
        result = server.end()
        self.assertEqual((result.status, result.stderr), (0, ""))


if __name__ == "__main__":
    harness.main()
